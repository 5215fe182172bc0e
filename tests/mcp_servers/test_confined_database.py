"""A session of one customer finds in the database what is that customer's and what is everybody's, on every face."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from app.local.postgres import LocalPostgres
from app.main import create_app
from app.routers.database import DatabaseMCPServer
from app.servers.calls import JsonObject
from app.settings import Settings
from tests.faces.raw import WITHIN, client_of, event_stream, headers, request
from tests.fixtures.gateway import Call, Served, serve
from tests.fixtures.postgres import TestDatabase, cloned_database
from tests.guard.bound import CALLER, bound
from tests.mcp_servers.test_postgres_mcp import Read, reader

CUSTOMER = "12345"
READS = ("db://customers", "db://tickets", "db://interactions")


@pytest.fixture(scope="module")
async def desk(postgres_server: LocalPostgres, demo_template: str) -> AsyncGenerator[TestDatabase]:
    """The demo data, for this module alone."""
    async with cloned_database(postgres_server, demo_template) as clone:
        yield clone


@pytest.fixture(scope="module")
async def gateway(desk: TestDatabase) -> AsyncGenerator[Served]:
    app = create_app([DatabaseMCPServer], Settings(), [desk.settings])
    async with serve(bound(app, CUSTOMER)) as served:
        yield served


@pytest.fixture
async def read(face: str, gateway: Served) -> AsyncGenerator[Read]:
    """Read a resource through the face of this run."""
    async with reader(gateway, face) as run:
        yield run


async def value(desk: TestDatabase, query: str, *arguments: object) -> Any:
    async with desk.connect() as connection:
        return await connection.fetchval(query, *arguments)


async def test_the_context_is_ones_own_and_knows_no_notes(call: Call, desk: TestDatabase) -> None:
    notes = await value(desk, "SELECT count(*) FROM interactions WHERE customer_id = $1 AND internal", CUSTOMER)
    assert notes > 0
    answer = await call("database", "get_customer_context", {})
    assert answer["customer"]["id"] == CUSTOMER
    assert (answer["internal_notes"], answer["figures"]["internal_notes"]) == ([], 0)
    assert answer["interactions"]
    first = await value(
        desk,
        """SELECT least(min(c.created_at), min(t.created_at), min(i.created_at)) FROM customers c
           JOIN tickets t ON t.customer_id = c.id JOIN interactions i ON i.customer_id = c.id AND NOT i.internal
           WHERE c.id = $1""",
        CUSTOMER,
    )
    assert answer["figures"]["first_seen"][:19] == first.isoformat()[:19]


@pytest.mark.parametrize("other", ["10001", "no such customer", "12345 ", " 12345", "\uff11\uff12\uff13\uff14\uff15"])
async def test_others_are_refused_alike_whether_they_exist_or_not(call: Call, other: str) -> None:
    answers = [
        await call("database", "get_customer_context", {"customer_id": other}),
        await call("database", "save_interaction", {"customer_id": other, "query_text": "hello"}),
        await call("database", "save_interaction", {"interaction_data": {"customer_id": other, "content": "hello"}}),
        await call("database", "save_interaction", {"interaction_data": json.dumps({"customer_id": other, "x": 1})}),
    ]
    assert [answer["status"] for answer in answers[:3]] == [404, 404, 404]
    assert answers[3]["success"] is False
    assert len({answer["detail"] for answer in answers[:3]}) == 1


@pytest.mark.parametrize("uri", READS)
async def test_pages_hold_ones_own_rows_and_no_notes(read: Read, desk: TestDatabase, uri: str) -> None:
    name = uri.removeprefix("db://")
    owner, shown = ("id", "") if name == "customers" else ("customer_id", "")
    if name == "interactions":
        shown = "AND NOT internal"
    expected = await value(desk, f"SELECT count(*) FROM {name} WHERE {owner} = $1 {shown}", CUSTOMER)
    rows: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = await read(f"{uri}?limit=2{cursor}")
        assert page.keys() == {"success", name, "next_cursor"}
        rows += page[name]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert {row[owner] for row in rows} == {CUSTOMER}
    assert len(rows) == expected
    assert not any(row.get("internal") for row in rows)


@pytest.mark.parametrize("uri", READS)
async def test_a_cursor_of_the_staff_leads_to_nobodys_rows(desk: TestDatabase, uri: str, gateway: Served) -> None:
    staffs = create_app([DatabaseMCPServer], Settings(), [desk.settings])
    async with serve(staffs) as served, client_of(served) as http:
        page = (await http.get("/mcp/database/resources/read", params={"uri": f"{uri}?limit=1"})).json()
    assert page["next_cursor"]
    async with client_of(gateway) as http:
        found = await http.get(
            "/mcp/database/resources/read", params={"uri": f"{uri}?limit=200&cursor={page['next_cursor']}"}
        )
    assert (found.status_code, found.json()["code"]) == (422, "invalid_arguments")
    assert [error["field"] for error in found.json()["errors"]] == ["cursor"]


@pytest.mark.parametrize(
    ("uri", "others"),
    [
        ("db://customers/{}", "SELECT max(id) FROM customers WHERE id <> $1"),
        ("db://tickets/{}", "SELECT max(id) FROM tickets WHERE customer_id <> $1"),
        ("db://interactions/{}", "SELECT max(id) FROM interactions WHERE customer_id <> $1"),
        ("db://interactions/{}", "SELECT max(id) FROM interactions WHERE customer_id = $1 AND internal"),
    ],
)
async def test_a_row_of_others_and_a_note_are_answered_as_what_does_not_exist(
    read: Read, desk: TestDatabase, uri: str, others: str
) -> None:
    hidden = await value(desk, others, CUSTOMER)
    missing = "no_such_one" if isinstance(hidden, str) else 987_654_321
    theirs, nothing = await read(uri.format(hidden)), await read(uri.format(missing))
    assert (theirs["status"], theirs["code"]) == (404, "not_found")
    assert theirs["detail"].replace(str(hidden), str(missing)) == nothing["detail"]
    assert theirs.keys() == nothing.keys()


async def test_ones_own_rows_are_read(read: Read, desk: TestDatabase) -> None:
    ticket = await value(desk, "SELECT max(id) FROM tickets WHERE customer_id = $1", CUSTOMER)
    said = await value(desk, "SELECT max(id) FROM interactions WHERE customer_id = $1 AND NOT internal", CUSTOMER)
    assert (await read(f"db://customers/{CUSTOMER}"))["customer"]["id"] == CUSTOMER
    assert (await read(f"db://tickets/{ticket}"))["ticket"]["customer_id"] == CUSTOMER
    assert (await read(f"db://interactions/{said}"))["interaction"]["internal"] is False


async def test_everybody_searches_the_knowledge_base(call: Call) -> None:
    assert (await call("database", "search_knowledge_base", {"search_term": "reset password"}))["success"]


async def test_the_knowledge_base_is_read_by_everybody_without_its_drafts(read: Read, desk: TestDatabase) -> None:
    draft = await value(desk, "SELECT min(id) FROM knowledge_articles WHERE status = 'draft'")
    page = await read("db://knowledge_articles?limit=200")
    assert draft not in [article["id"] for article in page["knowledge_articles"]]
    assert (await read(f"db://knowledge_articles/{draft}"))["status"] == 404


async def test_a_report_on_everybody_is_not_read(read: Read) -> None:
    assert (await read("db://analytics"))["code"] == "not_confined"


async def test_what_reaches_everybody_is_refused(call: Call) -> None:
    mine = {"query": "SELECT * FROM tickets WHERE customer_id = '12345'"}
    assert (await call("database", "query_database", mine))["code"] == "not_confined"
    assert (await call("database", "get_analytics", {}))["code"] == "not_confined"


async def test_an_interaction_is_saved_for_oneself(call: Call, desk: TestDatabase) -> None:
    arguments: list[JsonObject] = [
        {"query_text": "Hello"},
        {"content": "Hello", "customer_id": CUSTOMER},
        {"interaction_data": {"content": "Hello"}},
    ]
    for each in arguments:
        saved = (await call("database", "save_interaction", each))["interaction"]
        assert (saved["customer_id"], saved["query_text"], saved["internal"]) == (CUSTOMER, "Hello", False)


@pytest.mark.parametrize("internal", [True, "true"])
async def test_a_customers_session_writes_no_note(call: Call, desk: TestDatabase, internal: object) -> None:
    count = "SELECT count(*) FROM interactions WHERE internal"
    before = await value(desk, count)
    for arguments in ({"internal": internal}, {"interaction_data": {"internal": internal}}):
        problem = await call("database", "save_interaction", {"query_text": "A note", **arguments})
        assert (problem["status"], problem["code"]) == (403, "argument_refused")
        assert problem["detail"].startswith("internal: ")
    assert await value(desk, count) == before


async def test_what_only_the_staff_may_give_is_in_no_schema_of_a_customers_session(gateway: Served) -> None:
    async with client_of(gateway) as http:
        [save] = [
            tool
            for tool in (await http.get("/mcp/database/tools")).json()["tools"]
            if tool["name"] == "save_interaction"
        ]
        assert "internal" not in str(save["inputSchema"]) + save["description"]
        document = (await http.get("/openapi.json")).json()
    body = document["paths"]["/mcp/database/tools/save_interaction"]["post"]["requestBody"]
    assert not {"internal", "customer_id"} & body["content"]["application/json"]["schema"]["properties"].keys()


async def test_a_ticket_of_others_is_answered_as_one_that_does_not_exist(call: Call, desk: TestDatabase) -> None:
    hidden = await value(desk, "SELECT max(id) FROM tickets WHERE customer_id <> $1", CUSTOMER)
    touched = "SELECT max(updated_at) FROM tickets"
    before = await value(desk, touched)
    theirs = await call("database", "save_interaction", {"query_text": "Hello", "ticket_id": hidden})
    nothing = await call("database", "save_interaction", {"query_text": "Hello", "ticket_id": 987_654_321})
    assert (theirs["status"], theirs["code"]) == (404, "not_found")
    assert theirs["detail"].replace(str(hidden), "987654321") == nothing["detail"]
    assert await value(desk, touched) == before


async def test_a_repeat_never_answers_what_another_customer_has_saved(gateway: Served, desk: TestDatabase) -> None:
    other = await value(desk, "SELECT max(id) FROM customers WHERE id <> $1", CUSTOMER)
    async with client_of(gateway) as http:
        for customer in (CUSTOMER, other):
            answer = await http.post(
                "/mcp/database/tools/save_interaction",
                json={"query_text": f"The secret of {customer}", "idempotency_key": "same"},
                headers={CALLER.decode(): customer},
            )
            assert answer.status_code == 200
            assert answer.json()["interaction"]["customer_id"] == customer
            assert customer == CUSTOMER or CUSTOMER not in answer.text


async def test_only_ones_own_ticket_is_watched(gateway: Served, desk: TestDatabase) -> None:
    own = await value(desk, "SELECT max(id) FROM tickets WHERE customer_id = $1", CUSTOMER)
    others = await value(desk, "SELECT max(id) FROM tickets WHERE customer_id <> $1", CUSTOMER)

    def listening(ticket: int) -> JsonObject:
        wanted: JsonObject = {"notifications": {"resourceSubscriptions": [f"db://tickets/{ticket}"]}}
        return request("2026-07-28", "subscriptions/listen", wanted)

    answers: list[str] = []
    for ticket in (others, 987_654_321):
        message = listening(ticket)
        async with client_of(gateway) as http:
            answer = await http.post("/mcp/database", json=message, headers=headers("2026-07-28", message))
        refused = answer.json()
        assert refused["error"]["data"]["code"] == "not_found"
        answers.append(refused["error"]["message"].replace(str(ticket), "…"))
    assert answers[0] == answers[1]
    async with asyncio.timeout(WITHIN):
        async with event_stream(gateway, listening(own), "2026-07-28", path="/mcp/database") as messages:
            assert "acknowledged" in (await anext(messages))["method"]
            async with desk.connect() as connection:
                await connection.execute("UPDATE tickets SET priority = 'urgent' WHERE id = $1", own)
            assert (await anext(messages))["params"]["uri"] == f"db://tickets/{own}"
