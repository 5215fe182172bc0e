"""What a signal does before a command runs, and after."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Generator, Mapping
from types import FrameType
from typing import Any

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def leaving_at_once(status: Callable[[int], int]) -> Generator[None]:
    """End the process at a signal that comes in the block, where there is nothing, yet or any more, to clean up.

    Args:
        status: returns what the process ends with, for a signal's number.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        os._exit(status(number))

    before = {number: signal.signal(number, leave) for number in _NUMBERS}
    try:
        yield
    except SystemExit:  # the process ends: nothing comes after it that could handle a signal
        raise
    except BaseException:
        _restore(before)
        raise
    else:
        _restore(before)


def _restore(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
