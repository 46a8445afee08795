"""Features of cells against plain NumPy on each cell; land like and unlike the training; cards with and without it."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from subpixmap.errors import InputError
from subpixmap.model.checkpoint import Model, load_model, save_model
from subpixmap.model.domain import out_of_domain
from subpixmap.model.likeness import CELL, FAR, Likeness, cell_features
from subpixmap.reference.patches import Patches
from subpixmap.training.inputs import fit_likeness, with_likeness
from tests.helpers.cards import small_card

BANDS = ("B02", "B08")
HALO = 4


def land(seed: int, side: int = 64, *, smooth: float = 0.0, shared: float = 0.5) -> NDArray[np.float32]:
    """(band, y, x) of noise with a spread of 0.02, smoothed or not, of which the bands share a part."""
    rng = np.random.default_rng(seed)
    base, own = rng.normal(size=(1, side, side)), rng.normal(size=(2, side, side))
    noise = shared * base + (1 - shared) * own
    if smooth:
        noise = gaussian_filter(noise, (0, smooth, smooth))
    noise *= 0.02 / noise.std()
    return (np.array([0.06, 0.3])[:, None, None] + noise).astype(np.float32)


def places(seeds: range, **how: Any) -> Patches:
    side = 64
    scenes = np.stack([land(seed, side + 2 * HALO, **how) for seed in seeds])[:, None].astype(np.float16)
    valid = np.ones((len(scenes), 1, side, side), bool)
    count = np.zeros((len(scenes), 1, 1, side, side), np.float32)
    return Patches(scenes, valid, count, valid[:, 0], BANDS, ("coconut",))


@pytest.fixture(scope="module")
def likeness() -> Likeness:
    found = fit_likeness(places(range(100, 140)), places(range(200, 220)))
    assert found is not None
    return found


def a_model(likeness: Likeness | None = None) -> Model:
    changes = {} if likeness is None else {"likeness": likeness.as_json()}
    card = small_card(input_low=(-1.0, -1.0), input_high=(2.0, 2.0), **changes)
    return Model.of(card.build_net(), card)


def test_features_are_those_of_each_cell_alone() -> None:
    scene = land(1, 40)
    observed = np.random.default_rng(0).random((40, 40)) < 0.9
    scene[:, ~observed] = np.nan
    features, share = cell_features(scene, observed)
    assert features.shape == (3, 3, 14)
    cell = (slice(None), slice(CELL, 2 * CELL), slice(CELL, 2 * CELL))
    inside, seen = scene[cell].astype(float), observed[cell[1:]]
    assert share[1, 1] == pytest.approx(seen.mean())
    one = features[1, 1]
    assert one[0] == pytest.approx(inside[0][seen].mean(), rel=1e-5)
    assert one[1] == pytest.approx(np.log(inside[0][seen].std()), abs=1e-3)
    correlation = np.corrcoef(inside[0][seen], inside[1][seen])[0, 1]
    assert one[12] == pytest.approx(correlation, abs=2e-3)
    for at, lag in ((2, 1), (4, FAR)):  # the earlier pixel of a pair may lie in the cell before
        rows = cols = slice(CELL, 2 * CELL)
        back = slice(CELL - lag, 2 * CELL - lag)
        across, down = scene[0, rows, cols] - scene[0, rows, back], scene[0, rows, cols] - scene[0, back, cols]
        squares = np.concatenate([across[np.isfinite(across)], down[np.isfinite(down)]]).astype(float) ** 2
        assert one[at] == pytest.approx(np.log(squares.mean()) / 2, abs=1e-3)


def test_land_of_another_texture_is_unlike_and_held_out_land_is_not(likeness: Likeness) -> None:
    observed = np.ones((96, 96), bool)
    assert np.mean([likeness.unlike(land(seed, 96), observed).mean() for seed in range(40, 46)]) < 0.08
    assert likeness.unlike(land(50, 96, smooth=1.5), observed).mean() > 0.95  # the same means and spreads
    assert likeness.unlike(land(51, 96, shared=0.95), observed).mean() > 0.95  # only how the bands go together
    assert likeness.unlike(land(52, 96) * np.float32(1.3), observed).mean() > 0.95


def test_only_observed_pixels_tell(likeness: Likeness) -> None:
    scene, observed = land(60, 96), np.ones((96, 96), bool)
    observed[:20, :30] = False
    cloudy = scene.copy()
    cloudy[:, ~observed] = 0.9
    assert np.array_equal(likeness.scores(cloudy, observed), likeness.scores(scene, observed), equal_nan=True)
    model = a_model(likeness)
    cloudy[:, ~observed] = np.nan
    assert not out_of_domain(model, cloudy)[~observed].any()
    assert not out_of_domain(model, np.full_like(cloudy, np.nan)).any()


def test_a_window_of_any_size(likeness: Likeness) -> None:
    scene = land(61, 50, smooth=1.5)[:, :37]
    unlike = out_of_domain(a_model(likeness), scene)
    assert unlike.shape == (37, 50)
    assert unlike.mean() > 0.9


def test_a_card_without_likeness_looks_at_the_range_alone(likeness: Likeness) -> None:
    scene = land(62, 48, smooth=1.5)
    scene[0, 3, 4] = 2.5
    assert np.argwhere(out_of_domain(a_model(), scene)).tolist() == [[3, 4]]
    assert out_of_domain(a_model(likeness), scene).mean() > 0.9


def test_cards_of_before_keep_their_hash() -> None:
    model = load_model("demo-s2")
    assert "likeness" not in model.card.to_json()
    assert Model.of(model.net, model.card).sha256 == model.sha256


def test_a_card_with_likeness_survives_saving(likeness: Likeness, tmp_path: Any) -> None:
    model = a_model(likeness)
    again = save_model(tmp_path / "m.safetensors", model.net, model.card)
    assert again.sha256 == model.sha256
    assert again.likeness is not None
    assert np.array_equal(again.likeness.whitening, likeness.whitening)
    assert again.likeness.facts == likeness.facts
    scene = land(63, 64)
    assert np.array_equal(out_of_domain(again, scene), out_of_domain(model, scene))


@pytest.mark.parametrize(
    "change",
    [
        {"centre": "not base64!"},
        {"centre": 7},
        {"whitening": "AAAA"},
        {"threshold": None},
        {"threshold": True},
        {"cell": 8},
        {"around": 999},
    ],
)
def test_a_card_whose_likeness_cannot_be_right_is_refused(likeness: Likeness, change: dict[str, Any]) -> None:
    stated = likeness.as_json() | change
    with pytest.raises(InputError, match=r"card 'small'.*likeness"):
        small_card(likeness=stated)


def test_likeness_of_other_bands_is_refused(likeness: Likeness) -> None:
    one: dict[str, Any] = {f"input_{name}": (0.1,) for name in ("mean", "std", "low", "high")}
    with pytest.raises(InputError, match="bytes"):
        small_card(bands=("B02",), likeness=likeness.as_json(), **one)


def test_too_little_land_says_nothing_and_turns_stand_in_for_held_out_places() -> None:
    model = a_model()
    assert with_likeness(model, places(range(2))) is model
    by_turns = with_likeness(model, places(range(12)))
    assert by_turns.card.likeness["cells_held_out"] == 12 * 16
    assert by_turns.likeness is not None
    assert by_turns.likeness.unlike(land(70, 96), np.ones((96, 96), bool)).mean() < 0.1
