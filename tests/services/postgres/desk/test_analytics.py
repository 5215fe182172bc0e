"""Periods as people write them, and figures over them."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.errors import InvalidArguments
from app.services.postgres.connections.pools import Database
from app.services.postgres.desk.analytics import Analytics, GroupBy, Period, SupportAnalytics

NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)
DAYS_2_TO_5 = Period(datetime(2026, 3, 2, tzinfo=UTC), datetime(2026, 3, 6, tzinfo=UTC))


@pytest.mark.parametrize(
    ("written", "start"),
    [
        ("7 days", NOW - timedelta(days=7)),
        ("24 hours", NOW - timedelta(hours=24)),
        ("30d", NOW - timedelta(days=30)),
        ("2 weeks", NOW - timedelta(days=14)),
        ("1 week", NOW - timedelta(days=7)),
        ("90 minutes", NOW - timedelta(minutes=90)),
        ("12h", NOW - timedelta(hours=12)),
        (" Last 7 Days ", NOW - timedelta(days=7)),
        ("1 month", datetime(2026, 2, 28, 12, tzinfo=UTC)),
        ("3 months", datetime(2025, 12, 31, 12, tzinfo=UTC)),
        ("1 year", datetime(2025, 3, 31, 12, tzinfo=UTC)),
        (None, NOW - timedelta(days=30)),
    ],
)
def test_a_period_goes_back_from_now(written: str | None, start: datetime):
    assert Period.read(written, now=NOW) == Period(start, NOW)


@pytest.mark.parametrize(
    ("start", "end", "period"),
    [
        ("2026-03-01", "2026-03-31", ("2026-03-01T00:00+00:00", "2026-04-01T00:00+00:00")),
        ("2026-03-01", "2026-03-01", ("2026-03-01T00:00+00:00", "2026-03-02T00:00+00:00")),
        ("2026-03-01T09:30", "2026-03-01T10:00:00Z", ("2026-03-01T09:30+00:00", "2026-03-01T10:00+00:00")),
        ("2026-03-01T00:00+02:00", "2026-03-01 12:00", ("2026-02-28T22:00+00:00", "2026-03-01T12:00+00:00")),
        ("2026-03-01", None, ("2026-03-01T00:00+00:00", "2026-03-31T12:00+00:00")),
        (None, "2026-01-30", ("2026-01-01T00:00+00:00", "2026-01-31T00:00+00:00")),
    ],
)
def test_dates_are_iso_8601_and_an_end_date_includes_its_day(start: Any, end: Any, period: tuple[str, str]):
    expected = Period(*(datetime.fromisoformat(instant) for instant in period))
    assert Period.read(start_date=start, end_date=end, now=NOW) == expected


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"time_period": "a while"}, "time_period"),
        ({"time_period": "0 days"}, "time_period"),
        ({"time_period": "-7 days"}, "time_period"),
        ({"time_period": "11 years"}, "time_period"),
        ({"time_period": "999999 years"}, "time_period"),
        ({"time_period": ""}, "time_period"),
        ({"time_period": "7 days", "start_date": "2026-03-01"}, "time_period"),
        ({"time_period": "7 days", "end_date": "2026-03-01"}, "time_period"),
        ({"start_date": "2026-03-02", "end_date": "2026-03-01"}, "start_date"),
        ({"start_date": "2026-03-01T10:00", "end_date": "2026-03-01T10:00"}, "start_date"),
        ({"start_date": "2027-01-01"}, "start_date"),
        ({"start_date": "2010-01-01"}, "start_date"),
        ({"start_date": "yesterday"}, "start_date"),
        ({"start_date": "2026-02-30"}, "start_date"),
        ({"start_date": "0001-01-01T00:00+14:00"}, "start_date"),
        ({"end_date": "9999-12-31"}, "end_date"),
        ({"end_date": "0001-01-05"}, "end_date"),
    ],
)
def test_a_period_that_makes_no_sense_is_refused_by_name(arguments: dict[str, str], field: str):
    with pytest.raises(InvalidArguments) as refused:
        Period.read(**arguments, now=NOW)
    assert [error.field for error in refused.value.errors] == [field]


async def report(pools: Database, group_by: GroupBy, period: Period = DAYS_2_TO_5) -> Analytics:
    raw = (await SupportAnalytics(pools).report(period, group_by)).json
    assert list(json.loads(raw)) == list(Analytics.model_fields)
    return Analytics.model_validate_json(raw, strict=True)


@pytest.mark.parametrize("group_by", list(GroupBy))
async def test_totals_are_the_same_whatever_they_are_grouped_by(pools: Database, group_by: GroupBy):
    found = await report(pools, group_by)
    assert (found.start, found.end, found.group_by) == (DAYS_2_TO_5.start, DAYS_2_TO_5.end, group_by)
    assert found.totals.model_dump() == {
        "interactions": 4,
        "customers": 2,
        "tickets_opened": 3,
        "tickets_resolved": 1,
        "tickets_open": 2,
        "tickets_escalated": 1,
        "average_first_response_minutes": 60.0,
        "average_resolution_minutes": 120.0,
        "average_satisfaction": 3.5,
    }
    for name in ("interactions", "tickets_opened", "tickets_resolved", "tickets_open", "tickets_escalated"):
        assert sum(getattr(point, name) for point in found.series) == getattr(found.totals, name)
    assert [(c.channel, c.interactions) for c in found.busiest_channels] == [("chat", 2), ("email", 2)]


async def test_days_without_events_are_zeros_and_averages_of_nothing_are_null(pools: Database):
    series = (await report(pools, GroupBy.DAY)).series
    assert [(p.key, p.interactions, p.tickets_opened) for p in series] == [
        ("2026-03-02", 1, 1),
        ("2026-03-03", 2, 2),
        ("2026-03-04", 0, 0),
        ("2026-03-05", 1, 0),
    ]
    assert (series[2].average_satisfaction, series[2].average_first_response_minutes) == (None, None)


@pytest.mark.parametrize(
    ("group_by", "interactions"),
    [
        (GroupBy.CHANNEL, {"chat": 2, "email": 2, "web": 0, "phone": 0, "social": 0, "api": 0}),
        (GroupBy.STATUS, {"resolved": 1, "escalated": 1, "open": 1, "pending": 0, "closed": 0, None: 1}),
        (GroupBy.PRIORITY, {"low": 1, "urgent": 1, "normal": 1, "high": 0, None: 1}),
        (GroupBy.AGENT, {"maria": 1, "bot": 1, None: 2}),
    ],
)
async def test_a_series_has_every_group(pools: Database, group_by: GroupBy, interactions: dict[str | None, int]):
    series = (await report(pools, group_by)).series
    assert {point.key: point.interactions for point in series} == interactions
    assert [point.interactions for point in series] == sorted(interactions.values(), reverse=True)


async def test_the_end_is_not_included_and_the_start_is(pools: Database):
    instant = datetime(2026, 3, 5, 23, 59, 59, tzinfo=UTC)
    second = timedelta(seconds=1)
    assert (await report(pools, GroupBy.DAY, Period(instant - second, instant))).totals.interactions == 0
    assert (await report(pools, GroupBy.DAY, Period(instant, instant + second))).totals.interactions == 1


async def test_an_empty_period_is_all_zeros(pools: Database):
    found = await report(pools, GroupBy.AGENT, Period(NOW, NOW + timedelta(days=1)))
    assert (found.totals.interactions, found.totals.average_satisfaction, found.series, found.busiest_channels) == (
        0,
        None,
        [],
        [],
    )
