"""The trace and the conversation that a call is a part of: as its caller says, in each line of the log."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import httpx
import pytest

from app.faces.plain_calls import PlainCalls
from app.faces.protocol import ProtocolServer
from app.gateway import Gateway
from app.guard.principal import ANONYMOUS
from app.main import create_app
from app.servers.origins import NOWHERE, Origin, origin_of_headers, origin_of_meta
from app.settings import Settings
from tests.clock import ClockMCPServer
from tests.faces.raw import ERAS, client_of, headers, request, websocket
from tests.fixtures.gateway import Served, serve

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-00"
SAID = {"traceparent": TRACE, "x-conversation-id": "c 7"}
TOLD = f"conversation=c_7 traceparent={TRACE} "


@pytest.fixture
async def gateway(caplog: pytest.LogCaptureFixture) -> AsyncGenerator[Served]:
    caplog.set_level(logging.INFO)
    async with serve(create_app([ClockMCPServer()], Settings())) as served:
        yield served


@pytest.fixture
async def http(gateway: Served) -> AsyncGenerator[httpx.AsyncClient]:
    async with client_of(gateway) as client:
        yield client


async def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines that were written, of calls and of refusals."""
    await asyncio.sleep(0)  # a line is written after the turn of its call
    return [each.getMessage() for each in caplog.records if "request_id=" in each.getMessage()]


async def test_rest_says_it_in_headers(http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    await http.post("/mcp/clock/tools/get_time", headers=SAID)
    await http.get("/mcp/clock/resources/read", params={"uri": "clock://zones/UTC"}, headers=SAID)
    await http.post("/mcp/clock/tools/nope", headers=SAID)
    batch = {"calls": [{"server": "clock", "tool": "get_time"}, {"server": "clock", "tool": "oversleep"}]}
    await http.post("/mcp/batch", json=batch, headers=SAID)
    await http.get("/mcp/clock/chimes/3", headers=SAID)
    await http.delete("/mcp/clock/tools/get_time", headers=SAID)
    told = await lines(caplog)
    assert len(told) == 7
    assert all(TOLD in line for line in told), told


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("tool", ["get_time", "tick"])
async def test_mcp_says_it_in_meta_or_in_headers(
    gateway: Served, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, era: str, tool: str
) -> None:
    called = {"name": tool, "arguments": {} if tool == "get_time" else {"ticks": 2}}
    for meta, more, told in (
        ({"traceparent": TRACE, "conversation_id": "c 7"}, {}, TOLD),
        ({}, SAID, TOLD),
        ({"traceparent": OTHER}, SAID, f"conversation=c_7 traceparent={OTHER} "),
        ({"conversationId": "c-8"}, SAID, f"conversation=c-8 traceparent={TRACE} "),
        ({"traceparent": "made up"}, {}, "conversation=- traceparent=- "),
    ):
        caplog.clear()
        message = request(era, "tools/call", called, **meta)  # type: ignore[arg-type]
        answer = await http.post("/mcp/clock", json=message, headers=headers(era, message) | more)
        assert answer.status_code == 200, answer.text
        [line] = await lines(caplog)
        assert told in line


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("said", ["my number is 555 0199", "a=b," * 500 + "c=555 0199", "=555 0199"])
async def test_what_else_is_said_of_a_trace_is_in_no_log(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, era: str, said: str
) -> None:
    message = request(era, "tools/call", {"name": "tick", "arguments": {"ticks": 1}}, baggage=said, tracestate=said)
    answer = await http.post("/mcp/clock", json=message, headers=headers(era, message))
    assert answer.status_code == 200, answer.text
    assert len(await lines(caplog)) == 1
    assert "555" not in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("era", ERAS)
async def test_messages_of_a_websocket_say_it_themselves(
    gateway: Served, caplog: pytest.LogCaptureFixture, era: str
) -> None:
    called = {"name": "get_time", "arguments": {}}
    async with websocket(gateway, era, additional_headers=SAID) as messages:
        for number, meta in enumerate(({}, {"traceparent": OTHER}, {"traceparent": TRACE, "conversation_id": "c-9"})):
            await messages.ask(request(era, "tools/call", called, number=number + 10, **meta))
    told = [line for line in await lines(caplog) if "operation=get_time" in line]
    assert [" ".join(line.split()[-3:-1]) for line in told] == [
        "conversation=c_7 traceparent=-",
        f"conversation=c_7 traceparent={OTHER}",
        f"conversation=c-9 traceparent={TRACE}",
    ]


async def test_a_call_with_a_trace_stays_in_the_fast_lane(gateway: Served) -> None:
    meta = {"traceparent": TRACE, "tracestate": "a=b", "baggage": "c=d", "conversation_id": "c-7"}
    message = request("2026-07-28", "tools/call", {"name": "get_time"}, **meta)  # type: ignore[arg-type]
    held: Gateway = gateway.app.state.gateway
    calls = PlainCalls(held, "clock", ProtocolServer(held, "clock", "mcp"))
    plain = calls.read(json.dumps(message).encode(), ANONYMOUS, modern=True)
    assert plain is not None
    assert plain.origin == Origin(TRACE, "c-7")


@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"-",
        b"00-00000000000000000000000000000000-b7ad6b7169203331-01",
        b"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        b"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        b"00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        TRACE.encode() + b"-more",
        TRACE.encode() + b"\noutcome=ok",
        TRACE.encode() * 1000,
        b"\xff\xfe",
    ],
)
def test_what_is_no_traceparent_is_none(given: bytes) -> None:
    assert origin_of_headers({b"traceparent": given}).traceparent == "-"
    assert origin_of_meta({"traceparent": given.decode("latin-1")}) is NOWHERE


def test_later_versions_may_say_more() -> None:
    later = "cc" + TRACE[2:]
    assert origin_of_headers({b"traceparent": later.encode() + b"-what-comes"}).traceparent == later


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (b"c-1", "c-1"),
        (" größe ".encode(), "größe"),
        (b"a b\tc\r\nINFO outcome=ok", "a_b_c__INFO_outcome=ok"),
        ("\x1b[31mred\x85\u2028\u202e".encode(), "_[31mred___"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"x" * 100_000, "x" * 128),
        (b"   ", "-"),
    ],
)
def test_a_conversation_is_one_word_of_the_line(given: bytes, told: str) -> None:
    assert origin_of_headers({b"x-conversation-id": given}).conversation == told


@pytest.mark.parametrize("meta", [{"traceparent": 7}, {"conversation_id": {"a": 1}}, {"conversation": None}, {}])
def test_meta_of_other_kinds_says_nothing(meta: Mapping[str, Any]) -> None:
    assert origin_of_meta(meta) is NOWHERE
    assert origin_of_meta({**meta, "conversationId": "c"}) == Origin(conversation="c")
