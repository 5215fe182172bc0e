"""HTTP as others speak it: slashes at the end, HEAD, compressed bodies, headers that are there twice."""

import asyncio
from collections.abc import AsyncGenerator

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response

from app.main import create_app
from app.servers.base import BaseMCPServer
from app.servers.calls import CallContext
from app.servers.declaring import route, tool
from app.settings import Settings
from tests.clock import ClockMCPServer, ClockTime
from tests.faces.raw import ERAS, WITHIN, client_of, headers, request, websocket
from tests.fixtures.gateway import Served, serve

TIME = "/mcp/clock/tools/get_time"


@pytest.fixture(scope="module")
async def gateway() -> AsyncGenerator[Served]:
    async with serve(create_app([ClockMCPServer()], Settings(), root_server="clock")) as served:
        yield served


@pytest.fixture
async def http(gateway: Served) -> AsyncGenerator[httpx.AsyncClient]:
    async with client_of(gateway) as client:
        yield client


async def _status(gateway: Served, *lines: str) -> int:
    """Send the lines of a request's head and return the status of its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write("\r\n".join([*lines, "connection: close", "", ""]).encode())
    async with asyncio.timeout(WITHIN):
        answer = await reader.read()
    writer.close()
    return int(answer.split()[1])


# Host and Origin


@pytest.mark.parametrize("path", ["/health", "/ready", "/mcp", "/mcp/clock", TIME, "/nowhere"])
@pytest.mark.parametrize(
    "twice",
    [
        ["host: 127.0.0.1", "host: 127.0.0.1"],
        ["host: 127.0.0.1", "host: evil.example"],
        ["Host: evil.example", "hOST: 127.0.0.1"],
        ["host:", "host: 127.0.0.1"],
        ["host: 127.0.0.1", "origin: http://127.0.0.1", "origin: http://127.0.0.1"],
        ["host: 127.0.0.1", "origin: https://evil.example", "origin: http://localhost"],
        ["host: 127.0.0.1", "origin: http://localhost", "origin:"],
    ],
    ids="|".join,
)
async def test_two_hosts_or_origins_are_refused_whichever_they_are(
    gateway: Served, path: str, twice: list[str]
) -> None:
    assert await _status(gateway, f"GET {path} HTTP/1.1", *twice) == 400


async def test_two_hosts_are_refused_before_a_websocket_opens(gateway: Served) -> None:
    upgrade = ["upgrade: websocket", "connection: upgrade", "sec-websocket-version: 13"]
    key = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="
    once, twice = ["host: 127.0.0.1"], ["host: 127.0.0.1", "host: 127.0.0.1"]
    assert await _status(gateway, "GET /mcp/ws HTTP/1.1", *twice, *upgrade, key) == 400
    assert await _status(gateway, "GET /mcp/ws HTTP/1.1", *once, "origin: https://evil.example", *upgrade, key) == 403


async def test_other_headers_may_be_there_twice_and_count_as_one(gateway: Served) -> None:
    lines = ["POST /mcp/batch HTTP/1.1", "host: 127.0.0.1", "content-length: 0"]
    assert await _status(gateway, *lines, "cookie: a", "cookie: b", "content-encoding: identity") == 400
    assert await _status(gateway, *lines, "content-encoding: gzip", "content-encoding: identity") == 415


# Slashes


@pytest.mark.parametrize("path", ["/mcp/", "/mcp/clock/", "/mcp/mcp_clock/"])
@pytest.mark.parametrize("era", ERAS)
async def test_mcp_is_served_with_a_slash_at_the_end(http: httpx.AsyncClient, path: str, era: str) -> None:
    message = request(era, "tools/call", {"name": "get_time", "arguments": {"zone": "CET"}})
    answer = await http.post(path, json=message, headers=headers(era, message))
    assert answer.json()["result"]["structuredContent"]["zone"] == "CET"


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("path", ["/mcp/ws/", "/mcp/clock/ws/", "/"])
async def test_websockets_open_with_a_slash_at_the_end(gateway: Served, era: str, path: str) -> None:
    async with websocket(gateway, era, path) as messages:
        assert "result" in await messages.ask(request(era, "tools/list"))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/mcp"),
        ("GET", "/mcp/clock"),
        ("GET", "/mcp/clock/tools"),
        ("GET", "/mcp/clock/resources"),
        ("GET", "/mcp/mcp_clock/tools"),
        ("POST", TIME),
        ("POST", "/mcp/mcp_clock/tools/get_time"),
        ("GET", "/mcp/clock/chimes/3"),
        ("GET", "/health"),
        ("GET", "/ready"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
        ("GET", "/nowhere"),
        ("GET", TIME),
    ],
)
async def test_a_slash_at_the_end_means_nothing(http: httpx.AsyncClient, method: str, path: str) -> None:
    fields = {"x-request-id": "r-1"}
    plain = await http.request(method, path, headers=fields)
    slashed = await http.request(method, f"{path}/", headers=fields)
    assert (slashed.status_code, slashed.content) == (plain.status_code, plain.content)


async def test_a_slash_at_the_end_of_a_key_belongs_to_it() -> None:
    class ShelfMCPServer(BaseMCPServer):
        """Keeps things."""

        @tool(read_only=True)
        async def look_up(self, key: str) -> ClockTime:
            """Return nothing of it."""
            return ClockTime(zone=key)

        @route("/things/{key:path}", methods=["GET"], acts_as="look_up")
        async def thing(self, request: Request, context: CallContext, key: str) -> Response:
            """Return a key."""
            return Response(key)

    async with serve(create_app([ShelfMCPServer()], Settings(root_path="/gw"))) as served, client_of(served) as http:
        for key in ("a", "a/", "a//", "a/b/"):
            assert (await http.get(f"/mcp/shelf/things/{key}")).text == key


async def test_a_probe_may_use_any_address_with_a_slash_too(http: httpx.AsyncClient) -> None:
    assert (await http.get("/health/", headers={"host": "10.0.0.7"})).status_code == 200


# HEAD


@pytest.mark.parametrize(
    "path",
    [
        "/health",
        "/ready",
        "/mcp",
        "/mcp/clock",
        "/mcp/mcp_clock",
        "/mcp/clock/tools",
        "/mcp/clock/resources",
        "/mcp/clock/resources/read?uri=clock://zones",
        "/mcp/clock/resources/read?uri=clock://nothing",
        "/mcp/nope/tools",
        "/mcp/clock/chimes/3",
        "/mcp/clock/chimes/13",
        "/openapi.json",
        "/docs",
        "/nowhere",
        TIME,
    ],
)
async def test_head_answers_what_get_does_without_its_body(http: httpx.AsyncClient, path: str) -> None:
    fields = {"x-request-id": "r-1", "accept": "*/*"}
    shown, asked = await http.get(path, headers=fields), await http.head(path, headers=fields)
    assert asked.content == b""
    assert asked.status_code == shown.status_code
    asked.headers.pop("transfer-encoding", None)
    shown.headers.pop("transfer-encoding", None)
    assert {**asked.headers, "date": ""} == {**shown.headers, "date": ""}


async def test_a_connection_goes_on_after_head(http: httpx.AsyncClient) -> None:
    for path in ("/mcp/clock/chimes/3", "/health", "/mcp/clock/chimes/13"):
        await http.head(path)
        assert (await http.get("/mcp/clock/chimes/2")).text == "1 0\n2 0\n"


# Bodies


@pytest.mark.parametrize("path", [TIME, "/mcp/mcp_clock/tools/get_time", "/mcp/batch", "/mcp", "/mcp/clock"])
@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "deflate", "identity, gzip", "zstd"])
async def test_a_compressed_body_is_refused_as_such(http: httpx.AsyncClient, path: str, encoding: str) -> None:
    fields = {"content-encoding": encoding, "content-type": "application/json", "accept": "*/*"}
    answer = await http.post(path, content=b"\x1f\x8b\x08\x00", headers=fields)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert "Content-Encoding" in answer.json()["detail"]


async def test_a_body_that_is_compressed_on_its_way_is_refused_as_such(gateway: Served) -> None:
    lines = [f"POST {TIME} HTTP/1.1", "host: 127.0.0.1", "content-type: application/json"]
    assert await _status(gateway, *lines, "transfer-encoding: gzip, chunked") == 415
    # A route keeps what it gets as it is.
    lines[0] = "POST /mcp/clock/chimes/2 HTTP/1.1"
    assert await _status(gateway, *lines, "transfer-encoding: gzip, chunked") == 415


async def test_a_body_may_say_that_it_is_not_compressed(http: httpx.AsyncClient) -> None:
    assert (await http.post(TIME, json={}, headers={"content-encoding": "Identity"})).status_code == 200
