"""Makes samples from a reference: tiles of three splits with acquisitions become patches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subpixmap.errors import InputError
from subpixmap.grid import Window
from subpixmap.model.clouds import FOUR, require_network
from subpixmap.periods import parse_years
from subpixmap.progress import counter
from subpixmap.reference.imagery import Imagery, Scenes, find_imagery, read_scenes
from subpixmap.reference.patches import Patches
from subpixmap.reference.question import Locks
from subpixmap.reference.reference import Area, Reference
from subpixmap.reference.splits import split_tiles
from subpixmap.reference.tiles import AreaTile, cut
from subpixmap.scenes.clouds import MaskBy, MaskRule
from subpixmap.scenes.dialect import Level
from subpixmap.scenes.items import by_acquisition
from subpixmap.scenes.radiometry import known_level

_TOGETHER = 200  # pixels; plots of one such square are read at once


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """Options of sampling a reference; stored in the card to find the same test land again."""

    within_days: int = 180
    """Days around the image date within which an acquisition may lie."""
    level: Level = "L2A"
    """Of the items."""
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
    folds: int | None = None
    """Parts of the land beside the test that calibrate in turn, each the networks that did not learn there; 0 sets land
    aside for calibration, None leaves it to the recipe."""
    test_years: str = ""
    """Such as "2022-2023": the test sees acquisitions of these years only, training and calibration none of them."""
    seed: int = 0
    mask: MaskBy = "scl"
    """Who says which pixels are clear (see `MaskRule.by`)."""

    def __post_init__(self) -> None:
        if self.within_days < 0 or self.max_scenes < 1:
            raise InputError("--within-days must be at least 0 and --max-scenes at least 1")
        if self.folds is not None and (self.folds < 0 or self.folds == 1):
            raise InputError(f"--folds {self.folds}: give 2 or more, or 0 to set land aside for calibration")
        if self.folds and self.calibration:
            raise InputError(
                "--calibrate sets land aside, but --folds calibrates on all land in turn: give only one of them"
            )
        known_level(self.level)
        MaskRule(by=self.mask)  # refuses an unknown name
        if self.test_years:
            parse_years(self.test_years)

    def tiles(self, reference: Reference, halo: int) -> list[AreaTile]:
        """The reference cut into tiles of the three splits."""
        return split_tiles(
            reference,
            halo=halo,
            by=self.split_by,
            size=self.tile or None,
            test=self.test,
            calibration=self.calibration,
            folds=self.folds or 0,
            seed=self.seed,
        )

    def imagery(
        self,
        reference: Reference,
        source: str | Sequence[str],
        *,
        bands: Sequence[str] | None,
        halo: int,
        collection: str | None,
        locks: Locks | None,
    ) -> Imagery:
        """The imagery over the reference that may be used (see `find_imagery`); refuses a mask that cannot be made."""
        require_network(bands or FOUR, MaskRule(by=self.mask), self.level)
        return find_imagery(
            reference,
            source,
            bands=bands,
            within_days=self.within_days,
            months=self.months or None,
            halo=halo,
            collection=collection,
            level=self.level,
            locks=locks,
        )

    def allows(self, split: str, day: date) -> bool:
        """Whether an acquisition of that day may serve a split."""
        if not self.test_years:
            return True
        first, last = parse_years(self.test_years)
        return (first <= day.year <= last) == (split == "test")

    def as_json(self) -> dict[str, Any]:
        """Plain values, for a card."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        if self.mask == "scl":
            del plain["mask"]  # so that cards stay as they were
        return plain

    @classmethod
    def stated(cls, stated: Mapping[str, Any]) -> Scheme:
        """What a card states; a field that this version does not have is left out, and none means no folds."""
        names = {field.name for field in fields(cls)}
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in stated.items() if key in names
        }
        return cls(**{"folds": 0} | values)


@dataclass(frozen=True)
class Sample:
    """Patches of one split, and where their pixels come from."""

    patches: Patches
    tiles: tuple[AreaTile, ...]
    """Of the places, in their order: area by area."""
    days: tuple[date, ...]
    """Of the acquisitions, over all areas."""
    acquisitions: dict[str, tuple[str, ...]]
    """Area -> names of its acquisitions."""


def read_sample(
    reference: Reference,
    tiles: Sequence[AreaTile],
    imagery: Imagery,
    *,
    halo: int,
    max_scenes: int = 8,
    mask: MaskRule | None = None,
    when: Callable[[date], bool] = lambda day: True,
) -> Sample:
    """Read patches under tiles.

    Parameters
    ----------
    reference, tiles
        From `split_tiles`; usually those of one split.
    imagery
        From `find_imagery`.
    halo
        Context of the network, pixels.
    max_scenes, mask, when
        As in `read_scenes`.

    Returns
    -------
    Sample
        All acquisitions of a tile are samples of one place. Areas seen less often than others are filled with
        acquisitions in which nothing is valid.
    """
    if not tiles:
        raise InputError("there are no tiles to read")
    groups: dict[str, list[AreaTile]] = {}
    for tile in tiles:
        groups.setdefault(_read_with(tile), []).append(tile)
    imagery, areas = _imagery_of(groups, imagery)
    seen: dict[str, tuple[Scenes, Window]] = {}
    options: dict[str, Any] = {"max_scenes": max_scenes, "mask": mask, "when": when}
    acquisitions = [len(by_acquisition(imagery.items[area.key])) for area in areas.values()]
    reads = sum(number + min(number, max_scenes) for number in acquisitions)
    with counter("read imagery", reads, "reads of acquisitions") as bar:
        for key, group in groups.items():
            window = _around([tile.window for tile in group]).padded(halo)
            seen[key] = read_scenes(areas[key], imagery, window=window, step=bar.step, **options), window
    most = max(len(scenes.acquisitions) for scenes, _ in seen.values())
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in ("reflectance", "valid", "count", "labelled")}
    ordered = tuple(tile for group in groups.values() for tile in group)
    for tile in ordered:
        scenes, window = seen[_read_with(tile)]
        wide, inner = tile.window.padded(halo).slices(window), tile.window.slices(window)
        columns["reflectance"].append(_filled(scenes.reflectance[:, :, *wide], most, np.nan))
        columns["valid"].append(_filled(scenes.valid[:, *inner], most, False))
        columns["count"].append(np.broadcast_to(tile.count, (most, *tile.count.shape)))
        columns["labelled"].append(tile.used)
    arrays: dict[str, Any] = {name: np.stack(parts) for name, parts in columns.items()}
    if any(tile.is_plot for tile in ordered):
        arrays["share"] = np.stack([tile.share for tile in ordered])
        arrays["plots"] = tuple(tile.area.key if tile.is_plot else "" for tile in ordered)
    patches = Patches(
        **arrays,
        bands=imagery.bands,
        objects=tuple(reference.objects),
        names=tuple(tile.unit for tile in ordered),
    )
    days = tuple(day for scenes, _ in seen.values() for day in scenes.days)
    names = {_name(areas[key]): scenes.acquisitions for key, (scenes, _) in seen.items()}
    return Sample(patches, ordered, days, names)


def _read_with(tile: AreaTile) -> str:
    """Tiles that are read at once: those of an area, and plots that lie together."""
    if not tile.is_plot:
        return tile.area.key
    return f"plots-{tile.window.row // _TOGETHER}-{tile.window.col // _TOGETHER}_{tile.area.lattice.epsg}"


def _imagery_of(groups: Mapping[str, Sequence[AreaTile]], imagery: Imagery) -> tuple[Imagery, dict[str, Area]]:
    """The area that is read for each group of tiles, and the imagery over it: plots that lie together are one area."""
    areas, items = {}, dict(imagery.items)
    for key, tiles in groups.items():
        first = areas[key] = tiles[0].area
        if tiles[0].is_plot:
            window = _around([tile.area.window for tile in tiles])
            labelled = np.max([cut(tile.area.labelled, tile.area.window, window) for tile in tiles], axis=0)
            area = Area(key.split("_")[0], first.lattice, window, first.outline, first.count, labelled, first.points)
            areas[key] = area
            items[area.key] = tuple({one.id: one for tile in tiles for one in imagery.items[tile.area.key]}.values())
    return replace(imagery, items=items), areas


def _around(windows: Sequence[Window]) -> Window:
    top, left = min(w.row for w in windows), min(w.col for w in windows)
    bottom, right = max(w.row + w.height for w in windows), max(w.col + w.width for w in windows)
    return Window(top, left, bottom - top, right - left)


def _filled(values: NDArray[Any], most: int, empty: float) -> NDArray[Any]:
    """The first axis filled up to a length with an empty value."""
    missing = np.full((most - len(values), *values.shape[1:]), empty, values.dtype)
    return np.concatenate([values, missing])


def _name(area: Area) -> str:
    return f"{area.name} (EPSG:{area.lattice.epsg})"
