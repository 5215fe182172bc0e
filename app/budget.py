"""Bytes that the process holds for its callers, counted over all connections."""

from collections.abc import Callable
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
