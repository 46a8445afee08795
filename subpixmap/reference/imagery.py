"""A reference's areas -> acquisitions of Sentinel-2 over them: asked for, checked, chosen near the image date, read.

Everything that can be wrong with the catalogue is refused before a pixel is read. Windows lie exactly on the
reference's lattice: imagery on another one is refused, never resampled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import shapely
from numpy.typing import NDArray

from subpixmap.errors import InputError
from subpixmap.grid import Window, project
from subpixmap.periods import ALL_MONTHS, make_periods
from subpixmap.reference.reference import UNLABELLED, Area, Reference
from subpixmap.scenes.choice import choose
from subpixmap.scenes.cube import common_bands, read_reflectance, read_valid
from subpixmap.scenes.darkness import check_darkness
from subpixmap.scenes.dialect import observed_at
from subpixmap.scenes.fallback import lock_sources
from subpixmap.scenes.items import Item, by_acquisition
from subpixmap.scenes.lattices import lattices
from subpixmap.scenes.radiometry import MaskRule
from subpixmap.scenes.source import find_by_source, preferred

FAR_DAYS = 60
"""Acquisitions further from the image date than this, in the median, are warned about."""
_LEAST_CLEAR = 0.2  # of the labelled pixels of an area, for an acquisition to be used there


@dataclass(frozen=True)
class Sky:
    """What a catalogue has for a reference: locked items by area part, and the bands they share."""

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


def find_sky(
    reference: Reference,
    source: str | Sequence[str],
    *,
    bands: Sequence[str] | None = None,
    within_days: int = 180,
    months: Sequence[int] | None = None,
    halo: int = 8,
    collection: str | None = None,
) -> Sky:
    """Ask a source for the items over every area, and check them; reads no pixel but overviews of dark ground.

    Parameters
    ----------
    reference
        From `make_reference` or `read_reference`.
    source, collection
        As in `find_items`.
    bands
        Canonical names; all that every item has, when not given.
    within_days
        Days before and after the image date within which an acquisition may lie.
    months
        Of the year; all when not given.
    halo
        Context of the network, pixels.

    Raises
    ------
    InputError
        Areas that no item touches, items without a band, or on another lattice: all are named.
    """
    start, end = (reference.image_date[0] - timedelta(within_days), reference.image_date[1] + timedelta(within_days))
    start = max(start, date(2015, 6, 1))
    if end < start:
        raise InputError(f"the image date {reference.image_date[1]} and {within_days} days lie before Sentinel-2")
    periods = make_periods(f"{start.year}-{end.year}", "year", tuple(months) if months else ALL_MONTHS)
    found, outside = {}, []
    for area in reference.areas:
        box = shapely.segmentize(shapely.box(*area.lattice.bounds(area.window.padded(halo))), 1000)
        asked = find_by_source(source, project(box, area.lattice.epsg, 4326), periods, collection=collection)
        found[area.key] = {
            name: [one for one in items if start <= observed_at(one).date() <= end] for name, items in asked.items()
        }
        if not any(found[area.key].values()):
            outside.append(area.name)
    told = source if isinstance(source, str) else ", ".join(source)
    if outside:
        raise InputError(
            f"no item of {told} between {start} and {end} touches {len(outside)} of {len(reference.areas)} labelled "
            f"areas ({', '.join(outside[:5])}): the reference lies outside the imagery, or --within-days is too small"
        )
    names = tuple(bands or common_bands([item for asked in found.values() for item in preferred(asked)]))
    locked = {key: lock_sources(asked, periods, names, look=False) for key, asked in found.items()}
    sky = {area.key: _of_zone(area, locked[area.key]) for area in reference.areas}
    unique = {(item.id, item.epsg): item for items in sky.values() for item in items}
    check_darkness(unique.values())
    return Sky(sky, names)


def see(
    area: Area,
    sky: Sky,
    *,
    window: Window | None = None,
    max_scenes: int = 8,
    mask: MaskRule | None = None,
    when: Callable[[date], bool] = lambda day: True,
) -> Scenes:
    """Read the clearest acquisitions of an area, balanced over months and orbits.

    Parameters
    ----------
    area, sky
        Which area, and what there is.
    window
        Pixels to read; those of the area when not given.
    max_scenes
        Most acquisitions.
    mask
        Which pixels are valid.
    when
        Days that may be used.

    Raises
    ------
    InputError
        No acquisition is clear over the area.
    """
    window, rule = window or area.window, mask or MaskRule()
    groups = {name: items for name, items in by_acquisition(sky.items[area.key]).items() if when(_item_day(items[0]))}
    known = area.labelled > UNLABELLED
    clear = {name: read_valid(items, area.lattice, area.window, rule) for name, items in groups.items()}
    share = {name: float(mask[known].mean()) if known.any() else 0.0 for name, mask in clear.items()}
    share = {name: value for name, value in share.items() if value >= _LEAST_CLEAR}
    names = choose(groups, share, max_scenes)
    if not names:
        raise InputError(
            f"area {area.name}: none of {len(groups)} acquisitions is clear over {100 * _LEAST_CLEAR:.0f} % of it; "
            "allow more --within-days"
        )
    reflectance = [read_reflectance(groups[name], area.lattice, window, sky.bands).astype(np.float16) for name in names]
    valid = [
        read_valid(groups[name], area.lattice, window, rule) & np.isfinite(image).all(axis=0)
        for name, image in zip(names, reflectance, strict=True)
    ]
    days = tuple(_item_day(groups[name][0]) for name in names)
    return Scenes(np.stack(reflectance), np.stack(valid), tuple(names), days)


def days_off(reference: Reference, days: Sequence[date]) -> float:
    """Median distance of acquisitions from the image date, days."""
    first, last = reference.image_date
    off = [max((first - day).days, (day - last).days, 0) for day in days]
    return float(np.median(off)) if off else float("nan")


def _of_zone(area: Area, items: Sequence[Item]) -> tuple[Item, ...]:
    """Items of the area's zone, on the area's lattice."""
    own = tuple(item for item in items if item.epsg == area.lattice.epsg)
    if not own:
        raise InputError(
            f"area {area.name} lies in EPSG:{area.lattice.epsg}, but the items over it only in "
            f"{', '.join(sorted({f'EPSG:{item.epsg}' for item in items}))}"
        )
    found = lattices(own, area.lattice.resolution)[area.lattice.epsg]
    if found != area.lattice:
        raise InputError(
            f"area {area.name}: item {own[0].id} lies ({found.x_phase:g}, {found.y_phase:g}) m off the lattice of the "
            "reference; counts are never resampled, so this imagery cannot serve"
        )
    return own


def _item_day(item: Item) -> date:
    return date.fromisoformat(item.datetime[:10])
