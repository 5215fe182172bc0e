"""What is asked of the database server beyond its limits is turned away, in time and in words."""

import asyncio
from collections.abc import AsyncGenerator

import httpx
import psutil
import pytest

from app.local.postgres import LocalPostgres
from app.main import create_app
from app.routers.database import DatabaseMCPServer
from app.servers.calls import JsonObject
from app.settings import Settings
from tests.faces.raw import client_of, request, websocket
from tests.fixtures.gateway import FACES, Served, caller, serve
from tests.fixtures.postgres import TestDatabase, cloned_database, settings_for
from tests.mcp_servers.statements import SLOW, until_running

QUERY = "/mcp/database/tools/query_database"
LOOKUP = "/mcp/database/tools/get_customer_context"
IN_FLIGHT = 2


@pytest.fixture(scope="module")
async def desk(postgres_server: LocalPostgres, postgres_template: str) -> AsyncGenerator[TestDatabase]:
    """An empty support database, for this module alone."""
    async with cloned_database(postgres_server, postgres_template) as clone:
        yield clone


@pytest.fixture(scope="module")
async def gateway(desk: TestDatabase) -> AsyncGenerator[Served]:
    limits = Settings(max_calls_in_flight=IN_FLIGHT, max_request_bytes=2048)
    async with serve(create_app([DatabaseMCPServer], limits, [desk.settings])) as served:
        yield served


async def test_calls_beyond_the_limit_are_turned_away_at_once_on_every_face(
    gateway: Served, desk: TestDatabase
) -> None:
    async with client_of(gateway) as http, asyncio.TaskGroup() as tasks, desk.connect() as administrator:
        await administrator.execute("BEGIN; LOCK TABLE customers IN ACCESS EXCLUSIVE MODE")
        slow = [tasks.create_task(http.post(LOOKUP, json={"customer_id": "12345"})) for _ in range(IN_FLIGHT)]
        await until_running(desk, IN_FLIGHT)
        # Whoever is not turned away waits for the lock.
        answer = await http.post(LOOKUP, json={"customer_id": "12345"})
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        for face in FACES:
            async with caller(gateway, face) as call:
                problem = await call("database", "get_analytics")
            assert (problem["status"], problem["code"]) == (429, "too_many_requests")
            assert problem["retry_after"] == 1
        read = await http.get("/mcp/database/resources/read", params={"uri": "db://customers"})
        assert read.status_code == 429
        for task in slow:
            task.cancel()
        await until_running(desk, 0)
        await administrator.execute("ROLLBACK")
        answer = await http.post(LOOKUP, json={"customer_id": "12345"})
        assert answer.json()["code"] == "not_found"


async def test_many_slow_queries_leave_the_other_tools_alone(desk: TestDatabase) -> None:
    async with (
        serve(
            create_app([DatabaseMCPServer], Settings(), [settings_for(desk.url, desk.reader_url, pool_wait=0.2)])
        ) as own,
        client_of(own) as http,
    ):
        query: JsonObject = {"query": SLOW, "timeout_ms": 60_000}
        slow = [asyncio.create_task(http.post(QUERY, json=query, timeout=60)) for _ in range(300)]
        await until_running(desk, 4)
        lookups = [await http.post(LOOKUP, json={"customer_id": "12345"}) for _ in range(60)]
        assert {answer.status_code for answer in lookups} == {404}
        # All but those that run have been told to come back.
        async with asyncio.timeout(30):
            for call in asyncio.as_completed(slow):
                answer = await call
                assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
                if sum(not task.done() for task in slow) == 4:
                    break
        for task in slow:
            task.cancel()
        await until_running(desk, 0)


@pytest.mark.parametrize(
    ("tool", "arguments", "locked"),
    [
        ("query_database", {"query": "SELECT count(*) FROM interactions", "timeout_ms": 60_000}, "interactions"),
        ("get_analytics", {"time_period": "7 days"}, "interactions"),
        ("search_knowledge_base", {"search_term": "password"}, "article_search"),
    ],
)
async def test_a_burst_of_a_slow_tool_leaves_the_other_tools_alone(
    demo_database: TestDatabase, tool: str, arguments: JsonObject, locked: str
) -> None:
    most = DatabaseMCPServer.tools[tool].max_in_flight
    assert most is not None
    patient = settings_for(demo_database.url, demo_database.reader_url, pool_wait=60)
    others: dict[str, JsonObject] = {
        "query_database": {"query": "SELECT count(*) FROM customers"},
        "search_knowledge_base": {"search_term": "password"},
    }
    async with (
        serve(create_app([DatabaseMCPServer], Settings(tool_timeout=60), [patient])) as own,
        client_of(own) as http,
        demo_database.connect() as administrator,
    ):
        await administrator.execute(f"BEGIN; LOCK TABLE {locked} IN ACCESS EXCLUSIVE MODE")
        path = f"/mcp/database/tools/{tool}"
        slow = [asyncio.create_task(http.post(path, json=arguments)) for _ in range(most + 20)]
        # Those beyond the limit are told at once; the others wait for the lock, or for a connection.
        async with asyncio.timeout(30):
            refused = [await call for _, call in zip(range(20), asyncio.as_completed(slow), strict=False)]
        assert {(answer.status_code, answer.headers["retry-after"]) for answer in refused} == {(429, "1")}
        async with asyncio.timeout(30):
            for other in others.keys() - {tool}:
                answer = await http.post(f"/mcp/database/tools/{other}", json=others[other])
                assert answer.json()["success"] is True, (other, answer.text)
            if locked != "interactions":
                context = await http.post(LOOKUP, json={"customer_id": "12345"})
                assert context.json()["success"] is True
        await administrator.execute("ROLLBACK")
        async with asyncio.timeout(30):
            answers = [answer.status_code for answer in await asyncio.gather(*slow)]
        assert (answers.count(200), answers.count(429)) == (most, 20)


async def test_two_thousand_large_answers_leave_nothing_behind(desk: TestDatabase) -> None:
    """512 MB pass; what is kept of an answer would show."""
    large: JsonObject = {"query": "SELECT repeat('x', 262144) AS text", "timeout_ms": 60_000}
    process = psutil.Process()
    async with serve(create_app([DatabaseMCPServer], Settings(), [desk.settings])) as own, client_of(own) as http:

        async def fetch(count: int) -> int:
            for _ in range(count):
                answer = await http.post(QUERY, json=large)
                assert (answer.status_code, len(answer.content) > 262_144) == (200, True)
            return process.memory_info().rss

        async def fetch_in_lanes(count: int) -> int:
            return max(await asyncio.gather(*(fetch(count // 4) for _ in range(4))))

        before = await fetch_in_lanes(200)
        assert await fetch_in_lanes(2000) - before < 100 * 2**20


async def test_the_limit_of_a_query_is_its_own_and_not_the_gateways(desk: TestDatabase) -> None:
    async with (
        serve(create_app([DatabaseMCPServer], Settings(tool_timeout=0.1), [desk.settings])) as own,
        client_of(own) as http,
    ):
        answer = await http.post(QUERY, json={"query": SLOW, "timeout_ms": 300})
        assert (answer.status_code, answer.json()["code"]) == (504, "backend_timeout")
        assert "timeout_ms" in answer.json()["detail"]
    longest = DatabaseMCPServer.tools["query_database"].timeout
    assert longest is not None
    assert longest > 60


async def test_a_request_that_is_too_large_is_refused(gateway: Served) -> None:
    arguments: JsonObject = {"query": "SELECT 1 -- " + "x" * 4096}
    async with client_of(gateway) as http:
        for path, body in {
            QUERY: arguments,
            "/mcp/database": request("2025-11-25", "tools/call", {"name": "query_database", "arguments": arguments}),
        }.items():
            answer = await http.post(path, json=body, headers={"accept": "application/json, text/event-stream"})
            assert (answer.status_code, answer.json()["code"]) == (413, "request_too_large")
    async with websocket(gateway, "2026-07-28", "/mcp/database/ws") as messages:
        await messages.send(request("2026-07-28", "tools/call", {"name": "query_database", "arguments": arguments}))
        await messages.socket.wait_closed()
        assert messages.socket.close_code == 1009


async def test_a_statement_that_is_too_large_is_refused_before_it_is_parsed(desk: TestDatabase) -> None:
    # A parser that recurses would not survive these: the process has to.
    terms = "SELECT " + "1-" * 200_000 + "1"
    nested = "SELECT " + "(" * 15_000 + "1" + ")" * 15_000
    async with (
        serve(create_app([DatabaseMCPServer], Settings(), [desk.settings])) as served,
        client_of(served) as http,
    ):
        for query in (terms, nested):
            answer = await http.post(QUERY, json={"query": query})
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid_arguments"), answer.text
        assert (await http.post(QUERY, json={"query": "SELECT 1 AS one"})).json()["rows"] == [{"one": 1}]


async def test_an_exhausted_pool_of_the_reader_answers_in_time_and_stops_no_other_tool(desk: TestDatabase) -> None:
    own = settings_for(desk.url, desk.reader_url, reader_pool_size=1, pool_wait=0.5)
    async with serve(create_app([DatabaseMCPServer], Settings(), [own])) as served, client_of(served) as http:
        async with asyncio.TaskGroup() as tasks:
            slow = tasks.create_task(http.post(QUERY, json={"query": SLOW, "timeout_ms": 60_000}, timeout=60))
            await until_running(desk, 1)
            waiting = await http.post(QUERY, json={"query": "SELECT 1"})
            assert (waiting.status_code, waiting.json()["code"]) == (429, "too_many_requests")
            assert (await http.post(LOOKUP, json={"customer_id": "nobody"})).status_code == 404
            slow.cancel()
        await until_running(desk, 0)
        assert (await http.post(QUERY, json={"query": "SELECT 1"})).status_code == 200


@pytest.mark.parametrize("tool", ["get_customer_context", "save_interaction", "get_analytics"])
async def test_an_exhausted_pool_answers_in_time(desk: TestDatabase, tool: str) -> None:
    small = {"read_pool_size": 1, "report_pool_size": 1, "write_pool_size": 1}
    own = settings_for(desk.url, **{**small, "pool_wait": 0.5, "statement_timeout": 2})
    arguments = DatabaseMCPServer.tools[tool].example or {}
    # Identical reports are one.
    periods = [{"time_period": f"{n} days"} if "time_period" in arguments else {} for n in (6, 7, 8, 9)]
    first, *asked = [arguments | period for period in periods]
    async with (
        desk.connect() as administrator,
        serve(create_app([DatabaseMCPServer], Settings(), [own])) as served,
        httpx.AsyncClient(base_url=served.url, verify=False, timeout=15) as http,
    ):
        # To connect may take longer than a connection is waited for.
        await http.post(f"/mcp/database/tools/{tool}", json=first)
        async with administrator.transaction():
            await administrator.execute("LOCK TABLE customers, tickets, interactions IN ACCESS EXCLUSIVE MODE")
            answers = await asyncio.gather(*(http.post(f"/mcp/database/tools/{tool}", json=each) for each in asked))
        # One runs into the limit of its statement, the others are told to come back.
        assert sorted(answer.status_code for answer in answers) == [429, 429, 504]
        recovered = await http.post(f"/mcp/database/tools/{tool}", json=arguments)
        assert recovered.status_code in (200, 404)
