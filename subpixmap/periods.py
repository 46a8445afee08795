"""Makes the periods of a run; a period is a label, two dates and the months to use."""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Literal

from subpixmap.errors import InputError

Every = Literal["year", "quarter", "month", "scene"]
ALL_MONTHS = tuple(range(1, 13))


@dataclass(frozen=True, order=True)
class Period:
    """A time interval whose chosen acquisitions are averaged."""

    label: str
    """`2018`, `2018-Q1`, `2018-03`, or an acquisition's ISO time."""
    start: date
    """First day of the used months (of the whole period in folders of earlier versions)."""
    end: date
    """Last day, included."""
    months: tuple[int, ...] = ALL_MONTHS
    """Months to use in every year, in the order of the season: 11, 12, 1, 2."""

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise InputError(f"period {self.label} ends ({self.end}) before it starts ({self.start})")

    def holds(self, when: datetime) -> bool:
        """Whether an acquisition time belongs to the period (UTC)."""
        day = when.astimezone(UTC).date() if when.tzinfo else when.date()
        return self.start <= day <= self.end and day.month in self.months

    @property
    def bounds(self) -> tuple[datetime, datetime]:
        """First moment, and the first moment after it (UTC)."""
        first, after = (datetime.combine(day, time.min, UTC) for day in (self.start, self.end + timedelta(days=1)))
        return first, after

    @property
    def moment(self) -> datetime:
        """The time that stands for the period: the middle of its bounds, or that of the acquisition (UTC)."""
        if "T" in self.label:
            when = datetime.fromisoformat(self.label)
            return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)
        first, after = self.bounds
        return first + (after - first) / 2


def parse_years(text: str | int) -> tuple[int, int]:
    """`2018-2023` or `2021` -> first and last year."""
    match = re.fullmatch(r"\s*(\d{4})(?:\s*[-:]\s*(\d{4}))?\s*", str(text))
    if not match:
        raise InputError(f"--years {text!r} is not a year or a range such as 2018-2023")
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        raise InputError(f"--years {text} is in the wrong order; write {last}-{first}")
    if first < 2015:
        raise InputError(f"--years {text} starts before Sentinel-2 was launched (2015)")
    return first, last


def parse_months(text: str | None) -> tuple[int, ...]:
    """`3-5`, `11-2` or `1,6,7` -> months as `season` orders them; None means all."""
    if text is None:
        return ALL_MONTHS
    months: list[int] = []
    crosses = False
    for part in str(text).split(","):
        match = re.fullmatch(r"\s*(\d{1,2})(?:\s*-\s*(\d{1,2}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not (1 <= first <= 12 and 1 <= last <= 12):
            raise InputError(f"--months {text!r} is not a list of months such as 3-5 or 1,6,7")
        months += range(first, last + 1) if first <= last else [*range(first, 13), *range(1, last + 1)]
        crosses = crosses or first > last
    ordered = season(months)
    if crosses and not over_new_year(ordered):
        raise InputError(
            f"--months {text}: a season across the turn of the year must have consecutive months, such as 11-2; use "
            "another --out for other months"
        )
    return ordered


def season(months: Iterable[int]) -> tuple[int, ...]:
    """Months in the order of a season, each once: 11, 12, 1, 2 for a winter; otherwise in the order of the year.

    A season crosses the year if its months are consecutive in the given order: 11, 12, 1, 2 is one winter, but 1, 2,
    11, 12 are four months of one calendar year.
    """
    given = tuple(dict.fromkeys(months))
    follow = all(after == before % 12 + 1 for before, after in pairwise(given))
    return given if follow else tuple(sorted(given))


def over_new_year(months: tuple[int, ...]) -> bool:
    """Whether a season continues in the next year."""
    return bool(months) and months[0] > months[-1]


def make_periods(
    years: str | int, every: Every = "year", months: tuple[int, ...] = ALL_MONTHS, *, whole: bool = False
) -> list[Period]:
    """Periods of a run, in order; a period without any of the months is left out.

    A period lasts from the first day of its months to their last; with `whole`, as in folders of earlier versions, it
    lasts its whole year, quarter or month. A season that crosses the year belongs together: the years are those in
    which it begins, and a yearly period is named by that year. With `every="scene"` the yearly periods are
    returned: each acquisition becomes a period of its own once the items are known.
    """
    steps = {"year": 12, "scene": 12, "quarter": 3, "month": 1}
    if every not in steps:
        raise InputError(f"--every {every!r} is unknown; choose year, quarter, month or scene")
    first, last = parse_years(years)
    months = season(months)
    if not over_new_year(months):
        found = [_calendar(year, every, steps[every], months, whole) for year in range(first, last + 1)]
        return [period for one in found for period in one]
    if steps[every] == 12:
        return [
            Period(f"{year}", date(year, months[0], 1), _last_day(year + 1, months[-1]), months)
            for year in range(first, last + 1)
        ]
    turn = months.index(1)
    periods = [
        period
        for year in range(first, last + 1)
        for later, part in enumerate((months[:turn], months[turn:]))
        for period in _calendar(year + later, every, steps[every], part, whole)
    ]
    if (months[0] - 1) // steps[every] == (months[-1] - 1) // steps[every]:
        raise InputError(
            f"--months {months[0]}-{months[-1]} --every {every}: two seasons would share one {every}; choose --every "
            "year or month"
        )
    return periods


def last_whole(periods: Iterable[Period]) -> bool:
    """Whether periods begin or end in unused months, as in folders of earlier versions."""
    return any(not {period.start.month, period.end.month} <= set(period.months) for period in periods)


def _calendar(year: int, every: Every, step: int, months: tuple[int, ...], whole: bool) -> list[Period]:
    """Periods of a calendar year."""
    periods = []
    for month in range(1, 13, step):
        if inside := tuple(m for m in months if month <= m < month + step):
            label = {12: f"{year}", 3: f"{year}-Q{month // 3 + 1}", 1: f"{year}-{month:02d}"}[step]
            first, last = (month, month + step - 1) if whole else (inside[0], inside[-1])
            periods.append(Period(label, date(year, first, 1), _last_day(year, last), inside))
    return periods


def _last_day(year: int, month: int) -> date:
    return date(year, month, calendar.monthrange(year, month)[1])
