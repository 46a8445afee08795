"""Calibrates a model on a user's own data, without training. The result is a new model and needs a new map."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subpixmap.errors import InputError, Refused
from subpixmap.files import file_sha256

_OBSERVED = 0.9  # share of a cell; what is filled says less

if TYPE_CHECKING:
    from subpixmap.model.checkpoint import Model
    from subpixmap.reference.samples import Scheme


def calibrate(
    model_name: str,
    output: Path,
    *,
    reference: Path | None = None,
    source: Sequence[str] = (),
    sample: Path | None = None,
    scheme: Scheme | None = None,
    collection: str | None = None,
    quiet: bool = False,
) -> Model:
    """Fit background and slope on reference data (with imagery), or on the labelled sample of a run folder.

    Land used for calibration cannot validate the model: its outlines go into the card, and a sample that touches them
    is refused.
    """
    from subpixmap.model.checkpoint import load_model, save_model

    if output.suffix != ".safetensors":
        raise InputError(f"--output {output}: the name of a checkpoint must end in .safetensors")
    if (reference is None) == (sample is None):
        raise InputError("give either --reference with --source, or --sample OUT")
    model = load_model(model_name)
    if sample is not None:
        made = _on_sample(model, sample, name=output.stem)
    else:
        assert reference is not None  # one of the two is given
        made = _on_reference(
            model, reference, source, name=output.stem, scheme=scheme, collection=collection, quiet=quiet
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    saved = save_model(output, made.net, made.card)
    if not quiet:
        _show(model, saved)
        print(output)
    return saved


def _on_reference(
    model: Model,
    folder: Path,
    source: Sequence[str],
    *,
    name: str,
    scheme: Scheme | None,
    collection: str | None,
    quiet: bool,
) -> Model:
    from subpixmap.reference.folder import read_reference
    from subpixmap.training.from_reference import calibrate_on

    if not source:
        raise InputError("--reference needs imagery: give --source")
    return calibrate_on(
        model,
        read_reference(folder),
        list(source),
        name=name,
        scheme=scheme,
        collection=collection,
        progress=None if quiet else sys.stderr,
    )


def _on_sample(model: Model, out: Path, *, name: str) -> Model:
    """The model calibrated on the labelled cells of a run that it mapped."""
    from subpixmap import runpaths
    from subpixmap.estimation.frame import parse_cell_id
    from subpixmap.estimation.sheets import cell_outlines, lattices_of, read_labelled, read_sample
    from subpixmap.runfolder import RunFolder
    from subpixmap.training.recalibrate import CalibrationCells, recalibrate

    plan = RunFolder.open(out).plan
    if plan.model.sha256 != model.sha256:
        raise Refused(
            f"the map of {out} was made with model {plan.model.name}, sha256 {plan.model.sha256[:12]}, not with "
            f"{model.card.name}, sha256 {model.sha256[:12]}: give the model of that map, or map again with this one"
        )
    drawn = read_sample(out)
    cells = drawn.cells.merge(read_labelled(out), on=["cell_id", "period", "object"])
    cells = cells[cells["observed_frac"] >= _OBSERVED]
    ids = cells["cell_id"].drop_duplicates().to_numpy()
    lattices = lattices_of(drawn.record)
    pixels = parse_cell_id(str(drawn.cells["cell_id"].iloc[0]))[1] ** 2
    labelled: dict[str, Any] = {}
    for one, rows in cells.groupby("object", sort=False):
        values = (rows[column].to_numpy(float) for column in ("mapped", "n_objects", "probability"))
        mapped, count, probability = values
        ha = pixels * plan.recipe.resolution**2 / 1e4
        labelled[str(one)] = CalibrationCells(mapped, count, 1 / probability, pixels, ha)
    if not labelled:
        raise InputError(
            f"{out}: no labelled cell has enough clear observations; calibration needs at least 10 "
            "cells: label more cells"
        )
    digest = file_sha256(out / runpaths.SAMPLE_LABELLED)[:12]
    source = f"{len(ids)} labelled cells of {plan.region_name} (labels {digest})"
    return recalibrate(model, labelled, list(cell_outlines(ids, lattices)), name=name, source=source)


def _show(before: Model, after: Model) -> None:
    """Print old and new background and slope, the data behind them, and their range when places are resampled."""
    facts = after.card.training.get("calibrated_on", {})
    for name in after.card.objects:
        old, new = (one.card.calibration.get(name, (0.0, 1.0)) for one in (before, after))
        basis = facts.get(name)
        if basis is None:
            print(f"{name}: unchanged, because none was labelled")
            continue
        low, high = basis.get("slope_95", (float("nan"), float("nan")))
        print(
            f"{name}: background {old[0]:.4f} -> {new[0]:.4f}, slope {old[1]:.3f} -> {new[1]:.3f}; rests on "
            f"{basis['ha']:g} ha ({basis['empty_ha']:g} ha empty), {basis['objects']:g} objects; the slope "
            f"factor varies from {low:.3f} to {high:.3f} when places are resampled"
        )
