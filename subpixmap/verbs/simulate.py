"""Simulate a country with known truth, from the options of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from subpixmap.errors import InputError
from subpixmap.periods import parse_years
from subpixmap.progress import Progress


def simulate(
    folder: Path,
    *,
    seed: int,
    size_km: float,
    years: str,
    objects: Sequence[str],
    acquisitions: int,
    center: str,
    world: str,
    dialect: str,
    quiet: bool,
) -> None:
    """Write a simulated country into a folder, and show its true totals; no objects means all."""
    from subpixmap.simulate import OBJECTS, simulate_country, summarise

    try:
        longitude, latitude = (float(part) for part in center.split(","))
    except ValueError:
        raise InputError(f"--center {center!r} is not center of the country: longitude,latitude in degrees") from None
    with Progress("simulate", 1, "pictures", quiet=quiet) as bar:
        simulate_country(
            folder,
            seed=seed,
            size_km=size_km,
            years=parse_years(years),
            objects=tuple(objects) or OBJECTS,
            acquisitions=acquisitions,
            center=(longitude, latitude),
            world=world,
            dialect=dialect,
            progress=bar.update,
        )
    if not quiet:
        print(summarise(folder).to_string(float_format=lambda value: f"{value:,.0f}"))
