"""Where the time of a call goes, for those who turn DEBUG on or trace it; nobody else pays for it."""

import logging
import time
from collections.abc import Awaitable, Generator
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


class Stages:
    """The stages of one call, each a line of its server's log at DEBUG when it is over, and a part of its span.

    A call that hangs has the lines of what it has done, and none of what it waits for.

    Args:
        log: the server's.
        operation: what is done.
        request_id: of the call.
        span: of the call; None where it is not traced.
    """

    def __init__(self, log: logging.Logger, operation: str, request_id: str, span: CallSpan | None = None) -> None:
        self._log = log
        self._operation = operation
        self._request_id = request_id
        self._span = span
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
        self._tell(stage, self._began, now, now - self._began - self._waited)
        self._began, self._waited = now, 0.0

    async def waiting(self, what: str, awaited: Awaitable[T]) -> T:
        """Await something that is no work of the call's, and tell how long it took."""
        began = time.perf_counter()
        try:
            return await awaited
        finally:
            ended = time.perf_counter()
            self._waited += ended - began
            self._tell(f"waited for {what}", began, ended, ended - began)

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
