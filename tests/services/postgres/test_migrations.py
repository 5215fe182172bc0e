"""Migrations up and down, the reader's role and its login."""

import asyncio
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from app.errors import BackendNotConfigured, BackendUnavailable, Conflict
from app.local.postgres import LocalPostgres
from app.local.process import free_port
from app.models import Base
from app.services.postgres.connections.settings import PostgresSettings
from app.services.postgres.migrations import downgrade, migrate, migration_connection
from app.services.postgres.sql.login import READER_CONNECTIONS, READER_LOGIN, ensure_reader_login
from app.services.postgres.versions import newest_version
from tests.fixtures.postgres import TestDatabase, cloned_database

PROJECT = Path(__file__).parents[3]
TABLES = {"customers", "tickets", "knowledge_articles", "interactions"}
SCHEMA = """
SELECT 'table', c.relname, a.attname, format_type(a.atttypid, a.atttypmod) || a.attnotnull
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v', 'm')
    AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL SELECT 'index', tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace
UNION ALL SELECT 'trigger', tgrelid::regclass::text, tgname, pg_get_triggerdef(oid) FROM pg_trigger
    WHERE NOT tgisinternal
UNION ALL SELECT 'function', proname, '', pg_get_functiondef(p.oid) FROM pg_proc p
    WHERE pronamespace = 'public'::regnamespace AND prokind = 'f'
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
UNION ALL SELECT 'grant', table_name, grantee, privilege_type FROM information_schema.role_table_grants
    WHERE grantee = 'switchboard_reader'
ORDER BY 1, 2, 3, 4
"""


async def schema_of(database: TestDatabase) -> list[tuple[str, ...]]:
    async with database.connect() as connection:
        return [tuple(row) for row in await connection.fetch(SCHEMA)]


async def test_the_models_and_the_migrations_agree(database: TestDatabase):
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return list(compare_metadata(context, Base.metadata))

    async with migration_connection(database.url) as connection:
        assert await connection.run_sync(differences) == []


async def test_a_postgresql_that_is_too_old_is_named(database: TestDatabase, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("app.services.postgres.migrations._OLDEST", (99, 1))
    with pytest.raises(BackendNotConfigured, match=r"needs PostgreSQL 99\.1 or newer; DATABASE_URL leads to \d+\.\d+"):
        await migrate(database.url)


async def test_a_downgrade_leaves_nothing_and_an_upgrade_brings_the_same_again(database: TestDatabase):
    before = await schema_of(database)
    assert {name for kind, name, *_ in before if kind == "table"} > TABLES
    await downgrade(database.url, "base")
    left = await schema_of(database)
    assert {row[1] for row in left} == {"alembic_version"}
    await migrate(database.url)
    assert await schema_of(database) == before


async def test_migrating_twice_is_harmless(database: TestDatabase):
    before = await schema_of(database)
    await migrate(database.url)
    assert await schema_of(database) == before


async def test_two_processes_that_migrate_at_once_take_turns(postgres_server: LocalPostgres):
    async with cloned_database(postgres_server, None) as empty:
        command = (sys.executable, "-m", "alembic", "upgrade", "head")
        environment = {**os.environ, "DATABASE_URL": empty.url}
        both = [await asyncio.create_subprocess_exec(*command, env=environment, cwd=PROJECT) for _ in range(2)]
        async with asyncio.timeout(60):
            assert [await process.wait() for process in both] == [0, 0]
        async with empty.connect() as connection:
            assert await connection.fetchval("SELECT count(*) FROM alembic_version") == 1


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """What an installation of the built wheel has, and a checkout has elsewhere."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=PROJECT, check=True
    )
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        files.extractall(tmp_path / "100% installed")
    return tmp_path / "100% installed"


async def test_an_installation_without_a_checkout_migrates_and_seeds(postgres_server: LocalPostgres, installed: Path):
    async with cloned_database(postgres_server, None) as empty:
        environment = {**os.environ, "DATABASE_URL": empty.url, "PYTHONPATH": str(installed)}
        for command in ("migrate", "seed"):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "app.cli", command, env=environment, cwd=installed.parent
            )
            async with asyncio.timeout(60):
                assert await process.wait() == 0
        async with empty.connect() as connection:
            assert await connection.fetchval("SELECT count(*) FROM customers") > 0


async def test_a_failed_migration_says_why_and_not_where():
    with pytest.raises(BackendUnavailable) as down:
        await migrate(f"postgresql://user:hunter2@127.0.0.1:{free_port()}/d")
    assert "hunter2" not in str(down.value)


async def test_the_role_survives_a_downgrade_of_one_of_its_databases(database: TestDatabase):
    await downgrade(database.url, "0001")
    async with database.connect() as connection:
        assert await connection.fetchval("SELECT NOT rolcanlogin FROM pg_roles WHERE rolname = 'switchboard_reader'")
    reader = await asyncpg.connect(database.reader_url)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.fetch("SELECT * FROM customers")
    finally:
        await reader.close()


async def test_the_reader_reads_exactly_the_four_tables(database: TestDatabase):
    async with database.connect() as connection:
        readable = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND CASE"
            " WHEN relkind = 'S' THEN has_sequence_privilege($1, oid, 'USAGE, SELECT, UPDATE')"
            " WHEN relkind IN ('r', 'v', 'm') THEN has_table_privilege($1, oid, 'SELECT') END",
            READER_LOGIN,
        )
        writable = await connection.fetchval(
            "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
            " AND has_table_privilege($1, oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')",
            READER_LOGIN,
        )
    assert {row["relname"] for row in readable} == TABLES
    assert writable == 0


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO customers (id, name, email) VALUES ('x', 'x', 'x@example.com')",
        "UPDATE tickets SET subject = 'x'",
        "CREATE TABLE mine (id int)",
        "CREATE TEMP TABLE mine (id int)",
        "SELECT * FROM alembic_version",
        "SELECT * FROM pg_authid",
        "SELECT nextval('tickets_id_seq')",
        "SET ROLE postgres",
    ],
)
async def test_the_readers_login_can_do_nothing_else_even_in_a_writing_transaction(
    database: TestDatabase, statement: str
):
    reader = await asyncpg.connect(database.reader_url)
    try:
        await reader.execute("SET default_transaction_read_only = off")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.execute(statement)
    finally:
        await reader.close()


async def test_the_readers_login_has_its_limits_as_soon_as_it_connects(database: TestDatabase):
    reader = await asyncpg.connect(database.reader_url)
    try:
        settings = {
            name: await reader.fetchval("SELECT current_setting($1)", name)
            for name in (
                "default_transaction_read_only",
                "statement_timeout",
                "temp_file_limit",
                "standard_conforming_strings",
                "search_path",
            )
        }
        limit = await reader.fetchval("SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user")
    finally:
        await reader.close()
    assert settings == {
        "default_transaction_read_only": "on",
        "statement_timeout": "30s",
        "temp_file_limit": "256MB",
        "standard_conforming_strings": "on",
        "search_path": "public, pg_temp",
    }
    assert limit == PostgresSettings().reader_connections == READER_CONNECTIONS


async def test_the_newest_version_is_known_without_alembic(database: TestDatabase):
    async with database.connect() as connection:
        assert await connection.fetchval("SELECT version_num FROM alembic_version") == newest_version()


async def test_a_login_that_exists_changes_its_password_only_if_that_is_asked_for(
    database: TestDatabase, caplog: pytest.LogCaptureFixture
):
    name = "switchboard_reader_repeat"
    login = await ensure_reader_login(database.url, "an@other/password", name=name, connections=5)
    with pytest.raises(Conflict, match="--reader-login"):
        await ensure_reader_login(database.url, "another", name=name)
    assert "is down" not in caplog.text
    # Whoever brings the same password brings the rest up to date, and takes nothing from the others.
    same = await ensure_reader_login(database.url, "an@other/password", name=name, connections=3)
    assert same.url == login.url
    reader = await asyncpg.connect(login.url)
    assert await reader.fetchval("SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user") == 5
    await reader.close()
    again = await ensure_reader_login(database.url, name=name, change_password=True)
    assert login.warnings == again.warnings == ()
    await (await asyncpg.connect(again.url)).close()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(login.url)


async def test_an_administrator_without_all_rights_is_told_what_a_superuser_has_to_run(postgres_server: LocalPostgres):
    async with cloned_database(postgres_server, None) as empty:
        async with empty.connect() as connection:
            await connection.execute(
                "DROP ROLE IF EXISTS half_admin; CREATE ROLE half_admin LOGIN PASSWORD 'half' CREATEROLE;"
                "GRANT switchboard_reader TO half_admin WITH ADMIN OPTION"
            )
        await migrate(empty.url)
        half = empty.url.replace(f"postgres:{postgres_server.password}", "half_admin:half")
        login = await ensure_reader_login(half, name="switchboard_reader_half")
        assert [warning for warning in login.warnings if "temp_file_limit" in warning]
        assert all("run as a superuser: " in warning for warning in login.warnings)
        reader = await asyncpg.connect(login.url)
        try:
            assert await reader.fetchval("SELECT count(*) FROM customers") == 0
            assert await reader.fetchval("SHOW default_transaction_read_only") == "on"
        finally:
            await reader.close()


async def test_updated_at_follows_changes_and_only_changes(desk: TestDatabase):
    async with desk.connect() as connection:
        before = await connection.fetchval("SELECT updated_at FROM tickets WHERE id = 1")
        same = await connection.fetchval("UPDATE tickets SET subject = subject WHERE id = 1 RETURNING updated_at")
        later = await connection.fetchval("UPDATE tickets SET subject = 'new' WHERE id = 1 RETURNING updated_at")
    assert same == before < later


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE tickets SET status = 'lost'",
        "UPDATE tickets SET status = 'resolved' WHERE id = 1",
        "UPDATE tickets SET resolved_at = '2020-01-01' WHERE id = 2",
        "UPDATE interactions SET satisfaction = 6",
        "UPDATE interactions SET query_text = NULL, agent_response = NULL",
        "UPDATE interactions SET metadata = '[]'",
        "UPDATE interactions SET ticket_id = 4 WHERE id = 1",
        "UPDATE customers SET email = 'nobody'",
        "UPDATE knowledge_articles SET status = 'hidden'",
    ],
)
async def test_the_tables_keep_their_rules(desk: TestDatabase, statement: str):
    async with desk.connect() as connection:
        with pytest.raises(asyncpg.IntegrityConstraintViolationError):
            await connection.execute(statement)


async def test_an_interaction_outlives_its_ticket_and_not_its_customer(desk: TestDatabase):
    async with desk.connect() as connection:
        await connection.execute("DELETE FROM tickets WHERE id = 2")
        assert await connection.fetchval(
            "SELECT ticket_id IS NULL AND customer_id = '12345' FROM interactions WHERE id = 1"
        )
        await connection.execute("DELETE FROM customers WHERE id = '12345'")
        assert await connection.fetchval("SELECT count(*) FROM interactions WHERE customer_id = '12345'") == 0
