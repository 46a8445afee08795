"""Sources of scenes -> whether they are simulated, and the truth where it is known. The one place that decides it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def countries_of(sources: Iterable[str]) -> list[Path]:
    """Folders of the simulated countries among the sources, each once.

    `simulate_country` leaves country.json beside the catalogue. A source that is not a path on this machine (the name
    of a catalogue, a URL) is never simulated, whatever lies in the working directory.
    """
    paths = [Path(source) for source in sources]
    folders = [path if path.is_dir() else path.parent for path in paths if path.exists()]
    return list(dict.fromkeys(folder.resolve() for folder in folders if (folder / "country.json").is_file()))


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
    return pd.read_csv(tables[0], dtype={"unit_id": str, "object": str, "period": str})
