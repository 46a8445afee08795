"""geoBoundaries -> a file of administrative units in the user's cache: `geoboundaries:PHL:ADM2`.

Runfola et al. 2020, doi:10.1371/journal.pone.0231866; open licences, given for each boundary. A boundary is downloaded
once and then used from the cache: the same name gives the same units until the cache is emptied.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subpixmap.errors import InputError
from subpixmap.files import cache_folder, write_atomic

API = "https://www.geoboundaries.org/api/current/gbOpen"
"""Asked as API/PHL/ADM2/; the environment variable SUBPIXMAP_GEOBOUNDARIES names a mirror."""

_NAME = re.compile(r"geoboundaries:([a-z]{3}):(adm[0-5])", re.IGNORECASE)
_CONNECT_S, _READ_S = 10.0, 120.0
_MAX_BYTES = 2**30


@dataclass(frozen=True)
class Boundaries:
    """A downloaded file and its source."""

    path: Path
    """GeoJSON with shapeID, shapeName."""
    source: str
    version: str


def is_geoboundaries(admin: str | os.PathLike[str]) -> bool:
    """Whether the text asks for geoBoundaries."""
    return os.fspath(admin).lower().startswith("geoboundaries:")


def fetch_boundaries(name: str) -> Boundaries:
    """The units of a country, from the cache or downloaded into it.

    Parameters
    ----------
    name
        `geoboundaries:ISO3:ADM0` to `ADM5`.

    Raises
    ------
    InputError
        The name is malformed, there is no such country or level, or the server cannot be reached.
    """
    match = _NAME.fullmatch(name.strip())
    if match is None:
        raise InputError(f"--admin {name}: write geoboundaries:ISO3:ADMn, for example geoboundaries:PHL:ADM2")
    country, level = match[1].upper(), match[2].upper()
    folder = cache_folder() / "geoboundaries"
    path, about = folder / f"{country}-{level}.geojson", folder / f"{country}-{level}.json"
    if not (path.is_file() and about.is_file()):
        folder.mkdir(parents=True, exist_ok=True)
        facts = _ask(name, f"{os.environ.get('SUBPIXMAP_GEOBOUNDARIES') or API}/{country}/{level}/")
        write_atomic(path, _get(name, str(facts["gjDownloadURL"])))
        write_atomic(about, json.dumps(facts).encode())  # written last: it marks the download as complete
    facts = json.loads(about.read_text(encoding="utf-8"))
    version = f"{facts.get('boundaryID', '?')}, represents {facts.get('boundaryYearRepresented', '?')}"
    return Boundaries(
        path, f"geoBoundaries {country} {level} ({facts.get('boundaryLicense', 'licence not stated')})", version
    )


def _ask(name: str, url: str) -> dict[str, Any]:
    answer = _get(name, url)
    try:
        facts = json.loads(answer)
        facts = facts[0] if isinstance(facts, list) else facts
        if not str(facts["gjDownloadURL"]):
            raise KeyError("gjDownloadURL")
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(f"--admin {name}: {url} did not return a boundary ({error!r})") from error
    return dict(facts)


def _get(name: str, url: str) -> bytes:
    import requests

    try:
        with requests.get(url, timeout=(_CONNECT_S, _READ_S), stream=True) as answer:
            content = bytearray()
            for part in answer.iter_content(2**20):
                content += part
                if len(content) > _MAX_BYTES:
                    raise InputError(f"--admin {name}: {url} has more than {_MAX_BYTES} bytes; give a file of units")
    except requests.RequestException as error:
        raise InputError(
            f"--admin {name} is not in the cache and {url.split('/')[2]} cannot be reached "
            f"({type(error).__name__}); go online once, or give a file of units"
        ) from error
    if answer.status_code == 404:
        raise InputError(f"--admin {name}: geoBoundaries has no such country or level ({url}); check the code")
    if not answer.ok:
        raise InputError(
            f"--admin {name}: {url} answered HTTP {answer.status_code}; try again later, or give a file of units"
        )
    return bytes(content)
