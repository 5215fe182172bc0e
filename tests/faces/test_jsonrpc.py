"""What every transport takes for a message, and what it answers to all else."""

import json
import re
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest

from app.faces.jsonrpc import NotAMessage, read_message
from app.main import create_app
from app.settings import Settings
from tests.clock import ClockMCPServer
from tests.faces.raw import ERAS, client_of, headers, launched, request, websocket
from tests.fixtures.gateway import Served, serve

TRANSPORTS = ("http", "websocket", "stdio")
ROOT = Path(__file__).parents[2]
HALF_PAIRS = [r"\ud800", r"\uDBFF.", r"\udc00", r"\ud800\ud800", r"\udfff\ud800", r"\\\ud800"]
Exchange = Callable[[str], Awaitable[dict[str, Any]]]
"""Sends a text as it stands and returns the answer."""


def _call(number: str = "7", zone: str = "UTC", **more: str) -> str:
    extra = "".join(f', "{name}": {value}' for name, value in more.items())
    return (
        f'{{"jsonrpc": "2.0", "id": {number}, "method": "tools/call", '
        f'"params": {{"name": "get_time", "arguments": {{"zone": "{zone}"}}}}{extra}}}'
    )


def _refused(text: str | bytes) -> tuple[int, Any, str]:
    with pytest.raises(NotAMessage) as refusal:
        read_message(text)
    answer = json.loads(refusal.value.answer)
    assert answer.keys() == {"jsonrpc", "id", "error"}
    return answer["error"]["code"], answer["id"], answer["error"]["message"]


@pytest.fixture(scope="module")
async def gateway() -> AsyncGenerator[Served]:
    async with serve(create_app([ClockMCPServer()], Settings())) as served:
        yield served


@asynccontextmanager
async def connected(gateway: Served, transport: str, era: str) -> AsyncGenerator[Exchange]:
    """Speak JSON-RPC by hand over one of `TRANSPORTS`."""
    if transport == "http":
        fields = headers(era, request(era, "tools/call", {"name": "get_time"}))
        async with client_of(gateway) as http:

            async def post(text: str) -> dict[str, Any]:
                answer = await http.post("/mcp/clock", content=text, headers=fields)
                assert answer.status_code == 400
                result: dict[str, Any] = answer.json()
                return result

            yield post
    elif transport == "stdio":
        async with launched(era, [sys.executable, "-m", "tests.faces.stdio_clock"], cwd=ROOT) as pipe:

            async def write(text: str) -> dict[str, Any]:
                await pipe.send(text)
                return await pipe.receive()

            yield write
    else:
        async with websocket(gateway, era) as messages:

            async def send(text: str) -> dict[str, Any]:
                await messages.socket.send(text)
                return await messages.receive()

            yield send


REFUSED = [
    *[
        (_call(number), -32600, None)
        for number in ("null", "1.5", "1.0", "1e2", "true", "false", "[1]", "[]", "{}", '{"a": 1}')
    ],
    *[(_call(zone=half), -32600, 7) for half in HALF_PAIRS],
    (_call(r'"\ud800"'), -32600, None),
    (_call('"a-1"', zone=r"\ud83d"), -32600, "a-1"),
    (_call("null", zone=r"\ud83d"), -32600, None),
    (_call(more=r'"\ud800"'), -32600, 7),
    (_call(more="[" * 300 + "]" * 300), -32600, 7),
    (_call(more="9" * 5000), -32600, 7),
    (_call(params="[1]"), -32602, 7),
    (_call(params='"zone"'), -32602, 7),
    (f"[{_call()}]", -32600, None),
    (f"[{_call()}, {_call('8')}]", -32600, None),
    ("[]", -32600, None),
    ("{nope", -32700, None),
    (_call(zone=r"\u12"), -32700, None),
    (_call(more=r'"\ud800", "nan": NaN'), -32700, None),
    ('"hello"', -32600, None),
    ("{}", -32600, None),
    (_call(method="5"), -32600, None),
    (_call(jsonrpc='"1.0"'), -32600, None),
]


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("era", ERAS)
async def test_what_is_no_message_is_answered_the_same_on_every_transport(
    gateway: Served, transport: str, era: str
) -> None:
    async with connected(gateway, transport, era) as exchange:
        for text, code, number in REFUSED:
            answer = await exchange(text)
            assert (answer["error"]["code"], answer["id"]) == (code, number), text
            assert answer["error"]["message"] == _refused(text)[2]


@pytest.mark.parametrize(("text", "code", "number"), REFUSED)
def test_text_and_bytes_are_read_alike(text: str, code: int, number: Any) -> None:
    assert _refused(text) == _refused(text.encode())
    assert _refused(text)[:2] == (code, number)


def test_an_array_of_messages_is_told_where_many_calls_go() -> None:
    assert "/mcp/batch" in _refused(f"[{_call()}]")[2]


def test_half_a_pair_is_named_as_such() -> None:
    for half in HALF_PAIRS:
        assert "surrogate" in _refused(_call(zone=half))[2]


@pytest.mark.parametrize("raw", [b"\xff\xfe", b'{"id": "\xed\xa0\x80"}', b"", b"\x00", b"[" * 100_000, b'{"a":' * 5000])
def test_bytes_that_are_no_text_and_endless_nesting_are_not_json(raw: bytes) -> None:
    assert _refused(raw)[:2] == (-32700, None)


def test_a_refusal_repeats_nothing_of_what_was_sent() -> None:
    for text, _, _ in REFUSED:
        for word in re.findall(r"hello|nope|zone|get_time|arguments", _refused(text)[2]):
            pytest.fail(f"{word} of {text}")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (_call(), types.JSONRPCRequest),
        (_call('"a"'), types.JSONRPCRequest),
        (_call("-1"), types.JSONRPCRequest),
        (_call(zone=r"\ud83d\ude00"), types.JSONRPCRequest),
        (_call(zone=r"\\ud800"), types.JSONRPCRequest),
        ('{"jsonrpc":"2.0","id":1,"method":"tools/list","params":null}', types.JSONRPCRequest),
        ('{"jsonrpc":"2.0","method":"notifications/initialized"}', types.JSONRPCNotification),
        ('{"jsonrpc":"2.0","id":1,"result":{}}', types.JSONRPCResponse),
        ('{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"x"}}', types.JSONRPCError),
    ],
)
def test_messages_are_taken(text: str, kind: type) -> None:
    assert type(read_message(text)) is kind
    assert read_message(text) == read_message(text.encode()) == types.jsonrpc_message_adapter.validate_json(text)
