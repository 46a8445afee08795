"""A driver in a process of its own, to be killed: `python map_once.py SCENES OUT WORKERS`."""

import pickle
import sys
from pathlib import Path

from subpixmap.mapping.run import map_region


def main() -> None:
    scenes, out, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    country, options = pickle.loads((scenes / "country.pickle").read_bytes())
    print("ready", flush=True)
    map_region(out, country.plan(**options), country.items, country.model, workers=workers)
    print("done", flush=True)


if __name__ == "__main__":
    main()
