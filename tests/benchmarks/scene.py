"""A generated place to measure on: one Sentinel-2 tile with some acquisitions, clouds, and a region of whole blocks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from affine import Affine
from numpy.typing import NDArray

from subpixmap.grid import Lattice, Window
from subpixmap.mapping.plan import Plan, make_plan
from subpixmap.model.backends import USUAL, Arithmetic
from subpixmap.model.checkpoint import Model, load_model
from subpixmap.periods import make_periods
from subpixmap.scenes.items import Asset, Item, read_lock, write_lock
from tests.helpers.mapping_data import region_of

BANDS = {"B02": 10, "B03": 10, "B04": 10, "B05": 20, "B06": 20, "B07": 20, "B08": 10, "B8A": 20, "B11": 20, "B12": 20}
NATIVE = BANDS | {"SCL": 20}
EPSG, YEAR = 32651, "2021"
MARGIN = 64  # pixels of the tile around the region: windows with their halo lie inside
_CORNER = 859 * 1024, 31 * 1024  # row and column of a corner of blocks, south of Manila
_FIELD, _CLOUD = 32, 128  # sides, pixels
_CLEAR_CLASS, _CLOUD_CLASS = 4, 9
_CLOUDY = 0.2  # share of the land


@dataclass(frozen=True)
class Scene:
    """Items whose files exist, and the region that they cover."""

    items: tuple[Item, ...]
    """One for each acquisition, in order of time."""
    window: Window
    """The region, pixels of the lattice of 10 m."""

    @property
    def lattice(self) -> Lattice:
        """Of the tile's UTM zone."""
        return Lattice(EPSG)

    @property
    def pixels(self) -> int:
        """Of the region."""
        return self.window.height * self.window.width

    def part(self, side: int, dates: int | None = None) -> Scene:
        """The first acquisitions only, all when not given, and a region of the first rows and columns."""
        return Scene(self.items[:dates], Window(self.window.row, self.window.col, side, side))

    def blocks(self, side: int) -> list[Window]:
        """The region in windows of that side."""
        top, left = self.window.row, self.window.col
        steps = ((r, c) for r in range(0, self.window.height, side) for c in range(0, self.window.width, side))
        return [Window(top + r, left + c, side, side) for r, c in steps]

    def plan(self, model: Model, *, block: int, arithmetic: Arithmetic = USUAL) -> Plan:
        """What a run of this region would do."""
        region, periods = region_of(self.window, self.lattice), make_periods(YEAR)
        return make_plan(region, periods, self.items, model, block=block, arithmetic=arithmetic)

    def save(self, folder: Path) -> None:
        """For another process, which takes it with `load`."""
        write_lock(folder / "items.parquet", list(self.items))


def load(folder: Path, side: int) -> Scene:
    """A saved scene, with a region of that many pixels a side."""
    return Scene(tuple(read_lock(folder / "items.parquet")), Window(*_CORNER, side, side))


def make_scene(folder: Path, *, side: int, dates: int, seed: int = 0) -> Scene:
    """Write the files of a tile that reaches some pixels around a region of side x side px."""
    card = load_model("demo-s2").card
    levels = dict(zip(card.bands, zip(card.input_mean, card.input_std, strict=True), strict=True))
    items = []
    for number in range(dates):
        when = f"{YEAR}-{1 + number % 12:02d}-05T02:00:00Z"
        assets = {}
        for band, step in NATIVE.items():
            rng = np.random.default_rng([seed, number, *band.encode()])
            n = (side + 2 * MARGIN) * 10 // step
            values = _classes(rng, n) if band == "SCL" else _digits(rng, n, *levels[band], patch=_FIELD * 10 // step)
            assets[band] = _write(folder / f"{number:02d}-{band}.tif", values, step)
        items.append(
            Item(id=f"S2A_51PTT_{number:02d}", tile="51PTT", acquisition=f"GS2A_{number:02d}", datetime=when,
                 period=YEAR, epsg=EPSG, baseline="05.00", offset_dn=-1000, offset_reason="generated",
                 cloud_cover=100 * _CLOUDY, orbit=1 + number, assets=assets)
        )  # fmt: skip
    return Scene(tuple(items), Window(*_CORNER, side, side))


def narrow(like: Model) -> Model:
    """An untrained network of width 8 with the bands, objects and halo of a model: quick, and it fills the caches."""
    told = replace(like.card, name="narrow", width=8, mid=4, members=1, turns=False, calibration={}, trimmed={})
    torch.manual_seed(0)
    return Model.of(told.build_net(), told)


def without_network(model: Model) -> Model:
    """The same model with almost nothing in the place of its network."""
    free = replace(model)
    free.__dict__["folded"] = MixedBands(model)  # where `Model` keeps it
    return free


class MixedBands(torch.nn.Module):
    """In the place of a network: a mix of the bands of each pixel. It costs almost nothing, so the rest is seen."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        n, bands = len(model.card.objects), len(model.card.bands)
        self.halo, self.objects = model.halo, n
        self.weights = torch.linspace(-1, 1, 2 * n * bands).reshape(2 * n, bands, 1, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        inner = torch.nan_to_num(inputs[:, :, self.halo : -self.halo, self.halo : -self.halo])
        mixed: torch.Tensor = torch.nn.functional.conv2d(inner, self.weights).unflatten(1, (2, self.objects))
        return mixed


def _digits(rng: np.random.Generator, n: int, mean: float, std: float, *, patch: int) -> NDArray[np.uint16]:
    """Fields and noise, about as a model knows the band, with the offset of ESA."""
    fields = _patches(rng.normal(mean, std, (-(-n // patch),) * 2), patch, n)
    reflectance = fields + rng.standard_normal((n, n), np.float32) * np.float32(0.1 * std)
    return np.asarray(np.clip(1e4 * reflectance + 1000, 1, 20_000), np.uint16)


def _classes(rng: np.random.Generator, n: int) -> NDArray[np.uint8]:
    side = _CLOUD // 2
    cloudy = rng.random((-(-n // side),) * 2) < _CLOUDY
    return np.asarray(_patches(np.where(cloudy, _CLOUD_CLASS, _CLEAR_CLASS), side, n), np.uint8)


def _patches(values: NDArray[Any], side: int, n: int) -> NDArray[Any]:
    return np.repeat(np.repeat(values, side, 0), side, 1)[:n, :n]


def _write(path: Path, values: NDArray[Any], step: int) -> Asset:
    """Tiled and compressed as COGs of Sentinel-2 are."""
    row, col = (start - MARGIN for start in _CORNER)
    place = (float(step), 0.0, 10.0 * col, 0.0, -float(step), 10_000_000.0 - 10 * row)
    n = len(values)
    profile = {"driver": "GTiff", "width": n, "height": n, "count": 1, "dtype": values.dtype, "nodata": 0}
    profile |= {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "predictor": 2}
    with rasterio.open(path, "w", crs=f"EPSG:{EPSG}", transform=Affine(*place), **profile) as file:
        file.write(values, 1)
    return Asset(str(path), place, (n, n))
