"""The client against the gateway itself, over REST and over WebSocket."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import pytest
import respx
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as websocket_serve

import agents
from agents.balancing import RetryPolicy
from agents.client import MCPClient
from agents.errors import (
    BackendTimeout,
    BackendUnavailable,
    CallFailed,
    CallTimeout,
    Conflict,
    ConnectionFailed,
    ConnectionLost,
    GatewayFailed,
    InvalidArguments,
    MalformedAnswer,
    NotFound,
    NotRun,
    ResourceNotFound,
    ServerNotFound,
    ToolNotFound,
)
from app.main import create_app
from app.servers.declaring import tool
from app.settings import Settings
from tests.agents.faults import TOOLS, FakeTime, gateway_processes, serve_at
from tests.clock import ClockMCPServer, ClockTime
from tests.faces.raw import WITHIN
from tests.fixtures.gateway import Served, serve
from tests.fixtures.postgres import TestDatabase

WAYS = ("base http", "base ws", "server http", "server http root", "server ws", "server ws root", "two bases")


@pytest.fixture
async def clock() -> ClockMCPServer:
    return ClockMCPServer()


@pytest.fixture
async def gateway(clock: ClockMCPServer) -> AsyncGenerator[Served]:
    async with serve(create_app([clock], Settings(max_batch_calls=50), root_server="clock")) as served:
        yield served


@pytest.fixture(params=WAYS)
def config(request: pytest.FixtureRequest, gateway: Served) -> Any:
    return {
        "base http": gateway.url,
        "base ws": gateway.websocket_url,
        "server http": {"servers": {"mcp_clock": {"uri": f"{gateway.url}/mcp/clock"}}},
        "server http root": {"servers": {"clock": {"uri": f"{gateway.url}/"}}},
        "server ws": {"servers": {"mcp_clock": {"uri": f"{gateway.websocket_url}/mcp/clock/ws"}}},
        "server ws root": {"servers": {"mcp_clock": {"uri": gateway.websocket_url}}},
        "two bases": [gateway.url, gateway.websocket_url],
    }[request.param]


@pytest.fixture
async def client(config: Any) -> AsyncGenerator[MCPClient]:
    async with MCPClient(config, name="tester/1") as connected:
        yield connected


async def test_a_tool_answers_its_result_object(client: MCPClient) -> None:
    result = await client.call_tool("mcp_clock", "get_time", {"zone": "CET"})
    assert result["success"] is True
    assert result == await client.call_tool("clock", "get_time", {"zone": "CET"})
    assert (await client.call_tool("clock", "get_raw_time"))["ticks"] == 7


@pytest.mark.parametrize(
    ("tool", "arguments", "kind", "code", "fields"),
    [
        ("nope", {}, ToolNotFound, "unknown_tool", []),
        ("get_time", {"zone": 5}, InvalidArguments, "invalid_arguments", ["zone"]),
        ("get_time", {"zone": "", "zoen": 1}, InvalidArguments, "invalid_arguments", ["zone", "zoen"]),
        ("get_time", {"zone": "Atlantis"}, NotFound, "not_found", []),
        ("fail", {"how": "conflict"}, Conflict, "conflict", []),
        ("fail", {"how": "down"}, BackendUnavailable, "backend_unavailable", []),
        ("oversleep", {}, BackendTimeout, "backend_timeout", []),
        ("fail", {"how": "badly"}, GatewayFailed, "internal_error", []),
    ],
)
async def test_a_failure_is_an_exception_with_the_gateways_words(
    client: MCPClient, tool: str, arguments: dict[str, Any], kind: type[CallFailed], code: str, fields: list[str]
) -> None:
    with pytest.raises(CallFailed) as raised:
        await client.call_tool("clock", tool, arguments)
    failure = raised.value
    assert type(failure) is kind
    assert failure.code == code
    assert failure.message == str(failure) != ""
    assert failure.request_id
    assert [error.field for error in failure.errors] == fields


async def test_resources_are_read(client: MCPClient) -> None:
    assert await client.get_resource("mcp_clock", "clock://zones?limit=5") == {
        "success": True,
        "zone": "all",
        "ticks": 5,
    }
    with pytest.raises(NotFound):
        await client.get_resource("clock", "clock://zones/Atlantis")
    with pytest.raises(ResourceNotFound):
        await client.get_resource("clock", "clock://hands")


async def test_tools_are_listed(client: MCPClient) -> None:
    tools = await client.list_tools("mcp_clock")
    assert [tool["name"] for tool in tools] == list(ClockMCPServer.tools)
    assert tools[0]["annotations"]["readOnlyHint"] is True


@pytest.mark.parametrize("mode", ["concurrent", "sequential"])
async def test_a_batch_has_an_end_for_each_call_in_their_order(client: MCPClient, mode: Any) -> None:
    zones = [f"Z{n}" for n in range(120)]
    calls: list[Any] = [{"server": "mcp_clock", "tool": "get_time", "arguments": {"zone": zone}} for zone in zones]
    calls[3] = {"server": "clock", "tool": "get_time", "arguments": {"zone": "Atlantis"}}
    calls[77] = {"server": "clock", "tool": "fail", "arguments": {"how": "conflict"}}
    calls[80] = {"server": "clock", "tool": "get_raw_time"}
    outcomes = await client.batch(calls, mode=mode)
    assert isinstance(outcomes[3], NotFound)
    assert outcomes[3].request_id
    assert isinstance(outcomes[77], Conflict)
    expected = {n: {"success": True, "zone": zone, "ticks": 0} for n, zone in enumerate(zones)}
    expected[80] = {"success": True, "zone": "UTC", "ticks": 7}
    assert {n: outcome for n, outcome in enumerate(outcomes) if n not in (3, 77)} == {
        n: result for n, result in expected.items() if n not in (3, 77)
    }


async def test_a_sequential_batch_can_stop_at_the_first_failure(client: MCPClient) -> None:
    calls: list[Any] = [{"server": "clock", "tool": "get_time"} for _ in range(70)]
    calls[52] = {"server": "clock", "tool": "get_time", "arguments": {"zone": "Atlantis"}}
    outcomes = await client.batch(calls, mode="sequential", stop_on_error=True)
    assert all(isinstance(outcome, dict) for outcome in outcomes[:52])
    assert isinstance(outcomes[52], NotFound)
    assert all(isinstance(outcome, NotRun) for outcome in outcomes[53:])


async def test_an_empty_batch_needs_no_gateway() -> None:
    async with MCPClient("http://127.0.0.1:9") as client:
        assert await client.batch([]) == []
        assert await client.batch([], mode="sequential", stop_on_error=True) == []


async def test_an_unknown_server_is_named(gateway: Served) -> None:
    async with MCPClient(gateway.url) as client:
        with pytest.raises(ServerNotFound, match="sundial"):
            await client.call_tool("mcp_sundial", "get_time")
        outcomes = await client.batch([{"server": "sundial", "tool": "x"}, {"server": "clock", "tool": "get_time"}])
        assert isinstance(outcomes[0], ServerNotFound)
        assert isinstance(outcomes[1], dict)
    async with MCPClient(gateway.websocket_url) as client:
        with pytest.raises(ServerNotFound, match="sundial"):
            await client.call_tool("mcp_sundial", "get_time")
    async with MCPClient({"servers": {"clock": {"uri": gateway.url}}}) as client:
        with pytest.raises(ServerNotFound, match="mcp_sundial"):
            await client.call_tool("mcp_sundial", "get_time")


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"servers": {}},
        {"servers": {"clock": {}}},
        {"servers": {"clock": {"uri": "ftp://localhost"}}},
        {"servers": {"clock": {"uri": []}}},
        {"servers": {"clock": {"url": "http://localhost"}}},
        "localhost:8000",
        [],
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(config: Any) -> None:
    with pytest.raises(ValueError, match=r"uri|server|address|extra"):
        MCPClient(config)


async def test_many_calls_share_one_websocket(gateway: Served) -> None:
    async with MCPClient(gateway.websocket_url) as client:
        zones = [f"Z{n}" for n in range(200)]
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(client.call_tool("clock", "get_time", {"zone": zone})) for zone in zones]
        assert [call.result()["zone"] for call in calls] == zones
        assert len(gateway.server.server_state.connections) == 1


async def test_more_calls_than_a_gateway_takes_on_one_websocket_wait_their_turn(gateway: Served) -> None:
    async with MCPClient(gateway.websocket_url, retry=FakeTime().policy(rounds=1)) as client:
        calls = [client.call_tool("clock", "oversleep") for _ in range(200)]
        async with asyncio.timeout(WITHIN):
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {BackendTimeout}


@pytest.mark.parametrize("scheme", ["http", "ws"])
async def test_giving_up_stops_the_tool(gateway: Served, clock: ClockMCPServer, scheme: str) -> None:
    url = gateway.url if scheme == "http" else gateway.websocket_url
    async with MCPClient(url) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "clock", "wait_for_cancellation")
            with anyio.fail_after(30):
                await clock.started.wait()
            group.cancel_scope.cancel()
        with anyio.fail_after(30):
            await clock.cancelled.wait()


@pytest.mark.parametrize("scheme", ["http", "ws"])
async def test_a_call_ends_with_its_time_limit(gateway: Served, clock: ClockMCPServer, scheme: str) -> None:
    url = gateway.url if scheme == "http" else gateway.websocket_url
    async with MCPClient(url) as client:
        await client.list_tools("clock")
        with anyio.fail_after(30):
            with pytest.raises(CallTimeout):
                await client.call_tool("clock", "wait_for_cancellation", timeout=1)
            await clock.cancelled.wait()


@pytest.mark.parametrize("scheme", ["http", "ws"])
async def test_nobody_at_the_address_is_said_at_once(scheme: str, unused_port: int) -> None:
    time = FakeTime()
    async with MCPClient(f"{scheme}://127.0.0.1:{unused_port}", retry=time.policy(rounds=3)) as client:
        with pytest.raises(ConnectionFailed, match=str(unused_port)):
            await client.call_tool("clock", "get_time")
    assert len(time.slept) == 2


@pytest.mark.parametrize("scheme", ["http", "ws"])
async def test_a_restart_of_the_gateway_costs_the_caller_nothing(unused_port: int, scheme: str) -> None:
    async with MCPClient(f"{scheme}://127.0.0.1:{unused_port}") as client:
        for _ in range(3):
            async with serve_at(create_app([ClockMCPServer()]), unused_port):
                for _ in range(3):
                    assert (await client.call_tool("clock", "get_time"))["success"] is True
                # Not safe to repeat, and yet it arrives: the broken connection is noticed before it is sent.
                with pytest.raises(Conflict):
                    await client.call_tool("clock", "fail", {"how": "conflict"})


class CountingClockMCPServer(ClockMCPServer):
    """Counts how often it is asked."""

    server_id = "clock"

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    @tool(read_only=True)
    async def get_time(self, zone: str = "UTC") -> ClockTime:
        """Return the time in a zone."""
        self.calls += 1
        return ClockTime(zone=zone)


@pytest.mark.parametrize("scheme", ["http", "ws"])
async def test_calls_are_spread_over_the_addresses(scheme: str) -> None:
    async with (
        serve(create_app([first := CountingClockMCPServer()])) as one,
        serve(create_app([second := CountingClockMCPServer()])) as other,
    ):
        urls = [one.url, other.url] if scheme == "http" else [one.websocket_url, other.websocket_url]
        async with MCPClient(urls) as client:
            for _ in range(20):
                await client.call_tool("clock", "get_time")
    assert (first.calls, second.calls) == (10, 10)


async def test_what_is_safe_to_repeat_survives_the_kill_of_one_of_two_gateways_under_load(
    demo_database: TestDatabase,
) -> None:
    """Reads and writes over REST, WebSocket and in batches at once, since the processes take seconds to start."""
    async with gateway_processes(2, demo_database) as (first, second), contextlib.AsyncExitStack() as stack:
        rest = await stack.enter_async_context(MCPClient([first.url, second.url]))
        websocket = await stack.enter_async_context(MCPClient([first.websocket_url, second.websocket_url]))
        under_load = asyncio.Barrier(15)

        async def read_often(client: MCPClient, worker: int) -> None:
            for n in range(40):
                zone = f"{worker}-{n}"
                assert (await client.call_tool("clock", "get_time", {"zone": zone}))["zone"] == zone
                if n == 10:
                    await under_load.wait()

        async def write_often(client: MCPClient, worker: str) -> None:
            for n in range(20):
                interaction = {"customer_id": "12345", "query_text": f"{worker} {n}", "agent_id": "survivor"}
                saved = await client.call_tool("database", "save_interaction", interaction)
                assert saved["interaction"]["query_text"] == f"{worker} {n}"
                if n == 5:
                    await under_load.wait()

        async def send_often() -> None:
            zones = [f"Z{n}" for n in range(50)]
            calls: list[Any] = [{"server": "clock", "tool": "get_time", "arguments": {"zone": zone}} for zone in zones]
            for n in range(8):
                outcomes: list[Any] = await rest.batch(calls)
                assert [outcome["zone"] for outcome in outcomes] == zones
                if n == 2:
                    await under_load.wait()

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for worker in range(4):
                group.create_task(read_often(rest, worker))
                group.create_task(read_often(websocket, worker))
            for worker in range(2):
                group.create_task(write_often(rest, f"rest {worker}"))
                group.create_task(write_often(websocket, f"websocket {worker}"))
                group.create_task(send_often())
            await under_load.wait()
            await first.kill()
        with pytest.raises(ConnectionFailed):
            async with MCPClient(first.url, retry=FakeTime().policy()) as dead:
                await dead.call_tool("clock", "get_time")
    async with demo_database.connect() as connection:
        stored = await connection.fetch(
            "SELECT query_text, count(*) FROM interactions WHERE agent_id = 'survivor' GROUP BY 1"
        )
    assert len(stored) == 80
    assert {row["count"] for row in stored} == {1}, "each write is stored once, however often it was sent"


class Script:
    """What a WebSocket does with one request after another."""

    def __init__(self, *answers: str | None) -> None:
        self.answers = list(answers)

    async def __call__(self, socket: ServerConnection) -> None:
        async for text in socket:
            request = json.loads(text)
            if "id" not in request:
                continue
            if request["method"] == "tools/list":
                result = {"tools": TOOLS}
                await socket.send(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}))
                continue
            answer = self.answers.pop(0)
            if answer is None:
                return
            await socket.send(answer.replace("ID", str(request["id"])))


GOOD = '{"jsonrpc":"2.0","id":ID,"result":{"structuredContent":{"success":true},"isError":false}}'


@contextlib.asynccontextmanager
async def scripted_websocket(*answers: str | None, retry: RetryPolicy | None = None) -> AsyncGenerator[MCPClient]:
    async with websocket_serve(Script(*answers), "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        config = {"servers": {"things": {"uri": f"ws://127.0.0.1:{port}"}}}
        async with MCPClient(config, retry=retry or FakeTime().policy()) as client:
            yield client


async def test_a_resource_with_half_a_surrogate_pair_is_malformed_however_deep_its_message_goes() -> None:
    nested = "[" * 250 + "]" * 250
    message = json.dumps({"jsonrpc": "2.0", "id": "ID", "result": {"contents": [{"x": "DEEP", "text": "\ud800"}]}})
    async with scripted_websocket(message.replace('"ID"', "ID").replace('"DEEP"', nested)) as client:
        with pytest.raises(MalformedAnswer, match="surrogate"):
            await client.get_resource("things", "a://b")


async def test_a_client_connects_no_more_once_it_is_closed() -> None:
    async with scripted_websocket(GOOD) as client:
        assert await client.call_tool("things", "look") == {"success": True}
        await client.close()
        with pytest.raises(RuntimeError, match="closed"):
            await client.call_tool("things", "look")


async def test_a_websocket_that_closes_in_mid_call_is_a_lost_connection() -> None:
    async with scripted_websocket(None, GOOD, None) as client:
        assert await client.call_tool("things", "look") == {"success": True}
        with pytest.raises(ConnectionLost):
            await client.call_tool("things", "shoot")


@pytest.mark.parametrize(
    "answer",
    [
        "nonsense",
        "[]",
        '{"jsonrpc":"2.0","id":ID}',
        '{"jsonrpc":"2.0","id":ID,"error":{"code":-32603,"message":"Internal error"}}',
        '{"jsonrpc":"2.0","id":ID,"result":{}}',
        '{"jsonrpc":"2.0","id":ID,"result":{"structuredContent":[1]}}',
        '{"jsonrpc":"2.0","id":ID,"result":{"content":[{"type":"text","text":"It failed."}],"isError":true}}',
        '{"jsonrpc":"2.0","id":ID,"result":{"content":5}}',
        '{"jsonrpc":"2.0","id":[ID],"result":{}}',
        '{"jsonrpc":"2.0","id":{"is":ID},"result":{}}',
        '{"jsonrpc":"2.0","id":"ID","result":{}}',
        '{"jsonrpc":"2.0","id":ID.0,"result":{}}',
        '{"jsonrpc":"2.0","id":true,"result":{}}',
        '{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Not JSON"}}',
        '{"jsonrpc":"2.0","result":{}}',
        '{"jsonrpc":"2.0","id":ID,"method":"tools/call","result":[]}',
        "[" * 5000,
        '{"id":"\\ud800"}',
    ],
)
async def test_a_websocket_that_talks_nonsense_is_no_gateway(answer: str) -> None:
    async with scripted_websocket(answer, GOOD) as client:
        with pytest.raises(MalformedAnswer):
            await client.call_tool("things", "look")
        assert await client.call_tool("things", "look") == {"success": True}, "and the next call has a new chance"


@pytest.mark.parametrize(
    "spoilt",
    [
        {"errors": ["customer_id: expected a number"]},
        {"errors": [None, 5, {"field": ["a"], "message": {}}]},
        {"errors": {"field": "x"}},
        {"status": True, "detail": ["busy"], "request_id": {}},
        {"retry_after": float("nan")},
        {"retry_after": float("inf")},
        {"retry_after": -1},
        {"retry_after": 10**400},
        {"retry_after": True},
    ],
)
async def test_a_problem_with_fields_of_other_types_is_the_problem_that_it_says(spoilt: dict[str, object]) -> None:
    problem = {"success": False, "status": 409, "code": "conflict", "detail": "It is taken.", **spoilt}
    failed = json.dumps({"jsonrpc": "2.0", "id": 0, "error": {"code": -32603, "message": "", "data": problem}})
    async with scripted_websocket(failed.replace('"id": 0', '"id": ID'), GOOD) as client:
        with pytest.raises(Conflict) as raised:
            await client.call_tool("things", "look", timeout=WITHIN)
        assert raised.value.retry_after is None
        assert await client.call_tool("things", "look", timeout=WITHIN) == {"success": True}


async def test_a_link_that_fails_takes_every_waiting_call_along_at_once() -> None:
    async with scripted_websocket('{"jsonrpc":"2.0","id":[1],"result":{}}') as client:
        calls = [client.call_tool("things", "shoot", timeout=3600) for _ in range(5)]
        async with asyncio.timeout(WITHIN):
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {MalformedAnswer, ConnectionLost}


@pytest.mark.parametrize("depth", [195, 199, 400])
async def test_a_result_is_read_however_deep_it_is_nested(depth: int) -> None:
    answer = GOOD.replace('"success":true', '"success":true,"value":' + "[" * depth + "]" * depth)
    async with scripted_websocket(answer) as client:
        value = (await client.call_tool("things", "look", timeout=WITHIN))["value"]
    for _ in range(depth - 1):
        [value] = value
    assert value == []


@pytest.mark.parametrize("listing", [{"annotations": "none"}, {"annotations": None, "inputSchema": []}, {"name": []}])
async def test_a_listing_that_says_nothing_of_a_tool_makes_it_one_that_is_sent_once(listing: dict[str, object]) -> None:
    with respx.mock(base_url="http://gateway/mcp/things") as router:
        router.get("/tools").respond(json={"success": True, "tools": [{"name": "look", **listing}]})
        router.post("/tools/look").respond(json={"success": True})
        async with MCPClient("http://gateway") as client:
            assert await client.call_tool("things", "look") == {"success": True}


async def test_notices_and_answers_that_nobody_waits_for_are_passed_over() -> None:
    notice = '{"jsonrpc":"2.0","method":"notifications/message","params":{}}'
    async with scripted_websocket(notice, GOOD.replace("ID", "99"), retry=RetryPolicy()) as client:
        for _ in range(2):
            with pytest.raises(CallTimeout):
                await client.call_tool("things", "look", timeout=0.2)


def test_the_package_is_typed_and_stands_alone() -> None:
    [folder] = agents.__path__
    assert (Path(folder) / "py.typed").exists()
    for module in Path(folder).glob("**/*.py"):
        lines = module.read_text().splitlines()
        assert not [line for line in lines if line.startswith(("from app", "import app"))], module
