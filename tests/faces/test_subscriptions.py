"""Changes of resources reach who subscribed, in the way of each era, and nothing stays behind."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from app.main import create_app
from app.servers.calls import JsonObject
from app.settings import Settings
from tests.clock import ClockMCPServer
from tests.faces.raw import WITHIN, event_stream, handshake, initialize, post, request, websocket
from tests.fixtures.gateway import Served, serve

UTC = "clock://zones/UTC"
CET = "clock://zones/CET"
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
MODERN, LEGACY = "2026-07-28", "2025-11-25"


@pytest.fixture
def clock() -> ClockMCPServer:
    return ClockMCPServer()


@pytest.fixture
async def gateway(clock: ClockMCPServer) -> AsyncGenerator[Served]:
    async with serve(create_app([clock], Settings(max_subscriptions=2))) as served:
        yield served


def listen(*uris: str, number: int = 1) -> JsonObject:
    return request(
        MODERN, "subscriptions/listen", {"notifications": {"resourceSubscriptions": list(uris)}}, number=number
    )


async def unwatched(clock: ClockMCPServer) -> None:
    """Wait until nobody watches any more."""
    async with asyncio.timeout(WITHIN):
        await clock.unwatched.wait()
    assert clock.watchers == []


def change(clock: ClockMCPServer, **update: Any) -> None:
    for watcher in clock.watchers:
        watcher.put_nowait(update)


async def test_listening_over_http(clock: ClockMCPServer, gateway: Served) -> None:
    async with event_stream(gateway, listen(UTC, CET), MODERN) as messages, asyncio.timeout(WITHIN):
        acknowledged = await anext(messages)
        assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
        assert acknowledged["params"]["notifications"] == {"resourceSubscriptions": [UTC, CET]}
        assert acknowledged["params"]["_meta"][SUBSCRIPTION] == 1
        change(clock, cursor="42")
        updates = [await anext(messages), await anext(messages)]
        assert {update["method"] for update in updates} == {"notifications/resources/updated"}
        assert {update["params"]["uri"] for update in updates} == {UTC, CET}
        assert [update["params"]["_meta"]["cursor"] for update in updates] == ["42", "42"]
        assert [update["params"]["_meta"][SUBSCRIPTION] for update in updates] == [1, 1]
    await unwatched(clock)


async def test_a_listening_stream_ends_well_when_the_gateway_stops(clock: ClockMCPServer, gateway: Served) -> None:
    async with event_stream(gateway, listen(UTC), MODERN) as messages, asyncio.timeout(WITHIN):
        await anext(messages)
        gateway.app.state.gateway.closing.set()
        ended = await anext(messages)
    assert ended["id"] == 1
    assert ended["result"]["resultType"] == "complete"
    assert clock.watchers == []


async def test_listening_over_websocket_until_it_is_cancelled(clock: ClockMCPServer, gateway: Served) -> None:
    async with websocket(gateway, MODERN) as messages:
        await messages.send(listen(UTC, number=5))
        assert (await messages.receive())["method"] == "notifications/subscriptions/acknowledged"
        change(clock, cursor="1")
        update = await messages.receive()
        assert update["params"]["uri"] == UTC
        assert update["params"]["_meta"] == {"cursor": "1", "zone": "UTC", SUBSCRIPTION: 5}
        await messages.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 5}})
        await unwatched(clock)
        answer = await messages.ask(request(MODERN, "tools/list", number=6))
        assert "result" in answer


async def test_uris_that_cannot_be_watched_are_left_out_of_the_acknowledgement(gateway: Served) -> None:
    async with event_stream(gateway, listen("clock://zones", UTC, "clock://nothing/here"), MODERN) as messages:
        acknowledged = await anext(messages)
    assert acknowledged["params"]["notifications"] == {"resourceSubscriptions": [UTC]}


async def test_listening_to_nothing_that_can_be_watched_is_refused(gateway: Served) -> None:
    filters: JsonObject = {"notifications": {"resourceSubscriptions": ["clock://zones"]}}
    answer = await post(gateway, MODERN, "subscriptions/listen", filters)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == -32602
    assert "can't be subscribed to" in answer.json()["error"]["message"]


async def test_subscribing_over_websocket(clock: ClockMCPServer, gateway: Served) -> None:
    async with websocket(gateway, LEGACY) as messages:
        assert (await messages.ask(request(LEGACY, "resources/subscribe", {"uri": UTC})))["result"] == {}
        assert (await messages.ask(request(LEGACY, "resources/subscribe", {"uri": CET}, number=2)))["result"] == {}
        change(clock, cursor="7")
        updates = [await messages.receive(), await messages.receive()]
        assert {update["params"]["uri"] for update in updates} == {UTC, CET}
        assert {update["params"]["_meta"]["cursor"] for update in updates} == {"7"}
        assert (await messages.ask(request(LEGACY, "resources/unsubscribe", {"uri": CET}, number=3)))["result"] == {}
        assert len(clock.watchers) == 1
        change(clock)
        assert (await messages.receive())["params"]["uri"] == UTC
    await unwatched(clock)


async def test_subscribing_twice_counts_once(clock: ClockMCPServer, gateway: Served) -> None:
    async with websocket(gateway, LEGACY) as messages:
        for number in range(4):
            answer = await messages.ask(request(LEGACY, "resources/subscribe", {"uri": UTC}, number=number))
            assert answer["result"] == {}
        assert len(clock.watchers) == 1


@pytest.mark.parametrize(
    ("uri", "code"), [("clock://zones", -32602), ("clock://nothing/here", -32002), ("nope://x", -32002)]
)
async def test_subscribing_to_what_cannot_be_watched_is_refused(gateway: Served, uri: str, code: int) -> None:
    async with websocket(gateway, LEGACY) as messages:
        answer = await messages.ask(request(LEGACY, "resources/subscribe", {"uri": uri}))
    assert answer["error"]["code"] == code


async def test_subscriptions_are_limited_and_given_back(clock: ClockMCPServer, gateway: Served) -> None:
    async with websocket(gateway, LEGACY) as messages:
        for number, zone in enumerate(("UTC", "CET")):
            uri = f"clock://zones/{zone}"
            assert "result" in await messages.ask(request(LEGACY, "resources/subscribe", {"uri": uri}, number=number))
        refused = await messages.ask(request(LEGACY, "resources/subscribe", {"uri": "clock://zones/PST"}, number=3))
        assert refused["error"]["data"]["code"] == "too_many_requests"
        listening = await post(gateway, MODERN, "subscriptions/listen", listen("clock://zones/PST")["params"])  # type: ignore[arg-type]
        assert listening.json()["error"]["data"]["code"] == "too_many_requests"
    await unwatched(clock)
    async with event_stream(gateway, listen(UTC, CET), MODERN) as messages:
        assert (await anext(messages))["method"] == "notifications/subscriptions/acknowledged"


async def test_only_who_can_be_told_is_promised_it(gateway: Served) -> None:
    over_http = await post(gateway, LEGACY, "initialize", handshake(LEGACY))
    assert over_http.json()["result"]["capabilities"]["resources"]["subscribe"] is False
    refused = await post(gateway, LEGACY, "resources/subscribe", {"uri": UTC})
    assert refused.json()["error"]["code"] == -32601
    discovered = await post(gateway, MODERN, "server/discover")
    assert discovered.json()["result"]["capabilities"]["resources"] == {"subscribe": True, "listChanged": False}
    assert discovered.json()["result"]["capabilities"]["tools"] == {"listChanged": False}
    async with websocket(gateway, MODERN) as messages:
        over_websocket = await initialize(messages, LEGACY)
    assert over_websocket["capabilities"]["resources"]["subscribe"] is True
