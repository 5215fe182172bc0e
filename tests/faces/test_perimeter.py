"""Who may call at all, and how every request is named."""

import asyncio
import json
from collections.abc import AsyncGenerator

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin, Subprotocol

from app.main import create_app
from app.settings import Settings
from tests.clock import ClockMCPServer
from tests.faces.raw import WITHIN, client_of
from tests.fixtures.gateway import Served, serve

TIME = "/mcp/clock/tools/get_time"
EVERY_FACE = [
    ("POST", TIME),
    ("POST", "/mcp/clock"),
    ("POST", "/mcp"),
    ("GET", "/mcp"),
    ("GET", "/openapi.json"),
    ("POST", "/nowhere"),
]


@pytest.fixture(scope="module")
async def gateway() -> AsyncGenerator[Served]:
    settings = Settings(
        allowed_hosts=["127.0.0.1:*", "support.example", "only.example:8080", "[::1]"],
        allowed_origins=["https://desk.example", "http://localhost:*"],
    )
    async with serve(create_app([ClockMCPServer()], settings)) as served:
        yield served


@pytest.fixture
async def http(gateway: Served) -> AsyncGenerator[httpx.AsyncClient]:
    async with client_of(gateway) as client:
        yield client


@pytest.mark.parametrize(("method", "path"), EVERY_FACE)
@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "only.example:80", "only.example", "support.example:x", ""]
)
async def test_a_host_that_is_not_ours_is_misdirected(
    http: httpx.AsyncClient, method: str, path: str, host: str
) -> None:
    answer = await http.request(method, path, headers={"host": host})
    assert (answer.status_code, answer.json()["code"]) == (421, "misdirected_request")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:9999",
        "support.example",
        "SUPPORT.example",
        "support.example:8443",
        "only.example:8080",
        "[::1]:8000",
    ],
)
async def test_a_host_of_ours_is_answered(http: httpx.AsyncClient, host: str) -> None:
    assert (await http.post(TIME, headers={"host": host})).status_code == 200


async def test_probes_may_use_any_address(http: httpx.AsyncClient) -> None:
    for path in ("/health", "/ready"):
        assert (await http.get(path, headers={"host": "10.0.0.7:8000"})).status_code == 200


@pytest.mark.parametrize(("method", "path"), EVERY_FACE)
@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "https://desk.example.evil.example", "http://127.0.0.1:1"]
)
async def test_a_page_of_another_origin_may_not_call(
    http: httpx.AsyncClient, method: str, path: str, origin: str
) -> None:
    answer = await http.request(method, path, headers={"origin": origin})
    assert (answer.status_code, answer.json()["code"]) == (403, "origin_refused")
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origin", ["https://desk.example", "http://localhost:5173", "http://localhost"])
async def test_a_page_of_an_allowed_origin_may_call_and_read(http: httpx.AsyncClient, origin: str) -> None:
    answer = await http.post(TIME, headers={"origin": origin})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == origin
    assert "x-request-id" in answer.headers["access-control-expose-headers"]


async def test_a_page_of_the_gateways_own_may_call(gateway: Served, http: httpx.AsyncClient) -> None:
    assert (await http.post(TIME, headers={"origin": gateway.url})).status_code == 200


async def test_a_browser_asks_first(http: httpx.AsyncClient) -> None:
    asked = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type, mcp-protocol-version",
    }
    allowed = await http.options(TIME, headers={"origin": "https://desk.example", **asked})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://desk.example"
    assert "mcp-protocol-version" in allowed.headers["access-control-allow-headers"]
    assert (await http.options(TIME, headers={"origin": "https://evil.example", **asked})).status_code == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
@pytest.mark.parametrize("path", ["/mcp/clock/ws", "/mcp/ws"])
async def test_a_websocket_of_another_origin_is_closed_before_it_opens(gateway: Served, path: str, origin: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"{gateway.websocket_url}{path}", origin=origin)  # type: ignore[arg-type]
    assert refused.value.response.status_code == 403


async def test_a_websocket_for_another_host_is_closed_before_it_opens(gateway: Served) -> None:
    _, port = gateway.websocket_url.rsplit(":", 1)
    with pytest.raises(InvalidStatus):
        await connect("ws://evil.example/mcp/ws", host="127.0.0.1", port=int(port))


async def test_a_websocket_of_an_allowed_origin_opens(gateway: Served) -> None:
    address, origin = f"{gateway.websocket_url}/mcp/ws", Origin("https://desk.example")
    async with connect(address, origin=origin, subprotocols=[Subprotocol("mcp")]) as socket:
        assert socket.subprotocol == "mcp"
        assert socket.response is not None
        assert socket.response.headers["x-request-id"]


MCP_CLIENT = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
PAGE = {"origin": "https://desk.example"}


@pytest.mark.parametrize(
    ("method", "path", "fields", "body"),
    [
        ("POST", TIME, {}, ""),
        ("POST", TIME, PAGE, ""),
        ("OPTIONS", TIME, {**PAGE, "access-control-request-method": "POST"}, ""),
        ("POST", "/mcp/mcp_clock/tools/get_time", {}, ""),
        ("POST", "/mcp/clock/tools/nope", {}, ""),
        ("POST", "/mcp/batch", {}, '{"calls": [{"server": "clock", "tool": "get_time"}]}'),
        ("POST", "/mcp", {}, ""),
        ("POST", "/mcp", MCP_CLIENT, "no message"),
        ("DELETE", "/mcp", MCP_CLIENT, ""),
        ("GET", "/mcp", {}, ""),
        *[
            (
                "POST",
                path,
                {**MCP_CLIENT, "mcp-protocol-version": "2025-11-25", **more},
                json.dumps({"jsonrpc": "2.0", "id": 1, "method": asked, "params": {"name": "get_time", "_meta": meta}}),
            )
            for path in ("/mcp/clock", "/mcp/mcp_clock")
            for more in ({}, PAGE)
            for asked, meta in (("tools/call", {}), ("tools/list", {}), ("tools/call", {"progressToken": 7}))
        ],
        ("GET", "/health", {}, ""),
        ("GET", "/openapi.json", {}, ""),
        ("POST", "/openapi.json", {}, ""),
        ("POST", "/nowhere", {}, ""),
    ],
)
async def test_every_answer_repeats_the_callers_request_id_once(
    http: httpx.AsyncClient, method: str, path: str, fields: dict[str, str], body: str
) -> None:
    answer = await http.request(method, path, content=body, headers={"x-request-id": "desk-7:ab/c=", **fields})
    assert answer.headers.get_list("x-request-id") == ["desk-7:ab/c="]
    if answer.headers["content-type"] == "application/problem+json":
        assert answer.json()["request_id"] == "desk-7:ab/c="


@pytest.mark.parametrize("name", ["", "a b", "x" * 129, "a<script>", 'a"b'])
async def test_a_request_id_that_is_not_sane_is_replaced(http: httpx.AsyncClient, name: str) -> None:
    answer = await http.post(TIME, headers={"x-request-id": name})
    given = answer.headers.get_list("x-request-id")
    assert len(given) == 1
    assert given[0] != name
    assert given[0].isalnum()
    assert len(given[0]) == 32


async def test_a_request_without_any_host_is_refused(gateway: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(f"POST {TIME} HTTP/1.0\r\ncontent-length: 0\r\n\r\n".encode())
    async with asyncio.timeout(WITHIN):
        status = await reader.readline()
    writer.close()
    assert b" 421 " in status
