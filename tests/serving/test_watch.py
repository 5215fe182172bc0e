"""The look at backends that nobody calls: one that hangs is told of, and holds up no other."""

import asyncio
import logging

import pytest

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
