"""One flight for all who wait: many tasks that want the same piece of work at once share one run of it."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Runs a piece of work once for everybody who asks while it is under way.

    Nothing is remembered: who asks after its end starts it anew. A waiter that is cancelled takes nothing from the
    others; the work itself is cancelled with the last of them, so nothing runs for nobody.
    """

    def __init__(self) -> None:
        self._flight: asyncio.Task[T] | None = None
        self._waiting = 0

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Return what the work returns, or raise what it raises, to every waiter.

        Args:
            work: called only if none is under way; it must not depend on who asks.
        """
        flight = self._flight
        if flight is None or flight.done():

            async def fly() -> T:
                return await work()

            self._flight = flight = asyncio.create_task(fly())
            self._waiting = 0
        self._waiting += 1
        try:
            return await asyncio.shield(flight)
        except asyncio.CancelledError:
            if self._flight is flight and self._waiting == 1 and not flight.done():
                flight.add_done_callback(_hear)
                flight.cancel()
                self._flight = None
            raise
        finally:
            if self._flight is flight:
                self._waiting -= 1

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way, and nobody waits."""
        return self._flight is None or self._waiting == 0


def _hear(flight: "asyncio.Task[T]") -> None:
    """Take note of what work raises that was cancelled, or asyncio logs that nobody has: nobody waits for it."""
    if not flight.cancelled():
        flight.exception()


class SingleFlights(Generic[T]):
    """One flight for all who want the same of the same thing. Nothing is kept of a thing that nobody asks for."""

    def __init__(self) -> None:
        self._by_name: dict[Hashable, SingleFlight[T]] = {}

    async def run(self, name: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """Return what the work for a thing returns, as `SingleFlight.run` does."""
        flight = self._by_name.setdefault(name, SingleFlight())
        try:
            return await flight.run(work)
        finally:
            if flight.is_idle and self._by_name.get(name) is flight:
                del self._by_name[name]
