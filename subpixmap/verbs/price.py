"""Prices of a machine -> the money that a plan takes. For the record and the eye only: nothing else depends on it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from subpixmap.errors import InputError

if TYPE_CHECKING:
    from subpixmap.mapping.needs import Needs

KEYS = {
    "core-hour": "an hour of one processor core",
    "gpu-hour": "an hour of one GPU",
    "gb-month": "a month of one GB of the map on disk",
    "gb-read": "one GB that is read from the catalogue's store",
}


@dataclass(frozen=True)
class Money:
    """What a plan costs, in the currency of the prices; a part without a price is None."""

    device: str
    """What computes the network: cpu or cuda."""
    core_hours: float | None
    """Of all workers together; None on a GPU."""
    gpu_hours: float | None
    """None on a processor, and on a GPU without a probe: its rate is not known."""
    compute: float | None
    read: float | None
    keep: float | None
    """A month of the map on disk."""

    @property
    def once(self) -> float | None:
        """Computing and reading together; None when neither has a price."""
        parts = [part for part in (self.compute, self.read) if part is not None]
        return sum(parts) if parts else None


def parse_prices(texts: Iterable[str]) -> dict[str, float]:
    """Prices by key, of texts such as `core-hour=0.04`.

    Raises
    ------
    InputError
        A text is not KEY=NUMBER, names an unknown key or one twice, or its number is negative or not finite.
    """
    prices: dict[str, float] = {}
    for text in texts:
        key, _, number = (part.strip() for part in text.partition("="))
        if key not in KEYS:
            raise InputError(f"--price {text!r}: write KEY=NUMBER; the keys are {', '.join(KEYS)}")
        if key in prices:
            raise InputError(f"--price {text!r}: {key} is given twice")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"--price {text!r}: {number!r} is not a number of 0 or more, such as {key}=0.04")
        prices[key] = value
    return prices


def money(prices: dict[str, float], needed: Needs, *, device: str, seconds: float, measured: bool) -> Money:
    """What a plan costs at these prices.

    Parameters
    ----------
    prices
        From `parse_prices`.
    needed
        Of the whole plan.
    device
        What computes the network: cpu or cuda.
    seconds
        Of all worker processes together: one core, or one GPU, each.
    measured
        Whether they are those of a probe. The time of a GPU is known in no other way.
    """
    hours = seconds / 3600
    on_gpu = device != "cpu"
    gpu_hours = hours if on_gpu and measured else None
    core_hours = None if on_gpu else hours
    return Money(
        device=device,
        core_hours=core_hours,
        gpu_hours=gpu_hours,
        compute=_times(prices.get("gpu-hour"), gpu_hours) if on_gpu else _times(prices.get("core-hour"), core_hours),
        read=_times(prices.get("gb-read"), needed.bytes_to_read / 1e9),
        keep=_times(prices.get("gb-month"), needed.map_bytes / 1e9),
    )


def _times(price: float | None, amount: float | None) -> float | None:
    return None if price is None or amount is None else price * amount


def money_line(prices: dict[str, float], found: Money, *, measured: bool) -> str:
    """The row of the plan's table: once, a month, and which prices are of no use here."""
    parts = []
    if found.compute is not None:
        hours, unit = (found.core_hours, "core") if found.device == "cpu" else (found.gpu_hours, "GPU")
        most = "about" if measured else "at most"
        parts.append(f"{most} {_sum(found.compute)} for {hours:,.3g} {unit}-hours")
        parts[0] += "" if measured else " of the network (reading comes on top)"
    if found.read is not None:
        parts.append(f"up to {_sum(found.read)} for what is read")
    if found.once is not None and len(parts) > 1:
        parts.append(f"together {_sum(found.once)}")
    if found.keep is not None:
        parts.append(f"about {_sum(found.keep)} a month for the map on disk")
    if found.device == "cpu" and "gpu-hour" in prices:
        parts.append("gpu-hour is not used: this plan computes on the processor (see --device)")
    if found.device != "cpu":
        if "core-hour" in prices:
            parts.append("core-hour is not used: this plan computes on a GPU")
        if "gpu-hour" in prices and found.gpu_hours is None:
            parts.append("the hours of a GPU are known by --probe only")
    return "; ".join(parts)


def _sum(value: float) -> str:
    """Money in digits that can be read: 12,300, 45.60, 0.0012."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.2f}" if value >= 0.1 or value == 0 else f"{value:.2g}"


def told(prices: dict[str, float], found: Money) -> dict[str, Any]:
    """What plan.json keeps of it."""
    return {
        "prices": prices,
        "core_hours": found.core_hours,
        "gpu_hours": found.gpu_hours,
        "once": found.once,
        "a_month": found.keep,
    }
