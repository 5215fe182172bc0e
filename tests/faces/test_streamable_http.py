"""MCP over Streamable HTTP: both eras on one endpoint, without sessions."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from app.main import create_app
from app.servers.base import BaseMCPServer
from app.servers.calls import CallContext, JsonObject
from app.servers.dynamic import DynamicTool
from app.settings import Settings
from tests.clock import ClockMCPServer
from tests.faces.raw import ERAS, client_of, event_stream, exchange, handshake, headers, post, request
from tests.fixtures.gateway import Served, mcp_client, serve

CALL: dict[str, Any] = {"name": "get_time", "arguments": {"zone": "CET"}}


@pytest.fixture(scope="module")
async def gateway() -> AsyncGenerator[Served]:
    async with serve(create_app([ClockMCPServer()], Settings(max_request_bytes=2048))) as served:
        yield served


@pytest.fixture
async def http(gateway: Served) -> AsyncGenerator[httpx.AsyncClient]:
    async with client_of(gateway) as client:
        yield client


@pytest.mark.parametrize("revision", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
async def test_a_revision_with_a_handshake_is_agreed_to(gateway: Served, revision: str) -> None:
    answer = await post(gateway, revision, "initialize", handshake(revision))
    result = answer.json()["result"]
    assert result["protocolVersion"] == revision
    assert result["serverInfo"] == {
        "name": "clock",
        "title": "Clock MCP Server",
        "version": result["serverInfo"]["version"],
    }
    assert result["instructions"] == "Tells the time."
    assert (await post(gateway, revision, "tools/call", CALL)).json()["result"]["structuredContent"]["zone"] == "CET"


async def test_an_unknown_revision_is_answered_with_the_newest_that_has_a_handshake(gateway: Served) -> None:
    answer = await post(gateway, "2025-11-25", "initialize", handshake("2999-01-01"))
    assert answer.json()["result"]["protocolVersion"] == "2025-11-25"


async def test_2026_needs_no_handshake(gateway: Served) -> None:
    discovered = (await post(gateway, "2026-07-28", "server/discover")).json()["result"]
    assert "2026-07-28" in discovered["supportedVersions"]
    called = (await post(gateway, "2026-07-28", "tools/call", CALL)).json()["result"]
    assert (called["resultType"], called["structuredContent"]["zone"]) == ("complete", "CET")


async def test_a_revision_that_nobody_knows_is_refused(gateway: Served) -> None:
    for era in ERAS:
        for version in ("2031-01-01", "2026-07-29", "", "1", "2026-07-28, 2025-11-25", "x" * 500):
            answer = await post(gateway, era, "tools/list", mcp_protocol_version=version)
            error = answer.json()["error"]
            assert (answer.status_code, answer.json()["id"], error["code"]) == (400, 1, -32022)
            assert error["message"].startswith("MCP-Protocol-Version")
            assert {era, "2026-07-28"} <= set(error["data"]["supported"])
            assert "2025-11-25, 2026-07-28" in error["message"]
            assert error["data"]["requested"] == version[:64]


@pytest.mark.parametrize("era", ERAS)
async def test_an_answer_without_notices_is_plain_json(gateway: Served, era: str) -> None:
    answer = await post(gateway, era, "tools/call", CALL)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("era", ERAS)
async def test_progress_reaches_a_caller_who_asks(gateway: Served, era: str) -> None:
    seen: list[tuple[float, float | None, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total, message))

    async with mcp_client(gateway, f"mcp-{era}", "clock") as client:
        await client.call_tool("tick", {"ticks": 3}, progress_callback=note)
    assert seen == [(1, 3, "tick 1"), (2, 3, "tick 2"), (3, 3, "tick 3")]


@pytest.mark.parametrize("era", ERAS)
async def test_progress_comes_in_one_stream_with_the_result(gateway: Served, era: str) -> None:
    message = request(era, "tools/call", {"name": "tick", "arguments": {"ticks": 2}}, progressToken="t")
    async with event_stream(gateway, message, era) as messages:
        received = [one async for one in messages]
    assert [one.get("method") for one in received] == ["notifications/progress", "notifications/progress", None]
    assert received[0]["params"] == {"progressToken": "t", "progress": 1, "total": 2, "message": "tick 1"}
    assert received[-1]["result"]["structuredContent"]["ticks"] == 2


@pytest.mark.parametrize("path", ["/mcp", "/mcp/clock"])
async def test_a_stream_of_the_servers_own_is_not_offered(http: httpx.AsyncClient, path: str) -> None:
    for method, accept in (("GET", "text/event-stream"), ("DELETE", "application/json"), ("PUT", "*/*")):
        answer = await http.request(method, path, headers={"accept": accept})
        assert answer.status_code == 405
        assert answer.headers["allow"] == "POST, GET"
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["/mcp", "/mcp/clock"])
async def test_a_get_shows_what_is_there(http: httpx.AsyncClient, path: str) -> None:
    shown = (await http.get(path)).json()
    server = shown["servers"][0] if path == "/mcp" else shown
    assert shown["success"] is True
    assert (server["id"], server["client_id"], server["name"]) == ("clock", "mcp_clock", "Clock MCP Server")
    assert server["tools"] == list(ClockMCPServer.tools)
    assert server["resources"] == ["clock://zones"]
    assert (await http.head(path)).content == b""


async def test_white_space_after_a_header_does_not_matter(gateway: Served) -> None:
    message = request("2026-07-28", "tools/call", CALL)
    fields = headers("2026-07-28", message) | {"mcp-name": "get_time  ", "mcp-method": "tools/call\t"}
    status, body = await exchange(gateway, "/mcp/clock", json.dumps(message).encode(), fields)
    assert (status, json.loads(body)["result"]["structuredContent"]["zone"]) == (200, "CET")


@pytest.mark.parametrize("wrong", [{"mcp_name": "tick"}, {"mcp_method": "tools/list"}])
async def test_a_header_that_contradicts_the_body_is_refused(gateway: Served, wrong: dict[str, str]) -> None:
    answer = await post(gateway, "2026-07-28", "tools/call", CALL, **wrong)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32020)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{nope", -32700),
        (b"\xff\xfe", -32700),
        (b"", -32700),
        (b"[" * 50, -32700),
        (b"[]", -32600),
        (json.dumps([request("2025-11-25", "tools/list")]).encode(), -32600),
        (b'"hello"', -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"tools/list"}', -32600),
        (b'{"jsonrpc":"2.0","id":1}', -32600),
    ],
)
async def test_a_body_that_is_no_request_is_refused(http: httpx.AsyncClient, era: str, body: bytes, code: int) -> None:
    fields = headers(era, request(era, "tools/list"))
    answer = await http.post("/mcp/clock", content=body, headers=fields)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert answer.json()["id"] is None
    assert not {"nope", "hello", "tools/list"} & set(answer.text.split('"'))


@pytest.mark.parametrize("era", ERAS)
async def test_a_body_too_large_is_refused_before_it_is_read(http: httpx.AsyncClient, era: str) -> None:
    fields = headers(era, request(era, "tools/list"))
    answer = await http.post("/mcp/clock", content=b" " * 3000, headers=fields)
    assert (answer.status_code, answer.json()["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("era", ERAS)
async def test_an_unknown_method_is_no_method(gateway: Served, era: str) -> None:
    answer = await post(gateway, era, "tools/invent")
    assert answer.json()["error"]["code"] == -32601
    assert answer.status_code == (404 if era == "2026-07-28" else 200)


@pytest.mark.parametrize("era", ERAS)
async def test_what_is_missing_in_a_request_is_named(gateway: Served, era: str) -> None:
    wrong: list[tuple[str, JsonObject, str]] = [
        ("tools/call", {}, "params.name: Field required"),
        ("tools/call", {"name": "get_time", "arguments": [1]}, "params.arguments: Input should be a valid dictionary"),
        ("resources/read", {}, "params.uri: Field required"),
        ("tools/list", {"cursor": 5}, "params.cursor: Input should be a valid string"),
    ]
    for method, params, missing in wrong:
        error = (await post(gateway, era, method, params)).json()["error"]
        assert error["code"] == -32602
        assert missing in error["message"]


@pytest.mark.parametrize("era", ERAS)
async def test_an_unknown_tool_is_an_error_of_the_protocol(gateway: Served, era: str) -> None:
    error = (await post(gateway, era, "tools/call", {"name": "nope", "arguments": {}})).json()["error"]
    assert error["code"] == -32602
    assert "get_time" in error["message"]
    assert (error["data"]["code"], error["data"]["success"]) == ("unknown_tool", False)


@pytest.mark.parametrize(("era", "code"), [("2025-11-25", -32002), ("2026-07-28", -32602)])
@pytest.mark.parametrize("uri", ["clock://nothing/here", "db://customers", "no uri", "clock://zones/Atlantis"])
async def test_an_unknown_resource_has_the_code_of_its_era(gateway: Served, era: str, code: int, uri: str) -> None:
    error = (await post(gateway, era, "resources/read", {"uri": uri})).json()["error"]
    assert error["code"] == code
    assert error["data"]["uri"] == uri


@pytest.mark.parametrize("era", ERAS)
async def test_variables_of_a_resource_are_checked(gateway: Served, era: str) -> None:
    error = (await post(gateway, era, "resources/read", {"uri": "clock://zones?limit=99"})).json()["error"]
    assert error["code"] == -32602
    assert error["data"]["errors"][0]["field"] == "limit"
    read = (await post(gateway, era, "resources/read", {"uri": "clock://zones?limit=9"})).json()["result"]
    assert json.loads(read["contents"][0]["text"]) == {"success": True, "zone": "all", "ticks": 9}


@pytest.mark.parametrize("era", ERAS)
async def test_a_listing_has_one_page(gateway: Served, era: str) -> None:
    for method in ("tools/list", "resources/list", "resources/templates/list"):
        assert (await post(gateway, era, method, {"cursor": "x"})).json()["error"]["code"] == -32602
        first = (await post(gateway, era, method)).json()["result"]
        assert (await post(gateway, era, method, {"cursor": ""})).json()["result"] == first


async def test_listings_may_be_kept_and_contents_not(gateway: Served) -> None:
    listed = (await post(gateway, "2026-07-28", "tools/list")).json()["result"]
    read = (await post(gateway, "2026-07-28", "resources/read", {"uri": "clock://zones"})).json()["result"]
    assert (listed["ttlMs"], listed["cacheScope"]) == (300_000, "private")
    assert (read["ttlMs"], read["cacheScope"]) == (0, "private")


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "", ";"])
async def test_a_body_that_does_not_say_it_is_json_is_refused(
    http: httpx.AsyncClient, era: str, media_type: str
) -> None:
    message = request(era, "tools/list")
    answer = await http.post("/mcp/clock", json=message, headers=headers(era, message) | {"content-type": media_type})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


JSON, EVENTS = "application/json", "text/event-stream"
MESSAGES: list[tuple[str, JsonObject, JsonObject]] = [
    ("tools/call", CALL, {}),
    ("tools/call", {"name": "fail", "arguments": {"how": "down"}}, {}),
    ("tools/call", {"name": "tick", "arguments": {"ticks": 2}}, {"progressToken": "p"}),
    ("tools/call", CALL, {"progressToken": "p"}),
    ("tools/list", {}, {}),
    ("tools/list", {}, {"progressToken": "p"}),
    ("resources/read", {"uri": "clock://zones"}, {}),
]


def _messages(answer: httpx.Response) -> list[dict[str, Any]]:
    """Return the messages of an answer, which is what its content type says."""
    if answer.headers["content-type"] == JSON:
        return [answer.json()]
    assert answer.headers["content-type"].startswith(EVENTS)
    assert int(answer.headers.get("content-length", len(answer.content))) == len(answer.content)
    data = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(text) for text in data if text]


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(("method", "params", "meta"), MESSAGES, ids=lambda value: str(value)[:30])
@pytest.mark.parametrize(
    ("accept", "types"),
    [
        (JSON, {JSON}),
        (EVENTS, {EVENTS}),
        (f"{EVENTS}; charset=utf-8", {EVENTS}),
        (f"{JSON};q=0, {EVENTS}", {EVENTS}),
        (f"{JSON}, */*;q=0.0", {JSON}),
        (f"*/*, {EVENTS};q=0", {JSON}),
        ("text/*", {EVENTS}),
        ("Application/*;q=0.1, text/html", {JSON}),
        (f"{JSON}, {EVENTS}", {JSON, EVENTS}),
        ("*/*", {JSON, EVENTS}),
        (None, {JSON, EVENTS}),
        ("", {JSON, EVENTS}),
    ],
)
async def test_an_answer_has_a_type_that_is_accepted(
    http: httpx.AsyncClient,
    era: str,
    method: str,
    params: JsonObject,
    meta: dict[str, Any],
    accept: str | None,
    types: set[str],
) -> None:
    message = request(era, method, params, **meta)
    fields = {name: value for name, value in headers(era, message).items() if name != "accept"}
    del http.headers["accept"]
    answer = await http.post(
        "/mcp/clock", json=message, headers=fields | ({} if accept is None else {"accept": accept})
    )
    assert answer.status_code == 200
    assert answer.headers["content-type"].partition(";")[0] in types
    last = _messages(answer)[-1]
    assert last["id"] == message["id"]
    assert "result" in last
    if types == {EVENTS} and params.get("name") == "tick":
        assert [told["method"] for told in _messages(answer)[:-1]] == ["notifications/progress"] * 2


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("accept", ["text/html", f"{JSON};q=0", "*/*;q=0", f"text/*;q=0, {JSON};q=0", "image/*"])
async def test_a_client_that_accepts_neither_type_is_told(http: httpx.AsyncClient, era: str, accept: str) -> None:
    message = request(era, "tools/list")
    answer = await http.post("/mcp/clock", json=message, headers=headers(era, message) | {"accept": accept})
    assert (answer.status_code, answer.json()["code"]) == (406, "not_acceptable")
    assert JSON in answer.json()["detail"]
    assert EVENTS in answer.json()["detail"]


async def test_a_subscription_needs_an_event_stream(http: httpx.AsyncClient) -> None:
    message = request("2026-07-28", "subscriptions/listen", {"notifications": {}})
    fields = headers("2026-07-28", message) | {"accept": JSON}
    answer = await http.post("/mcp/clock", json=message, headers=fields)
    assert (answer.status_code, answer.json()["code"]) == (406, "not_acceptable")


@pytest.mark.parametrize("era", ERAS)
async def test_a_failure_of_the_protocol_is_told_to_those_who_want_events(gateway: Served, era: str) -> None:
    answer = await post(gateway, era, "tools/invent", accept=EVENTS)
    assert _messages(answer)[-1]["error"]["code"] == -32601


@pytest.mark.parametrize("era", ERAS)
async def test_a_json_type_of_its_own_kind_is_json(gateway: Served, era: str) -> None:
    answer = await post(gateway, era, "tools/list", content_type="Application/vnd.mcp+JSON; charset=utf-8")
    assert "result" in answer.json()


@pytest.mark.parametrize("era", ERAS)
async def test_an_unknown_server_is_not_found(http: httpx.AsyncClient, era: str) -> None:
    message = request(era, "tools/list")
    answer = await http.post("/mcp/nope", json=message, headers=headers(era, message))
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_may_say_mcp_before_the_servers_name(http: httpx.AsyncClient, era: str) -> None:
    message = request(era, "tools/call", CALL)
    answer = await http.post("/mcp/mcp_clock", json=message, headers=headers(era, message))
    assert answer.json()["result"]["structuredContent"]["zone"] == "CET"


@pytest.mark.parametrize("era", ERAS)
async def test_a_result_that_cannot_be_written_down_is_a_bug_of_ours(era: str) -> None:
    class OddMCPServer(BaseMCPServer):
        """Odd."""

        async def call_tool(self, name: str, arguments: JsonObject, context: CallContext) -> Any:
            return {"password=hunter2": object()}

    odd = OddMCPServer(tools=[DynamicTool.of("strange")])
    message = request(era, "tools/call", {"name": "strange", "arguments": {}})
    async with serve(create_app([odd], Settings())) as served, client_of(served) as http:
        answer = await http.post("/mcp/odd", json=message, headers=headers(era, message))
    result = answer.json()["result"]
    assert result["isError"] is True
    assert json.loads(result["content"][0]["text"])["code"] == "internal_error"
    assert "hunter2" not in answer.text
