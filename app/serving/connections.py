"""How long, and with how many bytes, callers may keep us waiting: one clock over all connections."""

import asyncio
import fcntl
import logging
import socket
import termios
from array import array
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from typing import Any, NamedTuple, Protocol

from app.settings import Settings

KEEP_ALIVE = 75.0
"""Seconds an idle connection stays open: longer than load balancers keep theirs, or they meet closed ones."""
_FAREWELL_WITHIN = 2.0
"""Seconds in which a caller whose body is not read takes notice of the answer. A socket that is closed with bytes
unread resets the connection, and the answer may be lost with it."""
_SWEEP_EVERY = 1.0
_STUCK = 2.0
"""Seconds without progress after which a reader is cut off for the sake of others."""

_log = logging.getLogger("MCP")


class Awaited(Enum):
    """What we wait for a caller to do."""

    HEAD = "the rest of a request's head"
    BODY = "the rest of a body"
    DISCARDED_BODY = "the end of a body that was answered already"
    NEXT_REQUEST = "a request"
    TAKE_ANSWER = "a reader to take what is written"
    FAREWELL = "the end of a request that was refused"


_LEAST_TAKEN = 16 * 1024
"""Bytes of answers whose taking is a progress: a reader of single ones would hold what waits behind them for days."""


class Wait(NamedTuple):
    """What we wait for."""

    awaited: Awaited
    progress: int
    """A number that changes with each progress, on which the clock begins anew."""
    whole: int | None = None
    """The number of what has to be complete in BODY_TIMEOUT, whatever progress it makes; None if it has no such end."""


class Caller(Protocol):
    """The protocol that reads a connection."""

    def awaited(self) -> Wait | None:
        """Return what we wait for the caller to do; None where it is for us to go on, or where we do not read."""
        ...

    def hang_up(self) -> bool:
        """Drop what comes from now on; tell whether the caller may still be sending."""
        ...


class Connection(asyncio.Transport):
    """A transport that knows how much of what was written its caller has taken.

    Args:
        transport: what it stands for.
        caller: who reads it.
        connections: all of them.
    """

    def __init__(self, transport: asyncio.Transport, caller: Caller, connections: "Connections") -> None:
        super().__init__()
        self.caller = caller
        self.said_farewell = False
        self.wait: Wait | None = None
        self.waits_since = 0.0
        self.seconds_of_whole = 0.0
        """For which we have waited for the one body that is under way."""
        self._whole: int | None = None
        self._looked_at = 0.0
        self._transport = transport
        self._connections = connections
        self._written = 0
        connections.add(self)

    # What passes on each call

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._written += len(data)
        self._transport.write(data)

    def is_closing(self) -> bool:
        return self.said_farewell or self._transport.is_closing()

    # What tells the clock

    @property
    def unsent(self) -> int:
        """Bytes that we hold because neither the caller nor our kernel has taken them."""
        return self._transport.get_write_buffer_size()

    @property
    def taken(self) -> int:
        """Bytes that the caller has taken: our kernel takes them by the megabyte, too rarely for a clock."""
        link: socket.socket | None = self._transport.get_extra_info("socket")
        in_kernel = array("i", [0])
        if link is not None:
            with suppress(OSError):  # a system that does not tell this of sockets
                fcntl.ioctl(link.fileno(), termios.TIOCOUTQ, in_kernel)
        return self._written - self.unsent - in_kernel[0]

    def look(self, now: float) -> float:
        """Return for how many seconds we have waited for the caller without any progress."""
        wait = awaited = self.caller.awaited()
        if self.unsent:
            wait = Wait(Awaited.TAKE_ANSWER, self.taken // _LEAST_TAKEN)
        if wait != self.wait:
            self.wait, self.waits_since = wait, now
        if awaited is not None:  # else the clock of the whole stands still
            if awaited.whole is None or awaited.whole != self._whole:
                self._whole, self.seconds_of_whole = awaited.whole, 0.0
            else:
                self.seconds_of_whole += now - self._looked_at
        self._looked_at = now
        return now - self.waits_since if wait else 0.0

    def forgive(self, seconds: float) -> None:
        """Leave out of the clock what was no waiting for the caller."""
        self.waits_since += seconds
        self._looked_at += seconds

    def close(self) -> None:
        """Close; while the caller still sends, our side only for now, so that it gets to read our answer."""
        if not self.is_closing() and self.caller.hang_up():
            self.said_farewell = True
            self._transport.write_eof()
        else:
            self._transport.close()

    def drop(self) -> None:
        """Close at once."""
        # Where something is unsent, `close` would wait for it.
        self._transport.abort() if self.unsent else self._transport.close()

    def lost(self) -> None:
        """Forget the connection: it is closed."""
        self._connections.discard(self)

    def pause_writing(self) -> None:
        """Note that the caller takes less than is written for it."""
        self._connections.note_unsent()

    # The rest of a transport

    def abort(self) -> None:
        self._transport.abort()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._transport.set_protocol(protocol)


class Connections:
    """Closes connections whose callers keep us waiting, by one look at all of them a second.

    - An unfinished head, an unfinished body, an answer that nobody takes: each has its time, and a body that is not a
      stream has to be complete in `body_timeout`, however it trickles.
    - All answers together that nobody has taken yet have `max_unsent_bytes`; beyond it the connection is closed that
      has taken nothing for longest.

    What runs, what streams events and what waits for a call of its own accord is not looked at. The clock stands still
    while the process does (a paused container, a machine that has too much to do): nobody has kept it waiting then.
    """

    def __init__(self, settings: Settings) -> None:
        self._limits: Mapping[Awaited, float] = {
            Awaited.HEAD: settings.head_timeout,
            Awaited.BODY: settings.idle_timeout,
            Awaited.DISCARDED_BODY: settings.idle_timeout,
            Awaited.NEXT_REQUEST: KEEP_ALIVE,
            Awaited.TAKE_ANSWER: settings.idle_timeout,
            Awaited.FAREWELL: _FAREWELL_WITHIN,
        }
        self._max_unsent = settings.max_unsent_bytes
        self._whole_within = settings.body_timeout
        self._every = min(_SWEEP_EVERY, settings.head_timeout / 4, settings.idle_timeout / 4, settings.body_timeout / 4)
        self._open: set[Connection] = set()
        self._sweeps: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._weighs = False

    def add(self, connection: Connection) -> None:
        """Look after a connection."""
        self._open.add(connection)
        if self._sweeps is None:
            self._sweep_later()

    def discard(self, connection: Connection) -> None:
        """Look after a connection no more."""
        self._open.discard(connection)

    @property
    def unsent(self) -> int:
        """Bytes that callers have not taken yet."""
        return sum(connection.unsent for connection in self._open)

    def note_unsent(self) -> None:
        """Somebody takes less than is written. What that comes to is seen when the kernel has had its chance."""
        if not self._weighs:
            self._weighs = True
            asyncio.get_running_loop().call_soon(self._weigh)

    def cut_off_who_waits_longest(self) -> None:
        """Close the connection that has taken nothing for longest, if that is long: what it holds others can't have."""
        now = asyncio.get_running_loop().time()
        stuck = [connection for connection in self._open if connection.unsent and connection.look(now) >= _STUCK]
        if stuck:
            longest = max(stuck, key=lambda connection: now - connection.waits_since)
            self._close(longest, "others' results wait for room (MAX_UNSENT_BYTES)")

    def _sweep_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._due = loop.time() + self._every
        self._sweeps = loop.call_at(self._due, self._sweep)

    def _sweep(self) -> None:
        self._sweeps = None
        now = asyncio.get_running_loop().time()
        late = max(0.0, now - self._due)
        for connection in list(self._open):
            # As long as this process stood still, it read nothing that may have come.
            connection.forgive(late)
            waited = connection.look(now)
            if connection.wait is not None and waited > self._limits[connection.wait.awaited]:
                self._close(connection, f"waited {waited:.3g} s for {connection.wait.awaited.value}")
            elif connection.seconds_of_whole > self._whole_within:
                self._close(
                    connection, f"a body or message was not complete in {self._whole_within:g} s (BODY_TIMEOUT)"
                )
        self._weigh()
        if self._open:
            self._sweep_later()

    def _weigh(self) -> None:
        """Close who has taken nothing for longest, until what is left is within the bound."""
        self._weighs = False
        unsent = {connection: size for connection in self._open if (size := connection.unsent)}
        held = sum(unsent.values())
        if held <= self._max_unsent:
            return
        now = asyncio.get_running_loop().time()
        # Of those who have waited alike, the largest first.
        for connection in sorted(unsent, key=lambda c: (-c.look(now), -unsent[c])):
            self._close(connection, f"{held} bytes of answers wait for their readers (MAX_UNSENT_BYTES)")
            held -= unsent[connection]
            if held <= self._max_unsent:
                return

    def _close(self, connection: Connection, why: str) -> None:
        idle = connection.wait is not None and connection.wait.awaited is Awaited.NEXT_REQUEST
        _log.log(logging.DEBUG if idle else logging.INFO, "closed a connection: %s", why)
        connection.drop()
