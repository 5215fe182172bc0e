"""An answer that is there as a whole, which passes none of ASGI's messages, and what looks like it from outside."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.main import GatewayApp, create_app
from app.settings import Settings
from tests.faces.raw import WITHIN
from tests.fixtures.gateway import Served, serve
from tests.serving.callers import HOST, JSON, Answer, Raw, SlowMCPServer, caller, post, protocols, until
from tests.serving.test_requests import Recorder

ZONE = b'{"zone":"CET"}'
OURS = ("content-type", "content-length", "x-request-id")


class Forwarding:
    """ASGI middleware that does nothing but stand between: what it hands on goes by messages."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.sent: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_noted() -> Message:
            return await receive()

        async def send_noted(message: Message) -> None:
            self.sent.append(message["type"])
            await send(message)

        await self._app(scope, receive_noted, send_noted)


@pytest.fixture
async def gateway() -> AsyncGenerator[Served]:
    async with serve(create_app([SlowMCPServer()], Settings(max_request_bytes=1024))) as served:
        yield served


@pytest.fixture
async def raw(gateway: Served) -> AsyncGenerator[Raw]:
    async with caller(gateway) as connection:
        yield connection


async def answer_to(raw: Raw, *request: bytes) -> Answer:
    raw.send(*request)
    return await raw.answer()


async def test_an_answer_is_written_at_once(gateway: Served) -> None:
    config = gateway.server.config
    transport = Recorder()
    protocol: Any = config.http_protocol_class(config=config, server_state=gateway.server.server_state, app_state={})  # type: ignore[call-arg]
    protocol.connection_made(transport)
    protocol.data_received(post("get_time", ZONE))
    assert await transport.zones(1) == ["CET"]
    assert transport.answers.qsize() == 0, "its head and its body were written one after the other"
    protocol.connection_lost(None)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (post("get_time", ZONE), 200),
        (post("get_time", ZONE, b"x-request-id: mine\r\n"), 200),
        (post("get_time", b'{"zone":5}'), 422),
        (post("get_time", b"[" * 1025), 413),
        (post("get_time", b" " * 1024), 400),
        (post("nope", ZONE), 404),
        (post("get_time", ZONE, b"expect: 100-continue\r\n"), 100),
        (post("get_time", ZONE, b"content-encoding: gzip\r\n"), 415),
    ],
)
async def test_what_stands_between_changes_nothing(gateway: Served, request_: bytes, status: int) -> None:
    async def answer() -> tuple[Any, ...]:
        async with caller(gateway) as raw:
            raw.send(request_)
            if status == 100:
                assert await raw.line() == b"HTTP/1.1 100 Continue\r\n"
                assert await raw.line() == b"\r\n"
            found = await raw.answer()
        given = json.loads(found.body)
        given.pop("request_id", None)
        fields = {name: value for name, value in found.fields.items() if name not in ("date", "x-request-id")}
        assert found.fields["date"]
        mine = found.fields["x-request-id"] == "mine"
        return found.status, list(found.fields), fields, given, mine

    whole = await answer()
    app = gateway.app
    assert isinstance(app, GatewayApp)
    app.front = between = Forwarding(app.front)
    by_messages = await answer()
    assert whole == by_messages
    assert whole[0] == (200 if status == 100 else status)
    assert between.sent == ["http.response.start", "http.response.body"]


async def test_a_page_of_a_browser_gets_what_it_may_read(gateway: Served, raw: Raw) -> None:
    origin = b"origin: http://127.0.0.1:%d\r\n" % gateway.port
    host = b"host: 127.0.0.1:%d\r\n" % gateway.port
    request = post("get_time", ZONE, origin).replace(HOST, host)
    answer = await answer_to(raw, request)
    assert answer.status == 200
    assert answer.fields["access-control-allow-origin"] == f"http://127.0.0.1:{gateway.port}"
    assert all(name in answer.fields for name in OURS)


@pytest.mark.parametrize(
    ("request_", "closes"),
    [
        (post("get_time", ZONE), False),
        (post("get_time", ZONE, b"connection: close\r\n"), True),
        (post("get_time", ZONE).replace(b"HTTP/1.1", b"HTTP/1.0"), True),
    ],
)
async def test_a_connection_ends_with_its_last_answer(raw: Raw, request_: bytes, closes: bool) -> None:
    answer = await answer_to(raw, request_)
    assert (answer.status, answer.fields.get("connection")) == (200, "close" if closes else None)
    if closes:
        assert await raw.ended() == b""
    else:
        assert (await answer_to(raw, request_)).status == 200


async def test_a_body_that_comes_late_is_waited_for(gateway: Served, raw: Raw) -> None:
    request = b"POST /mcp/slow/tools/get_time HTTP/1.1\r\n" + HOST + JSON + b"content-length: %d\r\n\r\n" % len(ZONE)
    raw.send(request)
    [protocol] = protocols(gateway)
    await until(lambda: protocol.cycle is not None)
    answer = await answer_to(raw, ZONE)
    assert answer.json()["zone"] == "CET"


async def test_who_takes_no_answers_gets_no_more_until_it_does(gateway: Served) -> None:
    async with caller(gateway, reads_little=True) as raw, asyncio.timeout(WITHIN):
        raw.send(post("get_much"))
        await raw.at_least(1)
        [protocol] = protocols(gateway)
        await until(lambda: protocol.flow.write_paused)
        raw.send(post("get_time", ZONE))
        await until(lambda: gateway.app.state.activity.count == 2)
        assert protocol.cycle.response_started == protocol.cycle.response_complete is False
        rest = b""
        while not rest.endswith(b'"ticks":0}'):
            rest = rest[-100:] + await raw.some()
