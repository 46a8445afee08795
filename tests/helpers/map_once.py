"""A driver in a process of its own, to be killed."""

import pickle
from pathlib import Path
from typing import Any

from subpixmap.mapping.run import map_region


def main(scenes: Path, out: Path, ready: Any) -> None:
    country, options = pickle.loads((scenes / "country.pickle").read_bytes())
    ready.set()
    map_region(out, country.plan(**options), country.items, country.model, workers=0)
