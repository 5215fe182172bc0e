"""Ends what takes too long or has lost its caller, at no cost for what is quick.

A time limit and a watch for the caller's going away cost a timer and a task each, which most calls would cancel
unused before a millisecond has passed: a fifth of what the gateway does for a quick call. So they are set up late, by
one tick that looks every 20 ms at what still runs.
"""

import asyncio
from collections.abc import Awaitable, Callable

from app.errors import GatewayError

TICK = 0.02
"""Seconds between two looks. Whoever waits is called one to two ticks after the start."""


class Lookout:
    """Calls `overdue()` once on whatever is still under way one to two ticks after it began."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        """Kept, since asking for the running loop is a system call on Python 3.11."""
        self.under_way: set[Interruptible] = set()
        """What is looked after: a block puts itself in and takes itself out. What was called is not in it any more."""
        self.late: set[Interruptible] = set()
        """What was called, and is still under way."""
        self.watching = False
        """Whether the timer runs."""
        self._seen: set[Interruptible] = set()

    def watch(self) -> None:
        """Look again in a tick, and on, while anything is under way."""
        self.watching = True
        self.loop.call_later(TICK, self._tick)

    def _tick(self) -> None:
        overdue = self._seen & self.under_way
        self.under_way -= overdue
        self.late |= overdue
        self._seen = self.under_way.copy()
        self.watching = False
        if self._seen:
            self.watch()
        for waiting in overdue:
            waiting.overdue()


class Interruptible:
    """A `with` block that may be interrupted for a reason, by cancelling the task that is in it.

    Where the block ends by that cancellation, and no other, the reason is raised in its place. This is
    `asyncio.timeout` for any reason, and for reasons that are looked for late.
    """

    __slots__ = ("_cancellations", "_lookout", "_reason", "_task", "_watcher")

    def begin(self, lookout: Lookout) -> None:
        """Enter the block. `overdue` is called if it takes a while."""
        task = asyncio.current_task(lookout.loop)
        assert task is not None
        self._task = task
        self._cancellations = task.cancelling()
        self._reason: GatewayError | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._lookout = lookout
        lookout.under_way.add(self)
        if not lookout.watching:
            lookout.watch()

    def overdue(self) -> None:
        """Set up what may interrupt the block."""
        raise NotImplementedError

    def interrupt(self, reason: GatewayError) -> None:
        """Cancel the block, once."""
        if self._reason is None:
            self._reason = reason
            self._task.cancel()

    def interrupt_after(self, event: Callable[[], Awaitable[None]], reason: GatewayError) -> None:
        """Cancel the block if `event` returns before its end."""

        async def watch() -> None:
            await event()
            self.interrupt(reason)

        self._watcher = self._lookout.loop.create_task(watch())

    def end(self, error: BaseException | None) -> GatewayError | None:
        """Leave the block; return the reason if it was interrupted and that is how it ended."""
        lookout = self._lookout
        if self in lookout.under_way:
            lookout.under_way.remove(self)
        else:
            lookout.late.discard(self)
        if self._watcher is not None:
            self._watcher.cancel()
        if self._reason is None:
            return None
        others = self._task.uncancel() > self._cancellations
        return self._reason if isinstance(error, asyncio.CancelledError) and not others else None
