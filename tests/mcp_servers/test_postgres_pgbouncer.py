"""The database server behind a real PgBouncer, which lends connections by the session or by the transaction."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

from app.local.process import free_port
from app.main import create_app
from app.routers.database import DatabaseMCPServer
from app.settings import Settings
from tests.faces.raw import client_of, request, websocket
from tests.fixtures.gateway import Served, serve
from tests.fixtures.pgbouncer import run_pgbouncer
from tests.fixtures.postgres import TestDatabase, settings_for

pytestmark = [pytest.mark.debian("pgbouncer"), pytest.mark.usefixtures("patience")]

CALLS = {name: tool.example or {} for name, tool in DatabaseMCPServer.tools.items()}
AT_A_TIME = 60
HEARD_WITHIN = 20.0


@pytest.fixture(params=["session", "transaction"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def behind_pgbouncer(database: TestDatabase, mode: Any, **settings: Any) -> AsyncGenerator[Served]:
    async with run_pgbouncer(database.url, database.reader_url, mode=mode) as (url, reader_url):
        own = settings_for(url, reader_url, pool_wait=60, **settings)
        async with serve(create_app([DatabaseMCPServer], Settings(), [own])) as served:
            yield served


async def call(http: httpx.AsyncClient, tool: str, arguments: Any = None) -> dict[str, Any]:
    answer: dict[str, Any] = (await http.post(f"/mcp/database/tools/{tool}", json=arguments or CALLS[tool])).json()
    return answer


async def test_six_hundred_calls_at_once_all_succeed(demo_database: TestDatabase, mode: str) -> None:
    places = asyncio.Semaphore(AT_A_TIME)

    async def one(http: httpx.AsyncClient, tool: str) -> str:
        async with places:
            answer = await call(http, tool)
        return "ok" if answer["success"] else f"{tool}: {answer['status']} {answer['detail']}"

    async with behind_pgbouncer(demo_database, mode) as served, client_of(served) as http:
        outcomes = await asyncio.gather(*(one(http, tool) for _ in range(600 // len(CALLS)) for tool in CALLS))
        assert Counter(outcomes) == {"ok": 600}
        ready = (await http.get("/ready")).json()["servers"]["database"]
        assert ready["ready"], ready


async def test_a_pooler_that_is_killed_under_load_is_an_outage_until_it_is_back(
    demo_database: TestDatabase, mode: Any
) -> None:
    port = free_port()
    urls = demo_database.url, demo_database.reader_url
    reads = [tool for tool in CALLS if tool != "save_interaction"]
    answered = asyncio.Event()
    outcomes = Counter[str]()

    async def ask(http: httpx.AsyncClient, tool: str) -> bool:
        answer = await call(http, tool)
        outcomes["ok" if answer["success"] else f"{answer['status']} {answer['code']}"] += 1
        if outcomes["ok"] >= 60:
            answered.set()
        return bool(answer["success"])

    async def keep_asking(http: httpx.AsyncClient, tool: str) -> None:
        while not over.is_set():
            await ask(http, tool)

    over = asyncio.Event()
    async with AsyncExitStack() as stack:
        pooler = await stack.enter_async_context(AsyncExitStack())
        through = await pooler.enter_async_context(
            run_pgbouncer(*urls, mode=mode, port=port, stop_signal=signal.SIGKILL)
        )
        app = create_app([DatabaseMCPServer], Settings(), [settings_for(*through, pool_wait=10)])
        served = await stack.enter_async_context(serve(app))
        http = await stack.enter_async_context(client_of(served))
        async with asyncio.TaskGroup() as asking:
            for _ in range(6):
                for tool in reads:
                    asking.create_task(keep_asking(http, tool))
            async with asyncio.timeout(HEARD_WITHIN):
                await answered.wait()
            await pooler.aclose()
            over.set()
        assert not await ask(http, "get_customer_context")
        assert (await http.get("/ready")).status_code == 503
        assert set(outcomes) - {"ok"} <= {"503 backend_unavailable", "504 backend_timeout"}, outcomes
        await stack.enter_async_context(run_pgbouncer(*urls, mode=mode, port=port))
        async with asyncio.timeout(HEARD_WITHIN):
            for tool in reads:
                while not await ask(http, tool):
                    pass
        answers = await asyncio.gather(*(call(http, tool) for _ in range(20) for tool in CALLS))
        assert all(answer["success"] for answer in answers)
        assert (await http.get("/ready")).json()["servers"]["database"]["ready"]


async def test_what_the_guard_relies_on_holds_in_each_query(demo_database: TestDatabase, mode: str) -> None:
    sneaky = {"query": r"SELECT '\'' AS quote, interval '1 month' AS period"}
    async with behind_pgbouncer(demo_database, mode) as served, client_of(served) as http:
        async with demo_database.connect() as administrator:
            for setting in ("standard_conforming_strings = off", "intervalstyle = 'postgres'", "datestyle = 'German'"):
                await administrator.execute(f"ALTER ROLE switchboard_reader_login SET {setting}")
        try:
            answers = await asyncio.gather(
                *(call(http, "query_database", {"query": "SELECT interval '1 month' AS period"}) for _ in range(20))
            )
            assert [answer["rows"] for answer in answers] == [[{"period": "P1M"}]] * 20
            assert (await call(http, "query_database", sneaky))["status"] == 422
        finally:
            async with demo_database.connect() as administrator:
                await administrator.execute("ALTER ROLE switchboard_reader_login RESET ALL")
                for setting in ("default_transaction_read_only = 'on'", "standard_conforming_strings = 'on'"):
                    await administrator.execute(f"ALTER ROLE switchboard_reader_login SET {setting}")


async def subscribe(served: Served, database: TestDatabase) -> dict[str, Any]:
    """Subscribe to a ticket, change it, and return the notice of that or the refusal."""
    async with database.connect() as administrator:
        ticket = await administrator.fetchval("SELECT min(id) FROM tickets")
        async with websocket(served, "2025-11-25", "/mcp/database/ws") as messages, asyncio.timeout(HEARD_WITHIN):
            uri = f"db://tickets/{ticket}"
            answer = await messages.ask(request("2025-11-25", "resources/subscribe", {"uri": uri}))
            if "error" in answer:
                return answer
            await administrator.execute(f"UPDATE tickets SET subject = 'Changed' WHERE id = {ticket}")
            return await messages.receive()


async def test_a_pooler_that_keeps_connections_lets_changes_be_heard(demo_database: TestDatabase) -> None:
    async with behind_pgbouncer(demo_database, "session") as served:
        assert (await subscribe(served, demo_database))["method"] == "notifications/resources/updated"


async def test_without_a_direct_address_watchers_are_told_why_they_can_not_hear(demo_database: TestDatabase) -> None:
    async with behind_pgbouncer(demo_database, "transaction") as served:
        assert "DATABASE_DIRECT_URL" in (await subscribe(served, demo_database))["error"]["message"]


async def test_a_direct_address_brings_the_changes_past_the_pooler(demo_database: TestDatabase) -> None:
    async with behind_pgbouncer(demo_database, "transaction", direct_url=demo_database.url) as served:
        assert (await subscribe(served, demo_database))["method"] == "notifications/resources/updated"


async def test_a_cancelled_call_ends_in_postgresql_through_the_pooler(demo_database: TestDatabase, mode: str) -> None:
    running = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE state = 'active' AND query LIKE '%AS abandoned%' AND pid <> pg_backend_pid()"
    )
    query = {"query": "SELECT count(*) AS abandoned FROM generate_series(1, 100000000000)"}
    async with (
        behind_pgbouncer(demo_database, mode) as served,
        client_of(served) as http,
        demo_database.connect() as administrator,
    ):
        waiting = asyncio.create_task(call(http, "query_database", query))
        async with asyncio.timeout(HEARD_WITHIN):
            while not await administrator.fetchval(running):
                pass
            waiting.cancel()
            while await administrator.fetchval(running):
                pass
        assert (await call(http, "query_database", {"query": "SELECT 1 AS one"}))["rows"] == [{"one": 1}]
