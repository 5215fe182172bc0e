"""Queries of callers: rows as JSON, limits that hold, and each layer of protection without the others."""

import asyncio
import tracemalloc
from collections.abc import AsyncGenerator, Sequence

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
from app.services.postgres.sql.answers import MAX_RESULT_BYTES
from app.services.postgres.sql.bounds import Argument
from app.services.postgres.sql.catalog import Catalog
from app.services.postgres.sql.guard import ReadingStatement, SqlGuard
from app.services.postgres.sql.reader import SqlQuery
from tests.fixtures.postgres import TestDatabase, settings_for
from tests.mcp_servers.statements import GONE_WITHIN
from tests.services.postgres.sql.answering import AnsweringReader, open_answering_reader

_END_OTHER_SESSIONS = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


class NoGuard(SqlGuard):
    """Lets everything pass, to show what the other layers hold."""

    def check(self, sql: str, arguments: Sequence[Argument] = ()) -> ReadingStatement:
        del arguments
        return ReadingStatement(sql, False, ())


@pytest.fixture
async def reader(database: TestDatabase) -> AsyncGenerator[AnsweringReader]:
    async with open_answering_reader(database.settings) as reader:
        yield reader


@pytest.fixture
async def unguarded(database: TestDatabase) -> AsyncGenerator[AnsweringReader]:
    async with open_answering_reader(database.settings, guard_class=NoGuard) as reader:
        yield reader


async def test_rows_come_with_their_columns(reader: AnsweringReader) -> None:
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


async def test_repeated_column_names_lose_nothing(reader: AnsweringReader) -> None:
    result = await reader.query("SELECT 1 AS a, 2 AS a, 3 AS a_2, 4, 5")
    assert result.rows == [{"a": 1, "a_3": 2, "a_2": 3, "?column?": 4, "?column?_2": 5}]


@pytest.mark.parametrize("max_rows", [1, 49, 50, 51, 100])
async def test_no_more_than_max_rows_are_returned(reader: AnsweringReader, max_rows: int) -> None:
    result = await reader.query("SELECT * FROM generate_series(1, 100) AS n", max_rows=max_rows)
    assert [row["n"] for row in result.rows] == list(range(1, max_rows + 1))
    assert result.truncated is (max_rows < 100)


async def test_a_million_rows_take_no_memory(reader: AnsweringReader) -> None:
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


async def test_an_answer_ends_at_its_limit_of_bytes(reader: AnsweringReader) -> None:
    result = await reader.query("SELECT repeat('x', 500000) AS x FROM generate_series(1, 100)")
    assert result.truncated
    assert result.row_count == MAX_RESULT_BYTES // 500_002


async def test_a_huge_value_never_leaves_postgresql(reader: AnsweringReader) -> None:
    with pytest.raises(InvalidArguments, match="row 1 is larger than"):
        await reader.query("SELECT repeat('x', 10000000)")


async def test_parameters_have_the_types_that_the_query_gives_them(reader: AnsweringReader) -> None:
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


async def test_a_list_stands_for_any_of_its_values(reader: AnsweringReader) -> None:
    hostile = ['a"b', "c\\", "{}", "NULL", "", "d,e", "';--"]
    result = await reader.query("SELECT t FROM unnest($1::text[]) AS t WHERE t = ANY ($1)", [hostile])
    assert [row["t"] for row in result.rows] == hostile


async def test_a_list_is_read_once_and_not_for_each_row(reader: AnsweringReader) -> None:
    plan = await reader.query("EXPLAIN SELECT count(*) FROM tickets WHERE id + 0 = ANY ($1)", [[1, 2]])
    assert any("InitPlan" in row["QUERY PLAN"] for row in plan.rows)
    for sql in ("SELECT 2 = ANY ($1::int[]) AS found", "SELECT $1 @> ARRAY[2] AND 2 <@ $2::int4range AS found"):
        values: list[object] = [[1, 2], "[1,5)"]
        assert (await reader.query(sql, values[: sql.count("$")])).rows == [{"found": True}]


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
async def test_a_wrong_parameter_is_named(reader: AnsweringReader, sql: str, params: list[object], field: str) -> None:
    with pytest.raises(InvalidArguments) as refusal:
        await reader.query(sql, params)
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
        ("SELECT * FROM alembic_version", InvalidArguments, 'relation "alembic_version" does not exist, or may not'),
    ],
)
async def test_what_postgresql_objects_to_is_said(
    reader: AnsweringReader, sql: str, error: type[GatewayError], message: str
) -> None:
    with pytest.raises(error, match=message):
        await reader.query(sql)
    assert (await reader.query("SELECT 1 AS one")).rows == [{"one": 1}]


async def test_explain_answers_its_plan(reader: AnsweringReader) -> None:
    text = await reader.query("EXPLAIN SELECT * FROM customers WHERE id = $1", ["12345"])
    assert "customers" in text.rows[0]["QUERY PLAN"]
    as_json = await reader.query("EXPLAIN (ANALYZE, FORMAT JSON) SELECT 1")
    assert as_json.rows[0]["QUERY PLAN"][0]["Plan"]["Node Type"] == "Result"


async def test_a_refusal_takes_no_connection(reader: AnsweringReader, database: TestDatabase) -> None:
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
    """Return once no session of the database runs a statement with a mark."""
    async with database.connect() as administrator, asyncio.timeout(GONE_WITHIN):
        while await _running(administrator, mark):
            pass


async def _running(connection: "asyncpg.Connection[asyncpg.Record]", mark: str) -> int:
    return await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' "
        "AND query LIKE '%' || $1 || '%' AND pid <> pg_backend_pid()",
        mark,
    )


_ENDLESS = "SELECT count(*) AS {mark} FROM generate_series(1, 100000000000) AS n"


async def test_cancelling_the_call_cancels_the_query(reader: AnsweringReader, database: TestDatabase) -> None:
    call = asyncio.create_task(reader.query(_ENDLESS.format(mark="abandoned")))
    async with database.connect() as administrator, asyncio.timeout(30):
        while not await _running(administrator, "abandoned"):
            pass
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await _until_gone(database, "abandoned")
    assert (await reader.query("SELECT 1 AS one")).rows == [{"one": 1}]


async def test_the_time_limit_ends_the_query(reader: AnsweringReader, database: TestDatabase) -> None:
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
        async with open_answering_reader(own) as reader, asyncio.timeout(30):
            with pytest.raises(BackendTimeout, match="time limit"):
                await reader.query("SELECT 1", timeout_ms=50)


async def test_who_gets_no_connection_soon_is_told_to_come_back(database: TestDatabase) -> None:
    own = settings_for(None, database.reader_url, reader_pool_size=1, pool_wait=0.05)
    async with open_answering_reader(own) as reader:
        await reader.query("SELECT 1")
        slow = asyncio.create_task(reader.query(_ENDLESS.format(mark="occupies")))
        async with database.connect() as administrator, asyncio.timeout(30):
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
    async with open_answering_reader(settings_for(None, database.reader_url, pool_wait=30)) as reader:
        for expected in (1, 2):
            answers = await asyncio.gather(*(reader.query("SELECT 1 AS one") for _ in range(50)))
            assert all(answer.rows == [{"one": 1}] for answer in answers)
            assert loads == expected
            reader.reader._stale_at = 0.0


async def test_statements_leave_nothing_behind(reader: AnsweringReader) -> None:
    for number in range(50):
        await reader.query(f"SELECT {number} AS n")
    assert reader.reader._sessions is not None
    async with reader.reader._sessions.begin(10) as connection:
        for view in ("pg_prepared_statements", "pg_cursors"):
            # The server lists the statement that asks, too.
            others = f"SELECT count(*) FROM {view} WHERE statement NOT LIKE '%{view}%'"
            assert await connection.fetchval(others) == 0


async def test_a_backend_works_for_some_time_and_no_longer(
    unguarded: AnsweringReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its caches keep, such as time zones that statements made up, ends with it."""
    asked = "SELECT pg_backend_pid() AS pid"
    processes = {(await unguarded.query(asked)).rows[0]["pid"] for _ in range(5)}
    assert len(processes) == 1
    monkeypatch.setattr("app.services.postgres.sql.sessions.WORKS_FOR_SECONDS", 0.0)
    processes = {(await unguarded.query(asked)).rows[0]["pid"] for _ in range(5)}
    assert len(processes) >= 4


async def test_without_its_login_the_tool_names_the_setting() -> None:
    async with open_answering_reader(settings_for("postgresql://u@127.0.0.1/db")) as reader:
        with pytest.raises(BackendNotConfigured, match="DATABASE_READER_URL"):
            await reader.query("SELECT 1")


async def test_a_dead_database_is_unavailable() -> None:
    url = f"postgresql://u:p@127.0.0.1:{free_port()}/db"
    async with open_answering_reader(settings_for(None, url)) as reader:
        with pytest.raises(BackendUnavailable):
            await reader.query("SELECT 1")


async def test_connections_that_the_server_closed_are_replaced(reader: AnsweringReader, database: TestDatabase) -> None:
    await reader.query("SELECT 1")
    async with database.connect() as administrator:
        await administrator.execute(_END_OTHER_SESSIONS)
    assert (await reader.query("SELECT 1 AS one")).rows == [{"one": 1}]


DATA = "ada@example.com"

LEAKS = [
    "SELECT email::int FROM customers",
    "SELECT email::numeric FROM customers",
    "SELECT email::date FROM customers",
    "SELECT email::timestamptz FROM customers",
    "SELECT email::interval FROM customers",
    "SELECT email::bool FROM customers",
    "SELECT email::uuid FROM customers",
    "SELECT email::inet FROM customers",
    "SELECT email::jsonb FROM customers",
    "SELECT email::int[] FROM customers",
    "SELECT email::point FROM customers",
    "SELECT email::tsquery FROM customers",
    "SELECT email::bytea FROM (SELECT '\\x' || email AS email FROM customers) c",
    "SELECT email::xml FROM (SELECT '<' || email AS email FROM customers) c",
    "SELECT email::int4range FROM customers",
    "SELECT to_tsvector(email::regconfig, 'a') FROM customers",
    "SELECT to_date(email, 'YYYY') FROM customers",
    "SELECT to_number(email, email) FROM customers",
    "SELECT now() AT TIME ZONE email FROM customers",
    "SELECT date_trunc(email, now()), extract(epoch FROM now()) FROM customers",
    "SELECT name ~ ('(' || email) FROM customers",
    "SELECT decode(email, 'base64'), encode('a', email) FROM customers",
    "SELECT jsonb_path_query('{}', 'strict $.$name', jsonb_build_object('name', email)) FROM customers",
    "SELECT JSON_VALUE(to_jsonb(email), '$' RETURNING int ERROR ON ERROR) FROM customers",
    "SELECT make_interval(days => 1) + (email || ' days')::interval FROM customers",
    "SELECT to_tsquery(email || ' & & ') FROM customers",
    "SELECT * FROM json_to_recordset('[{\"a\": 1}]') AS t(a int), customers WHERE email::money > '1'::money",
    "SELECT email::bit(3) FROM customers",
    "SELECT convert_from(email::bytea, email) FROM customers",
    "SELECT to_char(now(), email)::int FROM customers",
]


@pytest.mark.parametrize("sql", LEAKS)
async def test_what_postgresql_says_of_data_is_told_without_it(desk: TestDatabase, sql: str) -> None:
    async with open_answering_reader(desk.settings) as reader:
        with pytest.raises(InvalidArguments) as refusal:
            await reader.query(sql)
    assert DATA not in refusal.value.detail
    assert "ada" not in refusal.value.detail.lower()


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT nme FROM customers", r'column "nme" does not exist \(at character 8\); Perhaps you meant .*name"'),
        ("SELECT name + 1 FROM customers", r"operator does not exist: text \+ integer.*explicit type casts"),
        ("SELECT name::int FROM customers", "invalid input syntax for type integer$"),
        ("SELECT 'x'::nope.t", "does not exist"),
        ("SELECT * FROM nope.customers", "does not exist"),
        ('SELECT name COLLATE "nope" FROM customers', "does not exist"),
    ],
)
async def test_a_place_and_a_harmless_hint_are_told(desk: TestDatabase, sql: str, message: str) -> None:
    async with open_answering_reader(desk.settings) as reader:
        with pytest.raises(InvalidArguments, match=message):
            await reader.query(sql)


async def test_a_hint_names_no_column_that_the_reader_may_not_see(database: TestDatabase) -> None:
    async with database.connect() as administrator:
        await administrator.execute(
            "CREATE TABLE partly (shown int, salary_of_ada int); GRANT SELECT (shown) ON partly TO switchboard_reader"
        )
    async with open_answering_reader(database.settings) as reader:
        assert (await reader.query("SELECT shown FROM partly")).rows == []
        with pytest.raises(InvalidArguments) as refusal:
            await reader.query("SELECT salary_of_adam FROM partly")
    assert 'salary_of_ada"' not in refusal.value.detail


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM {}",
        "SELECT nope FROM {}",
        "TABLE {0} UNION SELECT 1, 2",
        "SELECT * FROM hidden.{}",
        "EXPLAIN SELECT * FROM {}",
        "WITH a AS (SELECT * FROM {}) SELECT 1",
        "SELECT 1 FROM {0}, (WITH {0} AS (SELECT 1) SELECT * FROM {0}) AS t",
        "SELECT JSON_ARRAY(SELECT a FROM {})",
        "SELECT 1 WHERE EXISTS (SELECT FROM {})",
        "SELECT (SELECT NULL::{})",
        "SELECT pg_typeof(1) = '{}'::regtype",
        "SELECT hidden.{}[1]",
        "SELECT NULL::{0}[], NULL::_{0}",
        "SELECT '1'::hidden.{}",
        "SELECT {}.abs(1)",
        'SELECT name COLLATE {}."C" FROM customers',
        "SELECT 1 OPERATOR({}.+) 1",
        "SELECT * FROM {}.customers",
    ],
)
async def test_nobody_learns_what_there_is_by_guessing_names(database: TestDatabase, sql: str) -> None:
    async with database.connect() as administrator:
        await administrator.execute(
            "CREATE SCHEMA hidden; CREATE TABLE hidden.secret (a int); CREATE TABLE secret (a int);CREATE SCHEMA secret"
        )
    told: list[str] = []
    async with open_answering_reader(database.settings) as reader:
        for name in ("secret", "nosuch"):
            with pytest.raises(InvalidArguments) as refusal:
                await reader.query(sql.format(name))
            told.append(refusal.value.detail.replace(name, "NAME"))
    assert told[0] == told[1]


async def test_a_table_that_was_granted_just_now_is_found(
    reader: AnsweringReader, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidArguments, match="may not be read"):
        await reader.query("SELECT * FROM fresh")
    async with database.connect() as administrator:
        await administrator.execute("CREATE TABLE fresh (a int); GRANT SELECT ON fresh TO switchboard_reader")
    monkeypatch.setattr("app.services.postgres.sql.reader._UNKNOWN_SECONDS", 0.0)
    assert (await reader.query("SELECT * FROM fresh")).rows == []


async def test_a_parameter_can_not_look_names_up(reader: AnsweringReader, unguarded: AnsweringReader) -> None:
    assert (await reader.query("SELECT to_tsvector($1::regconfig, 'a')", ["english"])).rows
    with pytest.raises(Forbidden, match=r"value for \$1"):
        await unguarded.query("SELECT coalesce(1::oid::regrole, $1)", ["postgres"])


async def test_the_schema_of_the_tables_is_the_current_one(reader: AnsweringReader) -> None:
    listed = await reader.query(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema() ORDER BY 1"
    )
    assert [row["table_name"] for row in listed.rows] == ["customers", "interactions", "knowledge_articles", "tickets"]


async def test_no_table_of_others_stands_before_postgresqls_own_names(database: TestDatabase) -> None:
    async with database.connect() as administrator:
        await administrator.execute(
            "CREATE FUNCTION public.lower(text) RETURNS text LANGUAGE sql AS $$SELECT 'stolen'$$;"
            "CREATE DOMAIN public.text AS pg_catalog.int4; CREATE TABLE public.int4 (a int)"
        )
    async with open_answering_reader(database.settings) as reader:
        answer = await reader.query("SELECT 'a'::text AS a, 1::int4 AS b, pg_catalog.upper('a') AS c")
        assert answer.rows == [{"a": "a", "b": 1, "c": "A"}]
        with pytest.raises(Forbidden, match="function lower"):
            await reader.query("SELECT lower('A')")


async def test_schemata_tell_no_owner(reader: AnsweringReader) -> None:
    for sql in ("SELECT * FROM information_schema.schemata", "TABLE information_schema.schemata"):
        rows = (await reader.query(sql)).rows
        assert "public" in {row["schema_name"] for row in rows}
        assert {row["schema_owner"] for row in rows} == {None}
    assert (await reader.query('SELECT s.schema_name FROM information_schema . "schemata" AS s LIMIT 1')).rows


async def test_nulls_and_names_count(reader: AnsweringReader) -> None:
    columns = ", ".join(f'NULL AS "{number:060}"' for number in range(300))
    sql = f"WITH a AS (SELECT {columns}) SELECT a.*, b.*, c.* FROM a, a AS b, a AS c, generate_series(1, 10000)"
    answer = await reader.reader.query(sql, max_rows=10_000)
    assert len(answer.json) < MAX_RESULT_BYTES + 200_000
    assert b'"truncated":true' in answer.json


async def test_escapes_count(reader: AnsweringReader) -> None:
    sql = "SELECT repeat(chr(1), 100000) AS x FROM generate_series(1, 100)"
    answer = await reader.query(sql)
    assert answer.row_count == MAX_RESULT_BYTES // 600_010
    with pytest.raises(InvalidArguments, match="row 1 is larger than"):
        await reader.query("SELECT repeat(chr(1), 200000)")


async def test_a_portion_is_no_larger_than_an_answer(reader: AnsweringReader) -> None:
    sql = "SELECT repeat('x', 900000) AS x FROM generate_series(1, 10000)"
    await reader.query(sql, max_rows=10)
    tracemalloc.start()
    try:
        answer = await reader.query(sql, max_rows=10_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (answer.row_count, answer.truncated) == (4, True)
    assert peak < 10 * MAX_RESULT_BYTES


async def test_a_large_answer_leaves_the_loop_to_others(reader: AnsweringReader) -> None:
    columns = ", ".join(f"n AS c{number}" for number in range(60))
    sql = f"SELECT {columns} FROM generate_series(1, 10000) AS n"
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    await reader.query(sql, max_rows=1)
    other = asyncio.create_task(count())
    answer = await reader.reader.query(sql, max_rows=10_000)
    other.cancel()
    cells = answer.json.count(b":")
    assert cells > 300_000
    # A turn of ours writes 10,000 cells at most.
    assert turns > cells // 10_000


async def test_a_backend_that_is_lost_takes_no_place_and_is_named(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(None, database.reader_url, reader_pool_size=1)
    deaf = "SELECT length(translate(repeat('x', 30000), repeat('y', 30000), '')) AS lost"
    async with open_answering_reader(settings, guard_class=NoGuard) as unguarded:
        await unguarded.query("SELECT 1")
        with pytest.raises(BackendTimeout):
            await unguarded.query(deaf, timeout_ms=200)
        assert (await unguarded.query("SELECT 1 AS one")).rows
        async with database.connect() as administrator:
            assert await _running(administrator, "lost")
        assert await unguarded.reader.objection() is None
        monkeypatch.setattr("app.services.postgres.sql.reader._LOST_AFTER_SECONDS", 0.0)
        assert "can't interrupt" in str(await unguarded.reader.objection())
        async with database.connect() as administrator, asyncio.timeout(60):
            while await _running(administrator, "lost"):
                pass


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
async def test_without_the_guard_the_login_and_the_transaction_refuse_writes(
    unguarded: AnsweringReader, sql: str
) -> None:
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
async def test_without_the_guard_the_login_has_no_rights_to_lose(unguarded: AnsweringReader, sql: str) -> None:
    with pytest.raises(Forbidden):
        await unguarded.query(sql)


async def test_without_the_guard_the_protocol_refuses_a_second_statement(unguarded: AnsweringReader) -> None:
    with pytest.raises(InvalidArguments, match="multiple commands"):
        await unguarded.query("SELECT 1; SELECT 2")


async def test_without_the_guard_the_time_limit_ends_a_wait(unguarded: AnsweringReader) -> None:
    with pytest.raises(BackendTimeout):
        await unguarded.query("SELECT pg_sleep(60)", timeout_ms=100)


async def test_a_setting_changed_by_one_call_is_gone_in_the_next(unguarded: AnsweringReader) -> None:
    await unguarded.query("SELECT set_config('search_path', 'other', false), set_config('work_mem', '1GB', false)")
    result = await unguarded.query("SHOW search_path")
    assert result.rows == [{"search_path": "public, pg_temp"}]


@pytest.mark.parametrize(
    "sql", ["INSERT INTO customers (id, name, email) VALUES ('1', 'a', 'a@b')", "CREATE TABLE t ()"]
)
async def test_with_a_login_that_may_write_and_no_guard_the_transaction_refuses(
    database: TestDatabase, sql: str
) -> None:
    async with open_answering_reader(_as_superuser(database), guard_class=NoGuard) as reader:
        with pytest.raises(Forbidden, match="read-only transaction"):
            await reader.query(sql)


@pytest.mark.parametrize(
    "sql", [*WRITES, "SELECT pg_read_file('/etc/passwd')", "SELECT * FROM pg_authid", "SET ROLE x"]
)
async def test_with_the_login_of_a_superuser_the_guard_refuses(database: TestDatabase, sql: str) -> None:
    async with open_answering_reader(_as_superuser(database)) as reader:
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
