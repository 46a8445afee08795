"""From a map to numbers that can be published: design a sample, import its labels, estimate.

The probability sample and the training areas of the model never share a cell; a sample of another map is refused.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subpixmap import runpaths
from subpixmap.errors import InputError, Refused
from subpixmap.estimation.design import SampleDesign, Wish
from subpixmap.estimation.labels import Labels
from subpixmap.estimation.results import Rules
from subpixmap.files import write_json
from subpixmap.verbs import console
from subpixmap.verbs.job import hold

if TYPE_CHECKING:
    import pandas as pd

    from subpixmap.estimation.sheets import DrawnSample
    from subpixmap.model.land import TaughtLand
    from subpixmap.runfolder import RunFolder

log = logging.getLogger("subpixmap")
_DESIGN_VERSION = 1
TWO_PHASES = "two phases: a detector counts all cells, people count some"
SIMULATED = "simulated labels"
"""Note of every estimate that uses them."""


def design_sample(
    out: Path,
    wish: Wish = Wish(),  # noqa: B008 (frozen)
    *,
    model: str | None = None,
    pilot: bool = False,
    quiet: bool = False,
) -> SampleDesign:
    """Draw a probability sample of cells, and write its sheets into OUT/sample.

    With `pilot`, the labelled sample of the folder decides the allocation of the new one, which replaces it. Training
    areas of the model (if its card lists them) are left out.
    """
    from subpixmap.estimation.sheets import read_labelled, read_sample, write_sample
    from subpixmap.mapping.manifest import announce, write_manifest

    with hold(out) as folder:
        labelled = (out / runpaths.SAMPLE_LABELLED).is_file()
        if labelled and not pilot:
            raise Refused(
                f"{out / runpaths.SAMPLE} already holds a labelled sample; add --pilot to allocate a new sample by "
                "it and replace it, or remove the folder"
            )
        if pilot and not labelled:
            raise InputError(f"--pilot: {out} holds no labelled sample; leave it out")
        before = read_sample(out).cells.merge(read_labelled(out)) if pilot else None
        made, record = _draw(folder, wish, model, before)
        announce(out, [runpaths.SAMPLE])
        for name in (runpaths.SAMPLE_LABELLED, runpaths.SAMPLE_IMPORT):
            (out / name).unlink(missing_ok=True)
        paths = write_sample(out, record, made.cells, made.frame)
        write_manifest(out, [runpaths.SAMPLE])
        forget_estimates(folder)
    log.info("sample designed", extra={"cells": made.cells["cell_id"].nunique()})
    console.show_design(made, wish, quiet=quiet)
    console.say_files(paths, quiet=quiet)
    return made


def _draw(
    folder: RunFolder, wish: Wish, model: str | None, pilot: pd.DataFrame | None
) -> tuple[SampleDesign, dict[str, Any]]:
    """The design, and its record."""
    from subpixmap.counts.blocks import read_blocks
    from subpixmap.counts.units import prepare_units
    from subpixmap.estimation.design import make_design
    from subpixmap.estimation.frame import cell_pixels, frame_cells, outside_of

    plan = folder.plan
    periods, objects = _periods(folder, wish), _objects(folder, wish)
    units = prepare_units(folder.units.table)
    cells = frame_cells(
        read_blocks(folder),
        units,
        px=cell_pixels(wish.cell, plan.recipe.resolution),
        periods=periods,
        objects=[plan.objects.index(name) for name in objects],
        threshold=plan.model.presence_threshold,
    )
    foreign = outside_of(cells, _land(folder, model, needed=False).polygons)
    made = make_design(cells.take(foreign), units, wish, periods=periods, objects=objects, pilot=pilot)
    record = {
        "version": _DESIGN_VERSION,
        "run_id": plan.run_id,
        "map_sha256": {label: map_sha256(folder, label) for label in periods},
        "seed": wish.seed,
        "cell": wish.cell,
        "periods": list(periods),
        "objects": list(objects),
        "by": wish.by,
        "target_cv": wish.target_cv,
        "interpreters": wish.interpreters,
        "prior": asdict(wish.prior),
        "pilot": pilot is not None,
        "frame_cells": int(foreign.sum()),
        "taught_cells_left_out": int((~foreign).sum()),
        "drawn": int(made.cells["cell_id"].nunique()),
        "lattices": [asdict(cells.grids[epsg].lattice) for epsg in sorted(cells.grids)],
        "strata": json.loads(made.strata.to_json(orient="records")),
        "needed": made.needed,
        "expected_cv": {name: cv if cv == cv else None for name, cv in made.expected_cv.items()},
        "software": plan.versions.get("subpixmap"),
    }
    return made, record


def import_labels(
    out: Path,
    sheet: Path,
    *,
    model: str | None = None,
    assume_disjoint: bool = False,
    simulated: bool = False,
    quiet: bool = False,
) -> Labels:
    """Check the labelled cells against the design, and store their counts in the run folder.

    `assume_disjoint` accepts a model whose card does not list its training areas; the record notes it. `simulated`
    labels are marked as such wherever estimates are shown.
    """
    from subpixmap.estimation.labels import check_labels, read_sheet
    from subpixmap.estimation.sheets import read_sample
    from subpixmap.files import file_sha256
    from subpixmap.mapping.manifest import announce, write_manifest
    from subpixmap.tables import LABELLED, write_parquet

    with hold(out) as folder:
        sample = read_sample(out)
        _require_same_map(folder, sample)
        rows = read_sheet(sheet)
        land = _land(folder, model, needed=not assume_disjoint)
        periods = {one.label: (one.start, one.end) for one in folder.plan.periods}
        labels = check_labels(rows, sample, periods=periods, taught=land.polygons)
        record = {
            "design_id": sample.id,
            "file": sheet.name,
            "file_sha256": file_sha256(sheet),
            "filled": labels.filled,
            "blank": list(labels.blank),
            "agreement": labels.agreement,
            "assume_disjoint": assume_disjoint and not land.complete,
            "simulated": simulated,
        }
        announce(out, [runpaths.SAMPLE])
        write_parquet(labels.table, out / runpaths.SAMPLE_LABELLED, LABELLED)
        write_json(out / runpaths.SAMPLE_IMPORT, record)
        write_manifest(out, [runpaths.SAMPLE])
    console.show_remarks(labels.remarks, quiet=quiet)
    console.say_files([out / runpaths.SAMPLE_LABELLED], quiet=quiet)
    return labels


def estimate(
    out: Path,
    rules: Rules = Rules(),  # noqa: B008 (frozen)
    *,
    changes: Sequence[tuple[str, str]] | None = None,
    quiet: bool = False,
) -> pd.DataFrame:
    """Estimate every unit from the labelled sample: columns of counts.csv, and estimates.csv with every estimator."""
    import pandas as pd

    from subpixmap.estimation.results import estimate_all, fill_counts
    from subpixmap.estimation.sheets import read_labelled, read_sample
    from subpixmap.estimation.two_phase import has_two_phases, with_detections
    from subpixmap.mapping.manifest import require_unchanged

    with hold(out) as folder:
        require_unchanged(folder.path, (runpaths.COUNTS_PARQUET, *runpaths.SAMPLED))
        sample, labelled = read_sample(out), read_labelled(out, detected=True)
        _require_same_map(folder, sample)
        two_phases = has_two_phases(labelled)
        if two_phases:
            labelled = with_detections(labelled, sample.cells)
        table = estimate_all(sample, labelled, folder.counts, rules=rules, changes=changes)
        for text, applies in ((TWO_PHASES, two_phases), (SIMULATED, import_record(out).get("simulated"))):
            if applies:
                table["note"] = [text if pd.isna(note) else f"{text}; {note}" for note in table["note"]]
        options = asdict(rules) | {"changes": None if changes is None else [list(pair) for pair in changes]}
        paths, remarks = _write_estimates(folder, fill_counts(folder.counts, table), table, options)
    log.info("estimated", extra={"rows": len(table)})
    console.show_estimates(table, quiet=quiet)
    console.show_remarks(remarks, quiet=quiet)
    console.say_files(paths, quiet=quiet)
    return table


def _write_estimates(
    folder: RunFolder, counts: pd.DataFrame, table: pd.DataFrame | None, options: dict[str, Any] | None
) -> tuple[list[Path], list[str]]:
    """Write counts with new estimates, and the table of all estimates (None removes it); returns files, stale ones."""
    from subpixmap.export.dictionary import write_dictionary
    from subpixmap.mapping.manifest import announce, read_manifest, write_manifest
    from subpixmap.tables import COUNTS, ESTIMATES, write_csv, write_table

    out = folder.path
    before = read_manifest(out)
    stale = before.stale() if before is not None else {}
    if runpaths.COUNTS_PARQUET in stale:
        raise InputError(
            f"{out / runpaths.COUNTS_PARQUET} {stale[runpaths.COUNTS_PARQUET]}; then rerun `subpixmap estimate`"
        )
    written = [runpaths.COUNTS_CSV, runpaths.COUNTS_PARQUET, runpaths.ESTIMATES_CSV, runpaths.TABLES, runpaths.SAMPLE]
    announce(out, written)
    paths = list(write_table(counts, out / runpaths.COUNTS_PARQUET, COUNTS))
    if table is None:
        for name in (runpaths.ESTIMATES_CSV, runpaths.SAMPLE_RULES):
            (out / name).unlink(missing_ok=True)
    else:
        paths.insert(0, write_csv(table, out / runpaths.ESTIMATES_CSV, ESTIMATES))
        write_json(out / runpaths.SAMPLE_RULES, options)
    write_dictionary(out)
    # Trends do not depend on estimates, so trends that fit the counts still do.
    fresh = [] if runpaths.TREND_PARQUET in stale else [runpaths.TREND_PARQUET]
    return paths, write_manifest(out, written, still_fit=fresh).stale_remarks()


def import_record(out: Path) -> dict[str, Any]:
    """The record of the imported labels of a run folder; empty if there are none."""
    path = out / runpaths.SAMPLE_IMPORT
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return record


def remarks_on_sample(out: Path) -> list[str]:
    """Notes about the sample for readers of the estimates."""
    record = import_record(out)
    remarks = []
    if record.get("simulated"):
        remarks.append(
            "the estimates come from a simulated sample: its labels are the true counts of the simulated country. "
            "They only show how the method works"
        )
    elif record.get("assume_disjoint"):
        remarks.append("it is assumed (--assume-disjoint) that no sample cell lies in the training areas of the model")
    return remarks


def simulate_sample(out: Path, country: Path, *, n: int = 300, quiet: bool = False) -> pd.DataFrame | None:
    """Estimates of a simulated country from a sample labelled with its truth, as an example.

    Labels the first and the last year. Returns None if that is impossible: periods that are not years, or objects that
    move.
    """
    import geopandas as gpd

    from subpixmap.estimation.sheets import read_sample
    from subpixmap.runfolder import RunFolder
    from subpixmap.simulate.labels import true_counts

    folder = RunFolder.open(out)
    labels = [one.label for one in folder.plan.periods]
    countable = [name for name in folder.plan.objects if folder.plan.model.measures[name] == "count"]
    if folder.plan.recipe.every != "year" or not countable:
        return None
    years = tuple(dict.fromkeys((labels[0], labels[-1])))
    with hold(out):
        if (out / runpaths.SAMPLE_IMPORT).is_file():
            if read_sample(out).record["periods"] == list(years):
                return estimate(out, quiet=quiet)  # of an earlier run of this folder
            (out / runpaths.SAMPLE_LABELLED).unlink(missing_ok=True)
        design_sample(out, Wish(n=n, periods=years), quiet=True)
        sheet = gpd.read_file(out / runpaths.SAMPLE_SHEET)
        cells = sheet.drop_duplicates("cell_id").set_index("cell_id").geometry
        counts = true_counts(country, cells.to_numpy(), objects=countable, years=years)
        at = (
            sheet["cell_id"].map({name: i for i, name in enumerate(cells.index)}),
            sheet["object"].map(countable.index),
            sheet["period"].map(years.index),
        )
        sheet["n_objects"] = counts[tuple(one.to_numpy(int) for one in at)]
        sheet["image_date"] = sheet["period"]
        sheet["note"] = "simulated"
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "simulated.gpkg"
            sheet.to_file(path, layer="cells", driver="GPKG")
            import_labels(out, path, assume_disjoint=True, simulated=True, quiet=True)
        return estimate(out, quiet=quiet)


def estimate_again(out: Path) -> list[str]:
    """Redo the estimates of the folder after a new count; returns notes about estimates that were removed."""
    from subpixmap.runfolder import RunFolder

    try:
        options = json.loads((out / runpaths.SAMPLE_RULES).read_text(encoding="utf-8"))
        changes = options.pop("changes")
        options.setdefault("unseen", 0.0)  # absent in older files, whose intervals did not include unseen objects
        pairs = None if changes is None else [(str(first), str(last)) for first, last in changes]
        estimate(out, Rules(**options), changes=pairs, quiet=True)
    except (InputError, Refused, ValueError, TypeError, KeyError) as error:
        forget_estimates(RunFolder.open(out))
        return [f"the old estimates do not fit the new counts and were removed: {error}"]
    return []


def forget_estimates(folder: RunFolder) -> None:
    """Blank the columns of estimates, and remove the table of estimates."""
    from subpixmap.estimation.results import fill_counts

    if any((folder.path / name).is_file() for name in (runpaths.ESTIMATES_CSV, runpaths.SAMPLE_RULES)):
        _write_estimates(folder, fill_counts(folder.counts, None), None, None)


def map_sha256(folder: RunFolder, period: str) -> str:
    """Hash of the content of the map of a period, from its ledger."""
    from subpixmap.mapping.ledger import Record, record_path

    digest = hashlib.sha256()
    for zone in folder.plan.zones.values():
        for one in zone.blocks:
            path = record_path(folder.path, one.block.id, period)
            if path.is_file():
                record = Record.from_json(path.read_text(encoding="utf-8"))
                digest.update(f"{one.block.id} {record.sha256['count']} {record.sha256['presence']}\n".encode())
    return digest.hexdigest()


def _require_same_map(folder: RunFolder, sample: DrawnSample) -> None:
    """Refuse a sample that was drawn from another map."""
    record = sample.record
    if record["run_id"] != folder.plan.run_id:
        raise Refused(
            f"the sample of {folder.path} was drawn from another map (run {record['run_id'][:12]}, this map is run "
            f"{folder.plan.run_id[:12]}); run `subpixmap sample design` for this map"
        )
    for label, digest in record["map_sha256"].items():
        if map_sha256(folder, label) != digest:
            raise Refused(
                f"the map of {label} has changed since the sample was drawn; run `subpixmap sample design` again"
            )


def _land(folder: RunFolder, model: str | None, *, needed: bool) -> TaughtLand:
    """Training and calibration areas of the model; if its card does not list them all, raise if `needed`."""
    from subpixmap.model.checkpoint import load_model
    from subpixmap.model.land import TaughtLand, taught_land

    info = folder.plan.model
    try:
        chosen = load_model(model or info.name, known=info.sha256)
        if model is None and chosen.sha256 != info.sha256:
            raise InputError(f"the file of model {info.name} (sha256 {info.sha256[:12]}) was not found")
    except InputError as error:
        if not needed and model is None:
            return TaughtLand((), complete=False)
        raise InputError(f"{error}; give it with --model FILE: its card lists its training areas") from error
    if chosen.sha256 != info.sha256:
        raise Refused(f"--model {model}: the map needs model {info.name}, sha256 {info.sha256[:12]}")
    land = taught_land(chosen.card)
    if needed and not land.complete:
        raise Refused(
            f"the card of model {info.name} does not list the areas it was trained and calibrated on, so sample "
            "cells may lie there and make the model look too good; if you know that none does, add --assume-disjoint"
        )
    return land


def _periods(folder: RunFolder, wish: Wish) -> list[str]:
    labels = [one.label for one in folder.plan.periods]
    if unknown := [one for one in wish.periods if one not in labels]:
        raise InputError(f"--periods {unknown[0]}: the run has {', '.join(labels)}")
    return [one for one in labels if one in wish.periods] or labels[-1:]


def _objects(folder: RunFolder, wish: Wish) -> list[str]:
    plan = folder.plan
    countable = [name for name in plan.objects if plan.model.measures[name] == "count"]
    for name in wish.objects:
        if name not in plan.objects:
            raise InputError(f"--object {name}: the run has {', '.join(plan.objects)}")
        if name not in countable:
            raise InputError(f"--object {name}: it moves, so one image cannot show its mean over dates; leave it out")
    chosen = [name for name in countable if not wish.objects or name in wish.objects]
    if not chosen:
        raise InputError("this run has no object that can be labelled on an image: all its objects move")
    return chosen
