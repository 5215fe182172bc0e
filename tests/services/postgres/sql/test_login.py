"""With DATABASE_URL alone `query_database` has a login of its own, made by whoever may; else it says what to do."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app.errors import BackendNotConfigured, BackendUnavailable
from app.local.postgres import LocalPostgres, run_postgres
from app.outages import Outages
from app.services.postgres.migrations import migrate
from app.services.postgres.sql.login import (
    derived_login,
    ensure_reader_login,
    make_derived_login,
    reader_login_name,
    scram_verifier,
)
from app.services.postgres.sql.reader import SqlReader, open_sql_reader
from tests.fixtures.postgres import TestDatabase, cloned_database, settings_for

_WHO = "SELECT current_user AS login, session_user AS session"


async def who_reads(reader: SqlReader) -> str:
    answer: dict[str, Any] = json.loads((await reader.query(_WHO)).json)
    [row] = answer["rows"]
    assert row["login"] == row["session"]
    return str(row["login"])


async def secret_of(url: str) -> str:
    """Return the password that follows from an address."""
    address = await asyncio.to_thread(derived_login(settings_for(url)).address)
    return address.dsn.rpartition("@")[0].rpartition(":")[2]


@asynccontextmanager
async def login_of(database: TestDatabase, name: str, options: str) -> AsyncGenerator[str]:
    """Make a login that may use a database's tables; yield its address."""
    url = f"postgresql://{name}:first@{database.url.rpartition('@')[2]}"
    made = reader_login_name(settings_for(url))
    async with database.connect() as connection:
        await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'first' {options}")
        try:
            for table in ("customers", "tickets", "interactions", "knowledge_articles", "alembic_version"):
                await connection.execute(f"GRANT ALL ON {table} TO {name}")
            yield url
        finally:
            await connection.execute(f"DROP ROLE IF EXISTS {made}")
            await connection.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


async def test_gateways_that_start_at_the_same_moment_read_as_the_same_login(database: TestDatabase) -> None:
    settings = settings_for(database.url)
    async with database.connect() as connection:
        await connection.execute(f"GRANT TEMPORARY ON DATABASE {database.url.rpartition('/')[2]} TO PUBLIC")
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(open_sql_reader(settings)) for _ in range(4)]
        logins = await asyncio.gather(*map(who_reads, readers))
    assert set(logins) == {reader_login_name(settings)}
    assert logins[0].startswith("switchboard_reader_")
    async with database.connect() as connection:
        rights = await connection.fetchrow(
            "SELECT rolsuper, rolcreaterole, rolcreatedb, rolconnlimit,"
            " ARRAY(SELECT roleid::regrole::text FROM pg_auth_members WHERE member = r.oid) AS member_of"
            " FROM pg_roles r WHERE rolname = $1",
            logins[0],
        )
        # What others may do in the database is theirs; the transactions that read make no table of any kind.
        assert await connection.fetchval("SELECT has_database_privilege('public', current_database(), 'TEMPORARY')")
    assert rights is not None
    assert tuple(rights) == (False, False, False, settings.reader_connections, ["switchboard_reader"])


async def test_each_database_and_each_login_has_one_of_its_own(
    database: TestDatabase, postgres_server: LocalPostgres, postgres_template: str
) -> None:
    async with cloned_database(postgres_server, postgres_template) as other:
        urls = [database.url, other.url, database.url.replace("postgres:", "somebody:", 1)]
    assert len({reader_login_name(settings_for(url)) for url in urls}) == len(urls)
    assert len({await secret_of(url) for url in urls}) == len(urls)


async def test_a_login_that_may_make_it_does_and_one_that_may_not_says_what_to_do(
    database: TestDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    async with login_of(database, "owner_without", "NOCREATEROLE") as url, database.connect() as connection:
        name = reader_login_name(settings_for(url))

        async def is_refused() -> None:
            async with open_sql_reader(settings_for(url)) as reader:
                for _ in range(3):
                    with pytest.raises(BackendNotConfigured, match="DATABASE_READER_PASSWORD") as refused:
                        await reader.query("SELECT 1")
                    assert "DATABASE_READER_URL" in refused.value.detail
                assert isinstance(await reader.objection(), BackendNotConfigured)
            # What could not be made whole is not there by half.
            assert await connection.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = $1", name) == 0

        async def is_read() -> None:
            async with open_sql_reader(settings_for(url)) as reader:
                assert await who_reads(reader) == name

        await is_refused()
        await connection.execute("ALTER ROLE owner_without CREATEROLE")
        await is_refused()
        assert "is down" not in caplog.text
        await connection.execute("GRANT switchboard_reader TO owner_without WITH ADMIN OPTION")
        await is_read()
        # Once it is there, nobody needs the right any more.
        await connection.execute("ALTER ROLE owner_without NOCREATEROLE")
        await is_read()


async def test_where_queries_are_turned_off_no_login_is_made(database: TestDatabase) -> None:
    async with login_of(database, "no_queries_wanted", "CREATEROLE") as url, database.connect() as administrator:
        await administrator.execute("GRANT switchboard_reader TO no_queries_wanted WITH ADMIN OPTION")
        off = settings_for(url, queries=False)
        async with open_sql_reader(off) as reader:
            with pytest.raises(BackendNotConfigured, match="DATABASE_QUERIES is false"):
                await reader.query("SELECT 1")
            assert "DATABASE_QUERIES" in str(await reader.objection())
        made = "SELECT count(*) FROM pg_roles WHERE rolname = $1"
        assert await administrator.fetchval(made, reader_login_name(off)) == 0
        async with open_sql_reader(settings_for(url)) as reader:
            await reader.query("SELECT 1")
        assert await administrator.fetchval(made, reader_login_name(off)) == 1


async def test_with_the_password_of_database_url_changes_that_of_the_login(database: TestDatabase) -> None:
    async with login_of(database, "owner_rotating", "CREATEROLE") as url, database.connect() as connection:
        await connection.execute("GRANT switchboard_reader TO owner_rotating WITH ADMIN OPTION")
        before = await asyncio.to_thread(derived_login(settings_for(url)).address)
        async with open_sql_reader(settings_for(url)) as reader:
            name = await who_reads(reader)
        await (await asyncpg.connect(before.dsn)).close()
        await connection.execute("ALTER ROLE owner_rotating PASSWORD 'second'")
        async with open_sql_reader(settings_for(url.replace(":first@", ":second@"))) as reader:
            assert await who_reads(reader) == name
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(before.dsn)


async def test_no_password_is_in_a_statement_or_in_a_log(
    postgres_directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with run_postgres(postgres_directory, durable=False, settings=("log_statement=all",)) as server:
        settings = settings_for(server.url())
        await migrate(server.url())
        await make_derived_login(settings)
        await ensure_reader_login(server.url(), "given-by-hand", name="by_hand")
        async with open_sql_reader(settings) as reader:
            assert await who_reads(reader) == reader_login_name(settings)
    statements = (postgres_directory / "log").read_text()
    assert "PASSWORD 'SCRAM-SHA-256$4096:" in statements
    for text in (statements, caplog.text, repr(derived_login(settings)), str(settings)):
        for password in (await secret_of(server.url()), server.password, "given-by-hand"):
            assert password not in text


@pytest.mark.parametrize("password", ["plain", "with 'quotes' and \\", "päßword"])
async def test_a_verifier_lets_its_password_in_and_no_other(database: TestDatabase, password: str) -> None:
    async with database.connect() as connection:
        verifier = scram_verifier(password).replace("'", "''")
        await connection.execute(f"CREATE ROLE verified LOGIN PASSWORD '{verifier}'")
        try:
            await (await asyncpg.connect(database.url, user="verified", password=password)).close()
            with pytest.raises(asyncpg.InvalidPasswordError):
                await asyncpg.connect(database.url, user="verified", password=f"{password}!")
        finally:
            await connection.execute("DROP ROLE verified")


async def test_a_database_that_is_away_is_no_missing_login(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "MCP")
    outages = Outages(logging.getLogger("MCP.Database MCP Server"))
    async with open_sql_reader(settings_for("postgresql://u:p@127.0.0.1:1/d"), outages=outages) as reader:
        with pytest.raises(BackendUnavailable) as away:
            await reader.query("SELECT 1")
    assert not isinstance(away.value, BackendNotConfigured)
