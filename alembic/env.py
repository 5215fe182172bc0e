"""Run by Alembic, on the database of `DATABASE_URL` or on the connection that our own code hands in."""

import asyncio
from logging.config import fileConfig

from alembic import context
from sqlalchemy import Connection

from app.models import Base
from app.services.postgres.connections.settings import PostgresSettings
from app.services.postgres.migrations import migration_connection

# Two processes that start at the same moment migrate one after the other.
LOCK = "SELECT pg_advisory_xact_lock(7286459018241)"


def run_migrations(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_type=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        connection.exec_driver_sql(LOCK)
        context.run_migrations()


async def run_on_own_connection() -> None:
    async with migration_connection(PostgresSettings().administration_url) as connection:
        await connection.run_sync(run_migrations)


def write_sql() -> None:
    """Print the statements instead of running them (`alembic upgrade head --sql`)."""
    context.configure(dialect_name="postgresql", target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


handed_in: Connection | None = context.config.attributes.get("connection")
if context.is_offline_mode():
    write_sql()
elif handed_in is not None:
    run_migrations(handed_in)
else:
    if context.config.config_file_name is not None:
        fileConfig(context.config.config_file_name, disable_existing_loggers=False)
    asyncio.run(run_on_own_connection())
