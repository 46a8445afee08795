"""Patches to train on, whose reflectance shows what stands in them."""

from types import SimpleNamespace

import numpy as np

from subpixmap.reference.patches import Patches, make_patches

BANDS = ("B02", "B03", "B08")
OBJECTS = ("coconut", "car")
HALO = 4


def some_patches(n: int = 3, *, size: int = 24, acquisitions: int = 2, seed: int = 0) -> Patches:
    """Places whose reflectance shows their objects: the count, blurred as it is, darkens and greens a pixel."""
    rng = np.random.default_rng(seed)
    side = size + 2 * HALO

    def place() -> SimpleNamespace:
        palms = rng.uniform(0, side, (rng.integers(40, 120), 2))
        cars = [rng.uniform(0, side / 2, (rng.integers(1, 60), 2)) for _ in range(acquisitions)]
        palms_in = np.histogram2d(palms[:, 1], palms[:, 0], bins=side, range=[[0, side]] * 2)[0]
        scenes = []
        for i in range(acquisitions):
            cars_in = np.histogram2d(cars[i][:, 1], cars[i][:, 0], bins=side, range=[[0, side]] * 2)[0]
            scenes.append([0.1 + 0.05 * cars_in, 0.1 + 0.0 * cars_in, 0.2 + 0.1 * palms_in])
        reflectance = np.array(scenes, np.float32) + rng.normal(0, 0.004, (acquisitions, 3, side, side))
        valid = np.ones((acquisitions, side, side), bool)
        valid[0, : side // 4] = False
        points = {"coconut": (palms,) * acquisitions, "car": tuple(cars)}
        return SimpleNamespace(reflectance=reflectance.astype(np.float32), valid=valid, points=points)

    return make_patches([place() for _ in range(n)], bands=BANDS, objects=OBJECTS, halo=HALO)
