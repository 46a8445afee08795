"""Years and a step -> the periods that a run maps; a period is a label, two dates and the months that count."""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Literal

from subpixmap.errors import InputError

Every = Literal["year", "quarter", "month", "scene"]
ALL_MONTHS = tuple(range(1, 13))


@dataclass(frozen=True, order=True)
class Period:
    """A stretch of time whose chosen acquisitions are averaged."""

    label: str
    """`2018`, `2018-Q1`, `2018-03`, or an acquisition's ISO time."""
    start: date
    """First day."""
    end: date
    """Last day, included."""
    months: tuple[int, ...] = ALL_MONTHS
    """Months of the year that count (the same season every year)."""

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise InputError(f"period {self.label} ends ({self.end}) before it starts ({self.start})")

    def holds(self, when: datetime) -> bool:
        """Whether an acquisition time belongs to the period (UTC)."""
        day = when.astimezone(UTC).date() if when.tzinfo else when.date()
        return self.start <= day <= self.end and day.month in self.months


def parse_years(text: str | int) -> tuple[int, int]:
    """`2018-2023` or `2021` -> first and last year."""
    match = re.fullmatch(r"\s*(\d{4})(?:\s*[-:]\s*(\d{4}))?\s*", str(text))
    if not match:
        raise InputError(f"--years {text!r} is not a year or a range such as 2018-2023")
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        raise InputError(f"--years {text} runs backwards; write {last}-{first}")
    if first < 2015:
        raise InputError(f"--years {text} starts before Sentinel-2 was launched (2015)")
    return first, last


def parse_months(text: str | None) -> tuple[int, ...]:
    """`3-5`, `11-2` or `1,6,7` -> months; None means all."""
    if text is None:
        return ALL_MONTHS
    months: list[int] = []
    for part in str(text).split(","):
        match = re.fullmatch(r"\s*(\d{1,2})(?:\s*-\s*(\d{1,2}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not (1 <= first <= 12 and 1 <= last <= 12):
            raise InputError(f"--months {text!r} is not a list of months such as 3-5 or 1,6,7")
        months += range(first, last + 1) if first <= last else [*range(first, 13), *range(1, last + 1)]
    return tuple(sorted(set(months)))


def make_periods(years: str | int, every: Every = "year", months: tuple[int, ...] = ALL_MONTHS) -> list[Period]:
    """Periods of a run, in order; a period without any of the months is left out.

    With `every="scene"` the years are returned: each acquisition becomes a period of its own once the items are known.
    """
    steps = {"year": 12, "scene": 12, "quarter": 3, "month": 1}
    if every not in steps:
        raise InputError(f"--every {every!r} is unknown; choose year, quarter, month or scene")
    first, last = parse_years(years)
    step, periods = steps[every], []
    for year in range(first, last + 1):
        for month in range(1, 13, step):
            inside = tuple(m for m in months if month <= m < month + step)
            if not inside:
                continue
            end = month + step - 1
            label = {12: f"{year}", 3: f"{year}-Q{month // 3 + 1}", 1: f"{year}-{month:02d}"}[step]
            last_day = calendar.monthrange(year, end)[1]
            periods.append(Period(label, date(year, month, 1), date(year, end, last_day), inside))
    return periods
