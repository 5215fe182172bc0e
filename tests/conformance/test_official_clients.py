"""Clients that people have: the TypeScript SDK of both generations and the Inspector's command line."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.catalogue import load_servers
from app.main import create_app
from app.settings import Settings
from tests.clock import ClockMCPServer
from tests.conformance.conftest import RunNode
from tests.fixtures.gateway import Served, serve

_INSPECTOR = Path("node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js")


@pytest.mark.parametrize(
    ("client", "where"),
    [
        ("sdk-http", "{http}/mcp/clock"),
        ("sdk-websocket", "{ws}/mcp/clock/ws"),
        ("client-2025", "{http}/mcp/clock"),
        ("client-2026", "{http}/mcp/clock"),
    ],
)
async def test_a_typescript_client_lists_calls_and_reads(
    gateway: Served, node: RunNode, client: str, where: str
) -> None:
    url = where.format(http=gateway.url, ws=gateway.websocket_url)
    code, output = await node("list_and_call.mjs", client, url)
    assert code == 0, output
    report: dict[str, Any] = json.loads(output.splitlines()[-1])
    assert report["tools"] == list(ClockMCPServer.tools)
    assert report["result"]["structuredContent"] == {"success": True, "zone": "CET", "ticks": 0}
    assert report["failure"]["isError"] is True
    assert json.loads(report["failure"]["content"][0]["text"])["code"] == "not_found"
    assert report["resources"] == ["clock://zones"]
    assert report["templates"] == ["clock://zones{?limit}", "clock://zones/{zone}"]
    assert json.loads(report["read"]["contents"][0]["text"])["zone"] == "UTC"
    assert report["progress"] == [1, 2, 3]


async def test_the_inspectors_command_line_lists_calls_and_reads(gateway: Served, node: RunNode) -> None:
    async def inspect(*options: str) -> dict[str, Any]:
        code, output = await node(_INSPECTOR, "--cli", f"{gateway.url}/mcp/clock", "--transport", "http", *options)
        assert code == 0, output
        return json.loads(output[output.index("{") : output.rindex("}") + 1])

    listed = await inspect("--method", "tools/list")
    assert [tool["name"] for tool in listed["tools"]] == list(ClockMCPServer.tools)
    called = await inspect("--method", "tools/call", "--tool-name", "get_time", "--tool-arg", "zone=CET")
    assert called["structuredContent"] == {"success": True, "zone": "CET", "ticks": 0}
    assert (await inspect("--method", "resources/list"))["resources"][0]["uri"] == "clock://zones"
    read = await inspect("--method", "resources/read", "--uri", "clock://zones/CET")
    assert json.loads(read["contents"][0]["text"])["zone"] == "CET"


@pytest.mark.parametrize("client", ["sdk-http", "client-2025", "client-2026"])
async def test_the_typescript_clients_take_every_schema_of_ours(node: RunNode, client: str) -> None:
    servers = load_servers()
    async with serve(create_app(servers, Settings(hide_unconfigured=False))) as served:
        code, output = await node("take_schemas.mjs", client, f"{served.url}/mcp")
    assert code == 0, output
    assert json.loads(output.splitlines()[-1]) == [name for server in servers for name in server.tools]
