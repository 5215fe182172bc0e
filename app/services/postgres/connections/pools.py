"""The connections to the support database, opened when first needed."""

import asyncio
import itertools
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from operator import attrgetter
from typing import Any, TypeVar, cast

from sqlalchemy import Select, func, literal_column, select, text
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool
from sqlalchemy.sql import Executable
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.util import await_only

from app.errors import BackendNotConfigured, TooManyRequests
from app.measures import Measure, pool_measures
from app.outages import Outages
from app.services.postgres.connections.confined import confined
from app.services.postgres.connections.connecting import MARGIN, Connection, Connector
from app.services.postgres.connections.errors import OUTDATED, driver_error, postgres_errors
from app.services.postgres.connections.fixed_reads import FixedReads
from app.services.postgres.connections.naming import application_name
from app.services.postgres.connections.settings import PostgresSettings
from app.services.postgres.connections.sharing import NO_FREE_CONNECTION, Question, asked_of_many
from app.stages import waiting_for

_MOST_WAITING_FOR_REPORTS = 32
"""Reports take long: who stands further back in the line would not be served soon."""

_HEARD_WITHIN = 1.0
"""Seconds after which a notice that was sent is not going to come."""

CLIENT_CHECK_INTERVAL = "250ms"
"""A statement ends within this if its connection does: at a lost cancellation, or if the gateway itself is killed."""


class Statement:
    """A reading statement that answers one JSON value, which PostgreSQL writes.

    It is checked and compiled when it is asked for the first time, since a process imports many statements and may run
    few: or before, by `compile_ahead`.

    Args:
        statement: selects one column of one row, cast to text; its bind parameters are given by name later. Or what
            makes it, where that takes long.
        for_staff: it may reach rows of any customer, so nobody who is bound to one may have it run.
        shared_by: the parameter that callers may differ in whom one statement answers together; all others, that of
            the caller's own customer among them, have to be equal. None where each is asked alone.
    """

    __slots__ = ("_compiled", "_for_staff", "_shared_by", "_statement")

    def __init__(
        self,
        statement: Executable | Callable[[], Executable],
        *,
        for_staff: bool = False,
        shared_by: str | None = None,
    ) -> None:
        self._statement = statement
        self._for_staff = for_staff
        self._shared_by = shared_by
        self._compiled: tuple[_Compiled, _Compiled | None] | None = None
        """How it is asked alone, and how together."""

    @property
    def sql(self) -> str:
        """The statement, if it is asked alone.

        Raises:
            TypeError: it may reach rows of any customer, and is not for the staff.
        """
        return (self._compiled or self._compile())[0].sql

    def arguments(self, values: Mapping[str, Any]) -> list[Any]:
        """Return the values in the order of `$1`, `$2` …; what is not given has its value of compile time."""
        return (self._compiled or self._compile())[0].arguments(values)

    def question(self, values: Mapping[str, Any]) -> Question | None:
        """Return what is asked with the values, in words that others may share; None where nobody can."""
        if self._shared_by is None:
            return None
        alone, together = self._compiled or self._compile()
        assert together is not None
        others = together.arguments(values)[:-1]  # the keys come last
        return Question(alone.sql, alone.arguments(values), together.sql, values[self._shared_by], tuple(others))

    def _compile(self) -> "tuple[_Compiled, _Compiled | None]":
        statement = self._statement if isinstance(self._statement, Executable) else self._statement()
        if not self._for_staff:
            confined(statement)
        together = None
        if self._shared_by is not None:
            together = _Compiled(asked_of_many(cast("Select[*tuple[Any, ...]]", statement), self._shared_by))
        self._compiled = _Compiled(statement), together
        return self._compiled


async def compile_ahead(statements: Iterable[Statement]) -> None:
    """Check and compile statements before somebody waits for it, one after the other.

    A thread does it, which takes turns with the event loop: one takes up to 30 ms, for which calls would stand still.

    Raises:
        TypeError: as for `Statement.sql`.
    """
    for statement in statements:
        await asyncio.to_thread(attrgetter("sql"), statement)


class _Compiled:
    """SQL, and the names of its `$1`, `$2` …"""

    __slots__ = ("_constants", "_order", "sql")

    def __init__(self, statement: Executable) -> None:
        compiled = cast("SQLCompiler", statement.compile(dialect=PGDialect_asyncpg()))  # type: ignore[attr-defined]
        self.sql = str(compiled)
        self._order = tuple(compiled.positiontup or ())
        self._constants = dict(compiled.params)

    def arguments(self, values: Mapping[str, Any]) -> list[Any]:
        return [values[name] if name in values else self._constants[name] for name in self._order]


class Reach:
    """A statement in two forms: one reaches everybody's rows, the other those of `customer`.

    Args:
        form: returns the statement; told whether it is to reach one customer's rows only.
        shared_by: as for `Statement`.
    """

    __slots__ = ("_everybody", "_one")

    def __init__(self, form: Callable[[bool], Executable], *, shared_by: str | None = None) -> None:
        self._everybody = Statement(partial(form, False), for_staff=True, shared_by=shared_by)
        self._one = Statement(partial(form, True), shared_by=shared_by)

    def of(self, customer: str | None) -> Statement:
        """Return the form for a caller that is bound to a customer, or to none."""
        return self._everybody if customer is None else self._one

    def __iter__(self) -> Iterator[Statement]:
        return iter((self._everybody, self._one))


class ReadPool:
    """Runs `Statement`s on connections of their own.

    Args:
        reads: the connections; closed with the pool.
    """

    def __init__(self, reads: FixedReads) -> None:
        self._reads = reads

    def portion(self) -> "ReadPool":
        """Return three quarters of these connections, for reads that may be slow: the rest stays free of them."""
        return _Portion(self._reads, max(1, self._reads.size * 3 // 4))

    async def fetch_json(self, statement: Statement, **values: Any) -> bytes | None:
        """Run a statement and return the JSON that it answers, None if there is no row.

        A read that meets a connection which the server has closed is repeated once, on a new connection. Where the
        statement says so, calls that wait for a connection at the same moment share one.
        """
        with postgres_errors(reading=True):
            if (question := statement.question(values)) is not None:
                text = await self._reads.fetch_answer(question)
            else:
                text = await self._reads.fetch_value(statement.sql, statement.arguments(values))
        return None if text is None else cast("str", text).encode()

    def measures(self, server: str, name: str) -> list[Measure]:
        """Return what is told of the pool."""
        reads = self._reads
        return pool_measures(server, name, most=reads.size, opened=reads.opened, used=reads.used, waiting=reads.waiting)

    async def close(self) -> None:
        """Close its connections."""
        await self._reads.close()


class _Portion(ReadPool):
    def __init__(self, reads: FixedReads, most: int) -> None:
        super().__init__(reads)
        self._places = asyncio.Semaphore(most)

    async def fetch_json(self, statement: Statement, **values: Any) -> bytes | None:
        if self._places.locked():
            try:
                async with asyncio.timeout(self._reads.wait):
                    await self._places.acquire()
            except TimeoutError:
                raise TooManyRequests(NO_FREE_CONNECTION) from None
        else:
            await self._places.acquire()
        try:
            return await super().fetch_json(statement, **values)
        finally:
            self._places.release()


Result = TypeVar("Result")


class Database:
    """Everything that the gateway holds of the support database, apart from the login of `query_database`.

    Args:
        settings: where it is.
        engine: makes connections that write.
        connector: opens connections that read.
    """

    def __init__(self, settings: PostgresSettings, engine: AsyncEngine, connector: Connector) -> None:
        self.settings = settings
        self.reads = ReadPool(FixedReads(connector.open, settings.read_pool_size, settings.pool_wait))
        """Short reads that callers wait for."""
        self.reports = ReadPool(
            FixedReads(connector.open, settings.report_pool_size, settings.pool_wait, _MOST_WAITING_FOR_REPORTS)
        )
        """Analytics, so that a slow report never stands in front of a short read."""
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)
        self._writes = cast("AsyncAdaptedQueuePool", engine.pool)
        self._waiting = 0

    async def ping(self) -> None:
        """Return if the database answers.

        Raises:
            BackendUnavailable: it does not.
        """
        await self.reads.fetch_json(_PING)

    def measures(self, server: str) -> list[Measure]:
        """Return what is told of the pools."""
        used, idle = self._writes.checkedout(), self._writes.checkedin()
        return [
            *self.reads.measures(server, "read"),
            *self.reports.measures(server, "report"),
            *pool_measures(
                server, "write", most=self._writes.size(), opened=used + idle, used=used, waiting=self._waiting
            ),
        ]

    async def write(self, work: Callable[[AsyncSession], Awaitable[Result]]) -> Result:
        """Run work in a transaction that is committed after it, and rolled back on an error.

        If a migration has outdated a prepared statement, which undoes the transaction, all of it is done once more.

        Args:
            work: may run twice, so it does nothing but use the session.
        """
        with postgres_errors():
            try:
                return await self._transact(work)
            except DBAPIError as error:
                if not isinstance(driver_error(error), OUTDATED):
                    raise
            return await self._transact(work)

    async def _transact(self, work: Callable[[AsyncSession], Awaitable[Result]]) -> Result:
        async with self._sessions.begin() as session:
            self._waiting += 1
            try:
                connection = await waiting_for("a connection", session.connection())
            finally:
                self._waiting -= 1
            raw = await connection.get_raw_connection()
            pins = cast("Connection", raw.driver_connection).pins
            if pins:
                await session.execute(text(pins.removeprefix("; ")))
            if name := application_name():
                await session.execute(text(f"SET LOCAL {name}"))
            return await work(session)


_PING = Statement(select(func.to_json(literal_column("1"))))


@asynccontextmanager
async def open_database(settings: PostgresSettings, outages: Outages | None = None) -> AsyncGenerator[Database]:
    """Make the pools and close them on exit. No connection is opened before the first call needs one.

    Args:
        settings: where the database is.
        outages: hears of it when it can't be reached.
    """
    # A statement that reads one customer's rows gains nothing from compilation, and a wrong guess costs much.
    reading = _connector(settings, {"default_transaction_read_only": "on", "jit": "off"}, outages)
    engine = create_engine(
        _connector(settings, {}, outages),
        pool_size=settings.write_pool_size,
        max_overflow=0,
        pool_timeout=settings.pool_wait,
        # A write can't be repeated blindly, so a dead connection has to be found before it is used.
        pool_pre_ping=True,
        # What customers say belongs into no trace.
        hide_parameters=True,
    )
    database = Database(settings, engine, reading)
    try:
        yield database
    finally:
        await database.reads.close()
        await database.reports.close()
        await engine.dispose()


def create_engine(connector: Connector, **options: Any) -> AsyncEngine:
    """Return an engine whose connections prepare each statement and keep it, where statements outlive a transaction.

    Args:
        connector: opens its connections.
        options: SQLAlchemy's own, of the engine and its pool.
    """

    def create() -> Any:
        connection = await_only(connector.open())

        async def opened() -> Connection:
            return connection

        numbers = itertools.count()
        driver: Any = engine.dialect.dbapi
        return driver.connect(
            async_creator_fn=opened,
            prepared_statement_cache_size=0 if connection.is_pooled else 100,
            prepared_statement_name_func=lambda: "" if connection.is_pooled else f"write_{next(numbers)}",
        )

    engine = create_async_engine("postgresql+asyncpg://", creator=create, **options)
    return engine


async def connect_to_listen(settings: PostgresSettings, outages: Outages | None = None) -> Connection:
    """Open a connection that hears of changes, past a pooler if there is one.

    Args:
        settings: where the database is.
        outages: hears of it when it can't be reached.

    Raises:
        BackendNotConfigured: a pooler is in the way, and `DATABASE_DIRECT_URL` is not set.
        BackendUnavailable: the database can't be reached.
    """
    pooler = "session" if settings.direct_url is not None else settings.pooler
    connector = Connector(
        lambda: settings.direct_address, connect_timeout=settings.connect_timeout, pooler=pooler, outages=outages
    )
    connection = await connector.open()
    if connection.is_pooled and (settings.pooler == "transaction" or not await _hears(connection, connector)):
        connection.terminate()
        raise BackendNotConfigured(
            "changes can't be heard of through a pooler that lends connections by the transaction; set"
            " DATABASE_DIRECT_URL to PostgreSQL itself, or DATABASE_POOLER=session if its clients keep their connection"
        )
    return connection


async def _hears(connection: Connection, connector: Connector) -> bool:
    """Tell whether a pooler keeps a connection for its client, by what that is needed for: hearing what others say."""
    heard = asyncio.Event()
    channel = f"switchboard_{secrets.token_hex(8)}"

    def hear(*_: object) -> None:
        heard.set()

    with postgres_errors():
        try:
            await connection.add_listener(channel, hear)
            other = await connector.open()
            try:
                await other.execute(f"NOTIFY {channel}")
                with suppress(TimeoutError):
                    async with asyncio.timeout(_HEARD_WITHIN):
                        await heard.wait()
            finally:
                other.terminate()
            await connection.remove_listener(channel, hear)
        except BaseException:
            connection.terminate()
            raise
    return heard.is_set()


def _connector(settings: PostgresSettings, session: Mapping[str, str], outages: Outages | None) -> Connector:
    ours = {
        "timezone": "UTC",
        "client_connection_check_interval": CLIENT_CHECK_INTERVAL,
        "statement_timeout": str(int(settings.statement_timeout * 1000)),
    }
    return Connector(
        lambda: settings.address,
        connect_timeout=settings.connect_timeout,
        pooler=settings.pooler,
        session=ours | dict(session),
        command_timeout=settings.statement_timeout + MARGIN,
        outages=outages,
    )
