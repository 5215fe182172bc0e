"""MCP over standard input and output: the process that a desktop client launches."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from app.budget import LARGE
from app.servers.calls import JsonObject
from app.settings import Settings
from tests.faces.raw import ERAS, STARTS_WITHIN, handshake, launched, request
from tests.fixtures.postgres import TestDatabase
from tests.mcp_servers.statements import SLOW, until_running

ROOT = Path(__file__).parents[2]
COMMAND = ["-m", "tests.faces.stdio_clock"]
HUGE = b'{"jsonrpc":"2.0","id":8,"method":"' + b"x" * Settings().max_request_bytes + b'"}'
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
HANDSHAKE = request("2025-11-25", "initialize", handshake("2025-11-25"), number=1000)


async def piped(given: bytes, into: Any = PIPE) -> tuple[list[dict[str, Any]], str]:
    """Give a process all its input and its end at once; return what it answered and its log."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *COMMAND, stdin=into, stdout=PIPE, stderr=PIPE, cwd=ROOT
    )
    async with asyncio.timeout(STARTS_WITHIN):
        answers, log = await process.communicate(given if into is PIPE else None)
    assert process.returncode == 0, log.decode()
    assert "Traceback" not in log.decode()
    return [json.loads(line) for line in answers.splitlines()], log.decode()


def lines(*messages: JsonObject, end: bytes = b"\n") -> bytes:
    return b"".join(json.dumps(message).encode() + end for message in messages)


def call(era: str, name: str, number: int) -> JsonObject:
    return request(era, "tools/call", {"name": name, "arguments": {}}, number=number)


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_the_official_client_lists_calls_and_reads(mode: str) -> None:
    told: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        told.append(progress)

    parameters = StdioServerParameters(command=sys.executable, args=COMMAND, cwd=ROOT)
    with open("/dev/null", "w") as nowhere:  # noqa: ASYNC230, PTH123 - the log of a process that is not looked at
        async with Client(stdio_client(parameters, errlog=nowhere), mode=mode) as client:
            assert "get_time" in [tool.name for tool in (await client.list_tools()).tools]
            called = await client.call_tool("get_time", {"zone": "CET"})
            assert called.structured_content == {"success": True, "zone": "CET", "ticks": 0}
            assert (await client.call_tool("get_time", {"zone": "Atlantis"})).is_error
            await client.call_tool("tick", {"ticks": 2}, progress_callback=note)
            assert told == [1, 2]
            [content] = (await client.read_resource("clock://zones/CET")).contents
            assert '"zone":"CET"' in content.text  # type: ignore[union-attr]


@pytest.mark.parametrize("era", ERAS)
async def test_calls_are_cancelled_changes_arrive_and_the_process_ends_with_its_input(era: str) -> None:
    wait: JsonObject = {"name": "wait_for_cancellation", "arguments": {}}
    async with launched(era, [sys.executable, *COMMAND], cwd=ROOT) as pipe:
        await pipe.send(request(era, "tools/call", wait, number=1))
        assert (await pipe.call(era, "await_start_of_another_call", 2))["zone"] == "started"
        await pipe.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
        assert (await pipe.call(era, "await_cancellation_of_another_call", 3))["zone"] == "cancelled"

        if era == "2026-07-28":
            uris: JsonObject = {"notifications": {"resourceSubscriptions": ["clock://zones/UTC"]}}
            await pipe.send(request(era, "subscriptions/listen", uris, number=4))
            assert (await pipe.receive())["method"] == "notifications/subscriptions/acknowledged"
        else:
            await pipe.ask(request(era, "resources/subscribe", {"uri": "clock://zones/UTC"}, number=4))
        await pipe.send(request(era, "tools/call", {"name": "change_zones", "arguments": {}}, number=5))
        messages = [await pipe.receive(), await pipe.receive()]
        [update] = [message for message in messages if message.get("method") == "notifications/resources/updated"]
        assert update["params"]["uri"] == "clock://zones/UTC"
        assert update["params"]["_meta"]["cursor"] == "9"
        if era == "2026-07-28":
            await pipe.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 4}})
        else:
            await pipe.ask(request(era, "resources/unsubscribe", {"uri": "clock://zones/UTC"}, number=6))
        async with asyncio.timeout(STARTS_WITHIN):
            while (await pipe.call(era, "change_zones", 7))["ticks"]:
                pass  # a call may be quicker than the notice before it

        pipe.stdin.close()
        async with asyncio.timeout(STARTS_WITHIN):
            _, log = await pipe.process.communicate()
        assert pipe.process.returncode == 0
    [cancelled] = [line for line in log.decode().splitlines() if "operation=wait_for_cancellation" in line]
    assert "face=stdio" in cancelled
    assert "outcome=cancelled" in cancelled
    assert "client=raw/1" in cancelled


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("source", ["pipe", "file"])
async def test_what_was_asked_before_the_input_ended_is_answered(era: str, source: str, tmp_path: Path) -> None:
    opening = [HANDSHAKE] if era != "2026-07-28" else []
    slow = [call(era, "take_a_while", number) for number in range(3)]
    quick = [request(era, "tools/list", number=number) for number in range(3, 200)]
    given = lines(*opening, *slow, *quick)
    if source == "file":
        path = tmp_path / "input"
        path.write_bytes(given)
        with path.open("rb") as file:
            answers, _ = await piped(given, file)
    else:
        answers, _ = await piped(given)
    answered = {answer["id"]: answer for answer in answers}
    assert set(answered) - {1000} == set(range(200))
    assert all("result" in answer for answer in answers)
    assert answered[2]["result"]["structuredContent"]["zone"] == "late"


async def test_a_stream_of_changes_ends_with_the_input() -> None:
    uris: JsonObject = {"notifications": {"resourceSubscriptions": ["clock://zones/UTC"]}}
    listen = request("2026-07-28", "subscriptions/listen", uris, number=1)
    answers, _ = await piped(lines(listen, call("2026-07-28", "take_a_while", 2)))
    assert answers[0]["method"] == "notifications/subscriptions/acknowledged"
    assert {answer["id"]: answer["result"]["resultType"] for answer in answers[1:]} == {1: "complete", 2: "complete"}


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r\n\r\n"])
@pytest.mark.parametrize("start", [b"", BYTE_ORDER_MARK])
async def test_a_byte_order_mark_and_other_ends_of_lines_are_taken(start: bytes, end: bytes) -> None:
    asked = [call("2026-07-28", "get_time", number) for number in range(2)]
    answers, _ = await piped(start + lines(*asked, end=end))
    assert sorted(answer["id"] for answer in answers) == [0, 1]
    last_line_without_end, _ = await piped(start + json.dumps(asked[0]).encode())
    assert [answer["id"] for answer in last_line_without_end] == [0]


async def test_lines_that_are_no_messages_are_answered_and_the_next_ones_too() -> None:
    malformed = {
        b"{nope": (None, -32700),
        b"\xff\xfe": (None, -32700),
        b"[]": (None, -32600),
        b'{"jsonrpc":"1.0","id":1,"method":"tools/list"}': (None, -32600),
        b'{"jsonrpc":"2.0","id":null,"method":"tools/list"}': (None, -32600),
        b'{"jsonrpc":"2.0","id":[1],"method":"tools/list"}': (None, -32600),
        b'{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"x":"\\ud800"}}': (7, -32600),
        HUGE: (None, -32600),
    }
    good = lines(call("2026-07-28", "get_time", 9))
    answers, _ = await piped(b"\n".join(malformed) + b"\n \n" + good)
    refused = [(answer["id"], answer["error"]["code"]) for answer in answers if "error" in answer]
    assert refused == list(malformed.values())
    assert [answer["id"] for answer in answers if "result" in answer] == [9]


async def test_no_text_ends_the_process_where_calls_are_plain_already() -> None:
    async with launched("2026-07-28", [sys.executable, *COMMAND], cwd=ROOT) as pipe:
        await pipe.call("2026-07-28", "get_time", 1)
        pipe.stdin.write(b'{"jsonrpc":"2.0","id":2,"meth\xffd":"tools/call"}\n')
        assert (await pipe.receive())["error"]["code"] == -32700
        assert (await pipe.call("2026-07-28", "get_time", 3))["success"]


async def test_notices_that_are_not_in_their_form_are_in_no_log() -> None:
    notice: JsonObject = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": [1]}}
    answers, log = await piped(lines(call("2026-07-28", "get_time", 1), *[notice] * 100))
    assert [answer["id"] for answer in answers] == [1]
    assert "operation=get_time" in log
    assert "notifications/cancelled" not in log


async def test_what_is_printed_stays_off_the_wire() -> None:
    answers, log = await piped(lines(call("2026-07-28", "print_something", 1)))
    assert [answer["id"] for answer in answers] == [1]
    assert "from the process" in log
    assert "from a child" in log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("busy", [False, True])
async def test_one_signal_ends_it_whatever_it_does(
    demo_database: TestDatabase, number: signal.Signals, busy: bool
) -> None:
    environment = {**os.environ, "DATABASE_URL": demo_database.url, "DATABASE_READER_URL": demo_database.reader_url}
    command = [sys.executable, "-m", "app.cli", "stdio", "database"]
    era = "2026-07-28"
    async with launched(era, command, cwd=ROOT, env=environment) as pipe:
        await pipe.ask(request(era, "tools/list", number=1))
        if busy:
            slow: JsonObject = {"name": "query_database", "arguments": {"query": SLOW}}
            await pipe.send(request(era, "tools/call", slow, number=2))
            await until_running(demo_database, 1, within=STARTS_WITHIN)
        pipe.process.send_signal(number)
        async with asyncio.timeout(STARTS_WITHIN):
            _, log = await pipe.process.communicate()
    assert pipe.process.returncode == 0, log.decode()
    assert "Traceback" not in log.decode()
    assert " ERROR " not in log.decode()
    assert ("outcome=cancelled" in log.decode()) is busy


async def test_a_client_that_closes_our_output_ends_it() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, *COMMAND, stdin=PIPE, stdout=PIPE, stderr=PIPE, cwd=ROOT
    )
    pipe_out: Any = process.stdout
    pipe_in: Any = process.stdin
    pipe_in.write(lines(call("2026-07-28", "wait_for_cancellation", 1), call("2026-07-28", "get_time", 2)))
    async with asyncio.timeout(STARTS_WITHIN):
        await pipe_out.readline()
        pipe_out._transport.close()
        await pipe_out.read()  # which ends once it is closed: an answer that was written before would be no failure
        pipe_in.write(lines(call("2026-07-28", "get_time", 3)))
        assert process.stderr is not None
        log = await process.stderr.read()
        assert await process.wait() == 0
    assert "Traceback" not in log.decode()
    assert "outcome=cancelled" in log.decode()


@pytest.mark.parametrize("era", ERAS)
async def test_lines_of_a_backends_json_are_no_messages(era: str) -> None:
    small, large = 10, 2 * LARGE  # the SDK writes the first answer, plain calls go past it, large results, too
    calls = [
        request(era, "tools/call", {"name": "get_lines", "arguments": {"size": size}}, number=number)
        for number, size in enumerate((small, small, large, large))
    ]
    opening = [HANDSHAKE] if era == "2025-11-25" else []
    answers, _ = await piped(lines(*opening, *calls))
    found = {answer["id"]: answer["result"]["structuredContent"] for answer in answers if answer["id"] != 1000}
    assert {number: len(result["zone"]) for number, result in found.items()} == {0: small, 1: small, 2: large, 3: large}
    assert len(answers) == len(opening) + len(calls)
