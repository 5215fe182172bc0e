"""The pool of fixed reads: turns, dead connections, cancellation. What callers see of it is in `test_pools.py`."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator

import asyncpg
import pytest

from app.errors import BackendUnavailable, TooManyRequests
from app.services.postgres.connections.connecting import Connection, Connector
from app.services.postgres.connections.fixed_reads import FixedReads
from app.services.postgres.connections.pools import CLIENT_CHECK_INTERVAL
from app.services.postgres.connections.sharing import Question
from tests.fixtures.postgres import TestDatabase

WHO = "SELECT pg_backend_pid()"
WAIT = 30.0
"""Seconds that nobody waits here."""
SLOW = "SELECT count(*) FROM generate_series(1, 1000000000)"


def connector(database: TestDatabase) -> Connector:
    # Without the interval a statement whose cancellation was overlooked goes on after its connection has ended.
    session = {"client_connection_check_interval": CLIENT_CHECK_INTERVAL}
    return Connector(lambda: database.settings.address, connect_timeout=10, session=session)


@pytest.fixture
async def pool(database: TestDatabase) -> AsyncGenerator[FixedReads]:
    reads = FixedReads(connector(database).open, size=2, wait=WAIT)
    yield reads
    await reads.close()


async def _until_running(database: TestDatabase, query: str, count: int) -> None:
    async with asyncio.timeout(30), database.connect() as connection:
        while await _running(connection, query) != count:
            await asyncio.wait([asyncio.ensure_future(connection.fetchval("SELECT 1"))])


async def _running(connection: "asyncpg.Connection[asyncpg.Record]", query: str) -> int:
    return await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = $1", query
    )


async def test_many_callers_share_a_few_connections(pool: FixedReads) -> None:
    backends = await asyncio.gather(*(pool.fetch_value(WHO, []) for _ in range(40)))
    assert 1 <= len(set(backends)) <= 2


async def test_a_connection_is_used_again(pool: FixedReads) -> None:
    assert await pool.fetch_value(WHO, []) == await pool.fetch_value(WHO, [])


async def test_a_caller_who_gives_up_leaves_the_connection_to_the_next(
    pool: FixedReads, database: TestDatabase
) -> None:
    slow = [asyncio.ensure_future(pool.fetch_value(SLOW, [])) for _ in range(2)]
    await _until_running(database, SLOW, 2)
    waiting = asyncio.ensure_future(pool.fetch_value(WHO, []))
    for task in slow:
        task.cancel()
    await asyncio.wait(slow)
    async with asyncio.timeout(30):
        assert await waiting
    await _until_running(database, SLOW, 0)


async def test_a_statement_ends_whose_cancellation_postgresql_overlooks(
    pool: FixedReads, database: TestDatabase
) -> None:
    """The signal comes before the backend has read the statement, so it ends nothing, and the statement starts."""
    backend = await pool.fetch_value(WHO, [])
    # It is prepared, so that the next time one message brings it.
    slow = asyncio.ensure_future(pool.fetch_value(SLOW, []))
    await _until_running(database, SLOW, 1)
    slow.cancel()
    await asyncio.wait([slow])
    await _until_running(database, SLOW, 0)
    assert await pool.fetch_value(WHO, []) == backend
    os.kill(backend, signal.SIGSTOP)
    try:
        async with asyncio.timeout(30):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await pool.fetch_value(SLOW, [])
    finally:
        os.kill(backend, signal.SIGCONT)
    assert await pool.fetch_value(WHO, []) != backend
    await _until_running(database, SLOW, 0)


async def test_a_caller_who_gives_up_in_the_line_takes_no_turn(pool: FixedReads, database: TestDatabase) -> None:
    slow = [asyncio.ensure_future(pool.fetch_value(SLOW, [])) for _ in range(2)]
    await _until_running(database, SLOW, 2)
    impatient = asyncio.ensure_future(pool.fetch_value(WHO, []))
    patient = asyncio.ensure_future(pool.fetch_value(WHO, []))
    await asyncio.wait([impatient], timeout=0.01)
    impatient.cancel()
    slow[0].cancel()
    async with asyncio.timeout(30):
        assert await patient
    slow[1].cancel()
    await asyncio.wait(slow)


async def test_dead_connections_are_replaced_without_the_callers_noticing(
    pool: FixedReads, database: TestDatabase
) -> None:
    before = set(await asyncio.gather(*(pool.fetch_value(WHO, []) for _ in range(8))))
    async with database.connect() as connection:
        for backend in before:
            await connection.execute("SELECT pg_terminate_backend($1)", backend)
    after = set(await asyncio.gather(*(pool.fetch_value(WHO, []) for _ in range(8))))
    assert not before & after


async def test_a_failure_to_connect_frees_the_place_for_others() -> None:
    attempts = 0

    async def refuse() -> Connection:
        nonlocal attempts
        attempts += 1
        raise ConnectionRefusedError

    reads = FixedReads(refuse, size=1, wait=WAIT)
    answers = await asyncio.gather(*(reads.fetch_value(WHO, []) for _ in range(5)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [ConnectionRefusedError] * 5
    assert attempts == 10


async def test_statements_that_a_migration_outdated_are_prepared_again(
    pool: FixedReads, database: TestDatabase
) -> None:
    async with database.connect() as connection:
        await connection.execute("CREATE TABLE shapes AS SELECT 1::int AS sides")
        assert await pool.fetch_value("SELECT * FROM shapes", []) == 1
        await connection.execute("ALTER TABLE shapes ALTER COLUMN sides TYPE text")
        assert await pool.fetch_value("SELECT * FROM shapes", []) == "1"


@pytest.fixture
async def busy(database: TestDatabase) -> AsyncGenerator[FixedReads]:
    """A pool whose only connection is taken, and where one caller may wait, for a moment."""
    reads = FixedReads(connector(database).open, size=1, wait=0.05, line=1)
    slow = asyncio.ensure_future(reads.fetch_value(SLOW, []))
    await _until_running(database, SLOW, 1)
    yield reads
    slow.cancel()
    await asyncio.wait([slow])
    await reads.close()


async def test_who_waits_while_nobody_is_let_in_hears_of_the_outage() -> None:
    asked = asyncio.Event()

    async def connect() -> Connection:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    reads = FixedReads(connect, size=1, wait=0.05, line=1)
    async with asyncio.timeout(WAIT):
        first = asyncio.ensure_future(reads.fetch_value(WHO, []))
        await asked.wait()
        second = asyncio.ensure_future(reads.fetch_answer(Question(WHO, [], WHO, "key", ())))
        await asyncio.wait([second], timeout=0)
        with pytest.raises(BackendUnavailable, match="PostgreSQL does not answer"):
            await reads.fetch_value(WHO, [])  # the line is full
        with pytest.raises(BackendUnavailable, match="PostgreSQL does not answer"):
            await second
        first.cancel()
        await asyncio.wait([first])
    await reads.close()


async def test_who_waits_too_long_for_a_turn_is_told_to_come_back(busy: FixedReads) -> None:
    async with asyncio.timeout(30):
        for _ in range(2):
            with pytest.raises(TooManyRequests, match="busy"):
                await busy.fetch_value(WHO, [])


async def test_who_would_stand_too_far_back_in_the_line_is_told_at_once(busy: FixedReads) -> None:
    answers = await asyncio.gather(*(busy.fetch_value(WHO, []) for _ in range(300)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {TooManyRequests}


async def test_a_turn_that_comes_in_time_is_taken(database: TestDatabase) -> None:
    reads = FixedReads(connector(database).open, size=1, wait=WAIT, line=100)
    answers = await asyncio.gather(*(reads.fetch_value(WHO, []) for _ in range(100)))
    assert len(set(answers)) == 1
    await reads.close()
