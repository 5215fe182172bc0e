"""A query ends in PostgreSQL itself when its caller goes away, cancels it, or has waited long enough."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import pytest

from app.local.postgres import LocalPostgres
from app.main import create_app
from app.routers.database import DatabaseMCPServer
from app.servers.calls import JsonObject
from app.services.postgres.sql.reader import open_sql_reader
from app.settings import Settings
from tests.faces.raw import ERAS, WITHIN, client_of, headers, request, send_and_hold, websocket
from tests.fixtures.gateway import Call, Served, serve
from tests.fixtures.postgres import TestDatabase, cloned_database
from tests.mcp_servers.statements import GONE_WITHIN, SLOW, until_running, until_waiting

QUERY: JsonObject = {"query": SLOW}
CALL: JsonObject = {"name": "query_database", "arguments": QUERY}


@pytest.fixture(scope="module")
async def desk(postgres_server: LocalPostgres, postgres_template: str) -> AsyncGenerator[TestDatabase]:
    """A support database of one article, without which a search ends early, for this module alone."""
    async with cloned_database(postgres_server, postgres_template) as clone:
        async with clone.connect() as administrator:
            await administrator.execute(
                "INSERT INTO knowledge_articles (slug, title, body, status) "
                "VALUES ('reset', 'Reset your password', 'Open the page of your account.', 'published')"
            )
        yield clone


@pytest.fixture(scope="module")
async def gateway(desk: TestDatabase) -> AsyncGenerator[Served]:
    async with serve(create_app([DatabaseMCPServer], Settings(), [desk.settings])) as served:
        yield served


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/mcp/database/tools/query_database", QUERY),
        ("/mcp/batch", {"calls": [{"server": "database", "tool": "query_database", "arguments": QUERY}] * 2}),
    ],
    ids=["tool", "batch"],
)
async def test_a_rest_caller_who_closes_the_connection(
    gateway: Served, desk: TestDatabase, path: str, body: JsonObject
) -> None:
    fields = {"content-type": "application/json"}
    _, held = await send_and_hold(gateway, path, json.dumps(body).encode(), fields)
    await until_running(desk, 2 if "calls" in body else 1)
    held.close()
    await until_running(desk, 0, within=GONE_WITHIN)


@pytest.mark.parametrize("meta", [{}, {"progressToken": "p"}], ids=["json", "event-stream"])
@pytest.mark.parametrize("era", ERAS)
async def test_an_mcp_caller_who_closes_the_connection(
    gateway: Served, desk: TestDatabase, era: str, meta: dict[str, Any]
) -> None:
    message = request(era, "tools/call", CALL, **meta)
    _, held = await send_and_hold(gateway, "/mcp/database", json.dumps(message).encode(), headers(era, message))
    await until_running(desk, 1)
    held.close()
    await until_running(desk, 0, within=GONE_WITHIN)


@pytest.mark.parametrize("era", ERAS)
async def test_a_websocket_that_closes(gateway: Served, desk: TestDatabase, era: str) -> None:
    async with websocket(gateway, era, "/mcp/database/ws") as messages:
        for number in (1, 2):
            await messages.send(request(era, "tools/call", CALL, number=number))
        await until_running(desk, 2)
    await until_running(desk, 0, within=GONE_WITHIN)


@pytest.mark.parametrize("era", ERAS)
async def test_a_cancel_notification_over_websocket(gateway: Served, desk: TestDatabase, era: str) -> None:
    async with websocket(gateway, era, "/mcp/database/ws") as messages:
        for number in (7, 8):
            await messages.send(request(era, "tools/call", CALL, number=number))
        await until_running(desk, 2)
        await messages.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}})
        # The other one runs on.
        await until_running(desk, 1, within=GONE_WITHIN)
        await messages.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 8}})
        await until_running(desk, 0, within=GONE_WITHIN)
        one: JsonObject = {"name": "query_database", "arguments": {"query": "SELECT 1 AS one"}}
        answer = await messages.ask(request(era, "tools/call", one, number=9))
        assert answer["result"]["structuredContent"]["rows"] == [{"one": 1}]


async def test_a_query_that_ran_into_the_callers_time_limit(call: Call, desk: TestDatabase) -> None:
    async with asyncio.timeout(GONE_WITHIN):
        problem = await call("database", "query_database", {**QUERY, "timeout_ms": 200})
    assert (problem["status"], problem["code"]) == (504, "backend_timeout")
    assert "timeout_ms" in problem["detail"]
    await until_running(desk, 0, within=GONE_WITHIN)


async def test_a_statement_that_ran_into_the_gateways_time_limit(desk: TestDatabase) -> None:
    settings = Settings(tool_timeout=0.2)
    async with (
        desk.connect() as administrator,
        serve(create_app([DatabaseMCPServer], settings, [desk.settings])) as served,
        client_of(served) as http,
    ):
        await administrator.execute("BEGIN; LOCK TABLE customers IN ACCESS EXCLUSIVE MODE")
        answer = await http.post("/mcp/database/tools/get_customer_context", json={"customer_id": "12345"})
        assert answer.json()["code"] == "backend_timeout"
        await until_running(desk, 0, within=GONE_WITHIN)


@pytest.mark.parametrize("tool", ["get_customer_context", "search_knowledge_base", "save_interaction", "get_analytics"])
async def test_a_tool_that_waits_for_a_lock_ends_with_its_caller(
    gateway: Served, desk: TestDatabase, tool: str
) -> None:
    body = json.dumps(DatabaseMCPServer.tools[tool].example).encode()
    path = f"/mcp/database/tools/{tool}"
    tables = "customers, tickets, interactions, knowledge_articles"
    async with desk.connect() as administrator:
        async with administrator.transaction():
            await administrator.execute(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")
            _, held = await send_and_hold(gateway, path, body, {"content-type": "application/json"})
            await until_waiting(desk, 1)
            held.close()
            await until_running(desk, 0, within=GONE_WITHIN)
        assert await administrator.fetchval("SELECT count(*) FROM interactions") == 0
    # The connection that was cancelled is as good as before.
    async with client_of(gateway) as http, asyncio.timeout(WITHIN):
        expected = {"get_customer_context": 404, "save_interaction": 404}.get(tool, 200)
        answer = await http.post(path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == expected


async def test_a_query_that_is_cancelled_again_and_again_leaves_no_transaction_and_no_complaint(
    desk: TestDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_sql_reader(desk.settings) as reader:
        await reader.query("SELECT 1 AS n")  # the catalogs are known from here on
        running = asyncio.ensure_future(until_running(desk, 1))
        with anyio.CancelScope() as scope:  # as the SDK's, which cancels what is within it until it has ended
            running.add_done_callback(lambda _: scope.cancel())
            await reader.query(SLOW)
        assert scope.cancelled_caught
        await running
        await reader.query("SELECT 1 AS n")
    await until_running(desk, 0, within=GONE_WITHIN)
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []
