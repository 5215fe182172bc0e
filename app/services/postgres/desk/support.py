"""What support agents do all day: look a customer up, and write down what was said."""

import json
from datetime import datetime
from decimal import Decimal
from functools import cache, partial
from typing import Annotated, Any, Self, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError, to_json
from sqlalchemy import (
    RowMapping,
    Select,
    Update,
    bindparam,
    case,
    func,
    not_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict, NotFound
from app.exact_json import NotExact, NotJson, read
from app.models import Channel, Customer, Direction, Interaction, Ticket, TicketStatus
from app.results import RawResult, Result
from app.services.postgres.connections.confined import CUSTOMER, confined, of_customer
from app.services.postgres.connections.pools import Database, Statement, compile_ahead
from app.services.postgres.desk.records import (
    CustomerRecord,
    InteractionRecord,
    TicketRecord,
    columns_of,
    json_object,
    json_row,
    json_rows,
    literal,
)

MAX_METADATA_BYTES = 16 * 1024
BIGGEST_ID = 2**63 - 1
_WANTED = "wanted"
"""The parameter that says whom a caller wants who may see one customer."""


def _storable(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("nul_character", "must not contain the NUL character")
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "must not be blank; leave it out instead")
    return _storable(text)


def _small_json(metadata: dict[str, JsonValue]) -> dict[str, JsonValue]:
    # What certainly is too large is not written by the exact writer, which takes ten times as long.
    if len(to_json(metadata)) > MAX_METADATA_BYTES:
        raise PydanticCustomError("too_large", "must not be larger than 16 KiB as JSON")
    try:
        written = json.dumps(metadata, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise PydanticCustomError("not_finite", "must not contain NaN or Infinity, which JSON does not have") from None
    if len(written.encode()) > MAX_METADATA_BYTES:
        raise PydanticCustomError("too_large", "must not be larger than 16 KiB as JSON")
    if "\\u0000" in written.replace("\\\\", ""):
        raise PydanticCustomError("nul_character", "must not contain the NUL character")
    return metadata


CustomerId = Annotated[
    str,
    Field(min_length=1, max_length=64),
    AfterValidator(_storable),
]
RowId = Annotated[int, Field(ge=1, le=BIGGEST_ID)]
Words = Annotated[str, Field(max_length=20_000), AfterValidator(_not_blank)]
AgentId = Annotated[str, Field(max_length=100), AfterValidator(_not_blank)]
IdempotencyKey = Annotated[str, Field(max_length=200), AfterValidator(_not_blank)]
Metadata = Annotated[dict[str, JsonValue], AfterValidator(_small_json)]


class TicketCounts(BaseModel):
    """How many of a customer's tickets have each status."""

    open: int
    pending: int
    escalated: int
    resolved: int
    closed: int


class CustomerFigures(BaseModel):
    """Numbers over everything that we know of a customer, beyond what is listed."""

    tickets_by_status: TicketCounts
    interactions: int = Field(description="Public interactions.")
    internal_notes: int
    average_satisfaction: float | None = Field(description="1 to 5; null if they never rated.")
    first_seen: datetime
    last_contact: datetime | None = Field(description="Null if there was none.")


class CustomerContext(Result):
    """A customer, the latest of what happened, and figures over all of it."""

    customer: CustomerRecord
    tickets: list[TicketRecord] = Field(description="Unsolved ones first, then the newest.")
    interactions: list[InteractionRecord] = Field(description="The newest first.")
    internal_notes: list[InteractionRecord] = Field(description="Never repeat them to the customer.")
    figures: CustomerFigures


class SavedInteraction(Result):
    """The interaction as it is stored."""

    interaction: InteractionRecord


class NewInteraction(BaseModel):
    """What `save_interaction` takes. Everything may also stand in an object `interaction_data`."""

    model_config = ConfigDict(extra="forbid")

    customer_id: CustomerId
    query_text: Words | None = Field(None, description="What the customer wrote; for a note, its text.")
    agent_response: Words | None = Field(None, description="What was answered.")
    # An enumeration comes as text, which a strict model takes from JSON only, and a validator stands in between.
    channel: Channel = Field(Channel.CHAT, strict=False)
    ticket_id: RowId | None = Field(None, description="One of the same customer's.")
    agent_id: AgentId | None = Field(None, description="Who answered.")
    direction: Direction | None = Field(
        None,
        strict=False,
        description="If left out: inbound where query_text is given.",
    )
    internal: bool = Field(False, description="A note that the customer must never see.")
    satisfaction: int | None = Field(None, ge=1, le=5, description="The customer's rating; 5 is best.")
    metadata: Metadata = Field(default_factory=dict, description="Up to 16 KiB.")
    idempotency_key: IdempotencyKey | None = Field(
        None,
        description="A repeat with the same key and data stores nothing more.",
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_other_spellings(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        given = dict(cast("dict[str, Any]", data))
        nested = given.pop("interaction_data", {})
        if isinstance(nested, str):
            nested = _object_in(nested)
        if not isinstance(nested, dict):
            raise PydanticCustomError("object_expected", "interaction_data: expected an object")
        for name, value in cast("dict[str, Any]", nested).items():
            _take(given, name, value)
        if "content" in given:
            _take(given, "query_text", given.pop("content"), spelled="content")
        return given

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.query_text is None and self.agent_response is None:
            raise PydanticCustomError("says_nothing", "query_text or agent_response is needed")
        if self.direction is None:
            self.direction = Direction.OUTBOUND if self.query_text is None else Direction.INBOUND
        return self

    @property
    def is_reply(self) -> bool:
        """Whether the customer hears from us by it."""
        return not self.internal and (self.direction == Direction.OUTBOUND or self.agent_response is not None)


def _object_in(text: str) -> Any:
    """Return the JSON that a text is, or the text if it is none."""
    try:
        return read(text.encode())
    except (NotJson, NotExact):
        return text


def _take(given: dict[str, Any], name: str, value: Any, *, spelled: str = "") -> None:
    if name in given:
        also = f", once as {spelled}" if spelled else ""
        raise PydanticCustomError(
            "given_twice", "{name} is given twice{also}; give it once", {"name": name, "also": also}
        )
    given[name] = value


class SupportDesk:
    """Customers and what was said with them.

    Args:
        database: the pools of the support database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def warm_up(self) -> None:
        """Spare the first callers what statements that read cost once."""
        await compile_ahead((CUSTOMER_CONTEXT, _WITHOUT_NOTES))

    async def customer_context(
        self, customer_id: str, ticket_limit: int, interaction_limit: int, *, notes: bool = True
    ) -> RawResult[CustomerContext]:
        """Return a customer with the latest tickets, interactions and notes, in one round trip.

        Args:
            customer_id: whom.
            ticket_limit: most tickets to list.
            interaction_limit: most public interactions to list, and most notes.
            notes: whether the staff's notes are shown, and counted; else it is as if there were none.

        Raises:
            NotFound: there is no such customer.
        """
        found = await self._database.reads.fetch_json(
            CUSTOMER_CONTEXT if notes else _WITHOUT_NOTES,
            customer=customer_id,
            wanted=customer_id,
            ticket_limit=ticket_limit,
            interaction_limit=interaction_limit,
        )
        if found is None:
            raise unknown_customer(customer_id)
        return RawResult(found)

    async def save_interaction(self, new: NewInteraction, customer: str | None = None) -> SavedInteraction:
        """Store an interaction; a public reply also counts as the first response of its ticket.

        Args:
            new: what is stored.
            customer: to whom the caller is bound, whose interaction it is then.

        Raises:
            NotFound: there is no such customer or ticket, to a caller who is bound also one of somebody else.
            Conflict: the ticket is another customer's, or the key was used with other data.
        """
        assert customer in (None, new.customer_id)

        async def save(session: AsyncSession) -> RowMapping:
            await _check_belonging(session, new, customer)
            row = await _insert(session, new)
            if row is None:
                return await _first_result(session, new, customer)
            if new.ticket_id is not None:
                about = {CUSTOMER: new.customer_id, "ticket": new.ticket_id}
                await session.execute(_touch(is_reply=new.is_reply), about)
            return row

        return SavedInteraction(interaction=InteractionRecord.model_validate(await self._database.write(save)))


def unknown_customer(customer_id: str) -> NotFound:
    return NotFound(f"There is no customer {customer_id!r}; check the id")


async def _check_belonging(session: AsyncSession, new: NewInteraction, customer: str | None) -> None:
    about = {CUSTOMER: new.customer_id, "ticket": new.ticket_id}
    row = (await session.execute(_belonging(of_one=customer is not None), about)).first()
    if row is None:
        raise unknown_customer(new.customer_id)
    if new.ticket_id is not None and row.owner is None:
        raise NotFound(f"There is no ticket {new.ticket_id}; check the id or leave ticket_id out")
    if new.ticket_id is not None and row.owner != new.customer_id:
        raise Conflict(f"Ticket {new.ticket_id} belongs to another customer than {new.customer_id!r}")


async def _insert(session: AsyncSession, new: NewInteraction) -> RowMapping | None:
    """Return the new row, None if the key is taken. A save that is under way with the same key is waited for."""
    values = new.model_dump()
    values["details"] = values.pop("metadata")
    statement = (
        insert(Interaction)
        .values(values)
        .on_conflict_do_nothing(index_elements=[Interaction.idempotency_key])
        .returning(*columns_of(Interaction, InteractionRecord))
    )
    return (await session.execute(statement)).mappings().first()


async def _first_result(session: AsyncSession, new: NewInteraction, customer: str | None) -> RowMapping:
    about = {CUSTOMER: new.customer_id, "key": new.idempotency_key}
    row = (await session.execute(_first(of_one=customer is not None), about)).mappings().first()
    data = new.model_dump(exclude={"idempotency_key"})
    if row is None or any(_comparable(row[name]) != _comparable(value) for name, value in data.items()):
        raise Conflict("idempotency_key was used with other data; choose a new key for a new interaction")
    return row


def _comparable(value: Any) -> Any:
    """Return JSON so that equal is the same: PostgreSQL gives 1e23 back as an integer, and Python takes true for 1."""
    match value:
        case bool():
            return ("boolean", value)
        case int() | float():
            return Decimal(repr(value))
        case dict():
            return {name: _comparable(member) for name, member in cast("dict[str, Any]", value).items()}
        case list():
            return [_comparable(member) for member in cast("list[Any]", value)]
        case _:
            return value


@cache
def _belonging(*, of_one: bool) -> Select[*tuple[Any, ...]]:
    """Select a customer, with whose ticket a ticket is; of somebody else's it says nothing if it is about one."""
    ticket = select(Ticket.customer_id).where(Ticket.id == bindparam("ticket", type_=Ticket.id.type))
    if of_one:
        ticket = ticket.where(Ticket.customer_id == of_customer())
    both = select(Customer.id, ticket.scalar_subquery().label("owner")).where(Customer.id == of_customer())
    return confined(both) if of_one else both


@cache
def _first(*, of_one: bool) -> Select[*tuple[Any, ...]]:
    """Select what was stored with an idempotency key."""
    first = select(*columns_of(Interaction, InteractionRecord)).where(Interaction.idempotency_key == bindparam("key"))
    return confined(first.where(Interaction.customer_id == of_customer())) if of_one else first


@cache
def _touch(*, is_reply: bool) -> Update:
    """Note on a ticket that something was said about it."""
    changed = update(Ticket).where(
        Ticket.id == bindparam("ticket", type_=Ticket.id.type), Ticket.customer_id == of_customer()
    )
    if is_reply:
        changed = changed.values(first_response_at=func.coalesce(Ticket.first_response_at, func.now()))
    return confined(changed.values(updated_at=func.now()).execution_options(synchronize_session=False))


def _customer_context(*, notes: bool) -> Select[*tuple[Any, ...]]:
    customer_id = of_customer()
    customer = select(*columns_of(Customer, CustomerRecord)).where(Customer.id == customer_id).subquery("customer")
    solved = Ticket.status.in_((literal(TicketStatus.RESOLVED), literal(TicketStatus.CLOSED)))
    tickets = (
        select(*columns_of(Ticket, TicketRecord))
        .where(Ticket.customer_id == customer_id)
        .order_by(solved, Ticket.created_at.desc(), Ticket.id.desc())
        .limit(bindparam("ticket_limit", type_=Ticket.id.type))
    )
    interactions = (
        select(*columns_of(Interaction, InteractionRecord))
        .where(Interaction.customer_id == customer_id)
        .order_by(Interaction.created_at.desc(), Interaction.id.desc())
        .limit(bindparam("interaction_limit", type_=Ticket.id.type))
    )
    ticket_figures = (
        select(
            *(func.count().filter(Ticket.status == literal(status)).label(status) for status in TicketStatus),
            func.min(Ticket.created_at).label("first_at"),
        )
        .where(Ticket.customer_id == customer_id)
        .subquery("ticket_figures")
    )
    public = not_(Interaction.internal)
    shown = true() if notes else public
    interaction_figures = (
        select(
            func.count().filter(public).label("public"),
            func.count().filter(Interaction.internal).label("notes"),
            func.round(func.avg(Interaction.satisfaction), literal(2)).label("satisfaction"),
            func.min(Interaction.created_at).label("first_at"),
            func.max(case((public, Interaction.created_at))).label("last_at"),
        )
        .where(Interaction.customer_id == customer_id, shown)
        .subquery("interaction_figures")
    )
    figures = json_object(
        tickets_by_status=json_object(
            **{status: ticket_figures.c[status] for status in TicketStatus}
        ).scalar_subquery(),
        interactions=interaction_figures.c.public,
        internal_notes=interaction_figures.c.notes,
        average_satisfaction=interaction_figures.c.satisfaction,
        first_seen=func.least(customer.c.created_at, ticket_figures.c.first_at, interaction_figures.c.first_at),
        last_contact=interaction_figures.c.last_at,
    )
    answer = json_object(
        customer.join(ticket_figures, true()).join(interaction_figures, true()),
        success=literal(True),
        customer=json_row(customer),
        tickets=json_rows(tickets, "ticket"),
        interactions=json_rows(interactions.where(public), "interaction"),
        internal_notes=json_rows(interactions.where(Interaction.internal, shown), "note"),
        figures=figures.scalar_subquery(),
    )
    if notes:
        return answer
    # Who sees no notes is bound to the customer, who is the same for all that share a statement: its rows and no
    # others are within reach, whoever is wanted.
    return answer.where(bindparam(_WANTED, type_=Customer.id.type) == customer_id)


CUSTOMER_CONTEXT = Statement(partial(_customer_context, notes=True), shared_by=CUSTOMER)
"""What `customer_context` runs (`$1` customer, `$2` tickets, `$3` interactions); the benchmark gives it to pgbench."""
_WITHOUT_NOTES = Statement(partial(_customer_context, notes=False), shared_by=_WANTED)
