"""Every way in, each tool, resource, watch and address, by every kind of caller: what each is answered.

What there is comes from the route table and the catalogue; what is there and has no row here fails.
"""

import asyncio
import itertools
import json
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import BaseRoute, Mount, WebSocketRoute
from websockets.exceptions import InvalidStatus

from app.catalogue import Catalogue, load_servers
from app.faces.identity import Identity
from app.guard.credentials import Keyring
from app.guard.guard import Guard
from app.guard.key_file import KeyFile
from app.guard.keys import mint
from app.guard.limits import Rate
from app.guard.policy import Policy
from app.guard.vocabulary import vocabulary_of
from app.main import create_app
from app.servers.calls import JsonObject
from app.services.aws.demo.seeding import DEMO_FUNCTION
from app.settings import Settings
from tests.faces.raw import Messages, Pipe, client_of, headers, launched, request, websocket
from tests.fixtures.gateway import Served, serve
from tests.guard.conftest import Backends
from tests.test_cli import SWITCHBOARD
from tests.test_keys import clean

POLICY = """\
[auth]

[role.agent]
allow = ["database:write", "kafka:write", "aws:write", "metrics:read", "console:read", "console:act",
  "console:keys", "console:settings"]

[role.stranger]
allow = []

[role.bot]
bound = "customer"
allow = ["database:write", "kafka:write", "aws:write"]

[role.bot.tool."kafka:publish_message"]
topic = { in = ["matrix"] }
"""
_FOR_KEYS = "".join(
    f"""
[role.bot.tool."aws:{tool}"]
{argument} = {{ prefix = "customers/{{customer}}/" }}
"""
    for tool, argument in {
        "s3_upload_file": "key",
        "s3_download_file": "key",
        "s3_list_objects": "prefix",
        "s3_delete_object": "key",
        "s3_presign_url": "key",
    }.items()
)
OK, UNAUTHENTICATED, SCOPE = "ok", "unauthenticated", "insufficient_scope"
NOT_CONFINED, NOT_FOUND, REFUSED = "not_confined", "not_found", "argument_refused"
SECRET = "of-bert-and-of-nobody-else"
"""Stands in whatever is bert's; a session that is bound to anna never sees it."""
MISSPELT = "nmae"
BUCKET, TOPIC, GROUP, PARAMETER = "matrix-bucket", "matrix", "matrix-group", "/switchboard/matrix"
_numbers = itertools.count(1)
CALLERS = ("none", "garbage", "expired", "revoked", "wrong role", "right role", "bound own", "bound other")
UNKNOWN = CALLERS[:4]
"""Callers of whom the gateway does not know who they are."""


@dataclass(frozen=True)
class Row:
    """What is asked of one thing, and what those are answered who have a right to it.

    Args:
        own: what is asked by a session bound to anna for anna: a tool's arguments, a resource's variables.
        other: what it asks for bert; the same where no customer is in it.
        to_bound: what it is answered for anna.
        of_other: what it is answered for bert.
        others: what single callers are answered, in place of what follows from their rights.
    """

    own: Any
    other: Any = None
    to_bound: str = OK
    of_other: str = ""
    others: Mapping[str, str] = field(default_factory=dict[str, str])

    def asked_by(self, caller: str) -> Any:
        return self.own if caller != "bound other" or self.other is None else self.other

    def answer_to(self, caller: str) -> str:
        if caller in self.others:
            return self.others[caller]
        if caller in UNKNOWN:
            return UNAUTHENTICATED
        if caller == "bound other":
            return self.of_other or self.to_bound
        return {"wrong role": SCOPE, "right role": OK, "bound own": self.to_bound}[caller]


def of_customer(of_other: str, **more: Any) -> Row:
    return Row({"customer_id": "anna", **more}, {"customer_id": "bert", **more}, OK, of_other)


def of_key(argument: str = "key", name: str = "a", **more: Any) -> Row:
    own, other = ({"bucket": BUCKET, argument: f"customers/{who}/{name}", **more} for who in ("anna", "bert"))
    return Row(own, other, OK, REFUSED)


def closed(**arguments: Any) -> Row:
    return Row(arguments, None, NOT_CONFINED)


TOOLS: dict[tuple[str, str], Row] = {
    ("database", "query_database"): closed(query="SELECT 1 AS one"),
    ("database", "get_customer_context"): of_customer(NOT_FOUND),
    ("database", "search_knowledge_base"): Row({"search_term": "parcel"}),
    ("database", "get_similar_articles"): Row({"article_id": 1}),
    ("database", "save_interaction"): of_customer(NOT_FOUND, query_text="hello"),
    ("database", "get_analytics"): closed(),
    ("kafka", "publish_message"): Row(
        {"topic": TOPIC, "message": "hello"}, {"topic": "others", "message": "hello"}, OK, REFUSED
    ),
    ("kafka", "consume_messages"): closed(topic=TOPIC, start="earliest", max_messages=1),
    ("kafka", "get_topic_metadata"): closed(topic=TOPIC),
    ("kafka", "create_topic"): closed(topic=TOPIC, if_not_exists=True),
    ("kafka", "list_topics"): closed(),
    ("kafka", "get_consumer_group_lag"): closed(group_id=GROUP),
    ("aws", "s3_upload_file"): of_key(content="mine"),
    ("aws", "s3_download_file"): of_key(),
    ("aws", "s3_list_objects"): of_key("prefix", ""),
    ("aws", "s3_delete_object"): of_key(name="gone"),
    ("aws", "s3_presign_url"): of_key(),
    ("aws", "lambda_invoke"): Row(
        {"function_name": DEMO_FUNCTION, "payload": {"feedback": "good", "customer_id": "anna"}},
        {"function_name": DEMO_FUNCTION, "payload": "bert"},
        OK,
        REFUSED,
    ),
    ("aws", "get_parameter_store_value"): closed(parameter_name=PARAMETER),
    ("aws", "get_parameters_by_path"): closed(path="/switchboard"),
}
RESOURCES: dict[str, Row] = {
    "db://customers{?cursor,limit}": Row("db://customers"),
    "db://tickets{?cursor,limit}": Row("db://tickets?limit=5"),
    "db://knowledge_articles{?cursor,limit}": Row("db://knowledge_articles"),
    "db://interactions{?cursor,limit}": Row("db://interactions"),
    "db://analytics{?time_period,group_by}": Row("db://analytics", None, NOT_CONFINED),
    "db://customers/{customer_id}": Row("db://customers/anna", "db://customers/bert", OK, NOT_FOUND),
    "db://tickets/{ticket_id}": Row("db://tickets/1", "db://tickets/2", OK, NOT_FOUND),
    "db://knowledge_articles/{article_id}": Row("db://knowledge_articles/1"),
    "db://interactions/{interaction_id}": Row("db://interactions/1", "db://interactions/2", OK, NOT_FOUND),
    "kafka://topics": Row("kafka://topics", None, NOT_CONFINED),
    "kafka://topics/{topic}": Row(f"kafka://topics/{TOPIC}", None, NOT_CONFINED),
    "kafka://consumer-groups": Row("kafka://consumer-groups", None, NOT_CONFINED),
    "kafka://consumer-groups/{group_id}": Row(f"kafka://consumer-groups/{GROUP}", None, NOT_CONFINED),
    "kafka://brokers": Row("kafka://brokers", None, NOT_CONFINED),
    "aws://s3/buckets{?cursor,limit}": Row("aws://s3/buckets", None, NOT_CONFINED),
    "aws://s3/buckets/{bucket}{?prefix,cursor,limit}": Row(f"aws://s3/buckets/{BUCKET}", None, NOT_CONFINED),
    "aws://lambda/functions{?cursor,limit}": Row("aws://lambda/functions", None, NOT_CONFINED),
    "aws://lambda/functions/{function_name}{?cursor,limit}": Row(
        f"aws://lambda/functions/{DEMO_FUNCTION}", None, NOT_CONFINED
    ),
    "aws://ssm/parameters{?cursor,limit}": Row("aws://ssm/parameters", None, NOT_CONFINED),
    "aws://ssm/parameters/{+parameter_name}{?cursor,limit}": Row(
        f"aws://ssm/parameters/{PARAMETER.replace('/', '%2F')}", None, NOT_CONFINED
    ),
}
WATCHED = {"db://tickets/{ticket_id}": "database", "kafka://topics/{topic}": "kafka"}


@dataclass
class Rig:
    """A gateway, and a key for each kind of caller that has one."""

    served: Served
    keys: Mapping[str, str]
    directory: Path
    variables: Mapping[str, str]
    stack: AsyncExitStack
    processes: dict[str, Pipe] = field(default_factory=dict[str, Pipe])
    """By key: a process is slow to start."""
    refused: dict[str, "asyncio.Task[Answer]"] = field(default_factory=dict[str, "asyncio.Task[Answer]"])
    """The starts of processes for callers who are not known; they go on beside the other tests."""

    def surroundings(self, caller: str) -> dict[str, Any]:
        """Return the working directory and the variables of a process that a caller launches."""
        token = {"SWITCHBOARD_TOKEN": self.keys[caller]} if caller in self.keys else {}
        return {"cwd": self.directory, "env": clean(**self.variables, **token)}

    def fields(self, caller: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys[caller]}"} if caller in self.keys else {}


@dataclass(frozen=True)
class Answer:
    """What was answered: `ok` or a problem's code, and all of the text."""

    outcome: str
    text: str = field(compare=False)


@pytest.fixture(scope="module")
async def rig(backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Rig]:
    """Serve the three servers over the local stack, with keys in a file and a policy."""
    directory = tmp_path_factory.mktemp("matrix")
    (directory / "switchboard.toml").write_text(POLICY + _FOR_KEYS)
    store = KeyFile(directory / "keys.json")
    now = time.time()
    keys = {"garbage": mint(frozenset({"agent"}))[0]}
    for caller, role, customer, expires in (
        ("expired", "agent", None, now - 1),
        ("revoked", "agent", None, None),
        ("wrong role", "stranger", None, None),
        ("right role", "agent", None, None),
        ("bound own", "bot", "anna", None),
    ):
        keys[caller], key = mint(frozenset({role}), customer=customer, expires_at=expires)
        await store.add(key)
        if caller == "revoked":
            await store.end(key.id, now - 1)

    keys["bound other"] = keys["bound own"]

    @asynccontextmanager
    async def open_file() -> AsyncGenerator[KeyFile]:
        yield store

    kinds = load_servers()
    policy = Policy.load(directory / "switchboard.toml", vocabulary_of(Catalogue(kinds)))
    async with backends.database.connect() as connection:
        await connection.execute(
            f"""
            INSERT INTO customers (id, name, email)
                VALUES ('anna', 'Anna', 'a@example.com'), ('bert', '{SECRET}', 'b@example.com');
            INSERT INTO tickets (customer_id, subject) VALUES ('anna', 'mine'), ('bert', '{SECRET}');
            INSERT INTO interactions (customer_id, ticket_id, query_text)
                VALUES ('anna', 1, 'mine'), ('bert', 2, '{SECRET}');
            INSERT INTO knowledge_articles (slug, title, body, status)
                VALUES ('parcel', 'Parcel', 'Where it is', 'published');
            """
        )
    await backends.behind.s3.create_bucket(Bucket=BUCKET)
    for who, text in (("anna", b"mine"), ("bert", SECRET.encode())):
        await backends.behind.s3.put_object(Bucket=BUCKET, Key=f"customers/{who}/a", Body=text)
    await backends.behind.ssm.put_parameter(Name=PARAMETER, Type="String", Value=SECRET)
    identity = Identity(Keyring(open_file, Rate(100_000, 100_000)))
    app = create_app(kinds, Settings(), backends.settings, guard=Guard(policy), identity=identity)
    async with serve(app) as served, AsyncExitStack() as stack:
        variables = backends.variables(SWITCHBOARD_KEY_FILE=str(directory / "keys.json"))
        rig = Rig(served, keys, directory, variables, stack)
        async with client_of(served) as http:
            for tool, arguments in {
                "create_topic": {"topic": TOPIC},
                "create_topic ": {"topic": "others"},
                "publish_message": {"topic": TOPIC, "message": SECRET},
                "consume_messages": {"topic": TOPIC, "group_id": GROUP},
            }.items():
                path = f"/mcp/kafka/tools/{tool.strip()}"
                (await http.post(path, json=arguments, headers=rig.fields("right role"))).raise_for_status()
        async with asyncio.TaskGroup() as starts:
            rig.refused |= {caller: starts.create_task(refused_start(rig, caller)) for caller in UNKNOWN}
            yield rig


# Ways in


def parsed(status: int, media_type: str, text: str) -> Answer:
    """Read what was answered over HTTP, in whichever form the way in has for it."""
    if media_type.startswith("text/event-stream"):
        events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: {")]
        return Answer(of_message(json.loads(events[-1])), text) if events else Answer(OK, text)
    if media_type.startswith("application/json") and text.startswith('{"jsonrpc"'):
        return Answer(of_message(json.loads(text)), text)
    if status >= 400:
        return Answer(json.loads(text)["code"] if text else str(status), text)
    return Answer(OK, text)


def of_message(message: dict[str, Any]) -> str:
    """Return what a JSON-RPC message says."""
    if "error" in message:
        return str(message["error"].get("data", {}).get("code", message["error"]["message"]))
    if message.get("result", {}).get("isError"):
        return str(json.loads(message["result"]["content"][0]["text"])["code"])
    return OK


class Way:
    """One way in, for one caller."""

    def __init__(self, rig: Rig, caller: str, name: str) -> None:
        self.rig, self.caller, self.name = rig, caller, name
        self.era = "2025-11-25" if "2025" in name else "2026-07-28"

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator["Way"]:
        async with AsyncExitStack() as stack:
            self.stack = stack
            self.http = await stack.enter_async_context(client_of(self.rig.served))
            self.connections: dict[str, Messages | Pipe | Answer] = {}
            yield self

    async def call(self, server: str, tool: str, arguments: JsonObject) -> Answer:
        """Call a tool."""
        if self.name.startswith("rest"):
            return await self.post(f"{self.path(server)}/tools/{tool}{self.slash}", arguments)
        if self.name == "batch":
            calls: Any = [{"server": server, "tool": tool, "arguments": arguments}] * 2
            answer = await self.post("/mcp/batch", {"calls": calls})
            if answer.outcome != OK:
                return answer
            each = json.loads(answer.text)["results"]
            assert len({result["success"] for result in each}) == 1
            return Answer(OK if each[0]["success"] else each[0]["error"]["code"], answer.text)
        return await self.ask(server, "tools/call", {"name": tool, "arguments": arguments})

    async def read(self, server: str, uri: str) -> Answer:
        """Read a resource."""
        if self.name.startswith("rest"):
            path = f"{self.path(server)}/resources/read{self.slash}"
            return await self.send("GET", path, params={"uri": uri})
        return await self.ask(server, "resources/read", {"uri": uri})

    async def watch(self, server: str, uri: str) -> Answer:
        """Begin to watch a resource."""
        if self.era == "2025-11-25":
            return await self.ask(server, "resources/subscribe", {"uri": uri})
        return await self.ask(server, "subscriptions/listen", {"notifications": {"resourceSubscriptions": [uri]}})

    @property
    def serves_all(self) -> bool:
        """Whether it leads to all servers at once."""
        return "all" in self.name or self.name.startswith("stdio")

    @property
    def slash(self) -> str:
        return "/" if "slash" in self.name else ""

    def path(self, server: str) -> str:
        return f"/mcp/mcp_{server}" if "mcp_" in self.name else f"/mcp/{server}"

    async def post(self, path: str, body: Any, fields: Mapping[str, str] | None = None) -> Answer:
        return await self.send("POST", path, json=body, headers={**(fields or {})})

    async def send(self, method: str, path: str, **options: Any) -> Answer:
        """Send a request over HTTP; what has no end is left at its first event."""
        options["headers"] = {**options.get("headers", {}), **self.rig.fields(self.caller)}
        async with self.http.stream(method, path, **options) as answer:
            media_type = answer.headers.get("content-type", "")
            if not media_type.startswith("text/event-stream"):
                return parsed(answer.status_code, media_type, (await answer.aread()).decode(errors="replace"))
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    return parsed(answer.status_code, media_type, line)
            return Answer(OK, "")

    async def ask(self, server: str, method: str, params: JsonObject) -> Answer:
        """Send a JSON-RPC request."""
        number = next(_numbers)
        more: Any = {"progressToken": 1} if self.name == "sse" else {}
        if self.name.endswith("SDK"):
            params = {**params, "more": {"deep": [None]}}
        message = request(self.era, method, params, number=number, **more)
        if not self.name.startswith(("websocket", "stdio")):
            path = "/mcp" if self.serves_all else self.path(server) + self.slash
            return await self.post(path, message, headers(self.era, message))
        where = "" if self.serves_all else server
        if where not in self.connections:
            self.connections[where] = await self.connect(server)
        connection = self.connections[where]
        if isinstance(connection, Answer):
            return connection
        await connection.send(message)
        while True:
            answer = await connection.receive()
            if answer.get("id") == message["id"] or "acknowledged" in answer.get("method", ""):
                return Answer(of_message(answer), json.dumps(answer))

    async def connect(self, server: str) -> Messages | Pipe | Answer:
        """Return a connection, or how it was refused."""
        if self.name.startswith("stdio"):
            return await self.launch()
        path = "/mcp/ws" if self.serves_all else f"{self.path(server)}/ws{self.slash}"
        opening = websocket(self.rig.served, self.era, path, additional_headers=self.rig.fields(self.caller))
        try:
            return await self.stack.enter_async_context(opening)
        except InvalidStatus as refused:
            body = refused.response.body or b""
            return Answer(json.loads(body)["code"], body.decode())

    async def launch(self) -> Pipe | Answer:
        """Launch the process that a desktop client launches, or return how its start was refused."""
        if self.caller in UNKNOWN:
            return await self.rig.refused[self.caller]
        token = self.rig.keys[self.caller]
        if token not in self.rig.processes:
            opening = launched(self.era, (SWITCHBOARD, "stdio"), **self.rig.surroundings(self.caller))
            self.rig.processes[token] = await self.rig.stack.enter_async_context(opening)
        return self.rig.processes[token]


async def refused_start(rig: Rig, caller: str) -> Answer:
    """Launch a process for somebody who is not known, with one server, which starts sooner than all."""
    process = await asyncio.create_subprocess_exec(
        SWITCHBOARD, "stdio", "kafka", stdin=DEVNULL, stdout=PIPE, stderr=PIPE, **rig.surroundings(caller)
    )
    out, err = await process.communicate()
    assert out == b""
    return Answer(UNAUTHENTICATED if process.returncode else OK, err.decode())


CALLING = (
    "rest", "rest slash", "rest mcp_", "rest mcp_ slash", "batch",
    "2025", "2025 slash", "2025 mcp_", "all 2025",
    "2026", "2026 mcp_ slash", "2026 SDK", "2026 mcp_ SDK", "all 2026", "all 2026 SDK", "sse",
    "websocket 2025", "websocket 2026", "websocket mcp_ 2026", "websocket slash 2025",
    "websocket all 2025", "websocket all 2026", "stdio 2026",
)  # fmt: skip
READING = tuple(name for name in CALLING if name != "batch")
WATCHING = tuple(
    name for name in CALLING if name.startswith(("websocket", "stdio")) or ("2026" in name and "slash" not in name)
)


def server_of(uri: str) -> str:
    scheme = uri.partition(":")[0]
    return "database" if scheme == "db" else scheme


async def differences(way: Way) -> AsyncGenerator[tuple[Any, ...]]:
    """Iterate over the cells of a way in that are not as they should be."""
    caller = way.caller
    for (server, tool), row in TOOLS.items():
        expected = row.answer_to(caller)
        arguments = row.asked_by(caller)
        answer = await way.call(server, tool, arguments)
        if answer.outcome != expected or (caller.startswith("bound") and SECRET in answer.text):
            yield tool, arguments, expected, answer
        if expected in (UNAUTHENTICATED, SCOPE, NOT_CONFINED):
            # Whoever may not call it does not learn which arguments it has.
            wrong = await way.call(server, tool, {MISSPELT: 1})
            if wrong.outcome != expected or MISSPELT in wrong.text:
                yield tool, MISSPELT, expected, wrong
    if way.name in READING:
        for template, row in RESOURCES.items():
            answer = await way.read(server_of(template), row.asked_by(caller))
            expected = row.answer_to(caller)
            if answer.outcome != expected or (caller.startswith("bound") and SECRET in answer.text):
                yield template, row.asked_by(caller), expected, answer
    if way.name in WATCHING:
        for template, server in WATCHED.items():
            row = RESOURCES[template]
            answer = await way.watch(server, row.asked_by(caller))
            if answer.outcome != row.answer_to(caller):
                yield "watch", template, row.answer_to(caller), answer


async def listing_differences(way: Way) -> AsyncGenerator[tuple[Any, ...]]:
    """Iterate over the listings that show too little or too much."""
    catalogue: Catalogue = way.rig.served.app.state.gateway.catalogue
    names = {offer.declared.template: offer.declared.name for offer in catalogue.resources()}
    for server in catalogue.servers:
        there = set(catalogue.servers) if way.serves_all else {server}
        tools = {tool: row for (found, tool), row in TOOLS.items() if found in there}
        resources = {names[template]: row for template, row in RESOURCES.items() if server_of(template) in there}
        for rows, methods in (
            (tools, {"tools/list": "tools"}),
            (resources, {"resources/list": "resources", "resources/templates/list": "resourceTemplates"}),
        ):
            expected = OK if way.caller == "wrong role" and way.serves_all else Row(None).answer_to(way.caller)
            seen: set[str] = set()
            for method, key in methods.items():
                answer = await way.ask(server, method, {})
                if answer.outcome != expected:
                    yield server, method, expected, answer
                elif expected == OK:
                    message = json.loads(answer.text.removeprefix("data: "))
                    seen |= {each["name"] for each in message["result"][key]}
            if expected == OK and seen != {name for name, row in rows.items() if row.answer_to(way.caller) == OK}:
                yield server, *methods, way.caller, sorted(seen)


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("name", CALLING)
async def test_tools_resources_and_watches_answer_alike_on_every_way_in(rig: Rig, name: str, caller: str) -> None:
    async with Way(rig, caller, name).opened() as way:
        different = [str(each)[:500] async for each in differences(way)]
        if not name.startswith(("rest", "batch")) and caller != "bound other":
            different += [str(each)[:500] async for each in listing_differences(way)]
    assert not different, "\n".join(different)


# Addresses

KNOWN = {"wrong role": OK}
"""Of what everybody may see who has a key."""
UNKNOWN_TOOL = Row("/mcp/mcp_aws/tools/nope", None, "unknown_tool", "", {"right role": "unknown_tool"})
NO_WEBSOCKET: dict[str, str] = dict.fromkeys(CALLERS[4:], NOT_FOUND)
MANIFOLD: JsonObject = {"calls": [{"server": "database", "tool": "search_knowledge_base", "arguments": {}}]}


def at(path: str, to_bound: str = OK, **others: str) -> Row:
    return Row(path, None, to_bound, "", {name.replace("_", " "): outcome for name, outcome in others.items()})


def page(path: str) -> Row:
    return Row(path, others=KNOWN)


def shell(path: str, answer: str = OK) -> Row:
    """What leads to signing in, for whoever shows no key; a key that is none is refused here, too."""
    return Row(path, others={"none": answer, **dict.fromkeys(CALLERS[4:], answer)})


def console(path: str, answer: str = OK) -> Row:
    """What shows all callers' calls: never to who is bound to a customer."""
    return Row(path, None, NOT_CONFINED, "", {"right role": answer})


def object_at() -> list[Row]:
    own, other = (f"/mcp/aws/s3/{BUCKET}/customers/{who}/a" for who in ("anna", "bert"))
    return [Row(own, other, OK, REFUSED)]


ADDRESSES: dict[str, list[Row]] = {
    "GET /health": [Row("/health", others=dict.fromkeys(CALLERS, OK))],
    "GET /ready": [Row("/ready", others={"none": OK, **KNOWN})],
    "GET /metrics": [at("/metrics", NOT_CONFINED)],
    "GET /mcp/kafka/topics/{topic}/stream": [at(f"/mcp/kafka/topics/{TOPIC}/stream?start=earliest", NOT_CONFINED)],
    "GET /mcp/aws/s3/{bucket}/{key:path}": object_at(),
    "POST /mcp/aws/s3/{bucket}/{key:path}": object_at(),
    "GET /mcp/{server}/tools": [at("/mcp/aws/tools"), at("/mcp/mcp_kafka/tools")],
    "GET /mcp/{server}/resources": [at("/mcp/database/resources"), at("/mcp/mcp_database/resources")],
    "GET /mcp/{server}/resources/read": [
        at("/mcp/mcp_kafka/resources/read?uri=kafka://topics", NOT_CONFINED),
        at("/mcp/database/resources/read?uri=db://tickets/1"),
    ],
    "POST /mcp/{server}/tools/{tool}": [UNKNOWN_TOOL],
    "POST /mcp/batch": [page("/mcp/batch")],
    "ANY /mcp": [page("/mcp")],
    **{f"ANY /mcp/{name}": [at(f"/mcp/{name}")] for name in ("database", "kafka", "aws")},
    **{f"ANY /mcp/mcp_{name}": [at(f"/mcp/mcp_{name}")] for name in ("database", "kafka", "aws")},
    **{f"GET {path}": [page(path)] for path in ("/", "/docs", "/redoc", "/favicon.ico", "/openapi.json")},
    "GET /guides/{name:path}": [page("/guides/kafka.md")],
    "GET /guides/{name:path}/logo-mini.svg": [page("/guides/kafka.md/logo-mini.svg")],
    "MOUNT /console/swagger": [shell("/console/swagger/swagger-ui.css")],
    "MOUNT /console/redoc": [shell("/console/redoc/redoc.standalone.js")],
    "GET /console/guides/{name:path}/logo-mini.svg": [shell("/console/guides/kafka.md/logo-mini.svg")],
    "MOUNT /redoc": [page("/redoc/redoc.standalone.js")],
    "MOUNT /console": [shell("/console/console.css"), shell("/console/nothing", NOT_FOUND)],
    "GET /console/session": [console("/console/session")],
    "DELETE /console/session": [console("/console/session")],
    "POST /console/session": [shell("/console/session", "invalid_arguments")],
    "GET /console/events": [console("/console/events")],
    "GET /console/calls/{id}": [console("/console/calls/none", NOT_FOUND)],
    "POST /console/calls/{id}/cancel": [console("/console/calls/none/cancel", NOT_FOUND)],
    "GET /console/tools": [console("/console/tools")],
    "POST /console/tools/{server}/{tool}": [console("/console/tools/kafka/list_topics")],
    "GET /console/resources/read": [console("/console/resources/read?uri=kafka://topics")],
    "GET /console/streams/kafka/topics/{topic}/stream": [
        console(f"/console/streams/kafka/topics/{TOPIC}/stream?start=earliest")
    ],
    "GET /console/prompts/{server}": [console("/console/prompts/kafka")],
    "POST /console/prompts/{server}": [console("/console/prompts/kafka", "invalid_arguments")],
    "GET /console/access": [console("/console/access")],
    "POST /console/keys": [console("/console/keys", "invalid_arguments")],
    "POST /console/keys/{id}/revoke": [console("/console/keys/none/revoke", "backend_not_configured")],
    "POST /console/explain": [console("/console/explain", "invalid_arguments")],
    "GET /console/settings": [console("/console/settings")],
    "GET /console/connect": [console("/console/connect")],
    "GET /console/guides/{name:path}": [console("/console/guides/kafka.md")],
    "WEBSOCKET /mcp/ws": [page("/mcp/ws")],
    "WEBSOCKET /mcp/{server}/ws": [at("/mcp/database/ws"), at("/mcp/mcp_aws/ws")],
    "WEBSOCKET /{path:path}": [Row("/mcp/nowhere/at/all", others=NO_WEBSOCKET), Row("/", others=NO_WEBSOCKET)],
}
STATUS = {OK: 200, UNAUTHENTICATED: 401, SCOPE: 403, NOT_CONFINED: 403, REFUSED: 403, NOT_FOUND: 404}
LISTS_NOTHING = ("GET /guides/{name:path}", "MOUNT ", "POST /mcp/batch")
"""No listing: what is the same for everybody who has a key, or names what was asked for."""


def every_route(routes: Iterable[BaseRoute]) -> Iterator[BaseRoute]:
    for each in routes:
        included = getattr(each, "original_router", None)
        if included is None:
            yield each
        else:
            yield from every_route(included.routes)


def named(route: BaseRoute) -> str:
    """Return how the table above names a route."""
    path: str = getattr(route, "path", "")
    if isinstance(route, WebSocketRoute):
        return f"WEBSOCKET {path}"
    if isinstance(route, Mount):
        return f"MOUNT {path}"
    methods: set[str] | None = getattr(route, "methods", None)
    return f"{','.join(sorted(methods - {'HEAD'})) if methods else 'ANY'} {path}"


def test_whatever_there_is_has_a_row() -> None:
    app = create_app(load_servers(), Settings())
    catalogue: Catalogue = app.state.gateway.catalogue
    assert {(offer.kind.server_id, offer.declared.name) for offer in catalogue.tools()} == TOOLS.keys()
    offered = {offer.declared.template: offer for offer in catalogue.resources()}
    assert offered.keys() == RESOURCES.keys()
    watched = {template for template, offer in offered.items() if offer.declared.watcher is not None}
    assert watched == WATCHED.keys()
    tools = {f"POST /mcp/{server}/tools/{tool}" for server, tool in TOOLS}
    assert sorted(map(named, every_route(app.routes))) == sorted([*ADDRESSES, *tools])


async def asked_at(way: Way, route: str, path: str, method: str) -> Answer:
    if not route.startswith("WEBSOCKET"):
        body: Any = (
            {"json": MANIFOLD} if path.startswith("/mcp/batch") else {"content": b"{}"} if method == "POST" else {}
        )
        headers = {"content-type": "application/json", "x-switchboard-console": "1"} if method == "POST" else {}
        return await way.send(method, path, headers=headers, **body)
    try:
        async with websocket(way.rig.served, way.era, path, additional_headers=way.rig.fields(way.caller)):
            return Answer(OK, "")
    except InvalidStatus as refused:
        body = refused.response.body or b""
        return Answer(json.loads(body)["code"], body.decode())


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("route", ADDRESSES)
async def test_an_address_answers_who_may_ask_with_or_without_a_slash(rig: Rig, route: str, caller: str) -> None:
    shown = {tool for (_, tool), row in TOOLS.items() if row.answer_to(caller.replace("other", "own")) == OK}
    kept = {tool for _, tool in TOOLS} - shown
    kept |= {"db://customers"} if caller == "wrong role" else set()
    method = "POST" if route.startswith("POST") else "GET"
    async with Way(rig, caller, "2026").opened() as way:
        for row in ADDRESSES[route]:
            path, _, query = row.asked_by(caller).partition("?")
            expected = row.answer_to(caller)
            slashes = [""] if "{key:path}" in route or path == "/" or route.startswith("MOUNT") else ["", "/"]
            for slash in slashes:
                address = f"{path}{slash}?{query}" if query else f"{path}{slash}"
                answer = await asked_at(way, route, address, method)
                assert answer.outcome == expected, (address, answer)
                if not caller.startswith("right") and not route.startswith(LISTS_NOTHING):
                    told = {tool for tool in kept if tool in answer.text}
                    assert not told or expected in (SCOPE, NOT_CONFINED), (address, told)
                assert SECRET not in answer.text or caller == "right role"
                if method == "GET" and not route.startswith("WEBSOCKET"):
                    head = await way.http.head(address, headers=rig.fields(caller))
                    assert (head.status_code, head.content) == (STATUS[expected], b""), address


async def test_the_reference_has_examples_of_what_the_caller_may_use(rig: Rig) -> None:
    seen: dict[str, Any] = {}
    for caller in ("right role", "bound own", "wrong role"):
        async with client_of(rig.served) as http:
            seen[caller] = (await http.get("/openapi.json", headers=rig.fields(caller))).json()
    examples = {
        caller: [
            page["components"]["schemas"]["BatchRequest"]["properties"]["calls"].get("examples"),
            *(
                parameter["schema"].get("examples")
                for parameter in page["paths"]["/mcp/{server}/resources/read"]["get"]["parameters"]
            ),
        ]
        for caller, page in seen.items()
    }
    assert examples["wrong role"] == [None, None, None]
    for caller in ("right role", "bound own"):
        [calls], *others = examples[caller]
        assert others == [["database"], ["db://customers"]]
        assert [TOOLS[call["server"], call["tool"]].answer_to(caller) for call in calls] == [OK, OK]
