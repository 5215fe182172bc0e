"""Changes of resources reach who subscribed, in the way of each era, and nothing stays behind."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from app.errors import BackendUnavailable
from app.main import create_app
from app.servers.base import BaseMCPServer
from app.servers.calls import JsonObject
from app.servers.declaring import resource, watch
from app.settings import Settings
from tests.clock import ClockMCPServer, ClockTime
from tests.faces.raw import WITHIN, client_of, event_stream, handshake, initialize, post, request, websocket
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


async def test_listening_to_nothing_counts_like_listening_to_something(clock: ClockMCPServer, gateway: Served) -> None:
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(event_stream(gateway, listen(), MODERN)) for _ in range(2)]
        for messages in streams:
            assert (await anext(messages))["method"] == "notifications/subscriptions/acknowledged"
        refused = await post(gateway, MODERN, "subscriptions/listen", listen()["params"])  # type: ignore[arg-type]
        assert refused.json()["error"]["data"]["code"] == "too_many_requests"
        async with websocket(gateway, MODERN) as socket:
            assert (await socket.ask(listen(number=3)))["error"]["data"]["code"] == "too_many_requests"
    await nobody_watches(gateway)


async def test_listening_to_nothing_is_recorded_as_any_other_call(
    gateway: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(event_stream(gateway, listen(), MODERN)) for _ in range(2)]
        for messages in streams:
            await anext(messages)
        await post(gateway, MODERN, "subscriptions/listen", listen()["params"])  # type: ignore[arg-type]
    lines = [line for line in caplog.messages if "operation=subscriptions/listen " in line]
    assert ["outcome=ok" in line for line in lines] == [True, True, False]
    assert "outcome=too_many_requests" in lines[2]
    assert all("server=clock" in line and "address=127.0.0.1" in line for line in lines)


async def test_one_caller_leaves_subscriptions_to_others(clock: ClockMCPServer) -> None:
    settings = Settings(max_subscriptions=8, max_subscriptions_per_caller=3, trusted_proxies=["127.0.0.1"])
    zones = [f"clock://zones/{number}" for number in range(5)]
    async with serve(create_app([clock], settings)) as served, AsyncExitStack() as stack:
        streams: list[Any] = []
        for address in ("192.0.2.1", "192.0.2.2"):
            theirs = {"x-forwarded-for": address}
            stream = event_stream(served, listen(*zones[:2]), MODERN, fields=theirs)
            streams.append(await stack.enter_async_context(stream))
            await anext(streams[-1])
            socket = await stack.enter_async_context(websocket(served, LEGACY, additional_headers=theirs))
            for number, (zone, granted) in enumerate([(zones[2], True), (zones[3], False)]):
                answer = await socket.ask(request(LEGACY, "resources/subscribe", {"uri": zone}, number=number))
                assert ("result" in answer) is granted
            assert "MAX_SUBSCRIPTIONS_PER_CALLER" in answer["error"]["message"]
        assert len(clock.watchers) == 6
    await unwatched(clock)


@pytest.mark.parametrize("way", ["websocket-2025", "websocket-2026", "http"])
async def test_one_connection_leaves_subscriptions_to_the_callers_others(
    clock: ClockMCPServer, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr("app.gateway.MOST_OF_A_CONNECTION", 2)
    zones = [f"clock://zones/{number}" for number in range(3)]
    async with serve(create_app([clock], Settings())) as served:
        for _ in range(2):  # what was given back can be had again
            if way == "http":
                async with event_stream(served, listen(*zones), MODERN) as messages:
                    granted = (await anext(messages))["params"]["notifications"]["resourceSubscriptions"]
            elif way == "websocket-2026":
                async with websocket(served, MODERN) as socket:
                    await socket.send(listen(*zones[:2], number=1))
                    granted = (await socket.receive())["params"]["notifications"]["resourceSubscriptions"]
                    assert "error" in await socket.ask(listen(zones[2], number=2))
            else:
                async with websocket(served, LEGACY) as socket:
                    asked = [request(LEGACY, "resources/subscribe", {"uri": u}, number=n) for n, u in enumerate(zones)]
                    granted = [
                        zone for zone, ask in zip(zones, asked, strict=True) if "result" in await socket.ask(ask)
                    ]
            assert granted == zones[:2]
            await nobody_watches(served)


async def test_more_addresses_than_a_connection_may_watch_are_not_looked_at(
    clock: ClockMCPServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(create_app([clock], Settings())) as served, websocket(served, MODERN) as socket:
        answer = await socket.ask(listen(*(f"clock://zones/{number}" for number in range(129))))
    assert answer["error"]["data"]["code"] == "too_many_requests"
    assert "at most 128" in answer["error"]["message"]
    assert clock.watchers == []
    assert not [record for record in caplog.records if "watch" in record.getMessage()]


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


# Watches that fail, and clients that are in a hurry


class MoodyMCPServer(BaseMCPServer):
    """Has things that can be watched, in a way."""

    def __init__(self) -> None:
        super().__init__()
        self.entered: list[asyncio.Task[Any] | None] = []
        self.left: list[asyncio.Task[Any] | None] = []
        self.tell: dict[str, asyncio.Queue[Any]] = defaultdict(asyncio.Queue)

    @resource("moody://things/{name}")
    async def thing(self, name: str) -> ClockTime:
        """A thing."""
        return ClockTime(zone=name)

    @watch("moody://things/{name}")
    @asynccontextmanager
    async def watch_thing(self, name: str) -> AsyncGenerator[AsyncIterator[Any]]:
        # What is within such a scope has to leave it in the task that entered it.
        with anyio.CancelScope():
            await anyio.lowlevel.checkpoint()
            if name == "shut":
                raise RuntimeError("password=hunter2")
            self.entered.append(asyncio.current_task())
            try:
                yield self._told(name)
            finally:
                self.left.append(asyncio.current_task())
                if name == "sticky":
                    raise RuntimeError("password=hunter2")

    async def _told(self, name: str) -> AsyncGenerator[Any]:
        while (told := await self.tell[name].get()) is not None:
            if isinstance(told, Exception):
                raise told
            yield told


THING = "moody://things/"
FAILURES = [
    (RuntimeError("password=hunter2"), "internal_error"),
    (BackendUnavailable("The thing is asleep."), "backend_unavailable"),
    (ExceptionGroup("two", [OSError("hunter2"), ValueError("hunter2")]), "internal_error"),
    ({"not": object()}, "internal_error"),
    (None, "not_found"),
]


@pytest.fixture
def moody() -> MoodyMCPServer:
    return MoodyMCPServer()


@pytest.fixture
async def moods(moody: MoodyMCPServer) -> AsyncGenerator[Served]:
    async with serve(create_app([moody], Settings(max_subscriptions=50))) as served:
        yield served


async def nobody_watches(served: Served) -> None:
    async with asyncio.timeout(WITHIN), client_of(served) as http:
        while served.app.state.gateway.subscriptions:
            await http.get("/health")


def subscribe(name: str, number: int) -> JsonObject:
    return request(LEGACY, "resources/subscribe", {"uri": THING + name}, number=number)


async def test_subscribing_to_one_thing_many_times_at_once_is_one_subscription(
    moody: MoodyMCPServer, moods: Served
) -> None:
    async with websocket(moods, LEGACY, "/mcp/moody/ws") as messages:
        for number in range(7):
            await messages.send(subscribe("one", number))
        answers = [await messages.receive() for _ in range(7)]
        assert [answer["result"] for answer in answers] == [{}] * 7
        assert moods.app.state.gateway.subscriptions == 1
        moody.tell["one"].put_nowait({"cursor": "1"})
        assert (await messages.receive())["params"]["_meta"] == {"cursor": "1"}
        unsubscribe = request(LEGACY, "resources/unsubscribe", {"uri": THING + "one"}, number=8)
        assert (await messages.ask(unsubscribe))["result"] == {}
        assert moods.app.state.gateway.subscriptions == 0
        for number in range(20, 40, 2):
            await messages.send(subscribe("one", number))
            await messages.send(request(LEGACY, "resources/unsubscribe", {"uri": THING + "one"}, number=number + 1))
        assert {(await messages.receive())["id"] for _ in range(20)} == set(range(20, 40))
    await nobody_watches(moods)
    assert moody.entered == moody.left, "each is left by the task that entered it"


@pytest.mark.parametrize(("told", "code"), FAILURES)
async def test_a_watch_that_fails_ends_with_a_notice_and_takes_nothing_along(
    moody: MoodyMCPServer, moods: Served, told: Any, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with websocket(moods, LEGACY, "/mcp/moody/ws") as messages:
        for number, name in enumerate(("ill", "well")):
            assert (await messages.ask(subscribe(name, number)))["result"] == {}
        moody.tell["ill"].put_nowait(told)
        notice = (await messages.receive())["params"]
        assert notice["uri"] == THING + "ill"
        assert notice["_meta"]["failure"]["code"] == code
        assert "hunter2" not in str(notice)
        moody.tell["well"].put_nowait({})
        assert (await messages.receive())["params"]["uri"] == THING + "well"
        assert moods.app.state.gateway.subscriptions == 1
        assert (await messages.ask(subscribe("ill", 5)))["result"] == {}, "it may be tried again"
    await nobody_watches(moods)
    assert [record.exc_info is not None for record in caplog.records if "unforeseen" in record.getMessage()] == (
        [True] if code == "internal_error" else []
    )


@pytest.mark.parametrize(("told", "code"), FAILURES)
@pytest.mark.parametrize("transport", ["http", "websocket"])
async def test_a_stream_goes_on_without_a_watch_that_failed_and_ends_with_its_last(
    moody: MoodyMCPServer, moods: Served, told: Any, code: str, transport: str
) -> None:
    uris: JsonObject = {"notifications": {"resourceSubscriptions": [THING + "ill", THING + "well"]}}
    message = request(MODERN, "subscriptions/listen", uris, number=3)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(WITHIN))
        if transport == "http":
            stream = event_stream(moods, message, MODERN, path="/mcp/moody")
            receive = (await stack.enter_async_context(stream)).__anext__
        else:
            messages = await stack.enter_async_context(websocket(moods, MODERN, "/mcp/moody/ws"))
            await messages.send(message)
            receive = messages.receive
        assert (await receive())["method"] == "notifications/subscriptions/acknowledged"
        moody.tell["ill"].put_nowait(told)
        failed = (await receive())["params"]
        assert (failed["uri"], failed["_meta"]["failure"]["code"]) == (THING + "ill", code)
        assert failed["_meta"][SUBSCRIPTION] == 3
        moody.tell["well"].put_nowait({"cursor": "1"})
        assert (await receive())["params"]["uri"] == THING + "well"
        moody.tell["well"].put_nowait(told)
        assert (await receive())["params"]["_meta"]["failure"]["code"] == code
        assert (await receive())["result"]["resultType"] == "complete"
    await nobody_watches(moods)
    assert set(moody.entered) == set(moody.left)


@pytest.mark.parametrize("name", ["shut", "sticky"])
async def test_a_watch_that_cannot_be_entered_or_left_is_no_ones_problem_but_its_own(
    moody: MoodyMCPServer, moods: Served, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with websocket(moods, LEGACY, "/mcp/moody/ws") as messages:
        subscribed = await messages.ask(subscribe(name, 1))
        if name == "shut":
            assert subscribed["error"]["data"]["code"] == "internal_error"
            assert "hunter2" not in str(subscribed)
        else:
            unsubscribe = request(LEGACY, "resources/unsubscribe", {"uri": THING + name}, number=2)
            assert "result" in await messages.ask(unsubscribe)
        assert "result" in await messages.ask(request(LEGACY, "resources/list", number=4))
    await nobody_watches(moods)


async def test_a_client_that_leaves_in_the_middle_of_subscribing_leaves_nothing(
    moody: MoodyMCPServer, moods: Served, caplog: pytest.LogCaptureFixture
) -> None:
    async with websocket(moods, LEGACY, "/mcp/moody/ws") as messages:
        for number in range(30):
            await messages.send(subscribe(str(number), number))
        await messages.receive()
        messages.socket.transport.abort()
    await nobody_watches(moods)
    assert set(moody.entered) == set(moody.left)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_gateway_that_stops_ends_subscriptions_at_once(moody: MoodyMCPServer, moods: Served) -> None:
    async with websocket(moods, LEGACY, "/mcp/moody/ws") as messages, asyncio.timeout(WITHIN):
        for number in range(5):
            await messages.ask(subscribe(str(number), number))
        moods.app.state.gateway.closing.set()
        await messages.socket.wait_closed()
        assert moods.app.state.gateway.subscriptions == 0
