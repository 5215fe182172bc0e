"""`switchboard migrate | seed`: the support database's tables and its demo data."""

import click

from app.cli.running import read_settings, run
from app.services.postgres.connections.settings import PostgresSettings
from app.services.postgres.demo.world import seed as seed_demo
from app.services.postgres.migrations import READER_LOGIN, ensure_reader_login
from app.services.postgres.migrations import migrate as migrate_database


@click.command
@click.option("--revision", default="head", show_default=True, help="Where to stop.")
@click.option(
    "--reader-password",
    envvar="DATABASE_READER_PASSWORD",
    default=None,
    help="Also make, or bring up to date, the login of query_database, for DATABASE_READER_URL.",
)
@click.option(
    "--reader-login",
    envvar="DATABASE_READER_LOGIN",
    default=READER_LOGIN,
    show_default=True,
    help="That login's name. Logins are of the whole cluster: choose another one for each database.",
)
@click.option(
    "--change-reader-password",
    is_flag=True,
    help="Give that login the new password, though it exists with another one that somebody may use.",
)
def migrate(revision: str, reader_password: str | None, reader_login: str, *, change_reader_password: bool) -> None:
    """Bring the database of DATABASE_URL to the version that this code needs."""
    settings = read_settings(PostgresSettings)

    async def upgrade() -> None:
        url = settings.administration_url
        await migrate_database(url, revision)
        if reader_password:
            login = await ensure_reader_login(
                url,
                reader_password,
                name=reader_login,
                connections=settings.reader_connections,
                change_password=change_reader_password,
            )
            for warning in login.warnings:
                click.echo(f"Warning: {warning}", err=True)
        click.echo("The database is up to date.")

    run(upgrade)


@click.command
def seed() -> None:
    """Load the demo data into the database of DATABASE_URL, if it is empty."""
    settings = read_settings(PostgresSettings)

    async def load() -> None:
        summary = await seed_demo(settings.administration_url)
        click.echo(
            f"Loaded {summary.customers} customers, {summary.tickets} tickets, {summary.interactions} interactions "
            f"and {summary.articles} articles."
            if summary
            else "The database holds data already; nothing was loaded."
        )

    run(load)
