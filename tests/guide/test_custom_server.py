"""A server of one's own as the guide writes it: tools and resources as plain names, methods without a context."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest

from app.errors import NotFound, UnknownResource, UnknownTool
from app.main import create_app
from app.servers.base import BaseMCPServer
from app.servers.calls import JsonObject
from tests.clock import ClockMCPServer
from tests.fixtures.gateway import Call, Served, mcp_client, serve


class CustomMCPServer(BaseMCPServer):
    """Something of one's own."""

    def __init__(self) -> None:
        super().__init__(
            server_id="mcp_custom",
            name="Custom MCP Server",
            capabilities=["tools", "resources"],
            tools=["custom_tool"],
            resources=["custom://resource"],
        )

    async def call_tool(self, tool_name: str, arguments: JsonObject) -> Any:
        if tool_name != "custom_tool":
            raise NotFound("Only custom_tool is here.")
        return {"success": True, "result": "Custom tool executed", "arguments": arguments}

    async def get_resource(self, resource_uri: str) -> Any:
        return {"uri": resource_uri, "content": "a custom resource"}


@pytest.fixture(scope="module")
async def gateway() -> AsyncGenerator[Served]:
    async with serve(create_app([CustomMCPServer(), ClockMCPServer])) as served:
        yield served


@pytest.mark.asyncio
async def test_custom_server_tool() -> None:
    custom_server = CustomMCPServer()
    result = await custom_server.call_tool("custom_tool", {})
    assert result["success"] is True


@pytest.mark.parametrize("server", ["custom", "mcp_custom"])
async def test_its_tool_is_reachable_by_both_of_its_names(call: Call, server: str) -> None:
    answer = await call(server, "custom_tool", {"a": 1})
    assert answer == {"success": True, "result": "Custom tool executed", "arguments": {"a": 1}}


async def test_its_resource_is_listed_and_read(gateway: Served) -> None:
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        [server] = [s for s in (await http.get("/mcp")).json()["servers"] if s["id"] == "custom"]
        assert (server["tools"], server["resources"]) == (["custom_tool"], ["custom://resource"])
        read = await http.get("/mcp/mcp_custom/resources/read", params={"uri": "custom://resource"})
        assert read.json()["content"] == "a custom resource"
    async with mcp_client(gateway, "mcp-2025-11-25", "custom") as client:
        [content] = (await client.read_resource("custom://resource")).contents
        assert "a custom resource" in content.text  # type: ignore[union-attr]


async def test_declared_tools_and_resources_are_called_without_a_gateway() -> None:
    clock = ClockMCPServer()
    result = await clock.call_tool("get_time", {"zone": "UTC"})
    assert result["success"] is True
    with pytest.raises(UnknownTool):
        await clock.call_tool("get_tme", {})
    with pytest.raises(UnknownResource):
        await clock.get_resource("clock://nowhere/at/all")


async def test_a_server_that_fails_to_open_says_so_at_its_start() -> None:
    class FailingMCPServer(BaseMCPServer):
        """Never opens."""

        @asynccontextmanager
        async def opened(self) -> AsyncGenerator[None]:
            raise OSError("no such device")
            yield

    server = FailingMCPServer()
    with pytest.raises(OSError, match="no such device"):
        await server.start()
    assert not server.is_started


async def test_a_start_that_is_given_up_leaves_nothing_behind() -> None:
    events: list[str] = []
    waiting = asyncio.Event()

    class HangingMCPServer(BaseMCPServer):
        """Waits for a backend that never answers."""

        @asynccontextmanager
        async def opened(self) -> AsyncGenerator[None]:
            waiting.set()
            try:
                await asyncio.Event().wait()
                yield
            finally:
                events.append("released")

    server = HangingMCPServer()
    starting = asyncio.create_task(server.start())
    await waiting.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError), anyio.fail_after(30):
        await starting
    assert events == ["released"]
    assert not server.is_started


async def test_a_server_is_started_once_and_stopped_by_whoever_comes() -> None:
    events: list[str] = []

    class RecordingMCPServer(BaseMCPServer):
        """Keeps a record."""

        @asynccontextmanager
        async def opened(self) -> AsyncGenerator[None]:
            events.append("opened")
            yield
            events.append("closed")

    server = RecordingMCPServer()
    await server.start()
    await server.start()
    # A gateway takes it as it is, and leaves it as it was.
    async with serve(create_app([server])):
        assert server.is_started
    assert events == ["opened"]
    await server.stop()
    await server.stop()
    assert events == ["opened", "closed"]
