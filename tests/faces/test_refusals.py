"""What comes to no call leaves a line, too: as long as it may be, and without what stands in its query."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from app.main import create_app
from app.settings import Settings
from tests.clock import ClockMCPServer
from tests.faces.raw import WITHIN, client_of
from tests.fixtures.gateway import Served, serve

JSON = {"content-type": "application/json"}
TOOL = "/mcp/clock/tools/get_time"
LINE = re.compile(
    r"refused: method=\S+ path=.* status=(\d{3}) code=([a-z_]+) client=\S+ address=127\.0\.0\.1"
    r" conversation=\S+ traceparent=\S+ request_id=(\S+)"
)


@pytest.fixture
async def gateway() -> AsyncGenerator[Served]:
    async with serve(create_app([ClockMCPServer()], Settings(max_request_bytes=2048))) as served:
        yield served


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines of ours, those of calls among them."""
    return [r.getMessage() for r in caplog.records if r.name.startswith(("MCP", "app")) and r.levelno >= logging.INFO]


@pytest.mark.parametrize(
    ("method", "path", "fields", "body", "status", "code"),
    [
        ("POST", TOOL, {"content-type": "text/plain"}, "{}", 415, "unsupported_media_type"),
        ("POST", TOOL, {**JSON, "content-encoding": "gzip"}, "{}", 415, "unsupported_media_type"),
        ("POST", TOOL, JSON, " " * 3000, 413, "request_too_large"),
        ("POST", TOOL, {**JSON, "host": "evil.example"}, "{}", 421, "misdirected_request"),
        ("POST", TOOL, {**JSON, "origin": "https://evil.example"}, "{}", 403, "origin_refused"),
        ("GET", TOOL, {}, "", 405, "method_not_allowed"),
        ("DELETE", "/mcp/clock", {}, "", 405, "method_not_allowed"),
        ("POST", "/mcp/clock", {**JSON, "accept": "image/png"}, "{}", 406, "not_acceptable"),
        ("POST", "/mcp/clock", {"content-type": "text/plain"}, "{}", 415, "unsupported_media_type"),
        ("POST", "/mcp/clock", JSON, "{", 400, "malformed_request"),
        ("GET", "/nowhere", {}, "", 404, "not_found"),
        ("GET", "/mcp/clock/resources/read", {}, "", 422, "invalid_arguments"),
        ("POST", "/mcp/batch", JSON, '{"calls":[]}', 422, "invalid_arguments"),
        ("POST", "/mcp/batch", JSON, "{", 400, "malformed_request"),
    ],
)
async def test_a_refusal_is_one_line(
    gateway: Served,
    method: str,
    path: str,
    fields: dict[str, str],
    body: str,
    status: int,
    code: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with client_of(gateway) as http:
        given = {**fields, "x-request-id": "ours"}
        answer = await http.request(method, path, params={"token": "hunter2"}, content=body, headers=given)
    [line] = lines(caplog)
    found = LINE.fullmatch(line)
    assert found is not None, line
    assert (answer.status_code, found.groups()) == (status, (str(status), code, "ours"))
    assert f"method={method} path={path!r} " in line
    assert "hunter2" not in line


async def test_a_path_is_quoted_and_cut(gateway: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with client_of(gateway) as http:
        await http.get("/a%0Aserver=clock%20outcome=ok" + "x" * 5000)
    [line] = lines(caplog)
    assert "\n" not in line
    assert len(line) < 400


async def test_a_call_that_is_refused_is_the_line_of_the_call(
    gateway: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with client_of(gateway) as http:
        await http.post(TOOL, json={"nope": 1})
        await http.post("/mcp/clock/tools/nope", json={})
        await http.get("/mcp/nope/tools")
    assert [re.findall(r"outcome=\w+|refused", line) for line in lines(caplog)] == [
        ["outcome=invalid_arguments"],
        ["outcome=unknown_tool"],
        ["outcome=unknown_server"],
    ]


async def test_what_is_refused_unread_is_a_line(gateway: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for raw, status in ((b"nonsense\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nx: " + b"a" * 70_000, 431)):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(raw)
        async with asyncio.timeout(WITHIN):
            assert int((await reader.readline()).split()[1]) == status
        writer.close()
    assert [re.findall(r"status=\d+|address=\S+", line) for line in lines(caplog)] == [
        ["status=400", "address=127.0.0.1"],
        ["status=431", "address=127.0.0.1"],
    ]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/mcp/nope/ws", "unknown_server"),
        ("/ws", "not_found"),
        ("/", "not_found"),
        ("/mcp/clock", "not_found"),
        (f"{TOOL}?token=hunter2", "not_found"),
    ],
)
async def test_a_wrong_websocket_is_told_where_there_are_some(
    gateway: Served, path: str, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(InvalidStatus) as refused:
        async with connect(gateway.websocket_url + path, additional_headers={"x-request-id": "ours"}):
            pass
    response = refused.value.response
    assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")
    assert response.headers["x-request-id"] == "ours"
    problem = json.loads(response.body)
    assert (problem["code"], "clock" in problem["detail"]) == (code, True)
    [line] = lines(caplog)
    found = LINE.fullmatch(line)
    assert found is not None, line
    assert found.groups() == ("404", code, "ours")
    assert "hunter2" not in line
