"""Where the process begins, before anything of it that takes time: a signal from here on is a clean end.

It imports nothing that the interpreter does not hold in itself: `signal` brings `enum` along, and with it as much time
as the interpreter's whole start, in which a signal prints a trace.
"""

import atexit
import os
import sys

TYPE_CHECKING = False  # `typing` takes its time, too
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # what `signal` itself wraps

_NUMBERS = (signal.SIGINT, signal.SIGTERM)
_SERVE = frozenset({"dev", "serve", "stdio"})
"""Commands that run until they are told to stop, so that a signal is no failure."""


def main() -> None:
    """Run the command line.

    A signal ends the process at once while nothing is open, yet or any more; what runs says how it stops
    (`app.signals`). The interpreter's own start, some hundredths of a second before this, can't be had.
    """
    for number in _NUMBERS:
        signal.signal(number, _leave)
        # Registered first, it is called last. Then the interpreter takes itself apart, and our handlers with it; a
        # process that is about to end has nothing left to be told.
        atexit.register(signal.signal, number, signal.SIG_IGN)
    _hold_standard_streams()
    __import__("app.cli.commands", fromlist=["switchboard"]).switchboard()


def _hold_standard_streams() -> None:
    """Open what whoever started us has closed: a socket that got its number would be written to, or abort libuv."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    if sys.stdout is None:  # type: ignore[redundant-expr]
        sys.stdout = os.fdopen(1, "w")


def _leave(number: int, frame: object) -> None:
    os._exit(0 if _SERVE.intersection(sys.argv[1:2]) else 128 + number)
