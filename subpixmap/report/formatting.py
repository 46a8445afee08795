"""Values -> texts for people: numbers, shares and names as the page shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd


def number(value: float | None, *, digits: int = 0) -> str:
    """A number for people: thin spaces between thousands, a dash for a missing value."""
    if value is None or pd.isna(value) or not np.isfinite(value):
        return "–"
    text = f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.removeprefix("-")
    return text.replace(",", "\u202f").replace("-", "\u2212")


def compact(value: float | None) -> str:
    """A headline number: 1.24 million, 38.4 thousand, 512."""
    if value is None or pd.isna(value):
        return "–"
    size = abs(value)
    for limit, unit in ((1e9, "billion"), (1e6, "million")):
        if size >= limit:
            return f"{number(value / limit, digits=2)} {unit}"
    return number(value)


def percent(value: float | None, *, digits: int = 0, sign: bool = False) -> str:
    """A share as percent."""
    if value is None or pd.isna(value):
        return "–"
    text = number(100 * value, digits=digits)
    return f"{'+' if sign and 100 * value >= 0.5 * 10**-digits else ''}{text}\u202f%"


def title(name: str) -> str:
    """A region's or object's name for people: philippines-palawan -> Philippines, Palawan."""
    words = name.replace("_", " ").replace("-", " ").split()
    if not words or any(letter.isdigit() for letter in name):
        return name.replace("_", ", ") if any(letter.isdigit() for letter in name) else name
    return " ".join(word[:1].upper() + word[1:] for word in words)


def shown(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row of a table with None in place of missing values: the page shows a dash for them."""
    return {str(key): None if pd.isna(value) else value for key, value in row.items()}
