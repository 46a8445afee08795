"""Makes a checkpoint from reference data and Sentinel-2: split, read, train, calibrate, evaluate, card.

Training, calibration and test never share a pixel. The card lists the land of each split, so that `evaluate_on` uses
the same test land again, and warns about tests on training land.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import shapely

from subpixmap.errors import InputError, Refused
from subpixmap.model.card import Card
from subpixmap.model.checkpoint import Model, save_model
from subpixmap.model.clouds import require_network
from subpixmap.model.land import taught_land
from subpixmap.model.net import halo_of
from subpixmap.model.predict import check_input
from subpixmap.reference.imagery import FAR_DAYS, Imagery, days_off
from subpixmap.reference.landcover import with_cover
from subpixmap.reference.question import Locks
from subpixmap.reference.reference import Reference
from subpixmap.reference.samples import Sample, Scheme, read_sample
from subpixmap.reference.splits import SPLITS, all_tiles, largest_plot, most_folds
from subpixmap.reference.tiles import AreaTile
from subpixmap.scenes.clouds import MaskRule
from subpixmap.scenes.dialect import LEVELS
from subpixmap.training.baselines import fit_baselines
from subpixmap.training.calibrate import calibrate
from subpixmap.training.config import TrainConfig, require_baselines
from subpixmap.training.evaluate import evaluate, table
from subpixmap.training.folds import learn_in_folds
from subpixmap.training.inputs import input_statistics, with_likeness
from subpixmap.training.lines import say
from subpixmap.training.process import reproducible
from subpixmap.training.provenance import (
    card_with_errors,
    labelled_objects,
    labelled_pixels,
    limits,
    source_name,
    tile_land,
    training_facts,
    warn_of_training_land,
)
from subpixmap.training.recalibrate import accounted, require_places
from subpixmap.training.recipes import USUAL, Recipe, recipe_for
from subpixmap.training.train import train

log = logging.getLogger(__name__)
_PLACE = 20  # pixels along the side of a calibration place: whole blocks of 1 ha


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
    asked: Mapping[str, Any] | None = None,
    width: int | None = None,
    mid: int | None = None,
    blocks: int | None = None,
    baselines: Sequence[str] = (),
    collection: str | None = None,
    locks: Locks | None = None,
    command: str = "",
    state: str | Path | None = None,
    curves: str | Path | None = None,
    progress: TextIO | None = sys.stderr,
) -> tuple[Model, dict[str, Any]]:
    """Train a checkpoint on reference data, calibrate and evaluate it on separate land, and write it.

    Parameters
    ----------
    reference, source, collection, locks
        Reference data and imagery (see `find_imagery`).
    path
        FILE.safetensors to write.
    reference_sha256
        Hash of the reference's folder, for the card.
    name
        Of the card; by default that of the file.
    evidence
        "sentinel-2" for real imagery; else "simulated" or "degraded-aerial".
    bands
        Inputs of the network; by default all bands that the items share.
    scheme, config
        How samples are drawn, and how the network is trained; without a config by the recipe for so much land (see
        `recipe_for`), which also decides on folds.
    asked
        Fields of the config that differ from the recipe's.
    width, mid, blocks
        Of `DensityNet`, if not the recipe's; see `halo_of` for its receptive radius.
    baselines
        Names of baselines that are fitted to the same training land and measured on the same test land.
    command, state, curves, progress
        The command for the card; the others as in `train`.

    Returns
    -------
    tuple
        The model as written, and its errors (see `evaluate`).

    Raises
    ------
    InputError
        What `find_imagery`, `split_tiles` and `calibrate` refuse.
    """
    require_baselines(baselines)
    recipe = _recipe(reference, config, asked or {}, (width, mid, blocks))
    scheme, halo = scheme or Scheme(), halo_of(recipe.blocks)
    if (given := scheme.folds) is None:
        scheme = dataclasses.replace(scheme, folds=0 if scheme.calibration else recipe.folds)
    if reference.labelled_areas and reference.border < halo:
        log.warning("the border strip of the reference, %d px, is below the radius, %d px", reference.border, halo)
    tiles = scheme.tiles(reference, halo)
    if scheme.folds and given is None:
        scheme = dataclasses.replace(scheme, folds=most_folds(tiles, scheme.folds))
    config = _for_tiles(dataclasses.replace(recipe.config, present_above=reference.present_above), tiles)
    say(progress, "1 of 4: imagery")
    imagery = scheme.imagery(reference, source, bands=bands, halo=halo, collection=collection, locks=locks)
    land = _Land(reference, imagery, scheme, halo, MaskRule(by=scheme.mask), progress)
    samples = {split: land.read(tiles, split) for split in SPLITS if not (scheme.folds and split == "calibration")}
    config = config.for_land(int(samples["training"].patches.labelled.sum()))
    samples.setdefault("calibration", samples["training"])  # in folds, all training land also calibrates
    facts = training_facts(reference, tiles, samples, scheme, config, sha256=reference_sha256, command=command)
    training, test = samples["training"].patches, samples["test"].patches
    card = Card(
        name=name or Path(path).stem,
        bands=imagery.bands,
        objects=dict(reference.objects),
        measure=dict(reference.measure),
        evidence=evidence,
        resolution=reference.resolution,
        level=scheme.level,
        **input_statistics(training),
        width=recipe.width,
        mid=recipe.mid,
        blocks=recipe.blocks,
        halo=halo,
        mask=land.mask.as_json(),
        max_count_per_pixel=reference.max_per_pixel,
        training=facts,
        limits=limits(tiles, evidence, level=scheme.level, days=samples["training"].days),
    )
    files: dict[str, Any] = {"state": state, "curves": curves, "progress": progress}
    with reproducible(config):  # calibrated and measured with the threads of the training: others change the last bits
        model = _trained(samples, card, config, scheme, files)
        say(progress, "4 of 4: evaluation")
        errors = evaluate(model, test, baselines=fit_baselines(baselines, training, model, config, progress=progress))
    say(progress, table(errors))
    return save_model(path, model.net, card_with_errors(model.card, errors, config.all_steps)), errors


def _recipe(
    reference: Reference, config: TrainConfig | None, asked: Mapping[str, Any], shape: tuple[int | None, ...]
) -> Recipe:
    """The recipe for so much land with what was asked for, or that of the caller, in the shape of the network given."""
    hectares = reference.used_px * reference.resolution**2 / 1e4
    recipe = recipe_for(hectares, asked) if config is None else dataclasses.replace(USUAL, config=config)
    sides: dict[str, Any] = dict(zip(("width", "mid", "blocks"), shape, strict=True))
    return dataclasses.replace(recipe, **{name: side for name, side in sides.items() if side is not None})


def _for_tiles(config: TrainConfig, tiles: Sequence[AreaTile]) -> TrainConfig:
    """The options with crops that hold whole plots and lie within tiles."""
    if all(tile.is_plot for tile in tiles):
        return config.for_plots(largest_plot(tiles))
    crop = max(config.crop, largest_plot(tiles))
    return dataclasses.replace(config, crop=min(crop, *(tile.window.width for tile in tiles)))


def _trained(
    samples: Mapping[str, Sample], card: Card, config: TrainConfig, scheme: Scheme, files: Mapping[str, Any]
) -> Model:
    """Trained and calibrated: on land set aside, or in folds."""
    if scheme.folds:
        model = learn_in_folds(samples["training"], card, config, folds=scheme.folds, **files)
        return with_likeness(model, samples["training"].patches)
    calibration = samples["calibration"].patches
    watched = calibration if config.patience else None
    say(files["progress"], "2 of 4: training")
    model = train(samples["training"].patches, card, config, validation=watched, **files)
    say(files["progress"], "3 of 4: calibration")
    return with_likeness(calibrate(model, calibration), samples["training"].patches, calibration)


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
    locks: Locks | None = None,
    force: bool = False,
    progress: TextIO | None = sys.stderr,
) -> dict[str, Any]:
    """Evaluate a model on reference data.

    Parameters
    ----------
    model, reference, source, collection, locks
        Model, reference data and imagery (see `find_imagery`).
    reference_sha256
        Hash of the reference's folder; if the model was taught from it, its own test land is taken.
    split
        "training", "calibration" or "test" of the reference that the model was taught from, or "all".
    scheme
        As in `learn_from`; that of the card by default.
    baselines
        As in `learn_from`; only on the reference that the model was taught from, as they need its training land.
    land_cover
        Raster of land cover, by whose classes the false background is split.
    force
        Evaluate although the resolution is not the card's.

    Raises
    ------
    InputError
        The reference holds none of the model's objects, or `split` or baselines are asked for of another reference.
    """
    card = model.card
    require_baselines(baselines)
    own = bool(reference_sha256) and card.training.get("reference_sha256") == reference_sha256
    scheme = scheme or (Scheme.stated(card.training.get("scheme", {})) if own else _scheme_of(card))
    check_input(card, bands=card.bands, resolution=reference.resolution, level=scheme.level, force=force)
    _require_objects(reference, card)
    if not own and (baselines or split not in (None, "all")):
        raise Refused(
            f"model {card.name!r} was not trained on this reference, so it has no training or test land there: leave "
            "out --split and --baselines"
        )
    if own:
        tiles = scheme.tiles(reference, model.halo)
    else:
        tiles = all_tiles(reference, size=scheme.tile or None)
        warn_of_training_land(card, reference)
    split = split or ("test" if own else "all")
    if own and scheme.folds and split == "calibration":
        raise InputError(
            "--split calibration: this model was calibrated in folds on its training land: choose training"
        )
    if split not in (*SPLITS, "all"):
        raise InputError(f"--split {split!r} is unknown; choose {', '.join(SPLITS)} or all")
    mask = MaskRule.stated(card.mask, card.object_names)
    require_network(card.bands, mask, scheme.level)
    imagery = scheme.imagery(reference, source, bands=card.bands, halo=model.halo, collection=collection, locks=locks)
    land = _Land(reference, imagery, scheme, model.halo, mask, progress)
    sample = land.read(tiles, split)
    patches = sample.patches if land_cover is None else with_cover(sample.patches, sample.tiles, land_cover)
    training = land.read(tiles, "training").patches if baselines else patches
    fitted = fit_baselines(baselines, training, model, progress=progress)
    errors = evaluate(model, patches, baselines=fitted)
    return {"model": card.name, "sha256": model.sha256, "evidence": card.evidence, "split": split, **errors}


def calibrate_on(
    model: Model,
    reference: Reference,
    source: str | Sequence[str],
    *,
    name: str,
    scheme: Scheme | None = None,
    collection: str | None = None,
    locks: Locks | None = None,
    progress: TextIO | None = sys.stderr,
) -> Model:
    """Calibrate a model (background and slope) on a user's own data, without training.

    Objects that the reference does not hold stay as they are.

    Parameters
    ----------
    model, reference, source, collection, locks
        Model, reference data and imagery (see `find_imagery`).
    name
        Of the new card.
    scheme
        How samples are drawn.

    Raises
    ------
    InputError
        Fewer than 10 places, or what `calibrate` refuses.
    Refused
        The reference lies on land that the model was trained or calibrated on.
    """
    card = model.card
    scheme = scheme or _scheme_of(card)
    check_input(card, bands=card.bands, resolution=reference.resolution, level=scheme.level)
    if not (objects := [name for name in card.object_names if name in reference.objects]):
        _require_objects(reference, card)
    places = all_tiles(reference, size=scheme.tile or _PLACE)
    tiles = [dataclasses.replace(one, split="calibration") for one in places]
    require_places(len({tile.area.key if tile.is_plot else id(tile) for tile in tiles}), "the reference")
    land = tile_land(tiles, "calibration")
    again = np.unique(shapely.STRtree(taught_land(card).polygons).query(land, predicate="intersects")[0])
    if again.size:
        hit = [land[at] for at in again]
        areas = sorted({area.name for area in reference.areas if np.any(shapely.intersects(area.outline, hit))})
        raise Refused(
            f"areas {', '.join(areas[:5])} lie on land that model {card.name!r} was trained or calibrated on; use "
            "other areas to calibrate"
        )
    mask = MaskRule.stated(card.mask, card.object_names)
    require_network(card.bands, mask, scheme.level)
    imagery = scheme.imagery(reference, source, bands=card.bands, halo=model.halo, collection=collection, locks=locks)
    patches = _Land(reference, imagery, scheme, model.halo, mask, progress).read(tiles, "calibration").patches
    made = calibrate(model, patches.select_objects(objects))
    return accounted(made, model, land, name=name, source=f"{source_name(reference)}, {len(tiles)} places")


@dataclass(frozen=True)
class _Land:
    """Land whose samples are read: all that the reading needs but the tiles."""

    reference: Reference
    imagery: Imagery
    scheme: Scheme
    halo: int
    mask: MaskRule
    progress: TextIO | None

    def read(self, tiles: Sequence[AreaTile], split: str) -> Sample:
        """Samples of one split of the tiles, or of "all"."""
        sample = read_sample(
            self.reference,
            [tile for tile in tiles if split in (tile.split, "all") and tile.serves],
            self.imagery,
            halo=self.halo,
            max_scenes=self.scheme.max_scenes,
            mask=self.mask,
            when=lambda day: self.scheme.allows(split, day) or split == "all",
        )
        off = days_off(self.reference, sample.days)
        if off > FAR_DAYS:
            log.warning(
                "%s: the acquisitions are %.0f days from the image date (median); objects may have changed", split, off
            )
        say(self.progress, f"{split}: {self._in_words(sample)}")
        return sample

    def _in_words(self, sample: Sample) -> str:
        """How much land and how many objects a sample holds."""
        patches = sample.patches
        counts = zip(patches.objects, labelled_objects(patches).tolist(), strict=True)
        objects = ", ".join(f"{number:,.0f} {name}" for name, number in counts)
        return (
            f"{len(patches)} places of {patches.size} px in {len(set(patches.names))} units, "
            f"{labelled_pixels(patches) * self.reference.resolution**2 / 1e6:.2f} km2, {objects}, {len(sample.days)} "
            "acquisitions of areas"
        )


def _scheme_of(card: Card) -> Scheme:
    """The default, on imagery of the level that a model was trained on."""
    return next((Scheme(level=level) for level in LEVELS if level == card.level), Scheme())


def _require_objects(reference: Reference, card: Card) -> None:
    if missing := [name for name in card.objects if name not in reference.objects]:
        raise InputError(
            f"the reference has no {', '.join(missing)}, which model {card.name!r} counts; it has "
            f"{', '.join(reference.objects)}"
        )
