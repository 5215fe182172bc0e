"""What has become of calls is told to whoever keeps account of it, and no call waits for it or fails by it."""

import asyncio
import logging
from collections.abc import Sequence

import pytest

from app.errors import GatewayError
from app.gateway import Gateway
from app.servers.calls import CallContext
from app.settings import Settings
from app.telemetry.recorder import EndedCall
from tests.clock import ClockMCPServer

CONTEXT = CallContext("r-1", "internal")


class Ledger:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[EndedCall] = []

    def calls_ended(self, calls: Sequence[EndedCall]) -> None:
        self.told += calls


class BrokenLedger(Ledger):
    """Keeps nothing."""

    def calls_ended(self, calls: Sequence[EndedCall]) -> None:
        raise OSError("the disk is full")


async def test_every_call_ends_once() -> None:
    ledger = Ledger()
    gateway = Gateway([ClockMCPServer()], Settings(), [ledger])
    async with gateway.open():
        await gateway.call("clock", "get_time", b"", CONTEXT)
        for server, tool, arguments in (
            ("clock", "get_time", b'{"zone":"Atlantis"}'),
            ("clock", "get_time", b"["),
            ("clock", "nope", b""),
            ("nope", "get_time", b""),
            ("clock", "fail", b'{"how":"badly"}'),
        ):
            with pytest.raises(GatewayError):
                await gateway.call(server, tool, arguments, CONTEXT)
        waiting = asyncio.create_task(gateway.call("clock", "wait_for_cancellation", b"", CONTEXT))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    assert [(call.server, call.operation, call.outcome) for call in ledger.told] == [
        ("clock", "get_time", "ok"),
        ("clock", "get_time", "not_found"),
        ("clock", "get_time", "malformed_request"),
        ("'clock'", "'nope'", "unknown_tool"),
        ("'nope'", "'get_time'", "unknown_server"),
        ("clock", "fail", "internal_error"),
        ("clock", "wait_for_cancellation", "cancelled"),
    ]
    assert all(call.ms >= 0 and call.request_id == "r-1" and call.face == "internal" for call in ledger.told)


async def test_a_call_is_told_of_after_its_turn() -> None:
    ledger = Ledger()
    gateway = Gateway([ClockMCPServer()], Settings(), [ledger])
    async with gateway.open():
        await gateway.call("clock", "get_time", b"", CONTEXT)
        assert ledger.told == []
        await asyncio.sleep(0)
        assert [call.operation for call in ledger.told] == ["get_time"]


async def test_what_a_ledger_does_wrong_is_nobody_elses_failure(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ledger = Ledger()
    gateway = Gateway([ClockMCPServer()], Settings(), [BrokenLedger(), ledger])
    async with gateway.open():
        await gateway.call("clock", "get_time", b"", CONTEXT)
    assert [call.operation for call in ledger.told] == ["get_time"]
    assert "BrokenLedger could not take calls" in caplog.text
    assert "outcome=ok" in caplog.text
