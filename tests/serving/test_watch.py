"""The look at backends that nobody calls: one that hangs is told of, and holds up no other."""

import asyncio
import logging

import pytest

from app.errors import BackendUnavailable
from app.gateway import Gateway
from app.servers.base import BaseMCPServer
from app.serving.watch import watched
from app.settings import Settings

WITHIN = 30.0


class SlowMCPServer(BaseMCPServer):
    """Its backend takes connections, and says nothing."""

    def __init__(self) -> None:
        super().__init__(server_id="slow", name="Slow MCP Server")
        self.answers = asyncio.Event()
        self.asked = asyncio.Semaphore(0)
        self.left = 0

    async def ping(self) -> None:
        self.asked.release()
        try:
            await self.answers.wait()
        except asyncio.CancelledError:
            self.left += 1
            raise


class QuickMCPServer(BaseMCPServer):
    """Its backend answers."""

    def __init__(self) -> None:
        super().__init__(server_id="quick", name="Quick MCP Server")

    async def ping(self) -> None:
        return


async def test_a_backend_that_hangs_is_told_of_once_and_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.servers.readiness._PING_WITHIN", 0.05)
    caplog.set_level(logging.INFO)
    slow = SlowMCPServer()
    gateway = Gateway([slow, QuickMCPServer()], Settings(backend_check_interval=0.01))

    async def looked(times: int) -> None:
        for _ in range(times):
            await slow.asked.acquire()

    def states() -> dict[str, str]:
        found = {name: gateway.standings.of(name) for name in ("slow", "quick")}
        return {name: standing.state for name, standing in found.items() if standing is not None}

    async with asyncio.timeout(WITHIN), gateway.open(), watched([("http://127.0.0.1", gateway)]):
        await looked(4)  # at the start, and three times since
        assert slow.left >= 3, "nobody waits any longer for an answer that was given up"
        assert states() == {"slow": "down", "quick": "ready"}
        slow.answers.set()
        await looked(2)
        assert states() == {"slow": "ready", "quick": "ready"}
    lines = [record.getMessage() for record in caplog.records]
    assert (
        len([line for line in lines if "slow" in line and "No answer within" in line]) == 2
    )  # the start, and the outage
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1
    assert "quick ready" in next(line for line in lines if line.startswith("Switchboard"))


class ColdMCPServer(QuickMCPServer):
    """Its warm-up ends as somebody says."""

    def __init__(self, end: "asyncio.Future[None]") -> None:
        super().__init__()
        self.begun, self.end = asyncio.Event(), end

    async def warm_up(self) -> None:
        self.begun.set()
        await self.end


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (None, []),
        (BackendUnavailable("the look at it tells"), []),
        (ValueError("secret"), ["server quick: unforeseen failure of its warm-up; first calls take longer"]),
    ],
)
async def test_a_warm_up_that_fails_is_told_of_only_if_nobody_foresaw_it(
    caplog: pytest.LogCaptureFixture, end: Exception | None, told: list[str]
) -> None:
    server = ColdMCPServer(asyncio.Future())
    gateway = Gateway([server], Settings(backend_check_interval=0))
    async with asyncio.timeout(WITHIN), gateway.open(), watched([("http://127.0.0.1", gateway)]):
        await server.begun.wait()
        if end is None:
            server.end.set_result(None)
        else:
            server.end.set_exception(end)
        [warming] = [task for task in asyncio.all_tasks() if task.get_name() == "warm-up of the servers"]
        await asyncio.wait([warming])
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == told


async def test_a_warm_up_that_never_ends_holds_up_neither_the_line_of_the_start_nor_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    server = ColdMCPServer(asyncio.Future())
    gateway = Gateway([server], Settings(backend_check_interval=0))
    async with asyncio.timeout(WITHIN), gateway.open():
        async with watched([("http://127.0.0.1", gateway)]):
            await server.begun.wait()
            [watching] = [task for task in asyncio.all_tasks() if task.get_name() == "watch of the backends"]
            await asyncio.wait([watching])
        assert server.end.cancelled()
    [line] = [record.getMessage() for record in caplog.records if record.name == "MCP"]
    assert "quick ready" in line
