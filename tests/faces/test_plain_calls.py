"""Plain calls over HTTP: answered without the SDK, and nobody can tell."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from mcp import MCPDeprecationWarning

from app.faces.plain_calls import PlainCall, PlainCalls
from app.guard.principal import Principal
from app.main import create_app
from app.servers.base import BaseMCPServer
from app.servers.calls import JsonObject
from app.servers.declaring import resource, tool
from app.settings import Settings
from tests.clock import CALL, CALLS, ClockMCPServer, ClockTime
from tests.conformance.server import ConformanceMCPServer
from tests.faces.raw import client_of, headers, request
from tests.fixtures.gateway import Served, mcp_client, serve

REVISIONS = ("2025-06-18", "2025-11-25", "2026-07-28")
MODERN = "2026-07-28"


@pytest.fixture(scope="module")
async def gateway() -> AsyncGenerator[Served]:
    async with serve(create_app([ClockMCPServer()], Settings(max_calls_in_flight=1))) as served:
        yield served


@pytest.fixture
async def http(gateway: Served) -> AsyncGenerator[httpx.AsyncClient]:
    async with client_of(gateway) as client:
        yield client


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> list[PlainCall]:
    """What was recognized as a plain call."""
    recognized: list[PlainCall] = []
    recognize = PlainCalls.recognize

    def note(*arguments: Any) -> PlainCall | None:
        call = recognize(*arguments)
        if call is not None:
            recognized.append(call)
        return call

    monkeypatch.setattr(PlainCalls, "recognize", note)
    return recognized


async def _by_the_sdk(
    http: httpx.AsyncClient, path: str, body: bytes, fields: dict[str, str]
) -> tuple[int, str, JsonObject]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(PlainCalls, "recognize", lambda *_: None)
        return await _answer(http, path, body, fields)


async def _answer(
    http: httpx.AsyncClient, path: str, body: bytes, fields: dict[str, str]
) -> tuple[int, str, JsonObject]:
    answer = await http.post(path, content=body, headers={**fields, "x-request-id": "r-1"})
    assert answer.headers["x-request-id"] == "r-1"
    return answer.status_code, answer.headers["content-type"], answer.json()


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize("path", ["/mcp/clock", "/mcp"])
@pytest.mark.parametrize(
    "params",
    CALLS,
    ids=lambda params: json.dumps(params)[:60],
)
async def test_the_answer_is_the_sdks(
    http: httpx.AsyncClient, plain: list[PlainCall], path: str, revision: str, params: JsonObject
) -> None:
    message = request(revision, "tools/call", params)
    fields, body = headers(revision, message), json.dumps(message).encode()
    answered = await _answer(http, path, body, fields)
    assert len(plain) == 1
    assert answered == await _by_the_sdk(http, path, body, fields)


@pytest.mark.parametrize("number", [0, -1, 2**63, "", "a-1", "é"])
async def test_the_id_comes_back_as_it_was(http: httpx.AsyncClient, plain: list[PlainCall], number: int | str) -> None:
    message = {**request(MODERN, "tools/call", CALL), "id": number}
    assert (await http.post("/mcp/clock", json=message, headers=headers(MODERN, message))).json()["id"] == number
    assert len(plain) == 1


def _modern(**meta: Any) -> JsonObject:
    return request(MODERN, "tools/call", CALL, **meta)


_LEGACY = request("2025-11-25", "tools/call", CALL)
_FIELDS = headers(MODERN, _modern())
_LEGACY_FIELDS = headers("2025-11-25", _LEGACY)


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (_modern(progressToken="p"), _FIELDS),
        (_modern(**{"io.modelcontextprotocol/logLevel": "debug"}), _FIELDS),
        ({**_modern(), "extra": 1}, _FIELDS),
        ({**_modern(), "jsonrpc": "1.0"}, _FIELDS),
        ({**_modern(), "id": None}, _FIELDS),
        ({**_modern(), "id": 1.5}, _FIELDS),
        ({**_modern(), "id": True}, _FIELDS),
        ({name: value for name, value in _modern().items() if name != "id"}, _FIELDS),
        ([_modern()], _FIELDS),
        (request(MODERN, "tools/call", {"name": "nope"}), {**_FIELDS, "mcp-name": "nope"}),
        (request(MODERN, "tools/call", {"name": "tick", "arguments": {"ticks": 1}}), {**_FIELDS, "mcp-name": "tick"}),
        (request(MODERN, "tools/call", {"name": "get_time", "arguments": [1]}), _FIELDS),
        (request(MODERN, "tools/call", {"name": "get_time", "arguments": None}), _FIELDS),
        (request(MODERN, "tools/list"), {**_FIELDS, "mcp-method": "tools/list"}),
        (_LEGACY, _FIELDS),
        (_modern(), {**_FIELDS, "mcp-name": "fail"}),
        (_modern(), {**_FIELDS, "mcp-name": "=?base64?Z2V0X3RpbWU=?="}),
        (_modern(), {**_FIELDS, "mcp-method": "tools/list"}),
        (_modern(), {name: value for name, value in _FIELDS.items() if name != "mcp-name"}),
        (_modern(), {**_FIELDS, "mcp-protocol-version": "2031-01-01"}),
        (_modern(), {**_FIELDS, "accept": "text/html"}),
        ({**_LEGACY, "params": {**CALL, "_meta": {"progressToken": 1}}}, _LEGACY_FIELDS),
        (_LEGACY, {**_LEGACY_FIELDS, "mcp-session-id": "s"}),
        (_LEGACY, {name: value for name, value in _LEGACY_FIELDS.items() if name != "mcp-protocol-version"}),
    ],
    ids=str,
)
async def test_what_is_not_plain_is_the_sdks_to_answer(
    http: httpx.AsyncClient, plain: list[PlainCall], message: Any, fields: dict[str, str]
) -> None:
    answer = await http.post("/mcp/clock", json=message, headers=fields)
    assert answer.status_code < 500
    assert plain == []


_META = json.dumps(_modern()["params"]["_meta"])  # type: ignore[index, call-overload]
_BODY = (
    f'{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"name":"get_time","arguments":{{}},"_meta":{_META}}}}}'
)


@pytest.mark.parametrize(
    ("there", "instead"),
    [
        ('"jsonrpc"', '"jsonrpc":"1.0","jsonrpc"'),
        ('"id"', '"id":8,"id"'),
        ('"id"', '"id":"8","id"'),
        ('"method"', '"method":"tools/list","method"'),
        ('"params"', r'"p\u0061rams":{},"params"'),
        ('"name"', '"name":"fail","name"'),
        ('"arguments"', '"arguments":{"zone":"CET"},"arguments"'),
        ('"_meta"', '"_meta":{},"_meta"'),
        ('{},"_meta":{', '{},"_meta":{"a":1,"a":1,'),
        ('{},"_meta":{', '{},"_meta":{"io.modelcontextprotocol/protocolVersion":"2025-11-25",'),
        ("{}", '{"zone":"\xff"}'),
        ("{}", r'{"zone":"\ud800"}'),
        ("{}", '{"zone":NaN}'),
        ("{}", '{"zone":' + 120 * "[" + 120 * "]" + "}"),
        ("{}", '{"zone":' + 300 * "[" + 300 * "]" + "}"),
        ("{}", '{"zone":' + 5000 * "9" + "}"),
        ("{}", '{"zone":"CET","zone":"UTC"}'),
        ("{}", '{"zone":"' + 300 * "é" + '","zone":"UTC"}'),
        ("{}", '{"zone":1e999}'),
        ("7", '"\xff"'),
        ("7", "-0"),
        ("7", "007"),
        ('"jsonrpc"', '"jsonrp\xff":"2.0","jsonrpc"'),
        ('"2.0"', '"2.\xff"'),
        ("tools/call", "tools/c\xffll"),
        ('"name"', '"nam\xff":"","name"'),
        ("get_time", "get_\xfftime"),
        ('"params"', '"\xff":' + f"[{'0,' * 30_000}0]" + ',"params"'),
        ("tools/call", "tools/c\xffll" + '","more":' + f"[{'0,' * 30_000}0]" + ',"other":"'),
    ],
)
async def test_a_body_of_which_parsers_make_different_things_is_answered_alike(
    http: httpx.AsyncClient, there: str, instead: str
) -> None:
    body = _BODY.replace(there, instead, 1).encode("latin-1")
    answered = await _answer(http, "/mcp/clock", body, _FIELDS)
    assert answered == await _by_the_sdk(http, "/mcp/clock", body, _FIELDS)


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream", "*/*", "application/*", "text/*, */*;q=0"])
async def test_a_plain_call_is_plain_whatever_type_is_accepted(
    http: httpx.AsyncClient, plain: list[PlainCall], accept: str
) -> None:
    answer = await http.post("/mcp/clock", json=_modern(), headers={**_FIELDS, "accept": accept})
    assert answer.status_code == 200
    assert len(plain) == 1


async def test_a_header_that_is_there_twice_is_the_sdks_to_refuse(
    http: httpx.AsyncClient, plain: list[PlainCall]
) -> None:
    answer = await http.post("/mcp/clock", json=_modern(), headers=[*_FIELDS.items(), ("mcp-name", "fail")])
    assert answer.status_code == 400
    assert plain == []


async def test_headers_of_arguments_change_nothing(http: httpx.AsyncClient) -> None:
    body, fields = json.dumps(_modern()).encode(), {**_FIELDS, "mcp-param-zone": "UTC"}
    assert await _answer(http, "/mcp/clock", body, fields) == await _by_the_sdk(http, "/mcp/clock", body, fields)


@pytest.mark.parametrize("era", ["mcp-2025-11-25", "mcp-2026-07-28"])
async def test_the_official_clients_calls_are_plain(gateway: Served, plain: list[PlainCall], era: str) -> None:
    async with mcp_client(gateway, era, "clock") as client:
        result = await client.call_tool("get_time", {"zone": "CET"})
    assert result.structured_content == {"success": True, "zone": "CET", "ticks": 0}
    assert len(plain) == 1


async def test_what_another_server_can_do_makes_no_call_less_plain(plain: list[PlainCall]) -> None:
    """The conformance server answers `logging/setLevel`, so its own tools may be told to log."""
    with pytest.warns(MCPDeprecationWarning):
        app = create_app([ClockMCPServer(), ConformanceMCPServer()], Settings())
    message = request("2025-11-25", "tools/call", CALL)
    logging = request("2025-11-25", "tools/call", {"name": "test_tool_with_logging", "arguments": {}})
    asked = request("2025-11-25", "tools/call", {**CALL, "_meta": {"unusual": 1}})
    async with serve(app) as served, client_of(served) as http:
        fields = headers("2025-11-25", message)
        assert (await http.post("/mcp", json=message, headers=fields)).headers["content-type"] == "application/json"
        assert [call.tool.name for call in plain] == ["get_time"]
        # What the SDK has to answer is plain JSON too, unless the tool can log.
        assert (await http.post("/mcp", json=asked, headers=fields)).headers["content-type"] == "application/json"
        told = await http.post("/mcp", json=logging, headers=fields)
    assert told.headers["content-type"] == "text/event-stream"
    assert "Tool processing data" in told.text
    assert len(plain) == 1


async def test_a_tool_that_asks_who_calls_is_plain(plain: list[PlainCall]) -> None:
    class DoorMCPServer(BaseMCPServer):
        """Asks who is there."""

        @tool(read_only=True)
        async def who(self, principal: Principal) -> ClockTime:
            """Tell who calls."""
            return ClockTime(zone=principal.id)

        @resource("door://who")
        async def who_reads(self, principal: Principal) -> ClockTime:
            """Who reads."""
            return ClockTime(zone=principal.id)

    assert DoorMCPServer.tools["who"].input_schema["properties"] == {}
    message = request(MODERN, "tools/call", {"name": "who", "arguments": {}})
    async with serve(create_app([DoorMCPServer()], Settings())) as served, client_of(served) as http:
        answer = await http.post("/mcp", json=message, headers=headers(MODERN, message))
        assert answer.json()["result"]["structuredContent"]["zone"] == "anonymous"
        assert len(plain) == 1
        read = await http.get("/mcp/door/resources/read", params={"uri": "door://who"})
        assert read.json()["zone"] == "anonymous"
