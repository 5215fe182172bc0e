"""How connections are opened: which host is taken, and what is said of a setting that is wrong."""

import asyncio
import gc
import logging
import os
import subprocess
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import asyncpg
import pytest
from sqlalchemy import func, literal_column, select

from app.errors import BackendNotConfigured, BackendTimeout, BackendUnavailable, GatewayError
from app.local.postgres import LocalPostgres, run_postgres
from app.local.process import free_port
from app.services.postgres.connections.address import Address
from app.services.postgres.connections.condition import condition_of
from app.services.postgres.connections.connecting import Connector
from app.services.postgres.connections.pools import Statement, open_database
from app.services.postgres.migrations import migrate
from app.services.postgres.sql.login import ensure_reader_login
from app.services.postgres.sql.reader import open_sql_reader
from tests.fixtures.pgbouncer import run_pgbouncer
from tests.fixtures.postgres import TestDatabase, cluster_directory, settings_for

PING = Statement(select(func.to_json(literal_column("1"))))


def connector(url: str, seconds: float = 5.0) -> Connector:
    return Connector(lambda: Address.read(url, "DATABASE_READER_URL"), connect_timeout=seconds)


async def refusal(url: str, seconds: float = 5.0) -> GatewayError:
    with pytest.raises(GatewayError) as refused:
        await connector(url, seconds).open()
    return refused.value


# Hosts


@pytest.fixture(scope="module")
async def pair() -> AsyncGenerator[tuple[LocalPostgres, LocalPostgres]]:
    """A primary and its standby."""
    with cluster_directory() as first, cluster_directory() as second:
        # What it vacuums of its own accord would end reads of the standby, too.
        primarily = ("max_connections=40", "autovacuum=off")
        async with run_postgres(first, durable=False, settings=primarily) as primary:
            await asyncio.to_thread(follow, primary, first, second)
            async with run_postgres(second, durable=False, settings=("max_connections=40",)) as standby:
                yield primary, standby


def follow(primary: LocalPostgres, first: Path, second: Path) -> None:
    """Copy a primary's cluster for a standby that follows it."""
    programs = Path(f"/proc/{primary.process.pid}/exe").readlink().parent
    owner = first.joinpath("cluster").stat().st_uid
    os.chown(second, owner, -1)
    command = [programs / "pg_basebackup", "-D", second / "cluster", "-d", primary.url(), "-R", "-c", "fast"]
    subprocess.run(command, check=True, user=owner if os.geteuid() == 0 else None, cwd="/", capture_output=True)
    second.joinpath("password").write_text(primary.password)


@pytest.mark.parametrize(
    ("asked", "taken"),
    [
        ("any", "standby"),
        ("read-write", "primary"),
        ("primary", "primary"),
        ("read-only", "standby"),
        ("standby", "standby"),
        ("prefer-standby", "standby"),
    ],
)
async def test_the_host_is_taken_that_the_address_asks_for(
    pair: tuple[LocalPostgres, LocalPostgres], asked: str, taken: str
) -> None:
    primary, standby = pair
    login = f"postgres:{primary.password}"
    dead = free_port()
    for hosts in (
        f"127.0.0.1:{standby.port},127.0.0.1:{primary.port}",
        # One that is down in front of them changes nothing.
        f"127.0.0.1:{dead},127.0.0.1:{standby.port},127.0.0.1:{primary.port}",
    ):
        url = f"postgresql://{login}@{hosts}/postgres?target_session_attrs={asked}"
        connection = await connector(url).open()
        assert connection.in_recovery == (taken == "standby")
        await connection.close()
        async with open_database(settings_for(url)) as database:
            # With the settings that our reads have, too.
            await database.reads.fetch_json(PING)
            await database.reports.fetch_json(PING)


async def test_without_the_host_that_is_asked_for_it_is_an_outage(pair: tuple[LocalPostgres, LocalPostgres]) -> None:
    primary, _ = pair
    refused = await refusal(primary.url() + "?target_session_attrs=standby")
    assert type(refused) is BackendUnavailable
    assert "target_session_attrs=standby" in refused.detail
    preferred = await connector(primary.url() + "?target_session_attrs=prefer-standby").open()
    assert not preferred.in_recovery
    await preferred.close()


async def test_a_standby_that_ends_a_read_for_its_recovery_says_to_repeat_it(
    pair: tuple[LocalPostgres, LocalPostgres],
) -> None:
    primary, standby = pair
    await migrate(primary.url())
    login = (await ensure_reader_login(primary.url(), "reader")).url.replace(str(primary.port), str(standby.port))
    settings = settings_for(standby.url(), login)
    async with (
        asyncio.timeout(60),
        asyncpg_connection(primary) as master,
        asyncpg_connection(standby) as replica,
        open_sql_reader(settings) as reader,
        open_database(settings) as database,
    ):
        await replica.execute("ALTER SYSTEM SET max_standby_streaming_delay = 0")
        await replica.execute("SELECT pg_reload_conf()")
        await master.execute("INSERT INTO customers (id, name, email) VALUES ('a', 'Ada', 'ada@example.com')")
        await caught_up(replica, master)
        # What a probe asks: reading works, writing does not.
        assert (await reader.objection()) is None
        assert "standby" in str((await condition_of(database.reads)).writing)
        endless = "SELECT count(*) FROM customers, generate_series(1, 100000) i, generate_series(1, 100000) j"
        running = asyncio.create_task(reader.query(endless, timeout_ms=50_000))
        started = (
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND usename = 'switchboard_reader_login'"
        )
        while not await replica.fetchval(f"{started} AND query LIKE '%100000%'"):
            pass
        await master.execute("DELETE FROM customers")
        await master.execute("VACUUM customers")
        with pytest.raises(BackendUnavailable, match="the standby that answers reads had to end the query"):
            await running
        # What is replayed next (the VACUUM shortens the file) may end one more read, as it may in life.
        await caught_up(replica, master)
        assert (await reader.query("SELECT count(*) AS n FROM customers")).json


async def caught_up(
    replica: "asyncpg.Connection[asyncpg.Record]", master: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """Return once the standby has replayed all that its primary has written."""
    place = await master.fetchval("SELECT pg_current_wal_insert_lsn()")
    while not await replica.fetchval("SELECT pg_last_wal_replay_lsn() >= $1", place):
        pass


@asynccontextmanager
async def asyncpg_connection(server: LocalPostgres) -> AsyncGenerator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(server.url())
    try:
        yield connection
    finally:
        await connection.close()


async def test_each_host_has_the_whole_time(pair: tuple[LocalPostgres, LocalPostgres]) -> None:
    primary, _ = pair

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        login = f"postgresql://postgres:{primary.password}"
        url = f"{login}@127.0.0.1:{port},127.0.0.1:{primary.port}/postgres"
        connection = await connector(url, seconds=0.5).open()
        await connection.close()
        assert type(await refusal(f"{login}@127.0.0.1:{port}/postgres", seconds=0.1)) is BackendTimeout


async def test_a_refused_login_is_not_tried_elsewhere(pair: tuple[LocalPostgres, LocalPostgres]) -> None:
    primary, standby = pair
    hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
    refused = await refusal(f"postgresql://postgres:hunter2@{hosts}/postgres")
    assert type(refused) is BackendNotConfigured
    assert "DATABASE_READER_URL" in refused.detail


# Settings of the server in the address


async def test_what_the_address_asks_of_the_server_counts(database: TestDatabase) -> None:
    url = database.url + "?application_name=desk&statement_timeout=1234&options=-c%20work_mem%3D5MB"
    async with open_database(settings_for(url)) as pools, database.connect() as administrator:
        for name, value in (("application_name", "desk"), ("statement_timeout", "1234ms"), ("work_mem", "5MB")):
            shown = Statement(select(func.to_json(func.current_setting(name))))
            assert await pools.reads.fetch_json(shown) == f'"{value}"'.encode()
        assert await administrator.fetchval("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'desk'")


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("schema=public", "`schema`"),
        ("connection_limit=5", "DATABASE_READ_POOL_SIZE"),
        ("statement_cache_size=0", "`statement_cache_size`"),
        ("currentSchema=public", "search_path"),
        ("hostaddr=127.0.0.1", "`hostaddr`"),
        ("sslmode=require&sslrootcert=system", "verify-full"),
        ("no_such_setting=1", "`no_such_setting`"),
        ("statement_timeout=soon", "`statement_timeout`"),
        ("default_transaction_isolation=hunter2", "`default_transaction_isolation`"),
        ("timezone=No/Where", "`timezone`"),
        ("options=-c%20TimeZone%3DNo/Where", "`TimeZone`"),
        ("gssencmode=require", "gssencmode=require"),
        ("requirepeer=root", "`requirepeer`"),
        ("ApplicationName=desk", "application_name"),
        ("service=hunter2", "PGSERVICEFILE"),
        ("work_mem=-1", "`work_mem`"),
    ],
)
async def test_an_option_that_nobody_can_follow_is_named_with_the_reason(
    database: TestDatabase, option: str, named: str
) -> None:
    async with open_database(settings_for(f"{database.url}?{option}")) as pools:
        with pytest.raises(BackendNotConfigured) as refused:
            await pools.ping()
        assert "DATABASE_URL" in refused.value.detail
        assert named in refused.value.detail
        assert "hunter2" not in refused.value.detail


@pytest.mark.parametrize("options", ["", "?sslmode=disable", "?passfile=/nowhere/pgpass"])
async def test_a_missing_password_is_a_refused_login(database: TestDatabase, options: str) -> None:
    url = urlsplit(database.url)
    refused = await refusal(f"postgresql://{url.username}@{url.netloc.rpartition('@')[2]}{url.path}{options}")
    assert type(refused) is BackendNotConfigured
    assert ("passfile" in refused.detail) == ("passfile" in options)


@pytest.mark.parametrize("host", ["a..b", "a" * 70 + ".example", "no%20where", "${DB_HOST}", "<host>", "127.0.0.256"])
async def test_a_host_that_can_be_none_is_a_wrong_setting(host: str) -> None:
    refused = await refusal(f"postgresql://u:hunter2@{host}:5432/db")
    # Where DNS does not answer at all, nobody can tell.
    assert isinstance(refused, BackendUnavailable)
    assert "DATABASE_READER_URL" in refused.detail
    assert "host" in refused.detail


async def test_what_stands_behind_the_question_mark_goes_first(database: TestDatabase) -> None:
    url = urlsplit(database.url)
    login = f"user={url.username}&password={quote(url.password or '', safe='')}&dbname={url.path[1:]}"
    connection = await connector(
        f"postgresql://nobody:hunter2@nowhere.invalid:1/none?host=127.0.0.1&port={url.port}&{login}"
    ).open()
    assert await connection.fetchval("SELECT current_database()") == url.path[1:]
    await connection.close()


async def test_a_host_that_nobody_knows_is_a_wrong_setting() -> None:
    refused = await refusal("postgresql://u:hunter2@nowhere.invalid/db")
    # Where DNS does not answer at all, nobody can tell.
    assert isinstance(refused, BackendUnavailable)
    assert "DATABASE_READER_URL" in refused.detail
    assert "host" in refused.detail


# TLS


@dataclass(frozen=True)
class Secured:
    """A server that wants TLS, whose certificate an authority has signed for `localhost`."""

    url: str
    directory: Path
    """Holds `ca.crt`, and `other.crt` of an authority that has signed nothing."""


@pytest.fixture(scope="module")
async def secured(postgres_server: LocalPostgres) -> AsyncGenerator[Secured]:
    """The local PostgreSQL is built without TLS, so a pooler speaks it."""
    with cluster_directory() as directory:
        directory.chmod(0o755)
        authority(directory, "ca")
        authority(directory, "other")
        certificate(directory, "server", "ca")
        for path in directory.iterdir():
            path.chmod(0o644)
        files = (f"client_tls_cert_file = {directory}/server.crt", f"client_tls_key_file = {directory}/server.key")
        tls = ("client_tls_sslmode = require", *files)
        async with run_pgbouncer(postgres_server.url(), mode="session", settings=tls) as (url,):
            yield Secured(url.replace("127.0.0.1", "localhost"), directory)


def openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


def authority(directory: Path, name: str) -> None:
    subject = ("-subj", f"/CN={name}", "-days", "2", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.crt")
    openssl(directory, "req", "-x509", "-newkey", "rsa:2048", *subject)


def certificate(directory: Path, name: str, signer: str) -> None:
    subject = ("-subj", "/CN=localhost", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr")
    openssl(directory, "req", "-newkey", "rsa:2048", *subject)
    directory.joinpath("names").write_text("subjectAltName=DNS:localhost")
    signed = ("-CA", f"{signer}.crt", "-CAkey", f"{signer}.key", "-days", "2", "-extfile", "names")
    openssl(directory, "x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.crt")


@pytest.mark.debian("pgbouncer")
@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
async def test_a_server_with_the_right_certificate_is_taken(secured: Secured, mode: str) -> None:
    connection = await connector(f"{secured.url}?sslmode={mode}&sslrootcert={secured.directory}/ca.crt").open()
    await connection.close()


@pytest.mark.debian("pgbouncer")
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("sslrootcert=system", "sslrootcert"),
        ("sslmode=verify-full&sslrootcert={0}/missing.crt", "sslrootcert names a file that does not exist"),
        ("sslmode=verify-full&sslrootcert={0}/names", "sslrootcert names a file without certificates"),
        ("sslmode=verify-full&sslrootcert={0}", "sslrootcert names a file that can't be read"),
        ("sslmode=verify-ca&sslrootcert={0}/other.crt", "not signed by an authority in sslrootcert"),
        ("sslmode=verify-full", "sslrootcert=FILE"),
        ("sslmode=require&sslcert={0}/ca.crt&sslkey={0}/other.key", "sslcert and sslkey"),
        ("sslmode=require&sslcert={0}/missing.crt", "sslcert names a file that does not exist"),
        ("sslmode=require&sslcert={0}/server.crt&sslkey={0}/missing.key", "sslkey names a file that does not exist"),
        ("sslmode=verify-ca&sslrootcert={0}/ca.crt&sslcrl={0}/ca.crt", "sslcrl"),
        ("sslmode=require&sslnegotiation=direct", "sslnegotiation"),
        ("sslmode=disable", "sslmode=disable does without"),
    ],
)
async def test_a_mistake_about_tls_names_the_setting_and_the_reason(secured: Secured, options: str, named: str) -> None:
    refused = await refusal(f"{secured.url}?{options.format(secured.directory)}")
    assert type(refused) is BackendNotConfigured
    assert "DATABASE_READER_URL" in refused.detail
    assert named in refused.detail
    assert str(secured.directory) not in refused.detail


@pytest.mark.debian("pgbouncer")
async def test_a_certificate_for_another_host_is_named(secured: Secured) -> None:
    url = secured.url.replace("localhost", "127.0.0.1")
    refused = await refusal(f"{url}?sslmode=verify-full&sslrootcert={secured.directory}/ca.crt")
    assert "another name than the host" in refused.detail


@pytest.mark.parametrize("options", ["sslmode=require", "sslrootcert=system", "ssl=true", "requiressl=1"])
async def test_tls_that_the_server_does_not_offer_is_named(database: TestDatabase, options: str) -> None:
    refused = await refusal(f"{database.url}?{options}")
    assert type(refused) is BackendNotConfigured
    assert "sslmode=" in refused.detail
    assert "does not offer" in refused.detail


# The end


async def test_a_request_to_cancel_reaches_postgresql_though_the_connection_has_ended(database: TestDatabase) -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    slow = "SELECT count(*) FROM generate_series(1, 1000000000) AS unending"
    running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = $1"
    async with asyncio.timeout(30), database.connect() as administrator:
        connections = [await connector(database.url).open() for _ in range(5)]
        statements = [asyncio.ensure_future(connection.execute(slow)) for connection in connections]
        while await administrator.fetchval(running, slow) < len(statements):
            pass
        for turns, (connection, statement) in enumerate(zip(connections, statements, strict=True)):
            statement.cancel()
            # It ends at another point of the request's way each time.
            for _ in range(turns + 2):
                await asyncio.sleep(0)
            connection.terminate()
        while await administrator.fetchval(running, slow):
            pass
    gc.collect()
    assert not complaints


# The log


async def test_the_log_has_the_cause_once_an_outage(
    postgres_directory: Path, caplog: pytest.LogCaptureFixture, warnings: Callable[[], list[str]]
) -> None:
    caplog.set_level(logging.INFO)
    port = free_port()
    async with run_postgres(postgres_directory, port=port, durable=False) as server:
        url = server.url()
    to = connector(url)
    for _ in range(3):
        with pytest.raises(BackendUnavailable):
            await to.open()
    [cause] = warnings()
    assert f"host=127.0.0.1 port={port}" in cause
    assert "ECONNREFUSED" in cause
    assert server.password not in cause
    async with run_postgres(postgres_directory, port=port, durable=False):
        for _ in range(2):
            await (await to.open()).close()
        assert "answers again" in caplog.text
        wrong = connector(url.replace(server.password, "hunter2"))
        with pytest.raises(BackendNotConfigured):
            await wrong.open()
    assert "28P01" in warnings()[1]
    with pytest.raises(BackendUnavailable):
        await to.open()
    assert len(warnings()) == 3
    assert "hunter2" not in caplog.text


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the log was told of connections at WARNING."""
    name = "app.services.postgres.connections.connecting"
    return lambda: [r.getMessage() for r in caplog.records if r.name == name and r.levelno == logging.WARNING]
