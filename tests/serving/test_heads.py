"""Heads that come again: requests that are known by them are the same requests as ever."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from app.main import create_app
from app.serving.http import HttpProtocol
from tests.fixtures.gateway import Served, serve
from tests.serving.callers import HOST, JSON, Raw, SlowMCPServer, caller, post, protocols, until

FIELDS = b"POST /mcp/slow/fields HTTP/1.1\r\n"


def said(body: bytes = b"12345", fields: bytes = b"", length: bytes | None = None, line: bytes = FIELDS) -> bytes:
    """Return a request whose answer says what was received."""
    size = b"%d" % len(body) if length is None else length
    return line + HOST + JSON + fields + b"Content-Length: " + size + b"\r\nx-last: 1\r\n\r\n" + body


@pytest.fixture
async def slow() -> SlowMCPServer:
    return SlowMCPServer()


@pytest.fixture
async def gateway(slow: SlowMCPServer) -> AsyncGenerator[Served]:
    async with serve(create_app([slow])) as served:
        yield served
        slow.release.set()


@pytest.fixture
async def raw(gateway: Served) -> AsyncGenerator[Raw]:
    async with caller(gateway) as connection:
        yield connection


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
