"""Listings pass the gateway's admission on every face: they are counted, limited and logged as calls are."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app.main import create_app
from app.servers.calls import JsonObject
from app.settings import Settings
from tests.clock import ClockMCPServer
from tests.faces.raw import ERAS, WITHIN, client_of, headers, post, request, websocket
from tests.fixtures.gateway import Served, serve

LISTINGS = ["tools/list", "resources/list", "resources/templates/list"]
PATHS = {
    "/mcp/clock/tools": "tools/list",
    "/mcp/clock/resources": "resources/list",
    "/mcp/clock": "servers/read",
}


@pytest.fixture
def clock() -> ClockMCPServer:
    return ClockMCPServer()


@pytest.fixture
async def gateway(clock: ClockMCPServer) -> AsyncGenerator[Served]:
    async with serve(create_app([clock], Settings(max_calls_in_flight=1))) as served:
        yield served


@asynccontextmanager
async def busy(gateway: Served, clock: ClockMCPServer) -> AsyncIterator[None]:
    """Keep the one place of the server taken."""
    async with websocket(gateway, "2026-07-28") as messages, asyncio.timeout(WITHIN):
        wait: JsonObject = {"name": "wait_for_cancellation", "arguments": {}}
        await messages.send(request("2026-07-28", "tools/call", wait))
        await clock.started.wait()
        yield


@pytest.mark.parametrize("path", PATHS)
async def test_a_busy_server_is_not_listed_over_http(gateway: Served, clock: ClockMCPServer, path: str) -> None:
    async with client_of(gateway) as http, busy(gateway, clock):
        refused = await http.get(path)
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["retry-after"] == "1"
        assert (await http.get("/mcp")).status_code == 200, "what is about all servers waits for none of them"


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("method", LISTINGS)
async def test_a_busy_server_is_not_listed_over_mcp(
    gateway: Served, clock: ClockMCPServer, era: str, method: str
) -> None:
    async with busy(gateway, clock):
        over_http = (await post(gateway, era, method)).json()
        async with websocket(gateway, era) as messages:
            over_websocket = await messages.ask(request(era, method))
        message = request(era, method)
        async with client_of(gateway) as http:
            of_all = await http.post("/mcp", json=message, headers=headers(era, message))
        assert "result" in of_all.json()
    for refused in (over_http, over_websocket):
        assert refused["error"]["data"]["code"] == "too_many_requests"
        assert refused["error"]["data"]["retry_after"] == 1


@pytest.mark.parametrize("era", ERAS)
async def test_each_listing_is_one_line_of_the_log(gateway: Served, era: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    expected: list[tuple[str, str]] = []
    async with client_of(gateway) as http:
        for path, operation in {**PATHS, "/mcp": "servers/list"}.items():
            assert (await http.get(path)).status_code == 200
            expected.append((operation, "rest"))
    for method in LISTINGS:
        await post(gateway, era, method)
        expected.append((method, "mcp"))
    async with websocket(gateway, era) as messages:
        for number, method in enumerate(LISTINGS):
            await messages.ask(request(era, method, number=number))
            expected.append((method, "websocket"))
    fields: list[Any] = [record.args for record in caplog.records if record.name.startswith("MCP")]
    assert [(operation, face) for _, operation, face, *_ in fields] == expected
    assert {outcome for _, _, _, _, _, _, outcome, *_ in fields} == {"ok"}


@pytest.mark.parametrize("path", [*PATHS, "/mcp", "/mcp/clock/resources/read?uri=clock://zones", "/openapi.json"])
async def test_what_a_caller_is_shown_is_kept_for_nobody_else(gateway: Served, path: str) -> None:
    async with client_of(gateway) as http:
        for method in ("GET", "HEAD"):
            answer = await http.request(method, path)
            assert answer.status_code == 200
            assert answer.headers["cache-control"] == "private"
            assert "authorization" in answer.headers["vary"]
        assert (await http.get("/docs")).headers["cache-control"] == "no-store"
        with_origin = await http.get(path, headers={"origin": gateway.url})
        assert {name.strip().lower() for name in with_origin.headers["vary"].split(",")} >= {"origin", "authorization"}
