"""What a benchmark says: a figure with its goal, paired runs, and the machine they ran on."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch

from subpixmap.machine import cores, instruction_set

FULL_ONLY = "not measured in the short form"
_PACKAGES = ("subpixmap", "torch", "openvino", "numpy", "dask", "stackstac", "xbatcher", "rasterio", "zarr")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured number."""

    key: str
    value: float | None
    """None where it could not be measured; `meaning` then says why."""
    meaning: str
    goal: tuple[Literal["<=", ">="], float] | None = None
    certain: bool = False
    """Whether load and machine do not touch it: then the goal must be reached everywhere."""

    @property
    def reached(self) -> bool | None:
        """Whether the value is as good as the goal; None without either."""
        if self.value is None or self.goal is None:
            return None
        kind, limit = self.goal
        return bool(self.value <= limit if kind == "<=" else self.value >= limit)


class Timed(torch.nn.Module):
    """A network that adds up the CPU time it takes, so that what lies around it can be told apart."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net, self.spent = net, 0.0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        began = time.thread_time()
        outputs: torch.Tensor = self.net(inputs)
        self.spent += time.thread_time() - began
        return outputs


@dataclass(frozen=True)
class Spent:
    """CPU seconds of the fastest round."""

    whole: float
    around: float
    """Without the network."""


def fastest(rounds: int, sides: Sequence[tuple[Callable[[], object], Timed | None]]) -> list[Spent]:
    """CPU time of each side, which take turns; the fastest round of the whole and of what is around the network."""
    best = [Spent(float("inf"), float("inf"))] * len(sides)
    for _ in range(rounds):
        for i, (work, net) in enumerate(sides):
            began, before = time.process_time(), net.spent if net else 0.0
            work()
            whole = time.process_time() - began
            around = whole - (net.spent - before if net else 0.0)
            best[i] = Spent(min(best[i].whole, whole), min(best[i].around, around))
    return best


def machine() -> dict[str, Any]:
    """Where and when: processor, cores, instructions, versions, date, and how busy the machine is."""
    info = Path("/proc/cpuinfo")
    name = re.search(r"^model name\s*:\s*(.*)$", info.read_text(), re.MULTILINE) if info.is_file() else None
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": name[1] if name else platform.processor(),
        "cores": cores(),
        "instructions": instruction_set(),
        "load": round(os.getloadavg()[0], 1),
        "versions": {"python": platform.python_version(), **{one: v for one in _PACKAGES if (v := _version(one))}},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def as_markdown(figures: Iterable[Figure], place: dict[str, Any], *, short: bool) -> str:
    """The table of docs/benchmarks.md."""
    rows = [
        f"{'Short form' if short else 'Full form'}, {place['date']}; {place['cores']} cores of an {place['processor']} "
        f"({place['instructions']}), load {place['load']}.",
        "",
        "| key | value | goal | meaning |",
        "|---|---|---|---|",
    ]
    for one in figures:
        value = "-" if one.value is None else f"{one.value:,.4g}"
        goal = "" if one.goal is None else f"{one.goal[0]} {one.goal[1]:g}"
        verdict = {True: "", False: ": **missed**", None: ""}[one.reached]
        rows.append(f"| `{one.key}` | {value} | {goal}{verdict} | {one.meaning} |")
    return "\n".join(rows)
