"""Simulated beside real Sentinel-2."""

from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from subpixmap.errors import InputError
from subpixmap.simulate.spectra import BANDS
from subpixmap.training.realism import Chip, compare, composite, measure, real_chips, record, recorded, simulated_chips


def test_simulated_scenes_are_of_the_kind_of_real_ones() -> None:
    table = compare(recorded(), measure(simulated_chips(number=6)))
    assert set(table.index.get_level_values("band")) == set(BANDS) - {"B8A"}
    real, simulated = table["real"].unstack(), table["simulated"].unstack()
    # Dark in the visible, bright in the near infrared, bands related as in nature.
    np.testing.assert_allclose(simulated["mean"], real["mean"], rtol=0.4)
    assert np.corrcoef(simulated["mean"], real["mean"])[0, 1] > 0.97
    assert (abs(simulated["with_B04"] - real["with_B04"]) < 0.35).all()
    # Neither smooth nor white noise.
    assert ((simulated["texture_10m"] / real["texture_10m"]).between(0.4, 1.3)).all()
    assert ((simulated["spread"] / real["spread"]).between(0.3, 1.6)).all()
    assert (table["differs"] != "").any()


@pytest.mark.realdata
def test_recorded_statistics_are_those_of_the_real_chips(real_data: Path, tmp_path: Path) -> None:
    chips = real_chips(real_data / "sentinel2_10m")
    assert len([chip for chip in chips if chip.name.startswith("Belgium")]) == 10  # two of twelve months are empty
    pd.testing.assert_frame_equal(recorded(), measure(chips), atol=1e-5)
    record(real_data / "sentinel2_10m", tmp_path / "again.json")
    kept = resources.files("subpixmap.training") / "real_statistics.json"
    assert (tmp_path / "again.json").read_text() == kept.read_text()


def test_noise_and_another_level_would_be_found_out() -> None:
    rng = np.random.default_rng(0)
    white = Chip("noise", {band: rng.normal(0.2, 0.05, (100, 100)).astype(np.float32) for band in BANDS})
    table = measure([white])
    assert (table["texture_10m"] > 0.95).all()
    assert table["texture_10m"].min() > recorded()["texture_10m"].max()
    differs = compare(recorded(), table)["differs"]
    assert "outside the real chips" in differs["B08", "texture_10m"]
    assert differs["B02", "mean"].startswith("+2")
    assert (compare(recorded(), recorded())["differs"] == "").all()


def test_a_folder_without_chips_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"inference-img\.tif"):
        real_chips(tmp_path)


def test_composites_are_pictures() -> None:
    chip = simulated_chips(seed=3, number=1, size_px=32)[0]
    picture = composite(chip, ("B08", "B04", "B03"), white=0.5)
    assert picture.shape == (32, 32, 3)
    assert picture[..., 0].mean() > picture[..., 1].mean()  # vegetation is red in the near infrared
