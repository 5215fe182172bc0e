"""Two gateways on one database: what one saves the other tells of, and the end of one is nothing to the other."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest

from app.main import create_app
from app.routers.database import DatabaseMCPServer
from app.servers.calls import JsonObject
from app.settings import Settings
from tests.faces.raw import WITHIN, client_of, event_stream, request, websocket
from tests.fixtures.gateway import FACES, Served, mcp_client, serve
from tests.fixtures.postgres import TestDatabase

pytestmark = pytest.mark.usefixtures("patience")
LEGACY, MODERN = "2025-11-25", "2026-07-28"
CUSTOMER = "12345"


@asynccontextmanager
async def two_gateways(desk: TestDatabase) -> AsyncGenerator[tuple[AsyncExitStack, Served, Served]]:
    """Serve twice, each with connections of its own. Whoever closes the stack ends the first."""
    async with (
        serve(create_app([DatabaseMCPServer], Settings(), [desk.settings])) as second,
        AsyncExitStack() as ending,
    ):
        first = await ending.enter_async_context(
            serve(create_app([DatabaseMCPServer], Settings(shutdown_grace=1), [desk.settings]))
        )
        yield ending, first, second


async def ticket_of(desk: TestDatabase) -> int:
    async with desk.connect() as connection:
        ticket: int = await connection.fetchval("SELECT max(id) FROM tickets WHERE customer_id = $1", CUSTOMER)
        return ticket


def listen(ticket: int) -> JsonObject:
    wanted: JsonObject = {"notifications": {"resourceSubscriptions": [f"db://tickets/{ticket}"]}}
    return request(MODERN, "subscriptions/listen", wanted)


async def save(http: httpx.AsyncClient, ticket: int, key: str) -> httpx.Response:
    interaction = {
        "customer_id": CUSTOMER,
        "query_text": "Is anybody there?",
        "agent_response": "Both of us.",
        "ticket_id": ticket,
        "idempotency_key": key,
    }
    return await http.post("/mcp/database/tools/save_interaction", json=interaction)


async def test_who_watches_by_either_hears_of_what_is_saved_by_either(demo_database: TestDatabase) -> None:
    ticket = await ticket_of(demo_database)
    async with two_gateways(demo_database) as (_, *gateways), AsyncExitStack() as stack, asyncio.timeout(WITHIN):
        streams = [
            await stack.enter_async_context(event_stream(each, listen(ticket), MODERN, path="/mcp/database"))
            for each in gateways
        ]
        for messages in streams:
            assert (await anext(messages))["method"] == "notifications/subscriptions/acknowledged"
        for number, each in enumerate(gateways):
            async with client_of(each) as http:
                saved = await save(http, ticket, f"two-{number}")
                assert saved.status_code == 200, saved.text
            for messages in streams:
                notice = await anext(messages)
                assert notice["params"]["uri"] == f"db://tickets/{ticket}"
                assert "interrupted" not in notice["params"].get("_meta", {})


async def test_what_was_saved_by_one_is_not_saved_again_by_the_other(demo_database: TestDatabase) -> None:
    ticket = await ticket_of(demo_database)
    async with (
        two_gateways(demo_database) as (_, first, second),
        client_of(first) as one,
        client_of(second) as other,
    ):
        answers = await asyncio.gather(*(save(http, ticket, "once") for http in (one, other) * 4))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["interaction"]["id"] for answer in answers}) == 1


@pytest.mark.parametrize("face", [face for face in FACES if face != "rest"])
async def test_listings_of_both_are_the_same(demo_database: TestDatabase, face: str) -> None:
    async with two_gateways(demo_database) as (_, *gateways):
        found: list[object] = []
        for each in gateways:
            async with mcp_client(each, face) as client:
                tools, resources = await client.list_tools(), await client.list_resources()
                found.append((tools.tools, resources.resources))
    assert found[0] == found[1]


async def test_one_that_stops_ends_what_it_has_and_nothing_of_the_other(demo_database: TestDatabase) -> None:
    ticket = await ticket_of(demo_database)
    uri = f"db://tickets/{ticket}"
    async with two_gateways(demo_database) as (ending, first, second), AsyncExitStack() as stack:
        theirs = await stack.enter_async_context(event_stream(first, listen(ticket), MODERN, path="/mcp/database"))
        ours = await stack.enter_async_context(event_stream(second, listen(ticket), MODERN, path="/mcp/database"))
        socket = await stack.enter_async_context(websocket(second, LEGACY, "/mcp/database/ws"))
        http = await stack.enter_async_context(client_of(second))
        async with asyncio.timeout(WITHIN):
            await anext(theirs)
            await anext(ours)
            assert "result" in await socket.ask(request(LEGACY, "resources/subscribe", {"uri": uri}))
            await ending.aclose()
            assert [message["result"]["_meta"] for message in [m async for m in theirs]], "its stream has an end"
            assert (await save(http, ticket, "after")).status_code == 200
            assert (await anext(ours))["params"]["uri"] == uri
            assert (await socket.receive())["params"]["uri"] == uri
            assert (await http.get("/ready")).status_code == 200
