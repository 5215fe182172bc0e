"""What a key holds open, and what runs under it, ends with it in every process; so does what waits for its store."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from app.guard.keys import KeyAdministration, mint
from app.local.postgres import LocalPostgres, run_postgres
from app.servers.calls import JsonObject
from app.services.postgres.identity import open_keys
from app.services.postgres.migrations import migrate
from app.services.postgres.sql.login import ensure_reader_login
from tests.faces.raw import STARTS_WITHIN, client_of, headers, launched, request, websocket
from tests.fixtures.gateway import Served
from tests.fixtures.postgres import TestDatabase, cloned_database
from tests.guard.conftest import Backends
from tests.guard.processes import bearer, two_processes, variables_of
from tests.mcp_servers.statements import SLOW, until_running
from tests.test_cli import SWITCHBOARD
from tests.test_keys import clean

POLICY = '[auth]\n[role.agent]\nallow = ["database:write", "kafka:write", "aws:write"]\n'
MODERN, LEGACY = "2026-07-28", "2025-11-25"
BUCKET, TOPIC, TICKET = "revocation-bucket", "revocation", "db://tickets/1"
SLOW_CALLS = 6
"""How many of what is held runs a statement of `query_database`."""
QUERY: JsonObject = {"query": SLOW, "timeout_ms": 60_000}
_PATIENT = {
    "DATABASE_READER_POOL_SIZE": str(SLOW_CALLS),
    "DATABASE_POOL_WAIT": "30",
    "DATABASE_CONNECT_TIMEOUT": "30",
}
LARGE = 24 * 1024 * 1024
"""Bytes of an object: more than all sockets and buffers between it and its reader take."""
ENDS_WITHIN = 20.0
"""Seconds, on a machine that is busy with other tests; the promise is two."""


@dataclass(frozen=True)
class Rig:
    gateways: list[Served]
    database: TestDatabase
    keys: KeyAdministration
    directory: Path
    variables: dict[str, str]


@pytest.fixture(scope="module")
async def rig(backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Rig]:
    directory, database = tmp_path_factory.mktemp("revocation"), backends.database
    await backends.behind.s3.create_bucket(Bucket=BUCKET)
    await backends.behind.s3.put_object(Bucket=BUCKET, Key="large", Body=bytes(LARGE))
    async with database.connect() as connection:
        await connection.execute(
            "INSERT INTO customers (id, name, email) VALUES ('anna', 'Anna', 'a@example.com');"
            "INSERT INTO tickets (customer_id, subject) VALUES ('anna', 'mine')"
        )
    variables = backends.variables(**_PATIENT)
    async with open_keys(database.settings) as keys, two_processes(directory, POLICY, variables) as gateways:
        maker = await kept(keys)
        async with client_of(gateways[0]) as http:
            made = await http.post("/mcp/kafka/tools/create_topic", json={"topic": TOPIC}, headers=bearer(maker))
            assert made.status_code == 200, made.text
        yield Rig(gateways, database, keys, directory, variables)


def patient(served: Served) -> httpx.AsyncClient:
    """Return a client that waits for the end of what takes long to begin, all of it together."""
    return httpx.AsyncClient(base_url=served.url, timeout=STARTS_WITHIN + ENDS_WITHIN, verify=False)


# Each holds something open under a key, says so, and returns how that ended.


async def download(rig: Rig, served: Served, token: str, begun: asyncio.Event) -> object:
    async with (
        patient(served) as http,
        http.stream("GET", f"/mcp/aws/s3/{BUCKET}/large", headers=bearer(token)) as answer,
    ):
        chunks = answer.aiter_raw()
        await anext(chunks)
        begun.set()
        await refused(served, token)
        return await broken_off(chunks)


async def broken_off(parts: AsyncIterator[object]) -> bool:
    """Tell whether an answer breaks off, so that nobody takes it for a whole one."""
    try:
        async for _ in parts:
            pass
    except httpx.RemoteProtocolError:
        return True
    return False


async def upload(rig: Rig, served: Served, token: str, begun: asyncio.Event) -> object:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    head = ["host: 127.0.0.1", "transfer-encoding: chunked", f"authorization: Bearer {token}"]
    writer.write("\r\n".join([f"POST /mcp/aws/s3/{BUCKET}/sent HTTP/1.1", *head, "", ""]).encode())
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    writer.write(chunk * 20)
    await writer.drain()
    begun.set()
    answer = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return int(answer.split()[1])


async def topic_stream(rig: Rig, served: Served, token: str, begun: asyncio.Event) -> object:
    path = f"/mcp/kafka/topics/{TOPIC}/stream"
    async with patient(served) as http, http.stream("GET", path, headers=bearer(token)) as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        begun.set()
        return await broken_off(lines)


async def listening(rig: Rig, served: Served, token: str, begun: asyncio.Event) -> object:
    wanted = request(MODERN, "subscriptions/listen", {"notifications": {"resourceSubscriptions": [TICKET]}})
    async with (
        patient(served) as http,
        http.stream("POST", "/mcp", json=wanted, headers={**headers(MODERN, wanted), **bearer(token)}) as answer,
    ):
        messages = (line async for line in answer.aiter_lines() if line.startswith("data: {"))
        await anext(messages)
        begun.set()
        return [message async for message in messages]


async def watching(rig: Rig, served: Served, token: str, begun: asyncio.Event) -> object:
    async with websocket(served, LEGACY, "/mcp/database/ws", additional_headers=bearer(token)) as messages:
        assert "result" in await messages.ask(request(LEGACY, "resources/subscribe", {"uri": TICKET}))
        return await closing(messages.socket, begun)


async def calling_over_websocket(rig: Rig, served: Served, token: str, begun: asyncio.Event) -> object:
    async with websocket(served, MODERN, "/mcp/ws", additional_headers=bearer(token)) as messages:
        await messages.send(request(MODERN, "tools/call", {"name": "query_database", "arguments": QUERY}))
        return await closing(messages.socket, begun)


async def closing(socket: Any, begun: asyncio.Event) -> int:
    begun.set()
    try:
        while True:
            await socket.recv()
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd is not None else 0


async def call(rig: Rig, served: Served, token: str, begun: asyncio.Event) -> object:
    path = "/mcp/database/tools/query_database"
    return await answered(served, token, begun, path, QUERY, {})


async def plain_call(rig: Rig, served: Served, token: str, begun: asyncio.Event, **more: Any) -> object:
    params = {"name": "query_database", "arguments": QUERY, **more}
    message = request(MODERN, "tools/call", params)
    return await answered(served, token, begun, "/mcp", message, headers(MODERN, message))


async def call_by_the_sdk(rig: Rig, served: Served, token: str, begun: asyncio.Event) -> object:
    return await plain_call(rig, served, token, begun, more={"deep": [None]})


async def answered(
    served: Served, token: str, begun: asyncio.Event, path: str, body: Any, fields: dict[str, str]
) -> object:
    async with patient(served) as http:
        asking = asyncio.ensure_future(http.post(path, json=body, headers={**fields, **bearer(token)}))
        begun.set()
        answer = await asking
    return answer.status_code, answer.json().get("code", answer.text)


async def events_of_a_call(rig: Rig, served: Served, token: str, begun: asyncio.Event) -> object:
    """An answer that may be told in events how far it is."""
    params: JsonObject = {"name": "query_database", "arguments": QUERY}
    message = request(MODERN, "tools/call", params, progressToken=1)
    async with patient(served) as http:
        asking = http.stream("POST", "/mcp", json=message, headers={**headers(MODERN, message), **bearer(token)})
        begun.set()
        async with asking as answer:
            text = (await answer.aread()).decode()
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: {")]
    return answer.status_code if not events else of_problem(events[-1])


def of_problem(message: dict[str, Any]) -> int:
    return int(json.loads(message["result"]["content"][0]["text"])["status"])


async def batch(rig: Rig, served: Served, token: str, begun: asyncio.Event) -> object:
    """Its first call has ended, its second one runs, its third never begins."""
    search = {"server": "database", "tool": "search_knowledge_base", "arguments": {"search_term": "parcel"}}
    slow = {"server": "database", "tool": "query_database", "arguments": QUERY}
    body = {"calls": [search, slow, search], "mode": "sequential"}
    async with patient(served) as http:
        asking = asyncio.ensure_future(http.post("/mcp/batch", json=body, headers=bearer(token)))
        begun.set()
        answer = await asking
    assert answer.status_code == 200, answer.text
    return [each["success"] or each["error"]["code"] for each in answer.json()["results"]]


async def stdio(rig: Rig, served: Served, token: str, begun: asyncio.Event) -> object:
    surroundings = clean(**rig.variables, SWITCHBOARD_TOKEN=token)
    command = (SWITCHBOARD, "stdio", "database")
    async with launched(LEGACY, command, cwd=rig.directory, env=surroundings) as pipe:
        assert "result" in await pipe.ask(request(LEGACY, "resources/subscribe", {"uri": TICKET}))
        begun.set()
        while await pipe.stdout.readline():
            pass
        return await pipe.process.wait()


Hold = Callable[[Rig, Served, str, asyncio.Event], Awaitable[object]]
HELD: dict[str, tuple[Hold, object]] = {
    "download": (download, True),
    "upload": (upload, 401),
    "topic stream": (topic_stream, True),
    "listening": (listening, []),
    "watching": (watching, 1008),
    "call over WebSocket": (calling_over_websocket, 1008),
    "call": (call, (401, "unauthenticated")),
    "plain call": (plain_call, (401, "unauthenticated")),
    "call by the SDK": (call_by_the_sdk, (401, "unauthenticated")),
    "events of a call": (events_of_a_call, 401),
    "batch": (batch, [True, "unauthenticated", "unauthenticated"]),
}


async def refused(served: Served, token: str) -> None:
    """Return once a key is refused, which is asked again and again."""
    async with client_of(served) as http:
        while (await http.get("/mcp", headers=bearer(token))).status_code != 401:
            pass


async def test_all_that_a_key_holds_in_two_processes_ends_when_it_is_revoked(rig: Rig) -> None:
    token, key = mint(frozenset({"agent"}))
    await rig.keys.add(key)

    async def revoke() -> None:
        await until_running(rig.database, SLOW_CALLS * 2, within=ENDS_WITHIN)
        await rig.keys.end(key.id, time.time())

    held = [(name, hold, served) for name, (hold, _) in HELD.items() for served in rig.gateways]
    ends = await hold_until(rig, token, [("stdio", stdio, rig.gateways[0]), *held], revoke)
    expected = {name: outcome for name, (_, outcome) in HELD.items()} | {"stdio": 1}
    assert ends == {at: expected[at[0]] for at in ends}
    await until_running(rig.database, 0)


async def test_what_a_key_holds_in_two_processes_ends_when_it_expires(rig: Rig) -> None:
    token, key = mint(frozenset({"agent"}), expires_at=time.time() + 20)
    await rig.keys.add(key)

    async def expire() -> None:
        return

    held = [(name, HELD[name][0], served) for name in ("download", "listening", "call") for served in rig.gateways]
    ends = await hold_until(rig, token, held, expire)
    assert ends == {at: HELD[at[0]][1] for at in ends}


async def hold_until(
    rig: Rig, token: str, held: Sequence[tuple[str, Hold, Served]], end: Callable[[], Awaitable[None]]
) -> dict[tuple[str, int], object]:
    """Hold all of it, end the key then, and return how each has ended, by its name and process."""
    async with asyncio.timeout(STARTS_WITHIN + ENDS_WITHIN), asyncio.TaskGroup() as tasks:
        ends: dict[tuple[str, int], asyncio.Task[object]] = {}
        for name, hold, served in held:
            begun = asyncio.Event()
            ends[name, served.port] = tasks.create_task(_told(name, hold(rig, served, token, begun)))
            await begun.wait()
        await end()
    for served in rig.gateways:
        async with client_of(served) as http:
            assert (await http.get("/mcp", headers=bearer(token))).status_code == 401
    return {at: task.result() for at, task in ends.items()}


async def _told(name: str, work: Awaitable[object]) -> object:
    try:
        return await work
    except Exception as error:
        error.add_note(name)
        raise


# A store that swallows what it is sent


class Swamp:
    """A way to a server on which bytes can get lost: connections stay open, and are taken, and nothing comes back."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_taken = asyncio.Event()
        self.passes = asyncio.Event()
        self.passes.set()

    @contextmanager
    def swallowing(self) -> Generator[None]:
        """Let nothing through while the block runs."""
        self.passes.clear()
        try:
            yield
        finally:
            self.passes.set()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[int]:
        """Yield the port of 127.0.0.1 at which the way begins."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        async with server:
            yield server.sockets[0].getsockname()[1]
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.is_taken.set()
        there = await asyncio.open_connection(*self._target)
        ways = [self._carry(reader, there[1]), self._carry(there[0], writer)]
        tasks = [asyncio.create_task(way) for way in ways]
        self._tasks.update(tasks)
        await asyncio.wait(tasks)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                await self.passes.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def outcome(served: Served, token: str) -> tuple[int, str]:
    async with client_of(served) as http:
        answer = await http.get("/mcp", headers=bearer(token))
        assert "json" in answer.headers.get("content-type", ""), (answer.status_code, answer.headers, answer.text)
        return answer.status_code, answer.json().get("code", "")


async def goes_on(
    gateways: Sequence[Served], known: str, unseen: str, pause: Callable[[], AbstractContextManager[None]]
) -> None:
    """See that a key that was seen goes on while the store says nothing, that others wait, and all is well again."""
    away, stranger = (503, "identity_unavailable"), mint(frozenset({"agent"}))[0]

    async def settled(served: Served, token: str) -> int:
        # To a busy machine its store may seem away for a moment.
        while (found := await outcome(served, token)) == away:
            pass
        return found[0]

    async with asyncio.timeout(ENDS_WITHIN):
        assert [await settled(served, known) for served in gateways] == [200, 200]
    with pause():
        async with asyncio.timeout(ENDS_WITHIN):
            for served in gateways:
                others = [asyncio.ensure_future(outcome(served, each)) for each in (unseen, stranger) * 3]
                while not all(each.done() for each in others):
                    assert (await outcome(served, known))[0] == 200
                assert {each.result() for each in others} == {away}
                assert (await outcome(served, stranger)) == away, "it may be a good one, for all we know"
    async with asyncio.timeout(ENDS_WITHIN):
        for served in gateways:
            assert [await settled(served, each) for each in (unseen, stranger, known)] == [200, 401, 200]


async def test_keys_go_on_in_two_processes_whose_store_swallows_all_that_it_is_asked(
    postgres_server: LocalPostgres, postgres_template: str, tmp_path: Path
) -> None:
    async with cloned_database(postgres_server, postgres_template) as database, AsyncExitStack() as stack:
        address = httpx.URL(database.url)
        assert address.port is not None
        swamp = Swamp(address.host, address.port)
        port = await stack.enter_async_context(swamp.open())
        url = str(address.copy_with(port=port))
        keys = await stack.enter_async_context(open_keys(database.settings))
        known, unseen = [await kept(keys) for _ in range(2)]
        variables = variables_of(database, DATABASE_URL=url, SERVERS="database")
        gateways = await stack.enter_async_context(two_processes(tmp_path, POLICY, variables))
        await goes_on(gateways, known, unseen, swamp.swallowing)


async def test_keys_go_on_in_two_processes_while_the_server_that_keeps_them_stands_still(
    postgres_directory: Path, tmp_path: Path
) -> None:
    async with run_postgres(postgres_directory, durable=False) as server, AsyncExitStack() as stack:
        await migrate(server.url())
        database = TestDatabase(server.url(), (await ensure_reader_login(server.url(), "reader")).url)
        keys = await stack.enter_async_context(open_keys(database.settings))
        known, unseen = [await kept(keys) for _ in range(2)]
        variables = variables_of(database, SERVERS="database")
        gateways = await stack.enter_async_context(two_processes(tmp_path, POLICY, variables))
        await goes_on(gateways, known, unseen, partial(standing_still, server.process.pid))


async def kept(keys: KeyAdministration) -> str:
    """Return a key that has been made."""
    token, key = mint(frozenset({"agent"}))
    await keys.add(key)
    return token


@contextmanager
def standing_still(pid: int) -> Generator[None]:
    """Have a server with all its processes stand still for as long as the block runs, as on a host that is paused."""

    def children(of: int) -> list[int]:
        return [int(child) for child in Path(f"/proc/{of}/task/{of}/children").read_text().split()]

    os.kill(pid, signal.SIGSTOP)  # first, so that it makes no more of them
    family = [pid, *children(pid)]
    try:
        for each in family:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGSTOP)
        yield
    finally:
        for each in reversed(family):
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGCONT)
