"""Clients that ask for what is not announced get an empty list, for some drop a server that answers with an error."""

import json
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPDeprecationWarning

from app.main import create_app
from app.servers.calls import JsonObject
from app.settings import Settings
from tests.clock import ClockMCPServer
from tests.conformance.server import ConformanceMCPServer
from tests.faces.echo import EchoMCPServer
from tests.faces.raw import ERAS, client_of, handshake, headers, launched, request, websocket
from tests.fixtures.gateway import Served, serve

LISTINGS = [
    ("prompts/list", "prompts"),
    ("resources/list", "resources"),
    ("resources/templates/list", "resourceTemplates"),
]


@pytest.fixture(scope="module")
async def gateway() -> AsyncGenerator[Served]:
    with pytest.warns(MCPDeprecationWarning):
        app = create_app([EchoMCPServer(), ClockMCPServer(), ConformanceMCPServer()], Settings())
    async with serve(app) as served:
        yield served


async def _ask(served: Served, path: str, era: str, method: str, params: JsonObject | None = None) -> dict[str, Any]:
    message = request(era, method, params)
    async with client_of(served) as http:
        text = (await http.post(path, json=message, headers=headers(era, message))).text
    # A server that may log answers clients of 2025 by an event stream.
    *_, last = (line.removeprefix("data: ") for line in text.splitlines() if "{" in line)
    answer: dict[str, Any] = json.loads(last)
    return answer


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(("method", "listed"), LISTINGS)
async def test_a_server_that_has_none_answers_an_empty_list(
    gateway: Served, era: str, method: str, listed: str
) -> None:
    assert (await _ask(gateway, "/mcp/echo", era, method))["result"][listed] == []
    async with websocket(gateway, era, "/mcp/echo/ws") as messages:
        assert (await messages.ask(request(era, method)))["result"][listed] == []


@pytest.mark.parametrize("era", ERAS)
async def test_so_it_is_over_standard_input_and_output(era: str) -> None:
    root = Path(__file__).parents[2]
    async with launched(era, [sys.executable, "-m", "tests.faces.echo"], cwd=root) as pipe:
        for number, (method, listed) in enumerate(LISTINGS):
            assert (await pipe.ask(request(era, method, number=number)))["result"][listed] == []


async def test_what_is_not_there_is_not_announced(gateway: Served) -> None:
    async def announced(path: str) -> set[str]:
        legacy = await _ask(gateway, path, "2025-11-25", "initialize", handshake("2025-11-25"))
        modern = await _ask(gateway, path, "2026-07-28", "server/discover")
        kinds = {"tools", "resources", "prompts"}
        assert legacy["result"]["capabilities"].keys() & kinds == modern["result"]["capabilities"].keys() & kinds
        found: set[str] = modern["result"]["capabilities"].keys() & kinds
        return found

    assert await announced("/mcp/echo") == {"tools"}
    assert await announced("/mcp/clock") == {"tools", "resources"}
    assert await announced("/mcp") == {"tools", "resources", "prompts"}


async def test_prompts_that_are_there_are_listed(gateway: Served) -> None:
    assert (await _ask(gateway, "/mcp", "2026-07-28", "prompts/list"))["result"]["prompts"]
