"""Runs the SQL of callers, who may only read. `guard` says what may run; this says how."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Annotated, Any, cast

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from app.errors import BackendNotConfigured, BackendTimeout, Forbidden, GatewayError, InvalidArguments, TooManyRequests
from app.results import Result
from app.services.postgres.connections.errors import postgres_errors
from app.services.postgres.connections.settings import PostgresSettings
from app.services.postgres.sql.described import describe, explain_generically
from app.services.postgres.sql.guard import Catalog, ReadingStatement, SqlGuard
from app.services.postgres.sql.json_forms import (
    json_expression,
    json_reader,
    parameters_as_text,
    size_expression,
    unique_names,
)
from app.services.postgres.sql.sessions import ReaderSessions, open_reader_sessions
from app.single_flight import SingleFlight

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    Statement = PreparedStatement[asyncpg.Record]

MAX_RESULT_BYTES = 4 * 1024 * 1024
"""Rows whose JSON goes beyond this are left out, and `truncated` says so."""

MAX_ROW_BYTES = 1024 * 1024
"""A larger row is refused: it never leaves PostgreSQL."""

_BATCH_ROWS = 50
_GRACE_SECONDS = 0.1
"""By how much PostgreSQL's own limit comes before ours."""
_PROBE_MS = 1500
"""How long a probe's query may take, the time to connect and to read the catalogs included."""
LONGEST_SECONDS = 60.0
"""Longest that a query may take, whatever the settings say."""
_CATALOG_SECONDS = 60.0
"""How long a change of functions, views or casts in the database may stay unseen."""


class SqlQuery(BaseModel):
    """The arguments of `query_database`."""

    model_config = ConfigDict(extra="forbid")

    query: Annotated[
        str,
        Field(
            description="One SQL statement of PostgreSQL that only reads: SELECT, WITH, VALUES, TABLE or EXPLAIN. "
            "Also accepted as `sql`.",
            min_length=1,
        ),
    ]
    params: Annotated[
        list[JsonValue],
        Field(
            description="Values of $1, $2 … in order. Dates, times, numeric and uuid as strings, arrays as lists, "
            "json as objects, bytea in base64.",
            max_length=200,
        ),
    ] = []
    max_rows: Annotated[int, Field(description="Most rows to return.", ge=1, le=10_000)] = 100
    timeout_ms: Annotated[
        int | None,
        Field(
            description="Milliseconds after which the query is ended; the gateway's limit if left out.", ge=1, le=60_000
        ),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _accept_sql(cls, arguments: Any) -> Any:
        """Take `sql` for `query`, as many callers write it."""
        if isinstance(arguments, dict) and "sql" in arguments and "query" not in arguments:
            given = cast("dict[str, Any]", arguments)
            return {("query" if name == "sql" else name): value for name, value in given.items()}
        return cast("Any", arguments)


class Column(BaseModel):
    """A column of a result."""

    name: str = Field(description="Key in each row. Repeated names get a number: `id`, `id_2`.")
    type: str = Field(description="PostgreSQL's name of the type, such as `timestamp with time zone`.")


class QueryResult(Result):
    """The rows of a query."""

    columns: list[Column] = Field(description="In the order of the query.")
    rows: list[dict[str, Any]] = Field(description="One object a row; numeric and large bigint values are strings.")
    row_count: int = Field(description="Rows in this answer.")
    truncated: bool = Field(description="There are more rows, beyond max_rows or the size of an answer.")
    duration_ms: float = Field(description="Milliseconds that checking and running took.")


class SqlReader:
    """Answers `query_database`.

    Args:
        settings: of the service.
        sessions: connections of the reader's login; None where it is not configured.
        guard_class: what judges statements.
    """

    def __init__(
        self, settings: PostgresSettings, sessions: ReaderSessions | None, guard_class: type[SqlGuard] = SqlGuard
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._guard_class = guard_class
        self._guard: SqlGuard | None = None
        self._stale_at = 0.0
        self._loading = SingleFlight[SqlGuard]()

    async def query(
        self,
        query: str,
        params: Sequence[JsonValue] = (),
        max_rows: int = 100,
        timeout_ms: int | None = None,
    ) -> QueryResult:
        """Run one statement that reads.

        Args:
            query: SQL of at most 32 KB.
            params: values of `$1`, `$2` …, in the forms that JSON has.
            max_rows: most rows to return.
            timeout_ms: milliseconds after which the statement is ended, the time to connect included;
                `statement_timeout` if left out.

        Raises:
            Forbidden: the statement, or a part of it, is not allowed. Nothing ran.
            InvalidArguments: SQL or parameters are wrong, or ask for more than a limit allows.
            BackendTimeout: it took too long and was ended.
            TooManyRequests: no connection became free in time.
            BackendNotConfigured: there is no `DATABASE_READER_URL`.
            BackendUnavailable: PostgreSQL is down, or holds something that the guard can't answer for.
        """
        started = time.perf_counter()
        if self._sessions is None:
            # Asking for the address says what is missing.
            raise AssertionError(self._settings.reader_address)
        usual = self._settings.reader_address.statement_timeout or self._settings.statement_timeout
        limit = timeout_ms / 1000 if timeout_ms else min(usual, LONGEST_SECONDS)
        with postgres_errors(reading=True), _query_errors():
            # The server's own limit comes first; ours holds where it does not answer.
            async with asyncio.timeout(limit + _GRACE_SECONDS):
                guard = self._guard or await self._fresh_guard(self._sessions)
                statement = guard.check(query)
                if time.monotonic() >= self._stale_at:
                    guard = await self._fresh_guard(self._sessions)
                    statement = guard.check(query)
                left = started + limit - time.perf_counter()
                async with self._sessions.begin(left) as connection:
                    columns, rows, truncated = await _run(connection, guard.catalog, statement, params, max_rows)
        return QueryResult(
            columns=columns,
            rows=rows,
            row_count=len(rows),
            truncated=truncated,
            duration_ms=round((time.perf_counter() - started) * 1000, 3),
        )

    async def objection(self) -> GatewayError | None:
        """Return why no query could be answered now; None if one could, or if all connections are busy with some."""
        try:
            await self.query("SELECT 1", timeout_ms=_PROBE_MS)
        except TooManyRequests:
            return None
        except GatewayError as error:
            return error
        return None

    async def _fresh_guard(self, sessions: ReaderSessions) -> SqlGuard:
        """Ask the catalogs anew: once for all who wait for it, before they take a connection of their own."""

        async def load() -> SqlGuard:
            async with sessions.begin(self._settings.statement_timeout) as connection:
                self._guard = self._guard_class(await Catalog.load(connection))
            self._stale_at = time.monotonic() + _CATALOG_SECONDS
            return self._guard

        return await self._loading.run(load)


@asynccontextmanager
async def open_sql_reader(
    settings: PostgresSettings, guard_class: type[SqlGuard] = SqlGuard
) -> AsyncGenerator[SqlReader]:
    """Make the reader; close its connections on exit. None is opened before the first query."""
    if settings.reader_url is None:
        yield SqlReader(settings, None, guard_class)
        return
    async with open_reader_sessions(settings) as sessions:
        yield SqlReader(settings, sessions, guard_class)


async def _run(
    connection: "Connection", catalog: Catalog, statement: ReadingStatement, params: Sequence[JsonValue], max_rows: int
) -> tuple[list[Column], list[dict[str, Any]], bool]:
    # Parsed alone at first: it tells the types, and proves to PostgreSQL as well that this is one whole statement,
    # before it becomes a part of another.
    described = await describe(connection, statement.sql)
    attributes, parameter_types = described.get_attributes(), described.get_parameters()
    # With values at hand it is a plan for these.
    is_generic = statement.is_generic and not params
    if is_generic:
        parameter_types = ()
    texts = parameters_as_text(params, parameter_types)
    words = [await _in_words(connection, catalog, of.oid) for of in (*(a.type for a in attributes), *parameter_types)]
    type_words, parameter_words = words[: len(attributes)], words[len(attributes) :]
    await _check_parameters(connection, texts, parameter_words)
    if is_generic:
        as_json = attributes[0].type.name == "json"
        sql = await explain_generically(connection, statement.sql, as_json=as_json)
    else:
        sql = statement.with_parameters(
            {number: f"CAST(${number}::pg_catalog.text AS {word})" for number, word in enumerate(parameter_words, 1)}
        )
    names = unique_names([attribute.name for attribute in attributes])
    if statement.is_select:
        sql = _as_json(sql, attributes, max_rows + 1)
    columns = [Column(name=name, type=word) for name, word in zip(names, type_words, strict=True)]
    readers = [json_reader(attribute.type) for attribute in attributes]

    prepared: Statement = await connection.prepare(sql, name="")
    cursor = await prepared.cursor(*texts)
    rows: list[dict[str, Any]] = []
    size = 0
    while batch := await cursor.fetch(min(_BATCH_ROWS, max_rows + 1 - len(rows))):
        for record in batch:
            values = cast(
                "list[str | None] | None", record[0] if statement.is_select else _explained(record, attributes)
            )
            if values is None:
                message = (
                    f"row {len(rows) + 1} is larger than {MAX_ROW_BYTES:,} bytes; select less of it: left(column, 1000)"
                )
                raise InvalidArguments.of("query", message)
            size += sum(len(value) for value in values if value is not None)
            if len(rows) == max_rows or size > MAX_RESULT_BYTES:
                return columns, rows, True
            rows.append({name: read(value) for name, read, value in zip(names, readers, values, strict=True)})
    return columns, rows, False


def _as_json(sql: str, attributes: Sequence[asyncpg.Attribute], limit: int) -> str:
    """Wrap a query so that PostgreSQL writes each column as JSON, and NULL for a row that is too large."""
    names = [f"c{number}" for number in range(1, len(attributes) + 1)]
    written = ", ".join(json_expression(name, a.type) for name, a in zip(names, attributes, strict=True))
    sizes = [size for name, a in zip(names, attributes, strict=True) if (size := size_expression(name, a.type))]
    row = f"ARRAY[{written}]::pg_catalog.text[]"
    if sizes:
        row = f"CASE WHEN {' + '.join(sizes)} <= {MAX_ROW_BYTES} THEN {row} END"
    aliases = f"({', '.join(names)})" if names else ""
    # The line break ends a comment that the query may end with.
    return f"SELECT {row} FROM (\n{sql}\n) AS q{aliases} LIMIT {limit}"  # noqa: S608 - judged by the guard, parsed alone


def _explained(record: asyncpg.Record, attributes: Sequence[asyncpg.Attribute]) -> list[str]:
    """Return a row of EXPLAIN as JSON text; only FORMAT JSON makes it JSON already."""
    pairs = zip(record, attributes, strict=True)
    return [value if attribute.type.name == "json" else json.dumps(value) for value, attribute in pairs]


async def _in_words(connection: "Connection", catalog: Catalog, oid: int) -> str:
    known = catalog.type_words.get(oid)
    return known or cast("str", await connection.fetchval("SELECT format_type($1, -1)", oid))


async def _check_parameters(connection: "Connection", texts: Sequence[str | None], types: Sequence[str]) -> None:
    """Let PostgreSQL read each parameter alone, so that a wrong one can be named."""
    if not texts or connection.get_server_version() < (16,):
        return
    wrong = await connection.fetch(
        "SELECT n, message FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS given(value, type, n), "
        "pg_input_error_info(value, type) AS e(message) WHERE message IS NOT NULL ORDER BY n",
        texts,
        types,
    )
    if wrong:
        first = wrong[0]
        raise InvalidArguments.of(f"params.{first['n'] - 1}", _shortened(first["message"]))


_OVER_TIME = "the query ran into its time limit and was ended; narrow it, or allow more by timeout_ms"


@contextmanager
def _query_errors() -> Generator[None]:
    """Translate what PostgreSQL says of a caller's own statement.

    Its primary message may be handed on here, since it speaks of nothing but the caller's SQL and what it reads.
    """
    try:
        yield
    except TimeoutError as error:
        raise BackendTimeout(_OVER_TIME) from error
    except asyncpg.PostgresError as error:
        state = error.sqlstate or ""
        message = _shortened(str(error.args[0]) if error.args else "")
        if state == "57014":
            raise BackendTimeout(_OVER_TIME) from error
        if state in ("42501", "25006"):
            raise Forbidden(
                f"{message}; query_database may only read the tables that switchboard_reader may read"
            ) from error
        if state == "53400":
            raise InvalidArguments.of("query", f"needs more temporary space than is allowed: {message}") from error
        if state.startswith("54"):
            raise InvalidArguments.of("query", f"goes beyond a limit of PostgreSQL: {message}") from error
        if state[:2] in ("0A", "21", "22", "23", "3F", "42", "2B", "38", "39", "P0"):
            raise InvalidArguments.of("query", f"{message}{_place(error)}") from error
        if state[:2] in ("28", "3D"):
            raise BackendNotConfigured(
                "PostgreSQL refuses the login or database of DATABASE_READER_URL; check it"
            ) from error
        raise


def _place(error: asyncpg.PostgresError) -> str:
    position = cast("str | None", getattr(error, "position", None))
    return f" (at character {position})" if position else ""


def _shortened(message: str) -> str:
    return message if len(message) <= 300 else f"{message[:300]}…"
