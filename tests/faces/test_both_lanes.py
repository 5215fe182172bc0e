"""Messages made up at random, from a seed: with the plain lane and without it, each is answered alike."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest

from app.faces.duplex import Backlog, Duplex
from app.faces.plain_calls import PlainCall, PlainCalls
from app.gateway import Gateway
from app.main import create_app
from app.servers.calls import JsonObject, Peer
from app.settings import Settings
from tests.clock import CALL, ClockMCPServer
from tests.faces.echo import EchoMCPServer
from tests.faces.raw import ERAS, WITHIN, client_of, handshake, headers, request
from tests.fixtures.gateway import serve

MODERN = "2026-07-28"
MESSAGES = 600
"""Of a revision, by each way."""
_PREFIX = "io.modelcontextprotocol/"
_IDS = [
    *(
        "0",
        "-1",
        "-0",
        "1e3",
        "1.0",
        "01",
        "null",
        "true",
        "[1]",
        '""',
        '"a b"',
        '"é"',
        r'"\u00e9"',
        r'"a\"b"',
        r'"\ud800"',
    ),
    *("9" * 100, "9" * 101, "9" * 4400, '"7"', '" 7"', '"\u2028"', '"\x7f"', '"\t"'),
]
_NAMES = [
    "get_time",
    "echo",
    "shape",
    "get_raw_time",
    "fail",
    "nope",
    "",
    "ECHO",
    "echo ",
    r"\u0065cho",
    "shape_at_run_time",
]
_ARGUMENTS = [
    *(
        "{}",
        "null",
        "[]",
        '"{}"',
        "5",
        '{"zone":"CET"}',
        '{"zone":"CET","zone":"UTC"}',
        '{"zone":"Atlantis"}',
        '{"":1}',
    ),
    *('{"value":1}', '{"value":-0}', '{"value":1e999}', '{"value":1.50}', '{"value":NaN}', '{"value":"é\u2028"}'),
    *(r'{"value":"\ud83d\ude00"}', r'{"value":"\ud800"}', r'{"value":"\u0000"}', r'{"\ud800":' + "7" * 1100 + "}"),
    *(
        '{"value":' + "[" * 60 + "]" * 60 + "}",
        '{"value":' + "[" * 300 + "]" * 300 + "}",
        '{"value":' + "7" * 1100 + "}",
    ),
    *('{"count":"3"}', '{"count":true}', '{"count":3.0}', '{"corner":"{\\"x\\":1}"}', '{"labels":{"a":1,"a":2}}'),
    *('{"how":"down"}', '{"how":"badly"}', '{"value":"' + "x" * 300 + '"}', '{ "value" : [ 1 , 2 ] }', '{"value":1,}'),
]
_SAID = [
    *('"progressToken":1', '"traceparent":"x"', '"traceparent":5', '"conversation_id":"c"', '"a":1', '"a":1,"a":2'),
    *(
        f'"{_PREFIX}clientCapabilities":{{}}',
        f'"{_PREFIX}protocolVersion":"2031-01-01"',
        '"baggage":"' + "b" * 3000 + '"',
    ),
]
_OTHERS = [
    *("[]", "{}", "5", "", '{"jsonrpc":"2.0","id":5,"result":{}}', '{"jsonrpc":"2.0","id":5,"method":"ping"}'),
    *(
        '{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":' + x + "}}"
        for x in ("5", "[1]", "1e9")
    ),
]
_SIGNS = b'"{}[]:,\\0-.e\x00\xff\x80 tn'
_NAMED = re.compile(r'(request_id\\*":\\*")[^"\\]*')


def made_up(random: Random, era: str) -> bytes:
    """Return a message that is a call, or was one before something happened to it."""
    if random.random() < 0.05:
        return random.choice(_OTHERS).encode()
    said = ""
    if era == MODERN:
        said = f'"{_PREFIX}protocolVersion":"{MODERN}","{_PREFIX}clientCapabilities":{{}}'
    if random.random() < 0.2:
        said = ",".join(filter(None, (said, random.choice(_SAID))))
    params = [("name", f'"{random.choice(_NAMES)}"'), ("arguments", random.choice(_ARGUMENTS))]
    if said:
        params.append(("_meta", "{" + said + "}"))
    number = random.choice(_IDS) if random.random() < 0.4 else str(random.randrange(1000))
    members = [("jsonrpc", '"2.0"'), ("id", number), ("method", '"tools/call"'), ("params", _object(random, params))]
    text = bytearray(_object(random, members).encode())
    while random.random() < 0.1:
        place = random.randrange(len(text))
        text[place : place + random.randrange(2)] = bytes([random.choice(_SIGNS)] * random.randrange(2))
    return bytes(text)


def _object(random: Random, members: Sequence[tuple[str, str]]) -> str:
    """Write an object: now and then a member is there twice, is missing or is another one, and there are blanks."""
    every = list(members)
    match random.randrange(30):
        case 0:
            every.append(random.choice(every))
        case 1:
            every.remove(random.choice(every))
        case 2:
            every.append(("more", "1"))
        case 3 | 4 | 5 | 6:
            random.shuffle(every)
        case _:
            pass
    blank = random.choice(["", "", "", "", " ", "\r\n", "\t"])
    return "{" + f"{blank},".join(f'{blank}"{name}"{blank}:{blank}{value}' for name, value in every) + blank + "}"


def told(answer: bytes) -> Any:
    """Return an answer without the name of its request, which differs from one to the next."""
    return json.loads(_NAMED.sub(r"\1", answer.decode()))


def without_the_plain_lane(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(PlainCalls, "read", lambda *_, **__: None)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> list[PlainCall]:
    """What was recognized as a plain call."""
    found: list[PlainCall] = []
    read: Callable[..., PlainCall | None] = PlainCalls.read

    def note(*given: Any, **named: Any) -> PlainCall | None:
        call = read(*given, **named)
        if call is not None:
            found.append(call)
        return call

    monkeypatch.setattr(PlainCalls, "read", note)
    return found


@pytest.mark.parametrize("era", ["2025-06-18", *ERAS])
async def test_over_http(era: str, plain: list[PlainCall]) -> None:
    random = Random(era)
    messages = [made_up(random, era) for _ in range(MESSAGES)]
    fields = headers(era, request(era, "tools/call", {"name": "echo"}))
    async with serve(create_app([ClockMCPServer(), EchoMCPServer()], Settings())) as served, client_of(served) as http:

        async def answers(message: bytes) -> tuple[int, str, Any]:
            answer = await http.post("/mcp", content=message, headers=fields)
            return answer.status_code, answer.headers.get("content-type", ""), _read(answer.content)

        for message in messages:
            answered = await answers(message)
            with pytest.MonkeyPatch.context() as patched:
                without_the_plain_lane(patched)
                assert answered == await answers(message), message
            assert answered[0] < 500, message
    assert len(plain) > MESSAGES // 20


def _read(body: bytes) -> Any:
    """Return what a body says, be it JSON or an event."""
    return told(body.partition(b"data: ")[2] or body) if body else None


@asynccontextmanager
async def connection(gateway: Gateway, era: str, *, patient: bool) -> AsyncGenerator[Callable[[bytes], Any]]:
    """Open a connection as a WebSocket does, or as stdio does if it is `patient`; give what sends and takes answers."""
    written: list[bytes] = []
    incoming: asyncio.Queue[tuple[bytes, asyncio.Future[None]] | None] = asyncio.Queue()

    async def write(text: bytes) -> None:
        written.append(text)

    duplex = Duplex(gateway, None, "stdio" if patient else "websocket", write, Backlog(2**26), Peer(), patient=patient)

    async def read() -> None:
        while (came := await incoming.get()) is not None:
            if patient or not duplex.take_now(came[0]):
                await duplex.take(came[0])
            came[1].set_result(None)

    async def ask(message: bytes) -> list[Any]:
        taken = asyncio.get_running_loop().create_future()
        await incoming.put((message, taken))
        await asyncio.wait([taken, serving], return_when=asyncio.FIRST_COMPLETED)
        assert taken.done(), message
        await asyncio.wait_for(duplex._until(lambda: not duplex._unanswered and not duplex._unsent), WITHIN)
        answers = sorted((told(text) for text in written), key=repr)
        written.clear()
        return answers

    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(duplex.serve(read()))
        if era != MODERN:
            await ask(json.dumps(request(era, "initialize", handshake(era))).encode())
            await ask(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
        first: JsonObject = request(era, "tools/call", CALL)
        assert "result" in (await ask(json.dumps(first).encode()))[0]
        yield ask
        await incoming.put(None)


@pytest.mark.parametrize("era", ["2025-06-18", *ERAS])
@pytest.mark.parametrize("patient", [False, True], ids=["websocket", "stdio"])
async def test_on_a_connection(era: str, plain: list[PlainCall], patient: bool) -> None:
    random = Random(f"{era} {patient}")
    messages = [made_up(random, era).replace(b"\n", b" ") for _ in range(MESSAGES)]
    gateway: Gateway = create_app([ClockMCPServer(), EchoMCPServer()], Settings()).state.gateway
    async with gateway.open():
        async with connection(gateway, era, patient=patient) as ask:
            answered = [await ask(message) for message in messages]
        assert len(plain) > MESSAGES // 20
        with pytest.MonkeyPatch.context() as patched:
            without_the_plain_lane(patched)
            async with connection(gateway, era, patient=patient) as ask:
                for message, before in zip(messages, answered, strict=True):
                    assert before == await ask(message), message
