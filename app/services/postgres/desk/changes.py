"""Tells watchers that a ticket has changed, over PostgreSQL's LISTEN and NOTIFY."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import asyncpg

from app.errors import BackendUnavailable, GatewayError, InternalError
from app.outages import Outages
from app.services.postgres.connections.connecting import Connection
from app.services.postgres.connections.errors import postgres_errors
from app.services.postgres.connections.pools import connect_to_listen
from app.services.postgres.connections.settings import PostgresSettings

CHANNEL = "switchboard_tickets"
"""Where the triggers of migration 0001 send ticket ids, or `*` after a change of very many."""

_log = logging.getLogger(__name__)

_HEARTBEAT = 30.0
"""Seconds after which a silent connection is asked whether it lives: a dead network closes nothing."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two attempts to listen again."""
_EVERYTHING = "*"


class TicketChanges:
    """One listening connection a process, shared by everyone who watches a ticket.

    It is opened by the first watcher and closed with the last one.

    Args:
        settings: where the database is.
        outages: hears of it when it can't be reached.
    """

    def __init__(self, settings: PostgresSettings, outages: Outages | None = None) -> None:
        self._connect = partial(connect_to_listen, settings, outages)
        self._watchers: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._listener: _Listener | None = None

    @asynccontextmanager
    async def watch(self, ticket_id: int) -> AsyncGenerator[AsyncIterator[dict[str, Any]]]:
        """Yield an iterator that gives an empty notice after each change of a ticket.

        Changes that follow each other faster than they are taken are one notice. While the database can't tell of
        changes, it is tried again without end; a notice says so, with the problem in `interrupted`, and an empty one
        says when it is over, since something may have been missed.

        Raises:
            BackendNotConfigured: a pooler is in the way, and there is no `DATABASE_DIRECT_URL`.
            BackendUnavailable: the database can't be reached now.
            GatewayError: it refuses to tell of changes now.
        """
        changed = asyncio.Event()
        key = str(ticket_id)
        if self._listener is None or self._listener.ended:
            self._listener = _Listener(self._connect, self._tell)
        listener = self._listener
        self._watchers[key].add(changed)
        try:
            await listener.listens()
            changed.clear()
            yield _notices(listener, changed)
        finally:
            self._leave(key, changed)

    def _leave(self, key: str, changed: asyncio.Event) -> None:
        """Forget a watcher, and the connection with the last one.

        It waits for nothing: who leaves is often cancelled, and the next watcher may come in the meantime.
        """
        self._watchers[key].discard(changed)
        if not self._watchers[key]:
            del self._watchers[key]
        if not self._watchers and self._listener is not None:
            self._listener.end()
            self._listener = None

    def _tell(self, ticket: str) -> None:
        concerned = self._watchers.values() if ticket == _EVERYTHING else [self._watchers.get(ticket, set())]
        for watchers in concerned:
            for changed in watchers:
                changed.set()


class _Listener:
    """Listens, and listens again whenever it can't, until it is ended.

    Args:
        connect: opens a connection that hears of changes.
        tell: takes the id of a ticket that has changed, or `_EVERYTHING` where that is not known.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]], tell: Callable[[str], None]) -> None:
        self._open = connect
        self._tell = tell
        self.failure: GatewayError | None = None
        """Why nothing can be heard now; None while it can."""
        self._tried = asyncio.Event()
        """Set while it is known whether something can be heard."""
        self._wanted = asyncio.Event()
        """Set by who would like another attempt before the pause is over."""
        self._task = asyncio.create_task(self._listen(), name="ticket changes")
        self._task.add_done_callback(self._note_end)

    @property
    def ended(self) -> bool:
        return self._task.done()

    def end(self) -> None:
        """Stop listening."""
        self._task.cancel()

    async def listens(self) -> None:
        """Return if every later change is heard.

        Raises:
            GatewayError: it is not, as has just been tried.
        """
        if self.failure is not None and not self.ended:
            self._tried.clear()
            self._wanted.set()
        await self._tried.wait()
        if self.failure is not None:
            raise self.failure

    async def _listen(self) -> None:
        pause, lost = _FIRST_PAUSE, False
        while True:
            self._wanted.clear()
            try:
                connection = await self._connect()
            except (GatewayError, asyncpg.PostgresError) as error:
                # Whatever it is, somebody may mend it while others wait: a login, a right, a setting, a standby.
                first = self.failure is None
                self.failure = _shown(error)
                self._tried.set()
                if lost and first:
                    self._tell(_EVERYTHING)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wanted.wait()
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            try:
                self.failure = None
                self._tried.set()
                if lost:
                    self._tell(_EVERYTHING)
                await _until_lost(connection)
            finally:
                connection.terminate()
            self._tried.clear()
            pause, lost = _FIRST_PAUSE, True

    async def _connect(self) -> "asyncpg.Connection[asyncpg.Record]":
        with postgres_errors():
            connection = await self._open()
            try:
                await connection.add_listener(CHANNEL, self._hear)
            except BaseException:
                connection.terminate()
                raise
        return connection

    def _hear(self, _connection: Any, _process: int, _channel: str, ticket: object) -> None:
        self._tell(str(ticket))

    def _note_end(self, task: asyncio.Task[None]) -> None:
        """See to it that nobody waits for a listener that is no more."""
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("listening for changes of tickets failed", exc_info=error)
            self.failure = InternalError()
            self._tell(_EVERYTHING)
        self._tried.set()


def _shown(error: Exception) -> GatewayError:
    if isinstance(error, GatewayError):
        return error
    return BackendUnavailable("PostgreSQL refuses to tell of changes now; see its log")


async def _notices(listener: _Listener, changed: asyncio.Event) -> AsyncIterator[dict[str, Any]]:
    while True:
        await changed.wait()
        changed.clear()
        failure = listener.failure
        if failure is None:
            yield {}
        elif listener.ended:
            raise failure
        else:
            yield {"interrupted": failure.problem().model_dump(mode="json", exclude_none=True)}


async def _until_lost(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Return once the connection is closed or no longer answers."""
    lost = asyncio.Event()
    connection.add_termination_listener(lambda _: lost.set())
    while not connection.is_closed():
        try:
            async with asyncio.timeout(_HEARTBEAT):
                await lost.wait()
        except TimeoutError:
            try:
                with postgres_errors():
                    await connection.execute("SELECT 1", timeout=_HEARTBEAT)
            except (GatewayError, asyncpg.PostgresError):
                return
