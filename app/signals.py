"""SIGINT and SIGTERM: whoever does the work says how it stops."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Generator
from types import FrameType

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

    def hand_over(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(_call_the_innermost, signal.Signals(number))

    _stops.append(stop)
    # One handler takes the place of another, as asyncio's Runner does it; the loop's own `remove_signal_handler` would
    # leave a moment between the two in which a signal kills.
    before = {number: signal.signal(number, hand_over) for number in _NUMBERS}
    try:
        yield
    finally:
        _stops.remove(stop)
        for number, handler in before.items():
            signal.signal(number, handler)


def _call_the_innermost(number: signal.Signals) -> None:
    if _stops:  # else it came in the last block's last moment, and the end has come anyway
        _stops[-1](number)
