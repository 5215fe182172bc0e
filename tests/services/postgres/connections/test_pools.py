"""What callers hear of a PostgreSQL that is down, slow, restarted or strange, and how it comes back."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import Executable, bindparam, cast, func, literal_column, make_url, select, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.types import Text

from app.errors import (
    BackendNotConfigured,
    BackendTimeout,
    BackendUnavailable,
    Conflict,
    Forbidden,
    GatewayError,
    InvalidArguments,
)
from app.local.postgres import LocalPostgres, run_postgres
from app.local.process import free_port
from app.services.postgres.connections.condition import condition_of
from app.services.postgres.connections.errors import postgres_errors
from app.services.postgres.connections.pools import Database, Statement, compile_ahead, open_database
from app.services.postgres.desk.support import NewInteraction, SupportDesk
from app.services.postgres.migrations import migrate
from tests.fixtures.postgres import TestDatabase, cloned_database, gone, processes_of, settings_for

NAP = Statement(select(cast(func.pg_sleep(60), Text)))
WHO = Statement(select(cast(func.pg_backend_pid(), Text)))
ONE = Statement(select(literal_column("'1'")))
BOUND = 14.0
"""Seconds: less than PostgreSQL gives a statement of ours."""


def note(customer_id: str, query_text: str) -> NewInteraction:
    return NewInteraction.model_validate({"customer_id": customer_id, "query_text": query_text})


async def terminate(database: TestDatabase, condition: str, spare: Iterable[int] = ()) -> set[int]:
    """End connections of the gateway from outside, once there are some that fulfil a condition; return their ids."""
    async with database.connect() as connection, asyncio.timeout(BOUND):
        while True:
            ended = await connection.fetch(
                "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                f" AND application_name = 'switchboard' AND {condition} AND NOT pid = ANY($1::integer[])",
                list(spare),
            )
            if ended:
                return {row["pid"] for row in ended}


async def execute(database: Database, statement: str, values: dict[str, object] | None = None) -> None:
    """Run a statement as a write."""

    async def work(session: AsyncSession) -> None:
        await session.execute(text(statement), values)

    await database.write(work)


async def test_opening_needs_no_database():
    async with open_database(settings_for(f"postgresql://u:p@127.0.0.1:{free_port()}/d")) as database:
        with pytest.raises(BackendUnavailable) as down:
            await database.ping()
        assert down.value.status == 503
        with pytest.raises(BackendUnavailable):
            await SupportDesk(database).save_interaction(note("1", "x"))


async def test_without_an_address_each_call_names_the_variable():
    async with open_database(settings_for(None)) as database:
        with pytest.raises(BackendNotConfigured, match="DATABASE_URL"):
            await database.ping()
        with pytest.raises(BackendNotConfigured, match="DATABASE_URL"):
            await execute(database, "SELECT 1")


async def test_a_refused_login_and_a_missing_database_are_matters_of_configuration(database: TestDatabase):
    for url in (database.url.replace("postgres:", "nobody:"), database.url + "_gone"):
        async with open_database(settings_for(url)) as pools:
            with pytest.raises(BackendNotConfigured, match="DATABASE_URL") as refused:
                await pools.ping()
            assert "nobody" not in str(refused.value)


async def test_a_database_without_tables_says_how_to_make_them(postgres_server: LocalPostgres):
    async with cloned_database(postgres_server, None) as empty, open_database(settings_for(empty.url)) as database:
        with pytest.raises(BackendUnavailable, match="switchboard migrate"):
            await SupportDesk(database).customer_context("12345", 1, 1)
        with pytest.raises(BackendUnavailable, match="switchboard migrate"):
            await SupportDesk(database).save_interaction(note("1", "x"))


async def test_a_read_that_is_ended_in_the_middle_is_repeated_once_and_then_answers_503(database: TestDatabase):
    async with open_database(database.settings) as pools:
        nap = asyncio.create_task(pools.reads.fetch_json(NAP))
        first = await terminate(database, "query LIKE '%pg_sleep%' AND state = 'active'")
        await terminate(database, "query LIKE '%pg_sleep%' AND state = 'active'", spare=first)
        async with asyncio.timeout(BOUND):
            with pytest.raises(BackendUnavailable):
                await nap
        await pools.ping()


async def test_a_pool_full_of_dead_connections_costs_no_call(database: TestDatabase):
    async with open_database(database.settings) as pools:
        before = set(await asyncio.gather(*(pools.reads.fetch_json(WHO) for _ in range(16))))
        assert await terminate(database, "state = 'idle'") == {int(pid or 0) for pid in before}
        after = set(await asyncio.gather(*(pools.reads.fetch_json(WHO) for _ in range(16))))
        assert not before & after


async def test_a_write_finds_a_dead_connection_before_it_writes(desk: TestDatabase):
    async with open_database(desk.settings) as pools:
        support = SupportDesk(pools)
        await support.save_interaction(note("12345", "before"))
        await terminate(desk, "state = 'idle'")
        await support.save_interaction(note("12345", "after"))


async def test_a_statement_beyond_its_time_answers_504(database: TestDatabase):
    async with open_database(settings_for(database.url, statement_timeout=0.5)) as pools:
        with pytest.raises(BackendTimeout):
            await pools.reads.fetch_json(NAP)
        with pytest.raises(BackendTimeout):
            await execute(pools, "SELECT pg_sleep(60)")
        await pools.ping()


async def test_a_cancelled_read_ends_in_the_database_too(database: TestDatabase):
    async with open_database(database.settings) as pools, database.connect() as connection:
        nap = asyncio.create_task(pools.reads.fetch_json(NAP))
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active'"
            " AND application_name = 'switchboard' AND query LIKE '%pg_sleep%'"
        )
        async with asyncio.timeout(BOUND):
            while not await connection.fetchval(query):
                pass
            nap.cancel()
            with pytest.raises(asyncio.CancelledError):
                await nap
            while await connection.fetchval(query):
                pass


async def test_a_read_ends_even_if_postgresql_overlooks_its_cancellation(database: TestDatabase):
    # It drops a request that meets it before it has read the statement's next message. A stopped backend gets both
    # at once.
    nap = Statement(select(cast(func.pg_sleep(bindparam("seconds")), Text)))
    async with (
        open_database(settings_for(database.url, read_pool_size=1)) as pools,
        database.connect() as connection,
        asyncio.timeout(BOUND),
    ):
        await pools.reads.fetch_json(nap, seconds=0)
        backend = int(await pools.reads.fetch_json(WHO) or 0)
        os.kill(backend, signal.SIGSTOP)
        try:
            task = asyncio.create_task(pools.reads.fetch_json(nap, seconds=60))
            await asyncio.sleep(0)
            task.cancel()
            while not _has_pending(backend, signal.SIGINT):
                await connection.execute("SELECT 1")
        finally:
            os.kill(backend, signal.SIGCONT)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert int(await pools.reads.fetch_json(WHO) or 0) != backend
        while await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", backend):
            pass


def _has_pending(process: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{process}/status").read_text().splitlines()
    masks = dict(line.split(":", 1) for line in status)
    return bool((int(masks["SigPnd"], 16) | int(masks["ShdPnd"], 16)) & 1 << (number - 1))


async def test_reads_can_not_write(desk: TestDatabase):
    async with open_database(desk.settings) as pools:
        with pytest.raises(Forbidden):
            await pools.reads.fetch_json(Statement(select(cast(func.nextval("tickets_id_seq"), Text))))


async def test_too_many_connections_answer_503(database: TestDatabase):
    async with database.connect() as connection:
        await connection.execute("ALTER ROLE switchboard_reader_login CONNECTION LIMIT 0")
        try:
            async with open_database(settings_for(database.reader_url)) as pools:
                with pytest.raises(BackendUnavailable, match="free connection") as full:
                    await pools.ping()
                assert full.value.status == 503
        finally:
            await connection.execute("ALTER ROLE switchboard_reader_login CONNECTION LIMIT 32")


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("INSERT INTO customers (id, name, email) VALUES ('12345', 'n', 'n@example.com')", Conflict),
        ("INSERT INTO tickets (customer_id, subject) VALUES ('nobody', 's')", Conflict),
        ("INSERT INTO customers (id, name, email) VALUES ('x', 'n', 'no address')", InvalidArguments),
        ("INSERT INTO customers (id, name) VALUES ('x', 'n')", InvalidArguments),
        ("SELECT 1 / 0", InvalidArguments),
        ("SELECT * FROM no_such_table", BackendUnavailable),
        ("SELECT no_such_column FROM customers", BackendUnavailable),
    ],
)
async def test_what_the_driver_says_never_reaches_the_caller(
    desk: TestDatabase, statement: str, kind: type[GatewayError]
):
    async with open_database(desk.settings) as pools:
        with pytest.raises(GatewayError) as failure:
            await execute(pools, statement)
    assert type(failure.value) is kind
    for secret in ("customers", "no_such", "relation", "12345", "asyncpg", "pk_"):
        assert secret not in failure.value.detail


async def test_what_the_driver_refuses_to_send_is_no_lost_connection(desk: TestDatabase):
    async with open_database(desk.settings) as pools:
        with pytest.raises(InvalidArguments, match="outside of what its column"):
            await execute(pools, "SELECT CAST(:number AS bigint)", {"number": 2**63})


async def test_a_mistake_of_ours_is_left_to_the_gateway_without_the_callers_data(desk: TestDatabase):
    async with open_database(desk.settings) as pools:
        with pytest.raises(ProgrammingError) as mistake:
            await execute(pools, "SELEC :words", {"words": "my card is 4111"})
    assert "SELEC" in str(mistake.value)
    assert "4111" not in str(mistake.value)


async def test_a_customer_id_that_can_not_be_stored_is_refused_in_words(pools: Database):
    with pytest.raises(InvalidArguments, match="NUL"):
        await SupportDesk(pools).customer_context("a\0b", 1, 1)


@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_a_read_that_a_standby_ended_is_to_be_repeated_and_a_write_is_a_conflict(state: str):
    ended = asyncpg.PostgresError.new({"S": "ERROR", "C": state, "M": "canceling statement due to conflict"})
    with pytest.raises(BackendUnavailable) as failure, postgres_errors(reading=True):
        raise ended
    assert (failure.value.code, failure.value.retry_after) == ("backend_unavailable", 1)
    with pytest.raises(Conflict), postgres_errors():
        raise ended


async def test_a_write_whose_statements_a_migration_has_outdated_is_done_once_more(desk: TestDatabase):
    async with open_database(settings_for(desk.url, write_pool_size=1)) as pools, desk.connect() as administrator:
        support = SupportDesk(pools)
        for number, kind in enumerate(("text", "varchar(400)", "text")):
            saved = await support.save_interaction(note("12345", f"note {number}"))
            assert saved.interaction.query_text == f"note {number}"
            await administrator.execute(f"ALTER TABLE interactions ALTER COLUMN agent_id TYPE {kind}")
        stored = await administrator.fetchval("SELECT count(*) FROM interactions WHERE query_text LIKE 'note %'")
        assert stored == 3


def test_errors_of_the_network_are_translated():
    for raised, kind in ((ConnectionRefusedError(), BackendUnavailable), (TimeoutError(), BackendTimeout)):
        with pytest.raises(kind), postgres_errors():
            raise raised


async def test_the_gateway_outlives_a_restart_of_postgresql(postgres_directory: Path):
    port = free_port()
    async with run_postgres(postgres_directory, port=port) as server:
        url = server.url()
        await migrate(url)
        connection = await asyncpg.connect(url)
        await connection.execute("INSERT INTO customers (id, name, email) VALUES ('12345', 'n', 'n@example.com')")
        await connection.close()
        async with open_database(settings_for(url)) as pools:
            support = SupportDesk(pools)

            async def call_until_down() -> GatewayError:
                while True:
                    try:
                        await support.customer_context("12345", 1, 1)
                    except GatewayError as error:
                        return error

            callers = [asyncio.create_task(call_until_down()) for _ in range(8)]
            await support.save_interaction(note("12345", "before"))
            family = processes_of(server)
            server.process.send_signal(signal.SIGKILL)
            async with asyncio.timeout(BOUND):
                failures = await asyncio.gather(*callers)
            assert {failure.status for failure in failures} <= {503, 504}
            # Those who worked for it end by themselves, each once it notices.
            await gone(family)
            with pytest.raises(BackendUnavailable):
                await support.save_interaction(note("12345", "during"))
            await server.process.wait()
            async with run_postgres(postgres_directory, port=port):
                await asyncio.gather(*(support.customer_context("12345", 1, 1) for _ in range(8)))
                await support.save_interaction(note("12345", "after"))


async def test_a_postgresql_that_hangs_answers_504_in_time(postgres_directory: Path):
    async with run_postgres(postgres_directory, durable=False) as server:
        limited = settings_for(server.url(), connect_timeout=0.3, statement_timeout=0.3)
        async with open_database(limited) as pools:
            os.kill(server.process.pid, signal.SIGSTOP)
            try:
                async with asyncio.timeout(BOUND):
                    with pytest.raises(BackendTimeout):
                        await pools.ping()
            finally:
                os.kill(server.process.pid, signal.SIGCONT)
            async with asyncio.timeout(BOUND):
                # To connect may take longer than these pools wait.
                while True:
                    with suppress(BackendTimeout):
                        await pools.ping()
                        break


async def test_a_login_that_may_not_write_all_that_we_write_is_told_before_it_is_tried(database: TestDatabase) -> None:
    name = "half_a_writer"
    async with database.connect() as connection:
        await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
        try:
            await connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}")
            url = make_url(database.url).set(username=name, password="secret").render_as_string(hide_password=False)
            async with open_database(settings_for(url)) as pools:
                for grant in ("INSERT ON interactions", "UPDATE (status) ON tickets"):
                    assert "may not write" in str((await condition_of(pools.reads)).writing)
                    await connection.execute(f"GRANT {grant} TO {name}")
                assert (await condition_of(pools.reads)).writing is None
        finally:
            await connection.execute(f"DROP OWNED BY {name}")
            await connection.execute(f"DROP ROLE {name}")


async def test_calls_go_on_while_a_statement_is_compiled_ahead() -> None:
    turned = threading.Event()

    def form() -> Executable:
        assert turned.wait(BOUND), "the event loop stands still"
        return select(literal_column("'1'"))

    statement = Statement(form)
    asyncio.get_running_loop().call_soon(turned.set)
    await compile_ahead([statement])
    assert statement.sql == "SELECT '1'"
