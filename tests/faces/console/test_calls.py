"""Single calls: what is shown of them, to whom, and how they are interrupted."""

import asyncio
import io
import logging
from collections.abc import Generator
from typing import Any

import httpx
import pytest

from app.logs import BackgroundHandler, JsonFormatter, TextFormatter
from app.main import create_app
from app.routers.database import DatabaseMCPServer
from app.settings import Settings
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
    for each, tool in ((fields, "fail"), (fields, "get_time"), (similar, "get_time"), (fields, "get_time")):
        await http.post(f"/mcp/clock/tools/{tool}", json={"how": "badly"} if tool == "fail" else {}, headers=each)
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


async def test_the_stages_are_shown_where_the_log_tells_them(
    log: BackgroundHandler, desk: Desk, http: httpx.AsyncClient
) -> None:
    logger = logging.getLogger("MCP.Clock MCP Server")
    logger.setLevel(logging.DEBUG)
    try:
        await http.post("/mcp/clock/tools/get_time", json={}, headers=desk.bearer("stranger"))
    finally:
        logger.setLevel(logging.NOTSET)
    async with looking(desk.served, desk.bearer("operator")) as events:
        told = await events.call_of("get_time")
    log.flush()
    shown = (await http.get(f"/console/calls/{told['id']}", headers=desk.bearer("operator"))).json()
    assert [stage["name"] for stage in shown["stages"]] == ["parsed", "ran", "wrote"]
    assert all(stage["ms"] >= 0 for stage in shown["stages"])


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
                " AND pid <> pg_backend_pid()"
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
