"""The cost of a plan from prices of a machine. For information only: nothing else depends on it."""

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
    "gb-read": "one GB read from the store of the catalogue",
}


@dataclass(frozen=True)
class Money:
    """The cost of a plan, in the currency of the prices; a part without a price is None."""

    device: str
    """Device of the network: cpu or cuda."""
    core_hours: float | None
    """Core-hours of all workers together; None on a GPU."""
    gpu_hours: float | None
    """GPU-hours; None on a processor, and on a GPU without a probe because its speed is unknown."""
    compute: float | None
    read: float | None
    keep: float | None
    """Cost of the map on disk per month."""

    @property
    def once(self) -> float | None:
        """Cost of computing and reading together; None if neither has a price."""
        parts = [part for part in (self.compute, self.read) if part is not None]
        return sum(parts) if parts else None


def parse_prices(texts: Iterable[str]) -> dict[str, float]:
    """Parse prices such as `core-hour=0.04` into a dict by key.

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
            raise InputError(f"--price {text!r}: {key} is given twice; give it once")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"--price {text!r}: {number!r} is not a number >= 0; write for example {key}=0.04")
        prices[key] = value
    return prices


def money(prices: dict[str, float], needed: Needs, *, device: str, seconds: float, measured: bool) -> Money:
    """The cost of a plan at these prices.

    Parameters
    ----------
    prices
        From `parse_prices`.
    needed
        Of the whole plan.
    device
        Device of the network: cpu or cuda.
    seconds
        Of all worker processes together: each uses one core or one GPU.
    measured
        Whether the seconds come from a probe; only a probe gives the time of a GPU.
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
    """The row of the plan's table: one-time cost, monthly cost, and unused prices."""
    parts = []
    if found.compute is not None:
        hours, unit = (found.core_hours, "core") if found.device == "cpu" else (found.gpu_hours, "GPU")
        most = "about" if measured else "at most"
        parts.append(f"{most} {_sum(found.compute)} for {hours:,.3g} {unit}-hours")
        parts[0] += "" if measured else " of the network, plus the time to read"
    if found.read is not None:
        parts.append(f"up to {_sum(found.read)} for reading")
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
            parts.append("add --probe to estimate the hours of a GPU")
    return "; ".join(parts)


def _sum(value: float) -> str:
    """Format a cost with readable digits: 12,300, 45.60, 0.0012."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.2f}" if value >= 0.1 or value == 0 else f"{value:.2g}"


def told(prices: dict[str, float], found: Money) -> dict[str, Any]:
    """The cost as stored in plan.json."""
    return {
        "prices": prices,
        "core_hours": found.core_hours,
        "gpu_hours": found.gpu_hours,
        "once": found.once,
        "a_month": found.keep,
    }
