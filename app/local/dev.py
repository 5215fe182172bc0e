"""`switchboard dev`: the local stack, migrated and filled, with the gateway in front of it."""

import asyncio
import fcntl
import hashlib
import hmac
import logging
import os
import secrets
import shlex
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import asyncpg
import click
from dotenv import dotenv_values
from pydantic_settings import BaseSettings

from app.client_configs import LaunchedByClients, call_by_curl, client_configs, own_command
from app.faces.identity import Identity
from app.guard.credentials import Keyring
from app.guard.guard import Guard
from app.guard.keys import StoredKey, hash_of, token_of
from app.guard.limits import Rate
from app.guard.principal import EVERYBODY
from app.guard.secret import Secret, SecretSettings
from app.guard.settings import IdentitySettings
from app.key_stores import administered, every_key
from app.local.aws import run_aws
from app.local.kafka import run_kafka
from app.local.postgres import LocalPostgres, run_postgres
from app.local.process import StartFailed, steady_port
from app.main import create_app
from app.services.aws.demo.seeding import DEMO_BUCKET, DEMO_FUNCTION
from app.services.embeddings.installed import objection_to
from app.services.embeddings.settings import NONE, EmbeddingSettings
from app.services.kafka.demo import DEMO_TOPICS
from app.services.kafka.demo import seed as seed_kafka
from app.services.kafka.settings import KafkaSettings
from app.services.postgres.connections.settings import PostgresSettings
from app.services.postgres.demo.world import seed
from app.services.postgres.migrations import migrate
from app.services.postgres.sql.login import ensure_reader_login
from app.serving.process import require_free_port, serve
from app.settings import Settings
from app.telemetry.recorder import Tracing

_DATABASE = "customer_support"
_MODEL = "e5-small"
"""The demo's articles are in three languages, and this one is no large download."""
_SECRET = "SWITCHBOARD_SECRET"  # noqa: S105 - the variable's name


@dataclass(frozen=True)
class Backend:
    """A running backend, as the gateway and other programs find it."""

    settings: BaseSettings
    environment: Mapping[str, str]
    about: str
    """One line for people."""


async def serve_local_stack(
    settings: Settings,
    data_dir: Path,
    guard: Guard,
    tracing: Tracing | None = None,
    embeddings: EmbeddingSettings | None = None,
    policy: Path | None = None,
) -> None:
    """Start every backend, serve until a signal comes, and stop what was started. Callers are held to the guard.

    Where `embeddings` names nothing, the model that reads the demo's languages turns text into vectors, if it can here.
    `policy` is the guard's file, for what clients launch elsewhere: where it has `[auth]`, that asks for a key.

    Raises:
        PortInUse: the gateway's address is taken.
        ExceptionGroup: a backend did not start, for the reasons in it; a `StartFailed` ends with the tail of its log.
    """
    require_free_port(settings)
    data_dir = data_dir.resolve()
    logging.getLogger("alembic").setLevel(logging.WARNING)  # the lines below say it shorter
    click.echo(f"Starting the local stack on {data_dir}", err=True)
    # For our own services, and for processes that read `env`: each accepts what another has signed.
    os.environ.setdefault(_SECRET, kept_secret(data_dir / "secret"))
    async with AsyncExitStack() as stack:
        stack.enter_context(_alone(data_dir))
        async with asyncio.TaskGroup() as group:
            starting = [group.create_task(_start(stack, name, run(data_dir / name))) for name, run in _BACKENDS.items()]
        backends = [task.result() for task in starting]
        embeddings, search = _embeddings(embeddings or EmbeddingSettings())
        _write_environment(data_dir / "env", settings, backends, embeddings)
        asks = guard.policy.has_auth and guard.policy.local_role is None
        launched = LaunchedByClients(own_command(), data_dir / "env", policy, asks_for_key=asks)
        token, own = _own_key()
        identity = Identity(
            _keyring(backends, own),
            anonymous=EVERYBODY,
            public_pages=True,
            administer=administered(IdentitySettings(), _database(backends)),
        )
        app = create_app(
            settings=settings,
            service_settings=[*(backend.settings for backend in backends), embeddings],
            launched=launched,
            guard=guard,
            identity=identity,
            tracing=tracing,
        )

        def welcome(port: int) -> None:
            click.echo(_welcome(port, data_dir, launched, token, search), err=True)

        await serve(app, settings, on_ready=welcome)
        click.echo("Stopping the local stack …", err=True)
    click.echo("Stopped. The data stays where it is.", err=True)


@contextmanager
def _alone(data_dir: Path) -> Generator[None]:
    """Keep the data to this process.

    Raises:
        StartFailed: another one works on it.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            env = data_dir / "env"
            address = dotenv_values(env).get("GATEWAY_URL") if env.is_file() else None
            where = f", with the gateway at {address}" if address else ""
            raise StartFailed(
                f"a local stack runs on {data_dir} already{where}; use that one, stop it, or choose another --data-dir"
            ) from None
        yield


async def _start(stack: AsyncExitStack, name: str, backend: AbstractAsyncContextManager[Backend]) -> Backend:
    started = time.perf_counter()
    running = await stack.enter_async_context(backend)
    click.echo(f"  {name:<10} ready in {time.perf_counter() - started:4.1f} s  {running.about}", err=True)
    return running


@asynccontextmanager
async def _postgres(data_dir: Path) -> AsyncGenerator[Backend]:
    async with run_postgres(data_dir, port=steady_port(data_dir)) as server:
        await _create_database(server)
        url = server.url(_DATABASE)
        await migrate(url)
        reader = await ensure_reader_login(url, _reader_password(server), change_password=True)
        summary = await seed(url)
        loaded = (
            summary and f"loaded {summary.customers} customers, {summary.tickets} tickets, {summary.articles} articles"
        )
        yield Backend(
            settings=PostgresSettings.model_validate({"url": url, "reader_url": reader.url}),
            environment={"DATABASE_URL": url, "DATABASE_READER_URL": reader.url},
            about=f"127.0.0.1:{server.port}, {loaded or 'with the data it had'}",
        )


def kept_secret(path: Path) -> str:
    """Return the secret of this data, made when it is first asked for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with _private(path) as file:
            file.write(secrets.token_urlsafe(32))
    return path.read_text().strip()


def _private(path: Path) -> TextIO:
    """Open a file anew that nobody else on this machine may read, however it was left."""
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w")


def _reader_password(server: LocalPostgres) -> str:
    """Return a password that is the same for each run on the same data."""
    return hmac.digest(server.password.encode(), b"switchboard reader", hashlib.sha256).hex()


async def _create_database(server: LocalPostgres) -> None:
    connection = await asyncpg.connect(server.url())
    try:
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", _DATABASE):
            await connection.execute(f"CREATE DATABASE {_DATABASE}")
    finally:
        await connection.close()


@asynccontextmanager
async def _kafka(data_dir: Path) -> AsyncGenerator[Backend]:
    async with run_kafka(data_dir, port=steady_port(data_dir)) as broker:
        settings = KafkaSettings.model_validate({"bootstrap_servers": broker.bootstrap_servers})
        await seed_kafka(settings)
        yield Backend(
            settings=settings,
            environment={"KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers},
            about=f"{broker.bootstrap_servers}, topics {', '.join(DEMO_TOPICS)}",
        )


@asynccontextmanager
async def _aws(data_dir: Path) -> AsyncGenerator[Backend]:
    async with run_aws(data_dir, port=steady_port(data_dir)) as stack:
        yield Backend(
            settings=stack.settings,
            environment=stack.environment,
            about=f"{stack.endpoint_url}, bucket {DEMO_BUCKET}, function {DEMO_FUNCTION}",
        )


_BACKENDS: Mapping[str, Callable[[Path], AbstractAsyncContextManager[Backend]]] = {
    "postgres": _postgres,
    "kafka": _kafka,
    "aws": _aws,
}


def _embeddings(given: EmbeddingSettings) -> tuple[EmbeddingSettings, str]:
    """Return what turns text into vectors, and a line for people on what that means for the search."""
    chosen = given
    if "embeddings" not in given.model_fields_set:
        if (objection := objection_to(_MODEL)) is not None:
            return given, f"by words alone: {objection}"
        chosen = given.model_copy(update={"embeddings": _MODEL})
    if chosen.embeddings == NONE:
        return chosen, "by words alone (EMBEDDINGS=none)"
    return chosen, f"by words, and by meaning once the articles are read (EMBEDDINGS={chosen.embeddings})"


def _write_environment(path: Path, settings: Settings, backends: list[Backend], embeddings: EmbeddingSettings) -> None:
    """Leave the addresses for other programs: `switchboard stdio --env-file .switchboard/env`."""
    lines = [f"GATEWAY_URL=http://127.0.0.1:{settings.port}\n"] if settings.port else []
    lines += [f"{name}={value}\n" for backend in backends for name, value in backend.environment.items()]
    # What turns text into vectors here does so in those programs, but an endpoint's key stays where it was given.
    chosen = embeddings.model_dump(exclude={"embeddings_key"}, exclude_unset=True)
    lines += [f"{name.upper()}={shlex.quote(str(value))}\n" for name, value in chosen.items() if value is not None]
    lines.append(f"{_SECRET}={os.environ[_SECRET]}\n")
    with _private(path) as file:
        file.writelines(lines)


def _own_key() -> tuple[str, StoredKey]:
    """Return the key that is printed for trying: the same for each run on the same data."""
    key_id = "developer000"
    token = token_of(key_id, Secret.of(SecretSettings()).keys("the key of switchboard dev")[0])
    return token, StoredKey(key_id, hash_of(token.encode()), EVERYBODY.roles)


def _keyring(backends: list[Backend], own: StoredKey) -> Keyring:
    """Return who is known beside callers without a key: who has ours, or one that `switchboard keys` made."""
    given = IdentitySettings()
    return Keyring(every_key(given, _database(backends), [own]), Rate.read(given.failed_keys))


def _database(backends: list[Backend]) -> PostgresSettings:
    return next(backend.settings for backend in backends if isinstance(backend.settings, PostgresSettings))


def _welcome(port: int, data_dir: Path, launched: LaunchedByClients, token: str, search: str) -> str:
    url = f"http://127.0.0.1:{port}"
    configs = {config.client: config.text for config in client_configs(url, launched)}
    call = call_by_curl(url, "database", "search_knowledge_base", {"search_term": "how do i reset my pasword"})
    return f"""
Switchboard is ready.

  Home            {url}
  Try it          {_indented(call)}
  Claude Code     {configs["claude-code"]}
  Claude Desktop  {_indented(configs["claude-desktop"])}
                  (Cursor, VS Code: {own_command()[0]} config cursor|vscode)
  A key           {token}
                  (for trying: callers without one may do everything here)
  Search          {search}
  Data            {data_dir}
  In other shells set -a; . {shlex.quote(str(data_dir / "env"))}; set +a   (addresses of the backends)
  Stop            Ctrl-C; the data stays
"""


def _indented(text: str) -> str:
    return text.replace("\n", f"\n{'':18}")
