"""Totals of whole cities: a linear model of colours and textures, and a map moved halfway to its total.

Where trees stand denser than in any city of the training, a network stays near the densities that it knows, and so does
a random forest. A straight line goes on. It knows single crops worse, so it only moves the total of a city, and only
halfway: the pattern within the city is the network's.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

SHARE = 0.5
"""How far a city's total is moved from the network's to that of the line."""
MOST = 1.5
"""Factor by which a city's total is changed at most, up or down."""
COPIES = 2
"""In which every crop is seen again, in another light."""
JITTER = (0.2, 0.12, 0.05)
"""Of them: logarithm of a gain for all bands, gain and offset of each, as in the training of the network."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def features(reflectance: NDArray[np.floating]) -> NDArray[np.float32]:
    """(crop, 60): quantiles, mean, spread and three textures of red-to-infrared bands, a greenness and an NDVI.

    Parameters
    ----------
    reflectance
        (crop, 4, y, x) in the order blue, green, red, near infrared, without a halo.
    """
    bands = list(np.moveaxis(reflectance.astype(np.float32), 1, 0))
    blue, green, red, infrared = bands
    bands += [(infrared - red) / (np.abs(infrared + red) + 0.3), 2 * green - blue - red]
    columns: list[NDArray[np.float32]] = []
    for band in bands:
        columns += list(np.quantile(band, QUANTILES, axis=(1, 2)))
        columns += [band.mean((1, 2)), band.std((1, 2))]
        columns += [(band - ndimage.uniform_filter(band, (0, px, px))).std((1, 2)) for px in (3, 5)]
        columns.append(sum(np.abs(np.diff(band, axis=axis)).mean((1, 2)) for axis in (1, 2)))
    return np.stack(columns, axis=1).astype(np.float32)


def line_totals(
    seen: NDArray[np.floating], trees: NDArray[np.floating], test: NDArray[np.floating], *, seed: int = 0
) -> NDArray[np.float64]:
    """(crop,) trees of the test crops by ridge regression on crops whose trees are known, all (crop, 4, y, x)."""
    rng = np.random.default_rng(seed)
    brightness, gain, offset = JITTER
    one, each = (len(seen), 1, 1, 1), (len(seen), 4, 1, 1)
    lights = [
        seen * np.exp(rng.normal(0, brightness, one)) * rng.normal(1, gain, each) + rng.normal(0, offset, each)
        for _ in range(COPIES)
    ]
    known = np.concatenate([features(light) for light in (seen, *lights)])
    line = make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 4, 9)))
    line.fit(known, np.tile(trees, 1 + COPIES))
    return np.asarray(line.predict(features(test)), float)


def balance(count: NDArray[np.floating], totals: NDArray[np.floating], cities: NDArray[np.str_]) -> NDArray[np.float32]:
    """The map (crop, y, x) with the total of each city moved `SHARE` of the way to the sum of the line's (crop,)."""
    moved = np.array(count, np.float32)
    for city in np.unique(cities):
        mine = cities == city
        mapped, line = count[mine].sum(dtype=float), totals[mine].sum(dtype=float)
        if mapped > 0:
            moved[mine] *= np.clip(1 + SHARE * (line / mapped - 1), 1 / MOST, MOST)
    return moved
