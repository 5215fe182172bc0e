"""REST: one typed route a tool, problems for failures, and streams where no tool can carry them."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from app.errors import BackendUnavailable
from app.faces.rest import FastLane
from app.main import create_app
from app.servers.base import BaseMCPServer
from app.servers.calls import CallContext
from app.servers.declaring import route, tool
from app.servers.dynamic import DynamicTool
from app.settings import Settings
from tests.clock import ClockMCPServer, ClockTime
from tests.faces.raw import WITHIN, client_of, send_and_hold
from tests.fixtures.gateway import Served, serve

TIME = "/mcp/clock/tools/get_time"
LARGEST = 1024


class BellsMCPServer(BaseMCPServer):
    """Rings in streams that end badly."""

    def __init__(self) -> None:
        super().__init__()
        self.ringing = asyncio.Event()
        self.silenced = asyncio.Event()

    @tool(read_only=True)
    async def ring(self) -> ClockTime:
        """Ring once."""
        return ClockTime(zone="dong")

    @route("/cracked", methods=["GET"], acts_as="ring")
    async def cracked(self, request: Request, context: CallContext) -> Response:
        """Fail after the first stroke."""

        async def strokes() -> AsyncGenerator[bytes]:
            yield b"dong\n"
            raise BackendUnavailable("The bell is cracked.")

        return StreamingResponse(strokes(), media_type="text/plain")

    @route("/endless", methods=["GET"], acts_as="ring")
    async def endless(self, request: Request, context: CallContext) -> Response:
        """Ring once, then wait for ever."""

        async def strokes() -> AsyncGenerator[bytes]:
            yield b"dong\n"
            self.ringing.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.silenced.set()

        return StreamingResponse(strokes(), media_type="text/plain")


@pytest.fixture(scope="module")
async def bells() -> BellsMCPServer:
    return BellsMCPServer()


@pytest.fixture(scope="module")
async def gateway(bells: BellsMCPServer) -> AsyncGenerator[Served]:
    many = [DynamicTool.of(f"many_{n}", f"Number {n}.", {"type": "object"}) for n in range(200)]
    crowd = BaseMCPServer(server_id="crowd", name="Crowd MCP Server", tools=many)
    async with serve(create_app([ClockMCPServer(), bells, crowd], Settings(max_request_bytes=LARGEST))) as served:
        yield served


@pytest.fixture(scope="module")
async def http(gateway: Served) -> AsyncGenerator[httpx.AsyncClient]:
    async with client_of(gateway) as client:
        yield client


def problem_of(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check that an answer is a failure as RFC 9457 and the contract want it; return it."""
    problem: dict[str, Any] = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert (problem["success"], problem["status"]) == (False, status)
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["title"]
    assert problem["detail"]
    return problem


# Requests that are not understood


@pytest.mark.parametrize("body", [b"{nope", b"\xff", b'{"zone":', b"{'zone': 'UTC'}"])
async def test_a_body_that_is_not_json_is_malformed(http: httpx.AsyncClient, body: bytes) -> None:
    problem_of(await http.post(TIME, content=body), 400, "malformed_request")


@pytest.mark.parametrize("body", [b"[]", b'"UTC"', b"null", b"5"])
async def test_a_body_that_is_no_object_is_no_arguments(http: httpx.AsyncClient, body: bytes) -> None:
    problem_of(await http.post(TIME, content=body), 422, "invalid_arguments")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/mcp/clock/tools/nope", "unknown_tool"),
        ("/mcp/nope/tools/get_time", "unknown_server"),
        ("/nowhere", "not_found"),
        ("/mcp/clock/tools/" + "x" * 500, "unknown_tool"),
    ],
)
async def test_what_is_not_there_is_not_found(http: httpx.AsyncClient, path: str, code: str) -> None:
    problem = problem_of(await http.post(path, json={}), 404, code)
    assert len(problem["detail"]) < 600


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
async def test_a_tool_is_called_by_post_only(http: httpx.AsyncClient, method: str) -> None:
    answer = await http.request(method, TIME)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    if method != "HEAD":
        problem_of(answer, 405, "method_not_allowed")


@pytest.mark.parametrize("path", ["/mcp/clock/tools", "/mcp/clock/resources", "/mcp/clock/resources/read", "/health"])
async def test_a_listing_is_not_posted_to(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.post(path)
    assert answer.headers["allow"] == "GET"
    problem_of(answer, 405, "method_not_allowed")


async def test_a_body_that_says_it_is_too_large_is_refused_unread(gateway: Served) -> None:
    # Only the head is sent: an answer shows that nobody waited for the body.
    reader, writer = await send_and_hold(gateway, TIME, b"", {"content-length": str(LARGEST + 1)})
    async with asyncio.timeout(WITHIN):
        assert b" 413 " in await reader.readline()
    writer.close()


async def test_a_body_that_turns_out_too_large_is_refused(http: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(8):
            yield b" " * 256

    problem_of(await http.post(TIME, content=chunks()), 413, "request_too_large")


async def test_a_body_of_the_largest_size_is_read(http: httpx.AsyncClient) -> None:
    body = b'{"zone":"CET"}'.ljust(LARGEST)
    assert (await http.post(TIME, content=body)).json()["zone"] == "CET"


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_a_form_of_a_browser_is_not_json(http: httpx.AsyncClient, media_type: str) -> None:
    answer = await http.post(TIME, content=b"{}", headers={"content-type": media_type})
    problem_of(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/x+json"])
async def test_json_may_be_called_by_each_of_its_names(http: httpx.AsyncClient, media_type: str) -> None:
    assert (await http.post(TIME, content=b"{}", headers={"content-type": media_type})).status_code == 200


async def test_a_refused_argument_is_named_and_its_value_is_not(http: httpx.AsyncClient) -> None:
    answer = await http.post(TIME, json={"zone": "hunter2" * 10, "other": "hunter3"})
    problem = problem_of(answer, 422, "invalid_arguments")
    assert [error["field"] for error in problem["errors"]] == ["zone", "other"]
    assert "hunter" not in answer.text


# Limits


async def test_calls_beyond_the_limit_are_turned_away_at_once() -> None:
    clock = ClockMCPServer()
    async with (
        serve(create_app([clock], Settings(max_calls_in_flight=1))) as served,
        client_of(served) as http,
        asyncio.timeout(WITHIN),
    ):
        _, held = await send_and_hold(served, "/mcp/clock/tools/wait_for_cancellation", b"{}", {})
        await clock.started.wait()
        answer = await http.post(TIME)
        problem = problem_of(answer, 429, "too_many_requests")
        assert answer.headers["retry-after"] == "1"
        assert problem["retry_after"] == 1
        assert "1 calls" in problem["detail"]
        assert (await http.get("/mcp/clock/chimes/1")).status_code == 200  # streams have places of their own
        problem_of(await http.get("/mcp/clock/resources/read?uri=clock://zones"), 429, "too_many_requests")
        held.close()
        await clock.cancelled.wait()
        assert (await http.post(TIME)).status_code == 200


async def test_a_tool_over_its_time_is_stopped(http: httpx.AsyncClient) -> None:
    problem = problem_of(await http.post("/mcp/clock/tools/oversleep"), 504, "backend_timeout")
    assert "0.05 s" in problem["detail"]


async def test_a_bug_shows_nothing_of_itself(http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    answer = await http.post("/mcp/clock/tools/fail", json={"how": "badly"}, headers={"x-request-id": "bug-1"})
    problem = problem_of(answer, 500, "internal_error")
    assert "hunter2" not in answer.text
    assert problem["request_id"] == "bug-1"
    [trace] = [record for record in caplog.records if record.exc_info]
    assert "bug-1" in trace.getMessage()


# The lane and FastAPI's own route


@pytest.mark.parametrize(
    ("tool", "body", "fields"),
    [
        ("get_time", b'{"zone":"CET"}', {}),
        ("get_time", b"", {}),
        ("get_raw_time", b"{}", {}),
        ("get_time", b'{"zone":5}', {}),
        ("get_time", b"{nope", {}),
        ("get_time", b'{"zone":"Atlantis"}', {}),
        ("fail", b'{"how":"down"}', {}),
        ("fail", b'{"how":"badly"}', {}),
        ("oversleep", b"{}", {}),
        ("get_time", b"{}", {"content-type": "text/plain"}),
        ("get_time", b" " * (LARGEST + 1), {}),
        ("nope", b"{}", {}),
    ],
)
async def test_the_lane_and_the_documented_route_answer_alike(
    gateway: Served, monkeypatch: pytest.MonkeyPatch, tool: str, body: bytes, fields: dict[str, str]
) -> None:
    async def call() -> tuple[int, dict[str, str], bytes]:
        async with client_of(gateway) as http:
            headers = {"x-request-id": "same", **fields}
            answer = await http.post(f"/mcp/clock/tools/{tool}", content=body, headers=headers)
        return answer.status_code, {k: v for k, v in answer.headers.items() if k != "date"}, answer.content

    by_lane = await call()
    with monkeypatch.context() as patched:
        passed: list[str] = []

        async def pass_on(self: Any, scope: Any, receive: Any, send: Any) -> None:
            passed.append(scope["path"])
            await self._app(scope, receive, send)

        patched.setattr(FastLane, "__call__", pass_on)
        by_route = await call()
    assert passed == [f"/mcp/clock/tools/{tool}"]
    assert by_route == by_lane


async def test_two_hundred_more_tools_are_each_found(http: httpx.AsyncClient) -> None:
    listed = (await http.get("/mcp/crowd/tools")).json()["tools"]
    assert len(listed) == 200
    assert (await http.post(TIME)).status_code == 200
    problem_of(await http.post("/mcp/crowd/tools/many_199"), 404, "unknown_tool")  # nobody overrides call_tool here


# Resources


@pytest.mark.parametrize(
    ("uri", "answer"),
    [
        ("clock://zones", {"success": True, "zone": "all", "ticks": 3}),
        ("clock://zones?limit=7", {"success": True, "zone": "all", "ticks": 7}),
        ("clock://zones/CET", {"success": True, "zone": "CET", "ticks": 0}),
        ("clock://zones/Am%C3%A9rica%2FLima", {"success": True, "zone": "América/Lima", "ticks": 0}),
    ],
)
async def test_a_resource_is_read(http: httpx.AsyncClient, uri: str, answer: dict[str, Any]) -> None:
    read = await http.get("/mcp/clock/resources/read", params={"uri": uri})
    assert read.headers["content-type"] == "application/json"
    assert read.json() == answer


@pytest.mark.parametrize(
    ("uri", "status", "code"),
    [
        ("clock://zones?limit=99", 422, "invalid_arguments"),
        ("clock://zones?limit=many", 422, "invalid_arguments"),
        ("clock://nothing/here", 404, "unknown_resource"),
        ("db://customers", 404, "unknown_resource"),
        ("no uri at all", 404, "unknown_resource"),
        ("", 404, "unknown_resource"),
        ("clock://zones/Atlantis", 404, "not_found"),
    ],
)
async def test_a_bad_uri_is_refused(http: httpx.AsyncClient, uri: str, status: int, code: str) -> None:
    problem_of(await http.get("/mcp/clock/resources/read", params={"uri": uri}), status, code)


async def test_reading_nothing_names_the_missing_uri(http: httpx.AsyncClient) -> None:
    problem = problem_of(await http.get("/mcp/clock/resources/read"), 422, "invalid_arguments")
    assert problem["errors"][0]["field"] == "uri"


async def test_an_unknown_query_variable_is_not_passed_over(http: httpx.AsyncClient) -> None:
    answer = await http.get("/mcp/clock/resources/read", params={"uri": "clock://zones?limti=7"})
    assert answer.status_code in (404, 422), answer.text


# Streams


async def test_a_route_streams_both_ways(http: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        # More than a tool's request may have: streams have limits of their own.
        for _ in range(8):
            yield b" " * LARGEST

    answer = await http.post("/mcp/clock/chimes/3", content=chunks())
    assert answer.text == f"1 {8 * LARGEST}\n2 {8 * LARGEST}\n3 {8 * LARGEST}\n"


async def test_a_route_that_fails_before_its_first_byte_answers_a_problem(http: httpx.AsyncClient) -> None:
    problem_of(await http.get("/mcp/clock/chimes/13"), 404, "not_found")
    assert "ticks" in str(problem_of(await http.get("/mcp/clock/chimes/0"), 422, "invalid_arguments")["errors"])
    problem_of(await http.get("/mcp/clock/chimes/many"), 404, "not_found")
    problem_of(await http.delete("/mcp/clock/chimes/1"), 405, "method_not_allowed")


async def test_a_route_that_fails_later_breaks_the_connection(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(httpx.RemoteProtocolError):
        await http.get("/mcp/bells/cracked")
    lines = [r.getMessage() for r in caplog.records if "operation=cracked" in r.getMessage()]
    assert len(lines) == 1
    assert "outcome=backend_unavailable" in lines[0]


async def test_a_route_ends_when_its_caller_goes(
    gateway: Served, bells: BellsMCPServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with asyncio.timeout(WITHIN), client_of(gateway) as http, http.stream("GET", "/mcp/bells/endless") as answer:
        assert await anext(answer.aiter_lines()) == "dong"
        await bells.ringing.wait()
    async with asyncio.timeout(WITHIN):
        await bells.silenced.wait()


# Documentation


async def test_every_route_of_a_tool_is_documented_with_its_failures(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    for name, declared in ClockMCPServer.tools.items():
        operation = document["paths"][f"/mcp/clock/tools/{name}"]["post"]
        assert (operation["summary"], operation["description"]) == (declared.title, declared.description)
        responses = operation["responses"]
        assert responses["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/ClockTime")
        failures = {status: response for status, response in responses.items() if status != "200"}
        assert set(failures) >= {"400", "403", "404", "413", "415", "421", "422", "429", "500", "503", "504"}
        for response in failures.values():
            schema = {"$ref": "#/components/schemas/Problem"}
            assert response["content"] == {"application/problem+json": {"schema": schema}}
    assert "HTTPValidationError" not in json.dumps(document)
    assert {"Problem", "FieldError"} <= document["components"]["schemas"].keys()


async def test_the_example_of_a_tool_works(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    content = document["paths"][TIME]["post"]["requestBody"]["content"]["application/json"]
    assert (await http.post(TIME, json=content["example"])).status_code == 200


async def test_the_documentation_can_be_read_in_a_browser(http: httpx.AsyncClient) -> None:
    assert "swagger" in (await http.get("/docs")).text


async def test_the_process_tells_that_it_lives(http: httpx.AsyncClient) -> None:
    assert (await http.get("/health")).json()["status"] == "ok"
    assert (await http.get("/ready")).json()["status"] == "ready"


async def test_a_mistake_in_one_servers_ping_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    class MistakenMCPServer(BaseMCPServer):
        """Can't tell how it is."""

        async def ping(self) -> None:
            raise ZeroDivisionError

    async with serve(create_app([ClockMCPServer(), MistakenMCPServer()])) as served, client_of(served) as http:
        answer = await http.get("/ready")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert answer.json()["servers"]["clock"]["ready"] is True
    assert answer.json()["servers"]["mistaken"]["code"] == "internal_error"
    assert "ZeroDivisionError" in caplog.text
