"""Heads that come again: requests that are known by them are the same requests as ever."""

import asyncio
import random
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from app.budget import Budget
from app.serving.connections import Connections
from app.serving.http import HttpProtocol
from app.settings import Settings
from tests.fixtures.gateway import Served
from tests.serving.callers import HOST, JSON, Raw, SlowMCPServer, caller, post, protocols, until

FIELDS = b"POST /mcp/slow/fields HTTP/1.1\r\n"
HANDSHAKE = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: %b\r\n" % (
    b"dGhlIHNhbXBsZSBub25jZQ=="
)


def said(body: bytes = b"12345", fields: bytes = b"", length: bytes | None = None, line: bytes = FIELDS) -> bytes:
    """Return a request whose answer says what was received."""
    size = b"%d" % len(body) if length is None else length
    return line + HOST + JSON + fields + b"Content-Length: " + size + b"\r\nx-last: 1\r\n\r\n" + body


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the parser got to read."""
    read: list[bytes] = []
    feed = HttpProtocol._feed

    def noted(self: HttpProtocol, data: bytes) -> None:
        read.append(data)
        feed(self, data)

    monkeypatch.setattr(HttpProtocol, "_feed", noted)
    return read


async def test_a_head_that_comes_again_is_not_parsed_again(raw: Raw, parsed: list[bytes]) -> None:
    requests = [post("get_time", b'{"zone":"%b"}' % (b"Z" * size)) for size in (1, 2, 3, 1, 0, 500, 9000)]
    ids: set[str] = set()
    for request_, size in zip(requests, (1, 2, 3, 1, 0, 500, 9000), strict=True):
        raw.send(request_)
        answer = await raw.answer()
        assert (answer.status, answer.json()["zone"]) == (200, "Z" * size)
        ids.add(answer.fields["x-request-id"])
    assert parsed == requests[:2]
    assert len(ids) == len(requests)


async def test_its_request_has_the_same_fields_and_its_own_length(raw: Raw, parsed: list[bytes]) -> None:
    answers: list[Any] = []
    for size in (5, 7, 12, 0):
        raw.send(said(b"x" * size))
        answers.append((await raw.answer()).json())
    assert [answer["size"] for answer in answers] == [5, 7, 12, 0]
    assert len({str(answer["fields"]) for answer in answers}) == 1
    assert len(parsed) == 2


async def test_another_head_is_parsed_and_remembered_in_its_time(raw: Raw, parsed: list[bytes]) -> None:
    for _ in range(20):
        raw.send(post("get_time"))
        assert (await raw.answer()).status == 200
    for _ in range(20):
        raw.send(said())
        assert (await raw.answer()).json()["size"] == 5
    assert 2 < len(parsed) < 2 + 20


DIFFERENT = {
    "another path": [said(line=b"POST /mcp/slow/field HTTP/1.1\r\n")],
    "another method": [said(line=b"PUT /mcp/slow/fields HTTP/1.1\r\n")],
    "another version": [said(line=b"POST /mcp/slow/fields HTTP/1.0\r\n")],
    "one more field": [said(fields=b"x-more: 1\r\n")],
    "leading zeros": [said(length=b"0005")],
    "many leading zeros": [said(length=b"000000000000005")],
    "a sign": [said(length=b"+5")],
    "a negative length": [said(length=b"-5")],
    "a fraction": [said(length=b"5.0")],
    "hexadecimal digits": [said(length=b"0x5")],
    "digits of another script": [said(length="\u0665".encode())],
    "no digits": [said(length=b"")],
    "a space behind the length": [said(length=b"5 ")],
    "two lengths": [said(length=b"5, 5")],
    "two fields of a length": [said(fields=b"content-length: 5\r\n")],
    "a coding, too": [said(fields=b"transfer-encoding: chunked\r\n")],
    "a huge length": [said(length=b"99999999999999999999")],
    "too long by one": [said(b"123456", length=b"5"), b"\r\n\r\n"],
    "the rest later": [said()[:-2], b"45"],
    "the rest in three": [said()[:40], said()[40:-1], b"5"],
    "an empty line in front": [b"\r\n" + said()],
    "lines without CR": [said().replace(b"\r\n", b"\n")],
    "one line without CR": [said().replace(b"x-last: 1\r\n", b"x-last: 1\n")],
    "a folded line": [said().replace(b"x-last: 1\r\n", b"x-last: 1\r\n 2\r\n")],
    "two in one": [said() + said(b"1")],
    "one within the other": [said(said())],
    "nothing but the head": [said(b"", length=b"5"), b"12345"],
    "other letters": [said().replace(b"Content-Length", b"content-length")],
    "a wish to go": [said(fields=b"connection: close\r\n")],
    "an upgrade": [said(fields=b"connection: upgrade\r\nupgrade: h2c\r\n")],
    "an upgrade to a websocket": [said(fields=b"connection: upgrade\r\nupgrade: websocket\r\n")],
}


def _rests(protocol: HttpProtocol) -> bool:
    """Tell whether nothing happens on a connection unless its caller sends more."""
    cycle = protocol.cycle
    return cycle is None or (cycle.more_body and not cycle.disconnected) or cycle.response_complete


async def _answers(gateway: Served, parts: Sequence[bytes], before: Sequence[bytes] = ()) -> list[tuple[int, Any]]:
    """Send parts, each read by itself, and a last request; return all that is answered behind `before`."""
    async with caller(gateway) as raw:
        for request_ in before:
            raw.send(request_)
            assert (await raw.answer()).status == 200
        for part in parts:
            received = [protocol._received for protocol in protocols(gateway)]
            raw.send(part)
            await until(lambda received=received: [p._received for p in protocols(gateway)] != received)
        await until(lambda: all(map(_rests, protocols(gateway))))
        if any(not protocol.transport.is_closing() for protocol in protocols(gateway)):
            raw.send(said(fields=b"connection: close\r\n"))
        answers: list[tuple[int, Any]] = []
        while True:
            head = await raw.line()
            if not head:
                return answers
            fields = [head]
            while (line := await raw.line()) not in (b"\r\n", b""):
                fields.append(line)
            length = next(int(line.split(b":")[1]) for line in fields if line.lower().startswith(b"content-length"))
            body = await raw.at_least(length)
            shown = body.partition(b'"request_id"')[0]
            answers.append((int(head.split()[1]), shown))


@pytest.mark.parametrize("parts", DIFFERENT.values(), ids=DIFFERENT)
async def test_what_differs_is_answered_as_if_it_were_the_first(gateway: Served, parts: list[bytes]) -> None:
    assert await _answers(gateway, parts, [said()] * 3) == await _answers(gateway, parts)


async def test_a_handshake_is_one_though_the_same_head_had_a_body_before_and_was_none(gateway: Served) -> None:
    def asked(body: bytes) -> bytes:
        return said(body, HANDSHAKE, line=FIELDS.replace(b"POST", b"GET"))

    answers = await _answers(gateway, [asked(b"")], [asked(b"12345")] * 3)
    assert answers == await _answers(gateway, [asked(b"")])
    assert [status for status, _ in answers] != [200, 200]


@pytest.mark.parametrize("fields", [b"x-long: " + b"x" * 8 * 1024 + b"\r\n", b"x: 1\r\n" * 64], ids=["long", "many"])
async def test_a_head_of_which_every_connection_would_hold_much_is_not_remembered(
    raw: Raw, parsed: list[bytes], fields: bytes
) -> None:
    for _ in range(4):
        raw.send(said(fields=fields))
        assert (await raw.answer()).status == 200
    assert len(parsed) == 4


async def test_a_head_of_which_a_part_came_before_is_not_remembered(gateway: Served) -> None:
    rest = said()[30:]
    answers = await _answers(gateway, [said()[:30], rest, rest], [said()])
    assert [status for status, _ in answers] == [200, 400]


async def test_who_was_told_to_go_on_is_not_told_again(raw: Raw) -> None:
    for _ in range(3):
        raw.send(said())
        assert (await raw.answer()).status == 200
    raw.send(said(fields=b"expect: 100-continue\r\n"))
    assert await raw.line() == b"HTTP/1.1 100 Continue\r\n"
    assert await raw.line() == b"\r\n"
    assert (await raw.answer()).status == 200
    raw.send(said())
    assert (await raw.answer()).status == 200


async def test_a_head_that_comes_again_waits_for_its_turn(slow: SlowMCPServer, raw: Raw, parsed: list[bytes]) -> None:
    for _ in range(3):
        raw.send(post("get_time"))
        assert (await raw.answer()).status == 200
    raw.send(post("wait"))
    await slow.started.wait()
    raw.send(post("get_time"))
    await until(lambda: len(parsed) == 4)
    slow.release.set()
    assert [(await raw.answer()).json()["zone"] for _ in range(2)] == ["late", "UTC"]


class Wire(asyncio.Transport):
    """A socket whose other side takes all that is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = self.paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def write_eof(self) -> None:
        self.written += b"<end>"

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("192.0.2.1", 1), "sockname": ("192.0.2.2", 80)}.get(name, default)


class Forgetful(HttpProtocol):
    """Parses every head."""

    def _remember_head(self, data: bytes) -> None:
        pass


async def _seen(kind: type[HttpProtocol], writes: Sequence[tuple[bytes, int]]) -> list[Any]:
    """Return what is seen of a connection by its caller, and by an application that changes all that it gets.

    Args:
        kind: of the protocol.
        writes: what the caller writes, and how often the event loop turns behind each.
    """
    seen: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(deepcopy(scope))
        scope["headers"][:1] = [(b"content-length", b"77"), (b"x-changed", b"1")]
        scope["state"]["changed"] = scope["path"] = scope["root_path"] = "changed"
        scope["client"] = ("changed", 1)
        more = scope["query_string"] != b"unread"
        while more:
            message = await receive()
            seen.append(message)
            more = message.get("more_body", False)
        if scope["query_string"] == b"fails":
            raise RuntimeError
        if scope["query_string"] == b"waits":
            await asyncio.sleep(0)
        body = b"%d" % len(seen)
        if not receive.__self__.answer(200, b"content-length: %d\r\n" % len(body), body):
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"no"})

    config = uvicorn.Config(application, log_config=None, access_log=False, ws="none", proxy_headers=False)
    wire, state = Wire(), ServerState()
    connections, unfinished = Connections(Settings()), Budget(2**20)
    protocol = kind(connections, unfinished, config=config, server_state=state, app_state={"of": "the application"})
    protocol.connection_made(wire)
    for data, turns in writes:
        for _ in range(64 if wire.paused else 0):
            await asyncio.sleep(0)
        if wire.closed or wire.paused:
            break
        protocol.data_received(data)
        for _ in range(turns):
            await asyncio.sleep(0)
        seen.append((protocol.awaited(), len(protocol.pipeline), wire.paused, len(state.tasks)))
    for _ in range(64):
        await asyncio.sleep(0)
    seen.append((wire.written, wire.closed, wire.paused, state.total_requests))
    protocol.connection_lost(None)
    for _ in range(64):
        await asyncio.sleep(0)
    return [*seen, (len(state.tasks), unfinished.held)]


PIECES = {
    "queries": [b"", b"", b"", b"unread", b"waits", b"fails"],
    "fields": [b"", b"", b"", b"cookie: a\r\n", b"x-request-id: 1\r\n", b"origin: a\r\n", b"Content-Length: 5\r\n"],
    "odd fields": [
        *(b"connection: close\r\n", b"connection: upgrade\r\nupgrade: h2c\r\n", b"expect: 100-continue\r\n"),
        *(b" folded\r\n", b"x : 1\r\n", b"x: 1\n", b"transfer-encoding: chunked\r\n"),
    ],
    "odd lengths": [b"0%d", b" %d", b"%d ", b"+%d", b"-%d", b"", b"%d, %d", b"0x%d", b"00000000%d", b"99999999%d"],
    "behind": [b"", b"", b"x", b"\r", b"\r\n", b"\n", b"GET /a HTTP/1.1\r\n\r\n"],
}
"""Of which requests are made at random."""


def _at_random(seed: int) -> list[tuple[bytes, int]]:
    """Return what a caller writes who mostly says the same, but not always, and not always in one piece."""
    given = random.Random(seed)

    def some(name: str) -> bytes:
        return given.choice(PIECES[name])

    heads: list[tuple[bytes, bytes]] = []
    for _ in range(given.choice((1, 1, 2))):
        start = (
            given.choice((b"POST", b"POST", b"GET", b"HEAD")) + b" /a?" + some("queries") + b" HTTP/1.1\r\nhost: a\r\n"
        )
        heads.append((start, some("fields") + (some("odd fields") if given.random() < 0.2 else b"")))
    wildness = given.choice((0, 0.1, 0.3))
    writes: list[tuple[bytes, int]] = []
    for _ in range(given.randrange(8, 40)):
        start, end = given.choice(heads)
        body = b"a" * given.choice((0, 1, 5, 5, 12, 200, 200, 70_000))
        length = b"%d"
        if wild := given.random() < wildness:
            length = some("odd lengths")
        data = start + b"content-length: " + length.replace(b"%d", b"%d" % len(body)) + b"\r\n" + end + b"\r\n" + body
        if wild:
            data = given.choice((b"", b"", b"\r\n")) + data + some("behind")
        cut = given.randrange(len(data)) if given.random() < 0.1 else 0
        if given.random() < 0.1 and writes:
            data, cut = writes.pop()[0] + data, 0
        writes += [(piece, given.randrange(5)) for piece in (data[:cut], data[cut:]) if piece]
    return writes


async def test_no_sequence_of_requests_is_seen_otherwise_than_by_the_parser(
    parsed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.serving.http.new_request_id", lambda: "1")
    sizes = {HttpProtocol: 0, Forgetful: 0}
    for seed in range(120):
        writes = _at_random(seed)
        seen = {}
        for kind in sizes:
            parsed.clear()
            seen[kind] = await _seen(kind, writes)
            sizes[kind] += len(parsed)
        assert seen[HttpProtocol] == seen[Forgetful], seed
        assert seen[HttpProtocol][-1] == (0, 0), seed
    assert sizes[HttpProtocol] < 0.9 * sizes[Forgetful]
