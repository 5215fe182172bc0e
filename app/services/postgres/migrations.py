"""Brings a database to the version that this code needs."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import NullPool

from app.errors import BackendNotConfigured, Conflict, InvalidArguments
from app.services.postgres.connections.address import Address
from app.services.postgres.connections.connecting import Connector
from app.services.postgres.connections.errors import postgres_errors
from app.services.postgres.connections.pools import create_engine
from app.services.postgres.versions import migrations_folder, newest_version, versions

_OLDEST = (15,)
"""The oldest version of PostgreSQL on which the tests have passed."""


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
