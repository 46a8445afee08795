from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subpixmap.errors import InputError
from subpixmap.periods import Period, last_whole, make_periods, parse_months


def test_years_quarters_and_months() -> None:
    assert [p.label for p in make_periods("2018-2020")] == ["2018", "2019", "2020"]
    quarters = make_periods(2021, "quarter")
    assert [p.label for p in quarters] == ["2021-Q1", "2021-Q2", "2021-Q3", "2021-Q4"]
    assert (quarters[0].start, quarters[0].end) == (date(2021, 1, 1), date(2021, 3, 31))
    months = make_periods("2020", "month")
    assert months[1].label == "2020-02"
    assert months[1].end == date(2020, 2, 29)


def test_a_season_leaves_out_periods_without_its_months() -> None:
    assert [p.label for p in make_periods(2021, "quarter", parse_months("3-5"))] == ["2021-Q1", "2021-Q2"]
    spans = [(p.start, p.end) for p in make_periods(2021, "quarter", parse_months("3-5"))]
    assert spans == [(date(2021, 3, 1), date(2021, 3, 31)), (date(2021, 4, 1), date(2021, 5, 31))]
    (spring,) = make_periods(2021, months=parse_months("3-5"))
    assert (spring.start, spring.end) == (date(2021, 3, 1), date(2021, 5, 31))
    (year,) = make_periods(2021, months=parse_months("1,2,11,12"))
    assert (year.start, year.end, year.months) == (date(2021, 1, 1), date(2021, 12, 31), (1, 2, 11, 12))
    assert year.holds(datetime(2021, 12, 31, 23, 59, tzinfo=UTC))
    assert not year.holds(datetime(2021, 6, 1, tzinfo=UTC))


@pytest.mark.parametrize("text", ["11-2", "11,12,1,2", "11-12,1-2", " 11 - 2 "])
def test_a_season_that_crosses_the_year_belongs_together(text: str) -> None:
    """One winter, named by its first year, with the days that it really spans."""
    first, second = make_periods("2019-2020", months=parse_months(text))
    assert (first.label, first.start, first.end) == ("2019", date(2019, 11, 1), date(2020, 2, 29))
    assert (second.label, second.start, second.end) == ("2020", date(2020, 11, 1), date(2021, 2, 28))
    assert first.holds(datetime(2020, 1, 5, tzinfo=UTC))
    assert not first.holds(datetime(2019, 1, 5, tzinfo=UTC))
    assert second.holds(datetime(2021, 2, 28, 23, tzinfo=UTC))


def test_quarters_and_months_of_such_a_season_are_those_of_its_years() -> None:
    winters = parse_months("11-2")
    quarters = make_periods("2019-2020", "quarter", winters)
    assert [(p.label, p.months) for p in quarters] == [
        ("2019-Q4", (11, 12)), ("2020-Q1", (1, 2)), ("2020-Q4", (11, 12)), ("2021-Q1", (1, 2))]  # fmt: skip
    months = make_periods(2019, "month", winters)
    assert [p.label for p in months] == ["2019-11", "2019-12", "2020-01", "2020-02"]
    with pytest.raises(InputError, match="quarter"):
        make_periods(2019, "quarter", parse_months("11-10"))


@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from(["year", "month", "scene"]), st.dates(
    date(2017, 1, 1), date(2023, 12, 31)))  # fmt: skip
def test_each_day_of_a_season_lies_in_one_period_of_the_year_it_began(
    first: int, last: int, every: Any, day: date
) -> None:
    months = parse_months(f"{first}-{last}")
    inside = first <= day.month <= last if first <= last else day.month >= first or day.month <= last
    began = day.year - 1 if first > last and day.month <= last else day.year
    holding = [p for p in make_periods("2018-2021", every, months) if p.holds(datetime(day.year, day.month, day.day))]
    assert len(holding) == (inside and 2018 <= began <= 2021)
    if holding and every != "month":
        assert holding[0].label == str(began)


@pytest.mark.parametrize("text", ["11-2,6", "6,11-2", "11-1,3"])
def test_other_months_beside_such_a_season_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=f"--months {text}"):
        parse_months(text)


def test_months_in_any_other_order_are_those_of_a_calendar_year() -> None:
    assert parse_months("6,1,3") == (1, 3, 6)
    assert parse_months("12,1") == (12, 1)
    assert parse_months("1,12") == (1, 12)
    assert parse_months("1-12") == tuple(range(1, 13))


def test_periods_cover_each_day_once() -> None:
    days = [datetime(2020, 1 + m, d, tzinfo=UTC) for m in range(12) for d in (1, 28)]
    for every in ("year", "quarter", "month"):
        found = make_periods("2019-2021", every)
        assert all(sum(p.holds(day) for p in found) == 1 for day in days)


@pytest.mark.parametrize("years", ["2023-2018", "20", "", "2018-", "1999", "abcd"])
def test_bad_years_are_refused(years: str) -> None:
    with pytest.raises(InputError, match="--years"):
        make_periods(years)


@pytest.mark.parametrize("months", ["0", "13", "x", "3-", ""])
def test_bad_months_are_refused(months: str) -> None:
    with pytest.raises(InputError, match="--months"):
        parse_months(months)


@pytest.mark.parametrize("every", ["year", "quarter", "month"])
def test_periods_of_earlier_folders_are_known_by_the_months_that_do_not_count(every: Any) -> None:
    """They held the same acquisitions, under the dates of the whole year or quarter."""
    for first, last in [(first, last) for first in range(1, 13) for last in range(1, 13)]:
        months = parse_months(f"{first}-{last}")
        if every == "quarter" and first > last and (first - 1) // 3 == (last - 1) // 3:
            continue
        true, old = (make_periods("2019-2021", every, months, whole=whole) for whole in (False, True))
        assert not last_whole(true)
        assert last_whole(old) == (old != true)
        assert [(p.label, p.months) for p in true] == [(p.label, p.months) for p in old]
        assert all(a.start <= b.start <= b.end <= a.end for a, b in zip(old, true, strict=True))
        assert all({p.start.month, p.end.month} <= set(p.months) for p in true)


def test_a_period_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(InputError, match="x"):
        Period("x", date(2021, 1, 2), date(2021, 1, 1))
