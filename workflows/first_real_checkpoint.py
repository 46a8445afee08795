"""Trains a first checkpoint on real Sentinel-2, and writes a folder for a pull request.

    python workflows/first_real_checkpoint.py california --data urban-tree-detection-data --out first
    python workflows/first_real_checkpoint.py los-angeles --points trees.csv --labelled areas.gpkg --image-date 2021 \
        --licence "what the portal says" --points-from "address, day of download" --out first
    python workflows/first_real_checkpoint.py puglia --points olives.gpkg --labelled areas.gpkg ... --out first

Points and imagery become a reference, a network learns on it, and land that it has not seen measures it, beside simple
methods. `california` is `trees_california_s2.py`, the others are `subpixmap learn`; what follows `--` goes to either,
such as `-- --test north` or `-- --crs EPSG:4326`. `--dry-run` prints the command and runs nothing.
OUT/pull-request holds checkpoint, card, metrics.json, figures and pull-request.md with the numbers filled in. Where
they are not what docs/first-real-checkpoint.md asks for, the exit code is 4; the folder is written all the same.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import trees_california_s2

from subpixmap.cli.main import app
from subpixmap.cli.options import Session
from subpixmap.errors import InputError, Refused, SubpixmapError, in_one_line
from subpixmap.files import require_place
from subpixmap.model.card import Card, card_path, read_stored
from subpixmap.model.stac_item import item_path
from subpixmap.scenes.hrefs import redact_urls
from subpixmap.verbs.teach import write_metrics

BASELINES = trees_california_s2.BASELINES
MOST_MB = 5.0
LEAST_HA = 100
"""Hectares on which a model is measured."""
MOST_OFF_PCT = 20.0
LEAST_R2 = 0.4
CALIFORNIA = "california"


@dataclass(frozen=True)
class Place:
    """What is counted where, from points that somebody else publishes."""

    checkpoint: str
    thing: str
    definition: str
    image_date: str | None = None
    """Of the imagery on which the points were marked; None: only whoever downloads them knows."""


PLACES = {
    "los-angeles": Place(
        "trees-los-angeles-s2",
        "tree",
        "tree of any species: on streets from the city's inventory, elsewhere marked by hand",
    ),
    "puglia": Place(
        "olives-puglia-s2", "olive", "olive tree that was alive, marked on aerial imagery", image_date="2019"
    ),
}


@dataclass(frozen=True)
class Gate:
    """One thing that must hold before a checkpoint is accepted."""

    what: str
    found: str
    holds: bool


def command_of(options: argparse.Namespace, more: Sequence[str]) -> list[str]:
    """The words that make the checkpoint: of `trees_california_s2.py`, or of `subpixmap`."""
    catalogue = ["--source", options.source]
    catalogue += ["--collection", options.collection] if options.collection else []
    if options.place == CALIFORNIA:
        _require(options, "data")
        return ["--data", options.data, *catalogue, "--out", options.out, *more]
    place = PLACES[options.place]
    options.image_date = options.image_date or place.image_date
    _require(options, "points", "labelled", "image_date", "licence", "points_from")
    words = ["learn", options.points, "--labelled", options.labelled, "--image-date", options.image_date]
    words += ["--object", place.thing, "--definition", f"{place.thing}={place.definition}", *catalogue]
    words += ["--split-by", "area", "--correct-shift", "--baselines", ",".join(BASELINES)]
    return [*words, "-o", str(Path(options.out) / f"{place.checkpoint}.safetensors"), *more]


def _require(options: argparse.Namespace, *names: str) -> None:
    if missing := [f"--{name.replace('_', '-')}" for name in names if not (getattr(options, name) or "").strip()]:
        raise InputError(f"{options.place} needs {', '.join(missing)} (see docs/first-real-checkpoint.md)")
    for name in ("data", "points", "labelled"):
        if name in names and not Path(getattr(options, name)).exists():
            raise InputError(f"--{name} {getattr(options, name)}: no such file or folder")


def make(options: argparse.Namespace, words: Sequence[str]) -> tuple[int, Path, Path]:
    """Run the command; its exit code, and where checkpoint and metrics are."""
    out = Path(options.out)
    if options.place == CALIFORNIA:
        path = out / f"{trees_california_s2.NAME}.safetensors"
        return trees_california_s2.main(words), path, out / "metrics.json"
    path = out / f"{PLACES[options.place].checkpoint}.safetensors"
    try:
        app(list(words), obj=Session())
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    metrics = path.with_suffix(".metrics.json")
    if code == 0:
        _state_licence(path, metrics, licence=options.licence, points_from=options.points_from)
    return code, path, metrics


def _state_licence(path: Path, metrics: Path, **facts: str) -> None:
    """Write into the card where the points come from, and into the metrics the hash of the checkpoint that says so."""
    from subpixmap.model.checkpoint import load_model, save_model

    model = load_model(path)
    saved = save_model(path, model.net, replace(model.card, training={**model.card.training, **facts}))
    write_metrics(metrics, {**json.loads(metrics.read_text()), "sha256": saved.sha256})


def judge(card: Card, errors: Mapping[str, Any], size: int) -> list[Gate]:
    """Whether a checkpoint is what a pull request may bring.

    Parameters
    ----------
    card, errors
        Of the checkpoint: its card, and metrics.json with baselines.
    size
        Of the file, bytes.
    """
    licence, mb = str(card.training.get("licence", "")).strip(), size / 1e6
    gates = [
        Gate("evidence is sentinel-2", card.evidence, card.evidence == "sentinel-2"),
        Gate("the card names the licence of the points", licence or "none", bool(licence)),
        Gate(f"the checkpoint is smaller than {MOST_MB:g} MB", f"{mb:.2f} MB", mb < MOST_MB),
        _held_out(card),
    ]
    for thing in card.objects:
        gates += _gates_of(thing, errors)
    return gates


def _held_out(card: Card) -> Gate:
    facts = card.training
    if "splits" in facts:  # of `learn`
        tested, taught = (set(facts["splits"][split]["units"]) for split in ("test", "training"))
    else:
        tested, taught = {facts.get("test_city")} - {None}, set(facts.get("cities", ()))
    # A unit of `learn` that is a part of an area is called AREA/ROW,COLUMN.
    areas = [{str(unit).split("/")[0] for unit in units} for units in (tested, taught)]
    return Gate(
        "tested in areas that taught nothing",
        ", ".join(sorted(areas[0])) or "none",
        bool(areas[0] and areas[1]) and not areas[0] & areas[1],
    )


def _gates_of(thing: str, errors: Mapping[str, Any]) -> list[Gate]:
    """Those of the numbers of one object. A number that is missing holds nothing."""
    n, r2, mae, off = numbers(errors, thing)
    gates = [
        Gate(f"{thing}: tested on {LEAST_HA} hectares or more", f"{n:.0f}", n >= LEAST_HA),
        Gate(f"{thing}: total within {MOST_OFF_PCT:g} %", f"{off:+.1f} %", abs(off) <= MOST_OFF_PCT),
        Gate(f"{thing}: R2 at 1 ha of {LEAST_R2:g} or more", f"{r2:.2f}", r2 >= LEAST_R2),
    ]
    for name in BASELINES:
        _, other_r2, other_mae, _ = numbers(errors.get("baselines", {}).get(name, {}), thing)
        ahead = r2 > other_r2 and mae < other_mae
        found = f"R2 {r2:.2f} against {other_r2:.2f}, MAE {mae:.2f} against {other_mae:.2f}"
        gates.append(Gate(f"{thing}: ahead of {name}", found, ahead))
    return gates


def numbers(errors: Mapping[str, Any], thing: str) -> tuple[float, float, float, float]:
    """Hectares, R2 and MAE at 1 ha, error of the total in percent; NaN where it is not known."""
    found = errors.get(thing, {})
    at, total = found.get("1 ha", {}), found.get("total", {})
    known = (at.get("n"), at.get("r2"), at.get("mae"), total.get("error_pct"))
    n, r2, mae, off = (math.nan if value is None else float(value) for value in known)
    return n, r2, mae, off


def write_pull_request(path: Path, metrics: Path, folder: Path, *, command: str) -> list[Gate]:
    """Checkpoint, card, metrics, figures and text in one folder; what was judged."""
    card, errors = read_stored(path).card, json.loads(metrics.read_text())
    gates = judge(card, errors, path.stat().st_size)
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for file in (path, card_path(path), item_path(path)):
        shutil.copy(file, folder)
    shutil.copy(metrics, folder / "metrics.json")
    for picture in metrics.parent.glob(f"{metrics.stem}.*.png"):
        shutil.copy(picture, folder)
    (folder / "pull-request.md").write_text(text_of(card, errors, gates, command=command), encoding="utf-8")
    return gates


def text_of(card: Card, errors: Mapping[str, Any], gates: Sequence[Gate], *, command: str) -> str:
    """The text of the pull request."""
    facts = card.training
    lines = [f"# Add {card.name}, a checkpoint that has learnt on {card.evidence}", ""]
    lines += [f"* **{thing}**: {words}." for thing, words in card.objects.items()]
    lines += [
        f"* Points: {facts.get('points_from', 'not said')}; licence: {facts.get('licence', 'not said')}.",
        f"* Data: {facts.get('data', 'not said')}.",
        "* Contains modified Copernicus Sentinel data.",
        f"* Command: `{command}`",
        "",
        "On land that taught nothing, the same for all methods; MAE in objects per hectare:",
        "",
        "| object | method | hectares | R2 at 1 ha | MAE | total |",
        "|---|---|---|---|---|---|",
    ]
    for name, of_method in {card.name: errors, **errors.get("baselines", {})}.items():
        for thing in card.objects:
            n, r2, mae, off = numbers(of_method, thing)
            lines.append(f"| {thing} | {name} | {n:.0f} | {r2:.2f} | {mae:.2f} | {off:+.1f} % |")
    lines += ["", "| what must hold | found | |", "|---|---|---|"]
    lines += [f"| {gate.what} | {gate.found} | {'yes' if gate.holds else '**no**'} |" for gate in gates]
    lines += ["", "Limits, as the card says them:", "", *(f"* {limit}" for limit in card.limits), ""]
    lines += [
        "To do by hand:",
        "",
        f"- [ ] `{card.name}.safetensors`, `.card.json` and `.stac.json` are in `subpixmap/data/models/`",
        "- [ ] `NOTICE` names the points and their licence, `CHANGELOG.md` the checkpoint",
        "- [ ] metrics.json and the figures are attached here, not committed",
        "- [ ] I looked at the figure, and at the reference over the imagery in a GIS",
    ]
    return "\n".join(lines) + "\n"


def parse(given: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Options, and what follows `--`."""
    at = list(given).index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", choices=[CALIFORNIA, *PLACES])
    parser.add_argument("--data", help="california: a clone of urban-tree-detection-data")
    parser.add_argument("--points", help="los-angeles, puglia: file of points")
    parser.add_argument("--labelled", help="polygons in which every object is a point")
    parser.add_argument("--image-date", help="date of the points: 2021-03 or 2021")
    parser.add_argument("--licence", help="licence of the points, for the card")
    parser.add_argument("--points-from", help="source of the points (author, URL, date of download), for the card")
    parser.add_argument("--source", default="earth-search", help="catalogue name, STAC API, or path")
    parser.add_argument("--collection", help="STAC collection of the API")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--dry-run", action="store_true", help="print the command without running it")
    return parser.parse_args(list(given[:at])), list(given[at + 1 :])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit code."""
    options, more = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        require_place(Path(options.out))
        words = command_of(options, more)
        program = "python workflows/trees_california_s2.py" if options.place == CALIFORNIA else "subpixmap"
        command = redact_urls(f"{program} {shlex.join(words)}")
        if options.dry_run:
            print(command)
            return 0
        code, path, metrics = make(options, words)
        if code:
            return code
        folder = Path(options.out) / "pull-request"
        gates = write_pull_request(path, metrics, folder, command=command)
        for gate in gates:
            print(f"{'yes' if gate.holds else 'NO '}  {gate.what}: {gate.found}")
        print(folder / "pull-request.md")
        if missed := [gate.what for gate in gates if not gate.holds]:
            raise Refused(
                f"{len(missed)} of {len(gates)} do not hold, first: {missed[0]}; {folder} is written all the same"
            )
    except SubpixmapError as error:
        print(f"first_real_checkpoint: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"first_real_checkpoint: {in_one_line(error)}; the same command goes on", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
