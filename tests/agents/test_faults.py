"""What the client does when the network, a proxy or the gateway misbehaves."""

import json
from collections.abc import AsyncGenerator, Generator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
import respx

from agents.client import BatchCall, MCPClient
from agents.errors import (
    BackendNotConfigured,
    BackendTimeout,
    BackendUnavailable,
    CallFailed,
    CallTimeout,
    ConnectionFailed,
    ConnectionLost,
    Forbidden,
    GatewayFailed,
    InvalidArguments,
    MalformedAnswer,
    NotFound,
    TooManyRequests,
    Unauthorized,
)
from tests.agents.faults import TOOLS, FakeTime, mock_gateway, problem, scripted_server

DONE = {"success": True, "seen": 1}

PASSING: list[tuple[Any, type[CallFailed]]] = [
    (httpx.ReadTimeout("slow"), CallTimeout),
    (httpx.ReadError("reset"), ConnectionLost),
    (httpx.RemoteProtocolError("half an answer"), ConnectionLost),
    (problem(503, "backend_unavailable"), BackendUnavailable),
    (problem(429, "too_many_requests", retry_after=1), TooManyRequests),
    (httpx.Response(503, html="<h1>Maintenance</h1>"), BackendUnavailable),
    (httpx.Response(502), BackendUnavailable),
    (httpx.Response(500, text="Internal Server Error"), GatewayFailed),
]
LASTING: list[tuple[Any, type[CallFailed]]] = [
    (problem(504, "backend_timeout"), BackendTimeout),
    (httpx.Response(504, html="proxy"), BackendTimeout),
    (problem(503, "backend_not_configured"), BackendNotConfigured),
    (problem(500, "internal_error"), GatewayFailed),
    (problem(404, "not_found"), NotFound),
    (problem(422, "invalid_arguments", errors=[{"field": "x", "message": "no"}]), InvalidArguments),
    (problem(401, "unauthenticated"), Unauthorized),
    (problem(403, "forbidden"), Forbidden),
    (httpx.Response(401), Unauthorized),
    (httpx.Response(307, headers={"location": "http://elsewhere"}), MalformedAnswer),
    (httpx.Response(200, content=b""), MalformedAnswer),
    (httpx.Response(200, html="<p>Sign in to the wireless network</p>"), MalformedAnswer),
    (httpx.Response(200, content=b'{"success":true,"se'), MalformedAnswer),
    (httpx.Response(200, json=[1]), MalformedAnswer),
    (httpx.Response(200, content=b"x", headers={"content-encoding": "gzip"}), MalformedAnswer),
]


def named(cases: list[tuple[Any, type[CallFailed]]]) -> Any:
    return pytest.mark.parametrize(("fault", "kind"), cases, ids=[repr(fault)[:60] for fault, _ in cases])


@pytest.fixture
def router() -> Generator[respx.MockRouter]:
    with respx.mock(assert_all_called=False) as mock:
        mock_gateway(mock)
        yield mock


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
async def client(router: respx.MockRouter, time: FakeTime) -> AsyncGenerator[MCPClient]:
    async with MCPClient("http://gateway", retry=time.policy()) as connected:
        yield connected


def route(router: respx.MockRouter, tool: str, *answers: Any, url: str = "http://gateway") -> respx.Route:
    return router.post(f"{url}/mcp/things/tools/{tool}").mock(side_effect=list(answers))


def ok() -> httpx.Response:
    return httpx.Response(200, json=DONE)


@named(PASSING)
async def test_a_read_is_repeated_after_a_failure_that_may_pass(
    client: MCPClient, router: respx.MockRouter, fault: Any, kind: type[CallFailed]
) -> None:
    look = route(router, "look", fault, fault, ok())
    assert await client.call_tool("things", "look") == DONE
    assert look.call_count == 3


@named(PASSING)
async def test_a_write_with_an_idempotency_key_is_repeated_with_the_same_key(
    client: MCPClient, router: respx.MockRouter, fault: Any, kind: type[CallFailed]
) -> None:
    store = route(router, "store", fault, ok(), ok())
    assert await client.call_tool("things", "store", {"what": 1}) == DONE
    await client.call_tool("things", "store", {"what": 2, "idempotency_key": "mine"})
    first, second, third = (json.loads(call.request.content) for call in store.calls)
    assert first == second
    assert first["idempotency_key"]
    assert third["idempotency_key"] == "mine"


@named(PASSING)
async def test_any_other_write_is_sent_once(
    client: MCPClient, router: respx.MockRouter, time: FakeTime, fault: Any, kind: type[CallFailed]
) -> None:
    shoot = route(router, "shoot", fault, ok())
    with pytest.raises(kind):
        await client.call_tool("things", "shoot")
    assert shoot.call_count == 1
    assert time.slept == []


async def test_a_tool_that_the_server_does_not_list_is_sent_once(client: MCPClient, router: respx.MockRouter) -> None:
    secret = route(router, "secret", httpx.ReadError("reset"), ok())
    with pytest.raises(ConnectionLost):
        await client.call_tool("things", "secret")
    assert secret.call_count == 1


@named(LASTING)
async def test_a_failure_that_will_not_pass_is_not_repeated(
    client: MCPClient, router: respx.MockRouter, fault: Any, kind: type[CallFailed]
) -> None:
    look = route(router, "look", fault, ok())
    with pytest.raises(CallFailed) as raised:
        await client.call_tool("things", "look")
    assert type(raised.value) is kind
    assert look.call_count == 1


async def test_what_was_never_sent_is_repeated_even_if_it_writes(client: MCPClient, router: respx.MockRouter) -> None:
    shoot = route(router, "shoot", httpx.ConnectError("refused"), httpx.ConnectTimeout("no answer"), ok())
    assert await client.call_tool("things", "shoot") == DONE
    assert shoot.call_count == 3


async def test_pauses_grow_with_jitter_and_end(client: MCPClient, router: respx.MockRouter, time: FakeTime) -> None:
    look = route(router, "look", *[httpx.ReadError("reset")] * 10)
    with pytest.raises(ConnectionLost):
        await client.call_tool("things", "look")
    assert look.call_count == 6
    assert time.slept == [0.05, 0.1, 0.2, 0.4, 0.8]


@pytest.mark.parametrize("jitter", [0.0, 0.25, 1.0])
def test_a_pause_lies_between_nothing_and_its_limit(time: FakeTime, jitter: float) -> None:
    policy = time.policy(random=lambda: jitter, base_delay=0.1, max_delay=3.0)
    assert [policy.delay(n, None) for n in (1, 2, 10)] == pytest.approx([0.1 * jitter, 0.2 * jitter, 3.0 * jitter])


@pytest.mark.parametrize("where", ["body", "header", "date"])
async def test_retry_after_is_waited_for(
    client: MCPClient, router: respx.MockRouter, time: FakeTime, where: str
) -> None:
    answers = {
        "body": problem(429, "too_many_requests", retry_after=7.0),
        "header": httpx.Response(429, headers={"retry-after": "7"}),
        "date": httpx.Response(
            503, headers={"retry-after": format_datetime(datetime.now(UTC) + timedelta(seconds=8), usegmt=True)}
        ),
    }
    route(router, "look", answers[where], ok())
    assert await client.call_tool("things", "look") == DONE
    [slept] = time.slept
    assert 6.0 <= slept <= 8.05


async def test_a_retry_after_beyond_the_callers_patience_is_handed_on_at_once(
    client: MCPClient, router: respx.MockRouter, time: FakeTime
) -> None:
    look = route(router, "look", problem(429, "too_many_requests", retry_after=60.0, request_id="r-1"), ok())
    with pytest.raises(TooManyRequests) as raised:
        await client.call_tool("things", "look", timeout=30)
    assert (raised.value.retry_after, raised.value.request_id, raised.value.status) == (60.0, "r-1", 429)
    assert (look.call_count, time.slept) == (1, [])


SENSELESS = [
    "soon",
    "-1",
    "",
    "\u00b2",
    "9" * 400,
    "Mon, 01 Jan 99999999999 00:00:00 GMT",
    "Mon, 01 Jan 2024 00:00 -999999999999",
]


@pytest.mark.parametrize("header", SENSELESS)
async def test_a_senseless_retry_after_is_ignored(
    client: MCPClient, router: respx.MockRouter, time: FakeTime, header: str
) -> None:
    route(router, "look", httpx.Response(503, headers=[(b"retry-after", header.encode("latin-1"))]), ok())
    assert await client.call_tool("things", "look") == DONE
    assert time.slept == [0.05]


async def test_what_the_server_says_of_its_tools_is_asked_once(
    client: MCPClient, router: respx.MockRouter, time: FakeTime
) -> None:
    listing = router.get("http://gateway/mcp/things/tools").mock(
        side_effect=lambda _: httpx.Response(200, json={"success": True, "tools": TOOLS})
    )
    look = router.post("http://gateway/mcp/things/tools/look").respond(json=DONE)
    for _ in range(3):
        await client.call_tool("mcp_things", "look")
    assert (listing.call_count, look.call_count) == (1, 3)
    time.now += 301
    await client.call_tool("things", "look")
    assert listing.call_count == 2
    # A listing that fails for a moment is no reason to forget what is known.
    listing.mock(return_value=httpx.Response(503))
    time.now += 301
    assert await client.call_tool("things", "look") == DONE


@pytest.mark.parametrize("listing", [{"success": True}, {"tools": {}}, {"tools": ["look"]}])
async def test_a_listing_that_is_none_is_a_malformed_answer(
    client: MCPClient, router: respx.MockRouter, listing: dict[str, Any]
) -> None:
    router.get("http://gateway/mcp/things/tools").respond(json=listing)
    with pytest.raises(MalformedAnswer):
        await client.list_tools("things")


async def test_a_call_that_is_safe_to_repeat_moves_to_another_address_without_a_pause(
    router: respx.MockRouter, time: FakeTime
) -> None:
    mock_gateway(router, "http://other")
    async with MCPClient(["http://gateway", "http://other"], retry=time.policy()) as client:
        await client.list_tools("things")
        here = router.post("http://gateway/mcp/things/tools/look").mock(side_effect=httpx.ConnectError("refused"))
        there = router.post("http://other/mcp/things/tools/look").respond(json=DONE)
        for _ in range(10):
            assert await client.call_tool("things", "look") == DONE
        assert (here.call_count, there.call_count) == (1, 10), "the dead address is taken out"
        assert time.slept == []
        time.now += 31
        here.mock(return_value=ok())
        for _ in range(10):
            await client.call_tool("things", "look")
        assert here.call_count == 6, "and is tried again later"


async def test_an_address_that_asks_for_a_pause_gets_it(router: respx.MockRouter, time: FakeTime) -> None:
    mock_gateway(router, "http://other")
    async with MCPClient(["http://gateway", "http://other"], retry=time.policy()) as client:
        await client.list_tools("things")
        here = router.post("http://gateway/mcp/things/tools/look").mock(
            side_effect=[problem(429, "too_many_requests", retry_after=20.0), *[ok() for _ in range(10)]]
        )
        there = router.post("http://other/mcp/things/tools/look").respond(json=DONE)
        for _ in range(6):
            await client.call_tool("things", "look")
        assert (here.call_count, there.call_count) == (1, 6)
        time.now += 20
        await client.call_tool("things", "look")
        assert here.call_count == 2


async def test_a_write_that_may_have_run_does_not_move(router: respx.MockRouter, time: FakeTime) -> None:
    mock_gateway(router, "http://other")
    async with MCPClient(["http://gateway", "http://other"], retry=time.policy()) as client:
        await client.list_tools("things")
        shots = [
            router.post(f"http://{host}/mcp/things/tools/shoot").mock(side_effect=httpx.ReadError("reset"))
            for host in ("gateway", "other")
        ]
        with pytest.raises(ConnectionLost):
            await client.call_tool("things", "shoot")
        assert sum(shot.call_count for shot in shots) == 1


async def test_a_token_is_sent_to_the_server_it_belongs_to(router: respx.MockRouter) -> None:
    mock_gateway(router, "http://other")
    config = {
        "servers": {"mcp_things": {"uri": "http://other", "token": "own"}},
        "gateway": {"uri": "http://gateway"},
    }
    route(router, "look", ok(), url="http://other")
    router.get("http://gateway/mcp/clock/resources/read").respond(json={})
    async with MCPClient(config, token="general", name="tester/2") as client:
        await client.call_tool("things", "look")
        await client.get_resource("clock", "clock://zones")
    sent = {call.request.url.host: call.request.headers for call in router.calls}
    assert sent["other"]["authorization"] == "Bearer own"
    assert sent["gateway"]["authorization"] == "Bearer general"
    assert sent["gateway"]["user-agent"] == "tester/2"


async def test_arguments_that_json_does_not_have_are_refused_before_they_are_sent(
    client: MCPClient, router: respx.MockRouter
) -> None:
    with pytest.raises(InvalidArguments):
        await client.call_tool("things", "look", {"what": object()})


# Batches


def entries(*ends: Any) -> httpx.Response:
    return httpx.Response(200, json={"success": True, "results": list(ends)})


def good(n: int) -> dict[str, Any]:
    return {"success": True, "id": None, "result": {"success": True, "n": n}}


def bad(code: str, status: int) -> dict[str, Any]:
    return {"success": False, "id": None, "error": {"success": False, "code": code, "status": status, "detail": "no"}}


async def test_a_lost_batch_is_sent_again_as_far_as_it_is_safe(client: MCPClient, router: respx.MockRouter) -> None:
    tools = ["look", "store", "shoot"]

    def answer(request: httpx.Request) -> httpx.Response:
        sent = [call["tool"] for call in json.loads(request.content)["calls"]]
        seen.append(sent)
        if seen.count(sent) == 1:
            raise httpx.ReadError("reset")
        return entries(*(good(tools.index(name)) for name in sent))

    seen: list[list[str]] = []
    router.post("http://gateway/mcp/batch").mock(side_effect=answer)
    outcomes = await client.batch([{"server": "mcp_things", "tool": name} for name in tools])
    assert outcomes[:2] == [{"success": True, "n": 0}, {"success": True, "n": 1}]
    assert isinstance(outcomes[2], ConnectionLost)
    assert sorted(seen) == [["look", "store"], ["look", "store"], ["shoot"]]


async def test_a_call_of_a_batch_that_failed_for_a_moment_is_repeated_alone(
    client: MCPClient, router: respx.MockRouter, time: FakeTime
) -> None:
    batch = router.post("http://gateway/mcp/batch").mock(
        return_value=entries(good(0), bad("too_many_requests", 429), bad("not_found", 404))
    )
    look = route(router, "look", ok())
    outcomes = await client.batch([{"server": "things", "tool": "look"} for _ in range(3)])
    assert outcomes[:2] == [{"success": True, "n": 0}, DONE]
    assert isinstance(outcomes[2], NotFound)
    assert (batch.call_count, look.call_count) == (1, 1)
    assert len(time.slept) == 1


async def test_a_sequential_batch_with_a_write_is_sent_once(client: MCPClient, router: respx.MockRouter) -> None:
    batch = router.post("http://gateway/mcp/batch").mock(side_effect=[httpx.ReadError("reset"), entries(good(0))])
    outcomes = await client.batch(
        [{"server": "things", "tool": "look"}, {"server": "things", "tool": "shoot"}], mode="sequential"
    )
    assert [type(outcome) for outcome in outcomes] == [ConnectionLost, ConnectionLost]
    assert batch.call_count == 1


@pytest.mark.parametrize(
    "answer",
    [
        {"success": True},
        {"results": []},
        {"results": [{"success": True}, {"id": 3}]},
        {"results": ["yes", "no"]},
    ],
)
async def test_a_batch_that_is_answered_with_nonsense_fails_each_call(
    client: MCPClient, router: respx.MockRouter, answer: dict[str, Any]
) -> None:
    router.post("http://gateway/mcp/batch").respond(json=answer)
    outcomes = await client.batch([BatchCall(server="things", tool="look")] * 2)
    assert [type(outcome) for outcome in outcomes] == [MalformedAnswer, MalformedAnswer]


# Connections that break in the middle, on real sockets


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
LISTING = json.dumps({"success": True, "tools": TOOLS}).encode()
WHOLE = HEAD % len(LISTING) + LISTING


@pytest.mark.parametrize(
    "broken",
    [None, b"HTTP/1.1 200", HEAD % 1000, HEAD % 1000 + b'{"success":true,', HEAD.replace(b"%d", b"9") + b"{"],
    ids=["no byte", "half a status line", "no body", "half a body", "one byte"],
)
async def test_a_connection_that_breaks_in_the_answer_is_a_lost_one(time: FakeTime, broken: bytes | None) -> None:
    async with scripted_server(broken, broken, WHOLE) as url, MCPClient(url, retry=time.policy()) as client:
        assert len(await client.list_tools("things")) == len(TOOLS)
        assert len(time.slept) == 2
    async with scripted_server(WHOLE, broken) as url, MCPClient(url, retry=time.policy()) as client:
        with pytest.raises(ConnectionLost):
            await client.call_tool("things", "shoot")


async def test_a_server_that_knows_no_websocket_is_no_gateway(time: FakeTime) -> None:
    policy = time.policy(rounds=2)
    async with scripted_server(None) as url, MCPClient(url.replace("http", "ws"), retry=policy) as client:
        with pytest.raises(ConnectionFailed):
            await client.call_tool("things", "look")
    refusal = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n"
    async with scripted_server(refusal) as url, MCPClient(url.replace("http", "ws")) as client:
        with pytest.raises(Unauthorized):
            await client.call_tool("things", "look")
