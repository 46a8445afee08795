from datetime import UTC, date, datetime

import pytest

from subpixmap.errors import InputError
from subpixmap.periods import Period, make_periods, parse_months


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
    (year,) = make_periods(2021, months=parse_months("11-2"))
    assert year.months == (1, 2, 11, 12)
    assert year.holds(datetime(2021, 12, 31, 23, 59, tzinfo=UTC))
    assert not year.holds(datetime(2021, 6, 1, tzinfo=UTC))


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


def test_a_period_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(InputError, match="x"):
        Period("x", date(2021, 1, 2), date(2021, 1, 1))
