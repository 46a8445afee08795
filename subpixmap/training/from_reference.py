"""Reference data + Sentinel-2 -> a checkpoint that knows its error: split, read, train, calibrate, evaluate, card.

Training, calibration and test never share a pixel, and what a model was measured on is in its card, so that
`evaluate_on` takes the same test land again, and says when it is asked to test on land that the model was taught on.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import shapely

from subpixmap.errors import InputError, Refused
from subpixmap.model.checkpoint import Card, Model, save_model
from subpixmap.model.net import halo_of
from subpixmap.model.predict import check_input
from subpixmap.periods import parse_years
from subpixmap.reference.imagery import FAR_DAYS, Sky, days_off, find_sky
from subpixmap.reference.landcover import with_cover
from subpixmap.reference.patches import Patches
from subpixmap.reference.reference import Reference
from subpixmap.reference.samples import Sample, read_sample
from subpixmap.reference.splits import SPLITS, Tile, all_tiles, split_tiles
from subpixmap.scenes.radiometry import MaskRule
from subpixmap.training.baselines import BASELINES, fit_baseline
from subpixmap.training.calibrate import calibrate
from subpixmap.training.config import TrainConfig
from subpixmap.training.evaluate import brief, evaluate, table
from subpixmap.training.inputs import input_statistics
from subpixmap.training.train import train

log = logging.getLogger(__name__)
_MASK = MaskRule()


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How a reference becomes samples; kept in the card, so that the same test land is found again."""

    within_days: int = 180
    """Days around the image date within which an acquisition may lie."""
    months: tuple[int, ...] = ()
    """Of the year; empty means all."""
    max_scenes: int = 8
    """Acquisitions of an area."""
    split_by: str = "auto"
    """"area", "tile" or "auto"."""
    tile: int = 0
    """Side of a tile, pixels; 0 leaves it to the size of the areas."""
    test: tuple[str, ...] = ()
    """Areas for the test; drawn when neither these nor those for calibration are named."""
    calibration: tuple[str, ...] = ()
    test_years: str = ""
    """Such as "2022-2023": the test sees acquisitions of these years only, training and calibration none of them."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.within_days < 0 or self.max_scenes < 1:
            raise InputError("--within-days must be at least 0 and --max-scenes at least 1")
        if self.test_years:
            parse_years(self.test_years)

    def tiles(self, reference: Reference, halo: int) -> list[Tile]:
        """The reference cut into tiles of the three splits."""
        return split_tiles(
            reference,
            halo=halo,
            by=self.split_by,
            size=self.tile or None,
            test=self.test,
            calibration=self.calibration,
            seed=self.seed,
        )

    def sky(
        self, reference: Reference, source: str | Sequence[str], *, bands: Sequence[str] | None, halo: int,
        collection: str | None,
    ) -> Sky:  # fmt: skip
        """The imagery over the reference that may be used."""
        return find_sky(
            reference,
            source,
            bands=bands,
            within_days=self.within_days,
            months=self.months or None,
            halo=halo,
            collection=collection,
        )

    def allows(self, split: str, day: date) -> bool:
        """Whether an acquisition of that day may serve a split."""
        if not self.test_years:
            return True
        first, last = parse_years(self.test_years)
        return (first <= day.year <= last) == (split == "test")


def learn_from(
    reference: Reference,
    source: str | Sequence[str],
    path: str | Path,
    *,
    reference_sha256: str = "",
    name: str | None = None,
    evidence: str = "sentinel-2",
    bands: Sequence[str] | None = None,
    scheme: Scheme | None = None,
    config: TrainConfig | None = None,
    width: int = 128,
    mid: int = 32,
    blocks: int = 6,
    baselines: Sequence[str] = (),
    collection: str | None = None,
    command: str = "",
    state: str | Path | None = None,
    curves: str | Path | None = None,
    progress: TextIO | None = sys.stderr,
) -> tuple[Model, dict[str, Any]]:
    """Train a checkpoint on reference data, calibrate and evaluate it on land of their own, and write it.

    Parameters
    ----------
    reference, source, collection
        What stands where, and the imagery (see `find_items`).
    path
        FILE.safetensors to write.
    reference_sha256
        Of the reference's folder, for the card.
    name
        Of the card; that of the file by default.
    evidence
        "sentinel-2" for real imagery; "simulated" or "degraded-aerial" for what is not.
    bands
        What goes in; by default all bands that the items share.
    scheme, config
        How samples are drawn, and how the network is trained.
    width, mid, blocks
        Of `DensityNet`; see `halo_of` for its receptive radius.
    baselines
        Names of baselines that are fitted to the same training land and measured on the same test land.
    command, state, curves, progress
        For the card; as in `train`.

    Returns
    -------
    tuple
        The model as written, and its errors (see `evaluate`).

    Raises
    ------
    InputError
        What `find_sky`, `split_tiles` and `calibrate` refuse.
    """
    scheme, config, halo = scheme or Scheme(), config or TrainConfig(), halo_of(blocks)
    require_baselines(baselines)
    config = dataclasses.replace(config, present_above=reference.present_above)
    if reference.border < halo:
        log.warning("the border strip is %d px, the receptive radius %d px", reference.border, halo)
    tiles = scheme.tiles(reference, halo)
    if min(tile.window.width for tile in tiles) < config.crop:
        config = dataclasses.replace(config, crop=min(tile.window.width for tile in tiles))
    sky = scheme.sky(reference, source, bands=bands, halo=halo, collection=collection)
    samples = read_splits(reference, tiles, sky, scheme, halo=halo, progress=progress)
    facts = _facts(reference, tiles, samples, scheme, config, sha256=reference_sha256, command=command)
    card = Card(
        name=name or Path(path).stem,
        bands=sky.bands,
        objects=dict(reference.objects),
        measure=dict(reference.measure),
        evidence=evidence,
        resolution=reference.resolution,
        **input_statistics(samples["training"].patches),
        width=width,
        mid=mid,
        blocks=blocks,
        halo=halo,
        mask=_MASK.as_json(),
        max_count_per_pixel=reference.max_per_pixel,
        training=facts,
        limits=_limits(tiles, evidence),
    )
    training = samples["training"].patches
    watched = samples["calibration"].patches if config.patience else None
    model = train(training, card, config, validation=watched, state=state, curves=curves, progress=progress)
    model = calibrate(model, samples["calibration"].patches)
    errors = evaluate(model, samples["test"].patches, baselines=fit_baselines(baselines, training, model, config))
    if progress is not None:
        print(table(errors), file=progress, flush=True)
    return save_model(path, model.net, dataclasses.replace(model.card, error=brief(errors))), errors


def evaluate_on(
    model: Model,
    reference: Reference,
    source: str | Sequence[str],
    *,
    reference_sha256: str = "",
    split: str | None = None,
    scheme: Scheme | None = None,
    baselines: Sequence[str] = (),
    land_cover: str | Path | None = None,
    collection: str | None = None,
    force: bool = False,
    progress: TextIO | None = sys.stderr,
) -> dict[str, Any]:
    """Measure a model on reference data.

    Parameters
    ----------
    model, reference, source, collection
        What is measured, against what, on which imagery.
    reference_sha256
        Of the reference's folder; if the model was taught from it, its own test land is taken.
    split
        "training", "calibration" or "test" of the reference that the model was taught from, or "all".
    scheme
        As in `learn_from`; that of the card by default.
    baselines
        As in `learn_from`; only on the reference that the model was taught from, as they need its training land.
    land_cover
        Raster of land cover by which false background is told apart.
    force
        Evaluate although the resolution is not the card's.

    Raises
    ------
    InputError
        The reference holds none of the model's objects, or `split` or baselines are asked for of another reference.
    """
    card = model.card
    require_baselines(baselines)
    check_input(card, bands=card.bands, resolution=reference.resolution, force=force)
    if missing := [name for name in card.objects if name not in reference.objects]:
        raise InputError(
            f"the reference holds no {', '.join(missing)}, which model {card.name!r} counts; it holds "
            f"{', '.join(reference.objects)}"
        )
    own = bool(reference_sha256) and card.training.get("reference_sha256") == reference_sha256
    scheme = scheme or (_scheme_of(card) if own else Scheme())
    if not own and (baselines or split not in (None, "all")):
        raise Refused(
            f"model {card.name!r} was not taught from this reference: it has no training or test land there "
            "(leave --split and --baselines out)"
        )
    if own:
        tiles = scheme.tiles(reference, model.halo)
    else:
        tiles = all_tiles(reference, size=scheme.tile or None)
        _warn_of_taught_land(card, reference)
    wanted = split or ("test" if own else "all")
    if wanted not in (*SPLITS, "all"):
        raise InputError(f"--split {wanted!r} is unknown; choose {', '.join(SPLITS)} or all")
    mask = MaskRule.stated(card.mask, card.object_names)
    chosen = [tile for tile in tiles if wanted in (tile.split, "all")]
    sky = scheme.sky(reference, source, bands=card.bands, halo=model.halo, collection=collection)
    sample = _read(reference, chosen, sky, scheme, wanted, model.halo, progress, mask)
    patches = sample.patches if land_cover is None else with_cover(sample.patches, sample.tiles, land_cover)
    fitted: dict[str, Any] = {}
    if baselines:
        training = [tile for tile in tiles if tile.split == "training"]
        taught = _read(reference, training, sky, scheme, "training", model.halo, progress, mask).patches
        fitted = fit_baselines(baselines, taught, model)
    errors = evaluate(model, patches, baselines=fitted)
    return {"model": card.name, "sha256": model.sha256, "evidence": card.evidence, "split": wanted, **errors}


def read_splits(
    reference: Reference, tiles: Sequence[Tile], sky: Sky, scheme: Scheme, *, halo: int, progress: TextIO | None
) -> dict[str, Sample]:
    """Patches of every split."""
    return {
        split: _read(reference, [t for t in tiles if t.split == split], sky, scheme, split, halo, progress)
        for split in SPLITS
    }


def require_baselines(names: Sequence[str]) -> None:
    """Refuse names of baselines that there are none of, before anything is read."""
    if unknown := set(names) - set(BASELINES):
        raise InputError(f"--baselines: no {', '.join(sorted(unknown))}; there are {', '.join(BASELINES)}")


def fit_baselines(
    names: Sequence[str], training: Patches, model: Model, config: TrainConfig | None = None
) -> dict[str, Any]:
    """Baselines by name, fitted to training patches with the model's bands and objects."""
    if not names:
        return {}
    plain = training.select_bands(model.card.bands).select_objects(model.card.object_names)
    return {name: fit_baseline(name, plain, config=config) for name in names}


def _read(
    reference: Reference,
    tiles: Sequence[Tile],
    sky: Sky,
    scheme: Scheme,
    split: str,
    halo: int,
    progress: TextIO | None,
    mask: MaskRule = _MASK,
) -> Sample:
    sample = read_sample(
        reference,
        tiles,
        sky,
        halo=halo,
        max_scenes=scheme.max_scenes,
        mask=mask,
        when=lambda day: scheme.allows(split, day) or split == "all",
    )
    off = days_off(reference, sample.days)
    if off > FAR_DAYS:
        log.warning("%s: acquisitions lie %.0f days from the image date (median)", split, off)
    if progress is not None:
        patches = sample.patches
        objects = ", ".join(
            f"{n:,.0f} {name}" for name, n in zip(patches.objects, _objects(patches).tolist(), strict=True)
        )
        print(
            f"{split}: {len(patches)} places of {patches.size} px in {len(set(patches.names))} units, "
            f"{patches.labelled.sum() * reference.resolution**2 / 1e6:.2f} km2, {objects}, {len(sample.days)} "
            "acquisitions of areas",
            file=progress,
            flush=True,
        )
    return sample


def _objects(patches: Patches) -> np.ndarray:
    """(object,): objects on the labelled land."""
    return np.asarray((patches.count[:, 0] * patches.labelled[:, None]).sum(axis=(0, 2, 3), dtype=float))


def _facts(
    reference: Reference,
    tiles: Sequence[Tile],
    samples: Mapping[str, Sample],
    scheme: Scheme,
    config: TrainConfig,
    *,
    sha256: str,
    command: str,
) -> dict[str, Any]:
    """The card's account of its training."""
    km2 = reference.resolution**2 / 1e6
    splits: dict[str, dict[str, Any]] = {
        split: {
            "units": sorted({tile.unit for tile in tiles if tile.split == split}),
            "km2": round(float(samples[split].patches.labelled.sum() * km2), 4),
            "objects": dict(
                zip(reference.objects, [round(float(n), 1) for n in _objects(samples[split].patches)], strict=True)
            ),
            "acquisitions": {area: list(names) for area, names in samples[split].acquisitions.items()},
        }
        for split in SPLITS
    }
    source = dict(reference.source or {})
    first, last = reference.image_date
    return {
        "data": f"{source.get('points', 'reference data')}, {len(reference.names)} labelled areas, "
        f"{sum(one['km2'] for one in splits.values()):.2f} km2 used, imagery of {first} to {last}",
        "command": command,
        "reference": source,
        "reference_sha256": sha256,
        "areas": {area.name: [round(v, 5) for v in area.bounds] for area in reference.areas},
        "splits": splits,
        "scheme": dataclasses.asdict(scheme),
        "present_above": reference.present_above,
        "recipe": config.recipe,
    }


def _limits(tiles: Sequence[Tile], evidence: str) -> tuple[str, ...]:
    """What a card must say about where its error holds."""
    areas = {split: {tile.area.name for tile in tiles if tile.split == split} for split in SPLITS}
    told = []
    if evidence != "sentinel-2":
        told.append(f"Taught and measured on {evidence} imagery: on real Sentinel-2 its numbers are not estimates.")
    if areas["test"] & areas["training"]:
        told.append("Tested beside its training land, in the same areas: expect larger errors in other regions.")
    else:
        told.append(f"Tested in {len(areas['test'])} areas it was not taught in; other regions are untested.")
    told.append(f"Taught in {len(areas['training'])} areas; other planting systems, seasons and soils are untested.")
    return tuple(told)


def _scheme_of(card: Card) -> Scheme:
    known = {field.name for field in dataclasses.fields(Scheme)}
    told = {key: value for key, value in dict(card.training.get("scheme", {})).items() if key in known}
    kept: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}
    return Scheme(**kept)


def _warn_of_taught_land(card: Card, reference: Reference) -> None:
    taught = [shapely.box(*bounds) for bounds in dict(card.training.get("areas", {})).values()]
    again = [area.name for area in reference.areas if np.any(shapely.intersects(area.outline, taught))]
    if again:
        log.warning(
            "%d areas (%s) touch land that model %s was taught on: these errors are no test of it",
            len(again), ", ".join(again[:5]), card.name,
        )  # fmt: skip
