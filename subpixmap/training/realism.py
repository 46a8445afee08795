"""Compares simulated with real Sentinel-2: band means, spreads, correlations and texture.

In: the folder of real 10 m chips (two dates of wooded farmland in Austria, four bands; a year of monthly composites in
Belgium, nine bands), or the statistics of them that are kept here, and a seed. Out: a table, and composites to look at.
The real places are temperate, the simulated ones tropical plantations, so means may differ; what the simulator lacks
shows in spread and texture: it has no relief and so no shaded slopes, no roads, hedges and streams between the parcels,
and no parcels under two hectares.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from subpixmap.errors import InputError
from subpixmap.scenes.clouds import MaskRule, scl_valid
from subpixmap.simulate.patches import patches
from subpixmap.simulate.spectra import BANDS

_AUSTRIA = "ftw_austria/inference-img.tif"
_BELGIUM = "worldcereal_belgium/worldcereal_preprocessed_inputs.nc"
_BELGIAN_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12")
_NODATA = 65535
_SOURCE = (
    "Statistics of single chips of Sentinel-2 Level-2A at 10 m: two dates of wooded farmland in Austria (sample image "
    "of Fields of The World, MIT) and ten monthly composites of farmland in Belgium, 2020-11 to 2021-10 (WorldCereal "
    "test data, MIT); contains modified Copernicus Sentinel data. Made by subpixmap.training.realism.record."
)


@dataclass(frozen=True)
class Chip:
    """One image of one place."""

    name: str
    bands: dict[str, NDArray[np.float32]]
    """Band -> reflectance (y, x) on the 10 m lattice."""


def real_chips(folder: str | Path) -> list[Chip]:
    """The real chips of `folder` (the data folder's `sentinel2_10m`); months without data are left out."""
    folder = Path(folder)
    for name in (_AUSTRIA, _BELGIUM):
        if not (folder / name).is_file():
            raise InputError(f"{folder / name} is missing; give the folder with real 10 m chips")
    with rasterio.open(folder / _AUSTRIA, driver="GTiff") as source:
        austria = source.read().astype(np.float32) / 10000
    chips = [
        Chip(f"Austria {k + 1}", dict(zip(("B04", "B03", "B02", "B08"), austria[4 * k : 4 * k + 4], strict=True)))
        for k in (0, 1)
    ]
    with warnings.catch_warnings():  # the file holds its coordinates in a way that GDAL does not read
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        year = {band: _belgian(folder / _BELGIUM, band) for band in _BELGIAN_BANDS}
    for month in range(len(year["B02"])):
        bands = {band: stack[month] for band, stack in year.items()}
        if all((image != _NODATA).all() for image in bands.values()):
            named = {band: image.astype(np.float32) / 10000 for band, image in bands.items()}
            chips.append(Chip(f"Belgium {month + 1}", named))
    return chips


def _belgian(path: Path, band: str) -> NDArray[np.floating]:
    with rasterio.open(f"netcdf:{path}:S2-L2A-{band}") as source:
        images: NDArray[np.floating] = source.read()
    return images


def simulated_chips(*, seed: int = 1, number: int = 12, size_px: int = 100, world: str = "base") -> list[Chip]:
    """Clear simulated chips: the clearest acquisition of each place, if 98 % of it is valid."""
    chips: list[Chip] = []
    mask = partial(scl_valid, resolution=10.0, rule=MaskRule())
    places = patches(seed, n_places=4 * number, mask=mask, size_px=size_px, acquisitions=3, world=world)
    for k, patch in enumerate(places):
        clearest = int(patch.valid.mean(axis=(1, 2)).argmax())
        if patch.valid[clearest].mean() > 0.98 and np.isfinite(patch.reflectance[clearest]).all():
            bands = dict(zip(BANDS, patch.reflectance[clearest], strict=True))
            chips.append(Chip(f"simulated {k + 1}", bands))
        if len(chips) == number:
            break
    return chips


def measure(chips: list[Chip]) -> pd.DataFrame:
    """Statistics per chip and band.

    Returns
    -------
    pandas.DataFrame
        Index (chip, band); `mean` and `spread` (standard deviation within the chip) in reflectance; `with_B04` and
        `with_B08` (correlation within the chip); `texture_10m`, `texture_30m` (root mean square difference of pixels
        that far apart, divided by that of unrelated pixels: 0 = smooth, 1 = white noise).
    """
    rows = [
        {"chip": chip.name, "band": band} | _statistics(chip, band)
        for chip in chips
        for band in BANDS
        if band in chip.bands
    ]
    return pd.DataFrame(rows).set_index(["chip", "band"])


def record(folder: str | Path, path: str | Path) -> None:
    """Write the statistics of the real chips of `folder` as JSON: numbers, no pixels."""
    table = measure(real_chips(folder)).round(5).reset_index()
    rows = ",\n".join("  " + json.dumps(row) for row in table.to_numpy().tolist())
    head = f'"source": {json.dumps(_SOURCE)},\n "columns": {json.dumps(list(table.columns))}'
    Path(path).write_text(f'{{{head},\n "rows": [\n{rows}\n ]}}\n', encoding="utf-8")


def recorded() -> pd.DataFrame:
    """Statistics of the real chips as they are kept in the package; as `measure` gives them."""
    kept = json.loads((resources.files("subpixmap.training") / "real_statistics.json").read_text(encoding="utf-8"))
    return pd.DataFrame(kept["rows"], columns=kept["columns"]).set_index(["chip", "band"])


def _statistics(chip: Chip, band: str) -> dict[str, float]:
    image = chip.bands[band].astype(np.float64)
    spread = image.std()

    def beside(other: str) -> float:
        return float(np.corrcoef(image.ravel(), chip.bands[other].ravel())[0, 1])

    def texture(lag: int) -> float:
        along = ((image[:, lag:] - image[:, :-lag]) ** 2).mean() + ((image[lag:] - image[:-lag]) ** 2).mean()
        return float(np.sqrt(along / 2) / (2**0.5 * spread))

    return {
        "mean": float(image.mean()), "spread": float(spread), "with_B04": beside("B04"), "with_B08": beside("B08"),
        "texture_10m": texture(1), "texture_30m": texture(3),
    }  # fmt: skip


def compare(real: pd.DataFrame, simulated: pd.DataFrame) -> pd.DataFrame:
    """Real and simulated statistics side by side.

    Parameters
    ----------
    real, simulated
        What `measure` or `recorded` give.

    Returns
    -------
    pandas.DataFrame
        Index (band, statistic); columns `real`, `simulated` (means over the chips), `difference`, `lowest` and
        `highest` of the single real chips, and `differs`: in words, where simulated and real are more than a quarter
        apart (correlations: 0.15), and whether that is still within the real chips' own range.
    """
    means = simulated.groupby("band").mean().to_dict()
    rows = []
    of_band = real.index.get_level_values("band")
    for band in [b for b in BANDS if b in of_band]:
        single = real[of_band == band]
        for name in single.columns:
            a, b = float(single[name].mean()), means[name][band]
            low, high = float(single[name].min()), float(single[name].max())
            rows.append((band, name, a, b, b - a, low, high, _in_words(name, a, b, low, high)))
    columns = ["band", "statistic", "real", "simulated", "difference", "lowest", "highest", "differs"]
    return pd.DataFrame(rows, columns=columns).set_index(["band", "statistic"])


def _in_words(name: str, real: float, simulated: float, lowest: float, highest: float) -> str:
    correlation = name.startswith("with")
    if abs(simulated - real) <= (0.15 if correlation else 0.25 * real):
        return ""
    size = f"{simulated - real:+.2f}" if correlation else f"{simulated / real - 1:+.0%}"
    return size + ("" if lowest <= simulated <= highest else ", outside the real chips")


def composite(
    chip: Chip, bands: tuple[str, str, str] = ("B04", "B03", "B02"), *, white: float = 0.25
) -> NDArray[np.uint8]:
    """A picture (y, x, 3) of three bands; `white` is the reflectance shown as full. Near infrared: B08, B04, B03."""
    stack = np.stack([chip.bands[band] for band in bands], axis=-1)
    result: NDArray[np.uint8] = (np.clip(stack / white, 0, 1) ** (1 / 1.6) * 255).astype(np.uint8)
    return result
