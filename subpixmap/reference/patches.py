"""Patches: small windows of several acquisitions with the count map under them, and splits of places without leaks.

All acquisitions of a place are samples of that one place: a split never puts them on both sides.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from subpixmap.errors import InputError
from subpixmap.grid import Lattice, Window
from subpixmap.reference.countmap import count_map

_ARRAYS = ("reflectance", "valid", "count", "labelled")
_FACTS = ("bands", "objects", "names", "covers", "plots")


@dataclass(frozen=True)
class Patches:
    """Places of equal size. Outermost `halo` pixels are context: reflectance has them, the reference has not."""

    reflectance: NDArray[np.float16]
    """(place, acquisition, band, y + 2 halo, x + 2 halo), 0-1, NaN where there is none."""
    valid: NDArray[np.bool_]
    """(place, acquisition, y, x): clear and with data."""
    count: NDArray[np.float32]
    """(place, acquisition, object, y, x): expected objects per pixel; of what cannot move, the same each time."""
    labelled: NDArray[np.bool_]
    """(place, y, x): every object of the pixel is in the reference; elsewhere the count is not known, not zero."""
    bands: tuple[str, ...]
    objects: tuple[str, ...]
    names: tuple[str, ...] = ()
    """Of the places; those that belong together (tiles of an area) share one. Empty: each stands by itself."""
    cover: NDArray[np.uint8] | None = None
    """(place, y, x): land cover, an index into `covers`; None where it is not known."""
    covers: tuple[str, ...] = ()
    """Names of land covers."""
    share: NDArray[np.float32] | None = None
    """(place, y, x): share of each pixel that a plot with a known total covers, 0-1; zero at places without one. The
    count of such a place is its total, spread evenly: only its sum is known. None where no place has a plot."""
    plots: tuple[str, ...] = ()
    """Of the places, the plot; "" without one. A plot larger than a place has several."""

    def __post_init__(self) -> None:
        places, acquisitions = self.reflectance.shape[:2]
        y, x = self.count.shape[3:]
        halo = self.halo
        expected = {
            "reflectance": (len(self.count), acquisitions, len(self.bands), y + 2 * halo, x + 2 * halo),
            "valid": (places, acquisitions, y, x),
            "count": (places, acquisitions, len(self.objects), y, x),
            "labelled": (places, y, x),
        }
        for name, shape in expected.items():
            if getattr(self, name).shape != shape or halo < 0:
                raise InputError(f"patches: {name} has shape {getattr(self, name).shape}, want {shape}")
        if self.names and len(self.names) != places:
            raise InputError(f"patches: {len(self.names)} names for {places} places")
        if self.cover is not None and self.cover.shape != (places, y, x):
            raise InputError(f"patches: cover has shape {self.cover.shape}, want {(places, y, x)}")
        if self.share is not None and (self.share.shape != (places, y, x) or len(self.plots) != places):
            raise InputError(f"patches: {len(self.plots)} plots, share {self.share.shape}, want {(places, y, x)}")

    def __len__(self) -> int:
        return len(self.count)

    @property
    def halo(self) -> int:
        """Pixels of context on every side."""
        return int(self.reflectance.shape[-1] - self.count.shape[-1]) // 2

    @property
    def size(self) -> int:
        """Rows of the reference, pixels."""
        return int(self.count.shape[-2])

    @property
    def groups(self) -> NDArray[np.int64]:
        """(place,): number of the name that a place shares with others."""
        number_of = {name: i for i, name in enumerate(dict.fromkeys(self.names))}
        return np.array([number_of[name] for name in self.names] if self.names else range(len(self)), np.int64)

    @property
    def is_plot(self) -> NDArray[np.bool_]:
        """(place,): whether only the sum over a plot is known there."""
        return np.array([bool(name) for name in self.plots] if self.share is not None else [False] * len(self))

    def take(self, places: slice | ArrayLike) -> Patches:
        """Some of the places."""
        index = places if isinstance(places, slice) else np.asarray(places)
        arrays = {name: getattr(self, name)[index] for name in _ARRAYS}
        names = tuple(np.array(self.names, object)[index]) if self.names else ()
        cover = None if self.cover is None else self.cover[index]
        share = None if self.share is None else self.share[index]
        plots = tuple(np.array(self.plots, object)[index]) if self.plots else ()
        return replace(self, **arrays, names=names, cover=cover, share=share, plots=plots)

    def select_bands(self, bands: Sequence[str]) -> Patches:
        """The same with some bands only, in the order given."""
        if missing := set(bands) - set(self.bands):
            raise InputError(f"patches lack bands {', '.join(sorted(missing))}; they have {', '.join(self.bands)}")
        if tuple(bands) == self.bands:
            return self
        index = [self.bands.index(band) for band in bands]
        return replace(self, reflectance=self.reflectance[:, :, index], bands=tuple(bands))

    def select_objects(self, objects: Sequence[str]) -> Patches:
        """The same with some objects only, in the order given."""
        if missing := set(objects) - set(self.objects):
            raise InputError(f"patches lack objects {', '.join(sorted(missing))}")
        index = [self.objects.index(name) for name in objects]
        return replace(self, count=self.count[:, :, index], objects=tuple(objects))

    def save(self, folder: str | Path) -> None:
        """Write one .npy for each array and patches.json, which is written last."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))
        if self.cover is not None:
            np.save(folder / "cover.npy", self.cover)
        if self.share is not None:
            np.save(folder / "share.npy", self.share)
        facts = {name: getattr(self, name) for name in _FACTS}
        (folder / "patches.json").write_text(json.dumps(facts))

    @classmethod
    def load(cls, folder: str | Path) -> Patches:
        """Open what `save` wrote; arrays stay on disk until they are touched."""
        folder = Path(folder)
        if not (folder / "patches.json").is_file():
            raise InputError(f"{folder}: no patches here (patches.json is missing)")
        facts: dict[str, Any] = {
            key: tuple(values) for key, values in json.loads((folder / "patches.json").read_text()).items()
        }
        arrays: dict[str, Any] = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
        cover = np.load(folder / "cover.npy", mmap_mode="r") if facts.get("covers") else None
        share = np.load(folder / "share.npy", mmap_mode="r") if facts.get("plots") else None
        return cls(**arrays, **facts, cover=cover, share=share)


class Place(Protocol):
    """One place before it is cut to a patch: what a simulator or a reader of reference data hands over."""

    @property
    def reflectance(self) -> NDArray[np.float32]:
        """(acquisition, band, y, x), NaN where there is none."""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(acquisition, y, x)."""

    @property
    def points(self) -> dict[str, tuple[NDArray[np.float64], ...]]:
        """Object -> for each acquisition (n, 2): x, y in pixels from the upper left corner, with those just outside."""


def make_patches(
    places: Iterable[Place], *, bands: Sequence[str], objects: Sequence[str], halo: int, k: int = 10
) -> Patches:
    """Count maps under places; all of a place is labelled.

    Parameters
    ----------
    places
        Of equal size, larger than the halo; with `cover` (y, x) and `covers`, names, if their land cover is known.
    bands, objects
        Names; an object without points in a place is absent there.
    halo
        Pixels along the edge that become context.
    k
        Of `count_map`.
    """
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in _ARRAYS}
    covers: list[NDArray[np.uint8]] = []
    names: tuple[str, ...] = ()
    for place in places:
        rows, cols = place.reflectance.shape[2:]
        inner = (slice(halo, rows - halo), slice(halo, cols - halo))
        counts = [_counts_of(place, name, k)[:, *inner] for name in objects]
        valid = place.valid & np.isfinite(place.reflectance).all(axis=1)
        columns["reflectance"].append(place.reflectance.astype(np.float16))
        columns["valid"].append(valid[:, *inner])
        columns["count"].append(np.stack(counts, axis=1))
        columns["labelled"].append(np.ones((rows - 2 * halo, cols - 2 * halo), bool))
        if (cover := getattr(place, "cover", None)) is not None:
            covers.append(cover[inner])
            names = tuple(getattr(place, "covers", ()))
    if not columns["count"]:
        raise InputError(f"no place was given to make patches of {', '.join(objects)}: give at least one")
    arrays: dict[str, Any] = {name: np.stack(parts) for name, parts in columns.items()}
    cover = np.stack(covers) if len(covers) == len(arrays["count"]) else None
    return Patches(**arrays, bands=tuple(bands), objects=tuple(objects), cover=cover, covers=names)


_SHARED: dict[str, Callable[[Patches], object]] = {
    "bands": lambda patches: patches.bands,
    "objects": lambda patches: patches.objects,
    "land covers": lambda patches: patches.covers,
    "acquisitions, bands and pixels": lambda patches: patches.reflectance.shape[1:],
    "acquisitions, objects and pixels": lambda patches: patches.count.shape[1:],
}
"""What patches that are joined must have in common."""


def join(parts: Sequence[Patches]) -> Patches:
    """Places of several sets, which must agree in bands, objects and sizes."""
    if not parts:
        raise InputError("no patches were given to join: give at least one place")
    for name, value_of in _SHARED.items():
        if others := [value_of(p) for p in parts if value_of(p) != value_of(parts[0])]:
            raise InputError(f"patches differ in {name}: {value_of(parts[0])} and {others[0]}; they cannot be joined")
    arrays: dict[str, Any] = {name: np.concatenate([getattr(p, name) for p in parts]) for name in _ARRAYS}
    names = tuple(name for p in parts for name in p.names)
    covers = [p.cover for p in parts if p.cover is not None]
    plotted = any(p.share is not None for p in parts)
    return replace(
        parts[0],
        **arrays,
        names=names if len(names) == len(arrays["count"]) else (),
        cover=np.concatenate(covers) if len(covers) == len(parts) else None,
        share=np.concatenate([np.zeros(p.labelled.shape) if p.share is None else p.share for p in parts])
        if plotted
        else None,
        plots=tuple(name for p in parts for name in (p.plots or ("",) * len(p))) if plotted else (),
    )


def _counts_of(place: Place, name: str, k: int) -> NDArray[np.float32]:
    """(acquisition, y, x) of one object."""
    acquisitions, _, rows, cols = place.reflectance.shape
    # Any lattice will do: pixel coordinates are laid on one of 10 m.
    lattice, window = Lattice(32601), Window(100, 100, rows, cols)
    west, _, _, north = lattice.bounds(window)
    counts = np.zeros((acquisitions, rows, cols), np.float32)
    points = place.points.get(name, ())
    for i, xy in enumerate(points):
        if i and xy is points[i - 1]:
            counts[i] = counts[i - 1]
        elif len(xy):
            counts[i] = count_map(west + 10 * xy[:, 0], north - 10 * xy[:, 1], lattice, window, k=k)
    return counts
