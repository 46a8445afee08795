"""The workflow that counts the houses of Muenster: on a synthetic clip, and a few steps on the real one."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine

WORKFLOWS = Path(__file__).parents[2] / "workflows"
sys.path.insert(0, str(WORKFLOWS))

import houses_muenster as houses  # noqa: E402

from subpixmap.errors import InputError  # noqa: E402
from subpixmap.model.checkpoint import load_model  # noqa: E402
from subpixmap.reference.reference import make_reference  # noqa: E402
from subpixmap.region.units import read_area  # noqa: E402
from subpixmap.scenes.cube import open_cube  # noqa: E402
from subpixmap.training.metrics import density_errors  # noqa: E402

NUMBERS = {"r2_1ha", "mae_1ha", "total_bias_pct", "n_cells"}
TOP, LEFT = 5758000.0, 403000.0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 84 x 125 px whose houses are bright, and their points."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    rows, cols = 84, 125
    n = 900
    x, y = LEFT + rng.uniform(0, 10 * cols, n).round(), TOP - rng.uniform(0, 10 * rows, n).round()
    row, col = ((TOP - y - 0.5) // 10).astype(int), ((x - LEFT - 0.5) // 10).astype(int)
    dn = rng.normal(800, 20, (4, rows, cols))
    dn += 600 * np.histogram2d(row.clip(0), col.clip(0), bins=(rows, cols), range=((0, rows), (0, cols)))[0]
    transform = Affine(10, 0, LEFT, 0, -10, TOP)
    profile: dict[str, Any] = {"driver": "GTiff", "dtype": "uint16", "crs": "EPSG:32632", "transform": transform}
    with rasterio.open(folder / houses.IMAGE, "w", count=4, height=rows, width=cols, **profile) as clip:
        clip.write(dn.astype(np.uint16))
    points = gpd.GeoDataFrame({"object": ["address"] * n}, geometry=shapely.points(x, y), crs="EPSG:32632")
    points.to_parquet(folder / houses.POINTS)
    return folder


def test_the_clip_becomes_a_catalogue_of_level_1c(data: Path, tmp_path: Path) -> None:
    source = houses.write_catalogue(data / houses.IMAGE, tmp_path)
    (item,) = json.loads(source.read_text())["features"]
    with pytest.raises(InputError, match="--level L1C"):
        open_cube(item["bbox"], 2016, source=str(source))
    cube = open_cube(item["bbox"], 2016, source=str(source), level="L1C")
    assert (cube.attrs["level"], cube.sizes["time"], cube.sizes["band"]) == ("L1C", 1, 4)
    with rasterio.open(data / houses.IMAGE) as clip:
        red = clip.read(3)
    seen = cube["reflectance"].sel(band="B04").isel(time=0).dropna("y", how="all").dropna("x", how="all")
    np.testing.assert_allclose(seen.to_numpy(), red / 10000, rtol=1e-6)


def test_blocks_share_out_the_clip(data: Path, tmp_path: Path) -> None:
    names = houses.cut_blocks(data / houses.IMAGE, tmp_path / "blocks.gpkg")
    assert names == [f"block {k}" for k in range(1, 7)]
    points = gpd.read_parquet(data / houses.POINTS).to_crs(4326)
    made = make_reference(points, read_area(tmp_path / "blocks.gpkg"), "2016", border=1)
    sides = [(int(a.labelled.any(axis=1).sum()), int(a.labelled.any(axis=0).sum())) for a in made.areas]
    assert sides == [(39, 39)] * 6  # labelled, less the pixels that the edges touch


def test_numbers_of_blocks_together_are_those_of_all_their_cells() -> None:
    rng = np.random.default_rng(0)
    truth = [rng.poisson(mean, n).astype(float) for mean, n in ((2, 30), (9, 50))]
    counted = [one + rng.normal(1, 2, one.size) for one in truth]
    parts = []
    for p, r in zip(counted, truth, strict=True):
        total = {"predicted": p.sum(), "reference": r.sum()}
        parts.append(houses._numbers({"1 ha": density_errors(p, r, per_ha=1.0), "total": total}))
    p, r = np.concatenate(counted), np.concatenate(truth)
    whole = density_errors(p, r, per_ha=1.0)
    found = houses.together(parts)
    assert found["n_cells"] == 80
    assert found["r2_1ha"] == pytest.approx(whole["r2"], abs=1e-3)
    assert found["mae_1ha"] == pytest.approx(whole["mae"], abs=1e-2)
    assert found["total_bias_pct"] == pytest.approx(100 * (p.sum() / r.sum() - 1), abs=0.01)


def test_every_method_is_tested_in_every_block(data: Path) -> None:
    found = houses.houses(data, blocks=["block 1", "block 5"], asked={"steps": 2, "threads": 1})
    assert list(found["blocks"]) == ["block 1", "block 5"]
    for methods in (found["overall"], *found["blocks"].values()):
        assert list(methods) == list(houses.METHODS)
        for numbers in methods.values():
            assert set(numbers) == NUMBERS
            assert all(math.isfinite(value) for value in numbers.values())
    (cells,) = {one["n_cells"] for one in found["overall"].values()}  # all methods are judged on the same ones
    assert 28 <= cells <= 32  # of 4 x 4 in each block: labels that move with the shift may leave a corner
    # bright pixels are houses: what is fitted on them beats the mean
    assert found["overall"]["ridge"]["r2_1ha"] > 0.5 > found["overall"]["mean"]["r2_1ha"]


def test_a_folder_without_the_data_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["houses_muenster", "--data", str(tmp_path), "--json", str(tmp_path / "o.json")])
    assert houses.main() == 2
    assert houses.IMAGE in capsys.readouterr().err


@pytest.mark.realdata
def test_a_real_block_is_learnt_end_to_end(real_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data, folder = real_data / "muenster_houses", tmp_path / "out"
    source = houses.write_catalogue(data / houses.IMAGE, tmp_path / "catalogue")
    houses.cut_blocks(data / houses.IMAGE, tmp_path / "blocks.gpkg")
    folder.mkdir()
    numbers = houses.learn_block(data, source, tmp_path / "blocks.gpkg", "block 4", folder, {"steps": 3, "threads": 1})
    assert numbers["mean"]["n_cells"] > 90
    assert "6 areas agree" in caplog.text  # on a shift of 6.7 m to the south
    card = load_model(folder / "block-4.safetensors").card
    assert (card.level, card.evidence) == ("L1C", "sentinel-2")
    assert any("one place" in text for text in card.limits)
    assert any("one acquisition" in text for text in card.limits)
