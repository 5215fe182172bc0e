"""The database server as its callers meet it: every tool and resource, through every face, on the demo data."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from mcp import MCPError

from app.local.postgres import LocalPostgres
from app.main import create_app
from app.routers.database import DatabaseMCPServer
from app.servers.calls import JsonObject
from app.settings import Settings
from tests.faces.raw import WITHIN, client_of, event_stream, request, websocket
from tests.fixtures.gateway import FACES, Call, Served, caller, mcp_client, serve
from tests.fixtures.postgres import TestDatabase, cloned_database

TOOLS = DatabaseMCPServer.tools
CUSTOMER = "12345"
LEGACY, MODERN = "2025-11-25", "2026-07-28"

Read = Callable[[str], Awaitable[dict[str, Any]]]


@pytest.fixture(scope="module")
async def desk(postgres_server: LocalPostgres, demo_template: str) -> AsyncGenerator[TestDatabase]:
    """The demo data, for this module alone."""
    async with cloned_database(postgres_server, demo_template) as clone:
        yield clone


@pytest.fixture(scope="module")
async def gateway(desk: TestDatabase) -> AsyncGenerator[Served]:
    async with serve(create_app([DatabaseMCPServer], Settings(), [desk.settings])) as served:
        yield served


@asynccontextmanager
async def reader(served: Served, face: str) -> AsyncGenerator[Read]:
    """Return a way to read resources through one of `FACES`: their content, or the problem of the failure."""
    async with AsyncExitStack() as stack:
        if face == "rest":
            http = await stack.enter_async_context(client_of(served))

            async def read_rest(uri: str) -> dict[str, Any]:
                response = await http.get("/mcp/database/resources/read", params={"uri": uri})
                answer: dict[str, Any] = response.json()
                assert response.status_code == (200 if answer["success"] else answer["status"])
                return answer

            yield read_rest
            return
        client = await stack.enter_async_context(mcp_client(served, face, "database"))

        async def read_mcp(uri: str) -> dict[str, Any]:
            try:
                result = await client.read_resource(uri)
            except MCPError as error:
                problem: dict[str, Any] = error.data
                return problem
            [content] = result.model_dump(mode="json", by_alias=True)["contents"]
            assert (content["uri"], content["mimeType"]) == (uri, "application/json")
            answer: dict[str, Any] = json.loads(content["text"])
            return answer

        yield read_mcp


@pytest.fixture
async def read(face: str, gateway: Served) -> AsyncGenerator[Read]:
    """Read a resource through the face of this run."""
    async with reader(gateway, face) as run:
        yield run


def without(result: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return a result without what differs from call to call."""
    return {name: value for name, value in result.items() if name not in names}


# The same on every face


def test_every_tool_shows_a_working_example() -> None:
    assert [name for name, tool in TOOLS.items() if tool.example is None] == []


_PINNED: dict[str, JsonObject] = {
    # Only the call of a key that was used before is the same call.
    "save_interaction": {"idempotency_key": "parity"},
}
_PASSING: dict[str, tuple[str, ...]] = {
    "query_database": ("duration_ms",),
    "get_analytics": ("start", "end"),
}
"""Fields of a result that tell the time of the call."""


@pytest.mark.parametrize("tool", TOOLS)
async def test_a_tool_takes_its_example_and_answers_alike_on_every_face(gateway: Served, tool: str) -> None:
    arguments = {**(TOOLS[tool].example or {}), **_PINNED.get(tool, {})}
    answers: dict[str, str] = {}
    for face in FACES:
        async with caller(gateway, face) as call:
            result = await call("database", tool, arguments)
        assert result["success"] is True, result
        Draft202012Validator(TOOLS[tool].output_schema or False).validate(result)
        answers[face] = json.dumps(without(result, *_PASSING.get(tool, ())))
    assert len(set(answers.values())) == 1, answers


async def test_tools_and_resources_are_listed_alike_on_every_face(gateway: Served) -> None:
    async with client_of(gateway) as http:
        tools = (await http.get("/mcp/database/tools")).json()["tools"]
        resources = (await http.get("/mcp/database/resources")).json()
    assert [tool["name"] for tool in tools] == [
        "query_database",
        "get_customer_context",
        "search_knowledge_base",
        "get_similar_articles",
        "save_interaction",
        "get_analytics",
    ]
    for face in set(FACES) - {"rest"}:
        async with mcp_client(gateway, face, "database") as client:
            listed = [
                (await client.list_tools()).tools,
                (await client.list_resources()).resources,
                (await client.list_resource_templates()).resource_templates,
            ]
        dumped = [[item.model_dump(mode="json", by_alias=True, exclude_none=True) for item in each] for each in listed]
        assert dumped == [tools, resources["resources"], resources["resourceTemplates"]]


# What each tool answers


async def test_a_query_answers_rows_as_objects(call: Call) -> None:
    result = await call(
        "database",
        "query_database",
        {
            "sql": "SELECT id, name, created_at FROM customers WHERE id = ANY($1) ORDER BY id",
            "params": [[CUSTOMER, "none"]],
            "max_rows": 5,
        },
    )
    assert [column["type"] for column in result["columns"]] == ["text", "text", "timestamp with time zone"]
    assert (result["row_count"], result["truncated"]) == (1, False)
    assert result["rows"][0]["id"] == CUSTOMER


async def test_a_query_of_a_million_rows_is_cut(call: Call) -> None:
    result = await call("database", "query_database", {"query": "SELECT * FROM generate_series(1, 1000000) n"})
    assert (result["row_count"], result["truncated"]) == (100, True)
    assert result["rows"][-1] == {"n": 100}


async def test_a_customer_comes_with_tickets_interactions_and_notes_apart(call: Call, desk: TestDatabase) -> None:
    async with desk.connect() as connection:
        rows = await connection.fetch(
            "SELECT status::text, count(*) FROM tickets WHERE customer_id = $1 GROUP BY 1", CUSTOMER
        )
        counted: dict[str, int] = {row["status"]: row["count"] for row in rows}
    result = await call(
        "database", "get_customer_context", {"customer_id": CUSTOMER, "ticket_limit": 2, "interaction_limit": 3}
    )
    assert result["customer"]["id"] == CUSTOMER
    assert len(result["tickets"]) == 2
    assert [i["internal"] for i in result["interactions"]] == [False] * 3
    assert {i["internal"] for i in result["internal_notes"]} <= {True}
    assert {k: v for k, v in result["figures"]["tickets_by_status"].items() if v} == counted


async def test_a_mistyped_question_finds_its_article(call: Call) -> None:
    result = await call("database", "search_knowledge_base", {"search_term": "how do i reset my pasword"})
    assert "password" in result["articles"][0]["title"].lower()
    scores = [article["score"] for article in result["articles"]]
    assert scores == sorted(scores, reverse=True)


async def test_an_interaction_is_saved_in_either_spelling_and_once_for_its_key(
    call: Call, face: str, desk: TestDatabase
) -> None:
    key = f"once-{face}"
    flat = {"customer_id": CUSTOMER, "query_text": "Where is it?", "channel": "email", "idempotency_key": key}
    nested = {
        "interaction_data": {"content": "Where is it?", "channel": "email"},
        "customer_id": CUSTOMER,
        "idempotency_key": key,
    }
    first = await call("database", "save_interaction", flat)
    assert await call("database", "save_interaction", nested) == first
    conflict = await call("database", "save_interaction", {**flat, "query_text": "Something else"})
    assert (conflict["status"], conflict["code"]) == (409, "conflict")
    async with desk.connect() as connection:
        stored = await connection.fetch("SELECT id, query_text FROM interactions WHERE idempotency_key = $1", key)
    assert [dict(row) for row in stored] == [{"id": first["interaction"]["id"], "query_text": "Where is it?"}]


@pytest.mark.parametrize("group_by", ["day", "channel", "status", "priority", "agent"])
async def test_a_report_has_totals_and_a_series(call: Call, group_by: str) -> None:
    result = await call("database", "get_analytics", {"time_period": "30d", "group_by": group_by})
    assert result["group_by"] == group_by
    assert result["totals"]["interactions"] == sum(group["interactions"] for group in result["series"]) > 0
    assert result["busiest_channels"][0]["interactions"] == max(c["interactions"] for c in result["busiest_channels"])


# What each tool refuses


@pytest.mark.parametrize(
    ("tool", "arguments", "status", "code", "field"),
    [
        ("query_database", {}, 422, "invalid_arguments", "query"),
        ("query_database", {"query": ""}, 422, "invalid_arguments", "query"),
        ("query_database", {"query": 5}, 422, "invalid_arguments", "query"),
        ("query_database", {"query": "SELECT 1", "sql": "SELECT 1"}, 422, "invalid_arguments", "sql"),
        ("query_database", {"query": "SELECT 1", "max_rows": "five"}, 422, "invalid_arguments", "max_rows"),
        ("query_database", {"query": "SELECT 1", "max_rows": 10_001}, 422, "invalid_arguments", "max_rows"),
        ("query_database", {"query": "SELECT 1", "timeout_ms": 0}, 422, "invalid_arguments", "timeout_ms"),
        ("query_database", {"query": "SELEKT 1"}, 422, "invalid_arguments", "query"),
        ("query_database", {"query": "SELECT colour FROM tickets"}, 422, "invalid_arguments", "query"),
        ("query_database", {"query": "SELECT $1::int", "params": ["x"]}, 422, "invalid_arguments", "params.0"),
        ("query_database", {"query": "SELECT $1::int"}, 422, "invalid_arguments", "params"),
        ("query_database", {"query": "DELETE FROM tickets"}, 403, "forbidden", None),
        ("query_database", {"query": "SELECT pg_sleep(1)"}, 403, "forbidden", None),
        ("get_customer_context", {}, 422, "invalid_arguments", "customer_id"),
        ("get_customer_context", {"customer_id": 12345}, 422, "invalid_arguments", "customer_id"),
        ("get_customer_context", {"customer_id": "1\0"}, 422, "invalid_arguments", "customer_id"),
        ("get_customer_context", {"customer_id": "1", "ticket_limit": 101}, 422, "invalid_arguments", "ticket_limit"),
        ("get_customer_context", {"customerId": "1"}, 422, "invalid_arguments", "customer_id"),
        ("get_customer_context", {"customer_id": "nobody"}, 404, "not_found", None),
        ("search_knowledge_base", {}, 422, "invalid_arguments", "search_term"),
        ("search_knowledge_base", {"search_term": ""}, 422, "invalid_arguments", "search_term"),
        ("search_knowledge_base", {"search_term": "x", "limit": 51}, 422, "invalid_arguments", "limit"),
        ("search_knowledge_base", {"search_term": "x", "tags": "billing"}, 422, "invalid_arguments", "tags"),
        ("search_knowledge_base", {"search_term": "x", "offset": -1}, 422, "invalid_arguments", "offset"),
        ("save_interaction", {}, 422, "invalid_arguments", "customer_id"),
        ("save_interaction", {"customer_id": CUSTOMER}, 422, "invalid_arguments", ""),
        ("save_interaction", {"customer_id": CUSTOMER, "content": " "}, 422, "invalid_arguments", "query_text"),
        (
            "save_interaction",
            {"customer_id": CUSTOMER, "content": "x", "channel": "fax"},
            422,
            "invalid_arguments",
            "channel",
        ),
        (
            "save_interaction",
            {"customer_id": CUSTOMER, "content": "x", "satisfaction": 6},
            422,
            "invalid_arguments",
            "satisfaction",
        ),
        ("save_interaction", {"customer_id": "nobody", "content": "x"}, 404, "not_found", None),
        ("save_interaction", {"customer_id": CUSTOMER, "content": "x", "ticket_id": 2**62}, 404, "not_found", None),
        ("get_similar_articles", {}, 422, "invalid_arguments", "article_id"),
        ("get_similar_articles", {"article_id": 0}, 422, "invalid_arguments", "article_id"),
        ("get_similar_articles", {"article_id": "reset-your-password"}, 422, "invalid_arguments", "article_id"),
        ("get_similar_articles", {"article_id": 1.5}, 422, "invalid_arguments", "article_id"),
        ("get_similar_articles", {"article_id": True}, 422, "invalid_arguments", "article_id"),
        ("get_similar_articles", {"article_id": 2**63}, 422, "invalid_arguments", "article_id"),
        ("get_similar_articles", {"article_id": 2**62}, 404, "not_found", None),
        ("get_similar_articles", {"article_id": 1, "limit": 21}, 422, "invalid_arguments", "limit"),
        ("get_analytics", {"time_period": "soon"}, 422, "invalid_arguments", "time_period"),
        ("get_analytics", {"time_period": 7}, 422, "invalid_arguments", "time_period"),
        ("get_analytics", {"group_by": "moon"}, 422, "invalid_arguments", "group_by"),
        (
            "get_analytics",
            {"time_period": "7 days", "start_date": "2026-01-01"},
            422,
            "invalid_arguments",
            "time_period",
        ),
        (
            "get_analytics",
            {"start_date": "2026-02-01", "end_date": "2026-01-01"},
            422,
            "invalid_arguments",
            "start_date",
        ),
    ],
)
async def test_a_wrong_call_is_refused_alike_on_every_face(
    call: Call, tool: str, arguments: JsonObject, status: int, code: str, field: str | None
) -> None:
    problem = await call("database", tool, arguments)
    assert (problem["success"], problem["status"], problem["code"]) == (False, status, code), problem
    fields = [error["field"] for error in problem.get("errors", [])]
    assert (field in fields) if field is not None else fields == []
    assert problem["detail"]
    assert problem["request_id"]
    assert "asyncpg" not in str(problem)


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        (
            "get_customer_context",
            {"customer_id": 12345},
            'customer_id: Input should be a valid string; put it in quotes, such as "12345"',
        ),
        (
            "get_customer_context",
            {"customer_id": "12345", "ticket_limit": "five"},
            "ticket_limit: Input should be a valid integer, such as 5",
        ),
        (
            "search_knowledge_base",
            {"search_term": ["refund"]},
            'search_term: Input should be a valid string; put it in quotes, such as "how do i reset my pasword"',
        ),
    ],
)
async def test_an_argument_of_another_type_is_refused_with_what_it_may_look_like(
    call: Call, tool: str, arguments: JsonObject, said: str
) -> None:
    problem = await call("database", tool, arguments)
    assert (problem["status"], problem["detail"]) == (422, said)


async def test_a_ticket_of_another_customer_is_a_conflict(call: Call, desk: TestDatabase) -> None:
    async with desk.connect() as connection:
        other = await connection.fetchval("SELECT min(id) FROM tickets WHERE customer_id <> $1", CUSTOMER)
    problem = await call(
        "database", "save_interaction", {"customer_id": CUSTOMER, "query_text": "x", "ticket_id": other}
    )
    assert (problem["status"], problem["code"]) == (409, "conflict")


# Resources


@pytest.mark.parametrize("kind", ["customers", "tickets", "knowledge_articles", "interactions"])
async def test_pages_follow_each_other_without_a_gap(read: Read, desk: TestDatabase, kind: str) -> None:
    uri = f"db://{kind}"
    whole = (await read(f"{uri}?limit=6"))[kind]
    first = await read(f"{uri}?limit=4")
    second = await read(f"{uri}?limit=2&cursor={first['next_cursor']}")
    assert len(whole) == 6
    assert first[kind] + second[kind] == whole
    assert (await read(f"{uri}/{whole[5]['id']}"))[kind.removesuffix("s")] == whole[5]


async def test_the_last_page_says_so(read: Read, desk: TestDatabase) -> None:
    async with desk.connect() as connection:
        published = await connection.fetchval("SELECT count(*) FROM knowledge_articles WHERE status = 'published'")
    page = await read("db://knowledge_articles?limit=200")
    assert (len(page["knowledge_articles"]), page["next_cursor"]) == (published, None)


async def test_analytics_can_be_read(read: Read) -> None:
    result = await read("db://analytics?time_period=7%20days&group_by=priority")
    Draft202012Validator(TOOLS["get_analytics"].output_schema or False).validate(result)
    assert (await read("db://analytics"))["group_by"] == "day"


async def test_json_is_written_as_usual_whoever_wrote_it(gateway: Served) -> None:
    pages = [f"db://{kind}" for kind in ("customers", "tickets", "knowledge_articles", "interactions", "analytics")]
    async with client_of(gateway) as http:
        answers = [
            await http.get("/mcp/database/resources/read", params={"uri": uri})
            for uri in (*pages, f"db://customers/{CUSTOMER}", "db://knowledge_articles/1")
        ]
        ranges = {"query": "SELECT int4range(1, 5) AS one, int4multirange(int4range(1, 5)) AS many"}
        for tool, given in (
            ("get_customer_context", {"customer_id": CUSTOMER}),
            ("get_analytics", {}),
            ("query_database", ranges),
        ):
            answers.append(await http.post(f"/mcp/database/tools/{tool}", json=given))
    for answer in answers:
        # PostgreSQL's `json_build_object` has it `"success" : true`.
        assert answer.text.startswith('{"success":true,"')
        assert not re.search(r'"\s+:', answer.text)


async def test_drafts_and_archived_articles_are_not_there(read: Read, desk: TestDatabase) -> None:
    async with desk.connect() as connection:
        hidden = await connection.fetch("SELECT id, slug, title FROM knowledge_articles WHERE status <> 'published'")
    assert hidden, "the demo data has drafts"
    listed = {article["id"] for article in (await read("db://knowledge_articles?limit=200"))["knowledge_articles"]}
    assert listed.isdisjoint(row["id"] for row in hidden)
    problem = await read(f"db://knowledge_articles/{hidden[0]['id']}")
    assert (problem["status"], problem["code"]) == (404, "not_found")
    assert hidden[0]["title"] not in str(problem)


async def test_a_draft_is_not_found_by_search(call: Call, desk: TestDatabase) -> None:
    async with desk.connect() as connection:
        drafts = await connection.fetch("SELECT slug, title FROM knowledge_articles WHERE status = 'draft'")
    for draft in drafts:
        result = await call("database", "search_knowledge_base", {"search_term": draft["title"], "limit": 50})
        assert draft["slug"] not in {article["slug"] for article in result["articles"]}


@pytest.mark.parametrize(
    ("uri", "status", "code"),
    [
        ("db://customers/nobody", 404, "not_found"),
        ("db://tickets/999999999", 404, "not_found"),
        ("db://tickets/many", 422, "invalid_arguments"),
        ("db://tickets/0", 422, "invalid_arguments"),
        ("db://knowledge_articles/1_0", 422, "invalid_arguments"),
        ("db://knowledge_articles/+1", 422, "invalid_arguments"),
        ("db://tickets?limit=0", 422, "invalid_arguments"),
        ("db://tickets?limit=201", 422, "invalid_arguments"),
        ("db://tickets?cursor=00ff", 422, "invalid_arguments"),
        ("db://analytics?group_by=moon", 422, "invalid_arguments"),
        ("db://passwords", 404, "unknown_resource"),
        ("file:///etc/passwd", 404, "unknown_resource"),
    ],
)
async def test_what_is_no_resource_is_refused(read: Read, uri: str, status: int, code: str) -> None:
    problem = await read(uri)
    assert (problem["success"], problem["status"], problem["code"]) == (False, status, code), problem


# Changes


@asynccontextmanager
async def _listening_over_http(gateway: Served, uri: str) -> AsyncGenerator[Callable[[], Awaitable[dict[str, Any]]]]:
    message = request(MODERN, "subscriptions/listen", {"notifications": {"resourceSubscriptions": [uri]}})
    async with event_stream(gateway, message, MODERN, path="/mcp/database") as messages:
        assert (await anext(messages))["method"] == "notifications/subscriptions/acknowledged"
        yield lambda: anext(messages)


@asynccontextmanager
async def _listening_over_websocket(
    gateway: Served, uri: str
) -> AsyncGenerator[Callable[[], Awaitable[dict[str, Any]]]]:
    async with websocket(gateway, MODERN, "/mcp/database/ws") as messages:
        filters: JsonObject = {"notifications": {"resourceSubscriptions": [uri]}}
        await messages.send(request(MODERN, "subscriptions/listen", filters))
        assert (await messages.receive())["method"] == "notifications/subscriptions/acknowledged"
        yield messages.receive


@asynccontextmanager
async def _subscribed_over_websocket(
    gateway: Served, uri: str
) -> AsyncGenerator[Callable[[], Awaitable[dict[str, Any]]]]:
    async with websocket(gateway, LEGACY, "/mcp/database/ws") as messages:
        answer = await messages.ask(request(LEGACY, "resources/subscribe", {"uri": uri}))
        assert answer["result"] == {}
        yield messages.receive


@pytest.mark.parametrize("watching", [_listening_over_http, _listening_over_websocket, _subscribed_over_websocket])
async def test_who_watches_a_ticket_hears_of_an_interaction_that_another_saves(
    gateway: Served, desk: TestDatabase, watching: Any
) -> None:
    async with desk.connect() as connection:
        watched, unwatched = [
            row["id"]
            for row in await connection.fetch(
                "SELECT id FROM tickets WHERE customer_id = $1 ORDER BY id LIMIT 2", CUSTOMER
            )
        ]
    uri = f"db://tickets/{watched}"
    async with watching(gateway, uri) as next_message, client_of(gateway) as other, asyncio.timeout(WITHIN):
        for ticket in (unwatched, watched):
            arguments = {"customer_id": CUSTOMER, "ticket_id": ticket, "agent_response": "We look into it."}
            saved = await other.post("/mcp/database/tools/save_interaction", json=arguments)
            assert saved.status_code == 200
        notice = await next_message()
    assert notice["method"] == "notifications/resources/updated"
    assert notice["params"]["uri"] == uri


async def test_a_ticket_that_does_not_exist_cannot_be_watched(gateway: Served) -> None:
    async with websocket(gateway, LEGACY, "/mcp/database/ws") as messages:
        answer = await messages.ask(request(LEGACY, "resources/subscribe", {"uri": "db://tickets/999999999"}))
    assert answer["error"]["code"] == -32002
    assert answer["error"]["data"]["code"] == "not_found"
