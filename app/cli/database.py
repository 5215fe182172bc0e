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
    help=f"Also make, or bring up to date, the login {READER_LOGIN} for DATABASE_READER_URL.",
)
def migrate(revision: str, reader_password: str | None) -> None:
    """Bring the database of DATABASE_URL to the version that this code needs."""
    settings = read_settings(PostgresSettings)

    async def upgrade() -> None:
        url = settings.require_url()
        await migrate_database(url, revision)
        if reader_password:
            login = await ensure_reader_login(url, reader_password)
            for warning in login.warnings:
                click.echo(f"Warning: {warning}", err=True)
        click.echo("The database is up to date.")

    run(upgrade)


@click.command
def seed() -> None:
    """Load the demo data into the database of DATABASE_URL, if it is empty."""
    settings = read_settings(PostgresSettings)

    async def load() -> None:
        summary = await seed_demo(settings.require_url())
        click.echo(
            f"Loaded {summary.customers} customers, {summary.tickets} tickets, {summary.interactions} interactions "
            f"and {summary.articles} articles."
            if summary
            else "The database holds data already; nothing was loaded."
        )

    run(load)
