"""Streams: places of their own, a clock for callers who stop, and an end for those that no backend ends."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from app.admission import StreamAdmission
from app.gateway import Gateway, Respond
from app.main import create_app
from app.servers.calls import CallContext
from app.servers.declaring import route
from app.settings import Settings
from tests.clock import ClockMCPServer
from tests.faces.raw import WITHIN
from tests.fixtures.gateway import Served, serve

LONG = 64 * 1024 * 1024
"""Bytes that no socket's buffers hold."""


class PendulumMCPServer(ClockMCPServer):
    """A clock with streams; the clock itself has none that last, for its routes are all fuzzed."""

    server_id = "clock"

    @route("/pendulum", methods=["GET"], acts_as="get_time", endless=True)
    async def pendulum(self, request: Request, context: CallContext) -> Response:
        """Swing until somebody stops it."""

        async def swings() -> AsyncGenerator[bytes]:
            yield b"tick\n"
            await asyncio.Event().wait()

        return StreamingResponse(swings(), media_type="text/plain")

    @route("/tape", methods=["POST"], acts_as="get_time")
    async def record(self, request: Request, context: CallContext) -> Response:
        """Say how long the tape is."""
        return Response(str(sum([len(chunk) async for chunk in request.stream()])))

    @route("/tape", methods=["GET"], acts_as="get_time")
    async def play(self, request: Request, context: CallContext) -> Response:
        """Play a tape of a known length."""

        async def sound() -> AsyncGenerator[bytes]:
            for _ in range(LONG // 65536):
                yield bytes(65536)

        return StreamingResponse(sound(), headers={"content-length": str(LONG)})

    @route("/recital", methods=["GET"], acts_as="get_time")
    async def recital(self, request: Request, context: CallContext) -> Response:
        """Keep the audience waiting."""

        async def music() -> AsyncGenerator[bytes]:
            yield b"la"
            await asyncio.Event().wait()

        return StreamingResponse(music())


@asynccontextmanager
async def clock_with(**settings: Any) -> AsyncGenerator[tuple[Served, httpx.AsyncClient]]:
    async with (
        serve(create_app([PendulumMCPServer()], Settings(**settings))) as served,
        httpx.AsyncClient(base_url=served.url, timeout=WITHIN) as http,
    ):
        yield served, http


@asynccontextmanager
async def stalled_upload(served: Served, sent: bytes = b"x") -> AsyncGenerator[asyncio.StreamReader]:
    """Begin an upload of ten bytes, send some of them and no more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"POST /mcp/clock/tape HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 10\r\n\r\n" + sent)
    await writer.drain()
    try:
        yield reader
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@asynccontextmanager
async def stalled_download(served: Served) -> AsyncGenerator[None]:
    """Ask for a long tape and read only its beginning."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1024)
    writer.write(b"GET /mcp/clock/tape HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    try:
        yield
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def stalled(served: Served, count: int) -> None:
    """Return once so many streams wait for their callers."""
    places = served.app.state.gateway.streams("clock")
    async with asyncio.timeout(WITHIN), httpx.AsyncClient(base_url=served.url, timeout=30) as http:
        while sum(stream.waiting_since is not None for stream in places) != count:
            await http.get("/health")


def outcomes(caplog: pytest.LogCaptureFixture, operation: str) -> list[str]:
    """Return how the operations of a name ended, by the log."""
    lines = [record.getMessage() for record in caplog.records]
    return [line.partition("outcome=")[2].split()[0] for line in lines if f"operation={operation} " in line]


async def end_of(caplog: pytest.LogCaptureFixture, http: httpx.AsyncClient, operation: str) -> list[str]:
    async with asyncio.timeout(WITHIN):
        while not (found := outcomes(caplog, operation)):
            await http.get("/health")
    return found


# Places


async def test_streams_that_stall_take_no_place_from_calls() -> None:
    async with clock_with(max_calls_in_flight=1, max_streams=8) as (served, http), AsyncExitStack() as stack:
        for _ in range(4):
            await stack.enter_async_context(stalled_upload(served))
            await stack.enter_async_context(stalled_download(served))
        await stalled(served, 8)
        assert (await http.post("/mcp/clock/tools/get_time")).status_code == 200


async def test_a_stream_too_many_is_refused_while_the_others_work() -> None:
    async with clock_with(max_streams=1) as (_, http), http.stream("GET", "/mcp/clock/recital"):
        refused = await http.post("/mcp/clock/tape", content=b"x")
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
        assert "MAX_STREAMS" in refused.json()["detail"]
        assert refused.headers["retry-after"] == "1"


async def test_one_caller_leaves_streams_to_others() -> None:
    settings = {"max_streams": 5, "max_streams_per_caller": 2, "trusted_proxies": ["127.0.0.1"]}
    async with clock_with(**settings) as (served, http), AsyncExitStack() as stack:
        for address in ("192.0.2.1", "192.0.2.2"):
            theirs = {"x-forwarded-for": address}
            for _ in range(2):
                await stack.enter_async_context(http.stream("GET", "/mcp/clock/pendulum", headers=theirs))
            refused = await http.post("/mcp/clock/tape", content=b"x", headers=theirs)
            assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
            assert "MAX_STREAMS_PER_CALLER" in refused.json()["detail"]
        assert (await http.post("/mcp/clock/tape", content=b"four")).text == "4"
        assert len(served.app.state.gateway.streams("clock")) == 4


async def test_a_callers_own_stalled_stream_makes_room_within_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.admission.STALLED", 0.0)
    settings = {"max_streams_per_caller": 1, "trusted_proxies": ["127.0.0.1"]}
    async with clock_with(**settings) as (served, http), stalled_upload(served) as reader:
        await stalled(served, 1)
        others = await http.post("/mcp/clock/tape", content=b"four", headers={"x-forwarded-for": "192.0.2.1"})
        assert others.text == "4"
        assert len(served.app.state.gateway.streams("clock")) == 1, "it was not in the way"
        assert (await http.post("/mcp/clock/tape", content=b"four")).text == "4"
        assert b" 408 " in await reader.readline()


@pytest.mark.parametrize("stall", [stalled_upload, stalled_download])
async def test_a_stalled_stream_makes_room_for_one_that_works(
    stall: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.admission.STALLED", 0.0)
    caplog.set_level(logging.INFO)
    async with clock_with(max_streams=2) as (served, http), stall(served):
        await stalled(served, 1)
        async with http.stream("GET", "/mcp/clock/recital"):
            assert (await http.post("/mcp/clock/tape", content=b"four")).text == "4"
            await end_of(caplog, http, "record" if stall is stalled_upload else "play")
    assert "caller_stalled" in outcomes(caplog, "record") + outcomes(caplog, "play")


async def test_a_stream_that_waits_for_its_backend_is_not_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.admission.STALLED", 0.0)
    async with clock_with(max_streams=1) as (_, http), http.stream("GET", "/mcp/clock/recital") as recital:
        music = recital.aiter_bytes()
        assert await anext(music) == b"la"
        assert (await http.post("/mcp/clock/tape", content=b"x")).status_code == 429


# The clock


async def test_an_upload_that_stalls_is_answered_and_closed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with clock_with(stream_idle_timeout=0.1) as (served, _), stalled_upload(served) as reader:
        async with asyncio.timeout(WITHIN):
            answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"code":"caller_stalled"' in answer
    assert b"STREAM_IDLE_TIMEOUT" in answer
    assert outcomes(caplog, "record") == ["caller_stalled"]


async def test_an_upload_that_trickles_is_answered_and_closed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with clock_with(stream_idle_timeout=0.3) as (served, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(b"POST /mcp/clock/tape HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 100000\r\n\r\n")
        answer = asyncio.ensure_future(reader.readline())
        async with asyncio.timeout(WITHIN):
            while not answer.done():
                writer.write(b"x")
                await asyncio.wait([answer], timeout=0.02)
        writer.transport.abort()
        assert answer.result().startswith(b"HTTP/1.1 408")
    assert outcomes(caplog, "record") == ["caller_stalled"]


async def test_a_stream_gets_on_by_many_bytes_and_not_by_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, now = asyncio.get_running_loop(), 1000.0
    waited: list[float] = []

    async def carry(stream: StreamAdmission, respond: Respond) -> None:
        nonlocal now
        for seconds, moved in [(5, 10_000), (5, 6_000), (1, 384), (3, 1), (9, 20_000)]:
            stream.wait_for_caller()
            now += seconds
            stream.go_on(moved)
            now += 100  # which are ours
            waited.append(stream.waited())

    gateway = Gateway([PendulumMCPServer()], Settings())
    async with gateway.open():
        with monkeypatch.context() as patched:
            patched.setattr(loop, "time", lambda: now)
            context = CallContext("1", "stream")
            await gateway.stream("clock", PendulumMCPServer.routes["record"], "/tape", context, carry)
    assert waited == [5, 10, 0, 3, 0]


async def test_a_reader_that_stalls_gives_its_place_up(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with clock_with(stream_idle_timeout=0.5, max_streams=1) as (served, http), stalled_download(served):
        assert await end_of(caplog, http, "play") == ["caller_stalled"]
        assert (await http.post("/mcp/clock/tape", content=b"x")).text == "1"


async def test_the_clock_stands_still_while_the_backend_is_slow(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with clock_with(stream_idle_timeout=0.1) as (served, http), http.stream("GET", "/mcp/clock/recital"):
        async with stalled_upload(served) as reader:  # begins later and is ended first
            await reader.read()
        assert outcomes(caplog, "recital") == []


# Endings


async def test_a_download_whose_caller_goes_is_logged_as_such(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with clock_with() as (served, http):
        async with stalled_download(served):
            await stalled(served, 1)
        assert await end_of(caplog, http, "play") == ["caller_gone"]
        async with stalled_upload(served):
            await stalled(served, 1)
        assert await end_of(caplog, http, "record") == ["caller_gone"]


async def test_an_endless_stream_leaves_the_place_of_calls_alone() -> None:
    async with clock_with(max_calls_in_flight=1) as (_, http), http.stream("GET", "/mcp/clock/pendulum") as stream:
        assert stream.status_code == 200
        assert (await http.post("/mcp/clock/tools/get_time")).status_code == 200


async def test_an_endless_stream_whose_caller_left_makes_room(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with clock_with(max_streams=1) as (_, http):
        async with http.stream("GET", "/mcp/clock/pendulum"):
            assert (await http.get("/mcp/clock/pendulum")).status_code == 429
        async with asyncio.timeout(WITHIN):
            while "ok" not in outcomes(caplog, "pendulum"):
                await http.get("/health")
        async with http.stream("GET", "/mcp/clock/pendulum") as stream:
            assert stream.status_code == 200


async def test_an_endless_stream_ends_when_the_gateway_stops() -> None:
    async with clock_with() as (served, http), http.stream("GET", "/mcp/clock/pendulum") as stream:
        lines = stream.aiter_lines()
        assert await anext(lines) == "tick"
        served.app.state.gateway.closing.set()
        async with asyncio.timeout(WITHIN):
            with pytest.raises((httpx.RemoteProtocolError, StopAsyncIteration)):
                await anext(lines)
        assert not served.app.state.gateway.streams("clock")
