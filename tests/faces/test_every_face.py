"""What holds on every face alike: results, schemas, failures."""

from collections.abc import AsyncGenerator

import httpx
import pytest

from app.main import create_app
from app.settings import Settings
from tests.clock import ClockMCPServer
from tests.fixtures.gateway import Call, Served, mcp_client, serve


@pytest.fixture
async def clock() -> ClockMCPServer:
    return ClockMCPServer()


@pytest.fixture
async def gateway(clock: ClockMCPServer) -> AsyncGenerator[Served]:
    async with serve(create_app([clock], Settings(max_calls_in_flight=2))) as served:
        yield served


async def test_a_tool_answers_its_result(call: Call) -> None:
    assert await call("clock", "get_time", {"zone": "CET"}) == {"success": True, "zone": "CET", "ticks": 0}


async def test_arguments_may_be_left_out(call: Call) -> None:
    assert (await call("clock", "get_time"))["zone"] == "UTC"


async def test_bytes_of_the_backend_pass_unchanged(call: Call) -> None:
    assert await call("clock", "get_raw_time") == {"success": True, "zone": "UTC", "ticks": 7}


async def test_a_client_may_say_mcp_before_the_servers_name(gateway: Served) -> None:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as http:
        assert (await http.post("/mcp/mcp_clock/tools/get_time")).json()["zone"] == "UTC"


@pytest.mark.parametrize(
    ("tool", "arguments", "status", "code", "field"),
    [
        ("get_time", {"zone": 5}, 422, "invalid_arguments", "zone"),
        ("get_time", {"zone": ""}, 422, "invalid_arguments", "zone"),
        ("get_time", {"zoen": "UTC"}, 422, "invalid_arguments", "zoen"),
        ("tick", {}, 422, "invalid_arguments", "ticks"),
        ("tick", {"ticks": "five"}, 422, "invalid_arguments", "ticks"),
        ("tick", {"ticks": 5.5}, 422, "invalid_arguments", "ticks"),
        ("tick", {"ticks": True}, 422, "invalid_arguments", "ticks"),
        ("get_time", {"zone": "Atlantis"}, 404, "not_found", None),
        ("fail", {"how": "conflict"}, 409, "conflict", None),
        ("fail", {"how": "down"}, 503, "backend_unavailable", None),
        ("oversleep", {}, 504, "backend_timeout", None),
        ("fail", {"how": "badly"}, 500, "internal_error", None),
        ("fail", {"how": "timeout"}, 500, "internal_error", None),
        ("nope", {}, 404, "unknown_tool", None),
    ],
)
async def test_a_failure_is_the_same_problem_on_every_face(
    call: Call, tool: str, arguments: dict[str, object], status: int, code: str, field: str | None
) -> None:
    problem = await call("clock", tool, arguments)
    assert (problem["success"], problem["status"], problem["code"]) == (False, status, code)
    assert [error["field"] for error in problem.get("errors", [])] == ([field] if field else [])
    assert problem["detail"]
    assert problem["request_id"]
    assert "hunter2" not in str(problem)


async def test_schemas_are_the_same_on_every_face(gateway: Served, face: str) -> None:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as http:
        listed = (await http.get("/mcp/clock/tools")).json()["tools"]
        openapi = (await http.get("/openapi.json")).json()
    for tool in listed:
        operation = openapi["paths"][f"/mcp/clock/tools/{tool['name']}"]["post"]
        assert operation["requestBody"]["content"]["application/json"]["schema"] == tool["inputSchema"]
    if face != "rest":
        async with mcp_client(gateway, face, "clock") as client:
            tools = (await client.list_tools()).tools
        dumped = [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in tools]
        assert dumped == listed


async def test_all_servers_together_offer_the_same_tools(gateway: Served, face: str) -> None:
    if face == "rest":
        async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as http:
            names = (await http.get("/mcp")).json()["servers"][0]["tools"]
    else:
        async with mcp_client(gateway, face) as client:
            names = [tool.name for tool in (await client.list_tools()).tools]
            assert (await client.call_tool("get_time", {})).structured_content == {
                "success": True,
                "zone": "UTC",
                "ticks": 0,
            }
    assert names == list(ClockMCPServer.tools)
