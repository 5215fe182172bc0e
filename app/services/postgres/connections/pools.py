"""The connections to PostgreSQL, opened when first needed, and the one place that translates its errors."""

from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import asyncpg
from sqlalchemy import func, literal_column, select
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoFreeConnection
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.sql import Executable
from sqlalchemy.sql.compiler import SQLCompiler

from app.errors import (
    BackendNotConfigured,
    BackendTimeout,
    BackendUnavailable,
    Conflict,
    Forbidden,
    GatewayError,
    InvalidArguments,
    TooManyRequests,
)
from app.services.postgres.connections.fixed_reads import NO_FREE_CONNECTION, FixedReads
from app.services.postgres.connections.settings import PostgresSettings

_MARGIN = 2.0
"""Seconds by which we wait longer than the server's own limit, so that its answer comes first if it can answer."""

_MOST_WAITING_FOR_REPORTS = 32
"""Reports take long: who stands further back in the line would not be served soon."""

CLIENT_CHECK_INTERVAL = "250ms"
"""A statement ends within this if its connection does: at a lost cancellation, or if the gateway itself is killed."""


@contextmanager
def postgres_errors() -> Generator[None]:
    """Translate what asyncpg, SQLAlchemy and the network raise into the gateway's errors.

    What PostgreSQL says of a mistake of ours passes as it is: the gateway logs its trace and tells callers nothing.

    Raises:
        BackendUnavailable: the server is down, restarts, has no free connection or no schema yet.
        BackendTimeout: it did not answer in time, or a statement ran into its time limit.
        TooManyRequests: no connection became free in time.
        BackendNotConfigured: it refuses our login, or knows no such database.
        Forbidden: the login may not do that.
        Conflict: the rows that exist forbid it.
        InvalidArguments: a value breaks a rule of a table, or can't be stored.
    """
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, DBAPIError) as error:
        failure = _translated(_driver_error(error) if isinstance(error, DBAPIError) else error)
        if failure is None:
            raise
        raise failure from error
    except NoFreeConnection as error:
        raise TooManyRequests(NO_FREE_CONNECTION) from error
    except TimeoutError as error:
        raise BackendTimeout("PostgreSQL did not answer in time; try again") from error
    except OSError as error:
        raise BackendUnavailable("PostgreSQL can't be reached; try again shortly") from error


def _driver_error(error: DBAPIError) -> BaseException:
    """Return asyncpg's exception behind SQLAlchemy's two wrappers."""
    cause: BaseException = error
    while isinstance(cause, DBAPIError) or not isinstance(cause, asyncpg.PostgresError | asyncpg.InterfaceError):
        inner = cause.orig if isinstance(cause, DBAPIError) else cause.__cause__
        if inner is None:
            break
        cause = inner
    return cause


_BY_STATE: Mapping[str, tuple[type[GatewayError], str]] = {
    # exact states first, then their classes
    "22021": (InvalidArguments, "a text holds a character that PostgreSQL can't store, such as NUL"),
    "22P05": (InvalidArguments, "a text holds a character that PostgreSQL can't store, such as NUL"),
    "23502": (InvalidArguments, "a value that the table requires is missing"),
    "23503": (Conflict, "the row refers to one that does not exist, or others still refer to it"),
    "23505": (Conflict, "a row with the same unique value exists already"),
    "23514": (InvalidArguments, "a value breaks a rule of the table"),
    "3D000": (
        BackendNotConfigured,
        "PostgreSQL has no database of the name in DATABASE_URL; create it or correct the URL",
    ),
    "3F000": (BackendUnavailable, "the database has no such schema; run `switchboard migrate`"),
    "42P01": (BackendUnavailable, "the database lacks our tables; run `switchboard migrate`"),
    "42703": (BackendUnavailable, "the database's tables are of another version; run `switchboard migrate`"),
    "42704": (
        BackendNotConfigured,
        "PostgreSQL does not know a setting or a name that the gateway uses; it has to be version 15 or newer",
    ),
    "42883": (BackendUnavailable, "the database lacks a function of ours; run `switchboard migrate`"),
    "42501": (Forbidden, "the gateway's login at PostgreSQL may not do that"),
    "25006": (Forbidden, "the connection may only read"),
    "40001": (Conflict, "another change got in between; try again"),
    "40P01": (Conflict, "two changes waited for each other; try again"),
    "53300": (BackendUnavailable, "PostgreSQL has no free connection; try again shortly"),
    "55P03": (BackendTimeout, "another change holds the row; try again"),
    "57014": (BackendTimeout, "the statement ran into its time limit; ask for less or narrow it"),
    "08": (BackendUnavailable, "the connection to PostgreSQL was lost; try again"),
    "22": (InvalidArguments, "a value is outside of what its column or function takes"),
    "23": (Conflict, "the change breaks a constraint"),
    "28": (BackendNotConfigured, "PostgreSQL refuses the gateway's login; check user and password in DATABASE_URL"),
    "53": (BackendUnavailable, "PostgreSQL has run out of a resource; try again shortly"),
    "57": (BackendUnavailable, "PostgreSQL is starting, stopping or ended the connection; try again shortly"),
    "58": (BackendUnavailable, "PostgreSQL has a failure of its system; see its log"),
    "XX": (BackendUnavailable, "PostgreSQL has an internal failure; see its log"),
}


def _translated(error: BaseException) -> GatewayError | None:
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        kind, message = _BY_STATE.get(state) or _BY_STATE.get(state[:2]) or (None, "")
        return kind and kind(message)
    if isinstance(error, asyncpg.DataError):
        return InvalidArguments("a value is outside of what its column or function takes")
    if isinstance(error, asyncpg.exceptions.ClientConfigurationError):
        return BackendNotConfigured("the address of PostgreSQL can't be used; check DATABASE_URL and its TLS options")
    return BackendUnavailable("the connection to PostgreSQL was lost; try again")


class Statement:
    """A reading statement that is compiled once and answers one JSON value, which PostgreSQL writes.

    Args:
        statement: selects one column of one row, cast to text; its bind parameters are given by name later.
    """

    __slots__ = ("_constants", "_order", "sql")

    def __init__(self, statement: Executable) -> None:
        dialect = PGDialect_asyncpg()
        compiled = cast("SQLCompiler", statement.compile(dialect=dialect))  # type: ignore[attr-defined]
        self.sql = str(compiled)
        self._order = tuple(compiled.positiontup or ())
        self._constants = dict(compiled.params)

    def arguments(self, values: Mapping[str, Any]) -> list[Any]:
        """Return the values in the order of `$1`, `$2` …; what is not given has its value of compile time."""
        return [values[name] if name in values else self._constants[name] for name in self._order]


_PING = Statement(select(func.to_json(literal_column("1"))))


class ReadPool:
    """Runs `Statement`s on connections of their own.

    Args:
        settings: where the database is.
        size: most connections at a time.
        line: most callers that wait for one; None leaves it to the gateway's limits.
    """

    def __init__(self, settings: PostgresSettings, size: int, line: int | None = None) -> None:
        options = _connection_options(settings)
        # A statement that reads one customer's rows gains nothing from compilation, and a wrong guess costs much.
        options["server_settings"] |= {"default_transaction_read_only": "on", "jit": "off"}
        self._reads = FixedReads(
            lambda: asyncpg.connect(settings.require_url(), **options), size, settings.pool_wait, line
        )

    async def fetch_json(self, statement: Statement, **values: Any) -> bytes | None:
        """Run a statement and return the JSON that it answers, None if there is no row.

        A read that meets a connection which the server has closed is repeated once, on a new connection.
        """
        with postgres_errors():
            text = await self._reads.fetch_value(statement.sql, statement.arguments(values))
        return None if text is None else cast("str", text).encode()

    async def close(self) -> None:
        """Close its connections."""
        await self._reads.close()


@dataclass(frozen=True)
class Database:
    """Everything that the gateway holds of the support database, apart from the login of `query_database`."""

    settings: PostgresSettings
    reads: ReadPool
    """Short reads that callers wait for."""
    reports: ReadPool
    """Analytics, so that a slow report never stands in front of a short read."""
    _sessions: async_sessionmaker[AsyncSession]

    async def ping(self) -> None:
        """Return if the database answers.

        Raises:
            BackendUnavailable: it does not.
        """
        await self.reads.fetch_json(_PING)

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[AsyncSession]:
        """Open a transaction that commits on leaving, and rolls back on an error."""
        self.settings.require_url()
        with postgres_errors():
            async with self._sessions.begin() as session:
                yield session


@asynccontextmanager
async def open_database(settings: PostgresSettings) -> AsyncGenerator[Database]:
    """Make the pools and close them on exit. No connection is opened before the first call needs one."""
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: connect(settings),
        pool_size=settings.write_pool_size,
        max_overflow=0,
        pool_timeout=settings.pool_wait,
        # A write can't be repeated blindly, so a dead connection has to be found before it is used.
        pool_pre_ping=True,
        # What customers say belongs into no trace.
        hide_parameters=True,
    )
    reads = ReadPool(settings, settings.read_pool_size)
    reports = ReadPool(settings, settings.report_pool_size, _MOST_WAITING_FOR_REPORTS)
    try:
        yield Database(settings, reads, reports, async_sessionmaker(engine, expire_on_commit=False))
    finally:
        await reads.close()
        await reports.close()
        await engine.dispose()


async def connect(settings: PostgresSettings) -> "asyncpg.Connection[asyncpg.Record]":
    """Open one connection to `DATABASE_URL`, outside of any pool."""
    return await asyncpg.connect(settings.require_url(), **_connection_options(settings))


def _connection_options(settings: PostgresSettings) -> dict[str, Any]:
    return {
        "timeout": settings.connect_timeout,
        "command_timeout": settings.statement_timeout + _MARGIN,
        "server_settings": {
            "application_name": "switchboard",
            "timezone": "UTC",
            "client_connection_check_interval": CLIENT_CHECK_INTERVAL,
            "statement_timeout": str(int(settings.statement_timeout * 1000)),
        },
    }
