"""Bytes that the process holds for its callers, counted over all connections."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from app.errors import ProcessFull

LARGE = 64 * 1024
"""Bytes from which on a result counts. What is smaller is bounded by the number of calls."""


def _nothing_to_be_done() -> None:
    return


class Budget:
    """A bound on bytes that many hold at once, each for as long as it likes.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        """Bytes that are held now."""
        self.make_room: Callable[[], object] = _nothing_to_be_done
        """Called where there is none, by those who may take more than is left; whoever knows who holds it sets it."""

    def share(self) -> "Share":
        """Return what one holder takes of the budget: nothing yet."""
        return Share(self)


class Share:
    """What one holder has of a budget. As a context manager, it gives all back at the end."""

    __slots__ = ("_budget", "held")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.held = 0

    def hold(self, size: int) -> None:
        """Hold `size` bytes in place of what was held before.

        Raises:
            ProcessFull: there is no room for more. What was held before still is.
        """
        more = size - self.held
        if more > 0 and self._budget.held + more > self._budget.limit:
            raise ProcessFull
        self._budget.held += more
        self.held = size

    def take(self, size: int) -> None:
        """Hold `size` bytes in place of what was held before, whether there is room or not."""
        self._budget.held += size - self.held
        self.held = size

    def release(self) -> None:
        """Give all back."""
        self._budget.held -= self.held
        self.held = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Turns:
    """A bound on bytes for work that takes moments, after which they are free again: who finds too few waits.

    Args:
        limit: bytes. One alone may have more.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        """Bytes that are held now."""
        self._line: OrderedDict[asyncio.Future[None], int] = OrderedDict()
        """Those who wait, the longest first, and what each wants."""

    @contextmanager
    def turn(self) -> "Generator[Turn]":
        """Yield what one holder takes: nothing yet. It is all given back at the end."""
        turn = Turn(self)
        try:
            yield turn
        finally:
            turn.release()

    async def take(self, size: int) -> None:
        """Hold so many bytes, once there is room and all who came before have theirs."""
        if not self._line and self._fits(size):
            self.held += size
            return
        called = asyncio.get_running_loop().create_future()
        self._line[called] = size
        try:
            await called
        except asyncio.CancelledError:
            if called.cancelled():
                del self._line[called]
            else:
                self.held -= size  # it was called at the same moment
            self._call()
            raise

    def give_back(self, size: int) -> None:
        """Hold so many bytes less."""
        self.held -= size
        self._call()

    def has_room(self, size: int, *, own: int) -> bool:
        """Tell whether one who holds `own` bytes may have so many more at once."""
        return not self._line and (self.held == own or self.held + size <= self.limit)

    def _fits(self, size: int) -> bool:
        return not self.held or self.held + size <= self.limit

    def _call(self) -> None:
        for called, size in list(self._line.items()):
            if called.cancelled():
                continue  # it is about to leave the line
            if not self._fits(size):
                return
            del self._line[called]
            self.held += size
            called.set_result(None)


class Turn:
    """What one holder has of `Turns`."""

    __slots__ = ("_turns", "held")

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.held = 0

    async def take(self, size: int) -> None:
        """Hold so many bytes, in place of what was held before and is needed no more: who waits holds nothing."""
        self.release()
        await self._turns.take(size)
        self.held = size

    def grow(self, size: int) -> bool:
        """Hold so many bytes, more than before, if there is room and nobody waits for it; tell whether.

        It is for who has something in what is held, which goes on to take room while it waits.
        """
        more = size - self.held
        if not self._turns.has_room(more, own=self.held):
            return False
        self._turns.held += more
        self.held = size
        return True

    def keep(self, size: int) -> None:
        """Hold just so many bytes: they are there, also where less was expected."""
        spare, self.held = self.held - size, size
        self._turns.give_back(spare)

    def release(self) -> None:
        """Give all back."""
        self.keep(0)
