"""Two hundred sessions, each of one customer, read and write at once, on all faces of two processes: no row crosses."""

import asyncio
import json
import random
import re
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from app.local.postgres import LocalPostgres
from app.local.process import child_process, free_port
from tests.faces.raw import headers, request, websocket
from tests.fixtures.gateway import Served
from tests.fixtures.postgres import TestDatabase, cloned_database
from tests.guard.bound import CALLER

SESSIONS = 200
CALLS = 12
"""Of each session."""
WITHIN = 120.0
"""Seconds for all of them."""
_MARK = re.compile(r"of <(\w+)>")
_ROWS = """
INSERT INTO customers (id, name, email) SELECT 'c' || n, 'of <c' || n || '>', 'c' || n || '@example.com'
    FROM generate_series(1, $1::integer) n
"""
_TICKETS = """
INSERT INTO tickets (customer_id, subject) SELECT id, 'of <' || id || '>' FROM customers, generate_series(1, 2)
"""
_INTERACTIONS = """
INSERT INTO interactions (customer_id, ticket_id, internal, query_text)
SELECT customer_id, id, n = 3, CASE WHEN n = 3 THEN 'NOTE' ELSE '' END || 'of <' || customer_id || '>'
    FROM tickets, generate_series(1, 3) n
"""

Ask = Callable[[str, Any], Awaitable[str]]
"""Calls a tool with arguments, or reads a resource if there are none, and returns the whole answer."""


@pytest.fixture
async def desk(postgres_server: LocalPostgres, postgres_template: str) -> AsyncGenerator[TestDatabase]:
    async with cloned_database(postgres_server, postgres_template) as clone:
        async with clone.connect() as connection:
            await connection.execute(_ROWS.replace("$1::integer", str(SESSIONS)))
            await connection.execute(_TICKETS)
            await connection.execute(_INTERACTIONS)
        yield clone


@pytest.fixture
async def gateways(desk: TestDatabase, tmp_path: Path) -> AsyncGenerator[list[Served]]:
    """Two processes with nothing in common but the database."""
    async with AsyncExitStack() as stack:
        ports = [free_port(), free_port()]
        for port in ports:
            command = [sys.executable, "-m", "tests.guard.bound_gateway", str(port), desk.url]
            is_ready = partial(_is_ready, port)
            await stack.enter_async_context(child_process(command, log=tmp_path / f"{port}.log", is_ready=is_ready))
        # Of a process there is but the address.
        yield [Served(cast("Any", None), port, cast("Any", None)) for port in ports]


async def _is_ready(port: int) -> bool:
    async with httpx.AsyncClient(verify=False) as http:
        try:
            return (await http.get(f"http://127.0.0.1:{port}/health")).status_code == 200
        except httpx.TransportError:
            return False


def rest(http: httpx.AsyncClient, who: dict[str, str]) -> Ask:
    async def ask(what: str, arguments: Any) -> str:
        if arguments is None:
            return (await http.get("/mcp/database/resources/read", params={"uri": what}, headers=who)).text
        return (await http.post(f"/mcp/mcp_database/tools/{what}", json=arguments, headers=who)).text

    return ask


def batch(http: httpx.AsyncClient, who: dict[str, str]) -> Ask:
    alone = rest(http, who)

    async def ask(what: str, arguments: Any) -> str:
        if arguments is None:
            return await alone(what, None)
        calls = [{"server": "database", "tool": what, "arguments": arguments}] * 2
        return (await http.post("/mcp/batch", json={"calls": calls}, headers=who)).text

    return ask


def _message(era: str, what: str, arguments: Any, number: int) -> Any:
    if arguments is None:
        return request(era, "resources/read", {"uri": what}, number=number)
    return request(era, "tools/call", {"name": what, "arguments": arguments}, number=number)


def mcp(http: httpx.AsyncClient, who: dict[str, str], era: str) -> Ask:
    async def ask(what: str, arguments: Any) -> str:
        message = _message(era, what, arguments, 1)
        return (await http.post("/mcp", json=message, headers={**headers(era, message), **who})).text

    return ask


async def _session(served: Served, http: httpx.AsyncClient, number: int, desk: dict[str, list[int]]) -> None:
    """Be one customer's session; what it is answered speaks of nobody else."""
    customer = f"c{number}"
    chance = random.Random(number)
    who = {CALLER.decode(): customer}
    async with AsyncExitStack() as stack:
        face = number % 5
        if face < 4:
            ask = [rest(http, who), batch(http, who), mcp(http, who, "2025-11-25"), mcp(http, who, "2026-07-28")][face]
        else:
            era = chance.choice(("2025-11-25", "2026-07-28"))
            messages = await stack.enter_async_context(
                websocket(served, era, "/mcp/database/ws", additional_headers=who)
            )

            async def over_websocket(what: str, arguments: Any) -> str:
                return json.dumps(await messages.ask(_message(era, what, arguments, chance.randrange(10**6))))

            ask = over_websocket
        for _ in range(CALLS):
            what, arguments, may_fail = _random_call(chance, customer, desk)
            answer = await ask(what, arguments)
            assert "NOTE" not in answer
            assert set(_MARK.findall(answer)) <= {customer}, (customer, what, arguments)
            if not may_fail and "too_many_requests" not in answer:
                assert customer in answer, (customer, what, arguments, answer)


def _random_call(chance: random.Random, customer: str, desk: dict[str, list[int]]) -> tuple[str, Any, bool]:
    """Return what is called or read, with which arguments, and whether it may fail, as whatever is of others does."""
    other = f"c{chance.randrange(SESSIONS) + 1}"
    text = f"of <{customer}>"
    mine = {"query_text": text}
    return chance.choice(
        [
            ("get_customer_context", {}, False),
            ("get_customer_context", {"customer_id": customer}, False),
            ("get_customer_context", {"customer_id": other}, True),
            ("save_interaction", mine, False),
            ("save_interaction", {"interaction_data": {"content": text}}, False),
            ("save_interaction", {**mine, "customer_id": other}, True),
            ("save_interaction", {**mine, "ticket_id": chance.choice(desk["tickets"])}, True),
            ("save_interaction", {**mine, "internal": True}, True),
            ("save_interaction", {**mine, "idempotency_key": str(chance.randrange(40))}, True),
            ("query_database", {"query": "SELECT * FROM interactions"}, True),
            ("get_analytics", {}, True),
            ("db://customers", None, False),
            ("db://tickets?limit=200", None, False),
            ("db://interactions?limit=200", None, False),
            (f"db://customers/{other}", None, True),
            (f"db://tickets/{chance.choice(desk['tickets'])}", None, True),
            (f"db://interactions/{chance.choice(desk['interactions'])}", None, True),
        ]
    )


async def test_of_two_hundred_sessions_none_reads_or_writes_a_row_of_another(
    gateways: list[Served], desk: TestDatabase
) -> None:
    async with desk.connect() as connection:
        ids = {
            name: [row["id"] for row in await connection.fetch(f"SELECT id FROM {name}")]
            for name in ("tickets", "interactions")
        }
    async with AsyncExitStack() as stack, asyncio.timeout(WITHIN):
        clients = [
            await stack.enter_async_context(httpx.AsyncClient(base_url=served.url, timeout=WITHIN, verify=False))
            for served in gateways
        ]
        async with asyncio.TaskGroup() as sessions:
            for number in range(1, SESSIONS + 1):
                which = number // 5 % 2
                sessions.create_task(_session(gateways[which], clients[which], number, ids))
    async with desk.connect() as connection:
        written = "SELECT count(*) FROM interactions WHERE query_text NOT LIKE '%of <' || customer_id || '>'"
        assert await connection.fetchval(written) == 0
        assert await connection.fetchval("SELECT count(*) FROM interactions WHERE internal") == 2 * SESSIONS
        of_others = "SELECT count(*) FROM interactions i JOIN tickets t ON t.id = ticket_id"
        crossed = f"{of_others} WHERE t.customer_id <> i.customer_id"
        assert await connection.fetchval(crossed) == 0
        assert await connection.fetchval("SELECT count(*) FROM interactions") > 6 * SESSIONS
