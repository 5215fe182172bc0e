"""Plain calls over a WebSocket: answered without the SDK once it has answered one, and nobody can tell."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from websockets.asyncio.client import connect

from app.faces.plain_calls import PlainCall, PlainCalls
from app.main import create_app
from app.results import RawResult, Result
from app.servers.base import BaseMCPServer
from app.servers.calls import CallContext, JsonObject
from app.servers.declaring import tool
from app.settings import Settings
from tests.clock import CALL, CALLS, ClockMCPServer
from tests.faces.raw import ERAS, WITHIN, Messages, initialize, request, websocket
from tests.fixtures.gateway import Served, serve

MODERN = "2026-07-28"
WAIT: JsonObject = {"name": "wait", "arguments": {}}


class Answer(Result):
    number: int = 0


class GateMCPServer(BaseMCPServer):
    """Lets calls through when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0
        self.changed = asyncio.Condition()
        self.open = asyncio.Event()

    async def until(self, waiting: int) -> None:
        async with asyncio.timeout(WITHIN), self.changed:
            await self.changed.wait_for(lambda: self.waiting == waiting)

    async def _count(self, more: int) -> None:
        async with self.changed:
            self.waiting += more
            self.changed.notify_all()

    @tool(read_only=True)
    async def wait(self) -> Answer:
        """Wait until the gate is open."""
        await self._count(1)
        try:
            await self.open.wait()
        finally:
            await self._count(-1)
        return Answer()

    @tool(read_only=True)
    async def garble(self) -> RawResult[Answer]:
        """Break the promise that a result is text."""
        return RawResult(b'{"success":true,"number":"\xff"}')


@pytest.fixture
def gate() -> GateMCPServer:
    return GateMCPServer()


@pytest.fixture
async def gateway(gate: GateMCPServer) -> AsyncGenerator[Served]:
    async with serve(create_app([ClockMCPServer(), gate], Settings(shutdown_grace=0.1))) as served:
        yield served


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> list[PlainCall]:
    """The calls that were answered without the SDK."""
    answered: list[PlainCall] = []
    run = PlainCalls.run

    async def note(calls: PlainCalls, call: PlainCall, context: CallContext) -> bytes:
        answered.append(call)
        return await run(calls, call, context)

    monkeypatch.setattr(PlainCalls, "run", note)
    return answered


def nothing_is_plain(*_: Any, **__: Any) -> None:
    return None


async def settle(messages: Messages, era: str) -> None:
    """Let the SDK answer the first call."""
    assert "result" in await messages.ask(request(era, "tools/call", CALL, number=999))


def told(answer: JsonObject) -> Any:
    """Return an answer without the name of its request, which differs from one to the next."""
    shown = json.dumps(answer)
    result: Any = answer.get("result")
    if result is None or not result["isError"]:
        return answer
    named = json.loads(result["content"][0]["text"])["request_id"]
    return json.loads(shown.replace(named, "…"))


@pytest.mark.parametrize("era", ["2025-06-18", *ERAS])
@pytest.mark.parametrize("path", ["/mcp/clock/ws", "/mcp/ws"])
@pytest.mark.parametrize(
    "params",
    CALLS,
    ids=lambda params: json.dumps(params)[:60],
)
async def test_the_answer_is_the_sdks(
    gateway: Served, plain: list[PlainCall], path: str, era: str, params: JsonObject
) -> None:
    call = request(era, "tools/call", params, number=7)
    async with websocket(gateway, era, path) as messages:
        await settle(messages, era)
        assert plain == []
        answered = await messages.ask(call)
        assert len(plain) == 1
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(PlainCalls, "read", nothing_is_plain)
        async with websocket(gateway, era, path) as messages:
            assert told(answered) == told(await messages.ask(call))
    assert len(plain) == 1


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    "change",
    [
        lambda era: request(era, "tools/call", CALL, number=7, progressToken="p"),
        lambda era: {**request(era, "tools/call", CALL), "id": [7]},
        lambda era: {**request(era, "tools/call", CALL), "id": None},
        lambda era: request(era, "tools/call", {"name": "nope"}, number=7),
        lambda era: request(era, "tools/call", {"name": "get_time", "arguments": [1]}, number=7),
        lambda era: request(ERAS[era == ERAS[0]], "tools/call", CALL, number=7),
        lambda era: request(era, "tools/list", number=7),
        lambda era: [request(era, "tools/call", CALL, number=7)],
    ],
)
async def test_what_is_not_plain_is_the_sdks_to_answer(
    gateway: Served, plain: list[PlainCall], era: str, change: Callable[[str], Any]
) -> None:
    async with websocket(gateway, era) as messages:
        await settle(messages, era)
        await messages.send(change(era))
        assert (await messages.receive()).keys() & {"result", "error", "method"}
        assert plain == []


async def test_no_call_is_plain_before_the_handshake_or_in_a_revision_of_before_structured_results(
    gateway: Served, plain: list[PlainCall]
) -> None:
    call = request("2025-11-25", "tools/call", CALL)
    async with connect(f"{gateway.websocket_url}/mcp/clock/ws") as socket:
        messages = Messages(socket)
        for _ in range(2):
            assert "error" in await messages.ask(call)
    async with websocket(gateway, "2025-03-26") as messages:
        for _ in range(2):
            assert "result" in await messages.ask(call)
    assert plain == []


async def test_another_handshake_begins_anew(gateway: Served, plain: list[PlainCall]) -> None:
    async with websocket(gateway, "2025-11-25") as messages:
        await settle(messages, "2025-11-25")
        await initialize(messages, "2025-03-26")
        await messages.ask(request("2025-11-25", "tools/call", CALL))
    assert plain == []


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("withdrawn", [7, "7"])
async def test_a_cancelled_call_is_ended_and_not_answered(
    gateway: Served, gate: GateMCPServer, plain: list[PlainCall], era: str, withdrawn: int | str
) -> None:
    async with websocket(gateway, era, "/mcp/ws") as messages:
        await settle(messages, era)
        await messages.send(request(era, "tools/call", WAIT, number=7))
        await gate.until(1)
        await messages.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": withdrawn}})
        await gate.until(0)
        await messages.send(request(era, "tools/call", CALL, number=8))
        assert (await messages.receive())["id"] == 8
        assert len(plain) == 2


@pytest.mark.parametrize("era", ERAS)
async def test_calls_of_one_id_are_answered_both_and_end_with_their_connection(
    gateway: Served, gate: GateMCPServer, plain: list[PlainCall], era: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with websocket(gateway, era, "/mcp/ws") as messages:
        await settle(messages, era)
        for waiting in (1, 2):
            await messages.send(request(era, "tools/call", WAIT, number=7))
            await gate.until(waiting)
        gate.open.set()
        assert [(await messages.receive())["id"] for _ in range(2)] == [7, 7]
        gate.open.clear()
        for waiting in (1, 2):
            await messages.send(request(era, "tools/call", WAIT, number=7))
            await gate.until(waiting)
        messages.socket.transport.abort()
        await gate.until(0)
    assert len(plain) == 4
    assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("era", ERAS)
async def test_what_is_cut_off_at_the_end_is_answered_as_the_sdk_does(
    gateway: Served, gate: GateMCPServer, plain: list[PlainCall], era: str
) -> None:
    async with websocket(gateway, era, "/mcp/ws") as messages:
        # The first ones go to the SDK, since it has answered no call yet.
        await messages.send(request(era, "tools/call", WAIT, number=0))
        await gate.until(1)
        await messages.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 0}})
        await gate.until(0)
        await messages.send(request(era, "tools/call", WAIT, number=1))
        await gate.until(1)
        await messages.ask(request(era, "tools/list", number=2))
        assert plain == []
        gate.open.set()
        await messages.receive()
        gate.open.clear()
        progress = request(era, "tools/call", WAIT, number=3, progressToken="p")
        await messages.send(progress)
        await messages.send(request(era, "tools/call", WAIT, number=4))
        await gate.until(2)
        assert len(plain) == 1
        gateway.app.state.gateway.closing.set()
        answers = {answer["id"]: answer for answer in [await messages.receive() for _ in range(2)]}
        assert answers[4] == {**answers[3], "id": 4}
        assert answers[4]["error"]["message"] == "Connection closed"


@pytest.mark.parametrize("era", ERAS)
async def test_a_result_that_is_no_text_is_the_tools_failure(gateway: Served, plain: list[PlainCall], era: str) -> None:
    async with websocket(gateway, era, "/mcp/ws") as messages:
        await settle(messages, era)
        answer = await messages.ask(request(era, "tools/call", {"name": "garble", "arguments": {}}))
    assert len(plain) == 1
    assert json.loads(answer["result"]["content"][0]["text"])["code"] == "internal_error"


@pytest.mark.parametrize("era", ERAS)
async def test_the_log_names_the_client_as_it_would(
    gateway: Served, plain: list[PlainCall], era: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with websocket(gateway, era) as messages:
        for _ in range(2):
            await settle(messages, era)
    assert len(plain) == 1
    first, second = [line for r in caplog.records if "operation=get_time" in (line := r.getMessage())]
    assert "client=raw/1 address=127.0.0.1" in first
    assert first.partition(" ms=")[0] == second.partition(" ms=")[0]
