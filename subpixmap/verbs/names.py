"""Checks of names for train, evaluate, learn and calibrate, before PyTorch is loaded or any work starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from subpixmap.errors import InputError
from subpixmap.files import require_place
from subpixmap.scenes.radiometry import require_bands
from subpixmap.training.config import TrainConfig, require_baselines


def require_output(
    output: Path,
    config: TrainConfig | None,
    *,
    asked: Mapping[str, Any] | None = None,
    bands: Sequence[str] = (),
    baselines: Sequence[str] = (),
) -> None:
    """Refuse an output early that would fail only after long work."""
    if output.suffix != ".safetensors":
        raise InputError(f"--output {output}: the name of a checkpoint must end in .safetensors")
    require_place(output.parent)
    require_bands(bands)
    require_baselines(baselines)
    config = TrainConfig(**asked) if config is None and asked else config
    if config is not None:
        from subpixmap.training.process import require_machine

        require_machine(config)


def require_model(name: str, *, world: str | None, places: int, objects: Sequence[str]) -> str:
    """Refuse an unknown model; for simulated data, also objects that the simulator does not have.

    Returns the name or path of the model; a model at a URL is downloaded into the cache.
    """
    from subpixmap.model.card import read_stored
    from subpixmap.model.travel import local_copy

    local = str(local_copy(name))
    card = read_stored(local).card
    if world is None:
        return local
    from subpixmap.simulate.worlds import OBJECTS, get_world

    get_world(world)
    if places < 1:
        raise InputError(f"--places {places}: give 1 or more")
    if unknown := (set(objects or card.objects) | set(card.objects)) - set(OBJECTS):
        raise InputError(f"the simulator has no {', '.join(sorted(unknown))}; choose from {', '.join(OBJECTS)}")
    if missing := set(card.objects) - set(objects or card.objects):
        raise InputError(
            f"--objects leaves out {', '.join(sorted(missing))}, but model {card.name!r} counts it; add it"
        )
    return local


def require_simulated(name: str) -> None:
    """Refuse the name of a checkpoint that was not made from simulated places."""
    from subpixmap.model.card import read_stored, shipped_models

    simulated = [one for one in shipped_models() if read_stored(one).card.evidence == "simulated"]
    if name not in simulated:
        raise InputError(f"--simulated {name}: give the name of a shipped checkpoint: {', '.join(simulated)}")
