"""How a refusal looks on each face: the same decision, in the form that the face's callers understand."""

import json
from typing import Any

import httpx
import pytest
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from app.servers.calls import JsonObject
from tests.faces.raw import ERAS, handshake, headers, request
from tests.fixtures.gateway import Served

SCOPES = ["notes:delete_note", "notes:write"]
NEEDS: JsonObject = {"name": "delete_note", "arguments": {"nmae": 1}}
DEEP: Any = {"name": "delete_note", "arguments": {"x": {"deep": [None]}}, "more": True}
"""Not plain, and not right: whoever may not call is told that first."""


async def post(http: httpx.AsyncClient, caller: str, era: str, path: str, method: str, params: Any) -> httpx.Response:
    message = request(era, method, params)
    return await http.post(path, json=message, headers={**headers(era, message), "x-test-caller": caller})


async def asked(gateway: Served, caller: str, era: str, method: str, params: Any) -> dict[str, Any]:
    """Send a request over a WebSocket and return its answer."""
    async with connect(f"{gateway.websocket_url}/mcp/notes/ws", additional_headers={"x-test-caller": caller}) as socket:
        if era in HANDSHAKE_PROTOCOL_VERSIONS:
            await socket.send(json.dumps(request(era, "initialize", handshake(era), number=9)))
            await socket.recv()
            await socket.send(json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}))
        await socket.send(json.dumps(request(era, method, params)))
        answer: dict[str, Any] = json.loads(await socket.recv())
        return answer


def assert_challenged(answer: httpx.Response, scopes: list[str]) -> None:
    assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json")
    assert (answer.json()["code"], answer.json()["scopes"]) == ("insufficient_scope", scopes)
    assert answer.headers["www-authenticate"] == f'Bearer error="insufficient_scope", scope="{" ".join(scopes)}"'
    assert "nmae" not in answer.text


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("path", ["/mcp/notes", "/mcp/mcp_notes", "/mcp", "/mcp/notes/"])
@pytest.mark.parametrize("params", [NEEDS, DEEP])
async def test_mcp_over_http_is_refused_at_the_level_of_http(
    http: httpx.AsyncClient, era: str, path: str, params: JsonObject
) -> None:
    assert_challenged(await post(http, "clerk", era, path, "tools/call", params), SCOPES)


async def test_rest_is_challenged_alike(http: httpx.AsyncClient) -> None:
    for path in ("/mcp/notes/tools/delete_note", "/mcp/mcp_notes/tools/delete_note", "/mcp/notes/tools/delete_note/"):
        assert_challenged(await http.post(path, json={"nmae": 1}, headers={"x-test-caller": "clerk"}), SCOPES)


@pytest.mark.parametrize("era", ERAS)
async def test_a_websocket_is_told_in_the_tools_result(gateway: Served, era: str) -> None:
    answer = await asked(gateway, "clerk", era, "tools/call", NEEDS)
    assert answer["result"]["isError"]
    problem = json.loads(answer["result"]["content"][0]["text"])
    assert (problem["status"], problem["code"], problem["scopes"]) == (403, "insufficient_scope", SCOPES)


async def test_a_batch_is_told_call_by_call(http: httpx.AsyncClient) -> None:
    calls = [
        {"server": "notes", "tool": "delete_note"},
        {"server": "notes", "tool": "read_note", "arguments": {"name": "n"}},
    ]
    answer = await http.post("/mcp/batch", json={"calls": calls}, headers={"x-test-caller": "clerk"})
    refused, done = answer.json()["results"]
    assert (refused["error"]["code"], refused["error"]["scopes"]) == ("insufficient_scope", SCOPES)
    assert done["success"]


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(("caller", "code"), [("bot", "argument_refused"), ("clerk", "rate_limited")])
async def test_what_is_no_matter_of_scopes_is_a_tools_failure(
    gateway: Served, http: httpx.AsyncClient, era: str, caller: str, code: str
) -> None:
    params: JsonObject = {"name": "read_note", "arguments": {"title": "customers/54321/1"}}
    for _ in range(4):
        over_http = await post(http, caller, era, "/mcp/notes", "tools/call", params)
    over_websocket = await asked(gateway, caller, era, "tools/call", params)
    for answer in (over_http.json(), over_websocket):
        assert answer["result"]["isError"]
        problem = json.loads(answer["result"]["content"][0]["text"])
        assert problem["code"] == code
        assert ("retry_after" in problem) is (code == "rate_limited")


@pytest.mark.parametrize("era", ERAS)
async def test_a_server_of_which_nothing_may_be_used_is_closed(
    gateway: Served, http: httpx.AsyncClient, era: str
) -> None:
    scopes = ["notes:read", "notes:write"]
    opening = ("initialize", handshake(era)) if era in HANDSHAKE_PROTOCOL_VERSIONS else ("server/discover", {})
    for method, params in (opening, ("tools/list", {}), ("tools/call", {"name": "nope"}), ("prompts/list", {})):
        assert_challenged(await post(http, "nobody", era, "/mcp/notes", method, params), scopes)
    for path in ("", "/tools", "/resources", "/resources/read?uri=notes://nowhere"):
        assert_challenged(await http.get(f"/mcp/notes{path}", headers={"x-test-caller": "nobody"}), scopes)
    with pytest.raises(InvalidStatus):
        await asked(gateway, "nobody", era, "tools/list", {})
    assert (await http.get("/mcp", headers={"x-test-caller": "nobody"})).json()["servers"] == []
    listing = await post(http, "nobody", era, "/mcp", "tools/list", {})
    assert listing.json()["result"]["tools"] == []


@pytest.mark.parametrize("era", ERAS)
async def test_listings_show_what_may_be_called_and_say_that_they_are_private(
    http: httpx.AsyncClient, era: str
) -> None:
    for caller, names in {"clerk": ["read_note", "write_note"], "reader": ["read_note", "list_notes"]}.items():
        result = (await post(http, caller, era, "/mcp", "tools/list", {})).json()["result"]
        assert [tool["name"] for tool in result["tools"]] == names
        assert result.get("cacheScope") == ("private" if era == "2026-07-28" else None)
    resources = (await post(http, "clerk", era, "/mcp/notes", "resources/list", {})).json()["result"]
    assert resources["resources"] == []
    seen = (await http.get("/openapi.json", headers={"x-test-caller": "clerk"})).json()
    assert {path for path in seen["paths"] if path.startswith(("/mcp/notes", "/mcp/clock"))} == {
        "/mcp/notes/tools/read_note",
        "/mcp/notes/tools/write_note",
        "/mcp/notes/files/{shelf}/{name}",
    }
    assert "clock" not in [tag["name"] for tag in seen["tags"]]


@pytest.mark.parametrize("era", ERAS)
async def test_resources_are_a_right_of_their_own(gateway: Served, http: httpx.AsyncClient, era: str) -> None:
    one, all_of_them = {"uri": "notes://shelves/letters"}, {"uri": "notes://shelves?limit=5"}
    for params, scope in ((one, "notes://shelves/{shelf}"), (all_of_them, "notes://shelves")):
        scopes = [scope, "notes:read", "notes:write"]
        assert_challenged(await post(http, "clerk", era, "/mcp/notes", "resources/read", params), scopes)
        answer = await http.get("/mcp/notes/resources/read", params=params, headers={"x-test-caller": "clerk"})
        assert_challenged(answer, scopes)
        assert (await asked(gateway, "clerk", era, "resources/read", params))["error"]["data"]["scopes"] == scopes
        result = (await post(http, "reader", era, "/mcp/notes", "resources/read", params)).json()
        assert "contents" in result["result"]


async def test_watches_are_rights_of_their_resource(gateway: Served, http: httpx.AsyncClient) -> None:
    uri = "notes://shelves/letters"
    listen: JsonObject = {"notifications": {"resourceSubscriptions": [uri]}}
    scopes = ["notes://shelves/{shelf}", "notes:read", "notes:write"]
    assert_challenged(await post(http, "clerk", "2026-07-28", "/mcp", "subscriptions/listen", listen), scopes)
    for era, method, params in (
        ("2026-07-28", "subscriptions/listen", listen),
        ("2025-11-25", "resources/subscribe", {"uri": uri}),
    ):
        refused = await asked(gateway, "clerk", era, method, params)
        assert refused["error"]["data"]["code"] == "insufficient_scope"
        assert "error" not in await asked(gateway, "reader", era, method, params)


async def test_a_refusal_is_logged_with_who_was_refused(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await post(http, "clerk", "2026-07-28", "/mcp/notes", "tools/call", NEEDS)
    [line] = [record.getMessage() for record in caplog.records if "insufficient_scope" in record.getMessage()]
    assert "principal=clerk" in line.replace("'", "")
