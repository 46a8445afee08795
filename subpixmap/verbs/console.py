"""What a run prints for its user: its plan, a summary, the names of its files; and its log in the run folder."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from subpixmap import runpaths
from subpixmap.errors import InputError
from subpixmap.files import is_remote, write_atomic
from subpixmap.progress import duration
from subpixmap.scenes.hrefs import without_secrets

if TYPE_CHECKING:
    import pandas as pd

    from subpixmap.estimation.design import SampleDesign, Wish
    from subpixmap.mapping.needs import Needs
    from subpixmap.mapping.plan import Plan
    from subpixmap.mapping.probe import Probe
    from subpixmap.mapping.run import Summary
    from subpixmap.mapping.verify import Status
    from subpixmap.model.card import Stored
    from subpixmap.verbs.job import Job

HOURS, GIGABYTES = 24.0, 200.0
"""A run that is expected to need more of either requires --yes."""
_RECORD = set(vars(logging.makeLogRecord({})))


def plan_table(
    job: Job, needed: Needs, *, seconds: float, measured: Probe | None = None, money: str = "", verbose: bool = False
) -> str:
    """The plan as a short table; `seconds` is for all workers together; `verbose` lists every tile and refused item."""
    from subpixmap.model.clouds import TILE_SECONDS

    plan, items = job.plan, job.items
    by_period = {p.label: len({i.acquisition for i in items if i.period == p.label}) for p in plan.periods}
    km2 = needed.computed_px / len(plan.periods) * (plan.recipe.resolution / 1000) ** 2
    rows = {
        "region": f"{plan.region_name}, {km2:,.0f} km2 to map, {', '.join(map(_zone, plan.zones))}",
        "model": f"{plan.model.name} ({', '.join(plan.objects)}); evidence: {plan.model.evidence}",
        "acquisitions": f"{len({i.acquisition for i in items})} in {len(items)} items",
    }
    if plan.recipe.every != "scene":
        rows["acquisitions"] += f" ({', '.join(f'{label}: {n}' for label, n in by_period.items())})"
    rows |= _cloudy(job)
    rows |= job.lacks.lines() if job.lacks else {}
    if job.refused:
        shown = list(job.refused.values())[: None if verbose else 3]
        more = [f"and {len(job.refused) - len(shown)} more (--verbose)"] if len(shown) < len(job.refused) else []
        rows["refused"] = "\n".join([f"{len(job.refused)} items are refused and left out", *shown, *more])
    rows |= {
        "work": f"{needed.blocks:,} blocks x {len(plan.periods)} periods = {needed.tasks:,} tasks with up to "
        f"{needed.acquisitions:.3g} acquisitions each, at most {needed.predicted_px / 1e6:,.0f} million pixels",
        "network": str(plan.recipe.arithmetic),
        "reading": f"up to {_bytes(needed.bytes_to_read)}",
        "memory": f"up to {_bytes(needed.worker_memory)} for each worker",
        "map": f"about {_bytes(needed.map_bytes)} on disk",
        "time": f"at most {duration(seconds)} for the network, plus the time to read (--probe measures both)",
        "run": plan.run_id,
    }
    if needed.mask_tiles:
        rows["mask"] = (
            f"{plan.recipe.mask.by}: a cloud network runs on {needed.mask_tiles:,} tiles or more; memory and time "
            f"include it ({duration(needed.mask_tiles * TILE_SECONDS)} on one core)"
        )
    rows["map"] += _spread(plan, needed)
    if measured is not None:
        took = f"block {measured.block_id}, period {measured.period}: {duration(measured.seconds)}"
        rows["time"] = f"about {duration(seconds)}, estimated by a probe ({took})"
        rows["map"] += " by the probe"
    if money:
        rows["money"] = money
    if verbose and job.lacks:
        rows["by month"] = "\n".join(job.lacks.table())
    lines = [(name, line) for name, text in rows.items() for part in text.split("\n") for line in folded(part)]
    named = [name if i == 0 or lines[i - 1][0] != name else "" for i, (name, _) in enumerate(lines)]
    return "\n".join(f"{name:<14}{line}" for name, (_, line) in zip(named, lines, strict=True))


def _spread(plan: Plan, needed: Needs) -> str:
    """The disk space of the counts per network; empty without --spread."""
    from subpixmap.mapping.needs import spread_bytes

    n = plan.recipe.spread
    if not n:
        return ""
    return (
        f"; including {_bytes(spread_bytes(plan, needed))} for the counts of {n} networks and their standard "
        f"deviation ({n + 1} more layers per object, no more computing)"
    )


def folded(text: str, *, beside: int = 14, to: TextIO | None = None) -> list[str]:
    """The text wrapped to a terminal (stderr by default), less `beside` columns; unchanged if not a terminal."""
    if not (to or sys.stderr).isatty() or text.startswith("tile "):
        return [text]
    width = max(40, shutil.get_terminal_size().columns - beside - 1)
    return textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False) or [text]


def _zone(epsg: int) -> str:
    """A UTM zone as people write it."""
    return f"UTM zone {epsg % 100}{'N' if epsg // 100 == 326 else 'S'} (EPSG:{epsg})"


def _cloudy(job: Job) -> dict[str, str]:
    """A line about items left out by --max-cloud and items without a stated cloud cover."""
    from subpixmap.mapping.footprints import is_usable
    from subpixmap.mapping.plan import items_by_period

    limit = job.plan.recipe.max_cloud
    if limit is None:
        return {}
    out = {label: [is_usable(item, limit) for item in items].count(False)
           for label, items in items_by_period(job.plan, job.items).items()}  # fmt: skip
    empty = [label for label, items in items_by_period(job.plan, job.items).items() if 0 < len(items) == out[label]]
    text = f"--max-cloud {limit:g} leaves out {sum(out.values())} of {len(job.items)} items"
    text += f", all of {', '.join(empty)}" if empty else ""
    if unknown := sum(item.cloud_cover is None for item in job.items):
        text += f"; {unknown} do not state their cloud cover and are kept"
    return {"clouds": text}


def require_consent(needed: Needs, *, seconds: float, yes: bool) -> None:
    """Refuse a very large run without --yes."""
    if not yes and (seconds > HOURS * 3600 or needed.bytes_to_read > GIGABYTES * 1e9):
        raise InputError(
            f"this run would read up to {_bytes(needed.bytes_to_read)} and compute for up to {duration(seconds)}: "
            "add --yes to start it, or run `subpixmap plan` to see its plan"
        )


def show_where(address: str) -> None:
    """Print where the blocks run, with the address of the dashboard, to stderr."""
    print(f"map: on {without_secrets(address)}", file=sys.stderr, flush=True)


def show_map_summary(summary: Summary, *, quiet: bool) -> None:
    """Print what mapping did, the time of each stage, and the slowest stage."""
    if quiet or not summary.done:
        return
    stages = ", ".join(f"{name} {seconds:,.0f} s" for name, seconds in summary.stages.items())
    print(
        f"map: {summary.done} done in {duration(summary.seconds)} ({stages} over all workers; most of it "
        f"{summary.bottleneck}), peak memory of a worker {_bytes(summary.peak_rss)}"
        + (f", {_share(summary.used_px / summary.predicted_px)}" if summary.predicted_px else "")
        + (f", {summary.retries} attempts repeated" if summary.retries else "")
        + (f", {len(summary.failed)} failed" if summary.failed else ""),
        file=sys.stderr,
    )


def show_results(out: Path, *, quiet: bool) -> None:
    """Print the region's totals, trends and the names of the files to stdout."""
    if quiet:
        return
    from subpixmap.runfolder import RunFolder
    from subpixmap.tables import REGION

    run = RunFolder.open(out)
    region = run.counts[run.counts["unit_id"] == REGION]
    named_objects = region["object"] + " (" + region["measure"] + ")"
    table = region.groupby(["period", named_objects], sort=False)["map_total_full"].first().unstack()
    print("\nmap_total_full of the whole region (every period by itself: do not compare periods; see the trends)")
    print(table.rename_axis(columns=None).to_string(float_format=lambda value: f"{value:,.0f}"))
    if run.trend is not None:
        rows = run.trend[(run.trend["unit_id"] == REGION) & (run.trend["measure"] == "count")]
        for row in rows.itertuples():
            print(f"{row.object}: {row.direction}; {row.because}")
    if (run.counts["evidence"] == "simulated").all():
        print("The model was trained on simulated data only: these numbers are not estimates of real objects.")
    if (out / runpaths.ESTIMATES_CSV).is_file():
        from subpixmap.tables import ESTIMATES, read_table

        estimates = read_table(out / runpaths.ESTIMATES_CSV, ESTIMATES)
        simulated = estimates["note"].str.startswith("simulated").fillna(False).all()
        print(f"\nestimates of the region with intervals{', from a simulated sample' if simulated else ''}")
        show_estimates(estimates, quiet=quiet)
    print()
    for name in (runpaths.REPORT, runpaths.COUNTS_CSV, runpaths.TREND_CSV, runpaths.CHANGES_CSV, runpaths.MAP):
        print(out / name)


def show_remarks(remarks: Sequence[str], *, quiet: bool) -> None:
    """Print notes about the numbers to stderr."""
    if not quiet:
        for remark in remarks:
            print("note:", "\n      ".join(folded(remark, beside=6)), file=sys.stderr)


def say_files(paths: Sequence[Path], *, quiet: bool) -> None:
    """Print the names of written files to stdout."""
    if not quiet:
        for path in paths:
            print(path)


def show_design(made: SampleDesign, wish: Wish, *, quiet: bool) -> None:
    """Print strata, expected errors and the cells needed for a target to stdout."""
    if quiet:
        return
    total = made.strata.groupby("stratum", sort=False)[["cells", "drawn"]].sum()
    print(f"{'stratum':<34}{'cells':>10}{'drawn':>8}")
    for row in total.itertuples():
        print(f"{row.Index:<34}{row.cells:>10,}{row.drawn:>8,}")
    print(f"{'all':<34}{total.cells.sum():>10,}{total.drawn.sum():>8,}")
    expected = ", ".join(f"{name} {cv:.1f} %" for name, cv in made.expected_cv.items() if cv == cv)
    print(
        f"expected standard error of the region's total: {expected or 'unknown, because the map predicts no objects'}"
    )
    print(f"cells needed for {wish.target_cv or made.usual_cv:g} %:")
    for level, n in made.needed.items():
        print(f"  {level:<12}{'not reached' if n is None else format(n, ',')}")


def show_estimates(table: pd.DataFrame, *, quiet: bool) -> None:
    """Print the chosen estimates of the region to stdout."""
    if quiet:
        return
    from subpixmap.tables import REGION

    own = table[(table["unit_id"] == REGION) & table["chosen"].fillna(False)]
    for row in own.itertuples():
        what = (
            f"{row.object} {row.period}"
            if _is_blank(row.from_period)
            else f"{row.object} {row.from_period}-{row.period}"
        )
        interval = "no interval" if _is_blank(row.ci_low) else f"{row.ci_low:,.0f} to {row.ci_high:,.0f}"
        print(f"{what:<28}{row.estimate:>14,.0f}   {interval} ({row.estimator}, {row.n_ref} cells)")


def _is_blank(value: Any) -> bool:
    """Whether a value of a table is blank."""
    return value is None or str(value) in ("nan", "<NA>")


def _share(used: float) -> str:
    """The share of predicted pixels used in the map; the rest are clouds in partly clear tiles."""
    return f"{100 * used:.0f} % of the predicted pixels were clear and used"


def show_status(status: Status) -> None:
    """Print the progress of a run to stdout."""
    print(f"{status.done} of {status.total} blocks x periods are done")
    for label, (done, total) in status.by_period.items():
        print(f"  {label:<12}{done}/{total}")
    if status.used_share is not None:
        print(_share(status.used_share))
    if status.owner is not None:
        print(f"running: {status.owner}; {status.rate:.2g}/s, {duration(status.seconds_left)} left")
    for failure in status.failed:
        print(f"failed: block {failure.block_id}, period {failure.period}: {failure.reason}")
    for path in status.damaged:
        print(f"damaged: {path}; run `subpixmap verify --repair` to map its block again")
    for remark in status.stale:
        print(f"stale: {remark}")


def show_checkpoint(name: str, stored: Stored) -> None:
    """Print the card of a checkpoint to stdout."""
    card = stored.card
    rows = {
        "bands": f"{' '.join(card.bands)}, {card.resolution:g} m, {card.sensor} {card.level}",
        "counts": "; ".join(f"{key} ({card.measure[key]}): {text}" for key, text in card.objects.items()),
        "evidence": card.evidence,
        "trained on": str(card.training.get("data", "not stated")),
        "command": str(card.training.get("command", "not stated")),
        "error": _errors(card.error),
        "limits": " ".join(card.limits),
        "network": f"{card.width}/{card.mid}, {card.blocks} blocks, halo {card.halo} px",
        "sha256": stored.sha256,
    }
    lines = {key: f"\n{'':14}".join(folded(value, to=sys.stdout)) for key, value in rows.items()}
    print(name, *(f"  {key:<12}{value}" for key, value in lines.items()), "", sep="\n")


def _errors(measured: Mapping[str, Any]) -> str:
    """Total error with interval, and errors at 1 ha, of each object, if the card has them."""
    texts = []
    for name, values in measured.items():
        if isinstance(values, dict) and "total" in values:
            error, hectare = values["total"].get("error_pct"), values.get("1 ha", {})
            text = f"{name} total " + ("not known" if error is None else f"{error:+.1f} %")
            if interval := values.get("intervals_95", {}).get("error_pct"):
                text += f" (95 % over places {interval[0]:+.1f} to {interval[1]:+.1f})"
            facts = {"MAE": hectare.get("mae"), "R2": hectare.get("r2")}
            errors = ", ".join(f"{key} {value:.2f}" for key, value in facts.items() if value is not None)
            texts.append(text + (f", at 1 ha {errors}" if errors else ""))
    return "; ".join(texts) or "not stated"


@contextlib.contextmanager
def run_log(out: Path) -> Iterator[None]:
    """Write log records to OUT/run.log, one JSON object per line."""
    log = logging.getLogger("subpixmap")
    path = out / runpaths.LOG
    handler = _Uploaded(path) if is_remote(path) else logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_JsonLines())
    on_screen = logging.StreamHandler()  # only warnings and errors go to the console
    on_screen.addFilter(lambda record: getattr(record, "tell", False))
    log.addHandler(handler)
    log.addHandler(on_screen)
    level = log.level
    log.setLevel(logging.INFO)  # the call also clears the level cache of loggers
    try:
        yield
    except BaseException as error:
        log.error(f"{type(error).__name__}: {error}")
        raise
    finally:
        log.setLevel(level)
        log.removeHandler(on_screen)
        log.removeHandler(handler)
        handler.close()


class _Uploaded(logging.StreamHandler[io.StringIO]):
    """A log in an object store.

    Files there cannot be appended to, so it is uploaded whole twice a minute and at the end.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.StringIO())
        self.path, self.at = path, time.monotonic()
        self.stream.write(path.read_text(encoding="utf-8") if path.is_file() else "")

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        if time.monotonic() - self.at > 30:
            self.upload()

    def upload(self) -> None:
        self.at = time.monotonic()
        with contextlib.suppress(OSError):  # the run goes on without its log
            write_atomic(self.path, self.stream.getvalue().encode())

    def close(self) -> None:
        self.upload()
        super().close()


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        extra = {
            key: value for key, value in vars(record).items() if key not in _RECORD | {"message", "asctime", "tell"}
        }
        return _redacted(json.dumps(line | extra, ensure_ascii=False, default=str))


def _redacted(text: str) -> str:
    """The text without queries and passwords of URLs and without secrets of the environment."""
    for name, value in os.environ.items():
        if len(value) >= 8 and re.search(r"KEY|TOKEN|SECRET|PASSWORD", name) and not os.path.exists(value):
            text = text.replace(value, "***")
    return without_secrets(text)


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"
