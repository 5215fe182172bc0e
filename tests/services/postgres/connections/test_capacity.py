"""What a starting process says of a PostgreSQL with too few connections."""

import asyncio
import logging

import pytest

from app.errors import BackendTimeout
from app.local.process import free_port
from app.services.postgres.connections.capacity import capacity_checked, shortages
from app.services.postgres.connections.settings import PostgresSettings
from app.services.postgres.sql.reader import open_sql_reader
from tests.fixtures.postgres import TestDatabase, settings_for


async def test_too_few_connections_for_all_processes_are_told(database: TestDatabase) -> None:
    few, many = (settings_for(database.url, database.reader_url, processes=n) for n in (2, 100))
    assert await shortages(few) == []
    of_the_server, of_the_login = await shortages(many)
    assert "max_connections" in of_the_server
    assert "DATABASE_PROCESSES" in of_the_server
    assert "CONNECTION LIMIT is 32" in of_the_login


@pytest.mark.parametrize("cores", [1, 2, 4, 5, 8, 64, None])
async def test_a_default_deployment_has_room_in_a_default_postgresql(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch, cores: int | None
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    settings = PostgresSettings.model_validate({"url": database.url, "reader_url": database.reader_url})
    assert settings.processes * (settings.connections + settings.reader_pool_size) <= 97


async def test_three_processes_have_room_with_the_readers_login(database: TestDatabase) -> None:
    own = settings_for(None, database.reader_url, pool_wait=30)
    busy = "SELECT count(*) FROM generate_series(1, 1000000)"
    async with open_sql_reader(own) as one, open_sql_reader(own) as two, open_sql_reader(own) as three:
        answers = await asyncio.gather(*(reader.query(busy) for reader in (one, two, three) for _ in range(4)))
    assert len(answers) == 12


async def test_the_readers_address_says_what_it_is_called_and_how_long_a_query_takes(database: TestDatabase) -> None:
    endless = "SELECT count(*) FROM generate_series(1, 100000000000)"
    url = f"{database.reader_url}?application_name=desk&statement_timeout=300ms"
    async with open_sql_reader(settings_for(None, url, statement_timeout=60)) as reader, asyncio.timeout(10):
        await reader.query("SELECT 1")
        async with database.connect() as administrator:
            assert await administrator.fetchval("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'desk'")
        with pytest.raises(BackendTimeout):
            await reader.query(endless)


async def test_a_start_warns_in_the_log(database: TestDatabase, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with asyncio.timeout(10), capacity_checked(settings_for(database.url, processes=100)):
        [checking] = [task for task in asyncio.all_tasks() if task.get_name() == "capacity of PostgreSQL"]
        await asyncio.wait([checking])
    assert "max_connections" in caplog.text


async def test_a_database_that_is_down_keeps_nobody_from_starting() -> None:
    async with capacity_checked(settings_for(f"postgresql://u:p@127.0.0.1:{free_port()}/d")):
        pass
    async with capacity_checked(settings_for(None)):
        pass
