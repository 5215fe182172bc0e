"""PostgreSQL is killed, hangs, is not there yet or was never configured: who calls hears it, and nobody restarts."""

import asyncio
import json
import signal
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.local.postgres import LocalPostgres, run_postgres
from app.local.process import free_port
from app.main import create_app
from app.routers.database import DatabaseMCPServer
from app.servers.calls import JsonObject
from app.services.postgres.connections.settings import PostgresSettings
from app.services.postgres.demo.world import seed
from app.services.postgres.migrations import migrate
from app.services.postgres.sql.login import ensure_reader_login
from app.services.postgres.versions import versions
from app.settings import Settings
from tests.faces.raw import client_of, request, websocket
from tests.fixtures.gateway import FACES, Served, caller, serve
from tests.fixtures.postgres import TestDatabase, cluster_directory, gone, processes_of, settings_for
from tests.mcp_servers.statements import SLOW, until_running, until_waiting

pytestmark = pytest.mark.usefixtures("patience")
TOOLS = DatabaseMCPServer.tools
CALLS = {name: tool.example or {} for name, tool in TOOLS.items()}
ANSWERED_WITHIN = 25.0
"""Seconds in which callers of all tools have their answers: less than a tool may take."""


@dataclass(frozen=True)
class Cluster:
    """A stopped PostgreSQL with the demo data, which every start finds at the same address."""

    directory: Path
    port: int
    database: TestDatabase

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[LocalPostgres]:
        async with run_postgres(self.directory, port=self.port, durable=False) as server:
            yield server


@pytest.fixture(scope="module")
async def cluster() -> AsyncGenerator[Cluster]:
    """A cluster of this module alone, since its tests kill it."""
    with cluster_directory() as directory:
        port = free_port()
        async with run_postgres(directory, port=port, durable=False) as server:
            await migrate(server.url())
            await seed(server.url())
            reader = await ensure_reader_login(server.url(), "reader")
            database = TestDatabase(server.url(), reader.url)
        yield Cluster(directory, port, database)


@asynccontextmanager
async def serving(cluster: Cluster, **settings: object) -> AsyncGenerator[Served]:
    own = settings_for(cluster.database.url, cluster.database.reader_url, **settings)
    async with serve(create_app([DatabaseMCPServer], Settings(), [own])) as served:
        yield served


async def kill(server: LocalPostgres) -> None:
    """End a server and all that works for it at once, as a failing machine does."""
    processes = processes_of(server)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    await gone(processes)


@contextmanager
def frozen(server: LocalPostgres) -> Generator[None]:
    """Stop a server without ending it: its connections stay open, and nobody answers."""
    processes = processes_of(server)
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


async def call_all(served: Served, face: str) -> dict[str, dict[str, Any]]:
    """Call every tool that asks the database each time, in time; return the answers."""
    (first, *others) = (name for name in CALLS if TOOLS[name].cache_seconds is None)
    async with asyncio.timeout(ANSWERED_WITHIN), caller(served, face) as call:
        # The first call connects, the others share the connection.
        answers = {first: await call("database", first, CALLS[first])}
        rest = await asyncio.gather(*(call("database", tool, CALLS[tool]) for tool in others))
    return answers | dict(zip(others, rest, strict=True))


async def test_a_database_that_is_killed_answers_503_and_comes_back_without_a_restart(cluster: Cluster) -> None:
    async with serving(cluster) as served:
        async with cluster.running() as server:
            assert {answer["success"] for answer in (await call_all(served, "rest")).values()} == {True}
            async with client_of(served) as http, websocket(served, "2026-07-28", "/mcp/database/ws") as messages:
                # In the middle of calls: two queries run, one waits for a lock.
                slow: JsonObject = {"query": SLOW}
                calls = [asyncio.create_task(http.post("/mcp/database/tools/query_database", json=slow))]
                await messages.send(request("2026-07-28", "tools/call", {"name": "query_database", "arguments": slow}))
                async with cluster.database.connect() as administrator:
                    await administrator.execute("BEGIN; LOCK TABLE customers IN ACCESS EXCLUSIVE MODE")
                    for tool in ("get_customer_context", "save_interaction"):
                        waiting = http.post(f"/mcp/database/tools/{tool}", json=CALLS[tool])
                        calls.append(asyncio.create_task(waiting))
                    await until_running(cluster.database, 4)
                    await kill(server)
                    async with asyncio.timeout(ANSWERED_WITHIN):
                        answers = [answer.json() for answer in await asyncio.gather(*calls)]
                        over_websocket = (await messages.receive())["result"]
                    answers.append(json.loads(over_websocket["content"][0]["text"]))
            assert {answer["status"] for answer in answers} <= {503, 504}, answers
        for face in FACES:
            answers = list((await call_all(served, face)).values())
            assert {answer["status"] for answer in answers} <= {503, 504}, answers
            assert "asyncpg" not in str(answers)
        async with cluster.running():
            for face in FACES:
                answers = list((await call_all(served, face)).values())
                assert {answer["success"] for answer in answers} == {True}, answers


@pytest.mark.parametrize("face", FACES)
async def test_a_database_that_is_killed_in_the_middle_of_each_tool_is_told(cluster: Cluster, face: str) -> None:
    async with serving(cluster) as served, caller(served, face) as call:
        async with cluster.running() as server, cluster.database.connect() as administrator:
            # Nothing of what is called here was called before, or memory would answer. But the official client has
            # to be connected by the task that leaves it.
            await call("database", "get_customer_context", {"customer_id": "nobody"})
            tables = "customers, tickets, interactions, knowledge_articles"
            await administrator.execute(f"BEGIN; LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")
            calls = {tool: asyncio.create_task(call("database", tool, arguments)) for tool, arguments in CALLS.items()}
            await until_waiting(cluster.database, len(calls))
            await kill(server)
            async with asyncio.timeout(ANSWERED_WITHIN):
                answers = {tool: await answer for tool, answer in calls.items()}
        for tool, answer in answers.items():
            # Whether it was saved nobody knows: 503 may be repeated with the same idempotency key.
            assert (answer["success"], answer["status"], answer["code"]) == (False, 503, "backend_unavailable"), tool
            assert "again" in answer["detail"], answer
            assert "asyncpg" not in str(answer)
        async with cluster.running():
            again = await call_all(served, face)
            assert {answer["success"] for answer in again.values()} == {True}, again
            await until_running(cluster.database, 0)


async def test_a_database_that_restarts_between_calls_is_not_noticed(cluster: Cluster) -> None:
    async with serving(cluster) as served:
        for _ in range(2):
            async with cluster.running():
                answers = list((await call_all(served, "rest")).values())
                assert {answer["success"] for answer in answers} == {True}, answers


async def test_a_database_that_hangs_answers_504_within_the_time_limit_and_recovers(cluster: Cluster) -> None:
    limit = 0.5
    settings = Settings(tool_timeout=limit)
    # A query has a limit of its own.
    own = settings_for(cluster.database.url, cluster.database.reader_url, statement_timeout=limit)
    async with (
        cluster.running() as server,
        serve(create_app([DatabaseMCPServer], settings, [own])) as served,
    ):
        await call_all(served, "rest")
        with frozen(server):
            for _ in range(2):
                answers = list((await call_all(served, "rest")).values())
                assert {(answer["status"], answer["code"]) for answer in answers} == {(504, "backend_timeout")}
        async with asyncio.timeout(ANSWERED_WITHIN):
            # To connect anew may take longer than these tools may.
            while {answer["success"] for answer in (await call_all(served, "rest")).values()} != {True}:
                pass


async def test_a_gateway_that_starts_before_its_database_waits_for_nothing(cluster: Cluster) -> None:
    async with serving(cluster) as served, client_of(served) as http:
        listed = (await http.get("/mcp/database/tools")).json()["tools"]
        assert [tool["name"] for tool in listed] == list(TOOLS)
        assert (await http.get("/health")).status_code == 200
        assert (await http.get("/ready")).status_code == 503
        for face in FACES:
            answers = await call_all(served, face)
            assert {(a["status"], a["code"]) for a in answers.values()} == {(503, "backend_unavailable")}, answers
        resource = await http.get("/mcp/database/resources/read", params={"uri": "db://customers"})
        assert resource.json()["code"] == "backend_unavailable"
        async with cluster.running():
            answers = await call_all(served, "rest")
            assert {answer["success"] for answer in answers.values()} == {True}, answers
            assert (await http.get("/ready")).status_code == 200


async def test_a_watch_outlives_the_database(cluster: Cluster) -> None:
    async with serving(cluster) as served, websocket(served, "2025-11-25", "/mcp/database/ws") as messages:
        async with cluster.running() as server:
            async with cluster.database.connect() as connection:
                ticket = await connection.fetchval("SELECT min(id) FROM tickets WHERE customer_id = '12345'")
            uri = f"db://tickets/{ticket}"
            answer = await messages.ask(request("2025-11-25", "resources/subscribe", {"uri": uri}))
            assert answer["result"] == {}
            await kill(server)
        async with cluster.running():
            # Something may have been missed, so the return itself is told.
            assert (await messages.receive())["params"]["uri"] == uri
            arguments = {"customer_id": "12345", "ticket_id": ticket, "query_text": "Still there?"}
            async with client_of(served) as http:
                saved = await http.post("/mcp/database/tools/save_interaction", json=arguments)
            assert saved.status_code == 200
            assert (await messages.receive())["params"]["uri"] == uri


# What is not configured


@pytest.mark.parametrize("face", FACES)
async def test_a_missing_address_is_named(face: str) -> None:
    async with serve(create_app([DatabaseMCPServer], Settings(), [settings_for(None)])) as served:
        answers = await call_all(served, face)
    assert {(a["status"], a["code"]) for a in answers.values()} == {(503, "backend_not_configured")}
    for tool, answer in answers.items():
        variable = "DATABASE_READER_URL" if tool == "query_database" else "DATABASE_URL"
        assert f"{variable} is not set" in answer["detail"]


async def test_a_missing_reader_stops_nothing_where_its_login_can_be_made(cluster: Cluster) -> None:
    without_reader = settings_for(cluster.database.url)
    async with (
        cluster.running(),
        serve(create_app([DatabaseMCPServer], Settings(), [without_reader])) as served,
    ):
        answers = await call_all(served, "rest")
    assert [tool for tool, answer in answers.items() if not answer["success"]] == []


@asynccontextmanager
async def readiness(own: PostgresSettings) -> AsyncGenerator[dict[str, Any]]:
    async with serve(create_app([DatabaseMCPServer], Settings(), [own])) as served, client_of(served) as http:
        async with asyncio.timeout(ANSWERED_WITHIN):
            # A probe has two seconds, in which a busy machine does not always open its first connections.
            while (answer := await http.get("/ready")).json()["servers"]["database"].get("code") == "backend_timeout":
                pass
        yield {"http": answer.status_code, **answer.json()["servers"]["database"]}


async def test_ready_means_that_each_tool_could_work(cluster: Cluster) -> None:
    url, reader_url = cluster.database.url, cluster.database.reader_url
    async with cluster.running():
        async with readiness(settings_for(url, reader_url)) as ready:
            assert (ready.pop("http"), ready.pop("ready"), set(ready.values())) == (200, True, {None})
        async with readiness(settings_for(url)) as ready:
            assert (ready["http"], ready["ready"]) == (200, True)
        async with readiness(settings_for(url, reader_url.replace(":reader@", ":hunter2@"))) as ready:
            assert (ready["http"], ready["ready"], list(ready["tools_off"])) == (200, False, ["query_database"])
            assert "DATABASE_READER_URL" in ready["tools_off"]["query_database"]["detail"]
        async with readiness(settings_for(f"{url.rpartition('/')[0]}/template1", reader_url)) as ready:
            assert (ready["http"], ready["ready"]) == (503, False)
            assert "switchboard migrate" in ready["detail"]


async def test_a_database_of_an_older_version_is_not_ready_and_one_of_a_newer_is(cluster: Cluster) -> None:
    own = cluster.database.settings
    async with cluster.running(), cluster.database.connect() as administrator:
        version = await administrator.fetchval("SELECT version_num FROM alembic_version")
        for other, is_ready in (("0001", False), ("9999", True)):
            await administrator.execute("UPDATE alembic_version SET version_num = $1", other)
            async with readiness(own) as ready:
                assert ready["ready"] is is_ready
                assert is_ready or "switchboard migrate" in ready["detail"]
        await administrator.execute("UPDATE alembic_version SET version_num = $1", version)


@pytest.mark.parametrize("version", versions()[:-1])
async def test_of_a_database_that_is_half_migrated_each_tool_works_or_says_what_to_run(
    cluster: Cluster, version: str
) -> None:
    """What works does; what does not is 503, since a repetition helps once somebody has migrated."""
    async with cluster.running() as server:
        async with cluster.database.connect() as administrator:
            await administrator.execute(f"CREATE DATABASE half_{version}")
        half = settings_for(
            server.url(f"half_{version}"), f"{cluster.database.reader_url.rpartition('/')[0]}/half_{version}"
        )
        if version != "base":
            await migrate(half.administration_url, version)
        async with readiness(half) as ready:
            assert (ready["http"], ready["ready"]) == (503, False)
            assert "switchboard migrate" in ready["detail"]
        async with serve(create_app([DatabaseMCPServer], Settings(), [half])) as served:
            answers = await call_all(served, "rest")
        for tool, answer in answers.items():
            works = answer["success"] or answer["status"] == 404
            assert works or (answer["status"] == 503 and "switchboard migrate" in answer["detail"]), (tool, answer)


async def test_a_view_that_nobody_vetted_is_told_by_ready(cluster: Cluster) -> None:
    async with cluster.running(), cluster.database.connect() as administrator:
        await administrator.execute("CREATE VIEW sneaky AS SELECT pg_read_file('x') AS x")
        await administrator.execute("GRANT SELECT ON sneaky TO switchboard_reader")
        try:
            async with readiness(cluster.database.settings) as ready:
                assert "sneaky" in ready["tools_off"]["query_database"]["detail"]
        finally:
            await administrator.execute("DROP VIEW sneaky")


async def test_a_wrong_password_is_not_configured_and_is_not_shown(cluster: Cluster) -> None:
    wrong = settings_for(
        f"postgresql://postgres:hunter2@127.0.0.1:{cluster.port}/postgres",
        f"postgresql://switchboard_reader_login:hunter2@127.0.0.1:{cluster.port}/postgres",
    )
    async with cluster.running(), serve(create_app([DatabaseMCPServer], Settings(), [wrong])) as served:
        answers = await call_all(served, "rest")
    assert {(a["status"], a["code"]) for a in answers.values()} == {(503, "backend_not_configured")}, answers
    assert "hunter2" not in str(answers)


async def test_a_database_without_tables_says_what_to_run(cluster: Cluster) -> None:
    empty = settings_for(f"{cluster.database.url.rpartition('/')[0]}/template1")
    async with (
        cluster.running(),
        serve(create_app([DatabaseMCPServer], Settings(), [empty])) as served,
        client_of(served) as http,
    ):
        answer = await http.post("/mcp/database/tools/get_customer_context", json=CALLS["get_customer_context"])
    assert answer.status_code == 503
    assert "switchboard migrate" in answer.json()["detail"]
