"""Makes checkpoints from simulated data only: renders, trains, calibrates, evaluates and writes.

They show that the code works. On real imagery their numbers are not estimates, and every row says so.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from subpixmap.errors import InputError
from subpixmap.model.card import Card
from subpixmap.model.checkpoint import Model, save_model
from subpixmap.model.net import halo_of
from subpixmap.progress import track
from subpixmap.reference.patches import Patches, join, make_patches
from subpixmap.scenes.clouds import MaskRule, scl_valid
from subpixmap.training.calibrate import calibrate, calibrate_trimmed
from subpixmap.training.config import SIMULATED, TrainConfig
from subpixmap.training.evaluate import evaluate, table
from subpixmap.training.inputs import input_statistics, with_likeness
from subpixmap.training.lines import say
from subpixmap.training.process import reproducible
from subpixmap.training.provenance import card_with_errors
from subpixmap.training.train import train

BANDS = {
    "demo-s2": ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"),
    "demo-rgbn": ("B02", "B03", "B04", "B08"),
}
"""Shipped checkpoint -> its bands."""
DEFINITIONS = {
    "coconut": "coconut palm, planted 4 or more years ago",
    "oil_palm": "oil palm, planted 3 or more years ago",
    "olive": "olive tree, planted 5 or more years ago",
    "car": "car parked in a parking lot at the time of the acquisition",
}
MEASURES = {"coconut": "count", "oil_palm": "count", "olive": "count", "car": "occupancy"}
LIMITS = (
    "Trained and measured on simulated imagery only: on real imagery its numbers are not estimates.",
    "The measured error is that of unseen places of the same simulated world.",
    "What did not exist in training it may take for what it counts.",
)
SEEDS = {"training": 2000, "calibration": 2001, "test": 2002, "trimmed": 2003}
"""Seeds of simulated places; the landscapes of countries are never among them."""

_SIZE = 112  # pixels a side of a rendered place
_ACQUISITIONS = {"training": 4, "calibration": 4, "test": 4, "trimmed": 10}
"""As many as there are of a simulated country in a year, and as many as a map takes at most."""
_PART = 25  # places a worker renders at a time


def simulated_patches(
    seed: int,
    n_places: int,
    *,
    objects: Sequence[str] = tuple(DEFINITIONS),
    world: str = "base",
    halo: int = 8,
    size: int = _SIZE,
    acquisitions: int = 4,
    cache: str | Path | None = None,
    workers: int = 2,
) -> Patches:
    """Render places of the simulator with all ten bands.

    Parameters
    ----------
    seed, n_places, objects, world
        As in `simulate.patches`.
    halo
        Context of a patch, pixels.
    size
        Pixels a side, with the context.
    acquisitions
        Of each place, all of one year.
    cache
        Folder that keeps finished sets for the next time.
    workers
        Processes that render; the result does not depend on it.
    """
    sizes = f"{n_places}x{acquisitions}x{size}"
    folder = Path(cache) / f"{world}-{seed}-{sizes}-{'+'.join(objects)}" if cache is not None else None
    if folder is not None and (folder / "patches.json").is_file():
        return Patches.load(folder)
    starts = range(0, n_places, _PART)
    kind = _Kind(acquisitions, tuple(objects), world, halo, size)
    jobs = [(seed, start, min(_PART, n_places - start), kind) for start in starts]
    if workers > 1 and len(jobs) > 1:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            made = pool.map(_render, *zip(*jobs, strict=True))
            parts = list(track(made, "simulate", f"parts of {_PART} places", total=len(jobs)))
    else:
        parts = [_render(*job) for job in track(jobs, "simulate", f"parts of {_PART} places")]
    whole = join(parts)
    if folder is not None:
        whole.save(folder)
        return Patches.load(folder)
    return whole


def train_simulated(
    name: str,
    path: str | Path,
    *,
    bands: Sequence[str] | None = None,
    objects: Sequence[str] | None = None,
    places: int = 2000,
    calibration_places: int = 1000,
    test_places: int = 150,
    trimmed_places: int = 200,
    config: TrainConfig | None = None,
    width: int = 128,
    mid: int = 32,
    blocks: int = 6,
    cache: str | Path | None = None,
    state: str | Path | None = None,
    curves: str | Path | None = None,
    workers: int = 2,
    progress: TextIO | None = sys.stderr,
) -> Model:
    """Make a checkpoint from simulated places; `demo-s2` and `demo-rgbn` reproduce the shipped ones.

    Parameters
    ----------
    name
        Of the card; for the shipped ones it decides the bands.
    path
        FILE.safetensors to write.
    bands, objects
        What goes in, by default the bands of the shipped checkpoint of this name; what exists and is counted, by
        default all that the simulator has.
    places, calibration_places, test_places
        Of each split. On 150 places the slope of olives, of which few places have many, is known to 9 % only.
    trimmed_places
        Of ten acquisitions each, on which means without extremes are calibrated.
    config
        Recipe; default `SIMULATED`.
    width, mid, blocks
        Of `DensityNet`.
    cache
        Folder for rendered places.
    state, curves, progress
        As in `train`.
    workers
        Processes that render.

    Returns
    -------
    Model
        As written, with calibration and measured errors in its card.
    """
    config = config or SIMULATED
    bands = tuple(bands or BANDS.get(name, ()))
    counted = tuple(objects or DEFINITIONS)
    if not bands:
        raise InputError(f"{name!r} is not a shipped checkpoint ({', '.join(BANDS)}): give its bands")
    if unknown := set(counted) - set(DEFINITIONS):
        raise InputError(f"the simulator has no {', '.join(sorted(unknown))}; choose from {', '.join(DEFINITIONS)}")
    numbers = {
        "training": places,
        "calibration": calibration_places,
        "trimmed": trimmed_places,
        "test": test_places,
    }

    def rendered(part: str) -> Patches:
        options: dict[str, Any] = {"acquisitions": _ACQUISITIONS[part], "cache": cache, "workers": workers}
        return simulated_patches(SEEDS[part], numbers[part], objects=counted, halo=halo_of(blocks), **options)

    say(progress, "1 of 4: simulated places")
    training = rendered("training")
    card = Card(
        name=name,
        bands=bands,
        objects={o: DEFINITIONS[o] for o in counted},
        measure={o: MEASURES[o] for o in counted},
        evidence="simulated",
        **input_statistics(training.select_bands(bands)),
        width=width,
        mid=mid,
        blocks=blocks,
        halo=halo_of(blocks),
        mask=MaskRule().as_json(),
        training=_facts(name, config, numbers),
        limits=LIMITS,
    )
    with reproducible(config):  # calibrated and measured with the threads of the training: others change the last bits
        say(progress, "2 of 4: training")
        model = train(training, card, config, state=state, curves=curves, progress=progress)
        say(progress, "3 of 4: calibration")
        held_out = rendered("calibration")
        model = with_likeness(calibrate(model, held_out), training, held_out)
        model = calibrate_trimmed(model, rendered("trimmed"))
        say(progress, "4 of 4: evaluation")
        say(progress, table(errors := evaluate(model, rendered("test"))))
    return save_model(path, model.net, card_with_errors(model.card, errors, config.all_steps))


def _facts(name: str, config: TrainConfig, numbers: dict[str, int]) -> dict[str, Any]:
    return {
        "data": f"simulated world 'base', places of {_SIZE} px",
        "acquisitions": _ACQUISITIONS,
        "seeds": SEEDS,
        "places": numbers,
        "command": f"subpixmap train --simulated {name} --steps {config.steps} -o {name}.safetensors",
        "present_above": config.present_above,
        "recipe": config.recipe,
    }


@dataclass(frozen=True)
class _Kind:
    """What all places of a set have in common."""

    acquisitions: int
    objects: tuple[str, ...]
    world: str
    halo: int
    size: int


def _render(seed: int, start: int, n: int, kind: _Kind) -> Patches:
    """Some places of a set; in a worker."""
    from subpixmap.simulate.patches import patches
    from subpixmap.simulate.spectra import BANDS as RENDERED

    mask = partial(scl_valid, resolution=10.0, rule=MaskRule())
    places = patches(
        seed,
        n_places=n,
        mask=mask,
        size_px=kind.size,
        acquisitions=kind.acquisitions,
        objects=kind.objects,
        world=kind.world,
        start=start,
    )
    return make_patches(places, bands=RENDERED, objects=kind.objects, halo=kind.halo)
