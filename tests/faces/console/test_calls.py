"""Single calls: what is shown of them, to whom, and how they are interrupted."""

import asyncio
import io
import logging
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.logs import BackgroundHandler, JsonFormatter, TextFormatter
from app.main import create_app
from app.routers.database import DatabaseMCPServer
from app.servers.base import BaseMCPServer
from app.servers.declaring import tool
from app.settings import Settings
from app.stages import MOST_KEPT, MOST_STAGES, KeptStages, Stages, waiting_for
from tests.clock import ClockTime
from tests.faces.console.desk import MARK, Desk, looking
from tests.faces.raw import WITHIN, client_of
from tests.fixtures.gateway import serve
from tests.fixtures.postgres import TestDatabase


@pytest.fixture(params=[TextFormatter, JsonFormatter])
def log(request: pytest.FixtureRequest) -> Generator[BackgroundHandler]:
    """The process's log, as operators have it."""
    handler, root = BackgroundHandler(io.StringIO(), request.param()), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


async def running(desk: Desk, http: httpx.AsyncClient, viewer: str, operation: str) -> dict[str, Any]:
    """Return a call as the stream of events lists it, once it can be interrupted."""
    async with looking(desk.served, desk.bearer(viewer)) as events:
        while True:
            for each in (await events.next("snapshot"))["running"]:
                if each["operation"] == operation and each["can_cancel"]:
                    found: dict[str, Any] = each
                    return found


async def test_a_call_is_shown_with_the_log_of_its_request(
    log: BackgroundHandler, desk: Desk, http: httpx.AsyncClient
) -> None:
    fields = {**desk.bearer("stranger"), "x-request-id": "a:b/1"}
    similar = {**fields, "x-request-id": "a:b/1:2"}
    for each, name in ((fields, "fail"), (fields, "get_time"), (similar, "get_time"), (fields, "get_time")):
        await http.post(f"/mcp/clock/tools/{name}", json={"how": "badly"} if name == "fail" else {}, headers=each)
    async with looking(desk.served, desk.bearer("operator")) as events:
        told = await events.call_of("fail")
    log.flush()
    shown = (await http.get(f"/console/calls/{told['id']}", headers=desk.bearer("operator"))).json()
    assert {name: shown[name] for name in told} == told
    assert shown["running"] is False
    assert [("get_time" in line, "fail" in line) for line in shown["log"]].count((True, False)) == 2
    trace = next(line for line in shown["log"] if "unforeseen" in line)
    assert "RuntimeError" in trace
    assert not any("a:b/1:2" in line for line in shown["log"])
    # Who may not use all there is sees the line of the call, and nothing else of its request.
    limited = (await http.get(f"/console/calls/{told['id']}", headers=desk.bearer("watcher"))).json()
    [line] = limited["log"]
    assert "operation=fail" in line
    for viewer in ("timekeeper",):
        answer = await http.get(f"/console/calls/{told['id']}", headers=desk.bearer(viewer))
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


class PumpMCPServer(BaseMCPServer):
    """Waits for its turn, and then works until it is told to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.free, self.dry = asyncio.Event(), asyncio.Event()

    @tool()
    async def pump(self) -> ClockTime:
        """Pump."""
        await waiting_for("a turn", self.free.wait())
        await self.dry.wait()
        return ClockTime(zone="UTC")


async def test_where_the_time_of_a_call_went_is_taken_down_while_somebody_looks(tmp_path: Path) -> None:
    pump = PumpMCPServer()
    async with serve(create_app([pump], Settings())) as served, client_of(served) as http:

        async def stages(call_id: str) -> list[tuple[str, bool]]:
            shown = (await http.get(f"/console/calls/{call_id}")).json()["stages"]
            assert all(stage["ms"] >= 0 for stage in shown)
            return [(stage["name"], stage.get("over", True)) for stage in shown]

        async with asyncio.TaskGroup() as tasks, looking(served, {}) as events, asyncio.timeout(WITHIN):
            calling = tasks.create_task(http.post("/mcp/pump/tools/pump", json={}))
            while not (found := (await events.next("snapshot"))["running"]):
                pass
            assert await stages(found[0]["id"]) == [("parsed", True), ("waits for a turn", False)]
            pump.free.set()
            while (told := await stages(found[0]["id"]))[-1] != ("runs", False):
                assert told[-1] == ("waits for a turn", False)
            assert told == [("parsed", True), ("waited for a turn", True), ("runs", False)]
            pump.dry.set()
            assert (await calling).status_code == 200
            assert await stages(found[0]["id"]) == [
                (name, True) for name in ("parsed", "waited for a turn", "ran", "wrote")
            ]
        gateway = served.app.state.gateway
        async with asyncio.timeout(WITHIN):
            while gateway.stages.wanted:  # until the stream's end is seen
                await http.get("/health")
        await http.post("/mcp/pump/tools/pump", json={})
        async with looking(served, {}) as events:
            [*_, latest] = [told for told in (await events.next("calls"))["calls"] if told["operation"] == "pump"]
            assert latest["id"] != found[0]["id"]
            assert await stages(latest["id"]) == []


async def test_stages_are_taken_down_of_some_calls_at_a_time_and_of_the_latest() -> None:
    kept = KeptStages()
    kept.wanted = 2
    for at in range(MOST_KEPT + 1):
        stages = Stages(logging.getLogger("MCP"), "pump", "r-1", None, kept.begin(float(at)))
        for _ in range(MOST_STAGES + 5):
            stages.end("parsed")
    assert kept.wanted < 0
    assert kept.of(0.0) == ()
    assert len(kept.of(1.0)) == len(kept.of(float(MOST_KEPT))) == MOST_STAGES


async def test_a_running_call_is_interrupted_and_the_log_says_by_whom(
    desk: Desk, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    async with asyncio.TaskGroup() as tasks:
        calling = tasks.create_task(
            http.post("/mcp/clock/tools/wait_for_cancellation", json={}, headers=desk.bearer("stranger"))
        )
        call = await running(desk, http, "operator", "wait_for_cancellation")
        path = f"/console/calls/{call['id']}"
        shown = (await http.get(path, headers=desk.bearer("operator"))).json()
        assert (shown["running"], shown["can_cancel"], "outcome" in shown) == (True, True, False)
        shown = (await http.get(path, headers=desk.bearer("watcher"))).json()
        assert (shown["running"], shown["can_cancel"]) == (True, False)
        # Who may act, but not use it, does not find it.
        answer = await http.post(f"{path}/cancel", headers={**desk.bearer("timekeeper"), **MARK})
        assert answer.status_code == 404
        assert not calling.done()
        answer = await http.post(f"{path}/cancel", headers={**desk.bearer("operator"), **MARK})
        assert (answer.status_code, answer.content) == (204, b"")
        ended = await calling
    assert (ended.status_code, ended.json()["code"]) == (409, "interrupted")
    [line] = [record.getMessage() for record in caplog.records if record.getMessage().startswith("interrupted:")]
    for said in (f"by={desk.keys['operator'].id}", f"principal={desk.keys['stranger'].id}", call["request_id"]):
        assert said in line
    again = await http.post(f"{path}/cancel", headers={**desk.bearer("operator"), **MARK})
    assert (again.status_code, again.json()["code"]) == (404, "not_found")


async def test_a_query_that_is_interrupted_is_gone_from_the_database(database: TestDatabase) -> None:
    slow = "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b"
    app = create_app([DatabaseMCPServer], Settings(), [database.settings])
    async with serve(app) as served, client_of(served) as http, database.connect() as administrator:

        async def active() -> int:
            found: int = await administrator.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active'"
                " AND pid <> pg_backend_pid() AND query LIKE '%generate_series%'"
            )
            return found

        async with asyncio.TaskGroup() as tasks, asyncio.timeout(2 * WITHIN):
            calling = tasks.create_task(http.post("/mcp/database/tools/query_database", json={"query": slow}))
            async with looking(served, {}) as events:
                while not (found := [e for e in (await events.next("snapshot"))["running"] if e["can_cancel"]]):
                    assert not calling.done(), calling.result().text
            assert await active() == 1
            answer = await http.post(f"/console/calls/{found[0]['id']}/cancel", headers=MARK)
            assert answer.status_code == 204
            assert (await calling).json()["code"] == "interrupted"
            while await active():
                pass
