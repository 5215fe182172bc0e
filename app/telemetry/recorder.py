"""What becomes of calls, told to whoever keeps account of it: the log now, and what else is handed in."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

import msgspec

from app.guard.principal import Principal
from app.servers.calls import CallContext, Face
from app.servers.origins import Origin
from app.stages import CallSpan

_log = logging.getLogger(__name__)


class StartedCall(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Something that somebody wants done, from the moment that the gateway knows what."""

    server: str
    """Its id; `all` where it is about all of them, and a quoted name where there is no such server."""
    operation: str
    """As it is declared, such as a tool's name or a resource's template; quoted where there is no such thing."""
    context: CallContext
    at: float
    """By `time.perf_counter`."""


# One is made for every call, and nothing else is for the accounts: it has all that the log and the console want in the
# order of a line of the log, and so little that both may keep it. Each is itself alone: equal ones are two calls. The
# collector of cycles, which would look at those of each turn, finds whatever cycle a principal is in without them.
class EndedCall(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What has become of a call, without what it held: no arguments, no result, no connection."""

    server: str
    """As in `StartedCall`, like all that has the same name there or in its context."""
    operation: str
    face: Face
    principal: Principal
    client: str
    address: str
    outcome: str
    """`ok`, `cancelled`, or the code of the failure."""
    ms: float
    """Milliseconds that it took."""
    origin: Origin
    request_id: str
    at: float
    """When it started, by `time.perf_counter`."""
    rule: str | None = None
    """By which the guard has refused it; None where it has not."""


def ended_call(
    server: str, operation: str, context: CallContext, at: float, outcome: str, ms: float, rule: str | None = None
) -> EndedCall:
    """Return what has become of a call of which this is known."""
    who = context
    return EndedCall(
        server,
        operation,
        who.face,
        who.principal,
        who.client,
        who.address,
        outcome,
        ms,
        who.origin,
        who.request_id,
        at,
        rule,
    )


class Sink(Protocol):
    """Keeps account of calls.

    It hears of them once they have ended, in that order, of those of one turn of the event loop together, and after the
    turn: no call waits for it, and none fails by it. What takes long belongs in a thread of the sink's own. What runs
    is asked for instead (`Gateway.late`): nearly all that starts has ended before anybody could look.
    """

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
        self._ended: list[EndedCall] = []

    def ended(self, call: EndedCall) -> None:
        """Note that a call has ended."""
        if not self._ended:
            self._loop.call_soon(self.flush)
        self._ended.append(call)

    def flush(self) -> None:
        """Tell the sinks of what was noted."""
        ended, self._ended = self._ended, []
        for sink in self._sinks if ended else ():
            try:
                sink.calls_ended(ended)
            except Exception:  # whatever it is: accounts are kept for others than those who call
                _log.exception("%s could not take calls", type(sink).__name__)
