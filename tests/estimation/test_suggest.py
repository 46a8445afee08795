"""The choice of areas to label next, by arithmetic; and the whole verb on a tiny run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest

from subpixmap.errors import InputError, Refused
from subpixmap.estimation.suggest import REASONS, suggest_areas
from subpixmap.mapping.run import map_region
from subpixmap.model.checkpoint import Model, save_model
from subpixmap.model.opinions import area_features, opinions, pixel_features
from subpixmap.model.predict import predict_block
from subpixmap.runfolder import RunUnits, write_units
from subpixmap.verbs.suggest import suggest
from tests.helpers.mapping_data import Tiny, tiny, tiny_model


def test_distance_covers_the_points_as_k_centre_greedy_does() -> None:
    rng = np.random.default_rng(3)
    points, known = rng.normal(size=(40, 3)), rng.normal(size=(2, 3))
    found = suggest_areas(points, np.zeros(40), np.zeros(40), 6, known=known, by="distance")
    scaled, centres, expected = points / points.std(axis=0), list(known / points.std(axis=0)), []
    for _ in range(6):
        nearest = np.min([np.linalg.norm(scaled - one, axis=1) for one in centres], axis=0)
        expected.append(int(np.argmax(nearest)))
        centres.append(scaled[expected[-1]])
        assert found.distance[len(expected) - 1] == pytest.approx(nearest[expected[-1]])
    assert found.index.tolist() == expected
    assert found.reason == ["distance"] * 6


def test_areas_that_look_alike_are_not_all_taken() -> None:
    """Two kinds of land; the opinions differ most on the first twelve areas, which all look the same."""
    features = np.array([[0.0, 1.0]] * 12 + [[5.0, 1.0]] * 8)
    disagreement, share = np.array([9.0] * 12 + [1.0] * 8), np.ones(20)
    by_one = suggest_areas(features, disagreement, share, 2, by="disagreement")
    by_all = suggest_areas(features, disagreement, share, 2)
    assert by_one.index.tolist() == [0, 1]
    assert by_all.index.tolist() == [0, 12]
    assert by_all.reason == ["disagreement", "distance"]
    assert np.isnan(by_all.distance[0])
    assert by_all.distance[1] == pytest.approx(5 / np.std(features[:, 0]))


def test_the_share_of_the_total_leads_where_it_is_asked_for() -> None:
    share = np.array([0.1, 0.4, 0.2, 0.3])
    assert suggest_areas(np.eye(4), np.zeros(4), share, 3, by="share").index.tolist() == [1, 3, 2]


@pytest.mark.parametrize(
    ("n", "by", "told"), [(5, "all", "--n 5: give 1 to 4"), (0, "all", "--n 0"), (1, "luck", "--by")]
)
def test_what_cannot_be_chosen_is_refused(n: int, by: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        suggest_areas(np.eye(4), np.zeros(4), np.zeros(4), n, by=by)


# The whole verb -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def country(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("scenes")
    model = save_model(folder / "tiny.safetensors", (one := tiny_model(members=2)).net, one.card)
    return tiny(folder, years="2021", dates=2, size_px=220, region_px=(150, 180), model=model)


@pytest.fixture(scope="module")
def mapped(country: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    map_region(out, country.plan(), country.items, country.model, workers=0)
    write_units(out, RunUnits(country.region.units, "test", "1"))
    return out


def options(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {"output": tmp_path / "areas.gpkg", "side": 160.0, "looks": 20, "quiet": True, **more}


def test_areas_are_suggested_with_their_reasons(mapped: Path, country: Tiny, tmp_path: Path) -> None:
    model = str(tmp_path / "tiny.safetensors")
    save_model(model, country.model.net, country.model.card)
    table = suggest(mapped, n=5, model=model, **options(tmp_path))
    written = gpd.read_file(tmp_path / "areas.gpkg")
    assert written["cell_id"].tolist() == table["cell_id"].tolist()
    assert written["area"].tolist() == [1, 2, 3, 4, 5]
    assert set(written["reason"]) <= set(REASONS)
    assert written["why"].str.len().min() > 20
    assert (tmp_path / "areas.png").read_bytes().startswith(b"\x89PNG")
    assert len(set(written["cell_id"])) == 5
    assert (written["deviation_coconut"] > 0).all()
    sizes = written.to_crs(int(written["cell_id"][0][:5])).area
    np.testing.assert_allclose(sizes, 160**2, rtol=1e-3)
    assert suggest(mapped, n=5, model=model, **options(tmp_path)).equals(table)  # the same areas each time
    # nothing is suggested on land that is labelled
    done = tmp_path / "done.gpkg"
    table[["geometry"]].to_file(done)
    more = suggest(mapped, n=5, model=model, labelled=done, **options(tmp_path))
    assert not set(more["cell_id"]) & set(table["cell_id"])
    assert more["distance"].notna().all()


def test_more_areas_than_the_map_holds_are_refused(mapped: Path, country: Tiny, tmp_path: Path) -> None:
    model = str(tmp_path / "tiny.safetensors")
    save_model(model, country.model.net, country.model.card)
    with pytest.raises(InputError, match=r"--n 4000: the map of 2021 has only \d+ areas of 160 m"):
        suggest(mapped, n=4000, model=model, **options(tmp_path))
    with pytest.raises(InputError, match=r"--side 163: the side of a cell must be a whole number of pixels"):
        suggest(mapped, model=model, **options(tmp_path, side=163))
    with pytest.raises(InputError, match="--period 2020: the run has 2021"):
        suggest(mapped, model=model, period="2020", **options(tmp_path))
    with pytest.raises(InputError, match=r"end in \.gpkg"):
        suggest(mapped, model=model, **options(tmp_path, output=tmp_path / "areas.shp"))
    with pytest.raises(Refused, match="is not the model of this run"):
        suggest(mapped, model="demo-s2", **options(tmp_path))
    assert not (tmp_path / "areas.gpkg").exists()


def test_opinions_are_those_of_the_networks_or_of_the_turns_of_the_only_one(country: Tiny) -> None:
    rng = np.random.default_rng(0)
    halo = country.model.halo
    seen = rng.random((2, 3, 20 + 2 * halo, 20 + 2 * halo)).astype(np.float32)
    found = opinions(country.model, seen)
    assert found.shape == (2, 2, 2, 20, 20)
    for k, net in enumerate(country.model.net.members):  # type: ignore[arg-type]
        alone = Model.of(net, replace(country.model.card, members=1))
        for i, one in enumerate(seen):
            np.testing.assert_allclose(found[k, i], predict_block(alone, one)[0], atol=1e-5)
    turned = opinions(alone, seen)
    assert turned.shape == (8, 2, 2, 20, 20)
    np.testing.assert_allclose(turned[0, 1], predict_block(alone, seen[1])[0], atol=1e-5)
    back = opinions(alone, np.rot90(seen, 1, (-2, -1)))
    np.testing.assert_allclose(turned[1], np.rot90(back[0], -1, (-2, -1)), atol=1e-5)
    clear = np.zeros((2, 20, 20), bool)
    clear[:, 3:9, 4:5] = True
    features = pixel_features(country.model, seen)
    expected = features[:, :, 3:9, 4].mean(axis=2)
    np.testing.assert_allclose(area_features(country.model, seen, clear), expected, atol=1e-5)
    heads = [net.heads for net in country.model.folded.members]  # type: ignore[union-attr]
    assert features.shape == (2, sum(head.in_channels for head in heads), 20, 20)
