"""Sources of scenes -> whether they are simulated, and the truth where it is known. The one place that decides it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

SCRATCH = ".scratch"
"""Folder of scratch files inside a country that is being made."""
TRUTH = ("unit_id", "object", "period", "count")
"""Columns of truth.csv."""


def countries_of(sources: Iterable[str]) -> list[Path]:
    """Folders of the simulated countries among the sources, each once.

    `simulate_country` leaves country.json beside the catalogue. A source that is not a path on this machine (the name
    of a catalogue, a URL) is never simulated, whatever lies in the working directory.
    """
    paths = [Path(source) for source in sources]
    folders = [path if path.is_dir() else path.parent for path in paths if path.exists()]
    return list(dict.fromkeys(folder.resolve() for folder in folders if _parameters(folder) is not None))


def is_country(folder: Path) -> bool:
    """Whether a folder was made by `simulate_country`, be it half: it may be overwritten.

    A table truth.csv alone, or a country.json of somebody else, does not make it one.
    """
    if _parameters(folder) is not None:
        return True
    try:
        with (folder / "truth.csv").open(encoding="utf-8") as file:
            ours = file.readline().strip() == ",".join(TRUTH)
    except (OSError, UnicodeDecodeError):
        return False
    return ours and ((folder / "truth_scene.csv").is_file() or (folder / SCRATCH).is_dir())


def _parameters(folder: Path) -> dict[str, Any] | None:
    """What country.json holds, if the simulator wrote it."""
    try:
        content = json.loads((folder / "country.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and {"seed", "world", "dialect", "epsg"} <= content.keys() else None


def is_simulated(sources: Iterable[str]) -> bool:
    """Whether any of the sources is a simulated country: then none of the numbers is about a real place."""
    return bool(countries_of(sources))


def truth_of(sources: Iterable[str]) -> pd.DataFrame | None:
    """True counts of the simulated country among the sources.

    Returns
    -------
    pandas.DataFrame or None
        unit_id, object, period, count; None where no source is simulated, or where several countries are: their units
        may have the same ids.
    """
    import pandas as pd

    tables = [path for country in countries_of(sources) if (path := country / "truth.csv").is_file()]
    if len(tables) != 1:
        return None
    truth = pd.read_csv(tables[0], dtype={"unit_id": str, "object": str, "period": str})
    return truth if list(truth.columns) == list(TRUTH) else None
