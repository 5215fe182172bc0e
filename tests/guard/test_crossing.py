"""Two hundred sessions, each of one customer with a key of its own, read and write at once: nothing crosses.

On all faces, in rows, objects, messages and notices, against two processes of `switchboard serve` on one database.
"""

import asyncio
import itertools
import json
import random
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.guard.keys import mint
from app.local.aws import LocalAws
from app.local.kafka import LocalKafka
from app.local.postgres import LocalPostgres
from app.services.kafka import KafkaService
from app.services.postgres.identity import open_keys
from tests.faces.raw import Pipe, headers, initialize, launched, request, websocket
from tests.fixtures.aws import AwsBehindTheGateway
from tests.fixtures.gateway import Served
from tests.fixtures.postgres import TestDatabase, cloned_database
from tests.guard.processes import bearer, two_processes, variables_of
from tests.test_cli import SWITCHBOARD
from tests.test_keys import clean

SESSIONS = 200
CALLS = 12
"""Of each session."""
WITHIN = 240.0
"""Seconds for all of them, on a machine that is busy with other tests: a fifth of that on a quiet one."""
POLICY = """
[auth]
[role.bot]
bound = "customer"
allow = ["database:write", "kafka:write", "aws:write"]
[role.bot.tool."kafka:publish_message"]
topic = { in = ["TOPIC"] }
""" + "".join(
    f'[role.bot.tool."aws:{tool}"]\n{argument} = {{ prefix = "customers/{{customer}}/" }}\n'
    for tool, argument in {
        "s3_upload_file": "key",
        "s3_download_file": "key",
        "s3_list_objects": "prefix",
        "s3_presign_url": "key",
    }.items()
)
LEGACY, MODERN = "2025-11-25", "2026-07-28"
FACES = ("rest", "batch", "2025", "2026", "2026 SDK", "sse", "websocket")
ON_STDIO = 2
"""Sessions that have a process of their own, which is slow to start."""
_MARK = re.compile(r'of <(\w+)>|"key": ?"customers/(\w+)/')
_WATCHED = re.compile(r"(db://tickets/\d+)()")
_ROWS = """
INSERT INTO customers (id, name, email) SELECT 'c' || n, 'of <c' || n || '>', 'c' || n || '@example.com'
    FROM generate_series(1, SESSIONS) n
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
_numbers = itertools.count(1)


@dataclass
class World:
    """What there is, and for how long the sessions are at it."""

    gateways: list[Served]
    clients: list[httpx.AsyncClient]
    tokens: Mapping[str, str]
    tickets: Mapping[str, list[int]]
    interactions: list[int]
    bucket: str
    topic: str
    directory: Path
    variables: Mapping[str, str]
    answered: int = 0
    """Calls that had to be answered, and were."""
    notices: list[str] = field(default_factory=list[str])


@pytest.fixture
async def desk(postgres_server: LocalPostgres, postgres_template: str) -> AsyncGenerator[TestDatabase]:
    async with cloned_database(postgres_server, postgres_template) as clone:
        async with clone.connect() as connection:
            await connection.execute(_ROWS.replace("SESSIONS", str(SESSIONS)) + ";" + _TICKETS + ";" + _INTERACTIONS)
        yield clone


@pytest.fixture
async def world(
    desk: TestDatabase,
    kafka_broker: LocalKafka,
    aws_stack: LocalAws,
    behind: AwsBehindTheGateway,
    bucket: str,
    topic: str,
    tmp_path: Path,
) -> AsyncGenerator[World]:
    customers = [f"c{number}" for number in range(1, SESSIONS + 1)]
    tokens: dict[str, str] = {}
    async with open_keys(desk.settings) as keys:
        for customer in customers:
            tokens[customer], key = mint(frozenset({"bot"}), customer=customer)
            await keys.add(key)
            await behind.s3.put_object(Bucket=bucket, Key=own_key(customer), Body=f"of <{customer}>".encode())
    async with desk.connect() as connection:
        rows = await connection.fetch("SELECT id, customer_id FROM tickets")
        interactions = [row["id"] for row in await connection.fetch("SELECT id FROM interactions")]
    tickets = {customer: [row["id"] for row in rows if row["customer_id"] == customer] for customer in customers}
    variables = variables_of(desk, kafka_broker, aws_stack)
    async with AsyncExitStack() as stack:
        gateways = await stack.enter_async_context(two_processes(tmp_path, POLICY.replace("TOPIC", topic), variables))
        clients = [
            await stack.enter_async_context(httpx.AsyncClient(base_url=served.url, timeout=WITHIN, verify=False))
            for served in gateways
        ]
        yield World(gateways, clients, tokens, tickets, interactions, bucket, topic, tmp_path, variables)


def own_key(customer: str) -> str:
    return f"customers/{customer}/own"


class Session:
    """One customer's session: what it is answered speaks of nobody else."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.customer = f"c{number}"
        self.fields = bearer(world.tokens[self.customer])
        self.chance = random.Random(number)
        self.face = "stdio" if number <= ON_STDIO else FACES[number % len(FACES)]
        self.own = {self.customer, *(f"db://tickets/{ticket}" for ticket in world.tickets[self.customer])}

    @property
    def http(self) -> httpx.AsyncClient:
        """A client of either process."""
        return self.chance.choice(self.world.clients)

    async def run(self) -> None:
        async with AsyncExitStack() as stack:
            ask = await self.way_in(stack)
            for _ in range(CALLS):
                what, arguments, may_fail = self.random_call()
                answer = await (ask(what, arguments) if " " not in what else self.stream(what, arguments))
                self.look_at(what, arguments, answer)
                if not may_fail and "too_many_requests" not in answer:
                    assert self.customer in answer, (self.face, self.customer, what, arguments, answer)
                    self.world.answered += 1

    def look_at(self, what: str, arguments: Any, answer: str) -> None:
        assert "NOTE" not in answer
        marks = _WATCHED if what == "notice" else _MARK  # a refusal repeats which ticket was asked for
        seen = {mark for found in marks.findall(answer) for mark in found if mark}
        assert seen <= self.own, (self.face, self.customer, what, arguments, seen - self.own)

    # Ways in

    async def way_in(self, stack: AsyncExitStack) -> Ask:
        match self.face:
            case "rest":
                return self.rest
            case "batch":
                return self.batch
            case "websocket":
                return await self.over_websocket(stack)
            case "stdio":
                return await self.over_stdio(stack)
            case _:
                return self.mcp

    async def rest(self, what: str, arguments: Any) -> str:
        if arguments is None:
            server = "database"
            path = f"/mcp/{server}/resources/read"
            return (await self.http.get(path, params={"uri": what}, headers=self.fields)).text
        path = f"/mcp/mcp_{server_of(what)}/tools/{what}"
        return (await self.http.post(path, json=arguments, headers=self.fields)).text

    async def batch(self, what: str, arguments: Any) -> str:
        if arguments is None:
            return await self.rest(what, None)
        calls = [{"server": server_of(what), "tool": what, "arguments": arguments}] * 2
        return (await self.http.post("/mcp/batch", json={"calls": calls}, headers=self.fields)).text

    def message(self, era: str, what: str, arguments: Any, **meta: Any) -> dict[str, Any]:
        more: dict[str, Any] = {"more": {"deep": [None]}} if self.face.endswith("SDK") else {}
        number = next(_numbers)
        if arguments is None:
            return request(era, "resources/read", {"uri": what, **more}, number=number, **meta)
        return request(era, "tools/call", {"name": what, "arguments": arguments, **more}, number=number, **meta)

    async def mcp(self, what: str, arguments: Any) -> str:
        era = LEGACY if self.face == "2025" else MODERN
        meta: dict[str, Any] = {"progressToken": 1} if self.face == "sse" else {}
        message = self.message(era, what, arguments, **meta)
        return (await self.http.post("/mcp", json=message, headers={**headers(era, message), **self.fields})).text

    async def over_websocket(self, stack: AsyncExitStack) -> Ask:
        """Watch an own ticket and, in vain, another's, beside the calls."""
        served = self.chance.choice(self.world.gateways)
        opening = websocket(served, MODERN, "/mcp/ws", additional_headers=self.fields, open_timeout=WITHIN)
        messages = await stack.enter_async_context(opening)
        era = self.chance.choice((LEGACY, MODERN))

        async def answer_to(message: dict[str, Any]) -> str:
            await messages.send(message)
            while True:
                text = str(await messages.socket.recv())
                answer = json.loads(text)
                if answer.get("id") == message["id"]:
                    return text
                self.look_at("notice", None, text)
                self.world.notices.append(text)

        if era == LEGACY:
            await initialize(messages, LEGACY)
            for owner in (self.customer, self.another()):
                uri = f"db://tickets/{self.world.tickets[owner][0]}"
                told = await answer_to(request(LEGACY, "resources/subscribe", {"uri": uri}, number=next(_numbers)))
                assert ("error" not in told) is (owner == self.customer), told
        return lambda what, arguments: answer_to(self.message(era, what, arguments))

    async def over_stdio(self, stack: AsyncExitStack) -> Ask:
        token = self.world.tokens[self.customer]
        surroundings = clean(**self.world.variables, SWITCHBOARD_TOKEN=token)
        command = (SWITCHBOARD, "stdio", "--config", str(self.world.directory / "switchboard.toml"))
        pipe: Pipe = await stack.enter_async_context(
            launched(MODERN, command, cwd=self.world.directory, env=surroundings)
        )

        async def over(what: str, arguments: Any) -> str:
            message = self.message(MODERN, what, arguments)
            await pipe.send(message)
            while True:
                text = (await pipe.stdout.readline()).decode()
                if json.loads(text).get("id") == message["id"]:
                    return text

        return over

    async def stream(self, what: str, key: str) -> str:
        """GET, HEAD or POST an object, or read it where an address for it says so."""
        path = f"/mcp/aws/s3/{self.world.bucket}/{key}"
        match what.split(maxsplit=1)[0]:
            case "GET":
                return (await self.http.get(path, headers=self.fields)).text
            case "HEAD":
                answer = await self.http.head(path, headers=self.fields)
                return f"{self.customer if answer.status_code == 200 else answer.status_code} of <{key.split('/')[1]}>"
            case "POST":
                body = f"of <{self.customer}>".encode()
                return (await self.http.post(path, content=body, headers=self.fields)).text
            case _:
                where = {"bucket": self.world.bucket, "key": key}
                answer = await self.rest("s3_presign_url", where)
                async with httpx.AsyncClient(timeout=WITHIN, verify=False) as anybody:
                    url = json.loads(answer).get("url")
                    return answer if url is None else (await anybody.get(url)).text

    # What it asks for

    def another(self) -> str:
        customer = f"c{self.chance.randrange(SESSIONS) + 1}"
        return customer if customer != self.customer else f"c{int(customer[1:]) % SESSIONS + 1}"

    def random_call(self) -> tuple[str, Any, bool]:
        """Return what is called or read, with which arguments, and whether it may fail, as whatever is of others does.

        A method and a space, for objects, stands for what `stream` does.
        """
        chance, customer, other = self.chance, self.customer, self.another()
        bucket, key = self.world.bucket, f"customers/{customer}/{chance.randrange(3)}"
        text = f"of <{customer}>"
        mine = {"query_text": text}
        ticket = chance.choice(self.world.tickets[other])
        of_database: list[tuple[str, Any, bool]] = [
            ("get_customer_context", {}, False),
            ("get_customer_context", {"customer_id": customer}, False),
            ("get_customer_context", {"customer_id": other}, True),
            ("save_interaction", mine, False),
            ("save_interaction", {**mine, "ticket_id": self.world.tickets[customer][0]}, False),
            ("save_interaction", {"interaction_data": {"content": text}}, False),
            ("save_interaction", {**mine, "customer_id": other}, True),
            ("save_interaction", {**mine, "ticket_id": ticket}, True),
            ("save_interaction", {**mine, "internal": True}, True),
            ("save_interaction", {**mine, "idempotency_key": str(chance.randrange(40))}, True),
            ("query_database", {"query": "SELECT * FROM interactions"}, True),
            ("get_analytics", {}, True),
            ("db://customers", None, False),
            ("db://tickets?limit=200", None, False),
            ("db://interactions?limit=200", None, False),
            (f"db://customers/{other}", None, True),
            (f"db://tickets/{ticket}", None, True),
            (f"db://interactions/{chance.choice(self.world.interactions)}", None, True),
        ]
        of_others: list[tuple[str, Any, bool]] = [
            ("s3_download_file", {"bucket": bucket, "key": own_key(customer)}, False),
            ("s3_download_file", {"bucket": bucket, "key": own_key(other)}, True),
            ("s3_upload_file", {"bucket": bucket, "key": key, "content": text}, False),
            ("s3_upload_file", {"bucket": bucket, "key": own_key(other), "content": text}, True),
            ("s3_list_objects", {"bucket": bucket, "prefix": f"customers/{customer}/"}, False),
            ("s3_list_objects", {"bucket": bucket, "prefix": "customers/"}, True),
            ("publish_message", {"topic": self.world.topic, "message": text, "key": f"customer-{other}"}, True),
            ("publish_message", {"topic": self.world.topic, "message": text, "idempotency_key": "same"}, True),
            ("GET object", own_key(customer), False),
            ("GET object", own_key(other), True),
            ("HEAD object", own_key(customer), False),
            ("POST object", key, False),
            ("POST object", own_key(other), True),
            ("presigned object", own_key(customer), False),
            ("presigned object", own_key(other), True),
        ]
        return chance.choice(chance.choice((of_database, of_others)))


def server_of(tool: str) -> str:
    return "aws" if tool.startswith("s3_") else "kafka" if tool == "publish_message" else "database"


async def test_of_two_hundred_sessions_none_reads_or_writes_anything_of_another(
    world: World, desk: TestDatabase, behind: AwsBehindTheGateway, kafka: KafkaService
) -> None:
    async with asyncio.timeout(WITHIN), asyncio.TaskGroup() as sessions:
        for number in range(1, SESSIONS + 1):
            sessions.create_task(Session(world, number).run())
    assert world.answered > SESSIONS * CALLS / 4
    assert any("resources/updated" in notice for notice in world.notices)
    async with desk.connect() as connection:
        written = "SELECT count(*) FROM interactions WHERE query_text NOT LIKE '%of <' || customer_id || '>'"
        assert await connection.fetchval(written) == 0
        assert await connection.fetchval("SELECT count(*) FROM interactions WHERE internal") == 2 * SESSIONS
        of_others = "SELECT count(*) FROM interactions i JOIN tickets t ON t.id = ticket_id"
        crossed = f"{of_others} WHERE t.customer_id <> i.customer_id"
        assert await connection.fetchval(crossed) == 0
        assert await connection.fetchval("SELECT count(*) FROM interactions") > 6 * SESSIONS
    keys = await behind.keys(world.bucket)
    assert len(keys) > SESSIONS
    for key in keys:
        assert await behind.body(world.bucket, key) == f"of <{key.split('/')[1]}>".encode()
    found = await kafka.browse(
        world.topic,
        start="earliest",
        cursor=None,
        partition=None,
        max_messages=1000,
        timeout_ms=0,
        max_bytes=10_000_000,
    )
    assert found.messages
    for message in found.messages:
        whose = str(message.value)[4:-1]
        assert (message.key, message.headers["switchboard-customer"]) == (f"customer-{whose}", whose)
