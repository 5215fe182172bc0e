"""What analysts and models write runs, whatever it would cost at worst."""

import json
import re
from pathlib import Path

import pytest

from tests.fixtures.postgres import TestDatabase
from tests.services.postgres.sql.answering import open_answering_reader

_STATEMENT = re.compile(r"^-- (\d+) (\[[^\n]*\])\n(.*?);$", re.MULTILINE | re.DOTALL)

STATEMENTS = [
    (int(version), sql, json.loads(values))
    for version, values, sql in _STATEMENT.findall(Path(__file__).with_name("analysis.sql").read_text())
]


def test_there_are_enough_of_each_version() -> None:
    assert len(STATEMENTS) >= 60
    assert {version for version, _, _ in STATEMENTS} == {15, 16, 17, 18}


@pytest.mark.parametrize(("version", "sql", "values"), STATEMENTS, ids=[sql[:60] for _, sql, _ in STATEMENTS])
async def test_what_analysts_write_runs(
    demo_database: TestDatabase, version: int, sql: str, values: list[object]
) -> None:
    async with demo_database.connect() as administrator:
        # The embedded server is the newest; on an older one its statements have to be known as too new.
        assert administrator.get_server_version() >= (version,)
    async with open_answering_reader(demo_database.settings) as reader:
        assert (await reader.query(sql, values)).columns
