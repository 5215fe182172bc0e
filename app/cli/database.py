"""`switchboard migrate | seed`: the support database's tables and its demo data."""

import click

from app.cli.running import read_settings, run, say
from app.errors import BackendNotConfigured
from app.services.postgres.connections.settings import PostgresSettings
from app.services.postgres.migrations import downgrade
from app.services.postgres.migrations import migrate as migrate_database
from app.services.postgres.sql.login import (
    READER_LOGIN,
    ensure_reader_login,
    make_derived_login,
    reader_login_name,
)
from app.services.postgres.versions import newest_version


@click.command
@click.option("--revision", default="head", show_default=True, help="Where to stop.")
@click.option(
    "--downgrade", "going_back", is_flag=True, help="Go back to an older --revision, dropping what came since."
)
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
def migrate(
    revision: str, reader_password: str | None, reader_login: str, *, going_back: bool, change_reader_password: bool
) -> None:
    """Bring the database of DATABASE_URL to the version that this code needs."""
    settings = read_settings(PostgresSettings)

    async def upgrade() -> None:
        url = settings.administration_url
        if going_back:
            say(f"The database is at version {await downgrade(url, revision)} again.")
            return
        version = await migrate_database(url, revision)
        if reader_password:
            login = await ensure_reader_login(
                url,
                reader_password,
                name=reader_login,
                connections=settings.reader_connections,
                change_password=change_reader_password,
            )
            for warning in login.warnings:
                say(f"Warning: {warning}", err=True)
        elif settings.queries and settings.reader_url is None and version == newest_version():
            try:
                await make_derived_login(settings)
                say(f"query_database reads with a login of its own, {reader_login_name(settings)}.")
            except BackendNotConfigured as error:
                say(f"Warning: {error}", err=True)
        is_newest = version == newest_version()
        say("The database is up to date." if is_newest else f"The database is at version {version}.")

    run(upgrade)
