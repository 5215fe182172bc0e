"""`POST /mcp/batch`: many calls, one round trip, each with its own end."""

from collections.abc import AsyncGenerator
from typing import Any

import anyio
import httpx
import pytest

from app.main import create_app
from app.results import RawResult
from app.servers.declaring import tool
from app.settings import Settings
from tests.clock import ClockMCPServer, ClockTime
from tests.fixtures.gateway import Served, serve


@pytest.fixture
async def clock() -> ClockMCPServer:
    return ClockMCPServer()


@pytest.fixture
async def gateway(clock: ClockMCPServer) -> AsyncGenerator[Served]:
    async with serve(create_app([clock], Settings(max_calls_in_flight=2, max_batch_calls=20))) as served:
        yield served


@pytest.fixture
async def http(gateway: Served) -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as client:
        yield client


def get_time(zone: str = "UTC", **others: Any) -> dict[str, Any]:
    return {"server": "clock", "tool": "get_time", "arguments": {"zone": zone}, **others}


@pytest.mark.parametrize("mode", ["concurrent", "sequential"])
async def test_each_call_has_its_own_end_in_the_order_of_the_calls(http: httpx.AsyncClient, mode: str) -> None:
    calls = [
        get_time("CET", id="first"),
        get_time("Atlantis", id=2),
        {"server": "mcp_clock", "tool": "get_raw_time"},
        {"server": "clock", "tool": "nope", "arguments": {}},
        get_time(""),
        {"server": "sundial", "tool": "get_time"},
    ]
    response = await http.post("/mcp/batch", json={"calls": calls, "mode": mode})
    assert response.status_code == 200
    answer = response.json()
    assert (answer["success"], answer["failed"]) == (True, 4)
    results = answer["results"]
    assert results[0] == {"success": True, "id": "first", "result": {"success": True, "zone": "CET", "ticks": 0}}
    assert results[2] == {"success": True, "id": None, "result": {"success": True, "zone": "UTC", "ticks": 7}}
    problems = [result["error"] for result in results if not result["success"]]
    assert [problem["code"] for problem in problems] == [
        "not_found",
        "unknown_tool",
        "invalid_arguments",
        "unknown_server",
    ]
    assert {problem["request_id"] for problem in problems} == {response.headers["x-request-id"]}
    assert results[1]["id"] == 2
    assert problems[2]["errors"][0]["field"] == "zone"


async def test_a_call_in_a_batch_answers_what_its_route_answers(http: httpx.AsyncClient) -> None:
    for zone in ("UTC", "Atlantis", ""):
        alone = (await http.post("/mcp/clock/tools/get_time", json={"zone": zone})).json()
        [result] = (await http.post("/mcp/batch", json={"calls": [get_time(zone)]})).json()["results"]
        batched = result["result"] if result["success"] else result["error"]
        alone.pop("request_id", None)
        batched.pop("request_id", None)
        assert batched == alone


async def test_a_batch_is_not_refused_by_its_own_calls(http: httpx.AsyncClient) -> None:
    answer = (await http.post("/mcp/batch", json={"calls": [get_time()] * 20})).json()
    assert answer["failed"] == 0
    assert len(answer["results"]) == 20


async def test_a_sequential_batch_can_stop_at_the_first_failure(http: httpx.AsyncClient) -> None:
    calls = [get_time(), get_time("Atlantis"), get_time()]
    batch = {"calls": calls, "mode": "sequential", "stop_on_error": True}
    results = (await http.post("/mcp/batch", json=batch)).json()["results"]
    assert [result["success"] for result in results] == [True, False, False]
    assert results[2]["error"]["code"] == "not_run"
    assert "calls.1" in results[2]["error"]["detail"]


@pytest.mark.parametrize(
    ("batch", "field"),
    [
        ({"calls": []}, "calls"),
        ({"calls": [get_time()] * 21}, "calls"),
        ({}, "calls"),
        ({"calls": [get_time(), {"tool": "get_time"}]}, "calls.1.server"),
        ({"calls": [{"server": "clock", "tool": 5}]}, "calls.0.tool"),
        ({"calls": [{"server": "clock", "tool": "get_time", "arguments": []}]}, "calls.0.arguments"),
        ({"calls": [get_time(args={})]}, "calls.0.args"),
        ({"calls": [get_time()], "mode": "parallel"}, "mode"),
        ({"calls": [get_time()], "stop_on_error": True}, "stop_on_error"),
        ({"calls": [get_time()], "stop_on_error": "yes"}, "stop_on_error"),
        ([], ""),
    ],
)
async def test_a_malformed_batch_is_refused_and_the_field_named(
    http: httpx.AsyncClient, batch: object, field: str
) -> None:
    response = await http.post("/mcp/batch", json=batch)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert [error["field"] for error in response.json()["errors"]] == [field]


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b'{"calls":[{"server":"clock","tool":"get_time","arguments":{"zone":NaN}}]}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"{}", "text/plain", 415),
        (b'"' + b"x" * 5_000_000 + b'"', "application/json", 413),
    ],
)
async def test_what_is_no_json_is_refused(
    http: httpx.AsyncClient, content: bytes, content_type: str, status: int
) -> None:
    response = await http.post("/mcp/batch", content=content, headers={"content-type": content_type})
    assert response.status_code == status
    assert response.json()["status"] == status


@pytest.mark.parametrize("zone", ["7" * 5000, "[1e400," + "7" * 5000 + "]", '{"a":1,"a":' + "7" * 5000 + "}"])
async def test_a_number_that_is_too_long_is_the_failure_of_its_call(http: httpx.AsyncClient, zone: str) -> None:
    calls = (
        '{"server":"clock","tool":"get_time"},{"server":"clock","tool":"get_time","arguments":{"zone":' + zone + "}}"
    )
    response = await http.post(
        "/mcp/batch", content=f'{{"calls":[{calls}]}}', headers={"content-type": "application/json"}
    )
    assert response.status_code == 200, response.text
    good, bad = response.json()["results"]
    assert (good["success"], bad["success"]) == (True, False)
    assert "more than 1000 digits" in bad["error"]["detail"]


async def test_a_batch_is_posted(http: httpx.AsyncClient) -> None:
    response = await http.get("/mcp/batch")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("mode", ["concurrent", "sequential"])
async def test_calls_are_cancelled_when_the_caller_goes_away(
    gateway: Served, http: httpx.AsyncClient, clock: ClockMCPServer, mode: str
) -> None:
    calls = [{"server": "clock", "tool": "wait_for_cancellation"}, get_time()]
    async with anyio.create_task_group() as caller:
        caller.start_soon(lambda: http.post("/mcp/batch", json={"calls": calls, "mode": mode}, timeout=60))
        with anyio.fail_after(30):
            await clock.started.wait()
        caller.cancel_scope.cancel()
    with anyio.fail_after(30):
        await clock.cancelled.wait()


async def test_the_batch_is_documented_with_its_schemas(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    operation = document["paths"]["/mcp/batch"]["post"]
    schemas = document["components"]["schemas"]
    request = schemas[operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]]
    assert request["properties"]["calls"]["maxItems"] == 20
    assert request["properties"]["calls"]["items"] == {"$ref": "#/components/schemas/BatchCall"}
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    assert set(schemas[answer]["properties"]) == {"success", "results", "failed"}
    assert set(operation["responses"]) == {"200", "400", "403", "413", "415", "421", "422", "500"}
    for status, response in operation["responses"].items():
        assert status == "200" or list(response["content"]) == ["application/problem+json"]


class LongWinded(ClockMCPServer):
    """Tells the time at length."""

    server_id, name = "clock", "Clock MCP Server"

    @tool(read_only=True)
    async def get_much(self) -> RawResult[ClockTime]:
        """Answer with 4 MiB."""
        return RawResult(b'{"success":true,"zone":"%b","ticks":7}' % (b"x" * 4 * 2**20))


@pytest.mark.parametrize("mode", ["concurrent", "sequential"])
async def test_a_batch_begins_no_further_call_when_its_answer_is_large(mode: str) -> None:
    async with (
        serve(create_app([LongWinded()], Settings(max_unsent_bytes=5 * 2**20))) as served,
        httpx.AsyncClient(base_url=served.url, timeout=60) as http,
    ):
        calls = [*[{"server": "clock", "tool": "get_much", "id": n} for n in range(20)], get_time()]
        answer = (await http.post("/mcp/batch", json={"calls": calls, "mode": mode})).json()
    ends = [result.get("error", {}).get("code") for result in answer["results"]]
    assert ends == [None] * 4 + ["not_run"] * 17
    assert answer["failed"] == 17
    assert {len(result["result"]["zone"]) for result in answer["results"][:4]} == {4 * 2**20}


@pytest.mark.parametrize("body", ["[]", '[{"server": "clock", "tool": "get_time"}]', '"x"', "5", "null"])
async def test_a_batch_that_is_no_object_is_told_what_one_looks_like(http: httpx.AsyncClient, body: str) -> None:
    answer = await http.post("/mcp/batch", content=body, headers={"content-type": "application/json"})
    expected = 'arguments: expected an object: {"calls": [{"server": "…", "tool": "…", "arguments": {…}}, …]}'
    assert (answer.status_code, answer.json()["detail"]) == (422, expected)


async def test_a_refusal_names_no_class_of_ours(http: httpx.AsyncClient) -> None:
    detail = (await http.post("/mcp/batch", json={"calls": [5]})).json()["detail"]
    assert detail == "calls.0: Input should be an object"
