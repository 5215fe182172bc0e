"""What PostgreSQL works on for the gateway: statements that take long, and waiting for them to come and go."""

import asyncio
from typing import TYPE_CHECKING

from tests.fixtures.postgres import TestDatabase

if TYPE_CHECKING:
    import asyncpg

SLOW = "SELECT count(*) AS pairs FROM generate_series(1, 100000) a CROSS JOIN generate_series(1, 100000) b"
"""A statement that the guard lets pass and that takes minutes."""

GONE_WITHIN = 6.0
"""Seconds in which nothing of a statement is left in PostgreSQL, however busy the machine: less than its own limit."""

_PAUSE = 0.01
_RUNNING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'switchboard%' AND state = 'active'
"""
_WAITING = f"{_RUNNING} AND wait_event_type = 'Lock'"


async def until_running(database: TestDatabase, count: int, *, within: float = 30.0) -> None:
    """Wait until PostgreSQL works on so many statements of the gateway.

    Args:
        database: where.
        count: how many; 0 waits until all are gone.
        within: seconds, after which the test fails.
    """
    async with database.connect() as connection:
        await _until(connection, _RUNNING, count, within)


async def until_waiting(database: TestDatabase, count: int, *, within: float = 30.0) -> None:
    """Wait until so many statements of the gateway wait for a lock, as `until_running` does for any."""
    async with database.connect() as connection:
        await _until(connection, _WAITING, count, within)


async def _until(connection: "asyncpg.Connection[asyncpg.Record]", query: str, count: int, within: float) -> None:
    seen = None
    try:
        async with asyncio.timeout(within):
            # PostgreSQL sends no notice when a statement begins or ends, so there is no event to wait for.
            while (seen := await connection.fetchval(query)) != count:  # noqa: ASYNC110 - see above
                await asyncio.sleep(_PAUSE)
    except TimeoutError:
        raise AssertionError(f"{seen} statements are there after {within:g} s, not {count}") from None
