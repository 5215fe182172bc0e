"""Who goes away takes the running tool along, on every face."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from app.main import create_app
from app.servers.calls import JsonObject
from app.settings import Settings
from tests.clock import ClockMCPServer
from tests.faces.raw import ERAS, WITHIN, client_of, headers, request, send_and_hold, websocket
from tests.fixtures.gateway import Served, serve

WAIT: JsonObject = {"name": "wait_for_cancellation", "arguments": {}}


@pytest.fixture
def clock() -> ClockMCPServer:
    return ClockMCPServer()


@pytest.fixture
async def gateway(clock: ClockMCPServer) -> AsyncGenerator[Served]:
    async with serve(create_app([clock], Settings(max_calls_in_flight=1))) as served:
        yield served


async def _is_cancelled(clock: ClockMCPServer, served: Served, log: pytest.LogCaptureFixture, face: str) -> None:
    async with asyncio.timeout(WITHIN):
        await clock.cancelled.wait()
        # The one place among the calls in flight is free again.
        async with client_of(served) as http:
            assert (await http.post("/mcp/clock/tools/get_time")).status_code == 200
    outcomes = [r.getMessage() for r in log.records if "operation=wait_for_cancellation" in r.getMessage()]
    assert len(outcomes) == 1
    assert f"face={face}" in outcomes[0]
    assert "outcome=cancelled" in outcomes[0]


async def test_a_rest_caller_who_closes_the_connection(
    clock: ClockMCPServer, gateway: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    _, held = await send_and_hold(gateway, "/mcp/clock/tools/wait_for_cancellation", b"{}", {})
    async with asyncio.timeout(WITHIN):
        await clock.started.wait()
    held.close()
    await _is_cancelled(clock, gateway, caplog, "rest")


@pytest.mark.parametrize("meta", [{}, {"progressToken": "p"}], ids=["json", "event-stream"])
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("path", ["/mcp/clock", "/mcp"])
async def test_an_mcp_caller_who_closes_the_connection(
    clock: ClockMCPServer,
    gateway: Served,
    caplog: pytest.LogCaptureFixture,
    path: str,
    era: str,
    meta: dict[str, Any],
) -> None:
    caplog.set_level(logging.INFO)
    message = request(era, "tools/call", WAIT, **meta)
    _, held = await send_and_hold(gateway, path, json.dumps(message).encode(), headers(era, message))
    async with asyncio.timeout(WITHIN):
        await clock.started.wait()
    held.close()
    await _is_cancelled(clock, gateway, caplog, "mcp")


@pytest.mark.parametrize("era", ERAS)
async def test_a_websocket_that_closes(
    clock: ClockMCPServer, gateway: Served, caplog: pytest.LogCaptureFixture, era: str
) -> None:
    caplog.set_level(logging.INFO)
    async with websocket(gateway, era) as messages, asyncio.timeout(WITHIN):
        await messages.send(request(era, "tools/call", WAIT))
        await clock.started.wait()
    await _is_cancelled(clock, gateway, caplog, "websocket")


@pytest.mark.parametrize("era", ERAS)
async def test_a_cancel_notification_over_websocket(
    clock: ClockMCPServer, gateway: Served, caplog: pytest.LogCaptureFixture, era: str
) -> None:
    caplog.set_level(logging.INFO)
    async with websocket(gateway, era) as messages:
        await messages.send(request(era, "tools/call", WAIT, number=7))
        async with asyncio.timeout(WITHIN):
            await clock.started.wait()
        await messages.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}})
        await _is_cancelled(clock, gateway, caplog, "websocket")
        answer = await messages.ask(request(era, "tools/call", {"name": "get_time", "arguments": {}}, number=8))
        assert answer["result"]["isError"] is False


@pytest.mark.parametrize("era", ERAS)
async def test_a_cancel_notification_over_stateless_http_is_acknowledged_and_has_no_effect(
    clock: ClockMCPServer, gateway: Served, era: str
) -> None:
    message = request(era, "tools/call", WAIT, number=7)
    _, held = await send_and_hold(gateway, "/mcp/clock", json.dumps(message).encode(), headers(era, message))
    async with asyncio.timeout(WITHIN):
        await clock.started.wait()
        async with client_of(gateway) as http:
            cancel: JsonObject = {
                "jsonrpc": "2.0",
                "method": "notifications/cancelled",
                "params": {"requestId": 7},
            }
            answer = await http.post("/mcp/clock", json=cancel, headers=headers(era, cancel))
        assert answer.status_code == 202
        assert not clock.cancelled.is_set()
        held.close()
        await clock.cancelled.wait()


async def test_a_gateway_that_stops_ends_calls_and_sockets(clock: ClockMCPServer, gateway: Served) -> None:
    async with websocket(gateway, "2026-07-28") as messages:
        await messages.send(request("2026-07-28", "tools/call", WAIT))
        async with asyncio.timeout(WITHIN):
            await clock.started.wait()
            gateway.app.state.gateway.closing.set()
            await clock.cancelled.wait()
            await messages.socket.wait_closed()
        assert messages.socket.close_code == 1001
