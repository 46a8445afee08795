"""The stages of the detector in one picture: imagery, labelled boxes, points, count map, and what a model predicts.

    python workflows/detector_figure.py simulated COUNTRY PLACES DETECTOR PICTURE.png [--place NAME]
    python workflows/detector_figure.py neon DIR DETECTOR PICTURE.png

PLACES is a folder of `more_highres` of the country. The prediction is that of the shipped `demo-s2-v2` on the simulated
Sentinel-2 of the country, a mean over its acquisitions; NEON tiles have none.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from subpixmap import load_model, open_cube, predict
from subpixmap.detection.images import Image, open_image
from subpixmap.detection.labels import read_labels
from subpixmap.grid import Lattice, Window, transformer, utm_epsg
from subpixmap.reference.countmap import count_map
from subpixmap.report.colours import DENSITY, style
from subpixmap.verbs.detect import detect


def draw(
    image: Image, boxes: NDArray[np.floating], points: gpd.GeoDataFrame, path: Path, *, stretch: float,
    prediction: NDArray[np.floating] | None, lattice: Lattice, window: Window,
) -> None:  # fmt: skip
    """Panels side by side, all of the same land."""
    pixels, valid = image.read(image.window)
    picture = np.where(valid[..., None], np.clip(pixels[:3].transpose(1, 2, 0) / stretch, 0, 1), 1.0)
    col, row = image.pixels(points.geometry.x.to_numpy(), points.geometry.y.to_numpy())
    x, y = transformer(4326, lattice.epsg).transform(points.geometry.x.to_numpy(), points.geometry.y.to_numpy())
    counted = count_map(x, y, lattice, window)
    titles = ["imagery", f"{len(boxes)} labelled", f"{len(points)} detected", f"count map: {counted.sum():.1f}"]
    maps = [counted] if prediction is None else [counted, prediction]
    if prediction is not None:
        titles.append(f"predicted: {prediction.sum():.0f}")
    with style():
        figure = Figure(figsize=(3 * len(titles), 3.3), layout="constrained")
        panels = np.atleast_1d(figure.subplots(1, len(titles)))
        for panel, title in zip(panels, titles, strict=True):
            panel.set_title(title)
            panel.set_xticks([])
            panel.set_yticks([])
            panel.grid(False)
        for panel in panels[:3]:
            panel.imshow(picture)
        for x0, y0, x1, y1 in boxes:
            panels[1].add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, color="#f0e442", linewidth=0.7))
        panels[2].plot(col, row, ".", color="#f0e442", markersize=6, markeredgecolor="black", markeredgewidth=0.4)
        panels[2].set_xlim(panels[0].get_xlim())
        panels[2].set_ylim(panels[0].get_ylim())
        top = max(float(one.max()) for one in maps)
        for panel, values in zip(panels[3:], maps, strict=True):
            shown = panel.imshow(values, cmap=DENSITY, vmin=0, vmax=top)
        figure.colorbar(shown, ax=list(panels[3:]), shrink=0.8, label="objects per 10 m pixel")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=80)


def look(image: Path, detector: Path, day: str) -> gpd.GeoDataFrame:
    """Points of an image."""
    with tempfile.TemporaryDirectory() as folder:
        points = Path(folder) / "points.parquet"
        detect([image], detector, points, image_date=day, workers=0, quiet=True)
        return gpd.read_parquet(points)


def on_lattice(image: Image) -> tuple[Lattice, Window]:
    """The 10 m pixels that hold an image."""
    corners = np.array([[0, image.width], [0, image.height]], float)
    lon, lat = image.lonlat(*corners)
    epsg = int(utm_epsg(lon[:1], lat[:1])[0])
    x, y = transformer(4326, epsg).transform(lon, lat)
    lattice = Lattice(epsg)
    return lattice, lattice.window((x.min(), y.min(), x.max(), y.max()))


def simulated(country: Path, places: Path, detector: Path, path: Path, name: str) -> None:
    areas = gpd.read_parquet(places / "areas.parquet").set_index("place")
    day = str(areas.loc[name, "image_date"])
    image = open_image(places / f"{name}.tif", image_date=day)
    objects = ("coconut", "oil_palm")
    table = gpd.read_parquet(places / "labels.parquet")
    own = table[(table["place"] == name) & table["object"].isin(objects)]
    half = own["radius_m"].to_numpy() / image.resolution
    middle = np.column_stack(image.pixels(own.geometry.x.to_numpy(), own.geometry.y.to_numpy()))
    boxes = np.column_stack([middle - half[:, None], middle + half[:, None]])
    lattice, window = on_lattice(image)
    model: Any = load_model("demo-s2-v2")
    cube = open_cube(tuple(areas.loc[name, "geometry"].buffer(0.002).bounds), day[:4], source=str(country))
    counts = predict(cube, model)["count"].sel(object=list(objects)).sum("object").mean("time")
    x, y = lattice.coords(window)
    prediction = counts.sel(x=x, y=y, method="nearest").to_numpy()
    draw(
        image, boxes, look(image.path, detector, day), path, stretch=110, prediction=prediction,
        lattice=lattice, window=window,
    )  # fmt: skip


def neon(folder: Path, detector: Path, path: Path) -> None:
    image = open_image(folder / "OSBS_029.tif", image_date="2019")
    labels = read_labels(folder / "OSBS_029.csv", [image], same_object="tree")[0]
    lattice, window = on_lattice(image)
    draw(
        image, labels.boxes, look(image.path, detector, "2019"), path, stretch=255, prediction=None,
        lattice=lattice, window=window,
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("simulated", "neon"))
    parser.add_argument("paths", type=Path, nargs="+", help="as above")
    parser.add_argument("--place", default="place_1")
    options = parser.parse_args()
    if options.kind == "simulated":
        country, places, detector, path = options.paths
        simulated(country, places, detector, path, options.place)
    else:
        folder, detector, path = options.paths
        neon(folder, detector, path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
