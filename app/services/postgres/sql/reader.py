"""Runs the SQL of callers, who may only read. `guard` says what may run; this says how."""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, cast

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement
from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, model_validator

from app.errors import BackendUnavailable, Forbidden, GatewayError, InvalidArguments, TooManyRequests
from app.measures import Measure
from app.outages import Outages
from app.results import RawResult, Result
from app.services.postgres.connections.condition import TABLES
from app.services.postgres.connections.errors import postgres_errors
from app.services.postgres.connections.settings import PostgresSettings
from app.services.postgres.sql.answers import RowWriter, Written
from app.services.postgres.sql.bounds import MAX_SECONDS, TIMES, Argument
from app.services.postgres.sql.catalog import Catalog
from app.services.postgres.sql.described import describe, explain_generically
from app.services.postgres.sql.failures import while_it_is_parsed, while_it_runs
from app.services.postgres.sql.functions import NUMERIC, SLOW_TO_READ, has_huge_number
from app.services.postgres.sql.guard import ReadingStatement, SqlGuard, UnknownName
from app.services.postgres.sql.json_forms import parameters_as_text
from app.services.postgres.sql.sessions import ReaderSessions, open_reader_sessions
from app.single_flight import SingleFlight

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    Statement = PreparedStatement[asyncpg.Record]

_INTEGER = re.compile(r"-?[0-9]{1,10}")
_GRACE_SECONDS = 0.1
"""By how much PostgreSQL's own limit comes before ours."""
_PROBE_MS = 1500
"""How long a probe's query may take, the time to connect and to read the catalogs included."""
_ZONE = re.compile(r"[A-Za-z][-+:/._A-Za-z0-9]*[0-9][-+:/._A-Za-z0-9]*")
_NO_ZONE = re.compile(r"T[0-9:.]+(?:Z|[-+][0-9:]+)?")
_MOST_ZONES = 100
"""Most time zones that the text of a parameter may make up."""
_SHORT_TEXT = 4096
"""Characters up to which the text of a parameter is looked at."""
_MANY_KEYS = 10_000
"""Signs of keys up to which they need not be told apart."""
LONGEST_SECONDS = 60.0
"""Longest that a query may take, whatever the settings say."""
_LOST_AFTER_SECONDS = 66.0
"""What outlives the longest limit by this much is not going to hear of it."""
_LOST_BACKENDS = (
    "SELECT pid FROM pg_catalog.pg_stat_activity WHERE usename = session_user AND state = 'active' "
    "AND pid <> pg_catalog.pg_backend_pid() AND query_start < pg_catalog.clock_timestamp() - $1::interval ORDER BY pid"
)
_CATALOG_SECONDS = 60.0
"""How long a change of functions, views or casts in the database may stay unseen."""
_UNKNOWN_SECONDS = 2.0
"""How long the catalogs are believed where they lack a name that a statement uses."""


class SqlQuery(BaseModel):
    """The arguments of `query_database`."""

    model_config = ConfigDict(extra="forbid")

    query: Annotated[
        str,
        Field(
            description="SELECT, WITH, VALUES, TABLE or EXPLAIN. Also accepted as `sql`.",
            min_length=1,
        ),
    ]
    params: Annotated[
        list[JsonValue],
        Field(
            description="Dates, numeric and uuid as strings, arrays as lists, json as objects, bytea in base64.",
            max_length=200,
        ),
    ] = []
    max_rows: Annotated[int, Field(ge=1, le=10_000)] = 100
    timeout_ms: Annotated[
        int | None,
        Field(ge=1, le=60_000, description="The gateway's own limit if left out."),
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

    name: str = Field(description="Key in each row; `id_2` for a second `id`.")
    type: str = Field(description="As PostgreSQL names it.")


_COLUMNS = TypeAdapter(list[Column])


class QueryResult(Result):
    """The rows of a query."""

    columns: list[Column] = Field(description="In their order.")
    rows: list[dict[str, Any]] = Field(description="Numeric and large bigint values are strings.")
    row_count: int
    truncated: bool = Field(description="There are more rows.")
    duration_ms: float


class SqlReader:
    """Answers `query_database`.

    Args:
        settings: of the service.
        sessions: connections of the reader's login.
        guard_class: what judges statements.
    """

    def __init__(
        self, settings: PostgresSettings, sessions: ReaderSessions, guard_class: type[SqlGuard] = SqlGuard
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._guard_class = guard_class
        self._guard: SqlGuard | None = None
        self._stale_at = 0.0
        self._loading = SingleFlight[SqlGuard]()

    def measures(self, server: str) -> list[Measure]:
        """Return what is told of its pool."""
        return self._sessions.measures(server)

    async def query(
        self,
        query: str,
        params: Sequence[JsonValue] = (),
        max_rows: int = 100,
        timeout_ms: int | None = None,
    ) -> RawResult[QueryResult]:
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
            BackendNotConfigured: it is turned off; or there is no `DATABASE_READER_URL`, nor can a login be made.
            BackendUnavailable: PostgreSQL is down, or holds something that the guard can't answer for.
        """
        if (objection := self._settings.query_objection()) is not None:
            raise objection
        started = time.perf_counter()
        usual = await self._sessions.usual_timeout()
        limit = timeout_ms / 1000 if timeout_ms else min(usual, LONGEST_SECONDS)
        arguments = [_argument(value) for value in params]
        with postgres_errors(reading=True), while_it_runs(self._types_told):
            # The server's own limit comes first; ours holds where it does not answer.
            async with asyncio.timeout(limit + _GRACE_SECONDS):
                with _our_tables_told():
                    guard, statement = await self._judged(query, arguments)
                left = started + limit - time.perf_counter()
                async with self._sessions.begin(left) as connection:
                    try:
                        columns, written = await _run(connection, guard.catalog, statement, params, max_rows)
                    except UnicodeDecodeError:
                        # PostgreSQL cut a message in the middle of a character, and asyncpg lost the thread over it.
                        connection.terminate()
                        raise InvalidArguments.of("query", "PostgreSQL refuses a text in it") from None
        return RawResult(
            b'{"success":true,"columns":%b,"rows":%b,"row_count":%d,"truncated":%b,"duration_ms":%.3f}'
            % (
                _COLUMNS.dump_json(columns),
                written.rows,
                written.count,
                b"true" if written.truncated else b"false",
                (time.perf_counter() - started) * 1000,
            )
        )

    async def _judged(self, query: str, arguments: Sequence[Argument]) -> tuple[SqlGuard, ReadingStatement]:
        """Return a statement that may run, and the guard that says so."""
        guard = self._guard or await self._fresh_guard(self._sessions)
        try:
            statement = guard.check(query, arguments)
        except UnknownName:
            if time.monotonic() < self._stale_at - _CATALOG_SECONDS + _UNKNOWN_SECONDS:
                raise
            statement = None
        if statement is None or time.monotonic() >= self._stale_at:
            guard = await self._fresh_guard(self._sessions)
            statement = guard.check(query, arguments)
        return guard, statement

    def _types_told(self) -> Collection[str]:
        return self._guard.catalog.safe_type_words if self._guard else ()

    async def objection(self) -> GatewayError | None:
        """Return why no query could be answered now, or which backends a query holds beyond any limit.

        None if one could, or if all connections are busy with some.
        """
        try:
            await self.query("SELECT 1", timeout_ms=_PROBE_MS)
            lost = await self._lost_backends()
        except TooManyRequests:
            return None
        except GatewayError as error:
            return error
        if not lost:
            return None
        limits = BackendUnavailable(
            f"PostgreSQL can't interrupt what these backends of query_database run: {', '.join(map(str, lost))}; "
            "they take a core each until they end by themselves or the server is restarted"
        )
        limits.in_part = True  # others' queries are answered
        return limits

    async def _lost_backends(self) -> list[int]:
        """Return the process ids of backends of our login that run longer than any statement may."""
        with postgres_errors(reading=True), while_it_runs():
            async with asyncio.timeout(_PROBE_MS / 1000), self._sessions.begin(_PROBE_MS / 1000) as connection:
                rows = await connection.fetch(_LOST_BACKENDS, timedelta(seconds=_LOST_AFTER_SECONDS))
        return [row["pid"] for row in rows]

    async def _fresh_guard(self, sessions: ReaderSessions) -> SqlGuard:
        """Ask the catalogs anew: once for all who wait for it, before they take a connection of their own."""

        async def load() -> SqlGuard:
            async with sessions.begin(self._settings.statement_timeout) as connection:
                self._guard = self._guard_class(await Catalog.load(connection))
            self._stale_at = time.monotonic() + _CATALOG_SECONDS
            return self._guard

        return await self._loading.run(load)


@contextmanager
def _our_tables_told() -> Generator[None]:
    """Tell a table of ours that is not there from a name that the caller made up.

    Raises:
        BackendUnavailable: it is a table of ours.
    """
    try:
        yield
    except UnknownName as unknown:
        if unknown.relation not in TABLES:
            raise
        raise BackendUnavailable(
            f"the login of query_database finds no table {unknown.relation}; run `switchboard migrate`, or make the"
            " login a member of switchboard_reader"
        ) from unknown


def _argument(value: JsonValue) -> Argument:
    if isinstance(value, str):
        number = value.strip()
        return Argument(
            len(value.encode(errors="replace")),
            int(number) if _INTEGER.fullmatch(number) else None,
            value if len(value) <= _SHORT_TEXT else None,
            _keys_of_text(value),
            has_huge_number(value, as_json=True),
        )
    if isinstance(value, list | dict):
        text = json.dumps(value, ensure_ascii=False)
        size = len(text.encode(errors="replace"))
        return Argument(size, keys=_most_keys(value), is_huge=isinstance(value, list) and has_huge_number(text))
    return Argument(32, value if type(value) is int else None)


def _keys_of_text(text: str) -> int:
    """Return the most keys that an object in the text of JSON or of an hstore may have."""
    keys = text.count(":") + text.count("=>")
    if keys > _MANY_KEYS:
        try:
            return _most_keys(json.loads(text))
        except (ValueError, RecursionError):
            pass  # No JSON, or one that nobody can read: the count is an upper bound of either.
    return keys


def _most_keys(value: JsonValue) -> int:
    """Return how many keys the largest object has, at any depth."""
    most, stack = 0, [value]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            most = max(most, len(part))
            stack.extend(item for item in part.values() if isinstance(item, dict | list))
        elif isinstance(part, list):
            stack.extend(item for item in part if isinstance(item, dict | list))
    return most


@asynccontextmanager
async def open_sql_reader(
    settings: PostgresSettings, guard_class: type[SqlGuard] = SqlGuard, outages: Outages | None = None
) -> AsyncGenerator[SqlReader]:
    """Make the reader; close its connections on exit. None is opened before the first query."""
    async with open_reader_sessions(settings, outages) as sessions:
        yield SqlReader(settings, sessions, guard_class)


async def _run(
    connection: "Connection", catalog: Catalog, statement: ReadingStatement, params: Sequence[JsonValue], max_rows: int
) -> tuple[list[Column], Written]:
    # Parsed alone at first: it tells the types, and proves to PostgreSQL as well that this is one whole statement,
    # before it becomes a part of another.
    with while_it_is_parsed(statement.sql, catalog):
        described = await describe(connection, statement.sql)
    attributes, parameter_types = described.get_attributes(), described.get_parameters()
    # With values at hand it is a plan for these.
    is_generic = statement.is_generic and not params
    if is_generic:
        parameter_types = ()
    for number, of in enumerate(parameter_types, 1):
        if of.oid in catalog.unsafe_types:
            raise Forbidden(f"a value for ${number} is not allowed: its type looks up names in the catalogs")
    texts = parameters_as_text(params, parameter_types)
    _check_texts(texts, parameter_types, Counter(parameter.number for parameter in statement.parameters))
    words = [await _in_words(connection, catalog, of.oid) for of in (*(a.type for a in attributes), *parameter_types)]
    type_words, parameter_words = words[: len(attributes)], words[len(attributes) :]
    await _check_parameters(connection, texts, parameter_words)
    if is_generic:
        sql = await explain_generically(connection, statement.runs, as_json=attributes[0].type.name == "json")
    else:
        sql = statement.with_parameters(
            {
                number: _read_once(number, word) if _is_read_anew(of) else f"CAST(${number}::pg_catalog.text AS {word})"
                for number, (word, of) in enumerate(zip(parameter_words, parameter_types, strict=True), 1)
            }
        )
    writer = RowWriter(attributes, is_select=statement.is_select, has_long_numbers=statement.has_long_numbers)
    prepared: Statement = await connection.prepare(writer.wrap(sql, max_rows + 1), name="")
    written = await writer.write(prepared, texts, max_rows)
    return [Column(name=name, type=word) for name, word in zip(writer.names, type_words, strict=True)], written


async def _in_words(connection: "Connection", catalog: Catalog, oid: int) -> str:
    known = catalog.type_words.get(oid)
    return known or cast("str", await connection.fetchval("SELECT format_type($1, -1)", oid))


def _is_read_anew(of: asyncpg.Type) -> bool:
    """Tell whether PostgreSQL would read a type's text for each row: what is made of other types is not immutable."""
    return of.name.endswith("[]") or of.kind in ("range", "multirange")


def _read_once(number: int, word: str) -> str:
    # The outer cast keeps `= ANY (…)` from taking it for a query of many rows.
    return f"CAST((SELECT CAST(${number}::pg_catalog.text AS {word})) AS {word})"


def _check_texts(texts: Sequence[str | None], types: Sequence[asyncpg.Type], uses: Mapping[int, int]) -> None:
    """Refuse values that PostgreSQL takes too long to read, for nothing ends that, and paths that nobody has read.

    Args:
        texts: of the parameters.
        types: of the parameters.
        uses: how often each number stands in the statement; a value is read at each of these places.
    """
    work = 0.0
    for index, (text, of) in enumerate(zip(texts, types, strict=True)):
        name = of.name.removesuffix("[]")
        work += SLOW_TO_READ.get(name, 0.0) * len((text or "").encode()) ** 2 * uses.get(index + 1, 1)
        is_unread = name == "jsonpath" and (of.name != name or len(text or "") > _SHORT_TEXT)
        if name in NUMERIC and text is not None and has_huge_number(text, as_json=name == "jsonb"):
            raise InvalidArguments.of(f"params.{index}", "holds a number with an exponent of 400 or more")
        if name in ("regconfig", "regdictionary") and (text or "").strip().isdigit():
            raise InvalidArguments.of(f"params.{index}", "is the number of a configuration; give its name")
        if name in TIMES and len(text or "") > _SHORT_TEXT and _count_zones(text or "") > _MOST_ZONES:
            raise InvalidArguments.of(f"params.{index}", f"names more than {_MOST_ZONES} time zones")
        if work > MAX_SECONDS * 1e9 / 3 or is_unread:
            raise InvalidArguments.of(f"params.{index}", f"is too long for a {of.name}")


def _count_zones(text: str) -> int:
    """Return how many time zones a text of dates may make up: PostgreSQL remembers each, in 24 KB."""
    return len({word for word in _ZONE.findall(text.upper()) if not _NO_ZONE.fullmatch(word)})


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
        first, message = wrong[0], str(wrong[0]["message"])
        raise InvalidArguments.of(f"params.{first['n'] - 1}", message if len(message) <= 300 else f"{message[:300]}…")
