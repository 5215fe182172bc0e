"""Queries of callers: rows as JSON, limits that hold, and each layer of protection without the others."""

import asyncio
import tracemalloc
from collections.abc import AsyncGenerator

import asyncpg
import pytest
from pydantic import ValidationError

from app.errors import (
    BackendNotConfigured,
    BackendTimeout,
    BackendUnavailable,
    Forbidden,
    GatewayError,
    InvalidArguments,
    TooManyRequests,
)
from app.local.process import free_port
from app.services.postgres.connections.settings import PostgresSettings
from app.services.postgres.sql.guard import Catalog, ReadingStatement, SqlGuard
from app.services.postgres.sql.reader import MAX_RESULT_BYTES, SqlQuery, SqlReader, open_sql_reader
from tests.fixtures.postgres import TestDatabase, settings_for

_END_OTHER_SESSIONS = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


class NoGuard(SqlGuard):
    """Lets everything pass, to show what the other layers hold."""

    def check(self, sql: str) -> ReadingStatement:
        return ReadingStatement(sql, False, ())


@pytest.fixture
async def reader(database: TestDatabase) -> AsyncGenerator[SqlReader]:
    async with open_sql_reader(database.settings) as reader:
        yield reader


@pytest.fixture
async def unguarded(database: TestDatabase) -> AsyncGenerator[SqlReader]:
    async with open_sql_reader(database.settings, guard_class=NoGuard) as reader:
        yield reader


async def test_rows_come_with_their_columns(reader: SqlReader) -> None:
    result = await reader.query("SELECT 1 AS id, 'a' AS name, now() AS at UNION ALL SELECT 2, NULL, NULL ORDER BY id")
    assert [(column.name, column.type) for column in result.columns] == [
        ("id", "integer"),
        ("name", "text"),
        ("at", "timestamp with time zone"),
    ]
    assert [row["id"] for row in result.rows] == [1, 2]
    assert result.rows[1] == {"id": 2, "name": None, "at": None}
    assert (result.row_count, result.truncated) == (2, False)
    assert result.duration_ms > 0


async def test_repeated_column_names_lose_nothing(reader: SqlReader) -> None:
    result = await reader.query("SELECT 1 AS a, 2 AS a, 3 AS a_2, 4, 5")
    assert result.rows == [{"a": 1, "a_3": 2, "a_2": 3, "?column?": 4, "?column?_2": 5}]


@pytest.mark.parametrize("max_rows", [1, 49, 50, 51, 100])
async def test_no_more_than_max_rows_are_returned(reader: SqlReader, max_rows: int) -> None:
    result = await reader.query("SELECT * FROM generate_series(1, 100) AS n", max_rows=max_rows)
    assert [row["n"] for row in result.rows] == list(range(1, max_rows + 1))
    assert result.truncated is (max_rows < 100)


async def test_a_million_rows_take_no_memory(reader: SqlReader) -> None:
    sql = "SELECT n, repeat('x', 100) AS text FROM generate_series(1, 1000000) AS n"
    await reader.query(sql, max_rows=1000)
    tracemalloc.start()
    try:
        result = await reader.query(sql, max_rows=1000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (result.row_count, result.truncated) == (1000, True)
    assert peak < 4 * 1024 * 1024


async def test_an_answer_ends_at_its_limit_of_bytes(reader: SqlReader) -> None:
    result = await reader.query("SELECT repeat('x', 500000) AS x FROM generate_series(1, 100)")
    assert result.truncated
    assert result.row_count == MAX_RESULT_BYTES // 500_002


async def test_a_huge_value_never_leaves_postgresql(reader: SqlReader) -> None:
    with pytest.raises(InvalidArguments, match="row 1 is larger than"):
        await reader.query("SELECT repeat('x', 50000000)")


async def test_parameters_have_the_types_that_the_query_gives_them(reader: SqlReader) -> None:
    result = await reader.query(
        "SELECT $1::int AS i, $2::timestamptz AS at, $3::numeric AS n, $4 AS t, $5::jsonb AS j, $6::int[] AS a, "
        "$7::bool AS b, $8::text AS missing, $9::bytea AS raw, $10::interval AS p, $1 + 1 AS next",
        [
            5,
            "2026-01-01T00:00:00+02:00",
            "12345678901234567890.10",
            "x",
            {"a": [1]},
            [1, None],
            True,
            None,
            "AAE=",
            "P1M",
        ],
    )
    assert result.rows == [
        {
            "i": 5,
            "at": "2025-12-31T22:00:00+00:00",
            "n": "12345678901234567890.10",
            "t": "x",
            "j": {"a": [1]},
            "a": [1, None],
            "b": True,
            "missing": None,
            "raw": "AAE=",
            "p": "P1M",
            "next": 6,
        }
    ]


async def test_a_list_stands_for_any_of_its_values(reader: SqlReader) -> None:
    hostile = ['a"b', "c\\", "{}", "NULL", "", "d,e", "';--"]
    result = await reader.query("SELECT t FROM unnest($1::text[]) AS t WHERE t = ANY ($1)", [hostile])
    assert [row["t"] for row in result.rows] == hostile


@pytest.mark.parametrize(
    ("sql", "params", "field"),
    [
        ("SELECT $1::int", ["abc"], "params.0"),
        ("SELECT $1::int, $2::date", [1, "2026-02-30"], "params.1"),
        ("SELECT $1::int", [[1]], "params.0"),
        ("SELECT $1::text", [{"a": 1}], "params.0"),
        ("SELECT $1::int[]", [[1, {"a": 1}]], "params.0.1"),
        ("SELECT $1::bytea", ["not base64!"], "params.0"),
        ("SELECT $1::text", ["a\0b"], "params.0"),
        ("SELECT $1::int", [], "params"),
        ("SELECT 1", [1], "params"),
        ("SELECT $2::int", [1, 2], "query"),
    ],
)
async def test_a_wrong_parameter_is_named(reader: SqlReader, sql: str, params: list[object], field: str) -> None:
    with pytest.raises(InvalidArguments) as refusal:
        await reader.query(sql, params)  # type: ignore[arg-type]
    assert [error.field for error in refusal.value.errors] == [field]


@pytest.mark.parametrize(
    ("sql", "error", "message"),
    [
        ("SELECT nope FROM customers", InvalidArguments, 'column "nope" does not exist'),
        ("SELECT * FROM nope", InvalidArguments, 'relation "nope" does not exist'),
        ("SELECT id FROM customers, tickets", InvalidArguments, "ambiguous"),
        ("SELECT 1 + 'a'", InvalidArguments, "invalid input syntax for type integer"),
        ("SELECT 1 / 0", InvalidArguments, "division by zero"),
        ("SELECT (SELECT n FROM generate_series(1, 2) n)", InvalidArguments, "more than one row"),
        ("SELECT * FROM alembic_version", Forbidden, "permission denied"),
    ],
)
async def test_what_postgresql_objects_to_is_said(
    reader: SqlReader, sql: str, error: type[GatewayError], message: str
) -> None:
    with pytest.raises(error, match=message):
        await reader.query(sql)
    assert (await reader.query("SELECT 1 AS one")).rows == [{"one": 1}]


async def test_explain_answers_its_plan(reader: SqlReader) -> None:
    text = await reader.query("EXPLAIN SELECT * FROM customers WHERE id = $1", ["12345"])
    assert "customers" in text.rows[0]["QUERY PLAN"]
    as_json = await reader.query("EXPLAIN (ANALYZE, FORMAT JSON) SELECT 1")
    assert as_json.rows[0]["QUERY PLAN"][0]["Plan"]["Node Type"] == "Result"


async def test_a_refusal_takes_no_connection(reader: SqlReader, database: TestDatabase) -> None:
    await reader.query("SELECT 1")
    async with database.connect() as administrator:
        await administrator.execute("ALTER ROLE switchboard_reader_login NOLOGIN")
        try:
            await administrator.execute(_END_OTHER_SESSIONS)
            with pytest.raises(Forbidden, match="function pg_sleep"):
                await reader.query("SELECT pg_sleep(1)")
        finally:
            await administrator.execute("ALTER ROLE switchboard_reader_login LOGIN")


async def _until_gone(database: TestDatabase, mark: str) -> None:
    """Return once no session of the database runs a statement with a mark; it has a second."""
    async with database.connect() as administrator, asyncio.timeout(1):
        while await _running(administrator, mark):
            pass


async def _running(connection: "asyncpg.Connection[asyncpg.Record]", mark: str) -> int:
    return await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' "
        "AND query LIKE '%' || $1 || '%' AND pid <> pg_backend_pid()",
        mark,
    )


_ENDLESS = "SELECT count(*) AS {mark} FROM generate_series(1, 100000000000) AS n"


async def test_cancelling_the_call_cancels_the_query(reader: SqlReader, database: TestDatabase) -> None:
    call = asyncio.create_task(reader.query(_ENDLESS.format(mark="abandoned")))
    async with database.connect() as administrator, asyncio.timeout(10):
        while not await _running(administrator, "abandoned"):
            pass
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await _until_gone(database, "abandoned")
    assert (await reader.query("SELECT 1 AS one")).rows == [{"one": 1}]


async def test_the_time_limit_ends_the_query(reader: SqlReader, database: TestDatabase) -> None:
    with pytest.raises(BackendTimeout, match="time limit"):
        await reader.query(_ENDLESS.format(mark="too_slow"), timeout_ms=100)
    await _until_gone(database, "too_slow")
    assert (await reader.query("SELECT 1 AS one")).rows == [{"one": 1}]


async def test_the_time_limit_counts_connecting_too() -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        own = settings_for(None, f"postgresql://u:p@127.0.0.1:{port}/db", connect_timeout=60)
        async with open_sql_reader(own) as reader, asyncio.timeout(10):
            with pytest.raises(BackendTimeout, match="time limit"):
                await reader.query("SELECT 1", timeout_ms=50)


async def test_who_gets_no_connection_soon_is_told_to_come_back(database: TestDatabase) -> None:
    own = settings_for(None, database.reader_url, reader_pool_size=1, pool_wait=0.05)
    async with open_sql_reader(own) as reader:
        await reader.query("SELECT 1")
        slow = asyncio.create_task(reader.query(_ENDLESS.format(mark="occupies")))
        async with database.connect() as administrator, asyncio.timeout(10):
            while not await _running(administrator, "occupies"):
                pass
            with pytest.raises(TooManyRequests, match="busy"):
                await reader.query("SELECT 1")
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        assert (await reader.query("SELECT 1 AS one")).rows == [{"one": 1}]


async def test_many_who_wait_for_the_catalogs_load_them_once(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = 0
    load = Catalog.load

    async def counted(connection: "asyncpg.Connection[asyncpg.Record]") -> Catalog:
        nonlocal loads
        loads += 1
        return await load(connection)

    monkeypatch.setattr(Catalog, "load", counted)
    async with open_sql_reader(settings_for(None, database.reader_url, pool_wait=30)) as reader:
        for expected in (1, 2):
            answers = await asyncio.gather(*(reader.query("SELECT 1 AS one") for _ in range(50)))
            assert all(answer.rows == [{"one": 1}] for answer in answers)
            assert loads == expected
            reader._stale_at = 0.0


async def test_statements_leave_nothing_behind(reader: SqlReader) -> None:
    for number in range(50):
        await reader.query(f"SELECT {number} AS n")
    assert reader._sessions is not None
    async with reader._sessions.begin(10) as connection:
        for view in ("pg_prepared_statements", "pg_cursors"):
            # The server lists the statement that asks, too.
            others = f"SELECT count(*) FROM {view} WHERE statement NOT LIKE '%{view}%'"
            assert await connection.fetchval(others) == 0


async def test_without_its_login_the_tool_names_the_setting() -> None:
    async with open_sql_reader(settings_for("postgresql://u@127.0.0.1/db")) as reader:
        with pytest.raises(BackendNotConfigured, match="DATABASE_READER_URL"):
            await reader.query("SELECT 1")


async def test_a_dead_database_is_unavailable() -> None:
    url = f"postgresql://u:p@127.0.0.1:{free_port()}/db"
    async with open_sql_reader(settings_for(None, url)) as reader:
        with pytest.raises(BackendUnavailable):
            await reader.query("SELECT 1")


async def test_connections_that_the_server_closed_are_replaced(reader: SqlReader, database: TestDatabase) -> None:
    await reader.query("SELECT 1")
    async with database.connect() as administrator:
        await administrator.execute(_END_OTHER_SESSIONS)
    assert (await reader.query("SELECT 1 AS one")).rows == [{"one": 1}]


# Each layer with the others switched off.

WRITES = [
    "INSERT INTO customers (id, name, email) VALUES ('1', 'a', 'a@b')",
    "UPDATE customers SET name = 'a'",
    "DELETE FROM customers",
    "TRUNCATE customers",
    "DROP TABLE customers",
    "CREATE TABLE t (a int)",
    "CREATE TEMP TABLE t (a int)",
    "SELECT nextval('tickets_id_seq')",
    "WITH gone AS (DELETE FROM customers RETURNING 1) SELECT * FROM gone",
]


@pytest.mark.parametrize("sql", WRITES)
async def test_without_the_guard_the_login_and_the_transaction_refuse_writes(unguarded: SqlReader, sql: str) -> None:
    with pytest.raises(Forbidden):
        await unguarded.query(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT * FROM pg_authid",
        "SELECT pg_reload_conf()",
        "SELECT lo_import('/etc/passwd')",
        "COPY customers TO '/tmp/out'",
        "SET ROLE postgres",
        "SELECT set_config('role', 'postgres', false)",
        "ALTER ROLE switchboard_reader_login SUPERUSER",
    ],
)
async def test_without_the_guard_the_login_has_no_rights_to_lose(unguarded: SqlReader, sql: str) -> None:
    with pytest.raises(Forbidden):
        await unguarded.query(sql)


async def test_without_the_guard_the_protocol_refuses_a_second_statement(unguarded: SqlReader) -> None:
    with pytest.raises(InvalidArguments, match="multiple commands"):
        await unguarded.query("SELECT 1; SELECT 2")


async def test_without_the_guard_the_time_limit_ends_a_wait(unguarded: SqlReader) -> None:
    with pytest.raises(BackendTimeout):
        await unguarded.query("SELECT pg_sleep(60)", timeout_ms=100)


async def test_a_setting_changed_by_one_call_is_gone_in_the_next(unguarded: SqlReader) -> None:
    await unguarded.query("SELECT set_config('search_path', 'other', false), set_config('work_mem', '1GB', false)")
    result = await unguarded.query("SHOW search_path")
    assert result.rows == [{"search_path": "pg_catalog, public, pg_temp"}]


@pytest.mark.parametrize(
    "sql", ["INSERT INTO customers (id, name, email) VALUES ('1', 'a', 'a@b')", "CREATE TABLE t ()"]
)
async def test_with_a_login_that_may_write_and_no_guard_the_transaction_refuses(
    database: TestDatabase, sql: str
) -> None:
    async with open_sql_reader(_as_superuser(database), guard_class=NoGuard) as reader:
        with pytest.raises(Forbidden, match="read-only transaction"):
            await reader.query(sql)


@pytest.mark.parametrize(
    "sql", [*WRITES, "SELECT pg_read_file('/etc/passwd')", "SELECT * FROM pg_authid", "SET ROLE x"]
)
async def test_with_the_login_of_a_superuser_the_guard_refuses(database: TestDatabase, sql: str) -> None:
    async with open_sql_reader(_as_superuser(database)) as reader:
        with pytest.raises(Forbidden, match="not allowed"):
            await reader.query(sql)


def _as_superuser(database: TestDatabase) -> PostgresSettings:
    return settings_for(None, database.url)


def test_sql_is_another_word_for_query() -> None:
    assert SqlQuery.model_validate_json('{"sql": "SELECT 1"}', strict=True) == SqlQuery(query="SELECT 1")
    with pytest.raises(ValidationError):
        SqlQuery.model_validate_json('{"sql": "SELECT 1", "query": "SELECT 2"}', strict=True)


@pytest.mark.parametrize("wrong", ['{"max_rows": 0}', '{"max_rows": 10001}', '{"timeout_ms": 60001}', '{"params": {}}'])
def test_arguments_have_limits(wrong: str) -> None:
    with pytest.raises(ValidationError):
        SqlQuery.model_validate_json('{"query": "SELECT 1", ' + wrong[1:], strict=True)
