"""A connection that both sides write to: what it holds for a client who asks and asks, or does not read, or leaves."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from app.faces.duplex import MAX_UNANSWERED, MAX_WAITING_BYTES, Backlog, Duplex
from app.faces.plain_calls import PlainCalls
from app.gateway import Gateway
from app.guard.principal import Principal
from app.main import create_app
from app.results import Result
from app.servers.base import BaseMCPServer
from app.servers.calls import JsonObject, Peer
from app.servers.declaring import tool
from app.settings import Settings
from tests.clock import ClockMCPServer
from tests.faces.raw import ERAS, WITHIN, Messages, client_of, handshake, request, websocket
from tests.fixtures.gateway import Served, serve

WAIT: JsonObject = {"name": "wait", "arguments": {}}
MANY = 5000
LARGEST_ANSWER = 64 * 1024
"""More than any answer of the servers here."""


class Answer(Result):
    number: int = 0


class PatientMCPServer(BaseMCPServer):
    """Answers when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0
        self.all_wait = asyncio.Event()
        self.go_on = asyncio.Event()

    @tool(read_only=True)
    async def wait(self) -> Answer:
        """Wait until somebody says to go on."""
        self.waiting += 1
        if self.waiting == MAX_UNANSWERED:
            self.all_wait.set()
        try:
            await self.go_on.wait()
        finally:
            self.waiting -= 1
        return Answer()


@pytest.fixture
def patient() -> PatientMCPServer:
    return PatientMCPServer()


@pytest.fixture
async def gateway(patient: PatientMCPServer) -> AsyncGenerator[Served]:
    async with serve(create_app([patient, ClockMCPServer()], Settings())) as served:
        yield served


@asynccontextmanager
async def all_places_taken(
    gateway: Served, patient: PatientMCPServer, era: str, *, plain: bool = False
) -> AsyncGenerator[Messages]:
    """Ask for as much as one may; by `plain` calls, which are those that follow on one that is answered."""
    async with websocket(gateway, era, "/mcp/ws") as messages, asyncio.timeout(WITHIN):
        if plain:
            await messages.ask(request(era, "tools/call", {"name": "get_time", "arguments": {}}, number=1000))
        for number in range(MAX_UNANSWERED):
            await messages.send(request(era, "tools/call", WAIT, number=number))
        await patient.all_wait.wait()
        yield messages


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("era", ERAS)
async def test_a_request_beyond_those_that_are_under_way_is_refused_at_once(
    gateway: Served, patient: PatientMCPServer, era: str, plain: bool
) -> None:
    async with all_places_taken(gateway, patient, era, plain=plain) as messages:
        called = await messages.ask(request(era, "tools/call", WAIT, number=100))
        assert called["result"]["isError"] is True
        assert ("resultType" in called["result"]) == (era == "2026-07-28")
        assert json.loads(called["result"]["content"][0]["text"])["code"] == "too_many_requests"
        listed = await messages.ask(request(era, "tools/list", number=101))
        assert listed["error"]["data"]["code"] == "too_many_requests"
        assert listed["error"]["data"]["retry_after"] == 1
        patient.go_on.set()
        assert {(await messages.receive())["id"] for _ in range(MAX_UNANSWERED)} == set(range(MAX_UNANSWERED))
        assert "result" in await messages.ask(request(era, "tools/list", number=102))


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("era", ERAS)
async def test_a_cancellation_is_read_while_all_places_are_taken_and_gives_one_back(
    gateway: Served, patient: PatientMCPServer, era: str, plain: bool
) -> None:
    async with all_places_taken(gateway, patient, era, plain=plain) as messages:
        await messages.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 5}})
        number = 200
        while "result" not in (await messages.ask(request(era, "tools/list", number=number))):
            number += 1
        assert patient.waiting == MAX_UNANSWERED - 1


async def test_another_connection_is_not_held_up(gateway: Served, patient: PatientMCPServer) -> None:
    async with all_places_taken(gateway, patient, "2026-07-28"), websocket(gateway, "2026-07-28") as other:
        assert "result" in await other.ask(request("2026-07-28", "tools/list"))


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("era", ERAS)
async def test_a_client_that_leaves_with_calls_under_way_is_no_event(
    patient: PatientMCPServer, caplog: pytest.LogCaptureFixture, era: str, plain: bool, how: str
) -> None:
    async with serve(create_app([patient, ClockMCPServer()], Settings())) as served:
        async with all_places_taken(served, patient, era, plain=plain) as messages:
            await leave(messages, how)
        async with asyncio.timeout(WITHIN), client_of(served) as http:
            while patient.waiting:
                await http.get("/health")
    # Only now has everything ended that could have something to say.
    assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize("era", ERAS)
async def test_a_client_that_leaves_while_its_requests_are_read_is_no_event(
    patient: PatientMCPServer, caplog: pytest.LogCaptureFixture, era: str, how: str
) -> None:
    async with serve(create_app([patient], Settings())) as served:
        async with websocket(served, era, "/mcp/ws") as messages:
            for number in range(MAX_UNANSWERED):
                await messages.send(request(era, "tools/call", WAIT, number=number))
            await leave(messages, how)
        async with client_of(served) as http:
            await http.get("/health")
    # asyncio itself may tell of bytes that it had no more use for.
    assert not [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and r.name != "asyncio"]


async def leave(messages: Messages, how: str) -> None:
    if how == "abort":
        messages.socket.transport.abort()
    else:
        await messages.socket.close()


@pytest.mark.parametrize("plain", [False, True])
async def test_a_gateway_that_stops_answers_what_runs_and_takes_nothing_new(
    gateway: Served, patient: PatientMCPServer, plain: bool
) -> None:
    async with all_places_taken(gateway, patient, "2026-07-28", plain=plain) as messages:
        gateway.app.state.gateway.closing.set()
        refused = await messages.ask(request("2026-07-28", "tools/call", WAIT, number=100))
        assert json.loads(refused["result"]["content"][0]["text"])["code"] == "backend_unavailable"
        patient.go_on.set()
        answers = [await messages.receive() for _ in range(MAX_UNANSWERED)]
        assert all(answer["result"]["isError"] is False for answer in answers)
        await messages.socket.wait_closed()
        assert messages.socket.close_code == 1001


# The connection alone, whose client takes messages when the test says so


class Client:
    """The other end of a `Duplex`."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.reads = asyncio.Event()
        self._took = asyncio.Condition()

    async def write(self, text: bytes) -> None:
        await self.reads.wait()
        self.taken.append(json.loads(text))
        async with self._took:
            self._took.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds of what was taken."""
        async with asyncio.timeout(WITHIN), self._took:
            await self._took.wait_for(condition)


def text(size: int) -> bytes:
    """Return JSON of a size."""
    return json.dumps("x" * (size - 2)).encode()


@asynccontextmanager
async def connected(
    client: Client, backlog: Backlog | None = None, peer: Peer | None = None, **options: Any
) -> AsyncIterator[tuple[Duplex, asyncio.Task[None]]]:
    gateway = Gateway([ClockMCPServer()], Settings())
    async with gateway.open():
        connection = Duplex(
            gateway, "clock", "websocket", client.write, backlog or Backlog(2**20), peer or Peer(), **options
        )
        begun, left = asyncio.Event(), asyncio.Event()

        async def read() -> None:
            begun.set()
            await left.wait()

        serving = asyncio.create_task(connection.serve(read()))
        await begun.wait()
        yield connection, serving
        left.set()
        await serving


async def as_many_as_it_takes(connection: Duplex, messages: Callable[[int], JsonObject]) -> int:
    """Hand messages to a connection until it takes no more; return how many it took."""
    taken = 0

    async def hand_over() -> None:
        nonlocal taken
        for number in range(MANY):
            await connection.take(json.dumps(messages(number)).encode())
            taken += 1

    handing = asyncio.create_task(hand_over())
    before = -1
    while not handing.done() and before < taken:
        before = taken
        # What is to happen for one message happens in fewer turns of the loop.
        for _ in range(500):
            await asyncio.sleep(0)
    handing.cancel()
    await asyncio.wait([handing])
    return taken


@pytest.mark.parametrize(
    "ask",
    [
        lambda number: request("2026-07-28", "tools/list", number=number),
        lambda number: request("2026-07-28", "tools/call", {"name": "get_time", "arguments": {}}, number=number),
        lambda number: {"jsonrpc": "2.0", "id": [number], "method": "ping"},
        lambda number: request("2026-07-28", "tools/call", {"name": "nope", "arguments": {}}, number=number),
    ],
    ids=["listings", "calls", "malformed", "unknown"],
)
async def test_nothing_more_is_read_from_a_client_who_does_not_read(ask: Callable[[int], JsonObject]) -> None:
    client, backlog = Client(), Backlog(2**30)
    async with connected(client, backlog) as (connection, _):
        assert await as_many_as_it_takes(connection, ask) < MANY
        assert backlog.bytes < MAX_WAITING_BYTES + (MAX_UNANSWERED + 1) * LARGEST_ANSWER
        client.reads.set()
        assert await as_many_as_it_takes(connection, ask) == MANY
    assert backlog.bytes == 0


async def test_progress_waits_for_a_client_who_does_not_read() -> None:
    client, backlog = Client(), Backlog(2**30)
    tick: JsonObject = {"name": "tick", "arguments": {"ticks": 100}}
    async with connected(client, backlog) as (connection, _):

        def ask(number: int) -> JsonObject:
            return request("2026-07-28", "tools/call", tick, number=number, progressToken="x" * 5000)

        assert await as_many_as_it_takes(connection, ask) < MANY
        # One notice a call may be on its way beyond the bound.
        assert backlog.bytes < MAX_WAITING_BYTES + (MAX_UNANSWERED + 1) * 6000


async def test_a_backlog_that_is_full_costs_the_connection_that_has_taken_nothing_for_longest() -> None:
    backlog, asleep, awake = Backlog(50_000), Client(), Client()
    awake.reads.set()
    async with connected(asleep, backlog) as (first, serving), connected(awake, backlog) as (second, _):
        first.put(text(30_000))
        second.put(text(10_000))
        await awake.until(lambda: len(awake.taken) == 1)
        assert not serving.done()
        awake.reads.clear()
        second.put(text(30_000))
        async with asyncio.timeout(WITHIN):
            await serving
        assert backlog.bytes == 30_000
        with pytest.raises(anyio.BrokenResourceError):
            first.put(text(9))
        awake.reads.set()
        await awake.until(lambda: len(awake.taken) == 2)
    assert backlog.bytes == 0


async def test_one_connection_that_fills_the_backlog_alone_is_given_up() -> None:
    backlog, client = Backlog(50_000), Client()
    async with connected(client, backlog) as (connection, serving):
        connection.put(text(50_001))
        async with asyncio.timeout(WITHIN):
            await serving
    assert backlog.bytes == 0


async def test_no_message_goes_past_one_that_waits() -> None:
    client, backlog = Client(), Backlog(2**20)
    has_room = False
    at_once: list[bytes] = []

    def write_now(message: bytes) -> bool:
        if has_room:
            at_once.append(message)
        return has_room

    async with connected(client, backlog, write_now=write_now) as (connection, _):
        connection.put(b"1")
        has_room = True
        connection.put(b"2")
        assert at_once == []
        assert backlog.bytes == 2
        client.reads.set()
        await client.until(lambda: client.taken == [1, 2])
        assert backlog.bytes == 0
        connection.put(b"3")
        assert at_once == [b"3"]


async def test_a_call_is_begun_at_once_only_while_its_connection_and_the_gateway_go_on() -> None:
    client = Client()
    client.reads.set()
    ask = json.dumps(request("2026-07-28", "tools/call", {"name": "get_time", "arguments": {}})).encode()
    async with connected(client) as (connection, _):
        assert not connection.take_now(ask)  # the SDK has answered none yet
        await connection.take(ask)
        await client.until(lambda: len(client.taken) == 1)
        assert connection.take_now(ask)
        await client.until(lambda: len(client.taken) == 2)
        connection._gateway.closing.set()
        assert not connection.take_now(ask)
        connection._gateway.closing.clear()
        connection.give_up()
        assert not connection.take_now(ask)


async def test_a_patient_connection_lets_requests_wait_where_another_refuses_them() -> None:
    client = Client()
    client.reads.set()
    async with connected(client, patient=True) as (connection, _):
        wait: JsonObject = {"name": "wait_for_cancellation", "arguments": {}}

        def ask(number: int) -> JsonObject:
            return request("2026-07-28", "tools/call", wait, number=number)

        assert await as_many_as_it_takes(connection, ask) == MAX_UNANSWERED
        assert client.taken == []


async def test_streams_take_no_place_on_a_patient_connection() -> None:
    client = Client()
    client.reads.set()
    async with connected(client, patient=True) as (connection, _):
        listen: JsonObject = {"notifications": {"resourceSubscriptions": ["clock://zones/UTC"]}}
        for number in range(2 * MAX_UNANSWERED):
            await connection.take(
                json.dumps(request("2026-07-28", "subscriptions/listen", listen, number=number)).encode()
            )
        await connection.take(json.dumps(request("2026-07-28", "tools/list", number=1000)).encode())
        await client.until(lambda: any(message.get("id") == 1000 for message in client.taken))


@pytest.mark.parametrize("era", ERAS)
async def test_who_calls_enters_with_the_connection(era: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    client = Client()
    client.reads.set()
    peer = Peer(Principal("desk"), "curl/8", "10.0.0.7")
    get_time = request(era, "tools/call", {"name": "get_time", "arguments": {}}, number=7)
    async with connected(client, peer=peer) as (connection, _):
        if era != "2026-07-28":
            await connection.take(json.dumps(request(era, "initialize", handshake(era), number=1000)).encode())
        await connection.take(json.dumps(get_time).encode())
        await client.until(lambda: any(message["id"] == 7 for message in client.taken))
    [line] = [record.getMessage() for record in caplog.records if "operation=get_time" in record.getMessage()]
    assert "principal=desk client=raw/1 address=10.0.0.7" in line


@pytest.mark.parametrize("era", ERAS)
async def test_a_fault_of_ours_ends_the_connection_rather_than_leave_a_call_unanswered(
    gateway: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, era: str
) -> None:
    async def broken(*_: Any) -> bytes:
        raise ZeroDivisionError

    get_time: JsonObject = {"name": "get_time", "arguments": {}}
    async with websocket(gateway, era, "/mcp/ws") as messages, asyncio.timeout(WITHIN):
        await messages.ask(request(era, "tools/call", get_time, number=1))
        monkeypatch.setattr(PlainCalls, "run", broken)
        await messages.send(request(era, "tools/call", get_time, number=2))
        await messages.socket.wait_closed()
    assert [record for record in caplog.records if record.exc_info and record.exc_info[0] is ZeroDivisionError]
