"""JSON is read in one way on every face: what would be altered is refused, and by the same words."""

import asyncio
import json
import random
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from app.errors import GatewayError, InvalidArguments
from app.exact_json import MOST_VALUES
from app.main import create_app
from app.servers.calls import JsonObject
from app.settings import Settings
from tests.faces.echo import EchoMCPServer, Shape
from tests.faces.raw import STARTS_WITHIN, Pipe, client_of, headers, launched, request, websocket
from tests.fixtures.gateway import Served, serve

LEGACY, MODERN = "2025-11-25", "2026-07-28"
FACES = (
    "rest",
    "batch",
    "plain",
    *(f"{way} {era}" for way in ("sdk", "websocket", "stdio") for era in (LEGACY, MODERN)),
)
Send = Callable[..., Awaitable[dict[str, Any]]]
"""Calls `echo`, or another tool of that server, with arguments as they stand; returns the result object, the problem or
JSON-RPC's error."""

_PLACE = '"ARGUMENTS"'


@pytest.fixture(scope="module")
async def gateway() -> AsyncGenerator[Served]:
    async with serve(create_app([EchoMCPServer()], Settings())) as served:
        yield served


@pytest.fixture(scope="module")
async def pipes() -> AsyncGenerator[dict[str, Pipe]]:
    """The same server over standard input and output, by era."""
    command, root = [sys.executable, "-m", "tests.faces.echo"], Path(__file__).parents[2]
    async with launched(LEGACY, command, cwd=root) as legacy, launched(MODERN, command, cwd=root) as modern:
        yield {LEGACY: legacy, MODERN: modern}


@pytest.fixture(params=FACES)
async def send(request: pytest.FixtureRequest, gateway: Served, pipes: dict[str, Pipe]) -> AsyncGenerator[Send]:
    """Each way in, for arguments that no library would send."""
    way, _, era = str(request.param).partition(" ")
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(client_of(gateway))

        async def by_rest(arguments: str, tool: str = "echo") -> dict[str, Any]:
            fields = {"content-type": "application/json"}
            return _json((await http.post(f"/mcp/echo/tools/{tool}", content=arguments, headers=fields)).text)

        async def by_batch(arguments: str, tool: str = "echo") -> dict[str, Any]:
            # A sound call beside it shows that the batch itself is not refused.
            ours = f'{{"server":"echo","tool":"{tool}","arguments":{arguments}}}'
            sound = '{"server":"echo","tool":"echo","arguments":{"value":1}}'
            fields = {"content-type": "application/json"}
            answer = _json(
                (await http.post("/mcp/batch", content=f'{{"calls":[{ours},{sound}]}}', headers=fields)).text
            )
            if not answer["success"]:
                return answer
            first, second = answer["results"]
            assert second["success"]
            found: dict[str, Any] = first["result"] if first["success"] else first["error"]
            return found

        async def by_mcp(arguments: str, tool: str = "echo") -> dict[str, Any]:
            message = _message(era or LEGACY, asks_for_progress=way == "sdk", tool=tool)
            text = json.dumps(message).replace(_PLACE, arguments)
            answer = await http.post("/mcp/echo", content=text, headers=headers(era or LEGACY, message))
            lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
            return _told(_json(lines[-1] if lines else answer.text))

        async def by_websocket(arguments: str, tool: str = "echo") -> dict[str, Any]:
            async with websocket(gateway, era, "/mcp/echo/ws") as messages:
                await messages.socket.send(json.dumps(_message(era, tool=tool)).replace(_PLACE, arguments))
                return _told(_json(str(await messages.socket.recv())))

        async def by_stdio(arguments: str, tool: str = "echo") -> dict[str, Any]:
            pipe = pipes[era]
            await pipe.send(json.dumps(_message(era, tool=tool)).replace(_PLACE, arguments))
            async with asyncio.timeout(STARTS_WITHIN):
                return _told(_json((await pipe.stdout.readline()).decode()))

        ways = {"rest": by_rest, "batch": by_batch, "websocket": by_websocket, "stdio": by_stdio}
        yield ways.get(way, by_mcp)


def _message(era: str, *, asks_for_progress: bool = False, tool: str = "echo") -> dict[str, Any]:
    meta = {"progressToken": 1} if asks_for_progress else {}
    return request(era, "tools/call", {"name": tool, "arguments": "ARGUMENTS"}, number=7, **meta)


def _json(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text, parse_float=Decimal)
    return found


def _told(answer: dict[str, Any]) -> dict[str, Any]:
    if "error" in answer:
        error: dict[str, Any] = answer["error"]
        return error
    return _json(answer["result"]["content"][0]["text"])


@pytest.mark.parametrize(
    "value",
    [
        "[0.1,1e23,1E2,-1.5e-7,5e-324,2.50]",
        "[9007199254740993,123456789012345678901234567890]",
        '{"a":"1e999","b":["0.1234567890123456789012",null,true]}',
        r'"\ud83d\ude00 \u0000 \\ud800"',
    ],
)
async def test_what_a_double_and_a_text_hold_arrives_as_it_was_sent(send: Send, value: str) -> None:
    answer = await send(f'{{"value": {value}}}')
    assert answer == {"success": True, "value": json.loads(value, parse_float=Decimal)}


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ('{"value": 1e999}', "value"),
        ('{"value": {"a": [1, -1e999]}}', "value.a.1"),
        ('{"value": [0.1234567890123456789012]}', "value.0"),
        ('{"value": 9007199254740993.0}', "value"),
        ('{"value": 1e-400}', "value"),
        ('{"value": 1, "value": 2}', "value"),
        (r'{"value": 1, "valu\u0065": 2}', "value"),
        ('{"value": {"a": {"b": 1, "b": 1}}}', "value.a.b"),
        ('{"value": 1, "count": 1e999}', "count"),
        ('{"value": {"a": [-0]}}', "value.a.0"),
    ],
)
async def test_what_would_be_altered_is_refused_by_name(send: Send, arguments: str, field: str) -> None:
    answer = await send(arguments)
    assert (answer["code"], answer["status"]) == ("invalid_arguments", 422)
    assert [error["field"] for error in answer["errors"]] == [field]
    assert answer["detail"].startswith(f"{field}: this ")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (f'"value": [{",".join("0" * (MOST_VALUES + 1))}]', f"more than {MOST_VALUES} values"),
        (f'"value": [{",".join(["[]"] * (MOST_VALUES // 5))}]', f"more than {MOST_VALUES} values"),
        (",".join(f'"k{n}": 1' for n in range(MOST_VALUES + 1)), f"more than {MOST_VALUES} values"),
        (f'"value": [{",".join(["7" * 4000] * 500)}]', "more than 1000 digits"),
    ],
    ids=["numbers", "lists", "names", "digits"],
)
async def test_more_than_anybody_needs_is_refused_unread(send: Send, arguments: str, why: str) -> None:
    answer = await send(f"{{{arguments}}}")
    assert answer["code"] in ("invalid_arguments", -32600)
    assert why in (answer.get("detail") or answer["message"])


@pytest.mark.parametrize(
    "arguments",
    [
        ", ".join(f'"{n:0300}": 1' for n in range(900)),
        ", ".join(f'"k{n}": 1' for n in range(15_000)),
        f'"value": [{", ".join(["1e999"] * 15_000)}]',
        '"value": [' + ", ".join(['{"a": 1, "a": 1}'] * 2_000) + "]",
    ],
    ids=["long unknown names", "unknown names", "altered numbers", "equal keys"],
)
async def test_a_failure_names_some_of_what_is_refused(send: Send, arguments: str) -> None:
    answer = await send(f"{{{arguments}}}")
    assert answer["code"] == "invalid_arguments"
    assert 1 <= len(answer["errors"]) <= 50
    assert len(json.dumps(answer)) < 40_000


@pytest.mark.parametrize("value", ["NaN", "[Infinity]", '{"a": -Infinity}', r'"\ud800"', "01", "[1,]"])
async def test_what_is_no_json_is_malformed(send: Send, value: str) -> None:
    answer = await send(f'{{"value": {value}}}')
    assert answer["code"] in ("malformed_request", -32700, -32600)


async def test_a_number_that_certainly_is_an_integer_is_taken_on_every_face(send: Send) -> None:
    assert (await send('{"value": 1, "count": "5"}'))["success"]
    assert (await send('{"value": 1, "count": 5.0}'))["success"]
    assert (await send('{"value": 1, "count": true}'))["errors"][0]["field"] == "count"


_VALUES = (
    *(
        "5",
        "-0",
        "-0.0",
        "5.0",
        "1e2",
        "1E0",
        "5.5",
        "1e30",
        "1e400",
        "100000000000000000000",
        "9007199254740994",
        "true",
    ),
    *(
        "null",
        '"5"',
        '"5.0"',
        '" 5 "',
        '"+5"',
        '"05"',
        '"1_0"',
        '"1e2"',
        '"0x5"',
        r'"\u0665"',
        '"true"',
        '"False"',
        '"yes"',
    ),
    *(
        '""',
        '"red"',
        '"RED"',
        '"null"',
        '"NaN"',
        "[]",
        "[1]",
        '["2"]',
        "[true]",
        "[null]",
        '"[1]"',
        r'"[\"3\"]"',
        '"[1"',
    ),
    *("{}", '{"x": 1}', '{"x": "1"}', '{"x": true}', '{"x": 1, "y": "2", "hidden": "true"}', '{"x": null}', '{"X": 1}'),
    *(r'"{\"x\": 1}"', r'"{\"x\": 1, \"x\": 2}"', '[{"x": "7"}]', r'["{\"x\": 8}"]', '[{"x": false}]', '{"a": "1"}'),
    *('{"a": 1, "a": 2}', "0.1234567890123456789012"),
)
_NAMES = (*Shape.model_fields, "colours", "unknown")


def _mutations(seed: int, count: int) -> Iterator[str]:
    """Yield arguments as somebody might write them: one, two or three, some of which are wrong."""
    chance = random.Random(seed)
    for _ in range(count):
        names = chance.sample(_NAMES, chance.choice((1, 1, 1, 2, 3)))
        yield "{" + ", ".join(f'"{name}": {chance.choice(_VALUES)}' for name in names) + "}"


def _plain(parsed: BaseModel | JsonObject) -> JsonObject:
    return parsed if isinstance(parsed, dict) else parsed.model_dump(mode="json", exclude_unset=True)


def _number(digits: str) -> str:
    return f"number {Decimal(digits).normalize()}"


@pytest.mark.parametrize("tool", ["shape", "shape_at_run_time"])
async def test_every_face_has_the_same_verdict(send: Send, tool: str) -> None:
    parse = EchoMCPServer().tools[tool].parse
    taken = 0
    for arguments in _mutations(11, 150):
        answer = await send(arguments, tool)
        expected: dict[str, Any]
        try:
            expected = {"success": True, "value": _json(json.dumps(_plain(parse(arguments.encode()))))}
            taken += 1
        except GatewayError as error:
            expected = {"code": error.code, "detail": error.detail}
        assert {name: answer[name] for name in expected} == expected, arguments
    assert 10 < taken < 140


def test_declared_or_not_the_same_arguments_are_taken_for_the_same() -> None:
    tools = EchoMCPServer().tools
    for arguments in _mutations(12, 3000):
        verdicts: list[Any] = []
        for name in ("shape", "shape_at_run_time"):
            try:
                value = _plain(tools[name].parse(arguments.encode()))
            except InvalidArguments as error:
                verdicts.append({failure.field for failure in error.errors})
            else:
                # Null, where the method takes it, is as good as left out; and 2 is 2.0, but not true.
                text = json.dumps({member: given for member, given in value.items() if given is not None})
                verdicts.append(json.loads(text, parse_int=_number, parse_float=_number))
        assert verdicts[0] == verdicts[1], arguments


@pytest.mark.parametrize("era", [LEGACY, MODERN])
@pytest.mark.parametrize("asks_for_progress", [False, True], ids=["plain", "sdk"])
@pytest.mark.parametrize(
    ("said", "twice"),
    [
        ('"method": "tools/call"', '"method": "tools/list", "method": "tools/call"'),
        ('"name": "echo"', '"name": "other", "name": "echo"'),
        (f'"arguments": {_PLACE}', '"arguments": {"value": 1}, "arguments": {"value": 2}'),
    ],
)
async def test_a_message_that_says_two_things_is_refused_under_its_id(
    gateway: Served, era: str, asks_for_progress: bool, said: str, twice: str
) -> None:
    message = _message(era, asks_for_progress=asks_for_progress)
    text = json.dumps(message)
    assert said in text
    body = text.replace(said, twice).replace(_PLACE, "{}")
    async with client_of(gateway) as http:
        answer = await http.post("/mcp/echo", content=body, headers=headers(era, message))
    assert answer.status_code == 400
    assert (answer.json()["id"], answer.json()["error"]["code"]) == (7, -32600)
    assert "is there twice" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"calls": [{"server": "echo", "tool": "x", "tool": "echo"}]}', "calls.0.tool"),
        ('{"calls": [], "calls": [{"server": "echo", "tool": "echo"}]}', "calls"),
        ('{"calls": [{"server": "echo", "tool": "echo", "arguments": {}, "arguments": {}}]}', "calls.0.arguments"),
    ],
)
async def test_a_batch_that_says_two_things_is_refused(gateway: Served, body: str, field: str) -> None:
    async with client_of(gateway) as http:
        answer = await http.post("/mcp/batch", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]
