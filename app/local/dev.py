"""`switchboard dev`: the local stack, migrated and filled, with the gateway in front of it."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import click
from pydantic_settings import BaseSettings

from app.local.postgres import LocalPostgres, run_postgres
from app.local.process import StartFailed
from app.main import create_app
from app.services.postgres.demo.world import seed
from app.services.postgres.migrations import ensure_reader_login, migrate
from app.services.postgres.settings import PostgresSettings
from app.serving import serve
from app.settings import Settings

_DATABASE = "customer_support"


@dataclass(frozen=True)
class Backend:
    """A running backend, as the gateway and other programs find it."""

    settings: BaseSettings
    environment: Mapping[str, str]
    about: str
    """One line for people."""


async def serve_local_stack(settings: Settings, data_dir: Path) -> None:
    """Start every backend, serve until a signal comes, and stop what was started.

    Raises:
        click.ClickException: a backend did not start; the message ends with the tail of its log.
    """
    data_dir = data_dir.resolve()
    for chatty in ("alembic", "uvicorn.error"):
        # The lines below say it shorter.
        logging.getLogger(chatty).setLevel(logging.WARNING)
    click.echo(f"Starting the local stack on {data_dir}", err=True)
    try:
        async with AsyncExitStack() as stack:
            starts = (_start(stack, name, run(data_dir / name)) for name, run in _BACKENDS.items())
            backends = await asyncio.gather(*starts)
            _write_environment(data_dir / "env", backends)
            app = create_app(settings=settings, service_settings=[backend.settings for backend in backends])
            await serve(app, settings, on_ready=lambda: click.echo(_welcome(settings.port, data_dir), err=True))
            click.echo("Stopping the local stack …", err=True)
    except StartFailed as error:
        raise click.ClickException(str(error)) from None
    click.echo("Stopped. The data stays where it is.", err=True)


async def _start(stack: AsyncExitStack, name: str, backend: AbstractAsyncContextManager[Backend]) -> Backend:
    started = time.perf_counter()
    running = await stack.enter_async_context(backend)
    click.echo(f"  {name:<10} ready in {time.perf_counter() - started:4.1f} s  {running.about}", err=True)
    return running


@asynccontextmanager
async def _postgres(data_dir: Path) -> AsyncGenerator[Backend]:
    async with run_postgres(data_dir) as server:
        await _create_database(server)
        url = server.url(_DATABASE)
        await migrate(url)
        reader = await ensure_reader_login(url)
        loaded = await seed(url)
        yield Backend(
            settings=PostgresSettings.model_validate({"url": url, "reader_url": reader.url}),
            environment={"DATABASE_URL": url, "DATABASE_READER_URL": reader.url},
            about=f"127.0.0.1:{server.port}, {f'loaded {loaded}' if loaded else 'with the data it had'}",
        )


async def _create_database(server: LocalPostgres) -> None:
    connection = await asyncpg.connect(server.url())
    try:
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", _DATABASE):
            await connection.execute(f"CREATE DATABASE {_DATABASE}")
    finally:
        await connection.close()


_BACKENDS: Mapping[str, Callable[[Path], AbstractAsyncContextManager[Backend]]] = {"postgres": _postgres}


def _write_environment(path: Path, backends: list[Backend]) -> None:
    """Leave the addresses for other programs: `set -a; . .switchboard/env; switchboard stdio`."""
    lines = [f"{name}={value}\n" for backend in backends for name, value in backend.environment.items()]
    path.touch(mode=0o600)
    path.write_text("".join(lines))


def _welcome(port: int, data_dir: Path) -> str:
    url = f"http://127.0.0.1:{port}"
    question = """'{"search_term": "how do i reset my pasword"}'"""
    return f"""
Switchboard is ready.

  Documentation   {url}/docs
  MCP             {url}/mcp            (all servers; one alone: {url}/mcp/database)
  Try it          curl -s {url}/mcp/database/tools/search_knowledge_base \\
                    -H 'content-type: application/json' -d {question}
  Data            {data_dir}           (addresses of the backends: {data_dir / "env"})
  Stop            Ctrl-C; the data stays
"""
