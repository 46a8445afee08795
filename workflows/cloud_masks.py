"""Compares two cloud masks: scene classes, and the network of `--mask learned`.

    python workflows/cloud_masks.py simulated KEPT --world base --seed 1 --acquisitions 5
    python workflows/cloud_masks.py real DATA --picture docs/images/cloud-masks-real.jpg

`simulated` renders a place of 12.8 km whose clouds and shadows are known (KEPT holds it for the next time) and prints
what each mask finds, and what it takes for cloud on clear ground. `real` compares both on Level-2A items of 120 m.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rasterio
import shapely
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from subpixmap.grid import Window
from subpixmap.model.clouds import FOUR, SIDE, SIX, Cells, Network, read_valid
from subpixmap.periods import make_periods
from subpixmap.report.colours import style
from subpixmap.scenes.clouds import MaskRule, scl_valid
from subpixmap.scenes.cube import read_reflectance
from subpixmap.scenes.items import by_acquisition, lock_items
from subpixmap.scenes.lattices import lattices
from subpixmap.scenes.source import find_items
from subpixmap.simulate.ground import Frame
from subpixmap.simulate.landcover import Landscape
from subpixmap.simulate.patches import COVERS, cover_of, stacked
from subpixmap.simulate.render import make_site, render
from subpixmap.simulate.schedule import schedule
from subpixmap.simulate.sky import make_sky
from subpixmap.simulate.spectra import BANDS
from subpixmap.simulate.worlds import OBJECTS, get_world

SCL_NAMES = {
    0: "no data", 1: "saturated", 2: "dark", 3: "cloud shadow", 4: "vegetation", 5: "not vegetated", 6: "water",
    7: "unclassified", 8: "cloud, medium", 9: "cloud, high", 10: "cirrus", 11: "snow",
}  # fmt: skip
OPAQUE, SHADED, CLEAR = 0.28, 0.33, 0.02
"""From this opacity a pixel is under cloud, from this loss of light in shadow; below the last of both it is clear."""
FAR_M = 500.0
"""False clouds are counted this far from every cloud and shadow, metres."""
BRIGHT = 0.155
"""Reflectance in B02 from which ground is bright: roofs, sand, parking lots."""


def place(folder: Path, world: str, seed: int, scenes: int, size: int) -> dict[str, NDArray[Any]]:
    """A simulated place, seen from the cloudiest to nearly the clearest of 24 overpasses."""
    kept = folder / f"{world}-{seed}-{scenes}-{size}.npz"
    if kept.exists():
        return dict(np.load(kept))
    landscape = Landscape(2**33 + seed, get_world(world), OBJECTS)
    frame = Frame(-size * 5.0, size * 5.0, size, size, lambda x, y: (x, y), lambda x, y: (x, y))
    where: dict[str, Any] = {"lon": 119.5, "lat": 10.5, "world": landscape.world, "half_m": 3000}
    dates = [one for one in schedule(landscape.seed, years=(2019, 2021), per_year=8, **where) if one.edge is None]
    dates.sort(key=lambda one: -one.cloud_share)
    dates = [dates[i] for i in np.linspace(0, len(dates) - 2, scenes).astype(int)]
    pictures = list(render(make_site(landscape, frame), dates))
    skies = [make_sky(frame, date) for date in dates]
    made: dict[str, Any] = {
        "refl": np.stack([stacked(picture) for picture in pictures]).astype(np.float16),
        "scl": np.stack([picture.scl.repeat(2, 0).repeat(2, 1) for picture in pictures]),
        "cloud": np.stack([sky.cloud for sky in skies]).astype(np.float16),
        "shadow": np.stack([sky.shadow for sky in skies]).astype(np.float16),
        "share": np.array([date.cloud_share for date in dates]),
        "cover": cover_of(landscape, frame),
    }
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(kept, **made)
    return made


def learned(reflectance: NDArray[np.float32], network: Network, cells: Cells) -> tuple[NDArray[Any], NDArray[Any]]:
    """Scene classes and valid pixels of the network at 10 m, for whole cells inside an image."""
    n = (min(reflectance.shape[1:]) - 2 * cells.margin) // cells.core
    classes = np.empty((n * cells.core,) * 2, np.uint8)
    valid = np.empty(classes.shape, bool)
    for row, col in np.ndindex(n, n):
        top, left = row * cells.core, col * cells.core
        tile = network.classes(reflectance[:, top : top + cells.side, left : left + cells.side])
        to = slice(top, top + cells.core), slice(left, left + cells.core)
        at = np.ix_(cells.in_tile, cells.in_tile)
        classes[to], valid[to] = tile[at], scl_valid(tile, 10.0 * cells.side / SIDE, MaskRule())[at]
    return classes, valid


def simulated(there: dict[str, NDArray[Any]], bands: tuple[str, ...]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """By scene: what is found of clouds and shadows. By ground: what is taken for them far from any."""
    cells, network = Cells.of(10.0), Network.of(bands, "L2A")
    pick = [BANDS.index(band) for band in network.bands]
    scenes, grounds = [], []
    for number, image in enumerate(there["refl"]):
        classes, valid = learned(image[pick].astype(np.float32), network, cells)
        m, n = cells.margin, len(classes)
        part = slice(m, m + n), slice(m, m + n)
        scl, cover = there["scl"][number][part], there["cover"][part]
        cloud = there["cloud"][number].astype(np.float32)[part]
        shadow = there["shadow"][number].astype(np.float32)[part] * (1 - cloud)
        clear = (cloud < CLEAR) & (shadow < CLEAR)
        masked = {"learned": ~valid, "scl": ~scl_valid(scl, 10.0, MaskRule())}
        masked["both"] = masked["learned"] | masked["scl"]
        row: dict[str, float] = {"clouds": float(there["share"][number])}
        for kind, pixels in {"cloud": cloud > OPAQUE, "shadow": (shadow > SHADED) & (cloud <= OPAQUE)}.items():
            row[f"{kind}_px"] = pixels.sum()
            row[f"{kind}, class"] = (classes[pixels] != 5).mean()
            row |= {f"{kind}, {name}": mask[pixels].mean() for name, mask in masked.items()}
        row |= {"clear_px": clear.sum()} | {f"clear, {name}": mask[clear].mean() for name, mask in masked.items()}
        scenes.append(row)
        far = distance_transform_edt(clear) * 10 > FAR_M
        covers = {name: cover == COVERS.index(name) for name in dict.fromkeys(COVERS)}
        covers["bright"] = image[BANDS.index("B02")].astype(np.float32)[part] > BRIGHT
        for name, pixels in covers.items():
            here = pixels & far
            called = {"learned cloud": classes == 9, "learned shadow": classes == 3}
            called |= {"scl cloud": np.isin(scl, (8, 9, 10)), "scl shadow": scl == 3}
            grounds.append({"ground": name, "px": here.sum()} | {k: v[here].sum() for k, v in called.items()})
    by_ground = pd.DataFrame(grounds).groupby("ground").sum()
    shares = by_ground.drop(columns="px").div(by_ground["px"], axis=0).mul(100)
    return pd.DataFrame(scenes), pd.concat([by_ground["px"], shares], axis=1)


def pooled(scenes: pd.DataFrame) -> pd.Series:
    """Shares over all scenes, weighted by their pixels."""
    names = [name for name in map(str, scenes) if ", " in name]
    return pd.Series({name: np.average(scenes[name], weights=scenes[name.split(",")[0] + "_px"]) for name in names})


def real(data: Path) -> tuple[pd.DataFrame, list[tuple[str, NDArray[Any], NDArray[Any], NDArray[Any]]]]:
    """Of each scene class, what the network calls it, percent; and per date picture, scene classes, network."""
    path = data / "sentinel2_120m" / "items_120m_fixed.json"
    found = find_items(str(path), shapely.box(-180, -90, 180, 90), make_periods(2023))
    items = lock_items(found, make_periods(2023), FOUR)
    (lattice,) = lattices(items, 120.0).values()
    bounds = np.array([item.bounds for item in items])
    window = lattice.window((*bounds[:, :2].min(axis=0), *bounds[:, 2:].max(axis=0)))
    counts: dict[int, NDArray[np.int64]] = {}
    shown = []
    for group in by_acquisition(items).values():
        image = read_reflectance(group, lattice, window, FOUR)
        scl = np.zeros(window.shape, np.uint8)
        for code in range(1, 12):
            only = MaskRule(drop=tuple(c for c in range(256) if c != code), dilate=())
            scl[read_valid(group, lattice, window, only)] = code
        network = np.full(window.shape, 5, np.uint8)
        for code in (9, 3, 0):
            network[~read_valid(group, lattice, window, MaskRule((code,), (), by="learned"), bands=FOUR)] = code
        there = np.isfinite(image).all(axis=0)
        for code in np.unique(scl[there]):
            here = network[there & (scl == code)]
            counts[code] = counts.get(code, 0) + np.array([(here == c).sum() for c in (5, 9, 3)])
        shown.append((group[0].datetime[:10], image, scl, np.where(there, network, 0)))
    table = pd.DataFrame(counts, index=["clear", "cloud", "shadow"]).T.sort_index()
    px = table.sum(axis=1)
    table = table.div(px, axis=0).mul(100).assign(px=px, scl=[SCL_NAMES.get(code, "?") for code in table.index])
    return table, shown


def clear_days(data: Path) -> pd.DataFrame:
    """What the network calls clear real images of 10 m, percent; around them it sees them mirrored."""
    cells, rows = Cells.of(10.0), []
    images = {
        "fields, Austria, first date": ("sentinel2_10m/ftw_austria/inference-img.tif", (3, 2, 1, 4), "L2A"),
        "fields, Austria, second date": ("sentinel2_10m/ftw_austria/inference-img.tif", (7, 6, 5, 8), "L2A"),
        "city, Muenster": ("muenster_houses/sentinel2_l1c_2016.tif", (1, 2, 3, 4), "L1C"),
    }
    for name, (file, bands, level) in images.items():
        with rasterio.open(data / file) as dataset:
            image = dataset.read(bands).astype(np.float32) / 10000
        height, width = (min(side, cells.side) for side in image.shape[1:])
        around = (0, 0), (0, cells.side - height), (0, cells.side - width)
        tile = Network.of(FOUR, level).classes(np.pad(image[:, :height, :width], around, mode="symmetric"))
        at = ((np.arange(cells.side) + 0.5) * SIDE / cells.side).astype(np.intp)
        called = tile[np.ix_(at[:height], at[:width])]
        bright = image[0, :height, :width] > BRIGHT
        shares = {"cloud": 100 * (called == 9).mean(), "shadow": 100 * (called == 3).mean()}
        rows.append(
            {"image": name, **shares, "bright_px": bright.sum(), "of bright": 100 * (called[bright] != 5).mean()}
        )
    return pd.DataFrame(rows)


def draw(shown: list[tuple[str, NDArray[Any], NDArray[Any], NDArray[Any]]], part: Window, path: Path) -> None:
    """Side by side: the land in true colour, what scene classes call cloud and shadow, what the network does."""
    colours = np.array([[0.85, 0.85, 0.85], [0.16, 0.35, 0.25], [1.0, 1.0, 1.0], [0.35, 0.2, 0.55], [0.5, 0.8, 1.0]])
    kinds = np.ones(256, np.intp)
    kinds[[0, 1]], kinds[[8, 9, 10]], kinds[3], kinds[11] = 0, 2, 3, 4
    at = slice(part.row, part.row + part.height), slice(part.col, part.col + part.width)
    with style():
        figure = Figure(figsize=(7.2, 2.55 * len(shown)), layout="constrained")
        panels = figure.subplots(len(shown), 3, squeeze=False)
        for row, (day, image, scl, network) in zip(panels, shown, strict=True):
            rgb = np.nan_to_num(image[[2, 1, 0]][:, *at].transpose(1, 2, 0), nan=0.85) / 0.25
            for panel, values, title in zip(
                row, (np.clip(rgb, 0, 1) ** 0.7, colours[kinds[scl[at]]], colours[kinds[network[at]]]),
                (day, "scene classes", "network"), strict=True,
            ):  # fmt: skip
                panel.imshow(values, interpolation="nearest")
                panel.set_title(title)
                panel.set_axis_off()
        figure.supxlabel(
            "white: cloud; purple: shadow; blue: snow; green: clear; grey: no data. Contains modified Copernicus "
            "Sentinel data 2023.", fontsize=6,
        )  # fmt: skip
        figure.savefig(path, dpi=130, pil_kwargs={"quality": 85} if path.suffix == ".jpg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("simulated", "real"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--world", default="base")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--acquisitions", type=int, default=5)
    parser.add_argument("--size", type=int, default=1280)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--days", default="2023-08-10,2023-08-13,2023-08-18")
    options = parser.parse_args()
    if options.what == "real":
        table, shown = real(options.folder)
        print(f"{table.round(1).to_string()}\n\n{clear_days(options.folder).round(1).to_string()}")
        if options.picture:
            height, width = shown[0][2].shape
            some = [one for one in shown if one[0] in options.days.split(",")]
            draw(some, Window(height // 3, width // 3, 260, 260), options.picture)
        return
    there = place(options.folder, options.world, options.seed, options.acquisitions, options.size)
    for bands in (FOUR, SIX):
        scenes, grounds = simulated(there, bands)
        print(f"\n{len(bands)} bands, by scene\n{scenes.round(3).to_string()}")
        print(f"\npooled\n{pooled(scenes).round(3).to_string()}")
        print(f"\nfar from clouds, percent of the ground\n{grounds.round(2).to_string()}")


if __name__ == "__main__":
    main()
