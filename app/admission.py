"""What runs now: the places that servers have for calls and streams, and the clocks of those who are in them."""

import asyncio
import logging
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from types import TracebackType

from msgspec import structs

from app.errors import BackendTimeout, CallerGone, CallerStalled, GatewayError, InternalError, TooManyRequests
from app.guard.guard import Guard
from app.guard.policy import Permit
from app.guard.vocabulary import PROMPT
from app.lookout import Interruptible, Lookout
from app.servers.base import BaseMCPServer, ServerKind
from app.servers.calls import CallContext
from app.servers.operations import Operation
from app.servers.origins import Origin
from app.settings import Settings
from app.stages import CallSpan
from app.telemetry.recorder import Recorder, StartedCall, Tracing, ended_call

STALLED = 2.0
"""Seconds that a stream must have waited for its caller to be ended for the sake of another that wants its place."""
LEAST_MOVED = 16 * 1024
"""Bytes that a stream's caller sends, or takes, until its clock begins anew."""


@dataclass(slots=True)
class Serving:
    """A server in this process, and what it works on."""

    kind: ServerKind
    log: logging.Logger
    server: BaseMCPServer | None = None
    """The open server; None while the gateway is not open."""
    in_flight: int = 0
    """Calls that it works on."""
    narrow: "dict[str, Narrow]" = field(default_factory=dict[str, "Narrow"])
    """Its tools that have a limit of their own, by their names."""
    streams: "set[StreamAdmission]" = field(default_factory=set["StreamAdmission"])
    """Streams that it carries. They last as long as their callers like, so they take no call's place."""

    def unforeseen(self, error: Exception, context: CallContext) -> InternalError:
        """Log the trace of what nobody foresaw; return what its caller is told."""
        self.log.error("request_id=%s: unforeseen failure", context.request_id, exc_info=error)
        return InternalError()


@dataclass(slots=True)
class Narrow:
    """A tool with a limit of its own."""

    most: int
    in_flight: int = 0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every call has to do with while the gateway is open."""

    settings: Settings
    recorder: Recorder
    lookout: Lookout
    guard: Guard | None = None
    """Whom everything is asked of; None lets everybody do everything."""
    tracing: Tracing | None = None
    """Makes spans of calls; None where nobody traces."""


class Admission(Interruptible):
    """One operation of a server while it runs: counted, timed, and recorded when it ends.

    A class, where a generator would read shorter, because every call passes here.

    Args:
        around: of the gateway.
        serving: the server.
        operation: what is done.
        context: who calls, and how.
        permit: the principal's leave to do it, where that is known by now.

    Entering it gives the open server, or raises what the guard says no with, or `TooManyRequests` if the server works
    on as many calls as it may. Leaving it turns what went wrong within into a `GatewayError`: `BackendTimeout` when the
    time is up, `InternalError` for anything unforeseen, whose trace is logged under the request id.
    """

    __slots__ = (
        *("_around", "_call", "_narrow", "_release", "_timer", "at", "context", "log", "operation", "permit"),
        *("serving", "span"),
    )

    def __init__(
        self,
        around: Surroundings,
        serving: Serving,
        operation: Operation,
        context: CallContext,
        permit: Permit | None = None,
    ) -> None:
        self._around = around
        self.serving = serving
        self.operation = operation
        self.span: CallSpan | None = None
        if around.tracing is not None:
            obeys = operation.obeys
            tool = obeys is not None and not obeys.startswith(PROMPT) and "://" not in obeys
            self.span = around.tracing.begin(serving.kind.server_id, operation.name, context, tool=tool)
            context = traced(context, self.span)
        self.context = context
        self.log = serving.log
        self.at = time.perf_counter()
        """When it began, by `time.perf_counter`."""
        self._call: StartedCall | None = None
        self.permit = permit
        """The principal's leave to do it, once it is in, where somebody is asked for that."""
        self._narrow: Narrow | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> BaseMCPServer:
        around, server = self._around, self.serving.server
        assert server is not None, "the gateway is not open"
        try:
            if around.guard is not None:
                server_id, who = self.serving.kind.server_id, self.context.principal
                self.permit = around.guard.admit(server_id, self.operation, who, self.permit)
            self._take_place()
        except GatewayError as error:
            self._ended(error.code, error.rule)
            raise
        self.begin(around.lookout)
        return server

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave_place()
        if self._timer is not None:
            self._timer.cancel()
            if self._release is not None:
                self._release()
        reason = self.end(error)
        if error is None:
            self._ended("ok")
        elif reason is not None:
            self._ended("cancelled" if isinstance(reason, CallerGone) else reason.code)
            raise reason from error
        elif isinstance(error, GatewayError):
            self._ended(error.code, error.rule)
        elif isinstance(error, Exception):
            self._ended(InternalError.code)
            raise self.serving.unforeseen(error, self.context) from error
        else:
            self._ended("cancelled")

    @property
    def call(self) -> StartedCall:
        """What is to be known of it while it runs; made when somebody looks, which is after the end of most calls."""
        if self._call is None:
            self._call = StartedCall(self.serving.kind.server_id, self.operation.name, self.context, self.at)
        return self._call

    def overdue(self) -> None:
        """Set the clock and watch the caller and its key, which most calls end too early to need."""
        self._set_clock()
        credential = self.context.principal.credential
        self._release = credential.hold(self.interrupt) if credential is not None else None
        if (gone := self.context.gone) is not None:
            self.interrupt_after(gone, CallerGone())

    def _take_place(self) -> None:
        serving, most = self.serving, self._around.settings.max_calls_in_flight
        if serving.in_flight >= most:
            raise TooManyRequests(f"{serving.kind.name} works on {most} calls already. Repeat in a moment.")
        if serving.narrow and (narrow := serving.narrow.get(self.operation.name)) is not None:
            if narrow.in_flight >= narrow.most:
                name = self.operation.name
                raise TooManyRequests(f"{name} works on {narrow.most} calls already. Repeat in a moment.")
            narrow.in_flight += 1
            self._narrow = narrow
        serving.in_flight += 1

    def _leave_place(self) -> None:
        self.serving.in_flight -= 1
        if self._narrow is not None:
            self._narrow.in_flight -= 1

    def _set_clock(self) -> None:
        seconds = self.operation.timeout or self._around.settings.tool_timeout
        reason = BackendTimeout(f"{self.operation.name} took longer than {seconds:g} s and was stopped.")
        left = self.at + seconds - time.perf_counter()
        self._timer = self._lookout.loop.call_later(left, self.interrupt, reason)

    def _ended(self, outcome: str, rule: str | None = None) -> None:
        if self.span is not None:
            self.span.end(outcome)
        at = self.at
        ms = (time.perf_counter() - at) * 1e3
        server, name = self.serving.kind.server_id, self.operation.name
        self._around.recorder.ended(ended_call(server, name, self.context, at, outcome, ms, rule))


class StreamAdmission(Admission):
    """A stream, which has a place of its own and runs for as long as its bytes flow.

    Whoever carries it says when it begins to wait for the caller and what that came to; after STREAM_IDLE_TIMEOUT
    seconds of waiting without progress, or at once if it is the one that has waited longest where another wants its
    place, it is interrupted with `CallerStalled`.
    """

    __slots__ = ("_moved", "_waited", "waiting_since")

    def __init__(self, around: Surroundings, serving: Serving, operation: Operation, context: CallContext) -> None:
        super().__init__(around, serving, operation, context)
        self.waiting_since: float | None = None
        """Since when it waits for its caller, by the loop's clock; None while it does not."""
        self._waited = 0.0
        self._moved = 0

    def wait_for_caller(self) -> None:
        """Note that it waits for its caller to send, or to take, something."""
        self.waiting_since = self._lookout.loop.time()

    def go_on(self, moved: int) -> None:
        """Note that its caller has sent, or taken, so many bytes. A few make no progress."""
        self._waited, self.waiting_since = self.waited(), None
        self._moved += moved
        if self._moved >= LEAST_MOVED:
            self._waited, self._moved = 0.0, 0

    def waited(self) -> float:
        """Return for how many seconds it has waited for its caller since it last got on."""
        now = self._lookout.loop.time()
        return self._waited + (now - self.waiting_since if self.waiting_since is not None else 0.0)

    def _take_place(self) -> None:
        """Take a place among the server's streams, and among the caller's."""
        settings, streams = self._around.settings, self.serving.streams
        caller = self.context.caller
        own = [stream for stream in streams if stream.context.caller == caller]
        if len(own) >= settings.max_streams_per_caller:
            self._make_room(own, "for one caller (MAX_STREAMS_PER_CALLER). End one first.")
        if len(streams) >= settings.max_streams:
            self._make_room(streams, "(MAX_STREAMS). Repeat in a moment.")
        streams.add(self)

    def _make_room(self, among: Collection["StreamAdmission"], reason: str) -> None:
        """End the stream that has waited longest for its caller.

        Raises:
            TooManyRequests: none has stalled.
        """
        stalled = max(among, key=lambda stream: stream.waited() if stream.waiting_since is not None else -1.0)
        if stalled.waiting_since is None or stalled.waited() < STALLED:
            raise TooManyRequests(f"{self.serving.kind.name} carries {len(among)} streams already {reason}")
        self.serving.streams.remove(stalled)
        stalled.interrupt(CallerStalled("Nothing was sent or taken, and another stream wants the place."))

    def _leave_place(self) -> None:
        self.serving.streams.discard(self)

    def _set_clock(self) -> None:
        """Interrupt it if it has waited too long for its caller; else look again when it might have."""
        limit = self._around.settings.stream_idle_timeout
        left = limit - self.waited()
        if left > 0:
            self._timer = self._lookout.loop.call_later(left, self._set_clock)
        else:
            few = f"Less than {LEAST_MOVED} bytes"
            self.interrupt(CallerStalled(f"{few} were sent or taken in {limit:g} s (STREAM_IDLE_TIMEOUT)."))


def traced(context: CallContext, span: CallSpan) -> CallContext:
    """Return a call's context with its own span in place of its caller's, for whatever is said of it from now on."""
    return structs.replace(context, origin=Origin(span.traceparent, context.origin.conversation))
