"""What a starting process says of a PostgreSQL with too few connections."""

import asyncio
import logging

import pytest

from app.local.process import free_port
from app.services.postgres.connections.capacity import capacity_checked, shortages
from tests.fixtures.postgres import TestDatabase, settings_for


async def test_too_few_connections_for_all_processes_are_told(database: TestDatabase) -> None:
    few, many = (settings_for(database.url, database.reader_url, processes=n) for n in (2, 100))
    assert await shortages(few) == []
    of_the_server, of_the_login = await shortages(many)
    assert "max_connections" in of_the_server
    assert "DATABASE_PROCESSES" in of_the_server
    assert "CONNECTION LIMIT is 32" in of_the_login


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
