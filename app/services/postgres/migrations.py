"""Brings a database to the version that this code needs, and makes the login of `query_database`."""

import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import NullPool

from app.errors import BackendNotConfigured, Conflict, InvalidArguments
from app.services.postgres.connections.address import Address
from app.services.postgres.connections.connecting import Connection, Connector
from app.services.postgres.connections.errors import postgres_errors
from app.services.postgres.connections.pools import create_engine
from app.services.postgres.versions import migrations_folder, newest_version, versions

READER_LOGIN = "switchboard_reader_login"
"""The login that `switchboard dev` and the tests make; operators may choose another name."""

READER_CONNECTIONS = 32
"""The CONNECTION LIMIT that fits the settings' defaults: four processes of four connections, and their successors."""

_OLDEST = (15,)
"""The oldest version of PostgreSQL on which the tests have passed."""

_READER_SETTINGS = {
    "default_transaction_read_only": "'on'",
    "statement_timeout": "'30s'",
    "idle_in_transaction_session_timeout": "'60s'",
    "temp_file_limit": "'256MB'",
    # With it off, '\\'' ends a string for the server and not for the parser that looks for forbidden calls.
    "standard_conforming_strings": "'on'",
    "search_path": "{schema}, pg_temp",
}


async def migrate(url: str, revision: str = "head") -> str:
    """Upgrade a database; nothing happens if it is there already.

    Processes that do it at the same moment take turns. Within a process one is done at a time, as Alembic demands.

    Args:
        url: the database, with a login that owns it and may create roles.
        revision: where to stop.

    Returns:
        The version that the database has now.

    Raises:
        InvalidArguments: there is no such version.
        Conflict: the database is newer than that.
        GatewayError: the server can't be reached or is too old, or the login may not do it.
    """

    def run(config: Config, older: Sequence[str], present: str) -> None:
        if _target(revision) in older:
            raise Conflict(
                f"The database is of version {present}, and {revision} is an older one. Going back drops what came"
                " since, tables with their rows among it; if you want that, add --downgrade."
            )
        command.upgrade(config, revision)

    return await _run_alembic(url, revision, run)


async def downgrade(url: str, revision: str) -> str:
    """Take a database back to an earlier version; `base` removes every table of ours with its rows.

    Returns:
        The version that the database has now, `base` for none.

    Raises:
        InvalidArguments: there is no such version.
        Conflict: the database is not newer than that.
        GatewayError: the server can't be reached, or the login may not do it.
    """

    def run(config: Config, older: Sequence[str], present: str) -> None:
        target = _target(revision)
        if target != present and target not in older:
            raise Conflict(
                f"The database is of version {present}, which is older than {revision}; leave out --downgrade."
            )
        command.downgrade(config, revision)

    return await _run_alembic(url, revision, run)


@asynccontextmanager
async def migration_connection(url: str) -> AsyncGenerator[AsyncConnection]:
    """Open a connection with a transaction and without time limits, since building an index may take long."""
    engine = create_engine(Connector(lambda: Address.read(url), connect_timeout=10), poolclass=NullPool)
    try:
        with postgres_errors():
            async with engine.begin() as connection:
                yield connection
    finally:
        await engine.dispose()


async def _run_alembic(url: str, revision: str, run: Callable[[Config, Sequence[str], str], None]) -> str:
    """Run a command of Alembic's.

    Args:
        url: the database.
        revision: that the command is about.
        run: takes Alembic's configuration, the versions older than the database's, and that version.
    """
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))

    known = versions()
    if _target(revision) not in known:
        raise InvalidArguments(f"There is no version {revision!r}. Versions: {', '.join(known)}, head.")

    def on_connection(connection: sqlalchemy.Connection) -> str:
        config.attributes["connection"] = connection
        present = _present(connection)
        if present not in known:
            raise BackendNotConfigured(
                f"The database is of version {present}, which this code does not know: it is of an older Switchboard"
            )
        run(config, known[: known.index(present)], present)
        return _present(connection)

    async with migration_connection(url) as connection:
        version = connection.dialect.server_version_info or ()
        if version < _OLDEST:
            wanted, found = (".".join(map(str, numbers)) for numbers in (_OLDEST, version))
            raise BackendNotConfigured(f"Switchboard needs PostgreSQL {wanted} or newer; DATABASE_URL leads to {found}")
        return await connection.run_sync(on_connection)


def _target(revision: str) -> str:
    return newest_version() if revision == "head" else revision


def _present(connection: sqlalchemy.Connection) -> str:
    """Return the version of a database, `base` if it has none."""
    return MigrationContext.configure(connection).get_current_revision() or "base"


@dataclass(frozen=True)
class ReaderLogin:
    """A login of `query_database` and what could not be set up for it."""

    url: str
    warnings: tuple[str, ...]
    """What the administrator's own rights did not allow, in words; empty with a superuser."""


async def ensure_reader_login(
    admin_url: str,
    password: str | None = None,
    *,
    name: str = READER_LOGIN,
    connections: int = READER_CONNECTIONS,
    change_password: bool = False,
) -> ReaderLogin:
    """Make, or bring up to date, a login that may do nothing but read the four tables.

    `switchboard dev`, `switchboard migrate --reader-password` and the tests call this. An operator may do the same by
    hand, as `docs/query-database.md` says. A role's settings are not inherited, so they stand on the login itself.

    Args:
        admin_url: the migrated database, with a login that may create roles.
        password: the login's password; a random one if left out.
        name: the login's name. Logins are of the whole cluster, so each database wants one of its own.
        connections: its CONNECTION LIMIT; a higher one that is there already stays.
        change_password: give a login that exists the password, whoever uses it with another one.

    Returns:
        The address of the same database with the new login, and what the administrator's rights did not allow.

    Raises:
        Conflict: the login exists with another password.
        GatewayError: the server can't be reached, or the administrator may not create roles.
    """
    address = Address.read(admin_url)
    password = password or secrets.token_urlsafe(24)
    url = address.with_login(name, password)
    connection = await Connector(lambda: address, connect_timeout=10).open()
    try:
        with postgres_errors():
            exists = await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", name)
            if exists and not change_password:
                await _check_password(name, url)
            keeps_password = exists and not change_password
            warnings = await _make_reader_login(connection, name, None if keeps_password else password, connections)
    finally:
        await connection.close()
    return ReaderLogin(url, tuple(warnings))


async def _check_password(name: str, url: str) -> None:
    """Log in, since nothing else tells whether a password is the one that a login has."""
    try:
        connection = await Connector(lambda: Address.read(url), connect_timeout=10).open()
    except BackendNotConfigured:
        raise Conflict(
            f"The login {name} exists in this cluster, and not with this password: whoever uses it would be locked out."
            " Choose another name by --reader-login, or ask for the change by --change-reader-password."
        ) from None
    await connection.close()


async def _make_reader_login(connection: Connection, name: str, password: str | None, connections: int) -> list[str]:
    quoted, database, schema, secret, limit = await connection.fetchrow(
        "SELECT quote_ident($1), quote_ident(current_database()), quote_ident(current_schema()), quote_literal($2),"
        " coalesce((SELECT rolconnlimit FROM pg_roles WHERE rolname = $1), 0)",
        name,
        password,
    ) or ("", "", "", "", 0)
    exists = await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", name)
    await connection.execute(
        f"{'ALTER' if exists else 'CREATE'} ROLE {quoted} LOGIN {f'PASSWORD {secret}' if secret else ''}"
        f" NOCREATEDB NOCREATEROLE INHERIT CONNECTION LIMIT {limit if limit < 0 else max(limit, connections)}"
    )
    await connection.execute(f"GRANT switchboard_reader TO {quoted}")
    optional = {
        f"GRANT CONNECT ON DATABASE {database} TO switchboard_reader": "may not grant CONNECT on the database",
        f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC": "may not revoke TEMPORARY on the database from PUBLIC",
    }
    for setting, value in _READER_SETTINGS.items():
        optional[f"ALTER ROLE {quoted} SET {setting} = {value.format(schema=schema)}"] = f"may not set {setting}"
    warnings: list[str] = []
    for statement, refusal in optional.items():
        try:
            await connection.execute(statement)
        except asyncpg.InsufficientPrivilegeError:
            warnings.append(f"the administrator's login {refusal}; run as a superuser: {statement}")
    return warnings
