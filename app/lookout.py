"""One timer for all that only slow calls need.

A time limit and a watch for the caller's going away cost a timer each, which most calls cancel unused before a
millisecond has passed: a fifth of what the gateway does for a quick call. So they are set up late, by a tick that
looks every 20 ms at what still runs.
"""

import asyncio
from typing import Protocol

TICK = 0.02
"""Seconds between two looks. Whoever waits is called one to two ticks after the start."""


class Waiting(Protocol):
    """Something that wants to be called if it still runs after a while."""

    def overdue(self) -> None: ...


class Lookout:
    """Calls `overdue()` once on whatever was added and not removed within one to two ticks."""

    def __init__(self) -> None:
        self._new: dict[Waiting, None] = {}
        self._seen: dict[Waiting, None] = {}
        self._ticking = False

    def add(self, waiting: Waiting) -> None:
        """Look after something from now on."""
        self._new[waiting] = None
        if not self._ticking:
            self._ticking = True
            asyncio.get_running_loop().call_later(TICK, self._tick)

    def remove(self, waiting: Waiting) -> None:
        """Forget something; it may have been called already."""
        if waiting in self._new:
            del self._new[waiting]
        else:
            self._seen.pop(waiting, None)

    def _tick(self) -> None:
        overdue, self._seen, self._new = self._seen, self._new, {}
        if self._seen:
            asyncio.get_running_loop().call_later(TICK, self._tick)
        else:
            self._ticking = False
        for waiting in overdue:
            waiting.overdue()
