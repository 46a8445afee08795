"""Valid pixels of an acquisition, by a cloud network, scene classes, or both.

The network is that of ukis-csmask (Wieland et al. 2019, doi:10.1016/j.rse.2019.05.022), run by onnxruntime as its
package runs it. It takes tiles of 256 px and weighs each pixel by its whole tile. So the lattice is cut into cells that
are the same for any window, and each cell is seen in a tile of its own, with a margin on every side.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from subpixmap.errors import InputError
from subpixmap.files import cache_folder, write_atomic
from subpixmap.grid import Lattice, Window
from subpixmap.scenes import cube
from subpixmap.scenes.clouds import MaskRule, scl_valid
from subpixmap.scenes.items import Item
from subpixmap.scenes.radiometry import Missing

SIDE = 256
"""Pixels of a tile's side: the network takes no other."""
TILE_SECONDS = 0.32
"""Of one core for one tile; measured with onnxruntime 1.32 on an AMD Milan core."""
NETWORK_BYTES = 450e6
"""Of a process, once it has seen a tile: onnxruntime, the network and its planes."""
FOUR = ("B02", "B03", "B04", "B08")
"""Bands that the network needs; with the next two there is a better one."""
SIX = (*FOUR, "B11", "B12")

_MOST_DILATED = 320.0  # metres: the margin of a cell
_NO_DATA, _CLEAR, _CLOUD, _SHADOW = 0, 5, 9, 3  # as scene classes
_OF_NETWORK = np.array([_CLEAR, _CLOUD, _SHADOW], np.uint8)  # in the order of its outputs


class Cells(NamedTuple):
    """How a lattice is cut for the network, pixels of the lattice."""

    core: int
    """Side of a cell; cells are numbered from the lattice's own origin."""
    margin: int
    """Seen around it."""

    @property
    def side(self) -> int:
        """Of what is seen; it becomes the tile's 256 px."""
        return self.core + 2 * self.margin

    @property
    def in_tile(self) -> NDArray[np.intp]:
        """Row (or column) of the tile that holds the centre of each row of the cell."""
        return ((np.arange(self.core) + self.margin + 0.5) * SIDE / self.side).astype(np.intp)

    @classmethod
    def of(cls, resolution: float) -> Cells:
        """Pixels of a tile have 22.5 m at 10 or 20 m: four tiles see a block of 1024 px, and none is enlarged."""
        if resolution < 15:
            return cls(512, 32)
        return cls(256, 16) if resolution < 22.5 else cls(224, 16)

    def over(self, window: Window) -> Window:
        """Rows and columns of the cells that touch a window."""
        whole, core = window.aligned(self.core), self.core
        return Window(whole.row // core, whole.col // core, whole.height // core, whole.width // core)

    def seen(self, window: Window) -> tuple[int, int]:
        """Tiles over a window, and pixels of the lattice that are read for them."""
        over = self.over(window)
        return over.height * over.width, over.height * self.side * (over.width * self.core + 2 * self.margin)


@dataclass(frozen=True)
class Network:
    """One of the networks of ukis-csmask."""

    bands: tuple[str, ...]
    """Canonical names, in the order of its input."""
    file: Path
    """The ONNX file in the installed package; its input statistics stand beside it."""

    @classmethod
    def of(cls, bands: Sequence[str], level: str) -> Network:
        """The better one that some bands and a level allow; `require_network` says what is missing."""
        require_network(bands, MaskRule(by="learned"), level)
        takes = network_bands(bands)
        spec = find_spec("ukis_csmask")
        assert spec is not None  # as required above
        assert spec.origin is not None
        return cls(takes, Path(spec.origin).parent / f"model_{len(takes)}b_{level.lower()}.onnx")

    def classes(self, reflectance: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Scene classes of one tile, (256, 256): cloud 9, shadow 3, clear 5; no data 0.

        Parameters
        ----------
        reflectance
            (band, side, side) of 256 px or more, of which means by area are taken; NaN where there is no data, which
            the network sees as 0.
        """
        reflectance = _shrunk(reflectance, _area_weights(reflectance.shape[-1]))
        session, name, mean, std = _session(self.file)
        seen = (np.nan_to_num(reflectance) - mean) / std
        (logits,) = session.run(None, {name: np.ascontiguousarray(seen[None], np.float32)})
        classes: NDArray[np.uint8] = _OF_NETWORK[np.argmax(logits[0], axis=0)]
        classes[np.isnan(reflectance).all(axis=0)] = _NO_DATA
        return classes


@lru_cache(maxsize=1)
def _session(file: Path) -> tuple[Any, str, NDArray[np.float32], NDArray[np.float32]]:
    """The network on one thread, so that it gives the same bits on any machine of a kind, and its input statistics."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    statistics = json.loads(file.with_suffix(".json").read_text())["data"]["dataset_statistics"]["img"]
    mean, std = (np.array(values, np.float32)[:, None, None] for values in statistics)
    return session, session.get_inputs()[0].name, mean, std


def network_bands(bands: Sequence[str]) -> tuple[str, ...]:
    """Those of some bands that the network reads."""
    return SIX if set(SIX) <= set(bands) else FOUR


def require_network(bands: Sequence[str], rule: MaskRule, level: str) -> None:
    """Refuse a mask that cannot be made: missing packages, bands or scene classes.

    Raises
    ------
    InputError
        Says what to do; nothing is read for it.
    """
    by = rule.by
    if by == "scl":
        return
    if lacks := [band for band in FOUR if band not in bands]:
        raise InputError(
            f"--mask {by}: the cloud network needs {', '.join(FOUR)}, but the model only reads {', '.join(bands)} "
            f"(no {', '.join(lacks)}): use --mask scl, or a model with these bands"
        )
    if absent := [name for name in ("ukis_csmask", "onnxruntime") if find_spec(name) is None]:
        raise InputError(
            f"--mask {by} needs {' and '.join(absent)}: install them with pip install 'subpixmap[clouds]', or use "
            "--mask scl"
        )
    if by == "both" and level != "L2A":
        raise InputError(f"--mask both: {level} items have no scene classes; use --mask learned")
    if rule.dilate_m > _MOST_DILATED:
        raise InputError(
            f"--mask {by}: the card masks {rule.dilate_m:g} m around clouds, but the cloud network allows "
            f"{_MOST_DILATED:g} m at most: use --mask scl"
        )


def versions(by: str) -> dict[str, str]:
    """What decides the bits of the mask, for the recipe; nothing for scene classes alone."""
    if by == "scl":
        return {}
    try:
        return {name: version(name) for name in ("ukis-csmask", "onnxruntime")}
    except PackageNotFoundError as error:  # unpacked beside the environment: its files are there
        return {"ukis-csmask": f"without metadata ({error})"}


def read_valid(
    items: Sequence[Item],
    lattice: Lattice,
    window: Window,
    rule: MaskRule,
    *,
    bands: Sequence[str] = (),
    missing: Missing = "stated",
) -> NDArray[np.bool_]:
    """Valid pixels of one acquisition in a window; any window gives the same mask.

    Parameters
    ----------
    items, lattice, window
        See `cube.read_reflectance`.
    rule
        Who judges (`by`), classes and distance. The network knows cloud (as class 9), shadow (3) and no data (0).
    bands
        Canonical names of what may be read; the network takes the best of them.
    missing
        Which digital numbers are missing.

    Returns
    -------
    numpy.ndarray
        bool, (y, x); False where there is no data.
    """
    if rule.by == "scl" or not items:
        return cube.read_valid(items, lattice, window, replace(rule, by="scl"), missing=missing)
    network, cells = Network.of(bands, items[0].level), Cells.of(lattice.resolution)
    over = cells.over(window)
    classes = _classes(items, lattice, over, cells, network, missing)
    pixel = lattice.resolution * cells.side / SIDE
    at = cells.in_tile
    valid = np.empty((over.height * cells.core, over.width * cells.core), bool)
    for row, col in np.ndindex(over.shape):
        seen = scl_valid(classes[row, col], pixel, rule)[np.ix_(at, at)]
        valid[row * cells.core : (row + 1) * cells.core, col * cells.core : (col + 1) * cells.core] = seen
    whole = Window(over.row * cells.core, over.col * cells.core, *valid.shape)
    valid = valid[window.slices(whole)]
    if rule.by == "both":
        valid = valid & cube.read_valid(items, lattice, window, replace(rule, by="scl"), missing=missing)
    return valid


def _classes(
    items: Sequence[Item], lattice: Lattice, over: Window, cells: Cells, network: Network, missing: Missing
) -> NDArray[np.uint8]:
    """Scene classes of cells with their margins, (row, column, 256, 256), from the cache if they are there."""
    path = _cache_path(items, lattice, over, network, missing)
    if path is not None and (kept := _kept(path, over)) is not None:
        return kept
    classes = np.stack([np.stack(row) for row in _rows(items, lattice, over, cells, network, missing)])
    if path is not None:
        packed = io.BytesIO()
        np.savez_compressed(packed, classes=classes)
        with contextlib.suppress(OSError):  # a full or forbidden cache stops nothing: it saves time alone
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, packed.getvalue())
    return classes


def _rows(
    items: Sequence[Item], lattice: Lattice, over: Window, cells: Cells, network: Network, missing: Missing
) -> Iterator[list[NDArray[np.uint8]]]:
    """One row of cells at a time: its strip is read once, and memory does not grow with the window's height."""
    for row in range(over.row, over.row + over.height):
        core = Window(row * cells.core, over.col * cells.core, cells.core, over.width * cells.core)
        strip = cube.read_reflectance(items, lattice, core.padded(cells.margin), network.bands, missing=missing)
        yield [network.classes(strip[:, :, left : left + cells.side]) for left in range(0, core.width, cells.core)]


@lru_cache(maxsize=4)
def _area_weights(side: int) -> NDArray[np.float32]:
    """(256, side): the share of each pixel in each pixel of a tile; rows sum to 1."""
    edges, pixels = np.linspace(0, side, SIDE + 1), np.arange(side)
    inside = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights: NDArray[np.float32] = (np.clip(inside, 0, 1) * SIDE / side).astype(np.float32)
    return weights


def _shrunk(reflectance: NDArray[np.float32], mean: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean by area of what has data, (band, 256, 256); NaN where nothing has."""
    there = np.isfinite(reflectance)
    if there.all():
        return np.asarray(mean @ reflectance @ mean.T, np.float32)
    share = mean @ there.astype(np.float32) @ mean.T
    sums = mean @ np.where(there, reflectance, np.float32(0)) @ mean.T
    return np.asarray(np.where(share > 1e-3, sums / np.maximum(share, 1e-3), np.nan), np.float32)


def _cache_path(
    items: Sequence[Item], lattice: Lattice, over: Window, network: Network, missing: Missing
) -> Path | None:
    """Where the classes of an acquisition over some cells are kept; None if a file's version is not known.

    Everything that decides them is in the name: files with their versions, offsets, place, network and its runtime.
    """
    files = [
        (item.id, item.offset_dn, band, item.assets[band].href, item.assets[band].transform, item.assets[band].pin)
        for item in items
        for band in network.bands
    ]
    if any(pin is None for *_, pin in files):
        return None
    place = asdict(lattice), asdict(over), missing, network.file.name, versions("learned")
    text = json.dumps([files, place], default=asdict, sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()
    return cache_folder() / "clouds" / name[:2] / f"{name[:40]}.npz"


def _kept(path: Path, over: Window) -> NDArray[np.uint8] | None:
    """Classes of the cache; None if there are none, or none that can be read."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            classes: NDArray[np.uint8] = stored["classes"]  # zip keeps a check sum
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    fits = classes.dtype == np.uint8 and classes.shape == (*over.shape, SIDE, SIDE)
    return classes if fits else None
