"""Watching a ticket."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from app.errors import BackendUnavailable
from app.local.process import free_port
from app.services.postgres.connections.pools import open_database
from app.services.postgres.desk.changes import TicketChanges
from app.services.postgres.desk.support import NewInteraction, SupportDesk
from tests.fixtures.postgres import TestDatabase, settings_for

BOUND = 10.0


async def notice(notices: AsyncIterator[Any]) -> None:
    async with asyncio.timeout(BOUND):
        await anext(notices)


async def listeners(desk: TestDatabase) -> int:
    async with desk.connect() as connection:
        return int(
            await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
            )
        )


async def change(desk: TestDatabase, statement: str) -> None:
    async with desk.connect() as connection:
        await connection.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE tickets SET status = 'pending' WHERE id = 1",
        "INSERT INTO interactions (customer_id, ticket_id, query_text) VALUES ('12345', 1, 'x')",
        "DELETE FROM tickets WHERE id = 1",
        # More rows than a statement names one by one.
        "INSERT INTO tickets (customer_id, subject) SELECT '12345', 's' FROM generate_series(1, 2000)",
    ],
)
async def test_a_watcher_hears_of_each_kind_of_change(desk: TestDatabase, statement: str):
    async with TicketChanges(desk.settings).watch(1) as notices:
        await change(desk, statement)
        await notice(notices)


async def test_a_saved_interaction_is_a_change_of_its_ticket(desk: TestDatabase):
    async with TicketChanges(desk.settings).watch(1) as notices, open_database(desk.settings) as pools:
        await SupportDesk(pools).save_interaction(NewInteraction(customer_id="12345", ticket_id=1, query_text="x"))
        await notice(notices)


async def test_another_tickets_change_is_silent_and_many_changes_are_one_notice(desk: TestDatabase):
    changes = TicketChanges(desk.settings)
    async with changes.watch(1) as first, changes.watch(3) as third:
        for priority in ("low", "normal", "urgent"):
            await change(desk, f"UPDATE tickets SET priority = '{priority}' WHERE id = 1")
        # Notices arrive in the order of the commits: once this one is here, all of ticket 1's are.
        await change(desk, "UPDATE tickets SET priority = 'low' WHERE id = 3")
        await notice(third)
        await notice(first)
        again = [asyncio.ensure_future(anext(notices)) for notices in (first, third)]
        await change(desk, "UPDATE tickets SET priority = 'high' WHERE id = 3")
        async with asyncio.timeout(BOUND):
            await again[1]
        assert not again[0].done()
        again[0].cancel()
        await asyncio.gather(again[0], return_exceptions=True)


async def test_one_connection_serves_all_watchers_and_goes_with_the_last(desk: TestDatabase):
    changes = TicketChanges(desk.settings)
    assert await listeners(desk) == 0
    async with changes.watch(1):
        async with changes.watch(1), changes.watch(2):
            assert await listeners(desk) == 1
        assert await listeners(desk) == 1
    async with asyncio.timeout(BOUND):
        while await listeners(desk):
            pass
    async with changes.watch(1) as notices:
        await change(desk, "UPDATE tickets SET priority = 'low' WHERE id = 1")
        await notice(notices)


async def test_a_watcher_that_is_cancelled_hangs_up_at_once(desk: TestDatabase):
    changes = TicketChanges(desk.settings)
    # Such a scope cancels again at every wait, and so does the SDK that serves the subscriptions.
    with anyio.CancelScope() as scope:
        async with changes.watch(1):
            assert await listeners(desk) == 1
            scope.cancel()
            await anyio.sleep_forever()
    async with asyncio.timeout(BOUND):
        while await listeners(desk):
            pass


async def test_after_a_lost_connection_it_listens_again_and_says_that_something_may_be_missed(desk: TestDatabase):
    async with TicketChanges(desk.settings).watch(1) as notices:
        await change(
            desk,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND query LIKE 'LISTEN%'",
        )
        await notice(notices)
        await change(desk, "UPDATE tickets SET priority = 'low' WHERE id = 1")
        await notice(notices)


async def test_watching_a_dead_database_answers_503():
    changes = TicketChanges(settings_for(f"postgresql://u:p@127.0.0.1:{free_port()}/d"))
    for _ in range(2):
        with pytest.raises(BackendUnavailable):
            async with changes.watch(1):
                pytest.fail("nobody listens")
