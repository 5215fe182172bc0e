"""The tables page by page and row by row, as the `db://` resources show them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, Field
from sqlalchemy import ColumnElement, Select, Text, bindparam, case, func, literal_column, not_, select

from app.errors import InvalidArguments, NotFound
from app.models import Article, ArticleStatus, Base, Customer, Interaction, Ticket
from app.results import RawResult, Result
from app.services.postgres.connections.confined import of_customer
from app.services.postgres.connections.pools import Database, Reach, compile_ahead
from app.services.postgres.desk.records import (
    ArticleRecord,
    CustomerRecord,
    InteractionRecord,
    TicketRecord,
    columns_of,
    json_object,
    json_row,
    literal,
)

PageLimit = Annotated[int, Field(ge=1, le=200, description="Most rows of the page.")]
Cursor = Annotated[str, Field(max_length=1000, description="`next_cursor` of the page before.")]
NextCursor = Annotated[str | None, Field(description="Give it as `cursor` for the next page; null at the end.")]


class CustomerPage(Result):
    """Customers by id."""

    customers: list[CustomerRecord]
    next_cursor: NextCursor


class TicketPage(Result):
    """Tickets, the newest first."""

    tickets: list[TicketRecord]
    next_cursor: NextCursor


class ArticlePage(Result):
    """Published knowledge articles by id."""

    knowledge_articles: list[ArticleRecord]
    next_cursor: NextCursor


class InteractionPage(Result):
    """Interactions, the newest first. Where `internal` is true it is a note that no customer may see."""

    interactions: list[InteractionRecord]
    next_cursor: NextCursor


class CustomerRow(Result):
    customer: CustomerRecord


class TicketRow(Result):
    ticket: TicketRecord


class Passage(BaseModel):
    """A part of an article that search finds by itself; the next one begins before its end."""

    number: int
    text: str


class ArticleRow(Result):
    knowledge_article: ArticleRecord
    passages: list[Passage]


class InteractionRow(Result):
    interaction: InteractionRecord


PageT = TypeVar("PageT", bound=Result)
RowT = TypeVar("RowT", bound=Result)


@dataclass(frozen=True)
class Listing(Generic[PageT, RowT]):
    """One table as resources show it."""

    table: type[Base]
    record: type[BaseModel]
    page: type[PageT]
    row: type[RowT]
    newest_first: bool = False
    condition: ColumnElement[bool] | None = None
    owner: ColumnElement[str] | None = None
    """The column that says whose a row is; None where all rows are everybody's."""
    shown_to_customers: ColumnElement[bool] | None = None
    """Which of its rows a customer may see of its own; all of them if left out."""
    parts: Mapping[str, str] = field(default_factory=dict[str, str])
    """What a single row's answer holds beside the row: SQL of JSON by its name, with the row in `one`."""

    @property
    def name(self) -> str:
        return self.table.__tablename__


CUSTOMERS = Listing(Customer, CustomerRecord, CustomerPage, CustomerRow, owner=Customer.id.expression)
TICKETS = Listing(Ticket, TicketRecord, TicketPage, TicketRow, newest_first=True, owner=Ticket.customer_id.expression)
ARTICLES = Listing(
    Article,
    ArticleRecord,
    ArticlePage,
    ArticleRow,
    condition=Article.status == literal(ArticleStatus.PUBLISHED),
    parts={
        "passages": "(SELECT coalesce(json_agg(read ORDER BY number), '[]')"
        " FROM (SELECT number, passage AS text FROM article_passages(one.body)) AS read)"
    },
)
INTERACTIONS = Listing(
    Interaction,
    InteractionRecord,
    InteractionPage,
    InteractionRow,
    newest_first=True,
    owner=Interaction.customer_id.expression,
    shown_to_customers=not_(Interaction.internal),
)


class SupportRecords:
    """Pages and single rows of the support database.

    Args:
        database: the pools of the support database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def warm_up(self) -> None:
        """Spare the first callers what statements cost once."""
        await compile_ahead(chain(*_ROWS.values(), *_PAGES.values()))

    async def page(
        self,
        listing: Listing[PageT, Any],
        cursor: str | None,
        limit: int,
        customer: str | None = None,
        owner: str = "",
    ) -> RawResult[PageT]:
        """Return the rows that come after a cursor.

        Args:
            listing: the table.
            cursor: `next_cursor` of the page before, None for the first page.
            limit: most rows.
            customer: to whom the caller is bound; there are no rows of others then, and no notes of the staff.
            owner: whose cursors are taken; "" stands for everybody who has none of its own.

        Raises:
            InvalidArguments: the cursor is damaged, of another table or another owner.
        """
        after = _beginning(listing) if cursor is None else _read_cursor(listing, cursor, owner)
        statement = _PAGES[listing.name].of(customer)
        found = await self._database.reads.fetch_json(
            statement, after=after, limit=limit, customer=customer, owner=owner
        )
        assert found is not None
        return RawResult(found)

    async def row(self, listing: Listing[Any, RowT], row_id: int | str, customer: str | None = None) -> RawResult[RowT]:
        """Return one row, of the customer to whom the caller is bound if it is bound to one.

        Raises:
            NotFound: there is none with the id.
        """
        found = await self._database.reads.fetch_json(_ROWS[listing.name].of(customer), id=row_id, customer=customer)
        if found is None:
            kind = next(name for name in listing.row.model_fields if name != "success").replace("_", " ")
            raise NotFound(f"There is no {kind} {row_id!r}; check the id")
        return RawResult(found)


def _beginning(listing: Listing[Any, Any]) -> int | str:
    if listing.table is Customer:
        return ""
    return 2**63 - 1 if listing.newest_first else 0


def _read_cursor(listing: Listing[Any, Any], cursor: str, owner: str) -> int | str:
    try:
        plain = bytes.fromhex(cursor[:-8]).decode()
        name, _, last = plain.partition(":")
        whole = hashlib.md5(f"{plain}{owner}".encode(), usedforsecurity=False).hexdigest()[:8] == cursor[-8:]
        if whole and name == listing.name:
            return last if listing.table is Customer else int(last)
    except ValueError:
        pass
    raise InvalidArguments.of("cursor", "is no next_cursor of this resource; leave it out to begin again")


def _restricted(
    rows: Select[*tuple[Any, ...]], listing: Listing[Any, Any], *, of_one: bool
) -> Select[*tuple[Any, ...]]:
    """Return a select without the rows that nobody may see, or of one customer's the ones that it may."""
    if listing.condition is not None:
        rows = rows.where(listing.condition)
    if of_one and listing.owner is not None:
        rows = rows.where(listing.owner == of_customer())
        if listing.shown_to_customers is not None:
            rows = rows.where(listing.shown_to_customers)
    return rows


def _page(listing: Listing[Any, Any], of_one: bool) -> Select[*tuple[Any, ...]]:
    """Select one row more than asked for, which tells whether there is a next page and is not shown."""
    columns = columns_of(listing.table, listing.record)
    key = listing.table.__table__.c.id
    after = bindparam("after", type_=key.type)
    limit: ColumnElement[int] = bindparam("limit", type_=Ticket.id.type)
    order = key.desc() if listing.newest_first else key.asc()
    rows = (
        select(*columns)
        .where(key < after if listing.newest_first else key > after)
        .order_by(order)
        .limit(limit + literal(1))
    )
    fetched = _restricted(rows, listing, of_one=of_one).subquery("fetched")
    order = fetched.c.id.desc() if listing.newest_first else fetched.c.id.asc()
    numbered = select(
        json_row(fetched).label("row"),
        fetched.c.id,
        func.row_number().over(order_by=order).label("number"),
    ).cte("numbered")
    shown = func.json_agg(numbered.c.row).filter(numbered.c.number <= limit)
    last = select(numbered.c.id).where(numbered.c.number == limit).scalar_subquery()
    plain = func.concat(literal(f"{listing.name}:"), last)
    encoded = func.encode(func.convert_to(plain, literal("UTF8")), literal("hex"))
    # It is no secret: what a caller may see is said by the statement, wherever a forged one begins.
    whose = func.md5(func.concat(plain, bindparam("owner", type_=Text())))
    cursor = func.concat(encoded, func.substr(whose, literal(1), literal(8)))
    pairs: dict[str, ColumnElement[Any]] = {
        "success": literal(True),
        listing.name: func.coalesce(shown, func.json_build_array()),
        "next_cursor": case((func.count() > limit, cursor)),
    }
    return json_object(numbered, **pairs)


def _row(listing: Listing[Any, Any], of_one: bool) -> Select[*tuple[Any, ...]]:
    key = listing.table.__table__.c.id
    one = select(*columns_of(listing.table, listing.record)).where(key == bindparam("id", type_=key.type))
    source = _restricted(one, listing, of_one=of_one).subquery("one")
    name = next(name for name in listing.row.model_fields if name != "success")
    parts: dict[str, ColumnElement[Any]] = {part: literal_column(sql) for part, sql in listing.parts.items()}
    return json_object(source, **{"success": literal(True), name: json_row(source)}, **parts)


_LISTINGS: tuple[Listing[Any, Any], ...] = (CUSTOMERS, TICKETS, ARTICLES, INTERACTIONS)
_PAGES: Mapping[str, Reach] = {listing.name: Reach(partial(_page, listing)) for listing in _LISTINGS}
_ROWS: Mapping[str, Reach] = {listing.name: Reach(partial(_row, listing), shared_by="id") for listing in _LISTINGS}
