"""What `query_database` answers of types, names and values that it was not made for."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from pydantic import JsonValue

from app.errors import InvalidArguments
from tests.fixtures.postgres import TestDatabase
from tests.services.postgres.sql.answering import AnsweringReader, open_answering_reader

_TABLES = """
CREATE EXTENSION IF NOT EXISTS hstore; CREATE EXTENSION IF NOT EXISTS vector;
CREATE EXTENSION IF NOT EXISTS citext; CREATE EXTENSION IF NOT EXISTS ltree;
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE TYPE pair AS (words hstore, place vector);
CREATE TABLE odd (words hstore, place vector, name citext, path ltree, price money, pair pair);
INSERT INTO odd VALUES ('a=>1', '[1,2]', 'Ada', 'a.b', '12.5', ROW('b=>2', '[3]'));
GRANT SELECT ON odd TO switchboard_reader;
"""
_ROW: dict[str, Any] = {
    "words": {"a": "1"},
    "place": "[1,2]",
    "name": "Ada",
    "path": "a.b",
    "price": "$12.50",
    "pair": {"words": {"b": "2"}, "place": "[3]"},
}


@pytest.fixture
async def reader(database: TestDatabase) -> AsyncGenerator[AnsweringReader]:
    async with database.connect() as administrator:
        await administrator.execute(_TABLES)
    async with open_answering_reader(database.settings) as opened:
        yield opened


async def rows(reader: AnsweringReader, query: str, params: list[JsonValue] | None = None) -> list[dict[str, Any]]:
    return (await reader.query(query, params or [])).rows


async def test_rows_of_types_that_the_driver_can_not_read_come_in_their_text_form(reader: AnsweringReader) -> None:
    assert await rows(reader, "SELECT odd FROM odd") == [{"odd": _ROW}]
    assert await rows(reader, "SELECT array_agg(odd) AS all FROM odd") == [{"all": [_ROW]}]
    assert await rows(reader, "SELECT pair FROM odd") == [{"pair": _ROW["pair"]}]
    # The columns by themselves have the forms that they always had.
    assert await rows(reader, "SELECT * FROM odd") == [_ROW | {"place": [1, 2]}]


async def test_a_list_is_a_value_for_a_vector(reader: AnsweringReader) -> None:
    assert await rows(reader, "SELECT place <-> $1 AS distance FROM odd", [[1, 2.0]]) == [{"distance": 0.0}]
    assert await rows(reader, "SELECT '[0,3]'::vector <-> $1::vector AS distance", ["[4,0]"]) == [{"distance": 5.0}]
    for wrong in ([1, "2"], [True, 2], [None, 1], [[1], [2]]):
        with pytest.raises(InvalidArguments, match=r"params\.0\.\d: the query expects vector"):
            await reader.query("SELECT place <-> $1 AS distance FROM odd", [wrong])


async def test_a_plan_for_any_values_wants_none(reader: AnsweringReader) -> None:
    query = "SELECT * FROM odd WHERE name = $1 AND price > $2 LIMIT $3"
    plan = str(await rows(reader, f"EXPLAIN (GENERIC_PLAN) {query}"))
    assert "$1" in plan
    assert "$2" in plan
    [as_json] = await rows(reader, f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {query}")
    assert as_json["QUERY PLAN"][0]["Plan"]["Node Type"] == "Limit"
    for off in ("off", "0", "false"):
        with pytest.raises(InvalidArguments, match=r"params: the query has \$1 to \$3"):
            await reader.query(f"EXPLAIN (GENERIC_PLAN {off}) {query}")
    with pytest.raises(InvalidArguments, match="ANALYZE"):
        await reader.query(f"EXPLAIN (GENERIC_PLAN, ANALYZE) {query}")


async def test_functions_that_only_read_may_be_random(reader: AnsweringReader) -> None:
    [row] = await rows(reader, "SELECT array_shuffle(ARRAY[1, 2]) AS all, array_sample(ARRAY[7, 7], 1) AS one")
    assert (sorted(row["all"]), row["one"]) == ([1, 2], [7])


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1 FROM nope.customers",
        "SELECT nope.lower('A')",
        "SELECT 1 OPERATOR(nope.+) 1",
        "SELECT 'a' COLLATE nope.nope",
        "SELECT 'a' COLLATE nope",
        "SELECT '1'::nope.nope",
        "SELECT to_tsvector('nope.english', 'a')",
        "SELECT ts_parse('nope.' || i, 'a') FROM generate_series(1, 2) AS i",
        "SELECT ts_lexize(('nope.' || i)::regdictionary, 'a') FROM generate_series(1, 2) AS i",
        "SELECT nope.customers.id FROM customers",
        "SELECT 1 ORDER BY 1 USING OPERATOR(nope.<)",
        "SELECT (-1)::positive",
        "SELECT '-1'::text::positive",
        "SELECT chr(0)",
        r"SELECT E'\000'",
        r"SELECT U&'\0000'",
    ],
)
async def test_a_callers_mistake_is_a_callers_mistake(reader: AnsweringReader, query: str) -> None:
    with pytest.raises(InvalidArguments) as refused:
        await reader.query(query)
    assert "migrate" not in refused.value.detail
    assert "the table" not in refused.value.detail


async def test_a_message_that_postgresql_cuts_within_a_character_is_a_callers_mistake(reader: AnsweringReader) -> None:
    """It is no text then, and the driver loses the thread over it. The connection ends, and nobody's turn with it."""
    for _ in range(6):
        with pytest.raises(InvalidArguments, match="PostgreSQL refuses a text in it"):
            await reader.query("SELECT to_date(quote_nullable(U&'\\0301'), repeat('TZH', 200))")
    assert await rows(reader, "SELECT 1 AS n") == [{"n": 1}]
