"""The main job on real Sentinel-2 input, against an independent computation with rasterio and numpy only.

The model is an untrained stand-in: what is proven is that pixels, masks, dates, overlaps, units and files are right.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
import torch

from subpixmap.cli.main import main
from subpixmap.mapping import quantise as encoding
from subpixmap.mapping.store import open_map
from subpixmap.model.card import Card
from subpixmap.model.checkpoint import load_model, save_model
from subpixmap.model.predict import predict_block
from subpixmap.scenes.cube import open_cube

pytestmark = pytest.mark.realdata

BANDS = {"B02": "blue", "B03": "green", "B04": "red", "B08": "nir"}
BOX = (15.7, 45.85, 16.0, 46.2)
DROPPED = (0, 1, 3, 8, 9, 10, 11, 12)  # 12 is no class: a lossy codec made it
WEST, NORTH, STEP = (
    537_780.0,
    5_162_280.0,
    120.0,
)  # the lattice: that of the southern tile, its rows counted on to the north


@pytest.fixture(scope="module")
def collection(real_data: Path) -> Any:
    return real_data / "sentinel2_120m" / "items_120m_fixed.json"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.manual_seed(0)
    card = Card(
        name="stand-in",
        bands=tuple(BANDS),
        objects={"coconut": "an untrained stand-in"},
        measure={"coconut": "count"},
        input_mean=(0.05, 0.07, 0.06, 0.3),
        input_std=(0.03, 0.03, 0.04, 0.1),
        input_low=(0.0,) * 4,
        input_high=(0.6,) * 4,
        evidence="simulated",
        width=16,
        mid=8,
    )
    path = tmp_path_factory.mktemp("model") / "stand-in.safetensors"
    save_model(path, card.build_net(), card)
    return path


@pytest.fixture(scope="module")
def command(collection: Any, model: Any) -> Any:
    return [
        *("run", "--source", str(collection), "--region", ",".join(map(str, BOX)), "--years", "2023"),
        *("--resolution", "120", "--model", str(model), "--workers", "0", "--block", "512", "--quiet"),
    ]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> Any:
    """Exit code of the command line, in this process."""
    monkeypatch.setattr("sys.argv", ["subpixmap", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return end.code or 0
    return 0


@pytest.fixture(scope="module")
def out(command: Any, collection: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("real") / "run"
    with pytest.MonkeyPatch.context() as patch:
        assert call(patch, *command, "--force", "--out", out) == 0
    return out


@pytest.fixture(scope="module")
def independent(collection: Any) -> Any:
    """Per datatake (reflectance (band, y, x), observed (y, x)) on the lattice, with plain rasterio.

    The files hold surface reflectance x 10000 with the offset already taken off (`boa_offset_applied`), whatever their
    `raster:bands` say. The northern tile lies half a pixel off: a lattice pixel takes the tile's pixel that holds its
    centre; the centre lies on a border of two, and the southern counts.
    """
    items = json.loads(collection.read_text())["features"]
    datatakes: defaultdict[Any, dict[Any, Any]] = defaultdict(dict)
    for item in items:
        name = item["properties"]["s2:datatake_id"].rsplit("_N", 1)[0]
        datatakes[name][item["properties"]["mgrs:grid_square"]] = item
    assert len(items) == 10
    assert len(datatakes) == 5
    shape = (1120, 600)
    found = {}
    for name, tiles in datatakes.items():
        layers = {}
        for band, asset in [*BANDS.items(), ("SCL", "scl")]:
            canvas = np.zeros(shape, np.uint16)
            for square in ("WL", "WM"):  # the first tile with data counts
                with rasterio.open(collection.parent / tiles[square]["assets"][asset]["href"]) as file:
                    assert file.transform.c == WEST
                    row = (NORTH - file.transform.f) / STEP
                    top = int(np.floor(row))  # half a row off: the tile moves north by half a pixel
                    part = canvas[top : top + 600]
                    data = file.read(1)
                np.copyto(part, data, where=part == 0)
            layers[band] = canvas
        dn = np.stack([layers[band] for band in BANDS])
        reflectance = np.where(dn > 0, dn / 10_000, np.nan).astype(np.float32)
        found[name] = reflectance, ~np.isin(layers["SCL"], DROPPED) & (dn > 0).all(0)
    return found


def mapped(zone: Any) -> Any:
    """Where the map holds counts: its rows and columns, and those in the independent arrays."""
    rows, cols = np.nonzero(np.isfinite(zone["count"].sel(period="2023", object="coconut").values))
    first_row = round((NORTH - (float(zone.y[0]) + STEP / 2)) / STEP)
    first_col = round((float(zone.x[0]) - STEP / 2 - WEST) / STEP)
    return (rows, cols), (rows + first_row, cols + first_col)


def test_pixel_centres_lie_on_the_lattice_of_the_items(out: Any) -> None:
    zone = open_map(out)[32633]
    assert ((zone.x.values - (WEST + 60)) % STEP == 0).all()
    assert ((zone.y.values - (5_100_000 - 60)) % STEP == 0).all()
    assert (np.diff(zone.y.values) == -STEP).all()
    assert zone.rio.crs.to_epsg() == 32633


def test_observations_are_counted_once_for_each_datatake(out: Any, independent: Any) -> None:
    zone = open_map(out)[32633]
    here, there = mapped(zone)
    n_obs = zone.n_obs.sel(period="2023").values[here]
    assert (n_obs == sum(observed.astype(int) for _, observed in independent.values())[there]).all()
    assert n_obs.max() == 5
    assert len(n_obs) > gpd.GeoSeries([shapely.box(*BOX)], crs=4326).to_crs(32633).area[0] / STEP**2


def test_counts_are_the_mean_of_the_predictions_of_each_datatake(out: Any, independent: Any, model: Any) -> None:
    """Reflectance with the offset not taken off twice, tiles mosaicked, dates predicted one by one."""
    zone = open_map(out)[32633]
    net = load_model(str(model))
    total, n = 0.0, 0
    for reflectance, observed in independent.values():
        padded = np.pad(reflectance, ((0, 0), (8, 8), (8, 8)), constant_values=np.nan)
        count, _ = predict_block(net, padded)
        total = total + np.where(observed, count[0].astype(float), 0)  # type: ignore[assignment]
        n = n + observed
    with np.errstate(invalid="ignore"):
        mean = np.where(n > 0, total / n, np.nan)
    here, there = mapped(zone)
    counts = zone["count"].sel(period="2023", object="coconut").values[here]
    assert np.abs(counts - mean[there]).max() < 1.01 * encoding.STEP
    assert abs(counts.sum(dtype=float) - mean[there].sum()) < 0.02  # half a step for each chunk
    assert np.abs(counts).max() > 1e-3
    # Had the offset of `raster:bands` been taken off again, or the dates been stacked otherwise, this would show:
    reflectance, _ = next(iter(independent.values()))
    assert np.abs(predict_block(net, reflectance - 0.1)[0] - predict_block(net, reflectance)[0]).max() > 1e-3


def test_the_cube_shows_forest_as_dark_as_it_is(collection: Any) -> None:
    cube = open_cube(BOX, 2023, source=str(collection), bands=["B04"], resolution=120)
    assert dict(cube.sizes) == {"time": 5, "band": 1, **{k: cube.sizes[k] for k in "yx"}}
    red = cube.reflectance.where(cube.valid).compute().median().item()
    assert 0.02 < red < 0.06


def test_tables_and_page_say_that_these_are_no_estimates(out: Any) -> None:
    counts = pd.read_parquet(out / "counts.parquet")
    assert counts.unit_id.tolist()[1:] == ["REGION"]
    assert counts.flag[0].split(";") == ["unlike_card", "simulated_evidence"]
    assert counts.evidence[0] == "simulated"
    zone = open_map(out)[32633]
    assert counts.map_total[0] == pytest.approx(unit_sum(zone), rel=1e-9)
    assert "not estimates" in (out / "report.html").read_text()
    for name in ("plan.json", "items.parquet", "counts.csv", "trend.csv", "changes.csv", "manifest.json", "run.log"):
        assert (out / name).is_file()


def test_pixels_of_120_m_do_not_pass_as_10_m(
    command: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    at = command.index("--resolution")
    assert call(monkeypatch, *command[:at], *command[at + 2 :], "--out", tmp_path / "out") == 4
    assert "B02 120 m" in capsys.readouterr().err
    assert not (tmp_path / "out" / "map.zarr").exists()


def unit_sum(zone: Any) -> Any:
    """Coverage-weighted sum over the box, with exactextract on the whole raster in one go."""
    from exactextract import exact_extract

    box = shapely.segmentize(shapely.box(*BOX), 0.01)
    units = gpd.GeoDataFrame({"id": [0]}, geometry=[box], crs=4326).to_crs(32633)
    raster = zone["count"].sel(period="2023", object="coconut").load()
    return exact_extract(raster, units, ["sum"])[0]["properties"]["sum"]


def test_a_second_run_maps_nothing_and_writes_the_same_tables(
    command: Any, out: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {
        name: (out / name).read_bytes() for name in ("counts.csv", "counts.parquet", "trend.csv", "items.parquet")
    }
    ledger = {path: path.stat().st_mtime_ns for path in (out / "ledger").glob("*.json")}
    assert ledger
    assert call(monkeypatch, *command, "--force", "--out", out) == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "ledger").glob("*.json")} == ledger
    assert {name: (out / name).read_bytes() for name in before} == before


def test_units_of_a_file(
    command: Any, out: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two halves add up to the box; units elsewhere are refused."""
    west, south, east, north = BOX
    middle = (west + east) / 2
    halves = [shapely.box(west, south, middle, north), shapely.box(middle, south, east, north)]
    units = gpd.GeoDataFrame({"code": ["01", "02"]}, geometry=shapely.segmentize(halves, 0.01), crs=4326)
    units.to_parquet(tmp_path / "halves.parquet")
    whole = pd.read_parquet(out / "counts.parquet").map_total[0]
    assert call(monkeypatch, "count", out, "--admin", tmp_path / "halves.parquet", "--id-column", "code", "-q") == 0
    counts = pd.read_parquet(out / "counts.parquet")
    assert counts.unit_id.tolist() == ["01", "02", "REGION"]
    assert counts.map_total[:2].sum() == pytest.approx(whole, rel=1e-7)  # their long edges have vertices elsewhere
    units.set_geometry(units.translate(40)).to_parquet(tmp_path / "elsewhere.parquet")
    code = call(monkeypatch, *command, "--force", "--admin", tmp_path / "elsewhere.parquet", "--out", tmp_path / "x")
    assert code == 2
    assert "elsewhere.parquet" in capsys.readouterr().err


def test_a_model_of_another_resolution_is_refused(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *command, "--out", tmp_path / "run") == 4
    error = capsys.readouterr().err
    assert "10 m" in error
    assert "--force" in error
    assert not (tmp_path / "run").exists()
