"""Tells watchers that a ticket has changed, over PostgreSQL's LISTEN and NOTIFY."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from app.errors import BackendUnavailable
from app.services.postgres.connections.errors import postgres_errors
from app.services.postgres.connections.pools import connect_to_listen
from app.services.postgres.connections.settings import PostgresSettings

CHANNEL = "switchboard_tickets"
"""Where the triggers of migration 0001 send ticket ids, or `*` after a change of very many."""

_HEARTBEAT = 30.0
"""Seconds after which a silent connection is asked whether it lives: a dead network closes nothing."""
_LONGEST_PAUSE = 5.0
"""Seconds between two attempts to listen again."""


class TicketChanges:
    """One listening connection a process, shared by everyone who watches a ticket.

    It is opened by the first watcher and closed with the last one.

    Args:
        settings: where the database is.
    """

    def __init__(self, settings: PostgresSettings) -> None:
        self._settings = settings
        self._watchers: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def watch(self, ticket_id: int) -> AsyncGenerator[AsyncIterator[dict[str, Any]]]:
        """Yield an iterator that gives an empty notice after each change of a ticket.

        Changes that follow each other faster than they are taken are one notice. After a lost connection there is
        one notice too, since something may have been missed.

        Raises:
            BackendNotConfigured: a pooler is in the way, and there is no `DATABASE_DIRECT_URL`.
            BackendUnavailable: the database can't be reached now. Later it is tried again without end.
        """
        changed = asyncio.Event()
        key = str(ticket_id)
        async with self._turn:
            if self._listening is None:
                connection = await self._listen()
                self._listening = asyncio.create_task(self._keep_listening(connection), name="ticket changes")
            self._watchers[key].add(changed)
        try:
            yield _notices(changed)
        finally:
            self._leave(key, changed)

    def _leave(self, key: str, changed: asyncio.Event) -> None:
        """Forget a watcher, and the connection with the last one.

        It waits for nothing: who leaves is often cancelled, and the next watcher may come in the meantime.
        """
        self._watchers[key].discard(changed)
        if not self._watchers[key]:
            del self._watchers[key]
        if not self._watchers and self._listening is not None:
            self._listening.cancel()
            self._listening = None
            self._hang_up()

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _listen(self) -> "asyncpg.Connection[asyncpg.Record]":
        with postgres_errors():
            connection = await connect_to_listen(self._settings)
            try:
                await connection.add_listener(CHANNEL, self._on_notice)
            except BaseException:
                connection.terminate()
                raise
        self._connection = connection
        return connection

    async def _keep_listening(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        pause = 0.1
        while True:
            await _until_lost(connection)
            self._hang_up()
            while True:
                try:
                    connection = await self._listen()
                except BackendUnavailable:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
                else:
                    break
            pause = 0.1
            self._tell_everyone()

    def _on_notice(self, _connection: Any, _process: int, _channel: str, ticket: object) -> None:
        if ticket == "*":
            self._tell_everyone()
        for changed in self._watchers.get(str(ticket), ()):
            changed.set()

    def _tell_everyone(self) -> None:
        for watchers in self._watchers.values():
            for changed in watchers:
                changed.set()


async def _notices(changed: asyncio.Event) -> AsyncIterator[dict[str, Any]]:
    while True:
        await changed.wait()
        changed.clear()
        yield {}


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
            except BackendUnavailable:
                return
