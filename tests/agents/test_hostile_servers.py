"""What a server sends can neither hang a client nor fill its memory, and every failure is a `CallFailed`."""

import asyncio
import base64
import contextlib
import gzip
import hashlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest

from agents import a2a, answers, transports
from agents.a2a import RemoteAgent
from agents.answers import AnswerFailed, Article, Asked, ModelWriter
from agents.balancing import RetryPolicy
from agents.base import AgentRequest
from agents.client import MCPClient
from agents.errors import (
    CallFailed,
    CallTimeout,
    ConnectionFailed,
    ConnectionLost,
    InvalidArguments,
    MalformedAnswer,
    ServerNotFound,
)
from tests.faces.raw import WITHIN

Answer = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
LISTING = b'{"success":true,"tools":[{"name":"look","annotations":{"readOnlyHint":true}}]}'


@contextlib.asynccontextmanager
async def server(answer: Answer) -> AsyncGenerator[str]:
    """Serve raw answers to requests, given by their heads; return host and port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                [length] = [line[15:] for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"] or [
                    b"0"
                ]
                await reader.readexactly(int(length))
                await answer(head, reader, writer)
                await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"


def http(body: bytes, headers: bytes = b"", status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\n%bcontent-length: %d\r\n\r\n%b" % (status, headers, len(body), body)


def always(*answers: bytes) -> Answer:
    """Answer the first request with the first, and so on; the last one again and again."""
    left = list(answers)

    async def answer(_head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(left.pop(0) if len(left) > 1 else left[0])

    return answer


async def without_end(_head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
        await writer.drain()


@pytest.mark.parametrize(
    "answer",
    [without_end, always(http(gzip.compress(b" " * 3_000_000), b"content-encoding: gzip\r\n"))],
    ids=["without an end", "compressed"],
)
async def test_an_answer_that_is_too_large_is_not_read(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
    monkeypatch.setattr(transports, "_LARGEST_MESSAGE", 1_000_000)
    async with server(answer) as place, MCPClient(f"http://{place}", timeout=WITHIN) as client:
        with pytest.raises(MalformedAnswer, match="larger than"):
            await client.list_tools("things")


async def test_cookies_are_not_kept() -> None:
    """One that no header can carry broke every call after it."""
    heads: list[bytes] = []

    async def answer(head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        writer.write(http(LISTING, b"set-cookie: a=\xff\r\nset-cookie: b=1\r\n"))

    async with server(answer) as place, MCPClient(f"http://{place}") as client:
        for _ in range(2):
            assert [tool["name"] for tool in await client.list_tools("things")] == ["look"]
    assert not any(b"cookie" in head.lower() for head in heads)


@pytest.mark.parametrize("scheme", ["http", "ws"])
@pytest.mark.parametrize(
    "location",
    [
        b"http://xn--/",
        b"http://[::1",
        b"ws://h:port/",
        b"ws://h:99999999/",
        b"\xff\xfe",
        b"ws://%b/" % (b"a" * 70),
        b"ws://a..b/",
        b"//",
    ],
)
async def test_a_redirect_is_not_followed_whatever_it_says(scheme: str, location: bytes) -> None:
    answer = always(http(b"", b"location: %b\r\n" % location, b"302 Found"))
    async with server(answer) as place, MCPClient(f"{scheme}://{place}", timeout=WITHIN, connect_timeout=1) as client:
        with pytest.raises(MalformedAnswer, match="302"):
            await client.list_tools("things")


@pytest.mark.parametrize("name", ["Büro-Agent", "日本", "two\r\nlines", " spaces ", "\x00"])
async def test_an_agent_may_have_any_name(name: str) -> None:
    heads: list[bytes] = []

    async def answer(head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        writer.write(http(LISTING))

    async with server(answer) as place, MCPClient(f"http://{place}", name=name) as client:
        await client.list_tools("things")
    [agent] = [line for line in heads[0].lower().split(b"\r\n") if line.startswith(b"user-agent: ")]
    assert agent.isascii()
    assert agent.removeprefix(b"user-agent: ").strip()


@pytest.mark.parametrize("token", ["clé", "two\nlines", "\x7f"])
def test_a_token_that_no_header_can_hold_is_refused_at_once(token: str) -> None:
    with pytest.raises(ValueError, match="token"):
        MCPClient("http://127.0.0.1:1", token=token)
    with pytest.raises(ValueError, match="token"):
        MCPClient({"gateway": {"uri": "http://127.0.0.1:1", "token": token}})


async def test_names_that_can_not_be_written_are_the_callers_mistake() -> None:
    async with server(always(http(LISTING))) as place, MCPClient(f"http://{place}") as client:
        with pytest.raises(InvalidArguments):
            await client.call_tool("things", "\ud800")
        with pytest.raises(InvalidArguments):
            await client.get_resource("things", "db://\ud800")
        with pytest.raises(ServerNotFound):
            await client.call_tool("\ud800", "look")


async def test_a_message_in_endless_fragments_is_not_gathered() -> None:
    async def answer(head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        [key] = [line[19:].strip() for line in head.split(b"\r\n") if line[:18].lower() == b"sec-websocket-key:"]
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-protocol: mcp\r\nsec-websocket-accept: %b\r\n\r\n\x01\x00" % accept
        )
        while True:
            writer.write(b"\x00\x00" * 5000)
            await writer.drain()

    async with server(answer) as place:
        client = MCPClient(f"ws://{place}", timeout=WITHIN, connect_timeout=1)
        with pytest.raises(MalformedAnswer, match="fragments"):
            await client.list_tools("things")
        await client.close()


@pytest.mark.parametrize("scheme", ["http", "ws"])
@pytest.mark.parametrize("host", ["a..b", "a" * 70, "xn--"])
async def test_at_a_name_that_no_host_can_have_nothing_answers(scheme: str, host: str) -> None:
    async with MCPClient(f"{scheme}://{host}", timeout=WITHIN, retry=RetryPolicy(rounds=1)) as client:
        with pytest.raises(ConnectionFailed):
            await client.list_tools("things")


# Language models


async def dripping(_head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1\r\n \r\n")
        await writer.drain()
        await asyncio.sleep(0)


async def write(url: str, seconds: float) -> str:
    asked = [Asked("Where?", [Article(id=1, slug="a", title="A", score=1)])]
    async with asyncio.timeout(WITHIN):
        with pytest.raises(AnswerFailed) as failed:
            await ModelWriter("small", url, seconds=seconds).write(asked, None)
    return str(failed.value)


async def test_an_answer_of_a_model_has_its_time_and_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    async with server(without_end) as place:
        assert "more than" in await write(f"http://{place}", WITHIN)
    monkeypatch.setattr(answers, "_LARGEST_COMPLETION", 1 << 40)
    async with server(dripping) as place:
        assert "TimeoutError" in await write(f"http://{place}", 0.1)


@pytest.mark.parametrize("url", ["http://[::1", "http://a..b", "http://xn--/", f"http://{'a' * 70}/"])
async def test_a_model_at_what_is_no_address_does_not_answer(url: str) -> None:
    assert "did not answer" in await write(url, WITHIN)


# Agents at other addresses


def card(place: str) -> bytes:
    return json.dumps(
        {
            "name": "x",
            "description": "x",
            "version": "1",
            "supportedInterfaces": [
                {"url": f"http://{place}/", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}
            ],
            "capabilities": {"streaming": True},
            "defaultInputModes": ["text/plain"],
            "defaultOutputModes": ["text/plain"],
            "skills": [],
        }
    ).encode()


async def ask(answer: Answer) -> CallFailed:
    async with server(answer) as place:
        async with asyncio.timeout(WITHIN):
            with pytest.raises(CallFailed) as failed:
                await RemoteAgent(f"http://{place}").handle(AgentRequest("hello"))
    return failed.value


@pytest.mark.parametrize("body", [b"{}", b"[]", b"<html>", b"[" * 100_000, b'{"supportedInterfaces":5}', b"\xff"])
async def test_what_has_no_card_is_no_agent(body: bytes) -> None:
    assert isinstance(await ask(always(http(body))), ConnectionFailed)


@pytest.mark.parametrize(
    "event",
    [
        "garbage",
        "null",
        "[]",
        '{"jsonrpc":"2.0","id":"1","result":{"task":5}}',
        '{"jsonrpc":"2.0","id":"1","result":{"task":{"status":{"state":["x"]}}}}',
        '{"jsonrpc":"2.0","id":"1","error":{"code":"x","message":5}}',
        "[" * 100_000,
    ],
)
async def test_an_agent_that_talks_nonsense_has_broken_off(event: str) -> None:
    async def answer(head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"agent-card" in head:
            [host] = [line[6:] for line in head.split(b"\r\n") if line[:6].lower() == b"host: "]
            writer.write(http(card(host.decode())))
        else:
            writer.write(http(f"data: {event}\n\n".encode(), b"content-type: text/event-stream\r\n"))

    assert isinstance(await ask(answer), ConnectionLost)


async def test_an_agent_that_keeps_the_line_busy_is_waited_for_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(a2a, "_ANSWER_SECONDS", 0.5)

    async def answer(head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"agent-card" in head:
            [host] = [line[6:] for line in head.split(b"\r\n") if line[:6].lower() == b"host: "]
            writer.write(http(card(host.decode())))
            return
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        while True:
            writer.write(b": still here\n\n" * 100)
            await writer.drain()

    assert isinstance(await ask(answer), CallTimeout)
    assert isinstance(await ask(without_end), CallTimeout)
