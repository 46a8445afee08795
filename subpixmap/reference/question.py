"""The search of a reference in a catalogue, and its locked items, which a rerun reads instead of searching.

A lock answers a question if it was asked the same sources for as many days, months, bands and pixels or more: so the
acquisitions by which shifts are estimated serve the training, too.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import shapely
from shapely.geometry.base import BaseGeometry

from subpixmap.errors import InputError
from subpixmap.grid import Window, project
from subpixmap.periods import Period, make_periods
from subpixmap.reference.reference import Area, Reference
from subpixmap.scenes.darkness import check_darkness
from subpixmap.scenes.dialect import Level
from subpixmap.scenes.fallback import lock_sources
from subpixmap.scenes.hrefs import redact
from subpixmap.scenes.items import Item, read_lock, read_notes, sort_items, write_lock
from subpixmap.scenes.source import common_bands, find_by_source, preferred

log = logging.getLogger(__name__)

_FIRST_DAY = date(2015, 6, 1)  # of Sentinel-2
_MARGIN = 64  # pixels around an area that are asked for: context for any network
_NEAR = 0.5  # degrees; areas no farther apart than twice this are asked for together


@dataclass(frozen=True)
class Locks:
    """Files that keep what a catalogue answered."""

    write: Path | None = None
    """Read if it holds the answer; else the catalogue is asked, and the answer is written here."""
    read: tuple[Path, ...] = ()
    """Locks of earlier steps, which may hold the answer, too."""


@dataclass(frozen=True)
class Question:
    """Items over the areas of a reference, of some days, with some bands."""

    sources: tuple[str, ...]
    """Without secrets, in order of preference."""
    collection: str | None
    first: date
    last: date
    months: tuple[int, ...]
    bands: tuple[str, ...]
    """Empty: all that the items share."""
    areas: Mapping[str, Window]
    """`Area.key` -> pixels."""
    level: Level = "L2A"

    @classmethod
    def about(
        cls,
        reference: Reference,
        source: str | Sequence[str],
        *,
        within_days: int,
        halo: int,
        months: Sequence[int],
        bands: Sequence[str],
        collection: str | None,
        level: Level = "L2A",
    ) -> Question:
        """Of the days around the image date, and of the areas with their context."""
        first = max(reference.image_date[0] - timedelta(within_days), _FIRST_DAY)
        last = reference.image_date[1] + timedelta(within_days)
        if last < first:
            raise InputError(
                f"the image date {reference.image_date[1]} and {within_days} days lie before the start "
                "of Sentinel-2 (2015)"
            )
        names = [source] if isinstance(source, str) else source
        sources = tuple(str(Path(name).resolve()) if Path(name).exists() else redact(name) for name in names)
        areas = {area.key: area.window.padded(halo) for area in reference.areas}
        # sorted: a season across New Year means both ends of every calendar year
        return cls(sources, collection, first, last, tuple(sorted(set(months))), tuple(bands), areas, level)

    @property
    def periods(self) -> list[Period]:
        """Its years, cut to its days."""
        years = make_periods(f"{self.first.year}-{self.last.year}", "year", self.months)
        inside = [year for year in years if year.start <= self.last and self.first <= year.end]
        return [replace(year, start=max(year.start, self.first), end=min(year.end, self.last)) for year in inside]

    def holds(self, item: Item) -> bool:
        """Whether an item is of its days and months."""
        return self.first <= day_of(item) <= self.last and day_of(item).month in self.months

    def with_margin(self) -> Question:
        """The same with a wide context around the areas: what a catalogue is asked."""
        return replace(self, areas={key: window.padded(_MARGIN) for key, window in self.areas.items()})

    def answered_by(self, asked: Question, bands: Sequence[str]) -> bool:
        """Whether the answer to another question, with these bands, holds the answer to this one."""
        return (
            (self.sources, self.collection, self.level) == (asked.sources, asked.collection, asked.level)
            and asked.first <= self.first
            and self.last <= asked.last
            and set(self.months) <= set(asked.months)
            and (set(self.bands) <= set(bands) if self.bands else not asked.bands)
            and all(
                key in asked.areas and window.overlap(asked.areas[key]) == window for key, window in self.areas.items()
            )
        )

    def as_json(self) -> dict[str, Any]:
        """Plain values, for the notes of a lock."""
        days = {"first": self.first.isoformat(), "last": self.last.isoformat()}
        windows = {key: [w.row, w.col, w.height, w.width] for key, w in self.areas.items()}
        lists = {"sources": list(self.sources), "months": list(self.months), "bands": list(self.bands)}
        level = {} if self.level == "L2A" else {"level": self.level}  # which goes without saying, as in older locks
        return {**lists, **days, "collection": self.collection, "areas": windows, **level}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Question:
        """What `as_json` gave."""
        return cls(
            sources=tuple(values["sources"]),
            collection=values["collection"],
            first=date.fromisoformat(values["first"]),
            last=date.fromisoformat(values["last"]),
            months=tuple(values["months"]),
            bands=tuple(values["bands"]),
            areas={key: Window(*window) for key, window in values["areas"].items()},
            level=values.get("level", "L2A"),
        )


def read_answer(question: Question, locks: Locks) -> tuple[list[Item], tuple[str, ...]] | None:
    """Locked items that answer a question, and their bands, from the first lock that holds them; None if none does."""
    for path in (*locks.read, *([locks.write] if locks.write else [])):
        if path.is_file() and (locked := _read(path, question)) is not None:
            log.info("using the items in %s; delete this file to search the catalogue again", path)
            return locked
    return None


def ask(question: Question, reference: Reference, source: str | Sequence[str]) -> tuple[list[Item], tuple[str, ...]]:
    """Locked items of a source that answer a question, and their bands; neighbouring areas are asked for at once."""
    answers: dict[str, list[dict[str, Any]]] = {}
    for geometry in _neighbourhoods(reference, question.areas):
        by_source = find_by_source(
            source, geometry, question.periods, collection=question.collection, level=question.level
        )
        for name, items in by_source.items():
            answers.setdefault(name, []).extend(items)
    bands = question.bands or tuple(common_bands(preferred(answers)))
    return lock_sources(answers, question.periods, bands, level=question.level, look=False), bands


def keep_answer(
    question: Question, reference: Reference, items: Sequence[Item], bands: Sequence[str], path: Path | None
) -> list[Item]:
    """Look at dark ground in the items that lie over an area in its own zone, and write all to a lock."""
    needed = {
        item.id
        for area in reference.areas
        for item in items_over(area, question.areas[area.key], items)
        if item.epsg == area.lattice.epsg
    }
    looked_at = check_darkness(item for item in items if item.id in needed)
    items = sort_items([*looked_at, *(item for item in items if item.id not in needed)])
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_lock(path, items, {"question": question.as_json(), "bands": list(bands)})
    return items


def day_of(item: Item) -> date:
    """The day of its acquisition, UTC."""
    return date.fromisoformat(item.datetime[:10])


def items_over(area: Area, window: Window, items: Sequence[Item]) -> list[Item]:
    """Items of any zone whose rasters reach a window of an area's lattice."""
    own = shapely.segmentize(shapely.box(*area.lattice.bounds(window)), 1000)
    boxes = {epsg: project(own, area.lattice.epsg, epsg).bounds for epsg in {item.epsg for item in items}}
    return [item for item in items if _overlap(item.bounds, boxes[item.epsg])]


def _read(path: Path, question: Question) -> tuple[list[Item], tuple[str, ...]] | None:
    """Items and bands of a lock, if it answers the question."""
    notes = read_notes(path)
    if "question" not in notes:
        return None
    bands = tuple(notes["bands"])
    if not question.answered_by(Question.from_json(notes["question"]), bands):
        return None
    items = [item for item in read_lock(path) if question.holds(item)]
    if any(asset.needs_signature for item in items for asset in item.assets.values()):
        return None  # only the catalogue can sign them
    return items, question.bands or bands


def _neighbourhoods(reference: Reference, windows: Mapping[str, Window]) -> list[BaseGeometry]:
    """The areas' boxes in EPSG:4326, those near to one another as one geometry."""
    boxes = [
        project(shapely.segmentize(shapely.box(*area.lattice.bounds(windows[area.key])), 1000), area.lattice.epsg, 4326)
        for area in reference.areas
    ]
    around = shapely.get_parts(shapely.union_all([shapely.box(*box.buffer(_NEAR).bounds) for box in boxes]))
    return [shapely.union_all([box for box in boxes if one.intersects(box)]) for one in around]


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether two boxes (west, south, east, north) touch."""
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]
