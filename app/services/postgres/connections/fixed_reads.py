"""A pool for short reading statements, each of which is one round trip.

asyncpg's own pool takes as long to lend a connection (a proxy, a task for its return) as such a statement
takes us otherwise; `benchmarks/` has the numbers. What it is for, resetting what a caller left behind, has no
object here: the statements are fixed, and leave nothing.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import asyncpg

from app.errors import TooManyRequests
from app.services.postgres.connections.connecting import Connection
from app.services.postgres.connections.naming import application_name
from app.stages import current_stages

if TYPE_CHECKING:
    from asyncpg.prepared_stmt import PreparedStatement

_IDLE_FOR_LONG = 300.0
"""Seconds after which an unused connection is not trusted: firewalls forget silent ones without a word."""

_CLOSE_WITHIN = 2.0

_CANCEL_WITHIN = 0.25
"""Seconds that PostgreSQL has to acknowledge a cancellation before the connection is given up."""

LOST = (
    ConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InvalidCachedStatementError,
)
"""How a connection shows itself that the server has closed, or whose prepared statements a migration has outdated."""

NO_FREE_CONNECTION = "all connections to PostgreSQL that this tool may use are busy; repeat in a moment"


@dataclass(eq=False)
class _Member:
    """A connection with the statements that it has prepared."""

    connection: "Connection"
    generation: int
    used_at: float = 0.0
    name: str | None = None
    """Of the trace that PostgreSQL was told of last."""
    prepared: "dict[str, PreparedStatement[asyncpg.Record]]" = field(
        default_factory=dict[str, "PreparedStatement[asyncpg.Record]"]
    )

    async def fetch_value(self, sql: str, arguments: list[Any], name: str | None) -> Any:
        """Return the first column of the first row.

        Args:
            sql: the statement.
            arguments: its own.
            name: what `application_name` says; another round trip, which only calls that are traced pay.
        """
        if self.connection.is_pooled:
            return await self._fetch_in_transaction(sql, arguments, name)
        if name != self.name:
            await self.connection.execute("RESET application_name" if name is None else f"SET {name}")
            self.name = name
        statement = self.prepared.get(sql)
        if statement is None:
            # Without a cache of its own asyncpg names a statement only if it is told to.
            name = f"read_{len(self.prepared)}"
            statement = self.prepared[sql] = await self.connection.prepare(sql, name=name)
        return await statement.fetchval(*arguments)

    async def _fetch_in_transaction(self, sql: str, arguments: list[Any], name: str | None) -> Any:
        """Run a statement where neither settings nor prepared statements outlive a transaction."""
        named = "" if name is None else f"; SET LOCAL {name}"
        await self.connection.execute(f"BEGIN READ ONLY{named}{self.connection.pins}")
        try:
            value = await self.connection.fetchval(sql, *arguments)
        except asyncpg.PostgresError:
            if not self.connection.is_closed():
                await self.connection.execute("ROLLBACK")
            raise
        await self.connection.execute("COMMIT")
        return value

    async def settle(self) -> None:
        """Wait until PostgreSQL has ended the statement that was cancelled; close the connection if it does not.

        It overlooks a request that reaches it between two messages of a statement. The statement then goes on until
        PostgreSQL notices that its client has gone (`client_connection_check_interval`).
        """
        settled = False
        try:
            async with asyncio.timeout(_CANCEL_WITHIN):
                # Whatever is sent next, asyncpg waits for the acknowledgement first.
                await self.connection.execute("ROLLBACK" if self.connection.is_pooled else "SELECT 1")
            settled = True
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            pass  # Nobody waits for this answer any more.
        finally:
            if not settled:
                self.connection.terminate()


@dataclass(slots=True)
class _Turn:
    """Somebody who waits in line."""

    member: asyncio.Future[_Member | None]
    until: float
    """When they are turned away, on the loop's clock."""


class FixedReads:
    """Runs fixed reading statements on a few connections.

    Args:
        connect: opens a connection; called when one is needed, so that the server need not be up before.
        size: most connections at a time. Callers beyond wait for their turn, the longest first.
        wait: seconds that a caller waits for its turn.
        line: most callers that wait; None leaves it to the gateway's limits.
    """

    def __init__(
        self,
        connect: "Callable[[], Awaitable[Connection]]",
        size: int,
        wait: float,
        line: int | None = None,
    ) -> None:
        self._connect = connect
        self._size = size
        self._wait = wait
        self._line = line
        self._idle: list[_Member] = []
        self._waiting: deque[_Turn] = deque()
        self._loop = asyncio.get_running_loop()
        self._clock: asyncio.TimerHandle | None = None
        """Set while somebody waits: one clock for the whole line, since nearly every turn comes long before its end."""
        self._open = 0
        self._generation = 0

    async def fetch_value(self, sql: str, arguments: list[Any]) -> Any:
        """Return the first column of the first row, None if there is no row.

        A read that meets a connection which the server has closed is repeated once, on a new one.

        Raises:
            TooManyRequests: no connection became free in time, or too many wait for one already.
        """
        try:
            return await self._fetch(sql, arguments)
        except LOST:
            # The others are likely as dead as this one.
            self._generation += 1
            return await self._fetch(sql, arguments)

    @property
    def size(self) -> int:
        """Most connections at a time."""
        return self._size

    @property
    def opened(self) -> int:
        """Connections that there are now."""
        return self._open

    @property
    def used(self) -> int:
        """Those of them that callers have."""
        return self._open - len(self._idle)

    @property
    def waiting(self) -> int:
        """Callers in line."""
        return sum(not turn.member.done() for turn in self._waiting)

    async def close(self) -> None:
        """Close every connection, politely for a moment and then for certain."""
        self._generation += 1
        if self._clock is not None:
            self._clock.cancel()
        members, self._idle = self._idle, []
        try:
            async with asyncio.timeout(_CLOSE_WITHIN):
                for member in members:
                    await member.connection.close()
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            for member in members:
                member.connection.terminate()

    async def _fetch(self, sql: str, arguments: list[Any]) -> Any:
        stages = current_stages()
        member = await (self._take() if stages is None else stages.waiting("a connection", self._take()))
        try:
            return await member.fetch_value(sql, arguments, None if stages is None else application_name())
        except (TimeoutError, *LOST):
            # Whatever it is still busy with is nothing for the next caller.
            member.connection.terminate()
            raise
        except asyncio.CancelledError:
            await member.settle()
            raise
        finally:
            self._give_back(member)

    async def _take(self) -> _Member:
        while True:
            while self._idle:
                member = self._idle.pop()
                if self._is_good(member):
                    return member
                self._drop(member)
            if self._open < self._size:
                return await self._open_member()
            if (member := await self._wait_in_line()) is not None:
                return member

    async def _open_member(self) -> _Member:
        self._open += 1
        generation = self._generation
        try:
            return _Member(await self._connect(), generation)
        except BaseException:
            self._open -= 1
            self._serve_next(None)
            raise

    async def _wait_in_line(self) -> _Member | None:
        """Return a connection, or None when there is room for a new one."""
        if self._line is not None and len(self._waiting) >= self._line:
            raise TooManyRequests(NO_FREE_CONNECTION)
        turn = _Turn(self._loop.create_future(), self._loop.time() + self._wait)
        self._waiting.append(turn)
        if self._clock is None:
            self._clock = self._loop.call_at(turn.until, self._turn_away)
        try:
            return await turn.member
        except asyncio.CancelledError:
            if turn.member.done() and not turn.member.cancelled() and turn.member.exception() is None:
                # The turn came together with the cancellation: it is the next one's.
                member = turn.member.result()
                if member is None:
                    self._serve_next(None)
                else:
                    self._give_back(member)
            raise

    def _turn_away(self) -> None:
        """Tell those who have waited too long, and set the clock for the next in line."""
        while self._waiting and (self._waiting[0].member.done() or self._waiting[0].until <= self._loop.time()):
            turn = self._waiting.popleft()
            if not turn.member.done():
                turn.member.set_exception(TooManyRequests(NO_FREE_CONNECTION))
        self._clock = self._loop.call_at(self._waiting[0].until, self._turn_away) if self._waiting else None

    def _give_back(self, member: _Member) -> None:
        member.used_at = self._loop.time()
        if not self._is_good(member):
            self._drop(member)
            self._serve_next(None)
        elif not self._serve_next(member):
            self._idle.append(member)

    def _serve_next(self, member: _Member | None) -> bool:
        """Hand a connection, or the room for one, to whoever has waited longest; tell whether anybody waits."""
        while self._waiting:
            turn = self._waiting.popleft().member
            if not turn.done():
                turn.set_result(member)
                return True
        return False

    def _is_good(self, member: _Member) -> bool:
        silent = self._loop.time() - member.used_at
        return member.generation == self._generation and silent < _IDLE_FOR_LONG and not member.connection.is_closed()

    def _drop(self, member: _Member) -> None:
        self._open -= 1
        if not member.connection.is_closed():
            member.connection.terminate()
