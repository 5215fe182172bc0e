"""Watching a ticket."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest

from app.errors import BackendUnavailable, GatewayError, InternalError
from app.local.process import free_port
from app.services.postgres.connections.pools import open_database
from app.services.postgres.desk.changes import TicketChanges
from app.services.postgres.desk.support import NewInteraction, SupportDesk
from tests.fixtures.postgres import TestDatabase, settings_for

BOUND = 20.0


async def notice(notices: AsyncIterator[Any]) -> Any:
    async with asyncio.timeout(BOUND):
        return await anext(notices)


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
        said = NewInteraction.model_validate({"customer_id": "12345", "ticket_id": 1, "query_text": "x"})
        await SupportDesk(pools).save_interaction(said)
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


@asynccontextmanager
async def own_login(desk: TestDatabase) -> AsyncGenerator[TestDatabase]:
    """A login of the gateway that its administrator may shut out."""
    name = f"listener_{secrets.token_hex(4)}"
    async with desk.connect() as administrator:
        await administrator.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'")
        await administrator.execute("REVOKE CONNECT ON DATABASE " + await _name_of(administrator) + " FROM PUBLIC")
        await administrator.execute(f"GRANT CONNECT ON DATABASE {await _name_of(administrator)} TO {name}")
        try:
            yield TestDatabase(_address(desk.url, user=name), desk.reader_url)
        finally:
            await administrator.execute(f"REVOKE CONNECT ON DATABASE {await _name_of(administrator)} FROM {name}")
            await administrator.execute(f"DROP ROLE {name}")


async def _name_of(administrator: Any) -> str:
    return str(await administrator.fetchval("SELECT quote_ident(current_database())"))


def _address(url: str, *, user: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{user}:x@{parts.netloc.rpartition('@')[2]}").geturl()


def user_of(database: TestDatabase) -> str:
    return str(urlsplit(database.url).username)


SHUT = {
    "no right to connect": (
        "REVOKE CONNECT ON DATABASE {database} FROM {user}",
        "GRANT CONNECT ON DATABASE {database} TO {user}",
    ),
    "no login": ("ALTER ROLE {user} NOLOGIN", "ALTER ROLE {user} LOGIN"),
    "no connection left": ("ALTER ROLE {user} CONNECTION LIMIT 0", "ALTER ROLE {user} CONNECTION LIMIT -1"),
    "a database that takes nobody": (
        "ALTER DATABASE {database} ALLOW_CONNECTIONS false",
        "ALTER DATABASE {database} ALLOW_CONNECTIONS true",
    ),
}


@pytest.mark.parametrize("how", SHUT)
async def test_whatever_shuts_the_listener_out_is_told_and_tried_again_until_it_is_over(desk: TestDatabase, how: str):
    shut, open_again = SHUT[how]
    elsewhere = TestDatabase(urlsplit(desk.url)._replace(path="/postgres").geturl(), desk.reader_url)
    async with own_login(desk) as login, desk.connect() as administrator, elsewhere.connect() as keeper:
        names = {"database": await _name_of(administrator), "user": user_of(login)}
        changes = TicketChanges(login.settings)
        async with changes.watch(1) as first, changes.watch(3) as other:
            await keeper.execute(shut.format(**names))
            await administrator.execute(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{names['user']}'"
            )
            for notices in (first, other):
                told = await notice(notices)
                assert told["interrupted"]["success"] is False
                assert "password" not in str(told)
            for _ in range(3):
                with pytest.raises(GatewayError):
                    async with changes.watch(1):
                        pytest.fail("nothing can be heard")
            await keeper.execute(open_again.format(**names))
            assert await notice(first) == {}, "something may have been missed"
            assert await notice(other) == {}
            async with changes.watch(1) as later:
                await administrator.execute("UPDATE tickets SET priority = 'low' WHERE id = 1")
                for notices in (first, later):
                    assert await notice(notices) == {}


async def test_who_comes_after_an_outage_is_not_kept_waiting_for_the_next_attempt(desk: TestDatabase):
    async with own_login(desk) as login, desk.connect() as administrator:
        names = {"database": await _name_of(administrator), "user": user_of(login)}
        changes = TicketChanges(login.settings)
        async with changes.watch(1) as first:
            await administrator.execute(f"ALTER ROLE {names['user']} NOLOGIN")
            await administrator.execute(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{names['user']}'"
            )
            assert "interrupted" in await notice(first)
            await administrator.execute(f"ALTER ROLE {names['user']} LOGIN")
            async with changes.watch(3) as later:
                await administrator.execute("UPDATE tickets SET priority = 'low' WHERE id = 3")
                assert await notice(later) == {}


async def test_a_listener_that_dies_of_a_bug_says_so_and_the_next_watcher_has_another(
    desk: TestDatabase, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    changes = TicketChanges(desk.settings)

    async def broken(connection: Any) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr("app.services.postgres.desk.changes._until_lost", broken)
        async with changes.watch(1) as notices:
            with pytest.raises(InternalError):
                await notice(notices)
            async with changes.watch(3) as others:
                with pytest.raises(InternalError):
                    await notice(others)
    assert "listening for changes of tickets failed" in caplog.text
    async with changes.watch(1) as notices:
        await change(desk, "UPDATE tickets SET priority = 'low' WHERE id = 1")
        assert await notice(notices) == {}


async def test_watching_a_dead_database_answers_503():
    changes = TicketChanges(settings_for(f"postgresql://u:p@127.0.0.1:{free_port()}/d"))
    for _ in range(2):
        with pytest.raises(BackendUnavailable):
            async with changes.watch(1):
                pytest.fail("nobody listens")
