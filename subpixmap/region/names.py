"""Names and codes of the shipped countries and units, without their geometries: quick to read, quick to search."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from subpixmap.errors import InputError

SHIPPED = Path(__file__).parents[1] / "data" / "regions.parquet"
_LETTERS = str.maketrans({"ø": "o", "đ": "d", "ð": "d", "ł": "l", "æ": "ae", "œ": "oe", "ı": "i", "ə": "e", "þ": "th"})


@dataclass(frozen=True)
class Place:
    """A country, or one of its first-level units."""

    level: int
    """0 for a country, 1 for a unit."""
    iso3: str
    """Of the country."""
    code: str
    """The country's ISO code, or the unit's id."""
    name: str
    aliases: tuple[str, ...] = ()
    """Other spellings."""


def region_names(country: str | None = None) -> list[str]:
    """What `--region` takes: all countries, or `country/unit` for all first-level units of one.

    A unit that shares its name with another one is listed by its code.
    """
    return list(region_codes(country))


def region_codes(country: str | None = None) -> dict[str, Place]:
    """What `--region` takes (see `region_names`), in alphabetical order, and the place that each of it stands for."""
    places = read_places()
    if country is None:
        return {place.name: place for place in sorted(places, key=lambda one: one.name) if place.level == 0}
    there = find_country(country, places)
    units = sorted((one for one in places if one.level == 1 and one.iso3 == there.iso3), key=lambda one: one.name)
    spelled = Counter(plain(one.name) for one in units)
    return {f"{there.name}/{one.name if spelled[plain(one.name)] == 1 else one.code}": one for one in units}


def read_places() -> list[Place]:
    """Everything in the shipped file except the geometries."""
    from pyarrow.parquet import ParquetFile  # `read_table` would import pandas

    columns = ["level", "iso3", "unit_id", "name", "aliases"]
    rows = ParquetFile(SHIPPED).read(columns=columns).to_pydict()
    return [
        Place(level, iso3, code, name, tuple((aliases or "").split("|")))
        for level, iso3, code, name, aliases in zip(*(rows[column] for column in columns), strict=True)
    ]


def find_country(wanted: str, places: Iterable[Place]) -> Place:
    """The country of a name or an ISO code; case, accents and a leading "the" do not matter.

    Raises
    ------
    InputError
        No country is called so; similar names are listed.
    """
    key = plain(wanted).removeprefix("the ")
    countries = [place for place in places if place.level == 0]
    keys = [{plain(one.name), *(plain(alias) for alias in one.aliases)} for one in countries]
    for hits in (
        [one for one in countries if key == plain(one.name)],
        [one for one, spellings in zip(countries, keys, strict=True) if key in spellings],
    ):
        if key and len(hits) == 1:
            return hits[0]
    named = {spelling: one.name for one, spellings in zip(countries, keys, strict=True) for spelling in spellings}
    raise InputError(
        f"unknown region {wanted!r}{did_you_mean(key, named)}; `subpixmap regions` lists all; or give "
        "west,south,east,north or a file"
    )


def did_you_mean(key: str, names: Mapping[str, str]) -> str:
    """Names whose plain spelling is close to a key, as the end of a message; empty if there are none."""
    close = difflib.get_close_matches(key, list(names), n=5, cutoff=0.6)
    close += [spelling for spelling in names if len(key) > 3 and key in spelling and spelling not in close][:3]
    shown = list(dict.fromkeys(names[spelling] for spelling in close))[:4]
    return f"; did you mean {', '.join(shown)}?" if shown else ""


def plain(text: str) -> str:
    """Lower case without accents and punctuation: the form in which names are compared."""
    text = unicodedata.normalize("NFKD", text.casefold()).translate(_LETTERS)
    text = "".join(letter for letter in text if not unicodedata.combining(letter))
    return re.sub(r"[\W_]+", " ", text).strip()
