"""Where the time of a call goes, for those who turn DEBUG on, trace it or look at it; nobody else pays for it."""

import logging
import time
from collections.abc import Awaitable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

T = TypeVar("T")

_current: ContextVar["Stages | None"] = ContextVar("stages", default=None)


class CallSpan(Protocol):
    """A call in a trace."""

    traceparent: str
    """Names the span, as W3C has it."""

    def part(self, name: str, began: float, ended: float) -> None:
        """Add a part of the call that is over; its times are by `time.perf_counter`."""

    def end(self, outcome: str) -> None:
        """End the span with what has become of the call."""


Stage = tuple[str, float | None]
"""What was done and how many seconds that took; None for what is waited for still."""
MOST_KEPT = 2000
"""Calls whose stages are remembered: as many as are remembered themselves."""
MOST_STAGES = 50
"""Stages of one call that are remembered."""


class KeptStages:
    """The stages of the latest calls, for those who look at single ones.

    To take them down costs a call some microseconds, so they are wanted of some calls at a time, while somebody looks.
    """

    def __init__(self) -> None:
        self.wanted = 0
        """Of how many more calls."""
        self._of: dict[float, list[Stage]] = {}

    def begin(self, at: float) -> list[Stage]:
        """Return where the stages of a call are taken down, which began at a time by `time.perf_counter`."""
        self.wanted -= 1
        if len(self._of) >= MOST_KEPT:
            del self._of[next(iter(self._of))]
        kept = self._of[at] = []
        return kept

    def of(self, at: float) -> Sequence[Stage]:
        """Return the stages of the call that began at a time; none where none were taken down."""
        return self._of.get(at, ())


class Stages:
    """The stages of one call, each a line of its server's log at DEBUG when it is over, and a part of its span.

    A call that hangs has the lines of what it has done, and none of what it waits for; that is kept alone.

    Args:
        log: the server's.
        operation: what is done.
        request_id: of the call.
        span: of the call; None where it is not traced.
        kept: where they are taken down beside that.
    """

    def __init__(
        self, log: logging.Logger, operation: str, request_id: str, span: CallSpan | None, kept: list[Stage]
    ) -> None:
        self._log = log
        self._operation = operation
        self._request_id = request_id
        self._span = span
        self._kept = kept
        self._began = time.perf_counter()
        self._waited = 0.0

    @property
    def traceparent(self) -> str | None:
        """What to tell a backend of the trace; None where the call is not traced."""
        return None if self._span is None else self._span.traceparent

    @contextmanager
    def shown(self) -> Generator[None]:
        """Let what is awaited in the block add its waits to this call's stages."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def end(self, stage: str) -> None:
        """Tell of a stage that ends now and began with the end of the one before; waits within it were told apart."""
        now = time.perf_counter()
        seconds = now - self._began - self._waited
        self._keep(stage, seconds)
        self._tell(stage, self._began, now, seconds)
        self._began, self._waited = now, 0.0

    async def waiting(self, what: str, awaited: Awaitable[T]) -> T:
        """Await something that is no work of the call's, and tell how long it took."""
        began, stage = time.perf_counter(), f"waited for {what}"
        place = self._keep(stage, None)
        try:
            return await awaited
        finally:
            ended = time.perf_counter()
            self._waited += ended - began
            if place is not None:
                self._kept[place] = stage, ended - began
            self._tell(stage, began, ended, ended - began)

    def _keep(self, stage: str, seconds: float | None) -> int | None:
        """Take a stage down and return its place; None where there are too many."""
        if len(self._kept) >= MOST_STAGES:
            return None
        self._kept.append((stage, seconds))
        return len(self._kept) - 1

    def _tell(self, stage: str, began: float, ended: float, seconds: float) -> None:
        if self._span is not None:
            self._span.part(stage, began, ended)
        self._log.debug(
            "request_id=%s operation=%s stage=%r ms=%.1f", self._request_id, self._operation, stage, seconds * 1e3
        )


def current_stages() -> Stages | None:
    """Return the stages of the call that runs, None unless they are told."""
    return _current.get()


async def waiting_for(what: str, awaited: Awaitable[T]) -> T:
    """Await what the running call has to wait for before it can work, such as `a connection`."""
    stages = _current.get()
    return await awaited if stages is None else await stages.waiting(what, awaited)


def current_traceparent() -> str | None:
    """Return what to tell a backend of the trace of the call that runs; None where it is not traced."""
    stages = _current.get()
    return None if stages is None else stages.traceparent
