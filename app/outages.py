"""What a server's log is told of its backend: once that it is down and why, once that it is back."""

import errno
import logging
import time

_MOST_CAUSES = 16
"""Causes that are remembered of one outage: what makes up a new one each time must not fill log and memory."""


class Outages:
    """The outages of one server's backends, each of which is told once and not by every call that meets it.

    Whoever opens connections reports here each time that it worked or did not; nearly every report says nothing new.

    Args:
        log: the server's; None tells nobody.
    """

    def __init__(self, log: logging.Logger | None) -> None:
        self._log = log
        self._down: dict[str, tuple[float, set[str]]] = {}
        """By place: since when, and the causes that were told."""

    @property
    def ongoing(self) -> bool:
        """Whether anything is down."""
        return bool(self._down)

    def down(self, place: str, cause: str) -> None:
        """Note that a place can't be used now.

        Args:
            place: what it is and where, such as `Kafka at host=10.0.0.1 port=9092`.
            cause: why, in the words of the system and of the driver (`cause_of`); no secret.
        """
        outage = self._down.get(place)
        if outage is None:
            self._down[place] = time.monotonic(), {cause}
            self._tell(logging.WARNING, "%s is down: %s", place, cause)
        elif cause not in outage[1] and len(outage[1]) < _MOST_CAUSES:
            outage[1].add(cause)
            self._tell(logging.INFO, "%s is still down, for another reason: %s", place, cause)

    def up(self, *places: str) -> None:
        """Note that places can be used."""
        if not self._down:
            return
        for place in places:
            if (outage := self._down.pop(place, None)) is not None:
                self._tell(logging.INFO, "%s answers again, after %.1f s", place, time.monotonic() - outage[0])

    def _tell(self, level: int, message: str, *arguments: object) -> None:
        if self._log is not None:
            self._log.log(level, message, *arguments)


def at(backend: str, host: str, port: int | str) -> str:
    """Return the place of a backend, as all lines of the log name it."""
    return f"{backend} at host={host} port={port}"


def cause_of(error: BaseException) -> str:
    """Return what an operator needs of a failure: its kind, and the system's words with the name of its number."""
    if isinstance(error, OSError) and error.errno is not None:
        name = errno.errorcode.get(error.errno, str(error.errno))
        return f"{type(error).__name__}, errno {name}: {error.strerror or error}"
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
