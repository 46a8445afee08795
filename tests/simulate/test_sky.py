"""Sky and schedule: scene classes that err, baselines as they were, places less well known before refinement."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from subpixmap.simulate.ground import Frame
from subpixmap.simulate.schedule import baseline_of, schedule
from subpixmap.simulate.sky import classify, make_sky, observe
from subpixmap.simulate.spectra import BAND_FACTS, BANDS
from subpixmap.simulate.worlds import get_world

PLACE = {"lon": 119.5, "lat": 10.5, "half_m": 3000.0}
CLOUDY = (3, 8, 9, 10)


def dates(seed: int = 1, world: str = "base", years: Any = (2018, 2023), per_year: int = 24) -> Any:
    return schedule(seed, years=years, per_year=per_year, world=get_world(world), **PLACE)


def test_the_schedule_is_as_it_was() -> None:
    found = dates()
    assert [d.time for d in found] == sorted(d.time for d in found)
    for date in found:
        assert date.baseline == baseline_of(date.time)
        assert (date.baseline >= "04.00") == (date.time.date().isoformat() >= "2022-01-25")
    assert {"02.06", "02.14", "03.01", "04.00", "05.09"} <= {d.baseline for d in found}
    assert 0 < np.mean([d.edge is not None for d in found]) < 0.5  # a swath that ends in the country
    assert {d.orbit for d in found} == {3, 46}
    shares = np.array([d.cloud_share for d in found])
    assert shares.min() < 0.02 < 0.5 < shares.max()
    before, after = (
        np.std([d.shift for d in found if (d.time.date().isoformat() >= "2021-08-23") == refined])
        for refined in (False, True)
    )
    assert 2 < before < 4  # metres
    assert after < 0.8 * before


def test_acquisitions_of_a_year_do_not_depend_on_the_other_years() -> None:
    assert dates(years=(2020, 2020)) == [d for d in dates() if d.time.year == 2020]


@pytest.mark.parametrize(("world", "missed", "false"), [("base", 0.03, 0.2), ("shifted", 0.06, 0.3)])
def test_scene_classes_err_as_sen2cor_does(world: str, missed: float, false: float) -> None:
    """Thick cloud is seen, its soft rim is not; bright ground is at times called cloud, green ground is not."""
    frame = Frame(0.0, 0.0, 256, 256, lambda x, y: (x, y), lambda x, y: (x, y))
    date = replace(dates()[0], cloud_share=0.3, haze=0.01, edge=2000.0, sun_zenith=35.0, sun_azimuth=130.0)
    bare = dict(zip(BANDS, (0.19, 0.23, 0.27, 0.29, 0.30, 0.31, 0.32, 0.33, 0.36, 0.33), strict=True))
    green = dict(zip(BANDS, (0.03, 0.06, 0.03, 0.09, 0.22, 0.27, 0.30, 0.31, 0.18, 0.08), strict=True))
    called = {}
    for name, spectrum in (("bare", bare), ("green", green)):
        sides = {band: 256 * 10 // BAND_FACTS[band].gsd for band in BANDS}
        flat = {band: np.full((sides[band],) * 2, spectrum[band], np.float32) for band in BANDS}
        sky = make_sky(frame, date)
        called[name] = classify(observe(flat, sky, frame, date), sky, frame, date, get_world(world))
    cloud, shadow, seen = (a[::2, ::2] for a in (sky.cloud, sky.shadow, sky.seen))
    assert ((called["green"] == 0) == ~seen).all()  # type: ignore[misc]
    flagged = np.isin(called["green"], CLOUDY)
    thick, rim = seen & (cloud > 0.5), seen & (cloud > 0.03) & (cloud < 0.12) & (shadow < 0.1)  # type: ignore[operator]
    clear = seen & (cloud == 0) & (shadow == 0)
    assert min(thick.sum(), rim.sum(), clear.sum()) > 50
    assert (~flagged[thick]).mean() <= missed
    assert (~flagged[rim]).mean() > 0.5
    assert flagged[clear].mean() < 0.02
    assert 0.01 < np.isin(called["bare"], CLOUDY)[clear].mean() < false
    assert set(np.unique(called["green"])) >= {0, 3, 4, 7, 8, 9, 10}
