"""A reference's areas -> acquisitions of Sentinel-2 over them: found, checked, chosen near the image date, read.

Everything that can be wrong with the catalogue's answer is refused before a pixel is read. Windows lie exactly on the
reference's lattice: imagery on another one is refused, never resampled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from subpixmap.errors import InputError, Refused
from subpixmap.grid import Window
from subpixmap.model.clouds import read_valid
from subpixmap.periods import ALL_MONTHS
from subpixmap.reference.question import Locks, Question, ask, day_of, items_over, keep_answer, read_answer
from subpixmap.reference.reference import UNLABELLED, Area, Reference
from subpixmap.scenes.choice import choose
from subpixmap.scenes.clouds import MaskRule
from subpixmap.scenes.cube import read_reflectance
from subpixmap.scenes.dialect import Level
from subpixmap.scenes.items import Item, by_acquisition
from subpixmap.scenes.lattices import coarse_bands, largest_pixels, lattices

FAR_DAYS = 60
"""Acquisitions farther from the image date than this, in the median, are warned about."""
_LEAST_CLEAR = 0.2  # of the labelled pixels of an area, for an acquisition to be used there


@dataclass(frozen=True)
class Imagery:
    """What there is over a reference: locked items by area, and the bands to read."""

    items: Mapping[str, tuple[Item, ...]]
    """`Area.key` -> items of its zone, within the days that were asked for."""
    bands: tuple[str, ...]


@dataclass(frozen=True)
class Scenes:
    """The chosen acquisitions of one area."""

    reflectance: NDArray[np.float16]
    """(acquisition, band, y, x) of the window with its context; NaN where there is none."""
    valid: NDArray[np.bool_]
    """(acquisition, y, x) of the same window."""
    acquisitions: tuple[str, ...]
    days: tuple[date, ...]


def find_imagery(
    reference: Reference,
    source: str | Sequence[str],
    *,
    bands: Sequence[str] | None = None,
    within_days: int = 180,
    months: Sequence[int] | None = None,
    halo: int = 8,
    collection: str | None = None,
    level: Level = "L2A",
    locks: Locks | None = None,
) -> Imagery:
    """The items over every area, from a lock or from the catalogue; reads no pixel but overviews of dark ground.

    Parameters
    ----------
    reference
        From `make_reference` or `read_reference`.
    source, collection, level
        As in `find_items`.
    bands
        Canonical names; by default all bands that every item has.
    within_days
        Days before and after the image date within which an acquisition may lie.
    months
        Of the year; by default all.
    halo
        Context of the network, pixels.
    locks
        Files that keep the catalogue's answer, so that it is asked once; by default it is asked each time.

    Raises
    ------
    InputError
        Areas that no item touches, items without a band, or on another lattice: all are named.
    Refused
        Files with larger pixels than the reference and the sensor have.
    """
    question = Question.about(
        reference,
        source,
        within_days=within_days,
        halo=halo,
        months=months or ALL_MONTHS,
        bands=bands or (),
        collection=collection,
        level=level,
    )
    locks = locks or Locks()
    if (answer := read_answer(question, locks)) is not None:
        items, names = answer
        _require_full_resolution(reference, items, names)
        return Imagery(_by_area(reference, question, items), names)
    wide = question.with_margin()
    items, names = ask(wide, reference, source)
    _require_full_resolution(reference, items, names)
    _by_area(reference, question, items)  # refuse early, before the first pixel is read
    items = keep_answer(wide, reference, items, names, locks.write)
    return Imagery(_by_area(reference, question, items), names)


def read_scenes(
    area: Area,
    imagery: Imagery,
    *,
    window: Window | None = None,
    max_scenes: int = 8,
    mask: MaskRule | None = None,
    when: Callable[[date], bool] = lambda day: True,
    step: Callable[[], None] = lambda: None,
) -> Scenes:
    """Read the clearest acquisitions of an area, balanced over months and orbits.

    Parameters
    ----------
    area, imagery
        Which area, and what there is over it (see `find_imagery`).
    window
        Pixels to read; by default those of the area.
    max_scenes
        Most acquisitions.
    mask
        Which pixels are valid.
    when
        Days that may be used.
    step
        Called after every read of an acquisition: of each its scene classes, then of the chosen ones all bands.

    Raises
    ------
    InputError
        No acquisition is clear over the area.
    """
    window, rule = window or area.window, mask or MaskRule()
    groups = {name: items for name, items in by_acquisition(imagery.items[area.key]).items() if when(day_of(items[0]))}
    labelled = area.labelled > UNLABELLED
    clear = {}
    for name, items in groups.items():
        clear[name] = read_valid(items, area.lattice, area.window, rule, bands=imagery.bands)
        step()
    share = {name: float(mask[labelled].mean()) if labelled.any() else 0.0 for name, mask in clear.items()}
    share = {name: value for name, value in share.items() if value >= _LEAST_CLEAR}
    names = choose(groups, share, max_scenes)
    if not names:
        raise InputError(
            f"area {area.name}: none of {len(groups)} acquisitions is clear over {100 * _LEAST_CLEAR:.0f} % of it; "
            "raise --within-days"
        )
    reflectance = []
    for name in names:
        reflectance.append(read_reflectance(groups[name], area.lattice, window, imagery.bands).astype(np.float16))
        step()
    valid = [
        read_valid(groups[name], area.lattice, window, rule, bands=imagery.bands) & np.isfinite(image).all(axis=0)
        for name, image in zip(names, reflectance, strict=True)
    ]
    days = tuple(day_of(groups[name][0]) for name in names)
    return Scenes(np.stack(reflectance), np.stack(valid), tuple(names), days)


def days_off(reference: Reference, days: Sequence[date]) -> float:
    """Median distance of acquisitions from the image date, days."""
    first, last = reference.image_date
    off = [max((first - day).days, (day - last).days, 0) for day in days]
    return float(np.median(off)) if off else float("nan")


def _require_full_resolution(reference: Reference, items: Sequence[Item], bands: Sequence[str]) -> None:
    """Refuse files whose pixels are larger than the reference's and the sensor's: they show less than it says."""
    if coarse := coarse_bands(largest_pixels(items, bands), reference.resolution):
        sizes = ", ".join(f"{band} {size:g} m" for band, size in coarse.items())
        raise Refused(
            f"the reference has pixels of {reference.resolution:g} m, but the files of the source have larger ones "
            f"({sizes}): give a --source with full resolution"
        )


def _by_area(reference: Reference, question: Question, items: Sequence[Item]) -> dict[str, tuple[Item, ...]]:
    """Items of each area's zone, on its lattice."""
    over = {area.key: items_over(area, question.areas[area.key], items) for area in reference.areas}
    if outside := [area.name for area in reference.areas if not over[area.key]]:
        raise InputError(
            f"no item of {', '.join(question.sources)} between {question.first} and {question.last} touches "
            f"{len(outside)} of {len(reference.areas)} labelled areas ({', '.join(outside[:5])}): use a --source "
            "with this land, or raise --within-days"
        )
    return {area.key: _of_zone(area, over[area.key]) for area in reference.areas}


def _of_zone(area: Area, items: Sequence[Item]) -> tuple[Item, ...]:
    """Items of the area's zone, on the area's lattice."""
    own = tuple(item for item in items if item.epsg == area.lattice.epsg)
    if not own:
        raise InputError(
            f"area {area.name} lies in EPSG:{area.lattice.epsg}, but the items over it only in "
            f"{', '.join(sorted({f'EPSG:{item.epsg}' for item in items}))}"
        )
    lattice = lattices(own, area.lattice.resolution)[area.lattice.epsg]
    if lattice != area.lattice:
        raise InputError(
            f"area {area.name}: item {own[0].id} lies ({lattice.x_phase:g}, {lattice.y_phase:g}) m off the lattice of "
            "the reference; counts are never resampled, so this imagery cannot be used"
        )
    return own
