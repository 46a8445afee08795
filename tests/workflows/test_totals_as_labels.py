"""The workflow that compares totals with points: the same objects stand in both, and nothing starts when it is dry."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "workflows"))

import totals_as_labels

from tests.helpers.patches import some_patches


@pytest.mark.parametrize("side", [8, 12, 48])
def test_plots_hold_what_stands_in_their_squares(side: int) -> None:
    places = some_patches(2, size=96)
    plots = totals_as_labels.cut_plots(places, side)
    assert len(plots) == 2 * (96 // side) ** 2
    assert plots.share is not None
    np.testing.assert_allclose(plots.share.sum(axis=(1, 2)), side**2)
    for name in range(2):
        own = plots.take([at for at, one in enumerate(plots.names) if one == str(name)])
        np.testing.assert_allclose(own.count.sum(axis=(0, 3, 4)), places.count[name].sum(axis=(2, 3)), rtol=1e-4)


def test_a_crop_keeps_its_total_and_loses_its_map() -> None:
    places = some_patches(2)
    known = totals_as_labels.totals_of_crops(places)
    assert known.is_plot.all()
    np.testing.assert_allclose(known.count.sum(axis=(3, 4)), places.count.sum(axis=(3, 4)), rtol=1e-4)
    assert (known.count.std(axis=(3, 4)) < 1e-6).all()


def test_a_dry_run_names_what_would_be_trained(capsys: pytest.CaptureFixture[str]) -> None:
    assert totals_as_labels.main(["--dry-run", "--sides", "10,24", "--places", "5", "--data", "trees"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[1] == "simulated, 5 places: totals of 1 ha, 1000 steps"
