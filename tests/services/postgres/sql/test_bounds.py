"""No statement that is let through makes PostgreSQL deaf: its cost is known before, or checked while it runs."""

import asyncio
import json
from collections.abc import AsyncGenerator
from itertools import chain
from typing import Any

import asyncpg
import pytest
from pydantic import JsonValue

from app.errors import BackendTimeout, Forbidden, InvalidArguments
from app.local.postgres import LocalPostgres
from app.services.postgres.sql.bounds import Argument
from app.services.postgres.sql.catalog import EXTENSIONS, Catalog
from app.services.postgres.sql.functions import (
    AGGREGATES,
    COUNTED,
    FILLING,
    FUNCTIONS,
    GROWING_AGGREGATES,
    OPERATORS,
    TEMPLATES,
)
from app.services.postgres.sql.guard import SqlGuard
from app.services.postgres.sql.reader import open_sql_reader
from tests.fixtures.postgres import TestDatabase, cloned_database
from tests.services.postgres.sql.answering import AnsweringReader, open_answering_reader
from tests.services.postgres.sql.random_statements import plant, search


@pytest.fixture(scope="session")
async def equipped(postgres_server: LocalPostgres, postgres_template: str) -> AsyncGenerator[TestDatabase]:
    """A database with every extension that is allowed."""
    async with cloned_database(postgres_server, postgres_template) as database:
        async with database.connect() as administrator:
            for extension in EXTENSIONS:
                await administrator.execute(f"CREATE EXTENSION IF NOT EXISTS {extension}")
        yield database


@pytest.fixture
async def reader(equipped: TestDatabase) -> AsyncGenerator[AnsweringReader]:
    async with open_answering_reader(equipped.settings) as opened:
        yield opened


@pytest.fixture
async def desk_reader(desk: TestDatabase) -> AsyncGenerator[AnsweringReader]:
    async with open_answering_reader(desk.settings) as opened:
        yield opened


@pytest.fixture(scope="session")
async def guard(equipped: TestDatabase) -> SqlGuard:
    connection = await asyncpg.connect(equipped.reader_url)
    try:
        return SqlGuard(await Catalog.load(connection))
    finally:
        await connection.close()


_MANY = "repeat('x', 3000000)"
_PLACES = " ".join(f"w{word}:{','.join(str(place) for place in range(1, 256))}" for word in range(200))
"""A tsvector of 200 words, each of which stands at 255 places."""

TOO_MUCH: list[tuple[str, list[Any]]] = [
    # functions that go over one operand for each character of another
    (f"SELECT length(translate({_MANY}, {_MANY}, ''))", []),
    (f"SELECT length(btrim({_MANY}, {_MANY}))", []),
    (f"SELECT length(trim(leading {_MANY} from {_MANY}))", []),
    (f"SELECT strpos({_MANY}, {_MANY} || 'b')", []),
    (f"SELECT position({_MANY}::bytea in {_MANY}::bytea)", []),
    (f"SELECT split_part({_MANY}, {_MANY}, 2)", []),
    (f"SELECT cardinality(string_to_array({_MANY}, {_MANY}))", []),
    (f"SELECT length(replace({_MANY}, {_MANY}, ''))", []),
    (f"SELECT {_MANY} LIKE repeat('%x', 1000000)", []),
    (f"SELECT {_MANY} LIKE '%' || repeat('x', 1000000) || 'b'", []),
    (f"SELECT {_MANY} NOT ILIKE repeat('%x', 1000000)", []),
    ("SELECT like_escape(repeat('%', 9000000), '!') LIKE repeat('%x', 1000000)", []),
    ("SELECT length(normalize(repeat(U&'\\0301\\0316', 200000)))", []),
    ("SELECT repeat(U&'\\0301\\0316', 200000) IS NFKD NORMALIZED", []),
    ("SELECT similarity(repeat('abc ', 4000000), 'a')", []),
    ("SELECT $1::text % $2", ["abc " * 400_000, "abc " * 4_000_000]),
    # operators on what takes its size from a cast
    ("SELECT $1::int[] @> $2::int[]", [list(range(100_000)), list(range(100_000))]),
    ("SELECT $1::int[] && $2::int[]", [list(range(100_000)), list(range(100_000))]),
    ("SELECT $1::jsonb @> $2::jsonb", [list(range(50_000)), list(range(50_000))]),
    ("SELECT $1::jsonb - $2::text[]", [["a"] * 50_000, ["b"] * 50_000]),
    ("SELECT $1::path <-> $2::path", ["(1,2)," * 20_000 + "(1,2)"] * 2),
    ("SELECT $1::numeric % 7" + " % ($1::numeric + 1)" * 20, ["9" * 130_000]),
    ("SELECT ts_rank_cd(to_tsvector($1), plainto_tsquery($1))", ["w " * 100_000]),
    ("SELECT numnode($1::tsquery)", [" & ".join(["w"] * 200_000)]),
    ("SELECT 'a' @@ repeat('(1,2),', 100000)", []),
    ("SELECT $1::lquery", [".".join(["a|b"] * 60_000)]),
    ("SELECT $1::text[]::tsquery[]", [["w&" * 200_000 + "w"]]),
    # what is quadratic within one call
    ("SELECT $1::polygon ~= $2::polygon", ["(0,0)," * 100_000 + "(1,1)", "(0,0)," * 100_000 + "(2,1)"]),
    ("SELECT $1::ltree @ $2::ltxtquery", [".".join(["a"] * 60_000), "|".join(["b"] * 10_000)]),
    ("SELECT index($1::ltree, $2::ltree)", [".".join(["a"] * 60_000), ".".join(["a"] * 30_000)]),
    ("SELECT to_date($1, $2)", ["2" * 1_000_000, "YYYY" * 250_000]),
    ("SELECT to_timestamp($1, $2)", ["+05" * 250_000, "TZH" * 250_000]),
    ("SELECT ts_rank($1::tsvector, $2::tsquery)", [_PLACES, " & ".join(f"w{n}" for n in range(200))]),
    ("SELECT ts_rank('{1,1,1,1}', $1::tsvector, $2::tsquery, 2)", [_PLACES, " & ".join(f"w{n}" for n in range(200))]),
    ("SELECT ts_headline('english', $1, 'a'::tsquery, 'MaxFragments=9999, MaxWords=2, MinWords=1')", ["a " * 300_000]),
    ("SELECT ts_headline($1, 'a'::tsquery, $2)", ["a " * 300_000, "MaxFragments=9999, MaxWords=2, MinWords=1"]),
    ("SELECT jsonb_path_exists($1::jsonb, '$ ? (@.a[*] == @.b[*])')", [{"a": list(range(60_000)), "b": [-1] * 60_000}]),
    ("SELECT $1::jsonb @? '$ ? (@.a == $.b)'", [{"a": list(range(60_000)), "b": [-1] * 60_000}]),
    ("SELECT JSON_EXISTS($1::jsonb, $$$ ? (@.a < @.b)$$)", [{"a": list(range(60_000)), "b": [-1] * 60_000}]),
    (
        "SELECT * FROM JSON_TABLE($1::jsonb, '$ ? (@.a > @.b)' COLUMNS (c int PATH '$.c')) t",
        [{"a": list(range(60_000)), "b": [70_000] * 60_000}],
    ),
    ("SELECT jsonb_path_exists($1::jsonb, $2)", [list(range(200_000)), "$ ? (@[*] == $[*])"]),
    ("SELECT $1::text::xml IS NULL", ["<a " + " ".join(f'a{n}=""' for n in range(50_000)) + "/>"]),
    ("SELECT $1::xml IS NULL", ["<a " + " ".join(f'a{n}=""' for n in range(50_000)) + "/>"]),
    ("SELECT xml_is_well_formed($1)", ["<a b=1 " * 400_000]),
    ("SELECT xmlparse(document $1) IS NULL", ["<!DOCTYPE a [" + "<!ATTLIST a b CDATA 'x'>" * 3000 + "]><a/>"]),
    # what sorts, given an order that was made against quicksort
    ("SELECT $1::int4multirange", ["{" + ",".join(f"[{n},{n + 1})" for n in range(60_000)) + "}"]),
    ("SELECT $1::text::nummultirange", ["{" + ",".join(f"[{n},{n + 1})" for n in range(60_000)) + "}"]),
    ("SELECT $1::jsonb", [{str(n): 1 for n in range(150_000)}]),
    ("SELECT $1::text::hstore", [",".join(f"{n}=>1" for n in range(150_000))]),
    ("SELECT to_tsvector('simple', $1)", [" ".join(map(str, range(200_000)))]),
    # what PostgreSQL writes out several times before it runs
    ("SELECT " + "(" * 11 + "true" + " BETWEEN SYMMETRIC false AND true)" * 11, []),
    ("SELECT " + "(" * 20 + "true" + " NOT BETWEEN false AND true)" * 20, []),
    ("SELECT " + "(" * 5 + "id" + (" IN (" + ",".join(["id", "0"] * 10) + "))::int") * 5 + " FROM tickets", []),
    ("SELECT upper(repeat('a', 9000000)) IN (" + ",".join(["subject"] * 100) + ") FROM tickets", []),
    # a query whose rows become a value
    ("SELECT length(upper(JSON_ARRAY(SELECT subject FROM tickets)::text || ''))", []),
    # a parameter is read wherever it is named
    ("SELECT count(*) FROM customers WHERE " + " OR ".join(["metadata = $1"] * 60), [{"a": "x" * 4_000_000}]),
    # a function after a dot, where no call is to be seen
    ("SELECT t.normalize FROM repeat(U&'\\0301\\0316', 100000) t", []),
    ("SELECT (repeat('w ', 300000)).plainto_tsquery", []),
    ("SELECT ((array_fill(repeat('w ', 300000), ARRAY[1]))[1]).phraseto_tsquery", []),
    ("SELECT " + ", ".join(["description IS JSON"] * 60) + " FROM tickets", []),
    # parameters alone, and arrays of them
    ("SELECT translate($1, $2, '')", ["a" * 1_000_000, "b" * 1_000_000]),
    ("SELECT $1 LIKE ANY ($2)", ["a" * 200_000, ["%b"] * 50_000]),
    ("SELECT count(*) FROM tickets WHERE description < ANY ($1)", [["zzz"] * 200_000]),
    # many calls in one row, each of which is fast
    ("SELECT " + ", ".join(["translate(repeat('x', 16000), repeat('y', 16000), '')"] * 40), []),
    ("SELECT " + " || ".join(f"md5(repeat('x', {15_000_000 - n}))" for n in range(150)), []),
    ("SELECT 1" + " + length('x'::char(10000000))" * 200, []),
    ("SELECT 1" + " + bit_count(1::bit(83886080))" * 50, []),
    ("SELECT 1 WHERE " + " OR ".join(["to_tsvector(repeat('a b ', 3000000)) @@ 'a'"] * 20), []),
    # growth through the levels of a query
    (
        "SELECT a || a FROM " + "(SELECT a || a AS a FROM " * 24 + "(SELECT subject AS a FROM tickets) t" + ") t" * 24,
        [],
    ),
    ("SELECT a + a FROM " + "(SELECT a + a AS a FROM " * 24 + "(SELECT id AS a FROM tickets) t" + ") t" * 24, []),
    (
        "WITH a0 AS (SELECT id AS a FROM tickets)"
        + "".join(f", a{n} AS NOT MATERIALIZED (SELECT a + a AS a FROM a{n - 1})" for n in range(1, 25))
        + " SELECT a FROM a24",
        [],
    ),
    ("SELECT array_fill(1, ARRAY[100000, 10000])", []),
    ("SELECT cardinality(array_fill(1, $1::int[]))", [[100_000_000]]),
    ("SELECT npoints(polygon(100000000, circle '((0,0),1)'))", []),
    (
        (
            "SELECT length(replace(replace(replace('x', 'x', repeat('x', 1000)), 'x', repeat('x', 1000)), 'x', "
            "repeat('x', 1000)))"
        ),
        [],
    ),
]

UNCHECKED = [
    "SELECT id FROM customers WHERE email ILIKE '%' || $1 || '%'",
    'SELECT id FROM customers WHERE metadata @> \'{"plan": "pro", "vip": true}\'',
    "SELECT slug FROM knowledge_articles WHERE tags @> ARRAY['billing']",
    (
        "SELECT id FROM knowledge_articles WHERE to_tsvector('english', title || ' ' || body) @@ "
        "plainto_tsquery('english', $1)"
    ),
    "SELECT id FROM tickets WHERE id = ANY ($1::bigint[])",
    "SELECT lower(email), upper(name), left(metadata ->> 'note', 20), translate(name, 'äöü', 'aou') FROM customers",
    "SELECT name <-> $1 FROM customers ORDER BY 1 LIMIT 5",
    "SELECT string_agg(name, ', '), jsonb_agg(to_jsonb(c)), array_agg(id) FROM customers c",
]

PLAIN = [
    "SELECT jsonb_path_query($1::jsonb, '$[*] ? (@.price > 10 && @.tags[*] == \"new\").id')",
    "SELECT jsonb_array_length($1::jsonb), jsonb_path_exists($1::jsonb, '$.** ? (@.a == 1)')",
    "SELECT count(*) FROM jsonb_to_recordset($1::jsonb) AS t(id int, price int, tags jsonb)",
]
"""Queries of a large parameter that cost no more than reading it."""

CHECKED = [
    "SELECT translate({}, subject, '') FROM tickets",
    "SELECT {} LIKE '%' || subject || '%' FROM tickets t",
    "SELECT upper({}) FROM tickets",
]


@pytest.mark.parametrize(("sql", "params"), TOO_MUCH, ids=lambda value: value[:60] if isinstance(value, str) else "")
async def test_what_would_make_postgresql_deaf_is_refused(
    reader: AnsweringReader, sql: str, params: list[JsonValue]
) -> None:
    with pytest.raises(InvalidArguments, match="could keep PostgreSQL"):
        await reader.query(sql, params)


async def test_places_that_name_a_parameter_count(reader: AnsweringReader) -> None:
    sql = "SELECT {} FROM tickets"
    word = " & ".join(["w"] * 10_000)
    assert (await reader.query(sql.format("'w'::tsvector @@ $1"), [word])).columns
    with pytest.raises(InvalidArguments, match=r"params\.0: is too long for a tsquery"):
        await reader.query(sql.format("(SELECT count($1 || 'a'::tsquery)), " * 9 + "$1"), [word])


@pytest.mark.parametrize(
    "path",
    [
        "$.**.**",
        "strict $.** ? (exists(@.**))",
        "$" + "[0,0]" * 7,
        "$" + ".keyvalue()" * 4,
        "$" + ".k\\u0065yv\\x61lue()" * 4,
        "$[0 to 1, 0 to 1][0, 0, 0, 0][*, *, *, *, *][1,1]",
    ],
)
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT jsonb_path_query(metadata, {}) FROM customers",
        "SELECT metadata @? {} FROM customers",
        "SELECT metadata @@ ({}::jsonpath) FROM customers",
        "WITH p AS (SELECT {}::jsonpath AS path) SELECT jsonb_path_query_array(metadata, path) FROM customers, p",
        "SELECT jsonb_path_exists(metadata, COALESCE(NULL::jsonpath, {})) FROM customers",
        "SELECT JSON_QUERY(metadata, {}) FROM customers",
        "SELECT t.* FROM customers, JSON_TABLE(metadata, '$' COLUMNS (NESTED PATH {} COLUMNS (a int PATH '$'))) AS t",
    ],
)
async def test_a_path_finds_no_more_than_the_document_holds(guard: SqlGuard, sql: str, path: str) -> None:
    assert guard.check(sql.format("'$.a[*].b'"))
    with pytest.raises(InvalidArguments, match="jsonpath that may find the same values many times"):
        guard.check(sql.format(f"'{path}'"))
    if "JSON" not in sql:
        with pytest.raises(InvalidArguments, match="jsonpath that may find the same values many times"):
            guard.check(sql.format("$1"), [Argument(len(path), text=path)])


@pytest.mark.parametrize(
    ("sql", "params"),
    [
        ("SELECT array_agg(1e131000)::text FROM tickets", []),
        ("SELECT '[1e131000]'::jsonb", []),
        ("SELECT ARRAY['-1E+0131000']::numeric[]", []),
        ("SELECT $1::jsonb", ["[1, 1e131000]"]),
        ("SELECT $1::text::jsonb", ["[1, 1e-16000]"]),
        ("SELECT id FROM customers WHERE metadata @> $1", ["[1, 1e131000]"]),
        ("SELECT $1::numeric[]", [["1", "1e131000"]]),
        ("SELECT 1.5 = ANY ($1)", [["1e131000"]]),
        ("SELECT numrange(1, 2) && $1", ["[1,1e131000)"]),
    ],
)
async def test_a_number_that_is_short_to_say_and_long_to_write_is_refused(
    reader: AnsweringReader, sql: str, params: list[JsonValue]
) -> None:
    """Ten bytes of memory become 131,001 characters, all at once for a whole array or document."""
    with pytest.raises(InvalidArguments, match="exponent of 4"):
        await reader.query(sql, params)


_LONG = "array_agg(10::numeric ^ 131000)"
_ROWS = "FROM generate_series(1, (SELECT 9000)) AS i"
"""As many rows as nobody knows before."""


@pytest.mark.parametrize(
    "value",
    [
        _LONG,
        "array_agg(power(10::numeric, 131000))",
        "array_agg(exp(5000::numeric))",
        "array_agg(factorial(9000))",
        "array_agg(round(1.5, 16000))",
        "array_agg(trunc(i::numeric, 16000 + i))",
        "array_agg(x) FILTER (WHERE x > 1) OVER ()",
        "array_agg(('1e' || 131000)::numeric)",
        "array_agg((1 || repeat('0', 100000))::numeric)",
        "array_agg(to_number('9' || repeat('0', 9000), repeat('9', 9001)))",
        "array_agg(numrange(1, 10::numeric ^ 131000))",
        "array_agg(nummultirange(numrange(1, 10::numeric ^ 131000)))",
        "jsonb_agg(10::numeric ^ 131000)",
        "jsonb_object_agg(i, 10::numeric ^ 131000)",
        "json_arrayagg(10::numeric ^ 131000 RETURNING jsonb)",
        f"row({_LONG})",
        f"{_LONG}::text",
        f"to_jsonb({_LONG})",
        f"to_json({_LONG})",
        f"concat({_LONG})",
        f"format('%s', {_LONG})",
        f"quote_literal({_LONG})",
        f"array_to_string({_LONG}, ',')",
        f"jsonb_build_object('a', {_LONG})::text",
        f"row_to_json(row({_LONG}))",
        f"xmlforest({_LONG} AS a)",
        "jsonb_pretty(jsonb_agg(10::numeric ^ 131000))",
        "('{' || string_agg('1e' || 131000, ',') || '}')::numeric[]",
        "CAST('{' || string_agg('1e' || 131000, ',') || '}' AS numeric[])::text",
        "('[' || string_agg('1e' || 131000, ',') || ']')::jsonb",
        "CAST(CAST('[' || string_agg('1e' || 131000, ',') || ']' AS json) AS jsonb)::text",
        "('{' || string_agg('[1,1e' || 131000 || ')', ',') || '}')::nummultirange",
        "JSON_QUERY('[' || string_agg('1e' || 131000, ',') || ']', '$')::text",
        "jsonb_path_query_array(to_jsonb(array_agg('1e' || 131000)), '$[*].number()')",
        "jsonb_path_query_array(to_jsonb(array_agg('1e' || 131000)), '$[*].n\\u0075mber()')::text",
        "JSON_QUERY(to_jsonb(array_agg('1e' || 131000)), '$[*].number()' WITH WRAPPER)",
    ],
)
async def test_what_short_numbers_come_to_as_text_is_known_before_it_is_written(
    reader: AnsweringReader, value: str
) -> None:
    """Each of them would be a gigabyte, and take seconds in which PostgreSQL hears nothing."""
    rows = "FROM (SELECT 10::numeric ^ 131000 AS x FROM generate_series(1, 9000)) AS s" if "(x)" in value else _ROWS
    with pytest.raises(
        InvalidArguments,
        match=r"larger than .* bytes|could keep PostgreSQL|exponent of 400|record is too large|more than a gigabyte",
    ):
        await reader.query(f"SELECT {value} {rows}", timeout_ms=20_000)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT array_agg(10::numeric ^ i), jsonb_agg(power(2, i)), row(2 ^ i) FROM generate_series(1, 9) i GROUP BY i",
        "SELECT round(avg(id), 2), array_agg(round(id / 3.0, 4)), jsonb_agg(id * 1.5e3) FROM tickets GROUP BY status",
        "SELECT t, to_jsonb(t), exp(1.0) FROM tickets AS t",
        "SELECT ('{\"a\": ' || id || '}')::jsonb -> 'a', ('{' || id || '}')::numeric[] FROM tickets",
        "SELECT CAST('[' || id || ']' AS json) FROM tickets",
        "SELECT JSON_VALUE('{\"a\": ' || id || '}', '$.a'), JSON_QUERY(to_jsonb(t), '$.id') FROM tickets AS t",
        "SELECT ARRAY[id, 2]::numeric[], ARRAY['1', '2']::numeric[] FROM tickets",
    ],
)
async def test_numbers_that_people_make_are_answered(desk_reader: AnsweringReader, sql: str) -> None:
    assert (await desk_reader.query(sql)).row_count


@pytest.mark.parametrize("place", ["", " WHERE subject = {0}", " ORDER BY {0}"])
@pytest.mark.parametrize(
    "value", ["repeat('x', 16000000)", "lpad('x', 9000000)", "$1", "array_fill(1, ARRAY[90000])::text"]
)
async def test_a_plan_shows_no_constants_beyond_an_answer(guard: SqlGuard, place: str, value: str) -> None:
    sql = f"EXPLAIN (VERBOSE) SELECT {value} FROM tickets{place.format(value)}"
    with pytest.raises(InvalidArguments, match="which a plan would repeat"):
        guard.check(sql, [Argument(1_000_000)])
    assert guard.check(
        "EXPLAIN (VERBOSE) SELECT upper(description), string_agg(subject, $1) FROM tickets", [Argument(9)]
    )


async def test_a_plan_writes_no_long_numbers(guard: SqlGuard) -> None:
    sql = "EXPLAIN (ANALYZE, SERIALIZE {}) SELECT array_agg(id::numeric ^ 131000) FROM tickets"
    with pytest.raises(Forbidden, match="EXPLAIN option serialize"):
        guard.check(sql.format("TEXT"))
    assert guard.check(sql.format("NONE"))


@pytest.mark.parametrize("kind", ["numeric[]", "_numeric", "numrange", "nummultirange", "numrange[]"])
@pytest.mark.parametrize(
    "sql", ["SELECT * FROM jsonb_to_recordset($1) AS t(a {})", "SELECT JSON_VALUE($1, '$' RETURNING {})"]
)
async def test_json_makes_no_numbers_that_nobody_looks_at(guard: SqlGuard, sql: str, kind: str) -> None:
    with pytest.raises(Forbidden, match="cast it"):
        guard.check(sql.format(kind), [Argument(9)])


async def test_text_that_the_query_makes_is_read_as_json_by_a_cast_alone(guard: SqlGuard) -> None:
    with pytest.raises(Forbidden, match="FORMAT JSON of what the query makes"):
        guard.check("SELECT JSON_ARRAY(description FORMAT JSON RETURNING jsonb) FROM tickets")
    assert guard.check("SELECT JSON_ARRAY('[1]' FORMAT JSON RETURNING jsonb)")


@pytest.mark.parametrize(
    "made",
    [
        "now() AT TIME ZONE ({})",
        "now() AT TIME ZONE (ARRAY[{}])[1]",
        "now() AT TIME ZONE (SELECT {})",
        "now() AT TIME ZONE lower({})",
        "timezone({}, now())",
        "localtimestamp AT TIME ZONE ({})::text",
        "date_trunc('day', now(), {})",
        "make_timestamptz(2026, 1, 1, 1, 1, 1, {})",
        "date_add(now(), '1 day', {})",
        "('2026-01-01 10:00 ' || {})::timestamptz",
        "CAST('2026-01-01 10:00 ' || {} AS timestamp with time zone)",
        "('2026-01-01 ' || {})::date",
        "timestamptz('2026-01-01 10:00 ' || {})",
        "('[2026-01-01 10:00 ' || {} || ',)')::tstzrange",
    ],
)
@pytest.mark.parametrize("zone", ["'X' || i || 'Y5'", "'<' || i || '>5'"], ids=["letters", "brackets"])
async def test_a_query_makes_up_few_time_zones(reader: AnsweringReader, made: str, zone: str) -> None:
    """PostgreSQL remembers each for good, which takes 24 KB. In a text of dates no zone stands in brackets."""
    zone = zone if "10:00" not in made and "01 '" not in made else "'X' || i || 'Y5'"
    sql = f"SELECT count({made.format(zone)}) FROM generate_series(1, {{}}) AS i"
    with pytest.raises(InvalidArguments, match="too many time zones"):
        await reader.query(sql.format(160))


_NUMBERED = "(SELECT jsonb_agg(jsonb_build_object('a', {0}, 'created_at', {0})) FROM generate_series(1, 160) AS i)"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(a) FROM jsonb_to_recordset({}) AS t(a timestamptz)",
        "SELECT count(a) FROM json_to_recordset({}::json) AS t(b int, a date)",
        "SELECT count(a) FROM ROWS FROM (jsonb_to_recordset({}) AS (a tstzrange)) AS t(a)",
        "SELECT count(r.created_at) FROM tickets AS t, jsonb_populate_recordset(t, {}) AS r WHERE t.id = 1",
        "SELECT count(r.created_at) FROM tickets AS t, json_populate_recordset(t, {}::json, false) AS r WHERE t.id = 1",
        (
            "SELECT count((jsonb_populate_record(t, x)).created_at) FROM tickets AS t, jsonb_array_elements({}) AS x "
            "WHERE t.id = 1"
        ),
        "SELECT count(a) FROM JSON_TABLE({}, '$[*]' COLUMNS (a timestamptz PATH '$.a')) AS t",
        "SELECT count(a) FROM JSON_TABLE({}, '$[*]' COLUMNS (NESTED PATH '$' COLUMNS (a timestamp PATH '$.a'))) AS t",
        "SELECT count(JSON_VALUE(x, '$.a' RETURNING timestamptz)) FROM jsonb_array_elements({}) AS x",
    ],
)
async def test_json_that_a_query_makes_has_few_time_zones(desk_reader: AnsweringReader, sql: str) -> None:
    zone = "'2026-01-01 10:00 X' || i || 'Y5'" if "tstzrange" not in sql else "'[2026-01-01 10:00 X' || i || 'Y5,)'"
    with pytest.raises(InvalidArguments, match="too many time zones"):
        await desk_reader.query(sql.format(_NUMBERED.format(zone)))
    dates = "'2026-01-01T10:00:' || 10 + i % 50 || '.5Z'"
    dates = f"'[' || {dates} || ',)'" if "tstzrange" in sql else dates
    assert (await desk_reader.query(sql.format(_NUMBERED.format(dates)))).rows == [{"count": 160}]


async def test_a_parameter_makes_up_few_time_zones(reader: AnsweringReader) -> None:
    sql, made = "SELECT cardinality($1::timestamptz[])", "2026-01-01 10:00 X{}Y5"
    assert (await reader.query(sql, [["2026-01-01T10:00:59.5Z"] * 3000])).rows == [{"cardinality": 3000}]
    with pytest.raises(InvalidArguments, match=r"params\.0: names more than 100 time zones"):
        await reader.query(sql, [[made.format(number) for number in range(3000)]])


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT now() AT TIME ZONE zone FROM (VALUES ('Europe/Berlin'), ('EST5EDT'), ('Etc/GMT+5')) AS z(zone)",
        "SELECT ('2026-01-01T10:00:' || i || '.5Z')::timestamptz FROM generate_series(10, 59) AS i",
        "SELECT (created_at || '')::timestamptz, (created_at::date || ' 09:00')::timestamp FROM tickets",
        "SELECT ('Jan-' || i || '-2026')::date, ('3 January ' || 2000 + i)::date FROM generate_series(1, 31) AS i",
    ],
)
async def test_dates_and_zones_that_people_write_are_read(desk_reader: AnsweringReader, sql: str) -> None:
    assert (await desk_reader.query(sql)).row_count


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT created_at::date, date_trunc('day', now())::date, (created_at + '1 day')::timestamptz FROM tickets",
        "SELECT created_at AT TIME ZONE 'Asia/Tokyo', timezone($1, now()), max(id) FROM tickets GROUP BY 1",
        "SELECT d::date FROM generate_series(now(), now(), '1 day') AS d",
        "SELECT $1::timestamptz, '2026-01-01'::date, metadata -> 'a' FROM customers",
        "SELECT round(avg(id), 2), sum(id) * 1.5 FROM tickets",
    ],
)
async def test_what_needs_no_look_is_left_as_it_is(guard: SqlGuard, sql: str) -> None:
    statement = guard.check(sql, [Argument(9)])
    assert (statement.checked_sql, statement.has_long_numbers) == ("", False)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT to_tsvector('simple', string_agg(i::text, ' ')) FROM generate_series(1, (SELECT 90000)) AS i",
        "SELECT array_to_tsvector(array_agg(i::text)) FROM generate_series(1, (SELECT 90000)) AS i",
        "SELECT hstore(array_agg(i::text), array_agg('a'::text)) FROM generate_series(1, (SELECT 90000)) AS i",
        "SELECT jsonb_object(a, a) FROM (SELECT ARRAY(SELECT i::text FROM generate_series(1, 90000) AS i) AS a) AS t",
        "SELECT sort(ARRAY(SELECT i FROM generate_series(1, 900000) AS i))",
        "SELECT left(string_agg(i::text, ' '), 800000)::tsvector FROM generate_series(1, (SELECT 200000)) AS i",
    ],
)
async def test_an_order_that_a_query_makes_is_short_where_it_is_sorted(reader: AnsweringReader, sql: str) -> None:
    """It may be one that was made against quicksort."""
    with pytest.raises(InvalidArguments, match=r"larger than .* bytes|could keep PostgreSQL"):
        await reader.query(sql, timeout_ms=20_000)


@pytest.mark.parametrize(
    "made",
    [
        "jsonb_object_agg(i * 7 % 100003, 1)",
        "JSON_OBJECTAGG(i * 7 % 100003 : 1 RETURNING jsonb)",
        "jsonb_object_agg_unique(i, 1) OVER ()",
        "range_agg(int8range(i, i + 1)) OVER ()",
    ],
)
async def test_an_order_that_a_query_computes_is_short_where_it_is_sorted(
    desk_reader: AnsweringReader, made: str
) -> None:
    """So is what these aggregates sort at their end, without a look at the limit, wherever the rows come from."""
    several = [
        "generate_series(1, 100000) AS i",
        "generate_series(1, (SELECT 100000)) AS i",
        "generate_series(1, 400) AS i, generate_series(1, 400) AS j",
        "(WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < 100000) TABLE r ORDER BY 1) AS t",
        "(SELECT i FROM tickets AS a, tickets AS b, generate_series(1, 10000) AS i ORDER BY a.id) AS t",
        "unnest($1::int[]) AS i",
        "generate_series(2000000, LEAST(2000000, (SELECT 0)), -20) AS i",
    ]
    for rows in several:
        values: list[JsonValue] = [list(range(100_000))] if "$1" in rows else []
        with pytest.raises(InvalidArguments, match="too many rows to an aggregate that sorts"):
            await desk_reader.query(f"SELECT {made} FROM {rows}", values, timeout_ms=20_000)
    for rows in ("generate_series(1, 10000) AS i", "(SELECT id AS i FROM tickets ORDER BY created_at) AS t"):
        await desk_reader.query(f"SELECT count(*) FROM (SELECT {made} FROM {rows} LIMIT 2) AS made")


async def test_multiranges_are_counted_by_their_ranges(reader: AnsweringReader) -> None:
    """No order of them is the order of their ranges."""
    made = "int4multirange(int4range(i, i + 1), int4range(i * 7 % 100003, i * 7 % 100003 + 1))"
    rows = f"(SELECT {made} AS m FROM generate_series(1, (SELECT $1::int)) AS i) AS t"
    sql = f"SELECT isempty(range_agg(m)) AS made FROM {rows}"
    with pytest.raises(InvalidArguments, match="too many rows to an aggregate that sorts"):
        await reader.query(sql, [9000])
    assert (await reader.query(sql, [7000])).rows == [{"made": False}]


async def test_an_aggregate_of_the_query_around_is_counted_by_the_rows_of_that(desk_reader: AnsweringReader) -> None:
    inner = "(SELECT jsonb_object_agg(i * 7 % 100003, 1) FROM (VALUES (1)) AS v)"
    with pytest.raises(InvalidArguments, match="too many rows to an aggregate that sorts"):
        await desk_reader.query(f"SELECT {inner} FROM generate_series(1, (SELECT 100000)) AS t(i)")


@pytest.mark.parametrize(
    ("made", "rows"),
    [
        ("jsonb_object_agg(i * 7 % 400009, 1 ORDER BY random())", "generate_series(1, (SELECT 400000)) AS i"),
        ("jsonb_object_agg(t.id * 100000 + i, 1)", "tickets AS t JOIN generate_series(1, 99000) AS i ON true"),
        ("range_agg(int4range(i * 7 % 400009 * 2, i * 7 % 400009 * 2 + 1))", "generate_series(1, 400000) AS i"),
    ],
)
async def test_many_rows_reach_an_aggregate_in_the_order_in_which_it_sorts_them(
    desk_reader: AnsweringReader, guard: SqlGuard, made: str, rows: str
) -> None:
    """Which it notices, so that nothing takes long without a look at the limit."""
    sql = f"SELECT pg_column_size({made}) > 400000 AS is_all FROM {rows}"
    if "tickets" in sql:
        assert guard.check(sql).checked_sql.endswith("FROM tickets AS t JOIN generate_series(1, 99000) AS i ON true")
        return
    assert (await desk_reader.query(sql, timeout_ms=30_000)).rows == [{"is_all": True}]


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ("jsonb_object_agg(key, n ORDER BY n)", {"a": 3, "b": 2}),
        ("jsonb_object_agg(key, n ORDER BY n DESC)", {"a": 1, "b": 2}),
        ("pg_catalog.jsonb_object_agg(/* , */ upper(key) || '::,', n ORDER BY n)", {"A::,": 3, "B::,": 2}),
        ("jsonb_object_agg(DISTINCT key, 1)", {"a": 1, "b": 1}),
        ("jsonb_object_agg(key, n) FILTER (WHERE n > 1)", {"a": 3, "b": 2}),
        ("jsonb_object_agg((SELECT jsonb_object_agg(id, 1)::text FROM customers WHERE id = key), 1)", None),
        ("JSON_OBJECTAGG(key VALUE n RETURNING jsonb)", {"a": 3, "b": 2}),
        ("JSON_OBJECTAGG(key : n RETURNING jsonb)", {"a": 3, "b": 2}),
        ("jsonb_object_agg(n > 1, n ORDER BY n)", {"false": 1, "true": 3}),
        ("jsonb_object_agg(key::bpchar(3), n ORDER BY n)", {"a  ": 3, "b  ": 2}),
        ("range_agg(int4range(n, n + 1))", [{"lower": 1, "upper": 4, "bounds": "[)"}]),
        ("range_agg(DISTINCT int4range(n, n + 1))", [{"lower": 1, "upper": 4, "bounds": "[)"}]),
        ("range_agg(int4multirange(int4range(n, n + 1)))", [{"lower": 1, "upper": 4, "bounds": "[)"}]),
        ("range_agg(CASE WHEN random() < 2 THEN int4range(n, n + 1) END ORDER BY n)", [(1, 4)]),
    ],
)
async def test_the_order_that_is_added_alters_no_answer(
    desk_reader: AnsweringReader, made: str, expected: JsonValue | list[tuple[int, int]]
) -> None:
    rows = "(SELECT CASE id % 2 WHEN 1 THEN 'a' ELSE 'b' END AS key, id::int AS n FROM tickets WHERE id < 4 OFFSET 0)"
    if expected is None:
        with pytest.raises(InvalidArguments):  # a key is NULL
            await desk_reader.query(f"SELECT {made} AS made FROM {rows} AS t")
        return
    answer = await desk_reader.query(f"SELECT {made} AS made FROM {rows} AS t")
    whole = [{"lower": 1, "upper": 4, "bounds": "[)"}]
    assert answer.rows == [{"made": whole if expected == [(1, 4)] else expected}]


async def test_the_order_of_a_subquery_tells_which_of_equal_keys_counts(desk_reader: AnsweringReader) -> None:
    rows = "(SELECT id % 2 AS key, id FROM tickets WHERE id < 4 ORDER BY id DESC) AS t"
    answer = await desk_reader.query(f"SELECT jsonb_object_agg(key, id) AS latest FROM {rows}")
    assert answer.rows == [{"latest": {"0": 2, "1": 1}}]


async def test_fractions_that_a_query_asks_for_are_few(guard: SqlGuard, desk_reader: AnsweringReader) -> None:
    """PostgreSQL sorts them in one go, in an order that may have been made against quicksort."""
    sql = "SELECT percentile_cont({}) WITHIN GROUP (ORDER BY id) AS made FROM tickets"
    with pytest.raises(InvalidArguments, match="mostly in percentile_cont"):
        guard.check(sql.format("$1::float8[]"), [Argument(3_000_000)])
    with pytest.raises(InvalidArguments, match=r"larger than .* bytes|could keep PostgreSQL"):
        await desk_reader.query(sql.format("ARRAY(SELECT random() FROM generate_series(1, (SELECT 900000)))"))
    assert (await desk_reader.query(sql.format("$1::float8[]"), [[0, 0.5, 1]])).rows == [{"made": [1, 2.5, 4]}]
    assert (await desk_reader.query(sql.format("ARRAY[0, 1]"))).rows == [{"made": [1, 4]}]


@pytest.mark.parametrize("sql", ["SELECT {} IS JSON OBJECT WITH UNIQUE KEYS", "SELECT JSON({} WITH UNIQUE KEYS)"])
async def test_keys_that_are_to_be_unique_are_few(guard: SqlGuard, sql: str) -> None:
    """They may have been chosen to have one hash, too."""
    with pytest.raises(InvalidArguments, match="mostly in WITH UNIQUE KEYS"):
        guard.check(sql.format("$1::text"), [Argument(1_800_000)])
    guard.check(sql.format("$1::text"), [Argument(100_000)])


async def test_keys_that_a_query_makes_and_are_to_be_unique_are_few(desk_reader: AnsweringReader) -> None:
    sql = "SELECT {} IS JSON OBJECT WITH UNIQUE KEYS"
    made = "(SELECT '{{' || string_agg('\"' || i || '\":1', ',') || '}}' FROM generate_series(1, (SELECT {})) AS i)"
    with pytest.raises(InvalidArguments, match="larger than"):
        await desk_reader.query(sql.format(made.format(100_000)))
    assert (await desk_reader.query(sql.format(made.format(100)))).row_count == 1


async def test_a_constant_array_is_short_where_postgresql_makes_a_table_of_it(guard: SqlGuard) -> None:
    """Its elements may have been chosen to have one hash, and nothing interrupts the making of the table."""
    keys = "".join(f"{number:04x}" for number in range(1000))
    many = "".join(f"0x{number:04x}\\1{number:04x}\\1," for number in range(1, 49))
    made = f"string_to_array(regexp_replace('{keys}', '(....)', '{many}', 'g') || '0', ',')::bigint[]"
    for sql in (
        f"SELECT 1 FROM generate_series(1, 3) AS g WHERE g::bigint = ANY ({made})",
        f"SELECT 1 FROM generate_series(1, 3) AS g WHERE g::bigint <> ALL ({made})",
        f"SELECT 1 FROM generate_series(1, 3) AS g, (SELECT {made} AS a) AS t WHERE g::bigint = ANY (t.a)",
        f"SELECT 1 FROM generate_series(1, 3) AS g WHERE g = ANY (CASE WHEN true THEN {made} ELSE ARRAY[g] END)",
    ):
        with pytest.raises(InvalidArguments, match="could keep PostgreSQL"):
            guard.check(sql)
    guard.check("SELECT 1 FROM tickets WHERE id = ANY ($1)", [Argument(4_000_000)])
    guard.check(f"SELECT 1 FROM tickets WHERE id = ANY ('{{{','.join(map(str, range(3000)))}}}')")
    assert not guard.check("SELECT 1 FROM knowledge_articles WHERE 'billing' = ANY (tags)").checked_sql


async def test_what_looks_like_a_huge_number_in_a_text_is_a_text(reader: AnsweringReader) -> None:
    values: list[JsonValue] = ['{"sha": "12e45678", "n": 1.5e3}', "12e45678", ["7e99999"]]
    sql = "SELECT $1::jsonb ->> 'sha' AS sha, $2 || '9e9999' AS text, $3::text[] AS list"
    with pytest.raises(InvalidArguments):  # which of the texts becomes jsonb can't always be told
        await reader.query(sql, values)
    assert (await reader.query("SELECT $1::jsonb ->> 'sha' AS sha", values[:1])).rows == [{"sha": "12e45678"}]
    assert (await reader.query("SELECT $1 || '9e9999' AS text, $2::text[] AS list", values[1:])).row_count == 1


@pytest.mark.parametrize("kind", ["jsonpath", "jsonpath[]", "_jsonpath"])
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT ('$' || '.**')::{}",
        "SELECT CAST(name AS {}) FROM customers",
        "SELECT * FROM jsonb_to_recordset('[]') AS t(a {})",
        "SELECT JSON_VALUE('1', '$' RETURNING {})",
    ],
)
async def test_a_path_is_written_out_or_a_parameter(guard: SqlGuard, sql: str, kind: str) -> None:
    with pytest.raises(Forbidden, match="jsonpath"):
        guard.check(sql.format(kind))


@pytest.mark.parametrize(
    ("sql", "value"),
    [("SELECT $1::jsonpath[]", ["$.**.**"]), ("SELECT '{}'::jsonb @? $1", "$.a" + " " * 5000 + ".**.**")],
)
async def test_a_parameter_that_holds_paths_which_nobody_reads_is_refused(
    reader: AnsweringReader, sql: str, value: JsonValue
) -> None:
    with pytest.raises(InvalidArguments, match=r"params\.0: is too long for a jsonpath"):
        await reader.query(sql, [value])


async def test_no_statement_joins_more_than_the_planner_has_memory_for(guard: SqlGuard) -> None:
    sql = "SELECT count(*) FROM tickets" + " FULL JOIN tickets USING (id)".replace("tickets", "tickets t{}") * 100
    assert guard.check(sql.replace("FULL JOIN tickets t{} USING (id)", "", 1).format(*range(99)))
    with pytest.raises(InvalidArguments, match="more than 100 tables"):
        guard.check(sql.format(*range(100)))


@pytest.mark.parametrize("sql", ["SELECT 'a'::ltree ~ $1", "SELECT 'a'::tsquery && $1", "SELECT 'a'::ltree ? $1"])
async def test_a_parameter_that_takes_too_long_to_read_is_named(reader: AnsweringReader, sql: str) -> None:
    word = ".".join(["a|b"] * 60_000) if "ltree" in sql else "w & " * 100_000 + "w"
    with pytest.raises(InvalidArguments, match=r"params\.0: is too long for a "):
        await reader.query(sql, [[word] if "?" in sql else word])


@pytest.mark.parametrize("sql", PLAIN)
@pytest.mark.parametrize("as_text", [False, True])
async def test_many_small_objects_are_a_parameter_like_any(reader: AnsweringReader, sql: str, as_text: bool) -> None:
    rows: JsonValue = [{"id": n, "price": n % 20, "tags": ["new", "old"]} for n in range(15_000)]
    assert (await reader.query(sql, [json.dumps(rows) if as_text else rows])).rows


@pytest.mark.parametrize("kind", ["tsquery", "_tsquery", "lquery", "tsquery[]"])
@pytest.mark.parametrize(
    "sql", ["SELECT * FROM jsonb_to_recordset($1) AS t(a {})", "SELECT JSON_VALUE($1, '$' RETURNING {})"]
)
async def test_json_makes_no_type_that_takes_too_long_to_read(guard: SqlGuard, sql: str, kind: str) -> None:
    with pytest.raises(Forbidden, match=kind.removesuffix("[]")):
        guard.check(sql.format(kind))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT array_agg(repeat('x', 10000)) FROM generate_series(1, 1000000)",
        "SELECT length(string_agg(x, '')) FROM (SELECT repeat('x', 9) AS x FROM generate_series(1, 1000000000)) s",
        "SELECT jsonb_agg(i) FROM generate_series(1, 9000) i, generate_series(1, 9000) j",
        "WITH a AS (SELECT i FROM generate_series(1, 100000) i) SELECT JSON_ARRAYAGG(a.i) FROM a, a b",
    ],
)
async def test_what_an_aggregate_would_gather_is_refused_where_it_is_known(guard: SqlGuard, sql: str) -> None:
    with pytest.raises(InvalidArguments, match="gather more than a gigabyte"):
        guard.check(sql)
    assert guard.check(sql.replace("1000000", "100").replace("9000", "90").replace("100000", "10"))


@pytest.mark.parametrize("sql", UNCHECKED, ids=lambda sql: sql[:60])
async def test_what_is_cheap_runs_as_it_is_written(guard: SqlGuard, sql: str) -> None:
    assert guard.check(sql, [Argument(40)]).checked_sql == ""


@pytest.mark.parametrize("column", ["subject", "t.subject", 't."subject"', "t . subject", "(SELECT subject)"])
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT translate({0}, {0}, 'ü') /* é */ FROM tickets AS t",
        "SELECT count(*) FROM tickets AS t WHERE {0} ILIKE {0}",
        "SELECT replace({0}, {0}, $1 || '$1') FROM tickets AS t GROUP BY subject",
        "EXPLAIN SELECT 'ä', strpos({0}, {0}) FROM tickets AS t",
    ],
)
async def test_what_may_be_dear_is_checked_while_it_runs(
    reader: AnsweringReader, guard: SqlGuard, sql: str, column: str
) -> None:
    written = sql.format(column)
    values: list[JsonValue] = ["x"] if "$1" in sql else []
    assert (await reader.query(written, values)).columns
    assert f"switchboard_sql.bounded({column}, " in guard.check(written, [Argument(1)] * len(values)).checked_sql


@pytest.mark.parametrize(
    "call",
    [
        "string_agg(repeat('x', 4000), ',')",
        "string_agg(repeat('x', 4000), ',' ORDER BY i DESC) FILTER (WHERE i > 0)",
        "array_to_string(array_agg(repeat('x', 1000)), ',')",
        "array_to_string(ARRAY(SELECT repeat('x', 1000) FROM generate_series(1, 9000)), ',')",
        "(SELECT string_agg(repeat('x', 4000), ',') FROM generate_series(1, 9000))",
        "json_arrayagg(repeat('x', 1000))::text",
    ],
)
async def test_a_dear_operand_that_grew_is_refused_while_it_runs(reader: AnsweringReader, call: str) -> None:
    with pytest.raises(InvalidArguments, match=r"larger than .* bytes"):
        await reader.query(f"SELECT length(upper({call})) FROM generate_series(1, 9000) AS i")


async def test_a_window_is_checked_with_its_frame(reader: AnsweringReader) -> None:
    sql = "SELECT length(upper(string_agg({}, ',') OVER (PARTITION BY i % 2 ORDER BY i))) FROM generate_series(1, 9) i"
    assert (await reader.query(sql.format("'x'"))).row_count == 9
    with pytest.raises(InvalidArguments, match=r"larger than .* bytes"):
        await reader.query(sql.format("repeat('x', 9000000)"))


@pytest.mark.parametrize("call", ["repeat('x', i)", "lpad('x', i)", "rpad('x', i, '-')", "pg_catalog.repeat('xx', i)"])
async def test_a_text_grows_as_far_as_memory_allows(reader: AnsweringReader, call: str) -> None:
    sql = f"SELECT length({call}) AS n FROM (SELECT $1::int AS i) AS t"
    assert (await reader.query(sql, ["1000"])).rows[0]["n"] >= 1000
    with pytest.raises(InvalidArguments, match="would make a text of more than 16 MB"):
        await reader.query(sql, ["100000000"])


async def test_many_calls_in_a_row_end_in_time(reader: AnsweringReader) -> None:
    calls = ", ".join(f"translate(repeat('x', 20000), repeat('y', {2000 + n}), '')" for n in range(3))
    sql = f"SELECT {calls}, i FROM generate_series(1, 100000) AS i ORDER BY 4 DESC"
    async with asyncio.timeout(30):  # of the hours that they would take
        with pytest.raises(BackendTimeout):
            await reader.query(sql, timeout_ms=300)


async def test_a_query_may_read_one_that_stands_behind_it(guard: SqlGuard) -> None:
    sql = "WITH RECURSIVE a AS (SELECT upper(x) AS y FROM b), b AS (SELECT string_agg(subject, '') AS x FROM tickets) "
    assert "upper(switchboard_sql.bounded(x" in guard.check(sql + "SELECT length(y) FROM a").checked_sql


async def test_recursion_that_adds_may_be_searched_and_recursion_that_doubles_is_checked(guard: SqlGuard) -> None:
    recursive = "WITH RECURSIVE r AS (SELECT 'x' AS t, 1 AS n UNION ALL SELECT {}, n + 1 FROM r WHERE n < 99) "
    assert guard.check(recursive.format("t || '/' || n") + "SELECT t LIKE '%/5/%' FROM r").checked_sql == ""
    assert "bounded(t, " in guard.check(recursive.format("t || t") + "SELECT t LIKE '%/5/%' FROM r").checked_sql


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT " + ", ".join(["strpos(subject, description)"] * 900) + " FROM tickets",
        "SELECT " + "upper(" * 150 + "(SELECT string_agg(subject, '') FROM tickets)" + ")" * 150,
        (
            "WITH RECURSIVE r AS (SELECT 'x' AS t UNION ALL "
            + "(WITH RECURSIVE r AS (SELECT 'x' AS t UNION ALL " * 25
            + "SELECT t || t FROM r"
            + ") SELECT t FROM r)" * 25
            + ") SELECT * FROM r"
        ),
    ],
)
async def test_an_appraisal_ends(guard: SqlGuard, sql: str) -> None:
    with pytest.raises(InvalidArguments):
        guard.check(sql)


async def test_without_the_migration_only_what_needs_checks_is_refused(database: TestDatabase) -> None:
    async with database.connect() as administrator:
        await administrator.execute("DROP SCHEMA switchboard_sql CASCADE")
    async with open_answering_reader(database.settings) as reader:
        assert (await reader.query("SELECT 1 AS one")).rows == [{"one": 1}]
        with pytest.raises(Exception, match="switchboard migrate"):
            await reader.query("SELECT strpos(subject, description) FROM tickets")


_OF_POSTGRESQL_ITSELF = """
    SELECT oprcode FROM pg_operator UNION SELECT amproc FROM pg_amproc
    UNION SELECT unnest(ARRAY[aggtransfn, aggfinalfn, aggcombinefn, aggmtransfn, aggminvtransfn]) FROM pg_aggregate
    UNION SELECT unnest(ARRAY[typsend, typmodin]) FROM pg_type UNION SELECT castfunc FROM pg_cast
    UNION SELECT unnest(ARRAY[rngsubdiff, rngcanonical]) FROM pg_range
    UNION SELECT objoid FROM pg_description WHERE classoid = 'pg_proc'::regclass AND description ~ '^implementation of'
    UNION SELECT oid FROM pg_proc WHERE pronamespace = 'information_schema'::regnamespace
    UNION SELECT oid FROM pg_proc WHERE proname ~ '^(numeric|int[248]|d|name|text|enum|_int)_?' AND oid < 16384
        AND proname NOT IN (SELECT unnest($1::text[]))
"""
"""What implements something else: an operator, a type, an aggregate."""

LEFT_OUT = {
    # tell of roles, types, the server and its extensions
    *("acldefault", "aclexplode", "makeaclitem", "format_type", "oidvectortypes", "version", "getpgusername"),
    *("getdatabaseencoding", "hstore_version_diag", "mxid_age", "show_limit"),
    *("get_current_ts_config", "ts_debug"),
    # are not supported any more, or do the same as another
    *("tconvert", "xmlvalidate", "_int_different", "_int_same"),
    # XPath loops in loops, which nothing interrupts
    *("xpath", "xpath_exists", "xmlexists"),
}


async def test_each_function_and_operator_of_this_postgresql_is_sorted(equipped: TestDatabase) -> None:
    sorted_in = set(chain(FUNCTIONS, AGGREGATES, GROWING_AGGREGATES, COUNTED, FILLING, TEMPLATES))
    async with equipped.connect() as administrator:
        catalog = await Catalog.load(administrator)
        rows = await administrator.fetch(
            f"SELECT proname::text AS name, oid IN ({_OF_POSTGRESQL_ITSELF}) AS internal FROM pg_proc", list(sorted_in)
        )
    harmless = {name for name, objection in catalog.functions.items() if objection is None}
    public = {row["name"] for row in rows if not row["internal"]}
    assert (public & harmless) - sorted_in - LEFT_OUT == set()
    assert sorted_in - harmless == set()
    operators = {name for name, safe in catalog.operators.items() if safe}
    assert operators == set(OPERATORS)


async def test_random_statements_end_in_time_and_name_nothing_hidden(
    postgres_server: LocalPostgres, demo_template: str
) -> None:
    async with cloned_database(postgres_server, demo_template) as database:
        await plant(database)
        async with database.connect() as administrator, open_sql_reader(database.settings) as reader:
            found = await search(reader, administrator, seconds=10, seed=1)
    assert found.problems == []
    assert found.outcomes["answered"] > 0
