"""The stream of events: what it tells, to whom, how much at a time, and how it ends."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.errors import BackendUnavailable, GatewayError
from app.faces.console import feed
from app.guard.keys import mint
from app.main import create_app
from app.servers.base import BaseMCPServer
from app.servers.calls import CallContext
from app.servers.declaring import tool
from app.settings import Settings
from app.telemetry.recorder import ended_call
from tests.clock import ClockMCPServer, ClockTime
from tests.faces.console.desk import MARK, Desk, Events, looking, opened
from tests.faces.raw import WITHIN, client_of
from tests.fixtures.gateway import serve


class LampMCPServer(BaseMCPServer):
    """Is out until somebody mends it."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: GatewayError | None = None

    @tool(read_only=True)
    async def look(self) -> ClockTime:
        """Look whether it is on."""
        return ClockTime(zone="on")

    async def ping(self) -> None:
        if self.wrong is not None:
            raise self.wrong


async def call(desk: Desk, http: httpx.AsyncClient, server: str, name: str, **arguments: Any) -> str:
    answer = await http.post(f"/mcp/{server}/tools/{name}", json=arguments, headers=desk.bearer("stranger"))
    return str(answer.headers["x-request-id"])


async def test_a_stream_says_who_looks_how_all_is_and_what_has_happened(desk: Desk, http: httpx.AsyncClient) -> None:
    before = await call(desk, http, "clock", "get_time")
    async with looking(desk.served, desk.bearer("operator")) as events:
        hello = await events.next("hello")
        assert hello["viewer"] == {"principal": desk.keys["operator"].id, "roles": ["operator"], "customer": None}
        assert hello["may"] == {"act": True, "metrics": False, "keys": False, "settings": False}
        first = await events.next("snapshot")
        assert [(each["id"], each["state"], each["off"]) for each in first["servers"]] == [
            ("clock", "ready", {}),
            ("vault", "ready", {}),
        ]
        assert {"at", "version", "rate", "p50", "p95", "p99", "slowest", "failing", "running"} <= first.keys()
        assert len(first["series"]["calls"]) == 90
        told = await events.call_of("get_time")
        assert told["request_id"] == before
        assert (told["server"], told["face"], told["outcome"]) == ("clock", "rest", "ok")
        assert told["principal"] == desk.keys["stranger"].id
        now = await call(desk, http, "clock", "get_time", zone="CET")
        told = await events.call_of("get_time")
        assert told["request_id"] == now
        assert "CET" not in json.dumps(told)
        assert len((await events.next("snapshot"))["series"]["calls"]) == 2


async def test_the_figures_of_a_viewer_are_those_of_what_it_may_use(desk: Desk, http: httpx.AsyncClient) -> None:
    for _ in range(3):
        await call(desk, http, "vault", "open_vault")
    await call(desk, http, "clock", "fail", how="down")
    await call(desk, http, "clock", "get_time")
    for viewer, calls, errors in (("watcher", 2, 1), ("timekeeper", 1, 0)):
        async with looking(desk.served, desk.bearer(viewer)) as events:
            for points in (15, 2):
                told = await events.next("snapshot")
                series = told["series"]
                assert (series["step"], len(series["calls"])) == (60, points)
                assert (sum(series["calls"]), sum(series["errors"])) == (calls, errors)
                assert told["rate"]["calls"] > 0
                assert [value for value in series["p95"] if value is not None]
                assert series["from"] % 60 == 0
    async with looking(desk.served, desk.bearer("operator")) as events:
        told = await events.next("snapshot")
        assert told["series"]["step"] == 10
        assert sum(told["series"]["calls"]) == 5  # and none of what was asked for to look


async def test_what_runs_is_told_with_who_may_end_it(desk: Desk, http: httpx.AsyncClient) -> None:
    async with (
        looking(desk.served, desk.bearer("operator")) as operator,
        looking(desk.served, desk.bearer("watcher")) as watcher,
        asyncio.TaskGroup() as tasks,
    ):
        running = tasks.create_task(call(desk, http, "clock", "wait_for_cancellation"))
        for events, may in ((operator, True), (watcher, False)):
            while not (found := (await events.next("snapshot"))["running"]):
                pass
            while may and not found[0]["can_cancel"]:  # it has only just begun
                [found[0]] = (await events.next("snapshot"))["running"]
            assert (found[0]["operation"], found[0]["can_cancel"]) == ("wait_for_cancellation", may)
        running.cancel()


async def test_a_viewer_is_told_of_what_it_may_use_itself(desk: Desk, http: httpx.AsyncClient) -> None:
    async def calls() -> None:
        await call(desk, http, "vault", "open_vault")
        await call(desk, http, "clock", "fail", how="down")
        await call(desk, http, "clock", "nope")
        await http.get("/mcp", headers=desk.bearer("stranger"))
        await http.get("/mcp/clock/resources/read?uri=clock://zones/UTC", headers=desk.bearer("stranger"))
        await http.get("/mcp/clock/chimes/1", headers=desk.bearer("stranger"))
        await call(desk, http, "clock", "get_time")

    seen: dict[str, list[str]] = {}
    await calls()
    for viewer in ("operator", "watcher", "timekeeper"):
        async with looking(desk.served, desk.bearer(viewer)) as events:
            first = await events.next("snapshot")
            past = [told["operation"] for told in (await events.next("calls"))["calls"]]
            await calls()
            operations: list[str] = []
            while "get_time" not in operations:
                operations += [told["operation"] for told in (await events.next("calls"))["calls"]]
            assert set(past) - {"console/events"} == set(operations) - {"console/events"}, viewer
            seen[viewer] = sorted(set(operations) - {"console/events"})
            named = {each["operation"] for each in (*first["slowest"], *first["failing"])}
            assert {server["id"] for server in first["servers"]} == (
                {"clock", "vault"} if viewer == "operator" else {"clock"}
            )
            if viewer != "operator":
                assert "open_vault" not in named
            assert ("fail" in named) is (viewer != "timekeeper")
    assert seen["timekeeper"] == ["get_time"]
    assert seen["watcher"] == ["chimes", "clock://zones/{zone}", "fail", "get_time"]
    assert seen["operator"] == sorted([*seen["watcher"], "'nope'", "open_vault", "servers/list"])


async def test_who_is_of_a_tenant_is_told_of_its_calls_alone(desk: Desk, http: httpx.AsyncClient) -> None:
    for name, role, tenant in (
        ("viewer", "operator", "acme"),
        ("own", "stranger", "acme"),
        ("other", "stranger", "others"),
    ):
        desk.tokens[name], desk.keys[name] = mint(frozenset({role}), tenant=tenant)
        await desk.store.add(desk.keys[name])

    async def calls(operation: str) -> set[str]:
        for name in ("other", "stranger", "own"):
            await http.post(f"/mcp/clock/tools/{operation}", json={}, headers=desk.bearer(name))
        return {desk.keys["own"].id}

    async def told_of(events: Events, operation: str) -> dict[str, str]:
        told: dict[str, str] = {}
        while desk.keys["own"].id not in told:
            for each in (await events.next("calls"))["calls"]:
                if each["operation"] == operation:
                    told[each["principal"]] = each["id"]
        return told

    past = await calls("get_time")
    async with (
        looking(desk.served, desk.bearer("viewer")) as events,
        looking(desk.served, desk.bearer("operator")) as all_events,
        asyncio.TaskGroup() as tasks,
    ):
        assert (await told_of(events, "get_time")).keys() == past
        new = await calls("get_time")
        assert (await told_of(events, "get_time")).keys() == new
        everybodys = await told_of(all_events, "get_time")
        assert everybodys.keys() == {desk.keys[name].id for name in ("own", "other", "stranger")}
        for name, status in (("own", 200), ("other", 404), ("stranger", 404)):
            path = f"/console/calls/{everybodys[desk.keys[name].id]}"
            assert (await http.get(path, headers=desk.bearer("viewer"))).status_code == status, name
        waiting = [tasks.create_task(calls_of_one(desk, http, name)) for name in ("other", "own")]
        while len(running := (await all_events.next("snapshot"))["running"]) < 2:
            pass
        while not (seen := (await events.next("snapshot"))["running"]):
            pass
        assert {each["principal"] for each in seen} == {desk.keys["own"].id}
        [other] = [each["id"] for each in running if each["principal"] == desk.keys["other"].id]
        answer = await http.post(f"/console/calls/{other}/cancel", headers=desk.bearer("viewer") | MARK)
        assert answer.status_code == 404
        for task in waiting:
            task.cancel()


async def calls_of_one(desk: Desk, http: httpx.AsyncClient, name: str) -> None:
    await http.post("/mcp/clock/tools/wait_for_cancellation", json={}, headers=desk.bearer(name))


async def test_of_many_calls_a_sample_is_told_failures_first(desk: Desk) -> None:
    async with looking(desk.served, desk.bearer("operator")) as events:
        await events.next("calls")
        # All in one turn of the loop, or a slow machine looks between them.
        context = CallContext("r-1", "batch", desk.keys["stranger"].principal)
        ends = [("get_time", "ok")] * 46 + [("fail", "backend_unavailable")] * 4
        desk.served.app.state.activity.calls_ended(
            [
                ended_call("clock", name, context, number * 1e-6, outcome, 1.0)
                for number, (name, outcome) in enumerate(ends * 4)
            ]
        )
        told = dropped = failed = 0
        while told + dropped < 200:
            batch = await events.next("calls")
            assert len(batch["calls"]) <= 50
            told += len(batch["calls"])
            dropped += batch["dropped"]
            failed += sum(each["operation"] == "fail" for each in batch["calls"])
        assert (told, dropped, failed) == (50, 150, 16)


async def test_a_backend_that_goes_and_comes_back_is_told_with_its_reason(tmp_path: Path) -> None:
    lamp = LampMCPServer()
    async with serve(create_app([lamp], Settings())) as served, looking(served, {}) as events:
        [first] = (await events.next("snapshot"))["servers"]
        assert (first["state"], first["reason"]) == ("ready", None)
        lamp.wrong = BackendUnavailable("The bulb is broken. Put in another.")
        while (down := (await events.next("snapshot"))["servers"][0])["state"] == "ready":
            pass
        assert (down["state"], down["reason"]) == ("down", "The bulb is broken. Put in another.")
        assert down["since"] > first["since"]
        assert (await events.next("snapshot"))["servers"] == [down]
        lamp.wrong = None
        while (up := (await events.next("snapshot"))["servers"][0])["state"] == "down":
            pass
        assert (up["state"], up["reason"]) == ("ready", None)
        assert up["since"] > down["since"]


async def test_streams_count_as_subscriptions(tmp_path: Path) -> None:
    settings = Settings(max_subscriptions_per_caller=2)
    async with opened(tmp_path, settings=settings) as desk, client_of(desk.served) as http:
        gateway = desk.served.app.state.gateway
        async with looking(desk.served, desk.bearer("watcher")), looking(desk.served, desk.bearer("watcher")):
            assert gateway.subscriptions == 2
            answer = await http.get("/console/events", headers=desk.bearer("watcher"))
            assert (answer.status_code, answer.json()["code"]) == (429, "too_many_requests")
            async with looking(desk.served, desk.bearer("operator")):
                assert gateway.subscriptions == 3
        async with asyncio.timeout(WITHIN):
            while gateway.subscriptions:
                await http.get("/health")


async def test_who_comes_after_the_last_one_has_gone_is_told_as_well(desk: Desk) -> None:
    for _ in range(3):
        async with looking(desk.served, desk.bearer("operator")) as events:
            for _ in range(2):
                await events.next("snapshot")


async def test_streams_end_when_the_gateway_stops(desk: Desk) -> None:
    async with looking(desk.served, desk.bearer("operator")) as events:
        await events.next("snapshot")
        desk.served.app.state.gateway.closing.set()
        await events.ended()


async def test_whoever_does_not_read_is_told_less_and_then_closed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(feed, "_PAUSE", 0.001)
    big = ClockMCPServer()
    big.name = "x" * 20_000  # so that the buffers between the two are soon full
    settings = Settings(idle_timeout=2)
    async with serve(create_app([big], settings)) as served:
        gateway = served.app.state.gateway
        link = socket.socket()
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(link, ("127.0.0.1", served.port))
        await loop.sock_sendall(link, b"GET /console/events HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        assert (await asyncio.wait_for(loop.sock_recv(link, 12), WITHIN)) == b"HTTP/1.1 200"
        async with looking(served, {}) as events:  # others go on to be told
            for _ in range(3):
                await events.next("snapshot")
            async with asyncio.timeout(4 * WITHIN):
                while gateway.subscriptions > 1:
                    await events.next("snapshot")
        link.close()
