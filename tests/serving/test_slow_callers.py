"""Callers who stop in the middle: how long they are waited for, and how much all of them may hold together."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import OP_CONT, OP_PING, OP_TEXT, Frame

from app.main import create_app
from app.serving.connections import Connection, Connections, Wait
from app.settings import Settings
from tests.faces.raw import WITHIN, client_of, request, websocket
from tests.fixtures.gateway import Served, serve
from tests.serving.callers import (
    HOST,
    JSON,
    LARGE,
    Raw,
    SlowMCPServer,
    caller,
    connections,
    post,
    protocols,
    until,
)

IDLE = 0.4
"""Seconds that these gateways wait for a caller; what they leave alone is watched for longer than that."""
KIB = 1024

HALF_BODY = b"POST /mcp/slow/tools/wait HTTP/1.1\r\n" + HOST + JSON + b"content-length: 100000\r\n\r\n" + b"x" * 500


@pytest.fixture
async def gateway(slow: SlowMCPServer) -> AsyncGenerator[Served]:
    """One that waits for no caller for long."""
    settings = Settings(idle_timeout=IDLE, head_timeout=IDLE)
    async with serve(create_app([slow], settings)) as served:
        yield served
        slow.release.set()


async def one_who_stops_is_cut_off(served: Served) -> None:
    """Wait for the clock to have come round, as another caller sees it."""
    async with caller(served) as other:
        other.send(HALF_BODY)
        assert await other.ended() == b""


# Who is not waited for


@pytest.mark.parametrize(
    "half",
    [
        b"P",
        b"POST /mcp/slow/tools/wait HTTP/1.1\r\nhost: 127",
        HALF_BODY,
        b"POST /mcp/slow/tools/wait HTTP/1.1\r\n" + HOST + JSON + b"transfer-encoding: chunked\r\n\r\n5\r\n{}",
        b"POST /mcp/slow/tools/wait HTTP/1.1\r\n" + HOST + JSON + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n",
        b"POST /mcp/batch HTTP/1.1\r\n" + HOST + JSON + b"content-length: 99\r\n\r\n{",
        b"POST /mcp/slow HTTP/1.1\r\n" + HOST + JSON + b"content-length: 99\r\n\r\n{",
        b"POST /mcp/slow/fields HTTP/1.1\r\n" + HOST + b"content-length: 99\r\n\r\nabc",
    ],
)
async def test_half_a_request_ends_with_its_connection(gateway: Served, raw: Raw, half: bytes) -> None:
    raw.send(half)
    assert await raw.ended() == b""
    assert gateway.app.state.gateway.unfinished.held == 0


async def test_a_head_that_trickles_does_not_last_longer(raw: Raw) -> None:
    async def trickle() -> None:
        raw.send(b"GET / HTTP/1.1\r\n")
        while True:
            raw.send(b"a: b\r\n")
            await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=IDLE / 10)

    trickling = asyncio.ensure_future(trickle())
    assert await raw.ended() == b""
    trickling.cancel()


TRICKLES = {
    "tool": (b"POST /mcp/slow/tools/wait HTTP/1.1\r\n" + HOST + JSON + b"content-length: 100000\r\n\r\n", b" "),
    "mcp": (b"POST /mcp/slow HTTP/1.1\r\n" + HOST + JSON + b"content-length: 100000\r\n\r\n", b" "),
    "batch": (b"POST /mcp/batch HTTP/1.1\r\n" + HOST + JSON + b"content-length: 100000\r\n\r\n", b" "),
    "chunks": (b"POST /mcp/batch HTTP/1.1\r\n" + HOST + JSON + b"transfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "size": (b"POST /mcp/batch HTTP/1.1\r\n" + HOST + JSON + b"transfer-encoding: chunked\r\n\r\n", b"0"),
}


@pytest.mark.parametrize("kind", TRICKLES)
async def test_a_body_that_trickles_is_complete_in_time_or_never(slow: SlowMCPServer, kind: str) -> None:
    head, piece = TRICKLES[kind]
    async with serve(create_app([slow], Settings(body_timeout=IDLE))) as served, caller(served) as raw:
        raw.send(head)
        ended = asyncio.ensure_future(raw.ended())
        async with asyncio.timeout(WITHIN):
            while not ended.done():
                raw.send(piece)
                await asyncio.wait([ended], timeout=IDLE / 20)
        assert ended.result() == b""
        assert served.app.state.gateway.unfinished.held == 0


async def test_a_message_that_trickles_ends_its_websocket(slow: SlowMCPServer) -> None:
    async with serve(create_app([slow], Settings(body_timeout=IDLE))) as served:
        async with websocket(served, "2026-07-28", "/mcp/slow/ws") as messages:
            # One whole message after the other is none that trickles.
            for _ in range(8):
                assert "result" in await messages.ask(request("2026-07-28", "tools/list"))
                await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=IDLE / 4)
            messages.socket.transport.write(Frame(OP_TEXT, b"{", fin=False).serialize(mask=True))
            ended = asyncio.ensure_future(messages.socket.wait_closed())
            async with asyncio.timeout(WITHIN):
                while not ended.done():
                    messages.socket.transport.write(Frame(OP_CONT, b" ", fin=False).serialize(mask=True))
                    await asyncio.wait([ended], timeout=IDLE / 20)
        assert served.app.state.gateway.unfinished.held == 0


async def test_a_body_that_is_a_stream_takes_the_time_that_it_takes(slow: SlowMCPServer) -> None:
    async with serve(create_app([slow], Settings(body_timeout=IDLE))) as served, caller(served) as raw:
        raw.send(b"POST /mcp/slow/fields HTTP/1.1\r\n", HOST, b"content-length: 6\r\n\r\n")
        for _ in range(3):
            raw.send(b"x")
            async with caller(served) as other:
                other.send(TRICKLES["tool"][0], b" ")
                assert await other.ended() == b""
            raw.send(b"x")
        assert (await raw.answer()).json()["size"] == 6


async def test_a_reader_who_takes_next_to_nothing_at_a_time_is_cut_off(gateway: Served) -> None:
    async with caller(gateway, reads_little=True) as raw:
        raw.send(post("get_much"))
        await until(lambda: connections(gateway).unsent > 0)
        async with asyncio.timeout(WITHIN):
            while protocols(gateway):
                await raw.at_least(KIB)  # 8 KiB until the clock has come round
                await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=IDLE / 8)


async def test_a_body_that_was_answered_already_must_end_too(raw: Raw) -> None:
    raw.send(b"POST /mcp/slow/tools/wait HTTP/1.1\r\n", HOST, JSON, b"content-length: 99999999\r\n\r\n{")
    assert (await raw.answer()).status == 413
    assert await raw.ended() == b""


@pytest.mark.parametrize("path", ["/mcp/slow/tools/get_much", "/mcp/slow"])
async def test_a_reader_who_takes_nothing_is_cut_off(gateway: Served, path: str) -> None:
    message = request("2025-11-25", "tools/call", {"name": "get_much", "arguments": {}})
    body = b"{}" if path.endswith("get_much") else json.dumps(message).encode()
    fields = b"accept: application/json, text/event-stream\r\nmcp-protocol-version: 2025-11-25\r\n"
    head = b"POST %b HTTP/1.1\r\n" % path.encode() + HOST + JSON + fields
    async with caller(gateway, reads_little=True) as raw:
        raw.send(head, b"content-length: %d\r\n\r\n" % len(body), body)
        await until(lambda: connections(gateway).unsent > 0)
        await until(lambda: not protocols(gateway))
    assert connections(gateway).unsent == 0


async def test_half_a_message_ends_its_websocket(gateway: Served) -> None:
    for halves in (
        [Frame(OP_TEXT, b"x" * 1000).serialize(mask=True)[:500]],
        [Frame(OP_TEXT, b"x", fin=False).serialize(mask=True), Frame(OP_CONT, b"", fin=False).serialize(mask=True)],
    ):
        async with connect(f"{gateway.websocket_url}/mcp/slow/ws") as socket:
            for half in halves:
                socket.transport.write(half)
            async with asyncio.timeout(WITHIN):
                await socket.wait_closed()
        assert gateway.app.state.gateway.unfinished.held == 0


async def test_a_websocket_that_takes_nothing_is_cut_off(gateway: Served) -> None:
    async with websocket(gateway, "2026-07-28", "/mcp/slow/ws", max_size=None) as messages:
        messages.socket.transport.pause_reading()
        await messages.send(request("2026-07-28", "tools/call", {"name": "get_much", "arguments": {}}))
        await until(lambda: connections(gateway).unsent > 0)
        await until(lambda: connections(gateway).unsent == 0)
        await until(lambda: not gateway.server.server_state.connections)
        messages.socket.transport.abort()


async def test_pings_of_one_who_takes_nothing_are_not_read(gateway: Served) -> None:
    ping = Frame(OP_PING, b"x" * 120).serialize(mask=True)
    async with connect(f"{gateway.websocket_url}/mcp/slow/ws", ping_interval=None) as socket:
        socket.transport.pause_reading()
        most = 0
        while gateway.server.server_state.connections:
            if socket.transport.get_write_buffer_size() < 2**20:
                socket.transport.write(ping * 1000)
            await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=0.001)
            most = max(most, connections(gateway).unsent)
        socket.transport.abort()
    assert 0 < most < 600 * KIB


# Who is left alone


async def test_long_calls_streams_of_events_and_quiet_connections_are_left_alone(
    gateway: Served, slow: SlowMCPServer
) -> None:
    async with AsyncExitStack() as stack:
        long, quiet, events, unread = [await stack.enter_async_context(caller(gateway)) for _ in range(4)]
        socket = await stack.enter_async_context(websocket(gateway, "2026-07-28", "/mcp/slow/ws"))
        long.send(post("wait"))
        quiet.send(post("get_time"))
        assert (await quiet.answer()).status == 200
        events.send(b"GET /mcp/slow/events HTTP/1.1\r\n", HOST, b"\r\n")
        assert (await events.line()).startswith(b"HTTP/1.1 200")
        # More than is read ahead, so that it is us who do not read.
        unread.send(b"POST /mcp/slow/unread HTTP/1.1\r\n", HOST, b"content-length: 1000000\r\n\r\n", b"x" * 500_000)
        for _ in range(3):
            await one_who_stops_is_cut_off(gateway)
        slow.release.set()
        unread.send(b"x" * 500_000)
        assert (await unread.answer()).json() == {"size": 1_000_000}
        assert (await long.answer()).json()["zone"] == "late"
        quiet.send(post("get_time"))
        assert (await quiet.answer()).status == 200
        while await events.line() != b"data: 2\n":
            pass
        assert "result" in await socket.ask(request("2026-07-28", "tools/list"))


async def looked_at(served: Served) -> list[Any]:
    """Return the connections of a gateway once its clock has seen them."""

    def found() -> list[Any]:
        return [protocol.transport for protocol in protocols(served)]

    await until(lambda: any(connection.waits_since for connection in found()))
    return found()


async def test_the_clock_stands_still_while_the_gateway_does(
    gateway: Served, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    time, stood_still = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: time() + stood_still)
    raw.send(b"POST /mcp/slow/tools/get_time HTTP/1.1\r\n", HOST, JSON, b"content-length: 4\r\n\r\n{")
    [connection] = await looked_at(gateway)
    began = connection.waits_since
    stood_still = 10 * IDLE
    await until(lambda: connection.is_closing() or connection.waits_since > began)
    raw.send(b"  }")
    assert (await raw.answer()).status == 200
    # From now on nobody else keeps the gateway waiting.
    raw.send(HALF_BODY)
    assert await raw.ended() == b""


async def test_a_body_that_goes_on_is_read_to_its_end(gateway: Served, raw: Raw) -> None:
    pieces = 8
    raw.send(b"POST /mcp/slow/fields HTTP/1.1\r\n", HOST, b"content-length: %d\r\n\r\n" % pieces)
    for _ in range(pieces):
        raw.send(b"x")
        await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=IDLE / 4)
    assert (await raw.answer()).json()["size"] == pieces


async def test_one_who_takes_little_but_takes_it_is_not_cut_off(gateway: Served) -> None:
    async with caller(gateway, reads_little=True) as raw:
        raw.send(post("get_much"))
        # So little in all that our kernel takes nothing more from us meanwhile.
        for _ in range(10):
            await raw.at_least(8 * KIB)
            await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=IDLE / 3)
        assert connections(gateway).unsent > 0
        assert protocols(gateway)


# What all hold together


async def test_unfinished_bodies_have_a_budget(slow: SlowMCPServer) -> None:
    settings = Settings(max_unfinished_bytes=215 * KIB, max_request_bytes=100 * KIB)
    async with serve(create_app([slow], settings)) as served, AsyncExitStack() as stack:
        unfinished = served.app.state.gateway.unfinished
        head = b"POST /mcp/slow/tools/get_time HTTP/1.1\r\n" + HOST + JSON + b"content-length: 90000\r\n\r\n"
        held = [await stack.enter_async_context(caller(served)) for _ in range(3)]
        for number, raw in enumerate(held):
            raw.send(head, b" " * 60_000)
            await until(lambda number=number: unfinished.held >= 60_000 * (number + 1))
        one_more = await stack.enter_async_context(caller(served))
        one_more.send(head, b" " * 60_000)
        refused = await one_more.answer()
        assert (refused.status, refused.json()["code"]) == (429, "too_many_requests")
        assert (refused.fields["retry-after"], refused.fields["connection"]) == ("1", "close")
        assert await one_more.ended() == b""
        assert unfinished.held <= settings.max_unfinished_bytes
        # Who has sent nothing beyond a read is served all the while, and who goes on gets an answer.
        async with client_of(served) as http:
            assert (await http.post("/mcp/slow/tools/get_time", json={})).status_code == 200
        for raw in held:
            raw.send(b" " * 29_998, b"{}")
            assert (await raw.answer()).status == 200
        assert unfinished.held == 0


async def test_a_body_too_large_is_told_so(slow: SlowMCPServer) -> None:
    settings = Settings(max_unfinished_bytes=200 * KIB, max_request_bytes=100 * KIB)
    async with serve(create_app([slow], settings)) as served, caller(served) as raw:
        head = b"POST /mcp/slow/tools/get_time HTTP/1.1\r\n" + HOST + JSON + b"transfer-encoding: chunked\r\n\r\n"
        raw.send(head, b"%x\r\n" % (150 * KIB), b" " * 150 * KIB)
        assert (await raw.answer()).status == 413
        assert served.app.state.gateway.unfinished.held == 0


async def test_unfinished_messages_of_websockets_have_the_same_budget(slow: SlowMCPServer) -> None:
    settings = Settings(max_unfinished_bytes=200 * KIB, max_request_bytes=100 * KIB)
    async with serve(create_app([slow], settings)) as served, AsyncExitStack() as stack:
        half = Frame(OP_TEXT, b" " * 90_000).serialize(mask=True)[:-1]
        sockets = [await stack.enter_async_context(connect(f"{served.websocket_url}/mcp/ws")) for _ in range(3)]
        for socket in sockets[:2]:
            socket.transport.write(half)
        unfinished = served.app.state.gateway.unfinished
        await until(lambda: unfinished.held >= 180_000)
        sockets[2].transport.write(half)
        with pytest.raises(ConnectionClosed):
            async with asyncio.timeout(WITHIN):
                await sockets[2].recv()
        assert sockets[2].close_code == 1013
        assert unfinished.held <= settings.max_unfinished_bytes
        for socket in sockets[:2]:
            socket.transport.abort()
        await until(lambda: unfinished.held == 0)


async def test_fragments_without_content_are_no_way_around(slow: SlowMCPServer) -> None:
    settings = Settings(max_request_bytes=10 * KIB)
    nothing = Frame(OP_CONT, b"", fin=False).serialize(mask=True)
    async with (
        serve(create_app([slow], settings)) as served,
        connect(f"{served.websocket_url}/mcp/ws") as socket,
    ):
        socket.transport.write(Frame(OP_TEXT, b"", fin=False).serialize(mask=True) + nothing * 10_000)
        async with asyncio.timeout(WITHIN):
            await socket.wait_closed()
        assert socket.close_code == 1009


async def test_answers_that_nobody_takes_are_cut_off_until_the_rest_has_room(slow: SlowMCPServer) -> None:
    settings = Settings(max_unsent_bytes=2 * LARGE)
    async with serve(create_app([slow], settings)) as served, AsyncExitStack() as stack:
        for number in range(1, 5):
            raw = await stack.enter_async_context(caller(served, reads_little=True))
            raw.send(post("get_much"))
            await until(lambda number=number: served.server.server_state.total_requests == number)
            await until(lambda: connections(served).unsent <= settings.max_unsent_bytes)
        # Of four answers, whose parts in the kernel don't count, at most two and a bit have room.
        await until(lambda: 1 <= len(protocols(served)) < 4)


class Stuck(asyncio.Transport):
    """A transport whose reader takes what the test says."""

    def __init__(self, unsent: int) -> None:
        super().__init__()
        self.unsent, self.is_cut_off = unsent, False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.unsent += len(data)

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def abort(self) -> None:
        self.unsent, self.is_cut_off = 0, True


class Silent:
    """A caller of whom nothing else is awaited."""

    def awaited(self) -> Wait | None:
        return None

    def hang_up(self) -> bool:
        return False


async def test_who_has_taken_nothing_for_longest_is_cut_off_when_answers_pile_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
    looked_after = Connections(Settings(max_unsent_bytes=100 * KIB))
    readers = {name: Stuck(0) for name in ("first", "goes on", "small", "large")}
    links = {name: Connection(reader, Silent(), looked_after) for name, reader in readers.items()}

    async def pile_up(*names: str) -> list[str]:
        """Write for some; return who is cut off."""
        for name in names:
            links[name].write(b"x" * (20 if name == "small" else 30) * KIB)
            links[name].pause_writing()
        await asyncio.sleep(0)
        return [name for name, reader in readers.items() if reader.is_cut_off]

    async def go_by(seconds: int) -> None:
        nonlocal now
        for _ in range(seconds):
            now += 1
            for _ in range(2):  # in which the clock looks
                await asyncio.sleep(0)

    for name in ("first", "goes on"):
        assert await pile_up(name) == []
        links[name].look(now)
        await go_by(5)
    readers["goes on"].unsent -= 20 * KIB
    links["goes on"].look(now)
    await go_by(1)
    assert await pile_up("small", "large") == [], "90 KiB have room"
    await go_by(5)
    for link in links.values():
        link.look(now)
    assert await pile_up("small") == ["first"], "it came before all others and has taken nothing"
    await go_by(1)
    assert await pile_up("large") == ["first", "goes on"], "which took something, but nothing since"
    assert await pile_up("large") == ["first", "goes on", "large"], "of those who have waited alike the largest"
