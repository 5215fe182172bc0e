"""Lends connections of `query_database`'s own login, each within a read-only transaction that pins its settings."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import asyncpg

from app.errors import TooManyRequests
from app.measures import Measure, pool_measures
from app.outages import Outages
from app.services.postgres.connections.connecting import Connection
from app.services.postgres.connections.naming import application_name
from app.services.postgres.connections.pools import CLIENT_CHECK_INTERVAL
from app.services.postgres.connections.settings import PostgresSettings
from app.services.postgres.connections.sharing import NO_FREE_CONNECTION
from app.services.postgres.sql.login import ReaderConnector
from app.stages import waiting_for

if TYPE_CHECKING:
    Lent = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]

_CLEANING_UP_SECONDS = 0.25
"""How long a PostgreSQL that hangs may keep those who have given up already."""

WORKS_FOR_SECONDS = 2.0
"""Seconds of work after which a connection is replaced, and with it what its backend has gathered: PostgreSQL
remembers for good each time zone that a statement makes up (24 KB, 100,000 in a few seconds), each form of a row and
more. A new backend after that much work costs nothing that can be measured."""

PINNED = {
    "idle_in_transaction_session_timeout": "15s",
    "client_connection_check_interval": CLIENT_CHECK_INTERVAL,
    # With this off, '\\'' would hide a call from the parser, which reads strings as the standard says.
    "standard_conforming_strings": "on",
    # PostgreSQL looks into pg_catalog first where it is not named.
    "search_path": "public, pg_temp",
    # The forms that docs/query-database.md promises.
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "iso_8601",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "jit": "off",
    # One caller takes one core at most, and an ORDER BY in a subquery keeps its order.
    "max_parallel_workers_per_gather": "0",
}
"""What the guard and the JSON forms stand on. It is set in each transaction: behind a pooler, whatever a session
was told is another caller's, or nobody's, in the next one."""

_PIN = ", ".join(f"pg_catalog.set_config('{name}', '{value}', true)" for name, value in PINNED.items())


class ReaderSessions:
    """Lends connections of the reader's login.

    Args:
        settings: of the service.
        connector: opens connections of the reader's login.
        pool: such connections.
    """

    def __init__(self, settings: PostgresSettings, connector: ReaderConnector, pool: "Pool") -> None:
        self._settings = settings
        self._connector = connector
        self._pool = pool
        # The pool's own line can't tell waiting for a turn from waiting for a server that does not answer.
        self._places = asyncio.Semaphore(settings.reader_pool_size)
        self._waiting = 0

    def measures(self, server: str) -> list[Measure]:
        """Return what is told of the pool."""
        opened, size = self._pool.get_size(), self._settings.reader_pool_size
        used = opened - self._pool.get_idle_size()
        return pool_measures(server, "reader", most=size, opened=opened, used=used, waiting=self._waiting)

    async def usual_timeout(self) -> float:
        """Return how many seconds a statement may take that asks for no other limit.

        Raises:
            BackendNotConfigured: there is no login to read with.
        """
        return (await self._connector.address()).statement_timeout or self._settings.statement_timeout

    @asynccontextmanager
    async def begin(self, seconds: float) -> AsyncGenerator["Lent"]:
        """Lend a connection within a transaction that only reads and is rolled back.

        Args:
            seconds: how long PostgreSQL works on a statement before it ends it.

        Raises:
            TooManyRequests: no connection became free in time.
        """
        self._waiting += 1
        try:
            async with asyncio.timeout(self._settings.pool_wait):
                await waiting_for("a place", self._places.acquire())
        except TimeoutError:
            raise TooManyRequests(NO_FREE_CONNECTION) from None
        finally:
            self._waiting -= 1
        try:
            connection = await waiting_for("a connection", self._pool.acquire())
            has_worked = cast("Connection", connection).has_worked
            started = time.monotonic()
            try:
                async with _read_only(connection, seconds):
                    yield connection
            finally:
                has_worked(time.monotonic() - started, WORKS_FOR_SECONDS)
                await self._pool.release(connection)
        finally:
            self._places.release()


@asynccontextmanager
async def open_reader_sessions(
    settings: PostgresSettings, outages: Outages | None = None
) -> AsyncGenerator[ReaderSessions]:
    """Make the pool and close it on exit. No connection is opened before the first query."""
    connector = ReaderConnector(settings, outages)

    async def connect(*_: object, **__: object) -> Connection:
        return await connector.open()

    pool = asyncpg.create_pool(
        min_size=0, max_size=settings.reader_pool_size, connect=connect, connection_class=Connection
    )
    await pool
    try:
        yield ReaderSessions(settings, connector, pool)
    finally:
        # Politely at first: a query that was cancelled just now has to be ended in PostgreSQL too.
        try:
            async with asyncio.timeout(_CLEANING_UP_SECONDS):
                await pool.close()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            pool.terminate()


@asynccontextmanager
async def _read_only(connection: "Lent", seconds: float) -> AsyncGenerator[None]:
    milliseconds = max(1, round(seconds * 1000))
    end = cast("Connection", connection).end
    rolled_back = False
    try:
        # The limit comes first: it holds for what pins the others too.
        named = f"; SET LOCAL {name}" if (name := application_name()) else ""
        await connection.execute(f"BEGIN READ ONLY; SET LOCAL statement_timeout = {milliseconds}{named}; SELECT {_PIN}")
        yield
    finally:
        try:
            async with asyncio.timeout(_CLEANING_UP_SECONDS):
                await connection.execute("ROLLBACK")
            rolled_back = True
        except (asyncpg.InterfaceError, asyncpg.PostgresConnectionError, OSError):
            pass  # a lost connection has nothing to roll back, and must not hide why it was lost
        finally:
            if not rolled_back:
                # The next one would get what is left of ours, and who is cancelled again waits for no server.
                end()
