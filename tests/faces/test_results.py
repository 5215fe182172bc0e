"""A result is written once, inside the gateway's guard: one that can't be is a failure of its tool on every face."""

import json
import logging
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import httpx
import mcp_types as types
import pytest
from pydantic import BaseModel, Field, JsonValue

from app.main import create_app
from app.results import ProtocolResult, RawResult, Result, parse_json, writer_of
from app.servers.base import BaseMCPServer
from app.servers.calls import CallContext, JsonObject
from app.servers.declaring import resource, tool
from app.servers.dynamic import DynamicTool
from app.servers.resources import Resource
from app.settings import Settings
from tests.faces.raw import ERAS, headers, request, websocket
from tests.fixtures.gateway import FACES, Served, caller, serve

NAN = float("nan")


def nested(depth: int) -> Any:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


class Kept(Result):
    value: JsonValue


class Measure(BaseModel):
    number: float


class MeasureResult(Result):
    number: float


class Sample(Result):
    """Holds numbers in every way in which a model can."""

    number: float = 0.0
    nothing: None = None
    within: Measure | None = None
    several: Sequence[Measure] = ()
    by_name: Mapping[str, float] = Field(default_factory=dict[str, float])
    anything: Any = None
    json_value: JsonValue = None
    text: str = ""
    count: int = 0


class Counted(Result):
    count: int
    missing: str | None = None


SAMPLES: dict[str, Result] = {
    "number": Sample(number=NAN),
    "infinite": Sample(number=float("inf")),
    "less_than_all": Sample(number=float("-inf")),
    "within": Sample(within=Measure(number=NAN)),
    "several": Sample(several=[Measure(number=1), Measure(number=NAN)]),
    "by_name": Sample(by_name={"a": NAN}),
    "anything": Sample(anything=[Measure(number=1), {"a": NAN}]),
    "json_value": Sample(json_value={"a": [NAN]}),
    "subclass": type("More", (Sample,), {})(number=NAN),
}
GOOD_SAMPLES: dict[str, Result] = {
    "plain": Sample(number=1.5),
    "words": Sample(text="NaN, Infinity and -Infinity", by_name={"NaN": 1}, json_value=["Infinity"], anything="null"),
    "counted": Counted(count=1),
}


class DeepMCPServer(BaseMCPServer):
    """Returns what it was given."""

    @tool(read_only=True)
    async def take_sample(self, name: str) -> Sample:
        """Return a sample."""
        return (SAMPLES | GOOD_SAMPLES)[name]  # type: ignore[return-value]

    @resource("deep://samples/{name}")
    async def sample(self, name: str) -> Sample:
        """One sample."""
        return (SAMPLES | GOOD_SAMPLES)[name]  # type: ignore[return-value]

    @tool(read_only=True)
    async def give_back(self, value: JsonValue) -> Kept:
        """Return a value."""
        return Kept(value=[value])

    @tool(read_only=True)
    async def give_raw(self, depth: int) -> RawResult[Kept]:
        """Return a value as a backend wrote it."""
        return RawResult(b'{"success":true,"value":%b}' % json.dumps(nested(depth)).encode())


NUMBER: JsonObject = {
    "type": "object",
    "properties": {"number": {"type": "number"}},
    "required": ["number"],
    "additionalProperties": False,
}
BROKEN: dict[str, Any] = {
    "nan": {"number": NAN},
    "infinite": {"number": float("inf")},
    "nan_within": {"number": 1, "more": [{"deep": NAN}]},
    "nan_in_a_model": MeasureResult(number=NAN),
    "nan_raw": RawResult(b'{"success":true,"number":NaN}'),
    "no_json_raw": RawResult(b'{"success":true,"number":'),
    "too_deep": {"number": nested(300)},
    "no_object": [1],
    "nothing": None,
    "not_writable": {"number": object()},
    "half_a_character": {"number": "\ud800"},
    "schema_type": {"number": "hunter2"},
    "schema_missing": {},
    "schema_more": {"number": 1, "other": "hunter2"},
    "schema_in_a_model": Kept(value="hunter2"),
    "schema_raw": RawResult(b'{"success":true,"number":"hunter2"}'),
}
ONLY_BY_SCHEMA = "schema_"


class DialMCPServer(BaseMCPServer):
    """Returns what it should not."""

    def __init__(self) -> None:
        tools = [
            DynamicTool.of(name, output_schema=NUMBER if name.startswith(ONLY_BY_SCHEMA) else None) for name in BROKEN
        ]
        tools.append(DynamicTool.of("good", output_schema=NUMBER))
        tools += [DynamicTool.of(name, output_schema=NUMBER) for name in ("protocol_good", "protocol_bad")]
        super().__init__("dial", "Dial MCP Server", tools=tools, resources=[Resource("dial://nan", "n", "N", "")])

    async def call_tool(self, name: str, arguments: JsonObject, context: CallContext) -> Any:
        match name:
            case "good":
                return {"number": 1.5}
            case "protocol_good":
                return ProtocolResult(types.CallToolResult(content=[], structured_content={"number": 1}))
            case "protocol_bad":
                return ProtocolResult(types.CallToolResult(content=[], structured_content={"number": "hunter2"}))
            case _:
                return BROKEN[name]

    async def get_resource(self, uri: str, context: CallContext) -> Any:
        return {"number": NAN}


@pytest.fixture(scope="module")
async def gateway() -> AsyncGenerator[Served]:
    async with serve(create_app([DeepMCPServer(), DialMCPServer()], Settings())) as served:
        yield served


async def answers(served: Served, server: str, name: str, arguments: JsonObject) -> dict[str, bytes]:
    """Call a tool on every face; return the bytes of each answer. The official client reads no such depth."""
    params: JsonObject = {"name": name, "arguments": arguments}
    found: dict[str, bytes] = {}
    async with httpx.AsyncClient(base_url=served.url, verify=False, timeout=30) as http:
        found["rest"] = (await http.post(f"/mcp/{server}/tools/{name}", json=arguments)).content
        calls = {"calls": [{"server": server, "tool": name, "arguments": arguments}]}
        found["batch"] = (await http.post("/mcp/batch", json=calls)).content
        for era in ERAS:
            plain = request(era, "tools/call", params)
            path = f"/mcp/{server}"
            found[f"plain {era}"] = (await http.post(path, json=plain, headers=headers(era, plain))).content
            asking = request(era, "tools/call", params, progressToken="p")
            found[f"events {era}"] = (await http.post(path, json=asking, headers=headers(era, asking))).content
            older = {**headers(era, plain), "mcp-protocol-version": "2025-03-26"}
            if era != "2026-07-28":
                found["older"] = (await http.post(path, json=plain, headers=older)).content
    for era in ERAS:
        async with websocket(served, era, f"/mcp/{server}/ws") as connection:
            found[f"websocket {era}"] = json.dumps(await connection.ask(request(era, "tools/call", params))).encode()
    return found


@pytest.mark.parametrize("depth", [100, 190, 194])
async def test_what_came_in_goes_out_on_every_face(gateway: Served, depth: int) -> None:
    for face, answer in (await answers(gateway, "deep", "give_back", {"value": nested(depth)})).items():
        assert b"[" * (depth + 1) + b"]" * (depth + 1) in answer.replace(b" ", b""), face
        assert b'"isError":true' not in answer.replace(b" ", b""), face


@pytest.mark.parametrize("depth", [199, 202, 240])
async def test_what_a_backend_wrote_goes_out_on_every_face(gateway: Served, depth: int) -> None:
    for face, answer in (await answers(gateway, "deep", "give_raw", {"depth": depth})).items():
        assert b"[" * depth + b"]" * depth in answer.replace(b" ", b""), face


@pytest.mark.parametrize("depth", [260, 2000, 20_000])
async def test_what_no_face_of_mcp_can_carry_is_a_failure_under_the_requests_id(
    gateway: Served, depth: int, caplog: pytest.LogCaptureFixture
) -> None:
    params: JsonObject = {"name": "give_raw", "arguments": {"depth": depth}}
    for era in ERAS:
        async with websocket(gateway, era, "/mcp/deep/ws") as connection:
            answer = await connection.ask(request(era, "tools/call", params))
        assert json.loads(answer["result"]["content"][0]["text"])["code"] == "internal_error"
        assert answer["result"]["isError"] is True
    assert [r.name for r in caplog.records if r.levelno >= logging.ERROR] == ["MCP.Deep MCP Server"] * 2


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("name", BROKEN)
async def test_what_a_tool_known_at_run_time_may_not_return_is_its_failure(
    gateway: Served, face: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with caller(gateway, face) as call:
        problem = await call("dial", name)
    assert (problem["code"], problem["status"]) == ("internal_error", 500)
    [trace] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert trace.name == "MCP.Dial MCP Server"
    if name.startswith(ONLY_BY_SCHEMA):
        assert f"{name} breaks its output schema" in str(trace.exc_info)
        assert "hunter2" not in caplog.text


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("name", SAMPLES)
async def test_a_declared_tool_that_returns_no_number_has_failed(
    gateway: Served, face: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with caller(gateway, face) as call:
        problem = await call("deep", "take_sample", {"name": name})
    assert (problem["code"], problem["status"]) == ("internal_error", 500)
    [trace] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert trace.name == "MCP.Deep MCP Server"


@pytest.mark.parametrize("name", SAMPLES)
async def test_a_declared_resource_that_holds_no_number_is_a_failure(gateway: Served, name: str) -> None:
    uri = f"deep://samples/{name}"
    async with httpx.AsyncClient(base_url=gateway.url, verify=False, timeout=30) as http:
        read = await http.get("/mcp/deep/resources/read", params={"uri": uri})
    assert (read.status_code, read.json()["code"]) == (500, "internal_error")
    async with websocket(gateway, "2026-07-28", "/mcp/deep/ws") as connection:
        answer = await connection.ask(request("2026-07-28", "resources/read", {"uri": uri}))
    assert answer["error"]["data"]["code"] == "internal_error"


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("name", GOOD_SAMPLES)
async def test_words_that_look_like_no_number_pass(gateway: Served, face: str, name: str) -> None:
    async with caller(gateway, face) as call:
        assert await call("deep", "take_sample", {"name": name}) == GOOD_SAMPLES[name].model_dump(mode="json")


def test_who_can_hold_no_such_number_pays_nothing() -> None:
    assert writer_of(Counted) == Counted.__pydantic_serializer__.to_json


@pytest.mark.parametrize("face", FACES)
async def test_what_a_tool_promised_passes(gateway: Served, face: str) -> None:
    async with caller(gateway, face) as call:
        assert await call("dial", "good") == {"success": True, "number": 1.5}


@pytest.mark.parametrize("era", ERAS)
async def test_a_result_in_the_words_of_the_protocol_is_held_against_the_schema_too(gateway: Served, era: str) -> None:
    for name, failed in (("protocol_good", False), ("protocol_bad", True)):
        async with websocket(gateway, era, "/mcp/dial/ws") as connection:
            answer = await connection.ask(request(era, "tools/call", {"name": name, "arguments": {}}))
        assert answer["result"]["isError"] is failed


async def test_a_resource_that_is_no_json_is_a_failure(gateway: Served) -> None:
    async with httpx.AsyncClient(base_url=gateway.url, verify=False, timeout=30) as http:
        read = await http.get("/mcp/dial/resources/read", params={"uri": "dial://nan"})
        assert (read.status_code, read.json()["code"]) == (500, "internal_error")
    async with websocket(gateway, "2026-07-28", "/mcp/dial/ws") as connection:
        answer = await connection.ask(request("2026-07-28", "resources/read", {"uri": "dial://nan"}))
    assert answer["error"]["data"]["code"] == "internal_error"


@pytest.mark.parametrize("body", [b"NaN", b"[Infinity]", b"{", b"[" * 300 + b"NaN" + b"]" * 300, b"[" * 100_000])
def test_what_is_no_json_is_not_read_as_any(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(body)


def test_json_is_read_deeper_than_the_fast_parser_goes() -> None:
    assert parse_json(json.dumps(nested(400)).encode()) == nested(400)


@pytest.mark.parametrize("size", [1, 20_000])
async def test_a_large_result_is_held_against_its_schema_beside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    class ListMCPServer(BaseMCPServer):
        async def call_tool(self, name: str, arguments: JsonObject, context: CallContext) -> Any:
            value = {"items": list(range(size))}
            in_words = ProtocolResult(types.CallToolResult(content=[], structured_content=value))
            return value if name == "plain" else in_words

    schema: JsonObject = {"type": "object", "properties": {"items": {"type": "array", "items": {"type": "integer"}}}}
    tools = [DynamicTool.of(name, output_schema=schema) for name in ("plain", "protocol")]
    seen: list[bool] = []
    check = DynamicTool.check_result

    def note(self: DynamicTool, value: Any) -> None:
        seen.append(threading.current_thread() is threading.main_thread())
        check(self, value)

    monkeypatch.setattr(DynamicTool, "check_result", note)
    async with serve(create_app([ListMCPServer("list", "List MCP Server", tools=tools)], Settings())) as served:
        for name in ("plain", "protocol"):
            assert all((await answers(served, "list", name, {})).values())
    assert set(seen) == {size == 1}
