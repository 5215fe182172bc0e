"""Large results count from when they are made until they are on their way, on every face."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import mcp_types as types
import pytest
from mcp.server.runner import ServerRunner

from app.budget import LARGE
from app.main import create_app
from app.results import ProtocolResult, RawResult, parse_json
from app.servers.base import BaseMCPServer
from app.servers.calls import CallContext, JsonObject
from app.servers.declaring import resource, tool
from app.servers.dynamic import DynamicTool
from app.settings import Settings
from tests.clock import ClockTime
from tests.faces.raw import WITHIN, client_of, event_stream, headers, request, websocket
from tests.fixtures.gateway import Served, serve
from tests.serving.callers import LARGE as BEYOND_THE_KERNEL
from tests.serving.callers import caller, post, until

MODERN, LEGACY = "2026-07-28", "2025-11-25"
MUCH = 4 * LARGE
LIMIT = 64 * LARGE
FACES = ("rest", "mcp", "mcp-by-the-sdk", "mcp-events", "websocket", "websocket-by-the-sdk", "batch")


def of_size(size: int) -> RawResult[ClockTime]:
    return RawResult(b'{"success":true,"zone":"%b","ticks":7}' % (b"x" * size))


class LargeMCPServer(BaseMCPServer):
    """Answers at length."""

    server_id = "slow"

    def __init__(self) -> None:
        super().__init__(tools=[DynamicTool.of("get_protocols", read_only=True)])
        self.changes = 0
        self.mcp_handlers = {"on_get_prompt": self.get_prompt}

    async def call_tool(self, name: str, arguments: JsonObject, context: CallContext) -> Any:
        value = json.loads(of_size(int(str(arguments["size"]))).json)
        content = types.TextContent(type="text", text=json.dumps(value))
        return ProtocolResult(types.CallToolResult(content=[content], structured_content=value))

    async def get_prompt(self, context: Any, params: types.GetPromptRequestParams) -> types.GetPromptResult:
        text = types.TextContent(type="text", text="x" * MUCH)
        return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=text)])

    @tool(read_only=True)
    async def get_lines(self, size: int) -> RawResult[ClockTime]:
        """Answer so many bytes, as a backend wrote them."""
        return RawResult(b'{"success":true,\r\n"zone":\n"%b",\r"ticks":7}' % (b"x" * size))

    @tool(read_only=True)
    async def get(self, size: int) -> RawResult[ClockTime]:
        """Answer so many bytes."""
        return of_size(size)

    @tool(read_only=True)
    async def get_with_context(self, context: CallContext, size: int) -> RawResult[ClockTime]:
        """Answer so many bytes, past the plain lane."""
        return of_size(size)

    @tool()
    async def change(self, size: int) -> RawResult[ClockTime]:
        """Change something, and answer so many bytes."""
        self.changes += 1
        return of_size(size)

    @tool(read_only=True)
    async def get_much(self) -> RawResult[ClockTime]:
        """Answer more than the kernel takes."""
        return of_size(BEYOND_THE_KERNEL)

    @resource("slow://things/{size}")
    async def thing(self, size: int) -> RawResult[ClockTime]:
        """A large thing."""
        return of_size(size)


@pytest.fixture
def server() -> LargeMCPServer:
    return LargeMCPServer()


@pytest.fixture
async def gateway(server: LargeMCPServer) -> AsyncGenerator[Served]:
    async with serve(create_app([server], Settings(max_unsent_bytes=LIMIT))) as served:
        yield served
        assert served.app.state.gateway.results.held == 0


async def call(served: Served, face: str, name: str, size: int) -> dict[str, Any]:
    """Call a tool through a face; return its result object or its problem."""
    arguments: JsonObject = {"size": size}
    if face == "rest":
        async with client_of(served) as http:
            answer: dict[str, Any] = (await http.post(f"/mcp/slow/tools/{name}", json=arguments)).json()
            return answer
    if face == "batch":
        async with client_of(served) as http:
            calls = [{"server": "slow", "tool": name, "arguments": arguments}]
            [result] = (await http.post("/mcp/batch", json={"calls": calls})).json()["results"]
            outcome: dict[str, Any] = result["result"] if result["success"] else result["error"]
            return outcome
    if face.endswith("by-the-sdk") and name == "get":
        name = "get_with_context"
    params: JsonObject = {"name": name, "arguments": arguments}
    if face == "mcp-events":
        message = request(LEGACY, "tools/call", params, progressToken="p")
        async with event_stream(served, message, LEGACY, path="/mcp/slow") as messages:
            answered = await anext(messages)
    elif face.startswith("mcp"):
        message = request(MODERN, "tools/call", params)
        async with client_of(served) as http:
            answered = (await http.post("/mcp/slow", json=message, headers=headers(MODERN, message))).json()
    else:
        async with websocket(served, MODERN, "/mcp/slow/ws", max_size=None) as socket:
            small: JsonObject = {"name": "get", "arguments": {"size": 1}}
            await socket.ask(request(MODERN, "tools/call", small, number=100))  # by the SDK: plain from here on
            answered = await socket.ask(request(MODERN, "tools/call", params))
    answer = json.loads(answered["result"]["content"][0]["text"])
    assert not answer["success"] or answered["result"]["structuredContent"]["zone"] == answer["zone"]
    return answer


@pytest.mark.parametrize("face", FACES)
async def test_a_large_result_is_refused_while_others_wait_to_be_written(gateway: Served, face: str) -> None:
    with gateway.app.state.gateway.results.share() as others:
        others.take(LIMIT - 3 * LARGE)
        refused = await call(gateway, face, "get", MUCH)
        assert (refused["code"], "MAX_UNSENT_BYTES" in refused["detail"]) == ("too_many_requests", True)
        assert len((await call(gateway, face, "get", 1000))["zone"]) == 1000
        assert len((await call(gateway, face, "get", LARGE))["zone"]) == LARGE, "there is room for this"
    assert len((await call(gateway, face, "get", MUCH))["zone"]) == MUCH


async def test_one_alone_is_never_too_large(gateway: Served) -> None:
    arguments = b'{"size":%d}' % LIMIT
    result = await gateway.app.state.gateway.call("slow", "get", arguments, CallContext("1", "internal"))
    assert len(result) > LIMIT


@pytest.mark.parametrize("face", FACES)
async def test_what_changes_something_is_refused_before_it_runs_and_never_after(
    gateway: Served, server: LargeMCPServer, face: str
) -> None:
    results = gateway.app.state.gateway.results
    with results.share() as others:
        others.take(results.limit + 1)
        assert (await call(gateway, face, "change", 1))["code"] == "too_many_requests"
        assert server.changes == 0
        others.take(results.limit)
        assert len((await call(gateway, face, "change", MUCH))["zone"]) == MUCH
        assert server.changes == 1


async def test_large_resources_count_as_well(gateway: Served) -> None:
    uri = f"slow://things/{MUCH}"
    message = request(MODERN, "resources/read", {"uri": uri})

    async def read_by_rest() -> dict[str, Any]:
        async with client_of(gateway) as http:
            answer: dict[str, Any] = (await http.get("/mcp/slow/resources/read", params={"uri": uri})).json()
            return answer

    async def read_by_mcp() -> dict[str, Any]:
        async with client_of(gateway) as http:
            answered = (await http.post("/mcp/slow", json=message, headers=headers(MODERN, message))).json()
            answer: dict[str, Any] = (
                answered["error"]["data"]
                if "error" in answered
                else json.loads(answered["result"]["contents"][0]["text"])
            )
            return answer

    for read in (read_by_rest, read_by_mcp):
        with gateway.app.state.gateway.results.share() as others:
            others.take(LIMIT - 3 * LARGE)
            assert (await read())["code"] == "too_many_requests"
        assert len((await read())["zone"]) == MUCH


@pytest.mark.parametrize("face", ["mcp-by-the-sdk", "mcp-events", "websocket-by-the-sdk"])
@pytest.mark.parametrize("name", ["get", "get_protocols"])
async def test_the_sdk_never_sees_a_large_result(
    gateway: Served, monkeypatch: pytest.MonkeyPatch, face: str, name: str
) -> None:
    seen: list[int] = []
    serialize = ServerRunner._serialize

    def note(self: ServerRunner, method: str, version: str, result: Any) -> dict[str, Any]:
        structured = result["structuredContent"] if isinstance(result, dict) else result.structured_content
        seen.append(len(json.dumps(structured)))
        return serialize(self, method, version, result)

    def read(body: bytes) -> Any:
        assert len(body) <= LARGE, "it was read once more"
        return parse_json(body)

    monkeypatch.setattr("app.faces.protocol.parse_json", read)
    monkeypatch.setattr(ServerRunner, "_serialize", note)
    assert len((await call(gateway, face, name, MUCH))["zone"]) == MUCH
    assert max(seen) < 1000


@pytest.mark.parametrize("face", ["mcp", "mcp-events", "websocket"])
async def test_results_in_the_protocols_own_words_count_as_well(gateway: Served, face: str) -> None:
    with gateway.app.state.gateway.results.share() as others:
        others.take(LIMIT - 3 * LARGE)
        assert (await call(gateway, face, "get_protocols", MUCH))["code"] == "too_many_requests"
        assert len((await call(gateway, face, "get_protocols", LARGE // 4))["zone"]) == LARGE // 4
    assert len((await call(gateway, face, "get_protocols", MUCH))["zone"]) == MUCH


async def test_what_answers_a_method_of_the_protocol_counts_as_well(gateway: Served) -> None:
    message = request(LEGACY, "prompts/get", {"name": "long"})

    async def prompted() -> dict[str, Any]:
        async with client_of(gateway) as http:
            answer: dict[str, Any] = (
                await http.post("/mcp/slow", json=message, headers=headers(LEGACY, message))
            ).json()
            return answer

    with gateway.app.state.gateway.results.share() as others:
        others.take(LIMIT - 3 * LARGE)
        assert (await prompted())["error"]["data"]["code"] == "too_many_requests"
    assert len((await prompted())["result"]["messages"][0]["content"]["text"]) == MUCH


@pytest.mark.parametrize("size", [10, MUCH])
async def test_lines_of_a_backends_json_are_no_lines_of_the_answer(gateway: Served, size: int) -> None:
    params: JsonObject = {"name": "get_lines", "arguments": {"size": size}}
    message = request(LEGACY, "tools/call", params, progressToken="p")
    async with event_stream(gateway, message, LEGACY, path="/mcp/slow") as messages:
        [answered] = [message async for message in messages]
    assert answered["result"]["structuredContent"]["zone"] == "x" * size
    assert json.loads(answered["result"]["content"][0]["text"]) == answered["result"]["structuredContent"]


@asynccontextmanager
async def held_by_who_takes_nothing(server: LargeMCPServer, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Served]:
    """Serve with two thirds of all unsent bytes held by two callers who have stopped reading."""
    monkeypatch.setattr("app.serving.connections._STUCK", 0.0)
    settings = Settings(max_unsent_bytes=3 * BEYOND_THE_KERNEL)
    async with serve(create_app([server], settings)) as served, AsyncExitStack() as stack:
        results = served.app.state.gateway.results
        for number in (1, 2):
            stuck = await stack.enter_async_context(caller(served, reads_little=True))
            # The second answer waits until the first has left.
            stuck.send(post("get_much"), post("get_much"))
            await until(lambda number=number: results.held > number * BEYOND_THE_KERNEL)
        yield served


async def test_a_reader_who_takes_nothing_gives_up_what_others_want(
    server: LargeMCPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        held_by_who_takes_nothing(server, monkeypatch) as served,
        client_of(served) as http,
        asyncio.timeout(WITHIN),
    ):
        refused = await http.post("/mcp/slow/tools/get_much")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        while (await http.post("/mcp/slow/tools/get_much")).status_code == 429:
            pass
    assert served.app.state.gateway.results.held == 0


async def test_what_changed_something_is_never_refused_and_who_takes_nothing_makes_room_for_it(
    server: LargeMCPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with held_by_who_takes_nothing(server, monkeypatch) as served:
        answer = await call(served, "rest", "change", BEYOND_THE_KERNEL)
        assert (len(answer["zone"]), server.changes) == (BEYOND_THE_KERNEL, 1)
        await until(lambda: served.app.state.gateway.results.held < 2 * BEYOND_THE_KERNEL)
