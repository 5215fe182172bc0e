"""Who calls is found out at every way in, before anything else; what a key holds open ends with the key."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from app.faces.identity import Identity
from app.guard.credentials import Keyring
from app.guard.keys import KeyAdministration, mint
from app.guard.limits import Rate
from app.guard.principal import EVERYBODY, Principal
from app.main import create_app
from app.servers.base import BaseMCPServer
from app.servers.calls import CallContext
from app.servers.declaring import route, tool
from app.services.postgres.identity import open_keys
from app.settings import Settings
from tests.clock import ClockMCPServer, ClockTime
from tests.faces.raw import ERAS, WITHIN, Messages, client_of, event_stream, headers, initialize, post, request
from tests.fixtures.gateway import Served, serve
from tests.fixtures.postgres import TestDatabase

pytestmark = pytest.mark.usefixtures("patience")
DEVELOPER = frozenset({"developer"})
MANY = Rate(per_second=1000, burst=1000)


class BellMCPServer(BaseMCPServer):
    """Rings for as long as somebody listens."""

    @tool(read_only=True)
    async def who(self, context: CallContext) -> ClockTime:
        """Tell who calls."""
        return ClockTime(zone=context.principal.id)

    @route("/ringing", methods=["GET"], acts_as="who")
    async def ringing(self, request: Request, context: CallContext) -> Response:
        """Ring."""

        async def rings() -> AsyncIterator[bytes]:
            yield b"ring\n"
            await asyncio.Event().wait()

        return StreamingResponse(rings(), media_type="text/plain")


def door(database: TestDatabase, *, rate: Rate = MANY, **options: Any) -> Identity:
    return Identity(Keyring(lambda: open_keys(database.settings), rate), **options)


@pytest.fixture
async def keys(database: TestDatabase) -> AsyncGenerator[KeyAdministration]:
    async with open_keys(database.settings) as store:
        yield store


@pytest.fixture
async def gateway(database: TestDatabase) -> AsyncGenerator[Served]:
    async with serve(create_app([ClockMCPServer(), BellMCPServer], Settings(), identity=door(database))) as served:
        yield served


@pytest.fixture
async def token(keys: KeyAdministration) -> str:
    made, key = mint(DEVELOPER)
    await keys.add(key)
    return made


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def refused_handshake(served: Served, path: str, fields: dict[str, str]) -> int:
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"{served.websocket_url}{path}", additional_headers=fields):
            pass
    assert refused.value.response.headers["www-authenticate"] == "Bearer"
    return refused.value.response.status_code


EVERY_ADDRESS = [
    ("POST", "/mcp/clock/tools/get_time"),
    ("POST", "/mcp/mcp_clock/tools/get_time/"),
    ("POST", "/mcp/clock"),
    ("POST", "/mcp"),
    ("POST", "/mcp/batch"),
    ("GET", "/mcp"),
    ("GET", "/mcp/"),
    ("GET", "/mcp/clock"),
    ("GET", "/mcp/clock/tools"),
    ("GET", "/mcp/clock/resources"),
    ("GET", "/mcp/clock/resources/read?uri=clock://zones"),
    ("GET", "/mcp/clock/chimes/3"),
    ("HEAD", "/mcp/clock/chimes/3"),
    ("POST", "/mcp/clock/chimes/3"),
    ("GET", "/"),
    ("GET", "/docs"),
    ("GET", "/redoc"),
    ("GET", "/openapi.json"),
    ("GET", "/guides/kafka.md"),
    ("GET", "/console/tools"),
    ("POST", "/console/tools/clock/get_time"),
    ("GET", "/nowhere"),
    ("DELETE", "/mcp/clock"),
    ("OPTIONS", "/mcp/clock"),
    ("POST", "/health"),
    ("POST", "/ready"),
]


@pytest.mark.parametrize(("method", "path"), EVERY_ADDRESS)
async def test_nothing_is_served_without_a_key(gateway: Served, token: str, method: str, path: str) -> None:
    async with client_of(gateway) as http:
        for fields in ({}, bearer(mint(DEVELOPER)[0]), bearer("garbage"), {"authorization": "Basic dTpw"}):
            answer = await http.request(method, path, headers=fields)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), fields
            if method != "HEAD":
                assert answer.json()["code"] == "unauthenticated"
        if "chimes" not in path or method != "POST":
            allowed = await http.request(method, path, headers=bearer(token))
            assert allowed.status_code not in (401, 500)


async def test_probes_and_preflights_are_open_and_learn_one_word(gateway: Served, token: str) -> None:
    async with client_of(gateway) as http:
        assert (await http.get("/health")).status_code == 200
        assert (await http.get("/health/", headers=bearer("garbage"))).status_code == 200
        assert (await http.get("/ready")).json() == {"status": "ready"}
        assert (await http.get("/ready", headers=bearer(token))).json()["servers"].keys() == {"clock", "bell"}
        asking = {"origin": "http://localhost:3000", "access-control-request-method": "POST"}
        preflight = await http.options("/mcp/clock", headers=asking)
        assert preflight.status_code == 200
        answer = await http.post("/mcp/clock/tools/get_time", headers={"origin": "http://localhost:3000"}, json={})
        assert answer.status_code == 401
        assert answer.headers["access-control-allow-origin"], "a page is told why"


@pytest.mark.parametrize("path", ["/mcp/ws", "/mcp/clock/ws", "/mcp/mcp_clock/ws", "/mcp/nope/ws", "/health"])
async def test_a_websocket_is_refused_before_it_is_accepted(
    gateway: Served, token: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for fields in ({}, bearer("garbage"), bearer(mint(DEVELOPER)[0])):
        assert await refused_handshake(gateway, f"{path}?access_token={token}", fields) == 401
    assert "handshake" not in caplog.text
    assert token not in caplog.text


@pytest.mark.parametrize("era", ERAS)
async def test_each_era_is_served_with_a_key_over_http_and_websocket(gateway: Served, token: str, era: str) -> None:
    listed = await post(gateway, era, "tools/list", authorization=f"Bearer {token}")
    assert listed.status_code == 200
    async with holding_websocket(gateway, token, era) as messages:
        answer = await messages.ask(request(era, "tools/call", {"name": "get_time", "arguments": {}}))
    assert answer["result"]["structuredContent"]["zone"] == "UTC"


async def test_a_call_is_logged_under_the_id_of_its_key(
    gateway: Served, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with client_of(gateway) as http:
        answer = await http.post("/mcp/bell/tools/who", json={}, headers=bearer(token))
    key_id = token.split("_")[1]
    assert answer.json()["zone"] == key_id
    gateway.app.state.gateway._around.recorder.flush()
    assert f"principal={key_id}" in caplog.text
    assert token not in caplog.text


async def raw(served: Served, *lines: str) -> tuple[int, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    head = [
        "POST /mcp/clock/tools/get_time HTTP/1.1",
        "host: 127.0.0.1",
        "content-length: 2",
        "connection: close",
        *lines,
    ]
    writer.write("\r\n".join([*head, "", ""]).encode("utf-8") + b"{}")
    async with asyncio.timeout(WITHIN):
        answer = (await reader.read()).decode("latin-1")
    writer.close()
    return int(answer.split()[1]), answer


async def test_strange_credentials_are_refused_clearly_and_not_repeated(
    gateway: Served, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = token.split("_", 2)[2]
    cases = {
        400: [
            (f"authorization: Bearer {token}", f"authorization: Bearer {token}"),
            (f"authorization: Bearer {token}{'x' * 6000}",),
        ],
        401: [
            (f"authorization: Basic {token}",),
            (f"authorization: {token}",),
            ("authorization: ",),
            ("authorization: Bearer",),
            (f"authorization: Bearer {token} {token}",),
            (f"authorization: Bearer {token}é",),
            (f"authorization: Bearer\t{token}x",),
            (f"x-api-key: {token}",),
            (f"cookie: token={token}",),
        ],
    }
    for expected, each in cases.items():
        for lines in each:
            status, answer = await raw(gateway, *lines)
            assert status == expected, lines
            assert secret not in answer
    for fine in (f"authorization: bearer {token}", f"authorization: BEARER   {token} "):
        assert (await raw(gateway, fine))[0] == 200
    async with client_of(gateway) as http:
        for query in (f"access_token={token}", f"token={token}", f"key={token}"):
            answer = await http.post(f"/mcp/clock/tools/get_time?{query}", json={})
            assert answer.status_code == 401
            assert "address" in answer.json()["detail"]
            assert secret not in answer.text
    logged = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith(("MCP", "app")))
    assert secret not in logged


# What lasts


@asynccontextmanager
async def holding_websocket(served: Served, token: str, era: str = "2026-07-28") -> AsyncGenerator[Messages]:
    url = f"{served.websocket_url}/mcp/clock/ws"
    async with connect(url, subprotocols=[Subprotocol("mcp")], additional_headers=bearer(token)) as socket:
        messages = Messages(socket)
        if era != "2026-07-28":
            await initialize(messages, era)
        yield messages


async def end_of_websocket(served: Served, token: str, begun: asyncio.Event) -> Any:
    async with holding_websocket(served, token) as messages:
        begun.set()
        with pytest.raises(ConnectionClosed) as closed:
            await messages.socket.recv()
        assert closed.value.rcvd is not None
        return closed.value.rcvd.code


async def end_of_events(served: Served, token: str, begun: asyncio.Event) -> Any:
    listening = request(
        "2026-07-28",
        "subscriptions/listen",
        {"notifications": {"resourceSubscriptions": ["clock://zones/UTC"]}},
    )
    async with event_stream(served, listening, "2026-07-28", fields=bearer(token)) as messages:
        await anext(messages)
        begun.set()
        return [message async for message in messages]


async def end_of_disguised_events(served: Served, token: str, begun: asyncio.Event) -> Any:
    """A name that is written with an escape is another one to a quick look, and the same to JSON."""
    listening = request(
        "2026-07-28",
        "subscriptions/listen",
        {"notifications": {"resourceSubscriptions": ["clock://zones/UTC"]}},
    )
    body = json.dumps(listening).replace('"subscriptions/listen"', '"subscriptions\\/listen"')
    fields = headers("2026-07-28", listening) | bearer(token)
    async with client_of(served) as http, http.stream("POST", "/mcp/clock", content=body, headers=fields) as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        begun.set()
        return [line async for line in lines if line.startswith("data: ") and "acknowledged" not in line]


async def end_of_stream(served: Served, token: str, begun: asyncio.Event) -> Any:
    async with client_of(served) as http, http.stream("GET", "/mcp/bell/ringing", headers=bearer(token)) as answer:
        chunks = answer.aiter_bytes()
        assert await anext(chunks) == b"ring\n"
        begun.set()
        with pytest.raises(httpx.RemoteProtocolError):  # a body that is not whole is not to be taken for one
            await anext(chunks)
    return None


LASTING = {
    "websocket": (end_of_websocket, 1008),
    "events": (end_of_events, []),
    "disguised events": (end_of_disguised_events, []),
    "stream": (end_of_stream, None),
}


@pytest.mark.parametrize("what", LASTING)
async def test_what_a_revoked_key_holds_open_ends_in_both_of_two_gateways(
    database: TestDatabase, keys: KeyAdministration, gateway: Served, token: str, what: str
) -> None:
    hold, expected = LASTING[what]
    async with serve(create_app([ClockMCPServer(), BellMCPServer], Settings(), identity=door(database))) as other:
        begun = [asyncio.Event(), asyncio.Event()]
        async with asyncio.timeout(WITHIN), asyncio.TaskGroup() as tasks:
            ends = [
                tasks.create_task(hold(*each)) for each in zip((gateway, other), (token, token), begun, strict=True)
            ]
            for each in begun:
                await each.wait()
            await keys.end(token.split("_")[1], time.time())
        assert [end.result() for end in ends] == [expected, expected]
        for served in (gateway, other):
            async with client_of(served) as http:
                assert (await http.get("/mcp", headers=bearer(token))).status_code == 401


async def test_a_socket_ends_when_its_key_expires(gateway: Served, keys: KeyAdministration) -> None:
    token, key = mint(DEVELOPER, expires_at=time.time() + 4)
    await keys.add(key)
    async with asyncio.timeout(WITHIN):
        assert await end_of_websocket(gateway, token, asyncio.Event()) == 1008


# Where nobody is asked for a key


async def test_on_loopback_everybody_may_call_except_through_a_proxy() -> None:
    identity = Identity(None, anonymous=EVERYBODY)
    async with (
        serve(create_app([ClockMCPServer()], Settings(), identity=identity)) as served,
        client_of(served) as http,
    ):
        assert (await http.post("/mcp/clock/tools/get_time", json={}, headers=bearer("anything"))).status_code == 200
        names = "Forwarded X-Forwarded-For X-Forwarded-Port X-Forwarded-Host X-Real-IP X-Client-IP CF-Connecting-IP Via"
        for name in names.split():
            for method, path in (("POST", "/mcp/clock/tools/get_time"), ("GET", "/docs"), ("GET", "/ready")):
                answer = await http.request(method, path, headers={name: "1.2.3.4"})
                assert answer.status_code == 403
                assert "SWITCHBOARD_ALLOW_ANONYMOUS" in answer.json()["detail"]
            assert (await http.get("/health", headers={name: "1.2.3.4"})).status_code == 200
        with pytest.raises(InvalidStatus) as refused:
            async with connect(f"{served.websocket_url}/mcp/ws", additional_headers={"X-Forwarded-For": "1.2.3.4"}):
                pass
        assert refused.value.response.status_code == 403


async def test_dev_takes_callers_without_a_key_and_no_bad_ones(database: TestDatabase, keys: KeyAdministration) -> None:
    token, key = mint(frozenset({"support_agent"}))
    await keys.add(key)
    identity = door(database, anonymous=EVERYBODY, public_pages=True)
    async with serve(create_app([BellMCPServer], Settings(), identity=identity)) as served, client_of(served) as http:

        async def who(**fields: str) -> Any:
            answer = await http.post("/mcp/bell/tools/who", json={}, headers=fields)
            return answer.json().get("zone", answer.status_code)

        assert await who() == "anonymous"
        assert await who(**bearer(token)) == key.id
        assert await who(**bearer("garbage")) == 401
        assert await who(**{"x-forwarded-for": "1.2.3.4"}) == 401
        assert await who(**bearer(token), **{"x-forwarded-for": "1.2.3.4"}) == key.id


@pytest.mark.parametrize("anonymous", [None, EVERYBODY])
async def test_the_openapi_document_says_where_a_key_is_wanted(
    database: TestDatabase, token: str, anonymous: Principal | None
) -> None:
    identity = door(database, anonymous=anonymous)
    async with (
        serve(create_app([ClockMCPServer()], Settings(), identity=identity)) as served,
        client_of(served) as http,
    ):
        document = (await http.get("/openapi.json", headers=bearer(token))).json()
    assert [scheme["scheme"] for scheme in document["components"]["securitySchemes"].values()] == ["bearer"]
    (name,) = document["components"]["securitySchemes"]
    assert document["security"] == ([{name: []}] if anonymous is None else [{}, {name: []}])
    called = document["paths"]["/mcp/clock/tools/get_time"]["post"]["responses"]
    for status, codes in (("403", ("origin_refused", "insufficient_scope")), ("429", ("too_many_requests",))):
        assert all(code in called[status]["description"] for code in codes)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if path == "/health":
                assert (operation["security"], "401" in operation["responses"]) == ([], False)
            else:
                said = {status: operation["responses"][status]["description"] for status in ("401", "429", "503")}
                for status, code in (("401", "unauthenticated"), ("429", "rate_limited"), ("503", "identity_")):
                    assert code in said[status]
                assert ("403" in operation["responses"]) is (path != "/ready")
                assert operation.get("security") == ([{}, {name: []}] if path == "/ready" else None)


async def test_the_openapi_document_asks_for_no_key_where_none_is_looked_at() -> None:
    async with (
        serve(create_app([ClockMCPServer()], Settings(), identity=Identity(None, anonymous=EVERYBODY))) as served,
        client_of(served) as http,
    ):
        document = (await http.get("/openapi.json")).json()
    assert "security" not in document
    assert "securitySchemes" not in document["components"]


async def test_pages_are_public_only_where_the_file_says_so(database: TestDatabase) -> None:
    identity = door(database, public_pages=True)
    async with (
        serve(create_app([ClockMCPServer()], Settings(), identity=identity)) as served,
        client_of(served) as http,
    ):
        for path in ("/", "/docs", "/redoc", "/openapi.json", "/console/console.css", "/favicon.ico"):
            assert (await http.get(path)).status_code == 200
        assert (await http.get("/mcp")).status_code == 401
        assert (await http.get("/console/../mcp")).status_code == 401
        assert (await http.post("/mcp/clock/tools/get_time", json={})).status_code == 401


async def test_the_operator_is_reminded_that_everybody_may_call(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    identity = Identity(None, anonymous=EVERYBODY, through_proxies=True)
    async with (
        serve(create_app([ClockMCPServer()], Settings(), identity=identity)) as served,
        client_of(served) as http,
    ):
        answer = await http.post("/mcp/clock/tools/get_time", json={}, headers={"X-Forwarded-For": "1.2.3.4"})
        assert answer.status_code == 200
    assert "SWITCHBOARD_ALLOW_ANONYMOUS" in caplog.text


async def test_an_address_that_guesses_is_told_when_to_come_back(database: TestDatabase) -> None:
    identity = door(database, rate=Rate(per_second=0.01, burst=2))
    async with (
        serve(create_app([ClockMCPServer()], Settings(), identity=identity)) as served,
        client_of(served) as http,
    ):
        answers = [await http.get("/mcp", headers=bearer(mint(DEVELOPER)[0])) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [401, 401, 429]
        assert int(answers[2].headers["retry-after"]) > 1
        assert answers[2].json()["code"] == "rate_limited"
