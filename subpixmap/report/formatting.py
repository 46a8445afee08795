"""Formats numbers, shares and names for the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

_SMALLEST = 0.001


def number(value: float | None, *, digits: int = 0) -> str:
    """Format a number: thin spaces between thousands, a dash for a missing value; small numbers are not shown as 0."""
    if value is None or pd.isna(value) or not np.isfinite(value):
        return "–"
    if 0 < abs(value) < _SMALLEST:
        return f"{'<' if value > 0 else '>'} {'−' if value < 0 else ''}{_SMALLEST:g}"
    text = f"{value:,.{digits}f}"
    if value and float(text.replace(",", "")) == 0:
        text = f"{float(f'{value:.1g}'):f}".rstrip("0")  # its first digit
    text = text.removeprefix("-") if value == 0 else text
    return text.replace(",", "\u202f").replace("-", "\u2212")


def p_value(value: float | None) -> str:
    """A probability: three decimals, and never 0."""
    if value is None or pd.isna(value):
        return "–"
    return "< 0.001" if value < _SMALLEST else f"{value:.3f}"


def rough(value: float | None, *, like: float | None = None) -> str:
    """Format a number for a sentence: three significant digits, or as many as its error `like` allows."""
    if value is None or pd.isna(value) or not np.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    power = int(np.floor(np.log10(abs(like)))) - 1 if like else int(np.floor(np.log10(abs(value)))) - 2
    return number(round(value, -power), digits=max(0, -power) if abs(value) < 100 else 0)


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
    return f"{'+' if sign and 100 * value >= _SMALLEST else ''}{number(100 * value, digits=digits)}\u202f%"


def title(name: str) -> str:
    """A region's or object's name for people: philippines-palawan -> Philippines, Palawan."""
    words = name.replace("_", " ").replace("-", " ").split()
    if not words or any(letter.isdigit() for letter in name):
        return name.replace("_", ", ") if any(letter.isdigit() for letter in name) else name
    return " ".join(word[:1].upper() + word[1:] for word in words)


def shown(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row of a table with None in place of missing values: the page shows a dash for them."""
    return {str(key): None if pd.isna(value) else value for key, value in row.items()}
