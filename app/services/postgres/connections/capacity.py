"""Says at the start whether PostgreSQL has room for the connections that all gateway processes may open."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from app.errors import BackendNotConfigured, GatewayError
from app.outages import Outages
from app.services.postgres.connections.connecting import Connector
from app.services.postgres.connections.errors import postgres_errors
from app.services.postgres.connections.settings import PostgresSettings
from app.services.postgres.sql.login import reader_login_name

_log = logging.getLogger(__name__)

_ROOM = """
SELECT current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
       - coalesce(current_setting('reserved_connections', true), '0')::integer,
       (SELECT rolconnlimit FROM pg_catalog.pg_roles WHERE rolname = $1)
"""


@asynccontextmanager
async def capacity_checked(settings: PostgresSettings, outages: Outages | None = None) -> AsyncGenerator[None]:
    """Check beside what else is done; a database that is not up is told of by whoever needs it."""
    checking = asyncio.create_task(_check(settings, outages), name="capacity of PostgreSQL")
    try:
        yield
    finally:
        checking.cancel()
        with suppress(asyncio.CancelledError):
            await checking


async def _check(settings: PostgresSettings, outages: Outages | None) -> None:
    with suppress(GatewayError):
        for warning in await shortages(settings, outages):
            _log.warning("%s", warning)


async def shortages(settings: PostgresSettings, outages: Outages | None = None) -> list[str]:
    """Return what PostgreSQL has too little of for `DATABASE_PROCESSES` processes, in words; usually nothing.

    Raises:
        GatewayError: the database is not configured or can't be reached.
    """
    login = ""
    if settings.queries:
        with suppress(BackendNotConfigured):
            login = reader_login_name(settings)
    connector = Connector(
        lambda: settings.address,
        connect_timeout=settings.connect_timeout,
        pooler=settings.pooler,
        outages=outages,
    )
    connection = await connector.open()
    try:
        if connection.is_pooled:
            # How many the pooler opens is its own affair.
            return []
        with postgres_errors(reading=True):
            room, limit = await connection.fetchrow(_ROOM, login) or (0, None)
    finally:
        connection.terminate()
    found: list[str] = []
    reader = settings.reader_pool_size if login else 0
    wanted = settings.processes * (settings.connections + reader)
    if wanted > room:
        found.append(
            f"{settings.processes} gateway processes (DATABASE_PROCESSES) may open {wanted} connections, and PostgreSQL"
            f" has {room} for them: raise max_connections, lower DATABASE_READ_POOL_SIZE and its like, or put a pooler"
            " in front"
        )
    if limit is not None and 0 <= limit < settings.processes * reader:
        found.append(
            f"{settings.processes} gateway processes (DATABASE_PROCESSES) may open {settings.processes * reader}"
            f" connections with the login of DATABASE_READER_URL, whose CONNECTION LIMIT is {limit}: run `switchboard"
            " migrate --reader-password …`, or ALTER ROLE"
        )
    return found
