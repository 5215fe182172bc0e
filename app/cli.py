"""`switchboard dev | serve | stdio | migrate | seed`: the process's entry points."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import click
from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.errors import GatewayError
from app.faces.stdio import serve_stdio
from app.gateway import Gateway
from app.logs import set_up_logging
from app.main import SERVERS, create_app
from app.servers.base import ServerKind
from app.services.postgres.connections.settings import PostgresSettings
from app.services.postgres.demo.world import seed as seed_demo
from app.services.postgres.migrations import READER_LOGIN, ensure_reader_login
from app.services.postgres.migrations import migrate as migrate_database
from app.serving import PortInUse, run, serve
from app.settings import Settings
from app.version import VERSION

try:
    from app.local.dev import serve_local_stack
except ModuleNotFoundError:  # an installation for production has no local stack
    serve_local_stack = None

_ADDRESS_PREFIX = {"database": "DB"}
"""What a server is called in the variables of its own address, where that is not its name."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="switchboard")
def main() -> None:
    """One gateway between AI support agents and PostgreSQL, Kafka and AWS."""


@main.command()
@click.option("--port", type=int, default=None, help="Port on 127.0.0.1; 8000 unless PORT says otherwise.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".switchboard"),
    show_default=True,
    help="Where the local backends keep their data.",
)
def dev(port: int | None, data_dir: Path) -> None:
    """Serve on a local stack: starts the backends, migrates, loads demo data if there is none."""
    start = serve_local_stack
    if start is None:
        raise click.ClickException("The local stack is not installed. Run: pip install 'switchboard[local]'")
    settings = _settings(port=port, host="127.0.0.1")
    set_up_logging(settings.log_level, settings.log_format)
    _run(lambda: start(settings, data_dir))


@main.command(name="serve")
@click.option("--host", default=None, help="Address to listen on; HOST.")
@click.option("--port", type=int, default=None, help="Port to listen on; PORT.")
@click.option("--server", default=None, help="Offer this server only, on <NAME>_MCP_HOST and <NAME>_MCP_PORT if set.")
def serve_command(host: str | None, port: int | None, server: str | None) -> None:
    """Serve on the backends that the environment names. Starts none itself."""
    kinds = _chosen([server] if server else [])
    address = _Address.of(kinds[0].server_id) if server else None
    settings = _settings(
        host=host or (address.host if address else None), port=port if port is not None else address and address.port
    )
    set_up_logging(settings.log_level, settings.log_format)
    root_server = kinds[0].server_id if server else None
    _run(lambda: serve(create_app(kinds, settings, root_server=root_server), settings))


@main.command()
@click.argument("servers", nargs=-1)
def stdio(servers: tuple[str, ...]) -> None:
    """Speak MCP over standard input and output: all servers, or those named."""
    settings = _settings()
    set_up_logging(settings.log_level, settings.log_format)

    async def speak() -> None:
        gateway = Gateway(_chosen(servers), settings)
        only = next(iter(gateway.kinds)) if len(gateway.kinds) == 1 else None
        async with gateway.open():
            await serve_stdio(gateway, only)

    # The SDK reads its input in a thread that only the end of the process ends.
    _run(speak)


@main.command()
@click.option("--revision", default="head", show_default=True, help="Where to stop.")
@click.option(
    "--reader-password",
    envvar="DATABASE_READER_PASSWORD",
    default=None,
    help=f"Also make, or bring up to date, the login {READER_LOGIN} for DATABASE_READER_URL.",
)
def migrate(revision: str, reader_password: str | None) -> None:
    """Bring the database of DATABASE_URL to the version that this code needs."""

    async def upgrade() -> None:
        url = PostgresSettings().require_url()
        await migrate_database(url, revision)
        if reader_password:
            login = await ensure_reader_login(url, reader_password)
            for warning in login.warnings:
                click.echo(f"Warning: {warning}", err=True)
        click.echo("The database is up to date.")

    _run(upgrade)


@main.command()
def seed() -> None:
    """Load the demo data into the database of DATABASE_URL, if it is empty."""

    async def load() -> None:
        summary = await seed_demo(PostgresSettings().require_url())
        click.echo(
            f"Loaded {summary.customers} customers, {summary.tickets} tickets, {summary.interactions} interactions "
            f"and {summary.articles} articles."
            if summary
            else "The database holds data already; nothing was loaded."
        )

    _run(load)


class _Address(BaseSettings):
    """Where a server listens that has a process to itself."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", env_ignore_empty=True)

    host: str | None = None
    port: int | None = None

    @classmethod
    def of(cls, server_id: str) -> "_Address":
        """Read `DB_MCP_HOST`, `KAFKA_MCP_PORT` and the like."""
        prefix = _ADDRESS_PREFIX.get(server_id, server_id.upper())
        return cls(_env_prefix=f"{prefix}_MCP_")  # pyright: ignore[reportCallIssue] - a parameter of BaseSettings


def _chosen(names: Sequence[str]) -> list[ServerKind]:
    by_name = {kind.server_id: kind for kind in SERVERS}
    chosen = [by_name.get(name.removeprefix("mcp_")) for name in names]
    if None in chosen:
        unknown = names[chosen.index(None)]
        raise click.ClickException(f"There is no server {unknown!r}. Servers: {', '.join(by_name)}.")
    return [kind for kind in chosen if kind is not None] or list(SERVERS)


def _settings(**given: object) -> Settings:
    """Read the settings; what the command line gives goes first."""
    try:
        return Settings.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise click.ClickException(_explained(error)) from None


def _run(task: Callable[[], Awaitable[None]]) -> None:
    async def guarded() -> None:
        await task()

    try:
        run(guarded())
    except (GatewayError, PortInUse) as error:
        raise click.ClickException(str(error)) from None
    except ValidationError as error:
        raise click.ClickException(_explained(error)) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)


def _explained(error: ValidationError) -> str:
    lines = [f"  {'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors(include_input=False)]
    return "A setting can't be used:\n" + "\n".join(lines)


if __name__ == "__main__":
    main()
