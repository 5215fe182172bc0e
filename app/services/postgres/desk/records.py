"""One row of each table, as callers receive it, and the statements' way to such a row."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field, JsonValue
from sqlalchemy import ColumnElement, FromClause, Label, Select, Subquery, func, literal_column, select

from app.models import (
    Base,
    Channel,
    CustomerStatus,
    Direction,
    Plan,
    Priority,
    TicketStatus,
)


class CustomerRecord(BaseModel):
    """A person or company that we support."""

    id: str
    name: str
    email: str
    company: str | None
    plan: Plan
    status: CustomerStatus
    language: str = Field(description="Such as `en`.")
    country: str | None = Field(description="ISO 3166 code.")
    metadata: dict[str, JsonValue]
    created_at: datetime


class TicketRecord(BaseModel):
    """A problem that a customer reported."""

    id: int
    customer_id: str
    subject: str
    description: str
    status: TicketStatus
    priority: Priority
    channel: Channel
    assigned_agent: str | None
    created_at: datetime
    updated_at: datetime
    first_response_at: datetime | None
    resolved_at: datetime | None


class InteractionRecord(BaseModel):
    """One exchange with a customer, or a note of the staff about one."""

    id: int
    customer_id: str
    ticket_id: int | None
    channel: Channel
    direction: Direction
    internal: bool = Field(description="A note that the customer must never see.")
    agent_id: str | None
    query_text: str | None
    agent_response: str | None
    satisfaction: int | None = Field(description="1 to 5; 5 is best.")
    metadata: dict[str, JsonValue]
    created_at: datetime


class ArticleRecord(BaseModel):
    """A published page of the knowledge base."""

    id: int
    slug: str
    title: str
    body: str
    tags: list[str]
    language: str
    created_at: datetime
    updated_at: datetime


_EMPTY_LIST: ColumnElement[Any] = literal_column("'[]'::json")


def columns_of(table: type[Base], record: type[BaseModel]) -> list[Label[Any]]:
    """Return the columns of a table that a record shows, under the record's names."""
    # A declarative class can't call an attribute "metadata", so that column's is called "details".
    attributes = {"metadata": "details"}
    return [getattr(table, attributes.get(name, name)).label(name) for name in record.model_fields]


def json_row(source: Subquery) -> ColumnElement[Any]:
    """Return a row of a subquery as a JSON object."""
    return func.row_to_json(source.table_valued())


def json_rows(rows: Select[*tuple[Any, ...]], name: str) -> ColumnElement[Any]:
    """Return the rows of a select, in its order, as a JSON array; an empty one if there are none."""
    source = rows.subquery(name)
    listed = func.coalesce(func.json_agg(json_row(source)), _EMPTY_LIST)
    return select(listed).select_from(source).scalar_subquery()


def json_object(source: FromClause | None = None, /, **values: ColumnElement[Any]) -> Select[*tuple[Any, ...]]:
    """Return a select of a JSON object of values, in their order.

    It is written as a row is: `json_build_object` puts a space before each colon.

    Args:
        source: what the values are of, one object for all of its rows if they are aggregates; None if they are of the
            select that this one becomes a part of.
        values: by the names that they have in the object.
    """
    row = select(*(value.label(name) for name, value in values.items()))
    row = row.correlate(*row.get_final_froms()) if source is None else row.select_from(source)
    return select(json_row(row.subquery("object")))


def literal(value: str | int | bool) -> ColumnElement[Any]:
    """Return a constant of ours that stands in the statement's text, so that it is no parameter of the statement."""
    written = str(value).lower() if isinstance(value, bool | int) else f"'{value}'"
    return literal_column(written)
