"""A pool for short reading statements, each of which is one round trip.

asyncpg's own pool takes as long to lend a connection (a proxy, a task for its return) as such a statement
takes us otherwise; `benchmarks/` has the numbers. What it is for, resetting what a caller left behind, has no
object here: the statements are fixed, and leave nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
import msgspec

from app.errors import BackendUnavailable, GatewayError, TooManyRequests
from app.services.postgres.connections.connecting import Connection
from app.services.postgres.connections.naming import application_name
from app.services.postgres.connections.sharing import (
    NO_FREE_CONNECTION,
    Company,
    Line,
    Question,
    Turn,
    asked_together,
)
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

_FAILURES = (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""How a statement fails. TimeoutError is an OSError, and what can't be sent a ValueError."""

_NOT_THERE = "PostgreSQL does not answer those who connect to it; try again shortly"

_WAITS_FOR = "a connection"
"""What the stages of a call say of its place in line, whether it gets a connection or what somebody else's brought."""

T = TypeVar("T")


@dataclass(eq=False)
class _Member:
    """A connection with the statements that it has prepared."""

    connection: "Connection"
    generation: int
    used_at: float = 0.0
    name: str | None = None
    """Of the trace that PostgreSQL was told of last."""
    named: int = 0
    """Names that were given to statements."""
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
            return await self._in_transaction(self.connection.fetchval, sql, arguments, name)
        return await (await self._prepared(sql, name)).fetchval(*arguments)

    async def fetch_answers(self, questions: Sequence[Question]) -> dict[Any, Any]:
        """Return what questions of one group are answered, by their keys."""
        sql, arguments = asked_together(questions)
        if self.connection.is_pooled:
            rows = await self._in_transaction(self.connection.fetch, sql, arguments, None)
        else:
            rows = await (await self._prepared(sql, None)).fetch(*arguments)
        return {row[0]: row[1] for row in rows}

    async def _prepared(self, sql: str, name: str | None) -> "PreparedStatement[asyncpg.Record]":
        if name != self.name:
            await self.connection.execute("RESET application_name" if name is None else f"SET {name}")
            self.name = name
        statement = self.prepared.get(sql)
        if statement is None:
            # Without a cache of its own asyncpg names a statement only if it is told to. A name that was given may be
            # taken, though nothing came of it: its caller went while PostgreSQL prepared.
            name = f"read_{self.named}"
            self.named += 1
            statement = self.prepared[sql] = await self.connection.prepare(sql, name=name)
        return statement

    async def _in_transaction(
        self, fetch: Callable[..., Awaitable[T]], sql: str, arguments: list[Any], name: str | None
    ) -> T:
        """Run a statement where neither settings nor prepared statements outlive a transaction."""
        named = "" if name is None else f"; SET LOCAL {name}"
        await self.connection.execute(f"BEGIN READ ONLY{named}{self.connection.pins}")
        try:
            found = await fetch(sql, *arguments)
        except asyncpg.PostgresError:
            if not self.connection.is_closed():
                await self.connection.execute("ROLLBACK")
            raise
        await self.connection.execute("COMMIT")
        return found

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


class _Answer(msgspec.Struct, frozen=True):
    """What a shared statement has for one of its callers; `failed` if it had nothing for anybody."""

    value: Any = None
    failed: bool = False


_NO_ANSWER = _Answer(failed=True)


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
        self._idle: list[_Member] = []
        self._loop = asyncio.get_running_loop()
        self._line = Line[_Member | _Answer | None](self._loop, wait, line, self._why_none_is_free)
        """They are given a connection, None where there is room for a new one, or their answer."""
        self._shared: set[asyncio.Task[None]] = set()
        """Statements under way that callers share."""
        self._is_handing_out = False
        self._open = 0
        self._opening = 0
        """Those of them that are not there yet."""
        self._generation = 0

    async def fetch_value(self, sql: str, arguments: list[Any]) -> Any:
        """Return the first column of the first row, None if there is no row.

        A read that meets a connection which the server has closed is repeated once, on a new one.

        Raises:
            TooManyRequests: no connection became free in time, or too many wait for one already.
            BackendUnavailable: the same, while PostgreSQL lets none of them in.
        """
        return await self._fetch_repeating(sql, arguments, None)

    async def fetch_answer(self, question: Question) -> Any:
        """Return the same for a question, whose statement others may share that wait for a connection with its caller.

        Those do who ask in the same turn of the event loop, and who find all connections busy. If their statement
        fails, each is asked alone, as by `fetch_value`. Who is traced asks alone anyway, since PostgreSQL is told for
        whom it works.

        Raises:
            TooManyRequests: as for `fetch_value`.
        """
        member = None
        stages = current_stages()
        if stages is None or stages.traceparent is None:
            waiting = self._connection_or_answer(question)
            if not self._is_handing_out and (self._idle or self._open < self._size):
                self._is_handing_out = True
                self._loop.call_soon(self._hand_out)
            outcome = await (waiting if stages is None else stages.waiting(_WAITS_FOR, waiting))
            if not isinstance(outcome, _Answer):
                member = outcome
            elif not outcome.failed:
                return outcome.value
        return await self._fetch_repeating(question.sql, question.arguments, member)

    @property
    def size(self) -> int:
        """Most connections at a time."""
        return self._size

    @property
    def wait(self) -> float:
        """Seconds that a caller waits for its turn."""
        return self._wait

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
        return len(self._line)

    async def close(self) -> None:
        """Close every connection, politely for a moment and then for certain, after what callers share has ended."""
        self._generation += 1
        self._line.close()
        members, self._idle = self._idle, []
        try:
            async with asyncio.timeout(_CLOSE_WITHIN):
                if self._shared:
                    await asyncio.wait(self._shared)
                for member in members:
                    await member.connection.close()
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            for member in members:
                member.connection.terminate()

    async def _fetch_repeating(self, sql: str, arguments: list[Any], member: _Member | None) -> Any:
        try:
            return await self._fetch(sql, arguments, member)
        except LOST:
            # The others are likely as dead as this one.
            self._generation += 1
            return await self._fetch(sql, arguments, None)

    async def _fetch(self, sql: str, arguments: list[Any], member: _Member | None) -> Any:
        stages = current_stages()
        if member is None:
            member = await (self._take() if stages is None else stages.waiting(_WAITS_FOR, self._take()))
        name = None if stages is None else application_name()
        return await self._lent(member, member.fetch_value(sql, arguments, name))

    async def _lent(self, member: _Member, work: Awaitable[T]) -> T:
        """Await what is done with a connection, and take it back."""
        try:
            return await work
        except (TimeoutError, *LOST):
            # Whatever it is still busy with is nothing for the next caller.
            member.connection.terminate()
            raise
        except asyncio.CancelledError:
            await member.settle()
            raise
        finally:
            self._give_back(member)

    async def _answer(self, member: _Member, asked: Sequence[tuple[Turn[Any], Question]], company: Company) -> None:
        """Run the statement that callers share, and tell each what it has for them.

        It is nobody's own task, so that no caller's end is another's.
        """
        if not company.left:
            self._give_back(member)
            return
        company.work = asyncio.current_task()
        answers: dict[Any, Any] | None = None
        try:
            answers = await self._lent(member, member.fetch_answers([question for _, question in asked]))
        except LOST:
            self._generation += 1
        except _FAILURES:
            pass  # Each hears of its own failure, if it has one.
        finally:
            for turn, question in asked:
                if not turn.outcome.done():
                    turn.outcome.set_result(_NO_ANSWER if answers is None else _Answer(answers.get(question.key)))

    async def _connection_or_answer(self, question: Question) -> _Member | _Answer:
        outcome = await self._wait_in_line(question)
        return await self._take() if outcome is None else outcome

    async def _take(self) -> _Member:
        while True:
            while self._idle:
                member = self._idle.pop()
                if self._is_good(member):
                    return member
                self._drop(member)
            if self._open < self._size:
                return await self._open_member()
            if isinstance(outcome := await self._wait_in_line(), _Member):
                return outcome

    async def _open_member(self) -> _Member:
        self._open += 1
        self._opening += 1
        generation = self._generation
        try:
            return _Member(await self._connect(), generation)
        except BaseException:
            self._open -= 1
            self._serve_next(None)
            raise
        finally:
            self._opening -= 1

    def _why_none_is_free(self) -> GatewayError:
        """Return what is told to who has waited in vain: that others have them all, or that there are none."""
        if self._opening == self._open:
            return BackendUnavailable(_NOT_THERE)
        return TooManyRequests(NO_FREE_CONNECTION)

    async def _wait_in_line(self, question: Question | None = None) -> _Member | _Answer | None:
        """Return a connection, None when there is room for a new one, or the answer to a question."""
        turn = self._line.join(question)
        try:
            return await turn.outcome
        except asyncio.CancelledError:
            if turn.outcome.done() and not turn.outcome.cancelled() and turn.outcome.exception() is None:
                # The turn came together with the cancellation: it is the next one's.
                outcome = turn.outcome.result()
                if outcome is None:
                    self._serve_next(None)
                elif isinstance(outcome, _Member):
                    self._give_back(outcome)
            if turn.company is not None:
                turn.company.leave()
            raise
        finally:
            self._line.leave(turn)

    def _give_back(self, member: _Member) -> None:
        member.used_at = self._loop.time()
        if not self._is_good(member):
            self._drop(member)
            self._serve_next(None)
        elif not self._serve_next(member):
            self._idle.append(member)

    def _hand_out(self) -> None:
        """Give what is free to those who came in this turn of the loop."""
        self._is_handing_out = False
        while self._idle:
            member = self._idle.pop()
            if not self._is_good(member):
                self._drop(member)
            elif not self._serve_next(member):
                self._idle.append(member)
                return
        for _ in range(self._size - self._open):
            self._serve_next(None)

    def _serve_next(self, member: _Member | None) -> bool:
        """Hand a connection, or the room for one, to whoever has waited longest; tell whether anybody waits."""
        turn = self._line.next()
        if turn is None:
            return False
        asked = [] if member is None else self._line.company_of(turn)
        if member is None or not asked:
            turn.outcome.set_result(member)
            return True
        company = Company(len(asked))
        for each, _ in asked:
            each.company = company
        task = asyncio.create_task(self._answer(member, asked, company), name="a read that callers share")
        self._shared.add(task)
        task.add_done_callback(self._shared.discard)
        return True

    def _is_good(self, member: _Member) -> bool:
        silent = self._loop.time() - member.used_at
        return member.generation == self._generation and silent < _IDLE_FOR_LONG and not member.connection.is_closed()

    def _drop(self, member: _Member) -> None:
        self._open -= 1
        if not member.connection.is_closed():
            member.connection.terminate()
