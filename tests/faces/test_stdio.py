"""MCP over standard input and output: the process that a desktop client launches."""

import asyncio
import sys
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from app.servers.calls import JsonObject
from tests.faces.raw import ERAS, STARTS_WITHIN, launched, request

ROOT = Path(__file__).parents[2]
COMMAND = ["-m", "tests.faces.stdio_clock"]


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_the_official_client_lists_calls_and_reads(mode: str) -> None:
    progress: list[float] = []

    async def note(done: float, total: float | None, message: str | None) -> None:
        progress.append(done)

    parameters = StdioServerParameters(command=sys.executable, args=COMMAND, cwd=ROOT)
    with open("/dev/null", "w") as nowhere:  # noqa: ASYNC230, PTH123 - the log of a process that is not looked at
        async with Client(stdio_client(parameters, errlog=nowhere), mode=mode) as client:
            assert "get_time" in [tool.name for tool in (await client.list_tools()).tools]
            called = await client.call_tool("get_time", {"zone": "CET"})
            assert called.structured_content == {"success": True, "zone": "CET", "ticks": 0}
            assert (await client.call_tool("get_time", {"zone": "Atlantis"})).is_error
            await client.call_tool("tick", {"ticks": 2}, progress_callback=note)
            assert progress == [1, 2]
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
        assert (await pipe.call(era, "change_zones", 7))["ticks"] == 0

        pipe.stdin.close()
        async with asyncio.timeout(STARTS_WITHIN):
            _, log = await pipe.process.communicate()
        assert pipe.process.returncode == 0
    [cancelled] = [line for line in log.decode().splitlines() if "operation=wait_for_cancellation" in line]
    assert "face=stdio" in cancelled
    assert "outcome=cancelled" in cancelled
    assert "caller=raw/1" in cancelled
