"""What becomes of calls, told to whoever keeps account of it: the log now, and what else is handed in."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

import msgspec

from app.servers.calls import CallContext
from app.stages import CallSpan

_log = logging.getLogger(__name__)


# Two of these are made for every call. Each is itself alone: equal ones are two calls. The collector of cycles, which
# would look at those of each turn, finds whatever cycle a context is in without them.
class StartedCall(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Something that somebody wants done, from the moment that the gateway knows what."""

    server: str
    """Its id; `all` where it is about all of them, and a quoted name where there is no such server."""
    operation: str
    """As it is declared, such as a tool's name or a resource's template; quoted where there is no such thing."""
    context: CallContext
    at: float
    """By `time.perf_counter`."""


class EndedCall(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What has become of a `StartedCall`."""

    call: StartedCall
    outcome: str
    """`ok`, `cancelled`, or the code of the failure."""
    ms: float
    """Milliseconds that it took."""
    rule: str | None = None
    """By which the guard has refused it; None where it has not."""


class Sink(Protocol):
    """Keeps account of calls.

    It hears of them in their order, of those of one turn of the event loop together, and after the turn: no call waits
    for it, and none fails by it. What takes long belongs in a thread of the sink's own.
    """

    def calls_started(self, calls: Sequence[StartedCall]) -> None:
        """Take what has started. Whatever starts also ends."""

    def calls_ended(self, calls: Sequence[EndedCall]) -> None:
        """Take what has ended."""


class Tracing(Protocol):
    """Makes a span of each call."""

    def begin(self, server: str, operation: str, context: CallContext, *, tool: bool) -> CallSpan:
        """Begin the span of a call.

        Args:
            server: as in `StartedCall`.
            operation: as in `StartedCall`.
            context: who calls, and the trace that it is a part of.
            tool: whether the operation is a tool.
        """
        ...


class Recorder:
    """Tells sinks of calls.

    Args:
        sinks: one's mistake is logged, and neither the calls nor the others suffer from it.
    """

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks
        self._loop = asyncio.get_running_loop()
        self._started: list[StartedCall] = []
        self._ended: list[EndedCall] = []

    def started(self, call: StartedCall) -> None:
        """Note that a call has started."""
        if not (self._started or self._ended):
            self._loop.call_soon(self.flush)
        self._started.append(call)

    def ended(self, call: EndedCall) -> None:
        """Note that a call has ended."""
        if not (self._started or self._ended):
            self._loop.call_soon(self.flush)
        self._ended.append(call)

    def flush(self) -> None:
        """Tell the sinks of what was noted."""
        started, self._started = self._started, []
        ended, self._ended = self._ended, []
        for sink in self._sinks:
            try:
                if started:
                    sink.calls_started(started)
                if ended:
                    sink.calls_ended(ended)
            except Exception:  # whatever it is: accounts are kept for others than those who call
                _log.exception("%s could not take calls", type(sink).__name__)
