"""Streams that no backend ends: they are subscriptions, and end when their caller goes or the gateway stops."""

import asyncio
from collections.abc import AsyncGenerator

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from app.main import create_app
from app.servers.calls import CallContext
from app.servers.declaring import route
from app.settings import Settings
from tests.clock import ClockMCPServer
from tests.fixtures.gateway import Served, serve


class PendulumMCPServer(ClockMCPServer):
    """A clock with a stream that never ends; the clock itself has none, for its routes are all fuzzed."""

    server_id = "clock"

    @route("/pendulum", methods=["GET"], endless=True)
    async def pendulum(self, request: Request, context: CallContext) -> Response:
        """Swing until somebody stops it."""

        async def swings() -> AsyncGenerator[bytes]:
            yield b"tick\n"
            await asyncio.Event().wait()

        return StreamingResponse(swings(), media_type="text/plain")


@pytest.fixture
async def gateway() -> AsyncGenerator[Served]:
    settings = Settings(max_calls_in_flight=1, max_subscriptions=1)
    async with serve(create_app([PendulumMCPServer()], settings)) as served:
        yield served


@pytest.fixture
async def http(gateway: Served) -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=10) as client:
        yield client


async def test_an_endless_stream_leaves_the_place_of_calls_alone(http: httpx.AsyncClient) -> None:
    async with http.stream("GET", "/mcp/clock/pendulum") as stream:
        assert stream.status_code == 200
        assert (await http.post("/mcp/clock/tools/get_time")).status_code == 200


async def test_one_stream_too_many_is_refused_at_once(http: httpx.AsyncClient) -> None:
    async with http.stream("GET", "/mcp/clock/pendulum"):
        refused = await http.get("/mcp/clock/pendulum")
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")


async def test_a_stream_whose_caller_left_makes_room(gateway: Served, http: httpx.AsyncClient) -> None:
    async with http.stream("GET", "/mcp/clock/pendulum"):
        pass
    async with asyncio.timeout(10):
        while gateway.app.state.gateway.subscriptions:
            await http.get("/health")
    async with http.stream("GET", "/mcp/clock/pendulum") as stream:
        assert stream.status_code == 200


async def test_a_stream_ends_when_the_gateway_stops(gateway: Served, http: httpx.AsyncClient) -> None:
    async with http.stream("GET", "/mcp/clock/pendulum") as stream:
        lines = stream.aiter_lines()
        assert await anext(lines) == "tick"
        gateway.app.state.gateway.closing.set()
        async with asyncio.timeout(10):
            with pytest.raises((httpx.RemoteProtocolError, StopAsyncIteration)):
                await anext(lines)
    assert gateway.app.state.gateway.subscriptions == 0
