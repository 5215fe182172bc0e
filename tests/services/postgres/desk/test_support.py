"""Looking customers up and saving what was said."""

import asyncio
import json
from typing import Any

import pytest
from pydantic import ValidationError

from app.errors import Conflict, InvalidArguments, NotFound
from app.models import TicketStatus
from app.services.postgres.connections.pools import Database, Statement
from app.services.postgres.desk.support import (
    _WITHOUT_NOTES,
    CUSTOMER_CONTEXT,
    CustomerContext,
    NewInteraction,
    SupportDesk,
)
from tests.fixtures.postgres import TestDatabase


def new(**values: Any) -> NewInteraction:
    """Read arguments as a face does: from JSON, strictly."""
    return NewInteraction.model_validate_json(json.dumps(values), strict=True)


async def context(
    pools: Database, customer_id: str = "12345", tickets: int = 10, interactions: int = 20
) -> CustomerContext:
    raw = await SupportDesk(pools).customer_context(customer_id, tickets, interactions)
    return CustomerContext.model_validate_json(raw.json, strict=True)


async def test_the_raw_context_is_exactly_what_its_model_says(pools: Database):
    raw = (await SupportDesk(pools).customer_context("12345", 10, 20)).json
    model = CustomerContext.model_validate_json(raw, strict=True)
    assert json.loads(raw)["success"] is True
    assert keys(json.loads(raw)) == keys(model.model_dump(mode="json"))


def keys(value: Any) -> Any:
    """Return the names in a JSON value and the order of them."""
    if isinstance(value, dict):
        return [(name, keys(inner)) for name, inner in value.items()]
    return [keys(inner) for inner in value] if isinstance(value, list) else None


async def test_unsolved_tickets_come_first_and_then_the_newest(pools: Database):
    assert [ticket.id for ticket in (await context(pools)).tickets] == [3, 1, 2]
    assert [ticket.id for ticket in (await context(pools, tickets=2)).tickets] == [3, 1]


async def test_internal_notes_stand_apart_and_have_a_limit_of_their_own(pools: Database, desk: TestDatabase):
    async with desk.connect() as connection:
        await connection.execute(
            "INSERT INTO interactions (customer_id, internal, query_text) "
            "SELECT '12345', true, 'note ' || n FROM generate_series(1, 50) n"
        )
    found = await context(pools, interactions=2)
    assert [i.id for i in found.interactions] == [4, 3]
    assert [i.query_text for i in found.internal_notes] == ["note 50", "note 49"]
    assert not any(i.internal for i in found.interactions)
    assert all(i.internal for i in found.internal_notes)


async def test_figures_cover_all_history_whatever_is_listed(pools: Database):
    figures = (await context(pools, tickets=0, interactions=0)).figures
    assert figures.tickets_by_status.model_dump() == {
        "open": 1,
        "pending": 0,
        "escalated": 1,
        "resolved": 1,
        "closed": 0,
    }
    assert set(figures.tickets_by_status.model_dump()) == set(TicketStatus)
    assert (figures.interactions, figures.internal_notes, figures.average_satisfaction) == (3, 1, 3.5)
    assert figures.first_seen.isoformat() == "2026-01-05T10:00:00+00:00"
    assert figures.last_contact is not None
    assert figures.last_contact.isoformat() == "2026-03-05T23:59:59+00:00"


async def test_a_customer_who_never_wrote_has_empty_lists_and_no_averages(pools: Database):
    found = await context(pools, "quiet")
    assert (found.tickets, found.interactions, found.internal_notes) == ([], [], [])
    assert (found.figures.average_satisfaction, found.figures.last_contact) == (None, None)
    assert found.figures.first_seen == found.customer.created_at


async def test_an_unknown_customer_is_not_found_and_named(pools: Database):
    with pytest.raises(NotFound, match="'nobody'"):
        await SupportDesk(pools).customer_context("nobody", 10, 20)


@pytest.mark.parametrize("statement", [CUSTOMER_CONTEXT, _WITHOUT_NOTES], ids=["for the staff", "for the customer"])
async def test_the_context_is_read_through_indexes_only(pools: Database, desk: TestDatabase, statement: Statement):
    arguments = statement.arguments({"customer": "c7", "wanted": "c7", "ticket_limit": 10, "interaction_limit": 20})
    async with desk.connect() as connection:
        await connection.execute(
            """
            INSERT INTO customers (id, name, email)
                SELECT 'c' || n, 'n', n || '@example.com' FROM generate_series(1, 2000) n;
            INSERT INTO tickets (customer_id, subject) SELECT 'c' || 1 + n % 2000, 's' FROM generate_series(1, 10000) n;
            INSERT INTO interactions (customer_id, query_text, internal)
                SELECT 'c' || 1 + n % 2000, 'q', n % 9 = 0 FROM generate_series(1, 40000) n;
            ANALYZE;
            """
        )
        plan = await connection.fetchval("EXPLAIN (FORMAT JSON) " + statement.sql, *arguments)
        assert "Seq Scan" not in plan
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE context AS {statement.sql}")
        given = ", ".join(map(repr, arguments))
        generic = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE context({given})")
        assert "Seq Scan" not in generic


async def test_a_saved_interaction_is_answered_as_it_is_stored(pools: Database, desk: TestDatabase):
    saved = await SupportDesk(pools).save_interaction(
        new(
            customer_id="12345",
            query_text="Is it fixed?",
            agent_response="Yes.",
            channel="email",
            ticket_id=1,
            agent_id="bot",
            satisfaction=4,
            metadata={"model": {"name": "x", "n": [1, 2.5, None]}},
        )
    )
    async with desk.connect() as connection:
        row = await connection.fetchrow("SELECT * FROM interactions WHERE id = $1", saved.interaction.id)
    assert row is not None
    assert (row["query_text"], row["channel"], row["direction"], row["internal"]) == (
        "Is it fixed?",
        "email",
        "inbound",
        False,
    )
    assert json.loads(row["metadata"]) == saved.interaction.metadata == {"model": {"name": "x", "n": [1, 2.5, None]}}
    assert saved.interaction.created_at == row["created_at"]


async def first_response(desk: TestDatabase, ticket_id: int) -> Any:
    async with desk.connect() as connection:
        return await connection.fetchval("SELECT first_response_at FROM tickets WHERE id = $1", ticket_id)


async def test_a_public_reply_is_the_first_response_of_its_ticket_and_a_note_is_not(
    pools: Database, desk: TestDatabase
):
    support = SupportDesk(pools)
    await support.save_interaction(new(customer_id="12345", ticket_id=1, query_text="Ask Bob", internal=True))
    await support.save_interaction(new(customer_id="12345", ticket_id=1, query_text="Hello?", direction="inbound"))
    assert await first_response(desk, 1) is None
    saved = await support.save_interaction(new(customer_id="12345", ticket_id=1, agent_response="On it"))
    assert saved.interaction.direction == "outbound"
    assert await first_response(desk, 1) == saved.interaction.created_at
    await support.save_interaction(new(customer_id="12345", ticket_id=1, agent_response="Done"))
    assert await first_response(desk, 1) == saved.interaction.created_at


async def test_the_same_key_with_the_same_data_answers_the_first_result(pools: Database, desk: TestDatabase):
    support = SupportDesk(pools)
    data = {"customer_id": "12345", "query_text": "Twice?", "metadata": {"a": 1}, "idempotency_key": "k1"}
    first = await support.save_interaction(new(**data))
    again = await support.save_interaction(new(interaction_data=data))
    assert again == first
    async with desk.connect() as connection:
        assert await connection.fetchval("SELECT count(*) FROM interactions WHERE idempotency_key = 'k1'") == 1


@pytest.mark.parametrize("number", [1e23, 1e308, 5e-324, 0.1, -0.0, 10**40, 2**53 + 1, 1.0])
async def test_a_repeat_with_any_number_in_its_metadata_is_the_same_data(pools: Database, number: float):
    support = SupportDesk(pools)
    data = {"customer_id": "12345", "query_text": "?", "metadata": {"a": [number]}, "idempotency_key": "number"}
    first = await support.save_interaction(new(**data))
    assert await support.save_interaction(new(**data)) == first


async def test_true_is_not_one_in_metadata(pools: Database):
    support = SupportDesk(pools)
    data = {"customer_id": "12345", "query_text": "?", "idempotency_key": "truth"}
    await support.save_interaction(new(**data, metadata={"a": True}))
    with pytest.raises(Conflict, match="idempotency_key"):
        await support.save_interaction(new(**data, metadata={"a": 1}))


@pytest.mark.parametrize(
    "change",
    [
        {"query_text": "Other"},
        {"metadata": {"a": 2}},
        {"internal": True},
        {"customer_id": "other"},
        {"satisfaction": 1},
    ],
)
async def test_the_same_key_with_other_data_is_a_conflict(pools: Database, change: dict[str, Any]):
    support = SupportDesk(pools)
    data: dict[str, Any] = {
        "customer_id": "12345",
        "query_text": "Twice?",
        "metadata": {"a": 1},
        "idempotency_key": "k1",
    }
    await support.save_interaction(new(**data))
    with pytest.raises(Conflict, match="idempotency_key"):
        await support.save_interaction(new(**data | change))


async def test_simultaneous_calls_with_one_key_make_one_row(pools: Database, desk: TestDatabase):
    support = SupportDesk(pools)
    data = new(customer_id="12345", ticket_id=1, agent_response="Once", idempotency_key="race")
    results = await asyncio.gather(*(support.save_interaction(data) for _ in range(12)))
    assert len({result.interaction.id for result in results}) == 1
    async with desk.connect() as connection:
        assert await connection.fetchval("SELECT count(*) FROM interactions WHERE idempotency_key = 'race'") == 1


async def test_an_unknown_customer_or_ticket_is_not_found_and_nothing_is_stored(pools: Database, desk: TestDatabase):
    support = SupportDesk(pools)
    with pytest.raises(NotFound, match="customer 'nobody'"):
        await support.save_interaction(new(customer_id="nobody", query_text="x"))
    with pytest.raises(NotFound, match="ticket 999"):
        await support.save_interaction(new(customer_id="12345", query_text="x", ticket_id=999))
    async with desk.connect() as connection:
        assert await connection.fetchval("SELECT count(*) FROM interactions") == 5


async def test_a_ticket_of_another_customer_is_a_conflict(pools: Database):
    with pytest.raises(Conflict, match="another customer"):
        await SupportDesk(pools).save_interaction(new(customer_id="12345", query_text="x", ticket_id=4))


def test_every_field_may_stand_in_interaction_data_and_content_means_query_text():
    nested = new(
        interaction_data={"customer_id": "12345", "content": "Hi", "channel": "phone", "direction": "outbound"}
    )
    assert nested == new(customer_id="12345", query_text="Hi", channel="phone", direction="outbound")
    assert new(customer_id="12345", interaction_data={"content": "Hi"}).query_text == "Hi"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"query_text": "x", "ticket_id": "5"}, "valid integer"),
        ({"query_text": "x", "ticket_id": 5.0}, "valid integer"),
        ({"query_text": "x", "ticket_id": True}, "valid integer"),
        ({"query_text": "x", "ticket_id": 2**63}, "less than or equal"),
        ({"query_text": "x", "internal": 1}, "valid boolean"),
        ({"query_text": "x", "internal": "true"}, "valid boolean"),
        ({"query_text": 5}, "valid string"),
        ({"query_text": "x", "channel": "pigeon"}, "'email', 'chat'"),
        ({"query_text": "x", "channel": 1}, "'email', 'chat'"),
        ({"query_text": "x", "satisfaction": 6}, "less than or equal to 5"),
        ({"query_text": "x", "satisfaction": 4.5}, "valid integer"),
        ({"query_text": "x", "metadata": [1]}, "should be an object"),
        ({"query_text": "x", "metadata": {"a": "b" * 20_000}}, "16 KiB"),
        ({"query_text": "x", "metadata": {"a": float("inf")}}, "NaN or Infinity"),
        ({"query_text": "x", "metadata": {"a": "\0"}}, "NUL"),
        ({"query_text": "x\0y"}, "NUL"),
        ({"query_text": "x", "agent_id": "\0"}, "NUL"),
        ({"query_text": "  "}, "blank"),
        ({}, "query_text or agent_response"),
        ({"query_text": "x", "content": "y"}, "given twice"),
        ({"query_text": "x", "interaction_data": {"query_text": "x"}}, "given twice"),
        ({"query_text": "x", "interaction_data": "y"}, "expected an object"),
        ({"query_text": "x", "surprise": 1}, "not permitted"),
        ({"interaction_data": {"query_text": "x", "surprise": 1}}, "not permitted"),
    ],
)
def test_what_breaks_a_rule_is_refused_in_words(values: dict[str, Any], words: str):
    with pytest.raises(ValidationError) as refused:
        new(customer_id="12345", **values)
    assert words in str(InvalidArguments.from_validation(refused.value.errors()))


def test_metadata_may_hold_the_letters_that_look_like_an_escaped_nul():
    assert new(customer_id="12345", query_text="x", metadata={"a": "\\u0000"}).metadata == {"a": "\\u0000"}


def test_the_advertised_schema_is_flat():
    schema = NewInteraction.model_json_schema()
    assert "anyOf" not in schema
    assert set(schema["properties"]) == {
        "customer_id", "query_text", "agent_response", "channel", "ticket_id", "agent_id", "direction", "internal",
        "satisfaction", "metadata", "idempotency_key",
    }  # fmt: skip


def test_metadata_that_is_far_too_large_is_not_written_to_find_that_out(monkeypatch: pytest.MonkeyPatch) -> None:
    text = json.dumps({"customer_id": "12345", "query_text": "?", "metadata": {f"k{n}": n for n in range(50_000)}})
    monkeypatch.setattr("app.services.postgres.desk.support.json.dumps", None)
    with pytest.raises(ValidationError, match="16 KiB"):
        NewInteraction.model_validate_json(text, strict=True)
