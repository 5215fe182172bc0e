"""Every PostgreSQL type has a JSON form that loses nothing."""

import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from app.local.postgres import LocalPostgres
from app.services.postgres.sql.json_forms import unique_names
from tests.fixtures.postgres import cloned_database
from tests.services.postgres.sql.answering import AnsweringReader, open_answering_reader


@pytest.fixture(scope="session")
async def typed(postgres_server: LocalPostgres, postgres_template: str) -> AsyncGenerator[AnsweringReader]:
    """A reader of a database with types of every kind."""
    async with cloned_database(postgres_server, postgres_template) as database:
        async with database.connect() as administrator:
            await administrator.execute(
                "CREATE EXTENSION IF NOT EXISTS hstore; CREATE EXTENSION IF NOT EXISTS citext; "
                "CREATE EXTENSION IF NOT EXISTS vector; CREATE TYPE mood AS ENUM ('calm', 'angry'); "
                "CREATE DOMAIN rating AS int CHECK (VALUE BETWEEN 1 AND 5)"
            )
        async with open_answering_reader(database.settings) as reader:
            yield reader


FORMS: dict[str, Any] = {
    "true": True,
    "NULL::int": None,
    "32767::smallint": 32767,
    "9007199254740991::bigint": 9007199254740991,
    "9007199254740993::bigint": "9007199254740993",
    "ARRAY[9007199254740993]": ["9007199254740993"],
    "1.50": "1.50",
    "12345678901234567890.0123456789": "12345678901234567890.0123456789",
    "'NaN'::numeric": "NaN",
    "'-Infinity'::numeric": "-Infinity",
    "ARRAY[1.50, NULL, 'NaN']::numeric[]": ["1.50", None, "NaN"],
    "0.1::real": 0.1,
    "0.1::float8": 0.1,
    "1e20::float8": 1e20,
    "123456789012345680::float8": 123456789012345680.0,
    "'NaN'::float8": "NaN",
    "'Infinity'::float8": "Infinity",
    "'-Infinity'::real": "-Infinity",
    "12.5::money": "$12.50",
    "'a'": "a",
    "'a'::char(3)": "a  ",
    "'a'::varchar(3)": "a",
    "'a'::name": "a",
    "'X'::citext": "X",
    r"'\xdeadbeef'::bytea": "3q2+7w==",
    r"ARRAY['\x00'::bytea, NULL]": ["AA==", None],
    "decode(repeat('00', 100), 'hex')": "A" * 134 + "==",
    "'2026-01-02 03:04:05.678+02'::timestamptz": "2026-01-02T01:04:05.678+00:00",
    "'2026-01-02 03:04:05'::timestamp": "2026-01-02T03:04:05",
    "'infinity'::timestamptz": "infinity",
    "'-infinity'::timestamp": "-infinity",
    "ARRAY['infinity'::date]": ["infinity"],
    "'9999-12-31'::date": "9999-12-31",
    "'12026-01-01'::date": "12026-01-01",
    "'0044-03-15 BC'::date": "0044-03-15 BC",
    "'03:04:05.6'::time": "03:04:05.6",
    "'24:00'::time": "24:00:00",
    "'03:04:05+02'::timetz": "03:04:05+02",
    "'1 year 2 months 3 days 04:05:06.7'::interval": "P1Y2M3DT4H5M6.7S",
    "'-1 day'::interval": "P-1D",
    "'infinity'::interval": "infinity",
    "ARRAY[[1, 2], [3, NULL]]": [[1, 2], [3, None]],
    "'{}'::int[]": [],
    "'{\"a\": [1, 1.5, null, true]}'::jsonb": {"a": [1, 1.5, None, True]},
    "'12345678901234567890'::jsonb": "12345678901234567890",
    "'1.00000000000000000001'::json": "1.00000000000000000001",
    "'1e400'::json": "1e400",
    "'null'::jsonb": None,
    "'\"\\ud83d\"'::json": "�",
    "'[1,5)'::int4range": {"lower": 1, "upper": 5, "bounds": "[)"},
    "'(,5]'::numrange": {"lower": None, "upper": 5, "bounds": "(]"},
    "'empty'::daterange": {"lower": None, "upper": None, "bounds": "empty"},
    "'[2026-01-01,infinity)'::daterange": {"lower": "2026-01-01", "upper": "infinity", "bounds": "[)"},
    "'{[1,2),[5,)}'::int4multirange": [
        {"lower": 1, "upper": 2, "bounds": "[)"},
        {"lower": 5, "upper": None, "bounds": "[)"},
    ],
    "NULL::int4range": None,
    "NULL::int4multirange": None,
    "'00000000-0000-0000-0000-000000000001'::uuid": "00000000-0000-0000-0000-000000000001",
    "'10.0.0.1/8'::inet": "10.0.0.1/8",
    "'::1'::inet": "::1",
    "'10.0.0.0/8'::cidr": "10.0.0.0/8",
    "'08:00:2b:01:02:03'::macaddr": "08:00:2b:01:02:03",
    "B'0101'": "0101",
    "B'01'::varbit": "01",
    "'a=>1, b=>NULL'::hstore": {"a": "1", "b": None},
    "'[1,2.5]'::vector": [1, 2.5],
    "ROW(1, 'a', '2026-01-01'::date)": {"f1": 1, "f2": "a", "f3": "2026-01-01"},
    "'calm'::mood": "calm",
    "ARRAY['calm', 'angry']::mood[]": ["calm", "angry"],
    "3::rating": 3,
    "'a b'::tsvector": "'a' 'b'",
    "'a & b'::tsquery": "'a' & 'b'",
    "point(1, 2)": "(1,2)",
    "'((0,0),(1,1))'::box": "(1,1),(0,0)",
    "'$.a'::jsonpath": '$."a"',
    "12::oid": 12,
    "'english'::regconfig": "english",
    "'0/10'::pg_lsn": "0/10",
}


@pytest.mark.parametrize("sql", FORMS)
async def test_each_type_has_its_form(typed: AnsweringReader, sql: str) -> None:
    result = await typed.query(f"SELECT {sql} AS value")
    expected = FORMS[sql]
    assert result.rows == [{"value": expected}]
    assert type(result.rows[0]["value"]) is type(expected)
    assert json.loads(result.model_dump_json())["rows"] == [{"value": expected}]


async def test_json_that_is_too_deep_is_given_as_text(typed: AnsweringReader) -> None:
    document = "[" * 500 + '"]"' + "]" * 500
    result = await typed.query("SELECT $1::json AS deep, $2::json AS flat", [document, json.dumps(["["] * 500)])
    assert result.rows == [{"deep": document, "flat": ["["] * 500}]
    assert json.loads(result.model_dump_json())["rows"] == result.rows


def test_names_that_repeat_are_told_apart() -> None:
    assert unique_names(["a", "b", "a", "a_2", "a"]) == ["a", "b", "a_3", "a_2", "a_4"]


def test_thousands_of_equal_names_are_told_apart_in_one_go() -> None:
    written = 0

    class Name(str):
        __slots__ = ()

        def __format__(self, form: str) -> str:
            nonlocal written
            written += 1
            return str(self)

    names: Sequence[str] = [Name("a")] * 1000 + [Name(f"a_{n}") for n in range(2, 1000)]
    assert len(set(unique_names(names))) == len(names)
    assert written <= 2 * len(names)
