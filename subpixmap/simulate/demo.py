"""The demo country: simulated once, kept in the user's cache, mapped by `subpixmap run --region demo`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from subpixmap.errors import InputError
from subpixmap.files import cache_folder
from subpixmap.progress import Progress

SEED = 7
"""Seed of the country; no training or evaluation of the shipped models uses it."""
SIZE_KM = 6
YEARS = (2018, 2023)
VERSION = 2
"""Increased when the simulator changes; an older country in a cache is not used."""


def demo_country(years: tuple[int, int] = YEARS, *, quiet: bool = False) -> Path:
    """Folder of the demo country; it is simulated if it is not in the cache.

    Raises
    ------
    InputError
        There is no imagery of the years.
    """
    if not YEARS[0] <= years[0] <= years[1] <= YEARS[1]:
        raise InputError(f"the demo country has imagery of {YEARS[0]}-{YEARS[1]}; choose --years within them")
    folder = cache_folder() / f"demo-{VERSION}"
    if not (folder / "country.json").is_file():
        _simulate(folder, quiet=quiet)
    return folder


def _simulate(folder: Path, *, quiet: bool) -> None:
    from subpixmap.simulate import simulate_country

    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with Progress("simulate", 1, "pictures", quiet=quiet) as bar:
            simulate_country(partial, seed=SEED, size_km=SIZE_KM, years=YEARS, progress=bar.update)
        if folder.exists():  # incomplete, or made by another process meanwhile
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
