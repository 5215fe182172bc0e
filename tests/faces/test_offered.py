"""What a principal may not see is not there: on no face, in no listing, under no name."""

import json
import logging
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from app.catalogue import Catalogue
from app.gateway import Gateway
from app.main import create_app
from app.servers.base import ServerKind
from app.servers.calls import JsonObject
from app.settings import Settings
from tests.clock import ClockMCPServer
from tests.conformance.server import ConformanceMCPServer
from tests.faces.echo import EchoMCPServer
from tests.faces.raw import ERAS, client_of, handshake, headers, request, websocket
from tests.fixtures.gateway import FACES, Served, caller, serve

# The conformance server answers `logging/setLevel`, for clients of 2025.
pytestmark = pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")

SEEN: list[ServerKind] = [EchoMCPServer()]
HIDDEN: list[ServerKind] = [ClockMCPServer(), ConformanceMCPServer()]


@pytest.fixture
async def gateway(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Served]:
    app = create_app([*SEEN, *HIDDEN], Settings())
    seen = Catalogue(SEEN)
    monkeypatch.setattr(Gateway, "offered_to", lambda self, principal: seen)
    async with serve(app) as served:
        yield served


@pytest.fixture
async def http(gateway: Served) -> AsyncGenerator[httpx.AsyncClient]:
    async with client_of(gateway) as client:
        yield client


def names_of_what_is_hidden(text: str) -> list[str]:
    hidden = [name for kind in HIDDEN for name in (*kind.tools, *kind.resources, kind.name)]
    ordinary_words = ("fail", "tick")
    return [name for name in hidden if name in text and name not in ordinary_words]


@pytest.mark.parametrize("face", FACES)
async def test_a_hidden_tool_is_as_unknown_as_one_that_does_not_exist(gateway: Served, face: str) -> None:
    async with caller(gateway, face) as call:
        if face == "rest":
            problem = await call("clock", "get_time")
            assert (problem["code"], problem["detail"]) == (
                "unknown_server",
                "There is no server 'clock'. Servers: echo.",
            )
        hidden, unknown = await call("echo", "get_time"), await call("echo", "no_time")
    assert hidden["detail"].replace("get_time", "no_time") == unknown["detail"]
    assert names_of_what_is_hidden(json.dumps(unknown)) == []


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tools/list", {}),
        ("resources/list", {}),
        ("resources/templates/list", {}),
        ("tools/call", {"name": "get_time", "arguments": {"time_zone": 1}}),
        ("resources/read", {"uri": "clock://zones?limit=many"}),
        ("prompts/get", {"name": "test_simple_prompt"}),
    ],
)
async def test_mcp_shows_nothing_of_what_is_hidden(
    gateway: Served, http: httpx.AsyncClient, era: str, method: str, params: JsonObject
) -> None:
    message = request(era, method, params)
    over_http = (
        await http.post("/mcp", json=message, headers={**headers(era, message), "accept": "application/json"})
    ).json()
    async with websocket(gateway, era, "/mcp/ws") as messages:
        over_websocket = await messages.ask(message)
    for answer in (over_http, over_websocket):
        if not method.endswith("/list"):
            assert answer["error"]["data"]["code"].startswith("unknown_")
        text = json.dumps(answer).replace(json.dumps(params.get("uri")), "").replace("'get_time'", "")
        assert names_of_what_is_hidden(text) == []
    if method == "tools/list":
        assert [tool["name"] for tool in over_http["result"]["tools"]] == [*EchoMCPServer().tools]


async def test_instructions_tell_of_what_is_seen(http: httpx.AsyncClient) -> None:
    for era, method, params in (
        ("2025-11-25", "initialize", handshake("2025-11-25")),
        ("2026-07-28", "server/discover", {}),
    ):
        message = request(era, method, params)
        answer = await http.post("/mcp", json=message, headers={**headers(era, message), "accept": "application/json"})
        assert answer.json()["result"]["instructions"] == "Echo MCP Server: Says what is said to it."


@pytest.mark.parametrize("path", ["/mcp", "/", "/openapi.json", "/console/tools"])
async def test_pages_and_documents_show_nothing_of_what_is_hidden(http: httpx.AsyncClient, path: str) -> None:
    for accept in ("application/json", "text/html"):
        page = await http.get(path, headers={"accept": accept})
        assert page.status_code == 200
        is_shell = page.headers["content-type"].startswith("text/html")  # which is the same for everybody
        assert ("echo" in page.text) != is_shell
        assert names_of_what_is_hidden(page.text) == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/mcp/clock"),
        ("GET", "/mcp/clock/tools"),
        ("GET", "/mcp/clock/resources"),
        ("GET", "/mcp/clock/resources/read?uri=clock://zones"),
        ("GET", "/mcp/clock/chimes/3"),
        ("POST", "/mcp/clock/chimes/many-more"),
        ("POST", "/mcp/clock/tools/get_time"),
        ("POST", "/mcp/mcp_clock/tools/get_time"),
    ],
)
async def test_addresses_of_what_is_hidden_answer_404(http: httpx.AsyncClient, method: str, path: str) -> None:
    answer = await http.request(method, path)
    assert answer.status_code == 404
    assert names_of_what_is_hidden(answer.text) == []


async def test_a_batch_finds_nothing_of_what_is_hidden(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    calls: list[Any] = [
        {"server": "clock", "tool": "get_time"},
        {"server": "echo", "tool": "echo", "arguments": {"value": 1}},
    ]
    hidden, seen = (await http.post("/mcp/batch", json={"calls": calls})).json()["results"]
    assert hidden["error"]["code"] == "unknown_server"
    assert seen["result"]["value"] == 1
    assert "server='clock' operation='get_time'" in caplog.text
