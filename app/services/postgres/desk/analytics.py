"""Figures of the support desk over a period."""

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import partial
from typing import Any

from pydantic import BaseModel, Field
from sqlalchemy import (
    ColumnElement,
    Date,
    Select,
    SmallInteger,
    Subquery,
    Text,
    and_,
    bindparam,
    cast,
    distinct,
    extract,
    func,
    literal_column,
    null,
    select,
    union_all,
)

from app.errors import InvalidArguments
from app.models import Channel, Interaction, Priority, Ticket, TicketStatus
from app.results import RawResult, Result
from app.services.postgres.connections.pools import Database, Statement, compile_ahead
from app.services.postgres.desk.records import json_object, json_row, json_rows, literal

LONGEST_PERIOD = timedelta(days=3660)
DEFAULT_PERIOD = "30 days"


class GroupBy(StrEnum):
    DAY = "day"
    CHANNEL = "channel"
    STATUS = "status"
    PRIORITY = "priority"
    AGENT = "agent"


class Figures(BaseModel):
    """What happened in a period, or in one group of it. Averages are null where nothing was measured."""

    interactions: int = Field(description="Public ones.")
    customers: int = Field(description="In these interactions.")
    tickets_opened: int = Field(description="Created in the period.")
    tickets_resolved: int = Field(description="Solved in the period.")
    tickets_open: int = Field(description="Of those opened, unsolved now.")
    tickets_escalated: int = Field(description="Of those opened, escalated now.")
    average_first_response_minutes: float | None = Field(description="Over those opened.")
    average_resolution_minutes: float | None = Field(description="Over those resolved.")
    average_satisfaction: float | None = Field(description="1 to 5.")


class GroupFigures(Figures):
    """The figures of one day, channel, status, priority or agent."""

    key: str | None = Field(description="Null for what has none, such as interactions without a ticket by status.")


class ChannelCount(BaseModel):
    channel: Channel
    interactions: int


class Analytics(Result):
    """Figures over a period, in all and by group."""

    start: datetime = Field(description="Included.")
    end: datetime = Field(description="Not included.")
    group_by: GroupBy
    totals: Figures
    series: list[GroupFigures] = Field(description="Days in order, else the busiest first.")
    busiest_channels: list[ChannelCount] = Field(description="Channels with interactions, the busiest first.")


@dataclass(frozen=True, slots=True)
class Period:
    """Instants from `start` up to and without `end`."""

    start: datetime
    end: datetime

    @classmethod
    def read(
        cls,
        time_period: str | None = None,
        start_date: str | None = None,
        end_date: str | None = None,
        *,
        now: datetime | None = None,
    ) -> "Period":
        """Understand a period as people write it.

        Args:
            time_period: a number and a unit, back from now: `7 days`, `24 hours`, `30d`, `3 months`.
            start_date: ISO 8601 with or without a time; UTC unless it names an offset.
            end_date: likewise; a date without a time includes that whole day. Now if left out.
            now: the clock's time if left out.

        Raises:
            InvalidArguments: it can't be understood, is empty, too long, or is given in both ways.
        """
        now = now or datetime.now(UTC)
        if start_date is None and end_date is None:
            return cls(_back_from(now, DEFAULT_PERIOD if time_period is None else time_period), now)
        if time_period is not None:
            raise InvalidArguments.of("time_period", "give either time_period or start_date and end_date, not both")
        end = now if end_date is None else _instant("end_date", end_date, end_of_day=True)
        start = _back_from(end, DEFAULT_PERIOD) if start_date is None else _instant("start_date", start_date)
        if start >= end:
            raise InvalidArguments.of("start_date", "must be before end_date, which is now if left out")
        if end - start > LONGEST_PERIOD:
            raise InvalidArguments.of("start_date", f"the period must not be longer than {LONGEST_PERIOD.days} days")
        return cls(start, end)


_PERIOD = re.compile(
    r"\s*(?:last\s+|past\s+)?(\d{1,6})\s*"
    r"(?:(?P<minutes>min(?:ute)?s?)|(?P<hours>h(?:(?:ou)?rs?)?)|(?P<days>d(?:ays?)?)"
    r"|(?P<weeks>w(?:eeks?)?)|(?P<months>mo(?:nths?)?)|(?P<years>y(?:(?:ea)?rs?)?))\s*",
    re.IGNORECASE,
)
_UNIT_DAYS = {"minutes": 1 / 1440, "hours": 1 / 24, "days": 1, "weeks": 7, "months": 30, "years": 365}


def _back_from(end: datetime, period: str) -> datetime:
    match = _PERIOD.fullmatch(period)
    if match is None or match.lastgroup is None:
        raise InvalidArguments.of(
            "time_period", "expected a number and a unit, such as 7 days, 24 hours, 30d, 3 months"
        )
    number, unit = int(match[1]), match.lastgroup
    if number == 0 or number * _UNIT_DAYS[unit] > LONGEST_PERIOD.days:
        raise InvalidArguments.of("time_period", f"must be more than nothing and at most {LONGEST_PERIOD.days} days")
    try:
        if unit in ("months", "years"):
            return _months_before(end, number * (12 if unit == "years" else 1))
        return end - timedelta(**{unit: number})
    except (OverflowError, ValueError):
        raise InvalidArguments.of("end_date", "is too early") from None


def _months_before(end: datetime, months: int) -> datetime:
    year, month = divmod(end.year * 12 + end.month - 1 - months, 12)
    return end.replace(year=year, month=month + 1, day=min(end.day, monthrange(year, month + 1)[1]))


def _instant(field: str, text: str, *, end_of_day: bool = False) -> datetime:
    try:
        if len(text) <= len("2026-01-31"):
            day = date.fromisoformat(text) + timedelta(days=end_of_day)
            return datetime.combine(day, time(), UTC)
        instant = datetime.fromisoformat(text)
        return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidArguments.of(field, "expected ISO 8601, such as 2026-01-31 or 2026-01-31T09:00:00Z") from None


class SupportAnalytics:
    """Reports over the support desk.

    Args:
        database: the pools of the support database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def warm_up(self) -> None:
        """Spare the first callers what statements cost once."""
        await compile_ahead(_REPORTS.values())

    async def report(self, period: Period, group_by: GroupBy) -> RawResult[Analytics]:
        """Return the figures of a period, in all and by group."""
        found = await self._database.reports.fetch_json(_REPORTS[group_by], start=period.start, end=period.end)
        assert found is not None
        return RawResult(found)


_START: ColumnElement[Any] = bindparam("start", type_=Ticket.created_at.type)
_END: ColumnElement[Any] = bindparam("end", type_=Ticket.created_at.type)
_OPEN = (TicketStatus.OPEN, TicketStatus.PENDING, TicketStatus.ESCALATED)


def _within(moment: Any) -> ColumnElement[bool]:
    return and_(moment >= _START, moment < _END)


def _day(moment: Any) -> ColumnElement[Any]:
    return cast(func.timezone(literal("UTC"), moment), Date)


def _minutes(start: Any, end: Any) -> ColumnElement[Any]:
    return extract("epoch", end - start) / literal(60)


def _events(group_by: GroupBy) -> Subquery:
    """Return one row for each thing that counts: an interaction, an opened ticket, a solved ticket, a group as such.

    One pass over them gives every figure, and groups without anything else come out as zeros.
    """
    names = ("key", "customer_id", "satisfaction", "opened", "response", "resolution")
    nothing: dict[str, Any] = {
        "customer_id": cast(null(), Text),
        "satisfaction": cast(null(), SmallInteger),
        "opened": cast(null(), Text),
        "response": literal_column("NULL::numeric"),
        "resolution": literal_column("NULL::numeric"),
    }

    def rows(**values: Any) -> Select[*tuple[Any, ...]]:
        merged = nothing | values
        return select(*(merged[name].label(name) for name in names))

    said_by = {
        GroupBy.DAY: _day(Interaction.created_at),
        GroupBy.CHANNEL: Interaction.channel,
        GroupBy.STATUS: Ticket.status,
        GroupBy.PRIORITY: Ticket.priority,
        GroupBy.AGENT: Interaction.agent_id,
    }[group_by]
    said = rows(key=said_by, customer_id=Interaction.customer_id, satisfaction=Interaction.satisfaction)
    if group_by in (GroupBy.STATUS, GroupBy.PRIORITY):
        said = said.select_from(Interaction).outerjoin(Ticket, Ticket.id == Interaction.ticket_id)
    ticket_key: Any = {
        GroupBy.CHANNEL: Ticket.channel,
        GroupBy.STATUS: Ticket.status,
        GroupBy.PRIORITY: Ticket.priority,
        GroupBy.AGENT: Ticket.assigned_agent,
    }.get(group_by)
    opened = rows(
        key=_day(Ticket.created_at) if ticket_key is None else ticket_key,
        opened=Ticket.status,
        response=_minutes(Ticket.created_at, Ticket.first_response_at),
    )
    resolved = rows(
        key=_day(Ticket.resolved_at) if ticket_key is None else ticket_key,
        resolution=_minutes(Ticket.created_at, Ticket.resolved_at),
    )
    parts = [
        said.where(_within(Interaction.created_at), ~Interaction.internal),
        opened.where(_within(Ticket.created_at)),
        resolved.where(_within(Ticket.resolved_at)),
    ]
    known = _known_groups(group_by)
    if known is not None:
        parts.append(rows(key=known))
    return union_all(*parts).subquery("event")


def _known_groups(group_by: GroupBy) -> ColumnElement[Any] | None:
    """Return the groups that a report shows even if nothing happened in them."""
    if group_by == GroupBy.DAY:
        last = _day(_END - literal_column("interval '1 microsecond'"))
        return cast(func.generate_series(_day(_START), last, literal_column("interval '1 day'")), Date)
    kinds = {GroupBy.CHANNEL: Channel, GroupBy.STATUS: TicketStatus, GroupBy.PRIORITY: Priority}
    if group_by not in kinds:
        return None
    listed = ",".join(kinds[group_by])
    return func.unnest(literal_column(f"'{{{listed}}}'::text[]"))


def _report(group_by: GroupBy) -> Select[*tuple[Any, ...]]:
    event = _events(group_by)

    def average(column: Any) -> ColumnElement[Any]:
        return func.round(func.avg(column), literal(2))

    figures = (
        select(
            event.c.key,
            func.grouping(event.c.key).label("is_total"),
            func.count(event.c.customer_id).label("interactions"),
            func.count(distinct(event.c.customer_id)).label("customers"),
            func.count(event.c.opened).label("tickets_opened"),
            func.count(event.c.resolution).label("tickets_resolved"),
            func.count().filter(event.c.opened.in_([literal(s) for s in _OPEN])).label("tickets_open"),
            func.count().filter(event.c.opened == literal(TicketStatus.ESCALATED)).label("tickets_escalated"),
            average(event.c.response).label("average_first_response_minutes"),
            average(event.c.resolution).label("average_resolution_minutes"),
            average(event.c.satisfaction).label("average_satisfaction"),
        )
        .group_by(func.rollup(event.c.key))
        .cte("figures")
    )
    columns = [figures.c[name] for name in Figures.model_fields]
    totals = select(*columns).where(figures.c.is_total == literal(1)).subquery("total")
    series = select(figures.c.key, *columns).where(figures.c.is_total == literal(0))
    if group_by == GroupBy.DAY:
        series = series.order_by(figures.c.key)
    else:
        busiest = figures.c.interactions.desc(), figures.c.tickets_opened.desc()
        series = series.order_by(*busiest, figures.c.key.nulls_last())
    channels = (
        select(Interaction.channel, func.count().label("interactions"))
        .where(_within(Interaction.created_at), ~Interaction.internal)
        .group_by(Interaction.channel)
        .order_by(func.count().desc(), Interaction.channel)
    )
    return json_object(
        totals,
        success=literal(True),
        start=_START,
        end=_END,
        group_by=literal(group_by),
        totals=json_row(totals),
        series=json_rows(series, "point"),
        busiest_channels=json_rows(channels, "busiest"),
    )


_REPORTS = {group_by: Statement(partial(_report, group_by), for_staff=True) for group_by in GroupBy}
