from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from subpixmap.errors import InputError, Refused
from subpixmap.model.card import Card
from subpixmap.model.checkpoint import Model
from subpixmap.model.domain import out_of_domain
from subpixmap.model.predict import TILE, n_predicted, predict, predict_block
from tests.helpers.cards import lively, small_card

BANDS = ("B02", "B03", "B04", "B08")


def a_model(**changes: Any) -> Model:
    """The shipped shape with a lively random network."""
    torch.manual_seed(0)
    fields = {
        "bands": BANDS,
        "objects": {"coconut": "", "car": ""},
        "input_mean": (0.05,) * 4,
        "input_std": (0.05,) * 4,
        "input_low": (0.0,) * 4,
        "input_high": (0.5,) * 4,
        "width": 128,
        "mid": 32,
        "blocks": 6,
        "halo": 8,
    }
    card = small_card(**{**fields, **changes})
    return Model.of(lively(card.build_net()), card)


def a_scene(rows: int, cols: int) -> np.ndarray:
    """Reflectance with a hole, a missing band and a nodata edge."""
    scene = np.random.default_rng(1).uniform(0.0, 0.4, (4, rows, cols)).astype(np.float32)
    scene[:, 20:29, 30:52] = np.nan
    scene[2, 70:80, 10:14] = np.nan
    scene[:, :, :5] = np.nan
    return scene


def by_blocks(model: Model, scene: np.ndarray, size: tuple[int, int], halo: int | None = None) -> np.ndarray:
    """Count by windows of `size`, each with `halo` pixels of what surrounds it (NaN beyond)."""
    h = model.halo
    halo = h if halo is None else halo
    _, rows, cols = scene.shape
    wide = np.pad(scene, ((0, 0), (h, h), (h, h)), constant_values=np.nan)
    out = np.empty((len(model.card.objects), rows, cols), np.float32)
    for r in range(0, rows, size[0]):
        for c in range(0, cols, size[1]):
            part = wide[:, r : min(r + size[0], rows) + 2 * h, c : min(c + size[1], cols) + 2 * h].copy()
            cut = h - halo
            if cut:
                part[:, :cut], part[:, -cut:], part[:, :, :cut], part[:, :, -cut:] = (np.nan,) * 4
            out[:, r : r + size[0], c : c + size[1]] = predict_block(model, part)[0]
    return out


@pytest.mark.parametrize("size", [(64, 128), (128, 64), (37, 41), (50, 150), (1, 150)])
def test_blockwise_equals_whole_image(size: tuple[int, int]) -> None:
    model, scene = a_model(), a_scene(110, 150)
    if size[0] == 1:
        scene = scene[:, :12]
    whole = by_blocks(model, scene, scene.shape[1:])
    assert np.array_equal(by_blocks(model, scene, size), whole)


def test_a_halo_one_pixel_too_small_differs() -> None:
    model, scene = a_model(), a_scene(110, 150)
    whole = by_blocks(model, scene, scene.shape[1:])
    less = np.abs(by_blocks(model, scene, (55, 75), halo=model.halo - 1) - whole)
    assert less.max() > 1e-4 * np.abs(whole).max()
    assert np.array_equal(by_blocks(model, scene, (55, 75)), whole)


def test_equals_the_network_itself() -> None:
    model, scene = a_model(calibration={}), a_scene(120, 160)
    with torch.inference_mode():
        density, logit = model.net(torch.from_numpy(scene)[None])[0]
    count, presence = predict_block(model, scene)
    assert np.allclose(count, density.numpy(), rtol=0, atol=1e-5 * float(density.abs().max()))
    assert np.allclose(presence, torch.sigmoid(logit).numpy(), atol=1e-5)


def test_calibration_is_applied_unclipped() -> None:
    raw, _ = predict_block(a_model(calibration={}), a_scene(40, 50))
    done, _ = predict_block(a_model(calibration={"car": (0.25, 1.5)}), a_scene(40, 50))
    assert np.array_equal(done[0], raw[0])
    assert np.allclose(done[1], (raw[1] - 0.25) * 1.5, atol=1e-6)
    assert done.min() < 0


def test_constant_input_gives_a_constant_and_nothing_is_nan() -> None:
    model = a_model()
    count, presence = predict_block(model, np.full((4, TILE[0] + 30, TILE[1] + 40), 0.2, np.float32))
    assert np.ptp(count, axis=(1, 2)).max() == np.ptp(presence, axis=(1, 2)).max() == 0
    count, presence = predict_block(model, np.full((4, 40, 40), np.nan, np.float32))
    assert np.isfinite(count).all()
    assert np.isfinite(presence).all()
    assert ((presence >= 0) & (presence <= 1)).all()


def test_tiles_without_a_wanted_pixel_are_not_computed() -> None:
    model, scene = a_model(), a_scene(TILE[0] + 46, TILE[1] + 56)
    whole, rows, cols = predict_block(model, scene), TILE[0] + 30, TILE[1] + 40
    wanted = np.zeros((rows, cols), bool)
    wanted[3, 5] = wanted[-1, -1] = True  # in two of the four tiles
    wanted[3, 5 + TILE[1]] = True  # one column beyond the tile that begins at the first
    got = predict_block(model, scene, wanted=wanted)
    computed = np.zeros((rows, cols), bool)
    computed[: TILE[0], 5 : 5 + TILE[1]] = computed[: TILE[0], -TILE[1] :] = computed[-TILE[0] :, -TILE[1] :] = True
    for values, expected in zip(got, whole, strict=True):
        assert np.array_equal(values, np.where(computed, expected, np.nan), equal_nan=True)
    assert n_predicted(wanted) == 3 * TILE[0] * TILE[1]


@pytest.mark.parametrize("seed", range(3))
def test_tiles_hold_all_wanted_pixels_in_no_more_tiles_than_a_grid_has(seed: int) -> None:
    rng = np.random.default_rng(seed)
    wanted = np.zeros((3 * TILE[0] + 7, 5 * TILE[1]), bool)
    for row, col in rng.integers(0, wanted.shape, (4, 2)):
        wanted[row : row + 40, col : col + 90] = True
    grid = np.pad(wanted, ((0, TILE[0] - 7), (0, 0))).reshape(4, TILE[0], 5, TILE[1]).any(axis=(1, 3)).sum()
    assert wanted.sum() <= n_predicted(wanted) <= grid * TILE[0] * TILE[1]
    got = predict_block(a_model(), np.zeros((4, wanted.shape[0] + 16, wanted.shape[1] + 16), np.float32), wanted=wanted)
    assert np.isfinite(got[0][:, wanted]).all()


def test_no_wanted_pixel_is_no_tile() -> None:
    rows, cols = TILE
    assert n_predicted(np.zeros((rows, cols), bool)) == 0


def test_a_window_of_the_wrong_shape_is_refused() -> None:
    for shape in [(3, 40, 40), (4, 16, 40), (40, 40)]:
        with pytest.raises(InputError, match=r"4.*16"):
            predict_block(a_model(), np.zeros(shape, np.float32))


def test_out_of_domain() -> None:
    scene = np.full((4, 3, 3), 0.2, np.float32)
    scene[1, 0, 0], scene[2, 1, 1], scene[:, 2, 2] = 0.51, -0.01, np.nan
    assert np.argwhere(out_of_domain(a_model(), scene)).tolist() == [[0, 0], [1, 1]]


def a_cube(chunk: int | tuple[int, ...], resolution: float = 10.0) -> xr.Dataset:
    scene = a_scene(90, 130)
    both = np.stack([scene, scene[:, ::-1]])
    valid = np.isfinite(both).all(axis=1)
    valid[0, 50:60, 60:80] = False
    cube = xr.Dataset(
        {"reflectance": (("time", "band", "y", "x"), both), "valid": (("time", "y", "x"), valid)},
        {"time": np.array(["2020-01-01", "2020-01-11"], "M8[ns]"), "band": list(BANDS)}
        | {"x": resolution * np.arange(130), "y": -resolution * np.arange(90)},
    )
    return cube.chunk({"time": 1, "band": 2, "y": chunk, "x": chunk})


@pytest.mark.parametrize("chunk", [64, 33, (83, 7)])
def test_lazy_equals_blocks(chunk: int | tuple[int, ...]) -> None:
    model = a_model()
    cube = a_cube(chunk) if isinstance(chunk, int) else a_cube(200).chunk({"y": chunk})
    out = predict(cube, model)
    assert out["count"].chunks is not None
    assert out["count"].dims == ("object", "time", "y", "x")
    assert out["object"].values.tolist() == ["coconut", "car"]
    out = out.compute(scheduler="synchronous")
    assert np.array_equal(np.isfinite(out["count"].values), np.broadcast_to(cube["valid"].values, out["count"].shape))
    for t in range(2):
        whole = by_blocks(model, cube["reflectance"].values[t], (90, 130))
        got = out["count"].values[:, t]
        assert np.array_equal(got, np.where(cube["valid"].values[t], whole, np.nan), equal_nan=True)
    assert out["presence"].max() <= 1
    assert out.attrs["evidence"] == "simulated"


def test_bands_are_found_by_name() -> None:
    model = a_model()
    shuffled = a_cube(64).isel(band=[3, 1, 0, 2])
    a, b = (predict(c, model).compute(scheduler="synchronous") for c in (a_cube(64), shuffled))
    assert a.identical(b)


def test_a_cube_unlike_the_card_is_refused() -> None:
    with pytest.raises(InputError, match="B08"):
        predict(a_cube(64).isel(band=[0, 1, 2]), a_model())
    with pytest.raises(Refused, match=r"10 m.*120 m"):
        predict(a_cube(64, resolution=120.0), a_model())
    assert predict(a_cube(64, resolution=120.0), a_model(), force=True)["count"].shape == (2, 2, 90, 130)


def test_model_survives_a_pickle_of_its_own(tmp_path: Path) -> None:
    # Workers get models from us by pickle; what is refused is a pickle as a checkpoint file.
    import pickle

    model, scene = a_model(), a_scene(40, 50)
    copy = pickle.loads(pickle.dumps(model))
    assert isinstance(copy.card, Card)
    assert np.array_equal(predict_block(copy, scene)[0], predict_block(model, scene)[0])
