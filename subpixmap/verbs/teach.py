"""The verbs that make a model: reference -> train -> evaluate, and learn, which is all of them.

Each command is one function here; the steps are in `reference`, `training` and `report`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from subpixmap.errors import InputError
from subpixmap.files import require_place, write_json
from subpixmap.training.config import require_baselines
from subpixmap.verbs.names import require_model, require_output, require_simulated
from subpixmap.verbs.request import Labelling, Shape

if TYPE_CHECKING:
    from subpixmap.model.checkpoint import Model
    from subpixmap.reference.reference import Reference
    from subpixmap.reference.samples import Scheme
    from subpixmap.training.config import TrainConfig

log = logging.getLogger("subpixmap")

ITEMS = "items.parquet"
"""Items that a catalogue returned, in a reference folder; next to a checkpoint, the file name starts with its name."""


def reference(
    points: Path,
    labelled: Path | None,
    image_date: str,
    out: Path,
    *,
    labelling: Labelling = Labelling(),  # noqa: B008 (frozen)
    source: Sequence[str] = (),
    collection: str | None = None,
    within_days: int = 180,
    level: str = "L2A",
    correct_shift: bool = False,
    quiet: bool = False,
) -> Reference:
    """Make a reference folder from points or totals; with a source, also measure the shift against Sentinel-2."""
    from subpixmap.reference.align import shift_facts
    from subpixmap.reference.folder import summary, write_reference
    from subpixmap.reference.imagery import find_imagery
    from subpixmap.reference.question import Locks
    from subpixmap.scenes.radiometry import known_level
    from subpixmap.verbs.labels import read_labels

    if correct_shift and not source:
        raise InputError("--correct-shift needs imagery: give --source")
    require_place(out)
    labels = read_labels(points, labelled, labelling)
    made = labels.reference(image_date)
    if source:
        imagery = find_imagery(
            made,
            list(source),
            within_days=within_days,
            halo=0,
            collection=collection,
            level=known_level(level),
            locks=Locks(write=out / ITEMS),
        )
        shifts = shift_facts(made, imagery, correct=correct_shift)
        moves = {name: (shift["east"], shift["north"]) for name, shift in shifts.items() if shift["corrected"]}
        made = labels.reference(image_date, shifts=moves) if moves else made
        made = replace(made, shifts=shifts)
    for text in made.warnings():
        log.warning(text)
    if outside := labels.outside(made):
        log.warning("%d of %d points lie outside the labelled areas and are ignored", outside, labels.n_points)
    write_reference(out, made)
    if not quiet:
        _show_table(summary(made))
        print(out / "reference.json")
    return made


def train(
    folder: Path,
    source: Sequence[str],
    output: Path,
    *,
    scheme: Scheme | None = None,
    config: TrainConfig | None = None,
    asked: Mapping[str, Any] | None = None,
    name: str | None = None,
    evidence: str | None = None,
    bands: Sequence[str] = (),
    baselines: Sequence[str] = (),
    collection: str | None = None,
    shape: Shape = Shape(),  # noqa: B008 (frozen)
    quiet: bool = False,
) -> Model:
    """Train, calibrate and evaluate a checkpoint on reference data; write it with its card and metrics.

    Without a `config`, the recipe for this amount of land is used, with the fields of `TrainConfig` in `asked`.
    """
    require_output(output, config, asked=asked, bands=bands, baselines=baselines)
    from subpixmap.reference.folder import read_reference, reference_sha256

    made = read_reference(folder)
    from subpixmap.reference.question import Locks
    from subpixmap.reference.samples import Scheme
    from subpixmap.training.from_reference import learn_from
    from subpixmap.training.state import remove_states

    output.parent.mkdir(parents=True, exist_ok=True)
    model, errors = learn_from(
        made,
        list(source),
        output,
        reference_sha256=reference_sha256(folder),
        name=name,
        evidence=evidence or evidence_of(source),
        bands=bands or None,
        scheme=scheme or Scheme(),
        config=config,
        asked=asked,
        width=shape.width,
        mid=shape.mid,
        blocks=shape.blocks,
        baselines=baselines,
        collection=collection,
        locks=Locks(write=output.with_suffix(f".{ITEMS}"), read=(folder / ITEMS,)),
        command=f"subpixmap train --reference {folder.name} --source {' --source '.join(map(_short, source))}",
        state=output.with_suffix(".state"),
        curves=output.with_suffix(".curves.csv"),
        progress=None if quiet else sys.stderr,
    )
    folds = int(model.card.training["scheme"]["folds"])
    remove_states(output.with_suffix(".state"), model.card.members, folds=folds)
    write_metrics(output.with_suffix(".metrics.json"), {"model": model.card.name, "sha256": model.sha256} | errors)
    if not quiet:
        print(output)
        print(output.with_suffix(".metrics.json"))
    return model


def train_simulated(
    name: str, output: Path, *, config: TrainConfig, cache: Path | None, workers: int, quiet: bool
) -> None:
    """Reproduce a shipped checkpoint from simulated data."""
    require_simulated(name)
    from subpixmap.training.from_simulator import train_simulated as make
    from subpixmap.training.state import remove_states

    require_output(output, config)
    output.parent.mkdir(parents=True, exist_ok=True)
    state, curves = output.with_suffix(".state"), output.with_suffix(".curves.csv")
    progress = None if quiet else sys.stderr
    make(name, output, config=config, cache=cache, state=state, curves=curves, workers=workers, progress=progress)
    remove_states(state, config.members)
    if not quiet:
        print(output)


def learn(
    points: Path,
    labelled: Path | None,
    image_date: str,
    source: Sequence[str],
    output: Path,
    *,
    labelling: Labelling = Labelling(),  # noqa: B008 (frozen)
    correct_shift: bool = False,
    scheme: Scheme | None = None,
    config: TrainConfig | None = None,
    asked: Mapping[str, Any] | None = None,
    collection: str | None = None,
    quiet: bool = False,
    **checkpoint: Any,
) -> Model:
    """Make a checkpoint from labels and a date: reference, train, calibrate, evaluate, card.

    `checkpoint` holds further keywords of `train`. The reference is written to a folder next to the checkpoint, so that
    `evaluate` can use the same test land.
    """
    from subpixmap.reference.samples import Scheme

    require_output(output, config, asked=asked)
    scheme = scheme or Scheme()
    folder = output.with_suffix(".reference")
    imagery: dict[str, Any] = {"source": source, "collection": collection, "within_days": scheme.within_days}
    imagery["level"] = scheme.level
    reference(
        points, labelled, image_date, folder, labelling=labelling, correct_shift=correct_shift, quiet=quiet, **imagery
    )
    return train(
        folder,
        source,
        output,
        scheme=scheme,
        config=config,
        asked=asked,
        collection=collection,
        quiet=quiet,
        **checkpoint,
    )


def evaluate(
    model_name: str,
    *,
    folder: Path | None = None,
    source: Sequence[str] = (),
    simulated: int | None = None,
    world: str = "base",
    places: int = 100,
    objects: Sequence[str] = (),
    split: str | None = None,
    scheme: Scheme | None = None,
    baselines: Sequence[str] = (),
    land_cover: Path | None = None,
    collection: str | None = None,
    cache: Path | None = None,
    workers: int = 2,
    force: bool = False,
    output: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Evaluate a checkpoint on reference data or simulated data; prints a table, writes metrics.json with figures."""
    if (folder is None) == (simulated is None):
        raise InputError("give either --reference with --source, or --simulated SEED")
    require_baselines(baselines)  # names first, because importing torch takes seconds
    if folder is not None and not source:
        raise InputError("--reference needs imagery: give --source")
    model_name = require_model(model_name, world=None if simulated is None else world, places=places, objects=objects)
    from subpixmap.model.checkpoint import load_model
    from subpixmap.reference.folder import read_reference, reference_sha256
    from subpixmap.reference.question import Locks
    from subpixmap.training.evaluate import table
    from subpixmap.training.from_reference import evaluate_on

    model, progress = load_model(model_name), None if quiet else sys.stderr
    if simulated is not None:
        errors = _evaluate_simulated(
            model,
            simulated,
            world=world,
            places=places,
            objects=tuple(objects) or model.card.object_names,
            baselines=baselines,
            cache=cache,
            workers=workers,
            progress=progress,
        )
    else:
        assert folder is not None  # one of the two is given
        errors = evaluate_on(
            model,
            read_reference(folder),
            list(source),
            reference_sha256=reference_sha256(folder),
            split=split,
            scheme=scheme,
            baselines=baselines,
            land_cover=land_cover,
            collection=collection,
            locks=Locks(read=(folder / ITEMS, Path(model_name).with_suffix(f".{ITEMS}"))),
            force=force,
            progress=progress,
        )
    written = [] if output is None else write_metrics(output, errors)
    if not quiet:
        print(table(errors), *written, sep="\n")
    return errors


def write_metrics(path: Path, errors: Mapping[str, Any]) -> list[Path]:
    """Write metrics.json, and next to it a figure of each object."""
    from subpixmap.report.agreement import plot_agreement
    from subpixmap.training.evaluate import is_object

    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, _plain(errors))
    written = [path]
    for name in [name for name, value in errors.items() if is_object(value)]:
        picture = path.with_name(f"{path.stem}.{name}.png")
        plot_agreement(errors, name).savefig(picture, dpi=120)
        written.append(picture)
    return written


def evidence_of(source: Sequence[str]) -> str:
    """ "simulated" if any source is a simulated country's own catalogue, else "sentinel-2"."""
    from subpixmap.simulate.recognise import is_simulated

    return "simulated" if is_simulated(source) else "sentinel-2"


def _evaluate_simulated(
    model: Model,
    seed: int,
    *,
    world: str,
    places: int,
    objects: tuple[str, ...],
    baselines: Sequence[str],
    cache: Path | None,
    workers: int,
    progress: TextIO | None,
) -> dict[str, Any]:
    from subpixmap.reference.supports import SUPPORTS
    from subpixmap.training.baselines import fit_baselines
    from subpixmap.training.evaluate import evaluate as evaluate_patches
    from subpixmap.training.from_simulator import SEEDS, simulated_patches

    taught = [part for part, used in SEEDS.items() if used == seed and world == "base"]
    if taught:
        log.warning("the %s data of the shipped models were simulated with seed %d", seed, taught[0])
    options: dict[str, Any] = {"objects": objects, "halo": model.halo, "cache": cache, "workers": workers}
    size = SUPPORTS["1 km2"] + 2 * model.halo
    patches = simulated_patches(seed, places, world=world, size=size, **options)
    fitted: dict[str, Any] = {}
    if baselines:  # on as many places of the training world as the model is evaluated on
        training = simulated_patches(SEEDS["training"], places, **options)
        fitted = fit_baselines(baselines, training, model, progress=progress)
    errors = evaluate_patches(model, patches, baselines=fitted)
    facts = {"model": model.card.name, "sha256": model.sha256, "evidence": "simulated"}
    return facts | {"world": world, "seed": seed, "standing": list(objects)} | errors


def _show_table(rows: Sequence[Mapping[str, Any]]) -> None:
    import pandas as pd

    print(pd.DataFrame(rows).to_string(index=False))


def _plain(value: Any) -> Any:
    """Values for JSON: NaN becomes null."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and value != value else value


def _short(source: str) -> str:
    """The name of a source for a card: of a path, its last two parts."""
    from subpixmap.scenes.hrefs import redact

    return redact(source) if "://" in source or not Path(source).exists() else "/".join(Path(source).parts[-2:])
