"""Texts that pass a WebSocket as they are, past ASGI's messages: in the same order, within the same bounds."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import OP_CONT, OP_PING, OP_TEXT, Frame

from app.faces.duplex import MAX_UNANSWERED, Duplex
from app.main import create_app
from app.servers.calls import JsonObject
from app.serving.websocket import WebSocketProtocol
from app.settings import Settings
from tests.faces.raw import ERAS, Messages, handshake, request, websocket
from tests.fixtures.gateway import Served, serve
from tests.serving.callers import LARGE, SlowMCPServer, connections, until

MODERN = "2026-07-28"
PATH = "/mcp/slow/ws"


@pytest.fixture
async def slow() -> SlowMCPServer:
    return SlowMCPServer()


@pytest.fixture
async def gateway(slow: SlowMCPServer) -> AsyncGenerator[Served]:
    async with serve(create_app([slow], Settings(max_request_bytes=100_000))) as served:
        yield served
        slow.release.set()


@pytest.fixture
async def messages(gateway: Served, taken: list[bytes]) -> AsyncGenerator[Messages]:
    """A connection whose plain calls are known as such, since one has been answered."""
    async with websocket(gateway, MODERN, PATH, max_size=None) as opened:
        await settle(opened)
        yield opened


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The messages that were taken at once."""
    found: list[bytes] = []
    take_now = Duplex.take_now

    def note(connection: Duplex, message: bytes) -> bool:
        now = take_now(connection, message)
        if now:
            found.append(message)
        return now

    monkeypatch.setattr(Duplex, "take_now", note)
    return found


async def settle(messages: Messages, era: str = MODERN) -> None:
    assert "result" in await messages.ask(call(0, era=era))


def call(number: int, tool: str = "get_time", arguments: JsonObject | None = None, era: str = MODERN) -> JsonObject:
    return request(era, "tools/call", {"name": tool, "arguments": arguments or {}}, number=number)


def frame(message: Any) -> bytes:
    """Return a message in a frame, with a mask of its own."""
    return Frame(OP_TEXT, json.dumps(message).encode()).serialize(mask=True)


def zone_of(answer: JsonObject) -> Any:
    result: Any = answer["result"]
    return result["structuredContent"]["zone"]


@pytest.mark.parametrize("size", [1, 125, 1000, 60_000, 70_000])
async def test_plain_calls_pass_as_they_are(
    messages: Messages, taken: list[bytes], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a plain call needs no messages of ASGI")

    fits = size < 2**16  # the rest is the library's to read, whose answer is written at once all the same
    monkeypatch.setattr(WebSocketProtocol, "send", never)
    if fits:
        monkeypatch.setattr(WebSocketProtocol, "send_receive_event_to_app", never)
    for number in range(1, 4):
        answer = await messages.ask(call(number, arguments={"zone": "x" * size}))
        assert zone_of(answer) == "x" * size
    assert len(taken) == (3 if fits else 0)


async def test_a_frame_may_come_in_pieces(gateway: Served, messages: Messages, taken: list[bytes]) -> None:
    transport, unfinished = messages.socket.transport, gateway.app.state.gateway.unfinished
    whole = frame(call(7, arguments={"zone": "CET"}))
    for cut in [*range(1, 16), len(whole) - 1]:
        transport.write(whole[:cut])
        await until(lambda cut=cut: unfinished.held == cut)
        transport.write(whole[cut:])
        assert zone_of(await messages.receive()) == "CET"
        await until(lambda: unfinished.held == 0)
        before = len(taken)
        assert zone_of(await messages.ask(call(8, arguments={"zone": "EET"}))) == "EET"
        assert len(taken) == before + 1


async def test_what_stands_in_a_message_is_never_taken_for_one(
    gateway: Served, slow: SlowMCPServer, messages: Messages, taken: list[bytes]
) -> None:
    transport, unfinished = messages.socket.transport, gateway.app.state.gateway.unfinished
    hidden = Frame(OP_TEXT, json.dumps(call(666, "wait")).encode()).serialize(mask=True)
    outer = b"\x81\xfe" + len(hidden).to_bytes(2) + bytes(4)  # masked with zeros, so that it stands there as it is
    transport.write(outer)
    await until(lambda: unfinished.held == len(outer))
    transport.write(hidden)
    with pytest.raises(ConnectionClosed):  # it is no UTF-8, being masked
        await messages.receive()
    assert not slow.started.is_set()
    assert taken == []


async def test_a_message_of_fragments_is_one(gateway: Served, messages: Messages, taken: list[bytes]) -> None:
    whole = json.dumps(call(7, arguments={"zone": "CET"})).encode()
    transport = messages.socket.transport
    transport.write(Frame(OP_TEXT, whole[:20], fin=False).serialize(mask=True))
    await until(lambda: gateway.app.state.gateway.unfinished.held > 0)
    transport.write(Frame(OP_PING, b"p").serialize(mask=True))
    transport.write(Frame(OP_CONT, whole[20:]).serialize(mask=True))
    assert zone_of(await messages.receive()) == "CET"
    assert taken == []


async def test_a_text_in_the_middle_of_fragments_is_refused(
    gateway: Served, messages: Messages, taken: list[bytes]
) -> None:
    transport = messages.socket.transport
    transport.write(Frame(OP_TEXT, b"{", fin=False).serialize(mask=True))
    await until(lambda: gateway.app.state.gateway.unfinished.held > 0)
    transport.write(frame(call(7)))
    with pytest.raises(ConnectionClosed):
        await messages.receive()
    assert messages.socket.close_code == 1002
    assert taken == []


async def test_many_frames_at_once_are_answered_all(messages: Messages, taken: list[bytes]) -> None:
    numbers = list(range(1, 41))
    messages.socket.transport.write(b"".join(frame(call(number)) for number in numbers))
    assert [(await messages.receive())["id"] for _ in numbers] == numbers
    assert len(taken) == len(numbers)


async def test_what_comes_behind_a_message_of_another_kind_waits_for_it(gateway: Served, taken: list[bytes]) -> None:
    """In one segment a client of 2025 shakes hands anew, by a revision that has no plain calls, and calls."""
    async with websocket(gateway, "2025-11-25", PATH) as messages:
        await settle(messages, "2025-11-25")
        anew = request("2025-11-25", "initialize", handshake("2025-03-26"), number=1)
        ready: JsonObject = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        calls = [frame(call(number, era="2025-11-25")) for number in (2, 3)]
        messages.socket.transport.write(frame(anew) + frame(ready) + b"".join(calls))
        answers = {answer["id"]: answer for answer in [await messages.receive() for _ in range(3)]}
    assert answers.keys() == {1, 2, 3}
    assert taken == []


@pytest.mark.parametrize("era", ERAS)
async def test_a_cancellation_right_behind_its_call_finds_it(
    gateway: Served, slow: SlowMCPServer, taken: list[bytes], era: str
) -> None:
    async with websocket(gateway, era, PATH) as messages:
        await settle(messages, era)
        withdrawn: JsonObject = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}
        messages.socket.transport.write(frame(call(7, "wait", era=era)) + frame(withdrawn))
        assert (await messages.ask(call(8, era=era)))["id"] == 8
        await until(lambda: gateway.app.state.gateway.in_flight("slow") == 0)
    assert json.loads(taken[0])["id"] == 7


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(call(7, arguments={"zone": "x" * 100_000})), 1009),
        (Frame(OP_TEXT, json.dumps(call(7)).encode()).serialize(mask=False), 1002),
        (b"\xc1" + frame(call(7))[1:], 1002),
        (Frame(OP_TEXT, json.dumps(call(7)).encode().replace(b"{}", b'"\xff"')).serialize(mask=True), 1007),
        (Frame(OP_TEXT, json.dumps(call(7)).encode().replace(b'"name"', b'"nam\xff"')).serialize(mask=True), 1007),
    ],
    ids=["too long", "not masked", "compressed", "no text", "a key that is no text"],
)
async def test_what_may_not_be_ends_the_connection(
    messages: Messages, taken: list[bytes], sent: bytes, code: int
) -> None:
    messages.socket.transport.write(sent)
    with pytest.raises(ConnectionClosed):
        await messages.receive()
    assert messages.socket.close_code == code
    assert taken == []


async def test_a_text_that_is_longer_than_allowed_and_shorter_than_64_kib_is_refused(
    slow: SlowMCPServer, taken: list[bytes]
) -> None:
    async with (
        serve(create_app([slow], Settings(max_request_bytes=1024))) as served,
        websocket(served, MODERN, PATH) as messages,
    ):
        await settle(messages)
        await messages.send(call(7, arguments={"zone": "x" * 1000}))
        with pytest.raises(ConnectionClosed):
            await messages.receive()
        assert messages.socket.close_code == 1009
        assert taken == []


async def test_what_is_beyond_the_places_of_a_connection_is_refused(
    slow: SlowMCPServer, messages: Messages, taken: list[bytes]
) -> None:
    messages.socket.transport.write(b"".join(frame(call(n, "wait")) for n in range(1, MAX_UNANSWERED + 2)))
    refused = await messages.receive()
    assert refused["id"] == MAX_UNANSWERED + 1
    assert json.loads(refused["result"]["content"][0]["text"])["code"] == "too_many_requests"
    assert len(taken) == MAX_UNANSWERED
    slow.release.set()
    assert {(await messages.receive())["id"] for _ in range(MAX_UNANSWERED)} == set(range(1, MAX_UNANSWERED + 1))


async def test_nothing_is_taken_of_one_who_does_not_read(slow: SlowMCPServer, taken: list[bytes]) -> None:
    async with (
        serve(create_app([slow], Settings(idle_timeout=0.2))) as served,
        websocket(served, MODERN, PATH, max_size=None) as messages,
    ):
        await settle(messages)
        transport = messages.socket.transport
        transport.pause_reading()
        transport.write(frame(call(1, "get_much")))
        await until(lambda: connections(served).unsent > 0)
        for number in range(2, 202):
            transport.write(frame(call(number, arguments={"zone": "x" * 1000})))
        await until(lambda: not served.server.server_state.connections)  # which has cut it off
        assert len(taken) < MAX_UNANSWERED
        transport.abort()


async def test_an_answer_waits_for_room_and_for_those_before_it(messages: Messages, gateway: Served) -> None:
    transport = messages.socket.transport
    transport.pause_reading()
    transport.write(frame(call(1, "get_much")) + frame(call(2)) + frame(call(3)))
    await until(lambda: connections(gateway).unsent > 0)
    transport.resume_reading()
    answers = [await messages.receive() for _ in range(3)]
    assert [answer["id"] for answer in answers] == [1, 2, 3]
    assert len(zone_of(answers[0])) == LARGE


async def test_where_messages_are_compressed_answers_are(slow: SlowMCPServer) -> None:
    async with (
        serve(create_app([slow], Settings(websocket_compression=True))) as served,
        websocket(served, MODERN, PATH) as messages,
    ):
        assert messages.socket.protocol.extensions
        for number in range(3):
            assert zone_of(await messages.ask(call(number, arguments={"zone": "x" * 5000}))) == "x" * 5000
