"""Which acquisitions there are: dates, orbits, processing baselines as they were, sun, season, weather.

In: a seed, years and a place. Out: `Acquisition`s in time order.
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import numpy as np

from subpixmap.simulate.sensor import Acquisition
from subpixmap.simulate.spectra import BANDS
from subpixmap.simulate.worlds import World

_BASELINES = (
    ("2015-01-01", "02.04"), ("2017-05-23", "02.05"), ("2017-11-23", "02.06"), ("2018-10-08", "02.10"),
    ("2018-11-06", "02.11"), ("2019-07-08", "02.12"), ("2019-07-16", "02.13"), ("2020-02-04", "02.14"),
    ("2021-03-30", "03.00"), ("2021-06-30", "03.01"), ("2022-01-25", "04.00"), ("2022-12-06", "05.09"),
    ("2023-12-13", "05.10"), ("2024-07-23", "05.11"),
)  # fmt: skip
_REFINED_FROM = datetime(2021, 8, 23, tzinfo=UTC)  # geometric refinement, worldwide


def baseline_of(time: datetime) -> str:
    """The processing baseline with which a scene of that time was first made."""
    day = time.date().isoformat()
    return next(name for start, name in reversed(_BASELINES) if day >= start)


def sun_position(time: datetime, lon: float, lat: float) -> tuple[float, float]:
    """(zenith, azimuth) of the sun in degrees; a textbook formula, good to half a degree."""
    day = time.timetuple().tm_yday
    turn = 2 * np.pi * (day - 81) / 365
    declination = np.radians(23.44) * np.sin(turn)
    equation = 9.87 * np.sin(2 * turn) - 7.53 * np.cos(turn) - 1.5 * np.sin(turn)  # minutes
    hours = time.hour + time.minute / 60 + time.second / 3600 + lon / 15 + equation / 60
    hour_angle, phi = np.radians(15 * (hours - 12)), np.radians(lat)
    east = -np.cos(declination) * np.sin(hour_angle)
    north = np.sin(declination) * np.cos(phi) - np.cos(declination) * np.cos(hour_angle) * np.sin(phi)
    up = np.sin(declination) * np.sin(phi) + np.cos(declination) * np.cos(hour_angle) * np.cos(phi)
    return float(np.degrees(np.arccos(up))), float(np.degrees(np.arctan2(east, north)) % 360)


def schedule(
    seed: int, *, years: tuple[int, int], per_year: int, lon: float, lat: float, world: World, half_m: float
) -> list[Acquisition]:
    """Acquisitions of all years; those of one year do not depend on which other years are asked for."""
    acquisitions = []
    for year in range(years[0], years[1] + 1):
        rng = np.random.default_rng([seed, year, 0x53])
        starts = np.linspace(4, 361, per_year + 1)
        days = [int(rng.uniform(a, a + 0.8 * (b - a))) for a, b in itertools.pairwise(starts)]
        for slot, day in enumerate(days):
            acquisitions.append(_overpass(seed, year, slot, day, rng, lon, lat, world, half_m))
    return acquisitions


def _overpass(
    seed: int, year: int, slot: int, day: int, rng: np.random.Generator, lon: float, lat: float, world: World,
    half_m: float,
) -> Acquisition:  # fmt: skip
    local = 10.5 * 60 + rng.uniform(-6, 6)  # minutes of mean local time
    time = datetime(year, 1, 1, tzinfo=UTC) + timedelta(days=day, seconds=round(local * 60 - lon * 240))
    zenith, azimuth = sun_position(time, lon, lat)
    phase = 2 * np.pi * (time.timetuple().tm_yday - 250) / 365
    wet = 0.5 + 0.5 * np.cos(phase) * (1 if lat >= 0 else -1)
    side = rng.random() < 0.2  # the neighbouring orbit, whose swath may end inside the country
    edge = float(rng.uniform(-0.1, 1.9) * half_m) if side else None
    sigma = world.shift_sd * (1.0 if time < _REFINED_FROM else 0.6)
    shift = np.clip(rng.normal(0, sigma, 2), -2.5 * sigma, 2.5 * sigma)
    common = rng.normal(0, world.gain_sd)
    gain = np.exp(common + rng.normal(0, 0.012, len(BANDS)))
    share = float(np.clip(rng.beta(0.9, 4.5) * (0.75 + 0.5 * wet), 0, 0.9))
    number = (year - 2000) * 100 + slot
    return Acquisition(
        number=number, time=time, platform="S2A" if rng.random() < 0.5 or year < 2018 else "S2B",
        orbit=46 if side else 3, absolute_orbit=10000 + (year - 2015) * 5213 + day * 14, baseline=baseline_of(time),
        sun_zenith=zenith, sun_azimuth=azimuth, season=float(wet), field_phase=2.3 * day / 365 + year * 0.3,
        gain=tuple(float(g) for g in gain), haze=float(world.haze * np.exp(rng.normal(0, 0.5))),
        shift=(float(shift[0]), float(shift[1])), cloud_share=share, cloud_height=float(rng.uniform(700, 2200)),
        edge=edge, seed=int(np.random.default_rng([seed, number, 0x5C]).integers(2**31)),
    )  # fmt: skip
