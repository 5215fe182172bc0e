"""Looks at the support database as an operator would who asks why something does not work."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from app.findings import Finding, checked
from app.outages import Outages
from app.services.postgres.connections.capacity import shortages
from app.services.postgres.connections.condition import condition_of
from app.services.postgres.connections.connecting import Connection, Connector
from app.services.postgres.connections.errors import postgres_errors
from app.services.postgres.connections.pools import Database, connect_to_listen
from app.services.postgres.connections.settings import PostgresSettings
from app.services.postgres.knowledge.vectors import demand_pgvector
from app.services.postgres.sql.login import reader_login_name
from app.services.postgres.sql.reader import SqlReader
from app.services.postgres.versions import newest_version

_WHO = "SELECT current_user, current_database(), current_setting('server_version')"


async def examine(settings: PostgresSettings, database: Database, reader: SqlReader) -> Sequence[Finding]:
    """Return what is found of server, login, tables, the reader's login, poolers and room for connections.

    Args:
        settings: where the database is.
        database: its pools.
        reader: of `query_database`.
    """

    async def server() -> str:
        async with _connected(settings) as connection:
            user, name, version = await connection.fetchrow(_WHO) or ("", "", "")
            pooled = ", through a pooler that lends connections by the transaction" if connection.is_pooled else ""
        return f"PostgreSQL {version} answers: database {name}, login {user}{pooled}"

    async def tables() -> str:
        condition = await condition_of(database.reads)
        if condition.writing is not None:
            raise condition.writing
        return f"the tables are of version {newest_version()}, and may be read and written"

    async def queries() -> str:
        if not settings.queries:
            return "turned off by DATABASE_QUERIES=false"
        if (objection := await reader.objection()) is not None:
            raise objection
        return f"reads with the login {reader_login_name(settings)}"

    async def changes() -> str:
        (await connect_to_listen(settings, Outages(None))).terminate()
        return "changes of tickets can be heard"

    findings = [await checked(server())]
    if settings.url is None or findings[0].state == "ok":
        findings += [
            await checked(tables()),
            await checked(queries(), subject="query_database"),
            await checked(changes(), subject="db://tickets", otherwise="warning"),
            *await _room(settings),
        ]
    return findings


async def examine_vectors(settings: PostgresSettings) -> Finding:
    """Return whether the vectors of articles can be kept in the database."""

    async def vectors() -> str:
        async with _connected(settings) as connection, connection.transaction():
            await demand_pgvector(connection)
        return "pgvector keeps the vectors of articles"

    return await checked(vectors(), subject="search by meaning", otherwise="warning")


@asynccontextmanager
async def _connected(settings: PostgresSettings) -> AsyncGenerator[Connection]:
    """Open a connection apart from the pools, and close it."""
    connector = Connector(
        lambda: settings.address,
        connect_timeout=settings.connect_timeout,
        pooler=settings.pooler,
        outages=Outages(None),
    )
    connection = await connector.open()
    try:
        with postgres_errors(reading=True):
            yield connection
    finally:
        connection.terminate()


async def _room(settings: PostgresSettings) -> Sequence[Finding]:
    lacking: list[str] = []

    async def room() -> str:
        lacking.extend(await shortages(settings, Outages(None)))
        return f"there is room for the connections of {settings.processes} gateway processes (DATABASE_PROCESSES)"

    finding = await checked(room(), otherwise="warning")
    return [Finding("warning", text) for text in lacking] or [finding]
