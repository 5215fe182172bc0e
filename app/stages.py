"""Where the time of a call goes, for those who turn DEBUG on; nobody else pays for it."""

import logging
import time
from collections.abc import Awaitable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

_current: ContextVar["Stages | None"] = ContextVar("stages", default=None)


class Stages:
    """The stages of one call, each a line of its server's log at DEBUG when it is over.

    A call that hangs has the lines of what it has done, and none of what it waits for.

    Args:
        log: the server's.
        operation: what is done.
        request_id: of the call.
    """

    def __init__(self, log: logging.Logger, operation: str, request_id: str) -> None:
        self._log = log
        self._operation = operation
        self._request_id = request_id
        self._began = time.perf_counter()
        self._waited = 0.0

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
        self._tell(stage, now - self._began - self._waited)
        self._began, self._waited = now, 0.0

    async def waiting(self, what: str, awaited: Awaitable[T]) -> T:
        """Await something that is no work of the call's, and tell how long it took."""
        began = time.perf_counter()
        try:
            return await awaited
        finally:
            took = time.perf_counter() - began
            self._waited += took
            self._tell(f"waited for {what}", took)

    def _tell(self, stage: str, seconds: float) -> None:
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
