"""SIGINT and SIGTERM: whoever does the work says how it stops."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Generator

_NUMBERS = (signal.SIGINT, signal.SIGTERM)

Stop = Callable[[signal.Signals], object]
"""Begins the end, given what was sent."""

_stops: list[Stop] = []
"""Signals are the process's, so this is, too; the innermost block is the last."""


@contextlib.contextmanager
def stopping_by(stop: Stop) -> Generator[None]:
    """Call `stop` in the event loop for each signal that comes in the block; a block within another goes first.

    In a thread that gets no signals, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in _NUMBERS}
    _stops.append(stop)
    for number in _NUMBERS:
        loop.add_signal_handler(number, _call_the_innermost, number)
    try:
        yield
    finally:
        _stops.remove(stop)
        if not _stops:
            for number in _NUMBERS:
                loop.remove_signal_handler(number)
                signal.signal(number, before[number])


def _call_the_innermost(number: signal.Signals) -> None:
    _stops[-1](number)
