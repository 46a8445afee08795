"""The workflows that count the trees of California: on degraded aerial crops, and the same under Sentinel-2."""

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from scipy import ndimage

from tests.helpers import stac_server

WORKFLOWS = Path(__file__).parents[2] / "workflows"
sys.path.insert(0, str(WORKFLOWS))

import first_real_checkpoint as first  # noqa: E402
import trees_california as trees  # noqa: E402
import trees_california_s2 as trees_s2  # noqa: E402

from subpixmap.errors import InputError  # noqa: E402
from subpixmap.model.card import shipped_models  # noqa: E402
from subpixmap.model.checkpoint import load_model  # noqa: E402
from subpixmap.periods import make_periods  # noqa: E402
from subpixmap.reference.patches import Patches  # noqa: E402
from subpixmap.scenes.source import find_items  # noqa: E402
from subpixmap.simulate.spectra import BAND_FACTS  # noqa: E402

METHODS = {"densitynet", "balanced", "strided", "random_forest", "ridge", "mean"}


def some_folder(folder: Path, cities: tuple[str, ...], *, n: int = 4, seed: int = 0) -> Path:
    """A folder of the format of trees_california: trees are spots, bright in the near infrared."""
    rng = np.random.default_rng(seed)
    rows: list[Any] = []
    points: list[Any] = []
    images: list[Any] = []
    for city in cities:
        for i in range(n):
            crop = len(rows)
            xy = rng.integers(0, 256, (rng.integers(5, 90), 2))
            image = rng.integers(80, 100, (4, 64, 64)).astype(np.uint8)
            image[3, xy[:, 1] // 4, xy[:, 0] // 4] = 250
            images.append(image)
            points += [(crop, x, y) for x, y in xy]
            rows.append((crop, city, 2020, i, len(xy)))
    folder.mkdir()
    pd.DataFrame(rows, columns=["crop", "city", "year", "idx", "n_trees"]).to_csv(folder / "index.csv", index=False)
    pd.DataFrame(points, columns=["crop", "x", "y"]).to_parquet(folder / "trees.parquet")
    np.savez_compressed(folder / "rgbn_2p4m_uint8.npz", images=np.stack(images))
    return folder


def inner(seen: np.ndarray) -> np.ndarray:
    return seen[..., trees.HALO : -trees.HALO, trees.HALO : -trees.HALO]


def call(module: Any, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", [module.__name__, *map(str, arguments)])
    return int(module.main())


def test_degrading_is_a_gaussian_blur_of_the_mirrored_image_at_pixel_centres() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 64, 64), np.uint8)
    half = trees.FINE / 2  # moves the centre of a coarse pixel from a corner of four fine ones into one of them
    seen = trees.degrade(images, trees.View(down=half, right=half))
    assert seen.shape == (2, 4, 16 + 2 * trees.HALO, 16 + 2 * trees.HALO)
    for i, band in enumerate(trees.BANDS):
        sigma = np.sqrt(BAND_FACTS[band].sigma ** 2 - trees.FINE**2 / 12) / trees.FINE
        blurred = ndimage.gaussian_filter(images[:, i] / 255, (0, sigma, sigma), mode="reflect", truncate=9)
        assert inner(seen)[:, i] == pytest.approx(blurred[:, 2::4, 2::4], abs=1e-5)
    # Beyond the crop lies its mirror image.
    plain = trees.degrade(images)
    h = trees.HALO
    assert plain[:, :, :h] == pytest.approx(plain[:, :, 2 * h - 1 : h - 1 : -1], abs=1e-6)
    assert trees.degrade(np.full((1, 4, 64, 64), 51, np.uint8)) == pytest.approx(0.2, abs=1e-6)


def test_pixels_of_a_crop_hold_its_trees() -> None:
    rng = np.random.default_rng(1)
    points = [rng.uniform(0, trees.SIDE, (n, 2)) for n in (0, 1, 40, 200)]
    plain = trees.count_trees(points)
    assert plain.sum((1, 2)) == pytest.approx([0, 1, 40, 200], abs=1e-4)
    one_right = trees.count_trees(points, trees.View(right=trees.COARSE))
    assert one_right[:, :, :-1] == pytest.approx(plain[:, :, 1:], abs=1e-6)
    far = trees.count_trees([np.array([[76.8, 76.8]])], trees.View(zoom=1.1))
    assert far.sum() == pytest.approx(1, abs=1e-5)


def test_trees_stay_on_their_pixels_in_every_view() -> None:
    image = np.zeros((1, 4, 64, 64), np.uint8)
    image[0, :, 22, 15] = 255
    points = [0.6 * (4 * np.array([[15, 22]]) + 2.0)]  # the middle of that fine pixel
    axis = np.arange(16)
    upright = [dataclasses.replace(view, turn=0.0) for view in trees.random_views(6, 0)]
    for view in [trees.View(), *upright]:
        seen, count = inner(trees.degrade(image, view))[0, 0], trees.count_trees(points, view)[0]
        for a in (0, 1):
            centres = [float((m.sum(1 - a) * axis).sum() / m.sum()) for m in (seen, count)]
            assert centres[0] == pytest.approx(centres[1], abs=0.08)  # fine pixels of 1/10, sampling of a narrow blur


def test_trees_turn_with_their_pixels() -> None:
    fine = np.random.default_rng(3).integers(16, 48, (100, 2))
    images = np.zeros((100, 4, 64, 64), np.uint8)
    for image, (col, row) in zip(images, fine, strict=True):
        image[:, row, col] = 255
    points = [0.6 * (4 * one[None] + 2.0) for one in fine]
    axis, views = np.arange(16), trees.random_views(6, 0)
    assert all(view.turn for view in views)
    for view in views:
        seen, count = inner(trees.degrade(images, view))[:, 0], trees.count_trees(points, view)
        for a in (1, 2):
            there, here = ((m.sum(3 - a) * axis).sum(1) / m.sum((1, 2)) for m in (seen, count))
            # Sampling of a narrow blur moves single centres by up to 0.1 pixels, not all of them the same way.
            assert np.abs(there - here).max() < 0.12
            assert (there - here).mean() == pytest.approx(0, abs=0.02)


def test_train_and_evaluate_write_a_card_and_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = some_folder(tmp_path / "data", (*trees.CITIES, "riverside"))
    elsewhere = some_folder(tmp_path / "elsewhere", ("eureka", "bishop"), seed=1)
    model, out = tmp_path / "m.safetensors", tmp_path / "out.json"
    monkeypatch.setattr(trees, "VIEWS", 2)
    quick = ("--steps", 2)
    assert call(trees, monkeypatch, "train", "--data", data, "--model", model, "--members", 2, *quick) == 0
    card = load_model(model).card
    assert (card.evidence, card.resolution, card.halo) == ("degraded-aerial", 9.6, trees.HALO)
    assert card.training["cities"] == sorted(trees.CITIES)
    assert "riverside" not in card.training["data"]
    limits = " ".join(card.limits)
    assert "16 px" in limits
    assert "Riverside" in limits
    assert card.error["tree"]["crop"]["n"] == 4
    assert (card.members, card.turns) == (2, True)
    assert not list(tmp_path.glob("*.state"))

    assert call(trees, monkeypatch, "evaluate", "--data", data, "--model", model, "--json", out, *quick) == 0
    found = json.loads(out.read_text())
    assert set(found) == {"overall", "cities"}
    assert set(found["cities"]) == {"riverside"}
    assert found["overall"] == found["cities"]["riverside"]
    assert set(found["overall"]) == METHODS
    for numbers in found["overall"].values():
        assert set(numbers) == {"total_bias_pct", "mae_per_crop", "r2_per_crop", "r2_per_pixel", "n"}
        assert numbers["n"] == 4
        assert all(isinstance(value, (int, float)) for value in numbers.values())
    assert "densitynet" in capsys.readouterr().out

    arguments = ("--data", elsewhere, "--fit-data", data, "--model", model, "--json", out, *quick)
    assert call(trees, monkeypatch, "evaluate", *arguments) == 0
    found = json.loads(out.read_text())
    assert set(found["cities"]) == {"eureka", "bishop"}
    assert found["overall"]["mean"]["n"] == 8

    assert call(trees, monkeypatch, "evaluate", "--data", tmp_path, "--model", model) == 2
    assert "index.csv, rgbn_2p4m_uint8.npz, trees.parquet" in capsys.readouterr().err
    for city in ("eureka", "bishop"):
        table = pd.read_csv(elsewhere / "index.csv")
        table["city"] = table["city"].replace(city, trees.CITIES[0])
        table.to_csv(elsewhere / "index.csv", index=False)
    assert call(trees, monkeypatch, "evaluate", *arguments) == 2
    assert str(elsewhere) in capsys.readouterr().err


def test_scores_are_those_of_crops_and_pixels() -> None:
    reference = np.random.default_rng(2).uniform(0, 1, (5, 16, 16))
    perfect = trees.score(reference, reference)
    assert perfect == {"total_bias_pct": 0, "mae_per_crop": 0, "r2_per_crop": 1, "r2_per_pixel": 1, "n": 5}
    more = trees.score(1.1 * reference, reference)
    assert more["total_bias_pct"] == pytest.approx(10)
    assert more["mae_per_crop"] == pytest.approx(0.1 * reference.sum() / 5)
    assert trees.score(np.full_like(reference, reference.mean()), reference)["r2_per_pixel"] == pytest.approx(0)


def test_leaving_out_a_city_leaves_its_crops_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crops = trees.read_crops(some_folder(tmp_path / "data", ("a", "b", "c"), n=2))
    fitted: list[tuple[list[str], list[str]]] = []

    def compare(model: Any, others: Any, test: Any, **_: Any) -> Any:
        fitted.append((others.cities, test.cities))
        return {"mean": np.full((len(test.city), 16, 16), len(fitted), np.float32)}

    monkeypatch.setattr(trees, "compare", compare)
    monkeypatch.setattr(trees, "train_model", lambda *_, **__: None)
    counts = trees.leave_one_city_out(crops, trees.RECIPE, strided_steps=1)
    assert fitted == [(["b", "c"], ["a"]), (["a", "c"], ["b"]), (["a", "b"], ["c"])]
    assert counts["mean"][:, 0, 0].tolist() == [1, 1, 2, 2, 3, 3]


def test_recipes_are_compared_quickly_over_cities_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = some_folder(tmp_path / "data", ("a", "b", "c"), n=2), tmp_path / "out.json"
    monkeypatch.setattr(trees, "VIEWS", 2)
    monkeypatch.setattr(trees, "is_fast", lambda: False)
    arguments = ("--data", data, "--leave-one-city-out", "--quick", "--seed", 3, "--steps", 1, "--json", out)
    assert call(trees, monkeypatch, "evaluate", *arguments) == 0
    found = json.loads(out.read_text())
    assert found.keys() == {"overall", "cities", "over_cities"}
    assert found["cities"].keys() == {"a", "b", "c"}
    assert found["over_cities"].keys() == {"densitynet", "balanced", "mean", "ridge"}
    assert capsys.readouterr().out.count("all cities") == 4


def test_a_folder_that_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    data = some_folder(tmp_path / "data", ("a",))
    np.savez_compressed(data / "rgbn_2p4m_uint8.npz", images=np.zeros((4, 3, 64, 64), np.uint8))
    with pytest.raises(InputError, match=r"\(4, 3, 64, 64\)"):
        trees.read_crops(data)
    data = some_folder(tmp_path / "b", ("a",))
    table = pd.read_parquet(data / "trees.parquet")
    table.assign(x=table["x"] + 300).to_parquet(data / "trees.parquet")
    with pytest.raises(InputError, match="0-256"):
        trees.read_crops(data)
    table.assign(crop=table["crop"] + 100).to_parquet(data / "trees.parquet")
    with pytest.raises(InputError, match="4 crops"):
        trees.read_crops(data)


def test_how_bright_a_flight_is_does_not_matter(tmp_path: Path) -> None:
    crops = trees.read_crops(some_folder(tmp_path / "data", ("a", "b"), n=6))
    dull = crops.images // 2
    bright = np.where(crops.city[:, None, None, None] == "b", 3 + 2 * dull, dull)
    views = trees.random_views(2, 0)
    plain, again = (trees.see(dataclasses.replace(crops, images=images), views) for images in (dull, bright))
    np.testing.assert_allclose(again, plain, atol=1e-5)
    at_level = inner(trees.see(crops)[:, 0])[crops.city == "b"]
    np.testing.assert_allclose(at_level.mean((0, 2, 3)), [m for m, _ in trees.LEVEL], atol=1e-4)
    np.testing.assert_allclose(at_level.std((0, 2, 3)), [s for _, s in trees.LEVEL], atol=1e-4)


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.skipif(trees.NAME not in shipped_models(), reason="the checkpoint is not shipped")
def test_the_shipped_checkpoint_is_as_good_as_its_card_says(real_data: Path) -> None:
    model = load_model(trees.NAME)
    test = trees.read_crops(real_data / "trees_california").of(["riverside"])
    found = trees.score(trees.predict_crops(model, trees.see(test)[:, 0]), trees.count_trees(test.points))
    assert found == pytest.approx(model.card.error["tree"]["crop"], rel=2e-3)


@pytest.fixture
def scenes(country: Path, tmp_path: Path) -> Iterator[Any]:
    """A STAC API on localhost that offers the simulated country, and a folder of crops in it, on no pixel's corner."""
    points = gpd.read_parquet(country / "points.parquet").to_crs(32650)
    west, south, east, north = points.total_bounds
    rng = np.random.default_rng(0)
    rows, found = [], []
    for crop in range(6):
        left, bottom = rng.uniform((west + 300, south + 300), (east - 500, north - 500))
        box = (left, bottom, left + 153.6, bottom + 153.6)
        here = points.cx[box[0] : box[2], box[1] : box[3]].geometry
        found += [(crop, x, y) for x, y in zip(here.x, here.y, strict=True)]
        rows.append((crop, ("chico", "riverside")[crop % 2], 2020 + crop // 4, crop, 32650, *box))
    data = tmp_path / "data"
    data.mkdir()
    columns = ["crop", "city", "year", "idx", "epsg", "left", "bottom", "right", "top"]
    pd.DataFrame(rows, columns=columns).to_csv(data / "index.csv", index=False)
    pd.DataFrame(found, columns=["crop", "e", "n"]).to_parquet(data / "trees.parquet")
    everywhere = shapely.box(*gpd.read_parquet(country / "points.parquet").to_crs(4326).total_bounds)
    items = find_items(str(country), everywhere, make_periods("2020-2021"))
    with stac_server.serve(items) as server:
        server.files = Path("/")  # the items' files are read through the server, too
        yield server, data, items[0]["collection"]


def test_the_trees_under_sentinel_2_come_from_a_catalogue(
    scenes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, data, collection = scenes
    monkeypatch.setattr(trees_s2, "MONTHS", tuple(range(1, 13)))
    monkeypatch.setattr(trees_s2, "LEAST_CLEAR", 0.0)
    out = tmp_path / "out"
    arguments = ("--data", data, "--source", server.url, "--collection", collection, "--out", out)
    arguments += ("--years", 2020, 2021, "--dates", 2, "--steps", 2, "--members", 1, "--evidence", "simulated")  # type: ignore[assignment]
    assert call(trees_s2, monkeypatch, *arguments) == 0
    model = load_model(out / "trees-california-s2.safetensors")
    assert (model.card.evidence, model.card.bands) == ("simulated", trees.BANDS)
    assert json.loads((out / "metrics.json").read_text())["tree"]["total"]["reference"] > 0

    patches, h = Patches.load(out / "chico"), trees.HALO
    assert patches.reflectance.shape == (3, 2, 4, 16 + 2 * h, 16 + 2 * h)
    assert patches.names == ("chico-0", "chico-2", "chico-4")
    index, found = trees_s2.read_index(data, (2020, 2021))
    for i, crop in enumerate((0, 2, 4)):
        row = index[index["crop"] == crop].iloc[0]
        # The pixels lie where the catalogue's do: an independent read of one band of one acquisition.
        col, up = int(row["left"] // 10) - h, -int(-row["top"] // 10) + h
        bounds = (10 * col, 10 * (up - 16 - 2 * h), 10 * (col + 16 + 2 * h), 10 * up)
        images = [
            read_band(item, "B08", bounds)
            for item in server.items
            if item["properties"]["datetime"][:4] == str(row["year"])
        ]
        seen = patches.reflectance[i, :, 3].astype(np.float32)
        assert all(any(np.allclose(image, one, rtol=0, atol=1e-3, equal_nan=True) for image in images) for one in seen)
        # The reference holds the trees of the crop that lie well inside, and hardly any other.
        labelled = patches.labelled[i]
        assert 11 <= labelled.any(axis=0).sum() <= 14
        tops, lefts = np.flatnonzero(labelled.any(axis=1)), np.flatnonzero(labelled.any(axis=0))
        west, north = 10 * (col + h + lefts[0]), 10 * (up - h - tops[0])
        x, y = found.get(crop, np.empty((0, 2))).T
        inside = (x >= west) & (x < west + 10 * lefts.size) & (y <= north) & (y > north - 10 * tops.size)
        assert patches.count[i, 0, 0][labelled].sum() == pytest.approx(inside.sum(), abs=3 + 0.1 * inside.sum())

    searches = len(server.searches)
    of_both, others = map(str, arguments[:8]), map(str, arguments[8:])
    assert first.main(["california", *of_both, "--", *others]) == 4  # simulated scenes are no evidence
    assert len(server.searches) == searches  # kept: the catalogue is asked once
    folder = out / "pull-request"
    names = {f"trees-california-s2.{kind}" for kind in ("safetensors", "card.json", "stac.json")}
    assert {path.name for path in folder.iterdir()} == names | {"metrics.json", "metrics.tree.png", "pull-request.md"}
    text = (folder / "pull-request.md").read_text()
    assert "| evidence is sentinel-2 | simulated | **no** |" in text
    assert "| the card names the licence of the points | CC BY 4.0 | yes |" in text
    assert "| tested in areas that taught nothing | riverside | yes |" in text
    assert text.count("| tree | ") == 1 + len(first.BASELINES)


def read_band(item: dict[str, Any], band: str, bounds: tuple[float, ...]) -> np.ndarray:
    key = {"B08": "nir"}[band] if "nir" in item["assets"] else band
    with rasterio.open(item["assets"][key]["href"]) as file:
        col, row = round((bounds[0] - file.transform.c) / 10), round((file.transform.f - bounds[3]) / 10)
        dn = np.pad(file.read(1).astype(float), 500)  # what lies outside the file is nodata
    height, width = round((bounds[3] - bounds[1]) / 10), round((bounds[2] - bounds[0]) / 10)
    dn = dn[500 + row : 500 + row + height, 500 + col : 500 + col + width]
    offset = -1000 if float(item["properties"].get("s2:processing_baseline", "0")) >= 4 else 0
    return np.where(dn > 0, (dn + offset) / 1e4, np.nan)


def test_what_sentinel_2_lacks_is_said(
    scenes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server, data, collection = scenes
    arguments = ("--data", data, "--source", server.url, "--collection", collection, "--out", tmp_path / "out")
    assert call(trees_s2, monkeypatch, *arguments, "--years", 1999) == 2
    assert "1999" in capsys.readouterr().err
    assert call(trees_s2, monkeypatch, *arguments, "--years", 2020, "--test-city", "paris") == 2
    assert "paris" in capsys.readouterr().err
