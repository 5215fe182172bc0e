"""How a command reads its settings, runs, and says what went wrong."""

import asyncio
import logging
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from textwrap import indent
from typing import TypeVar, cast

import click
import uvloop
from dotenv import dotenv_values
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from app.catalogue import SERVERS, Catalogue, NoSuchServer, load_servers
from app.errors import GatewayError
from app.guard.guard import Guard
from app.guard.policy import Policy
from app.guard.policy_file import FileAsWritten, PolicyMistake, names_resources, read_policy, servers_named
from app.guard.secret import SecretSettings
from app.guard.settings import IdentitySettings
from app.guard.vocabulary import known_later, vocabulary_of
from app.logs import OURS, set_up_logging
from app.servers.base import CLIENT_PREFIX, ServerKind
from app.serving.addresses import address_class
from app.settings import Settings
from app.signals import stopping_by
from app.telemetry.recorder import Tracing
from app.unseen import escaped

_log = logging.getLogger(__name__)
SettingsT = TypeVar("SettingsT", bound=BaseSettings)
_UNUSABLE = "A setting can't be used; nothing was started."


_REASONS = {
    "int_parsing": "expected a whole number",
    "float_parsing": "expected a number",
    "bool_parsing": "expected true or false",
}
"""Of pydantic's refusals that speak of parsers, in words of those who set variables."""
_POLICY = Path("switchboard.toml")
_TRACING = "app.telemetry.tracing"
"""Imported by who traces alone: it takes a tenth of a second, and packages that others need not have."""
LOCAL_STACK = Path(".switchboard/env")
"""Where `switchboard dev` leaves the addresses of its backends, and its own."""


class UnusableSettings(click.ClickException):
    """Variables can't be used as they are. Nothing was opened."""

    exit_code = 2


def say(text: str, *, lead: str = "", err: bool = False) -> None:
    """Write to the terminal: what others wrote can't move its cursor, nor say what it doesn't.

    Args:
        text: a line, or several.
        lead: what stands in front, of our own, with its colours.
        err: whether it goes to the standard error.
    """
    click.echo(lead + escaped(text), err=err)


def read_settings(kind: type[SettingsT], **given: object) -> SettingsT:
    """Read settings from the environment; what the command line gives goes first, None stands for nothing.

    Raises:
        UnusableSettings: each variable that is refused is named, with the reason and without its value.
    """
    try:
        return kind.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise UnusableSettings(_explained(kind, error)) from None


def gateway_address(settings: Settings) -> str:
    """Return where a gateway of this installation is looked for.

    `GATEWAY_URL` and `PORT` of the environment go first; then it is where `make run` serves, or has served last.
    """
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104 - it is only read
    by_port = f"http://{host}:{settings.port}"
    if given := os.environ.get("GATEWAY_URL", "").partition(",")[0].strip():
        return given.rstrip("/")
    if os.environ.get("PORT") or not LOCAL_STACK.is_file():
        return by_port
    return dotenv_values(LOCAL_STACK).get("GATEWAY_URL") or by_port


def read_service_settings(servers: Iterable[ServerKind]) -> list[BaseSettings]:
    """Read the settings of servers before anything is opened.

    Raises:
        UnusableSettings: as for `read_settings`.
    """
    return [read_settings(kind) for server in servers for kind in server.all_settings().values()]


def chosen_servers(names: Sequence[str], settings: Settings) -> list[ServerKind]:
    """Return the servers that the command line names, else those of `SERVERS`, else all.

    Raises:
        UnusableSettings: there is no server of that name.
    """
    try:
        return load_servers(names or settings.servers)
    except NoSuchServer as error:
        raise UnusableSettings(str(error)) from None


CONFIG = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="The policy's file; SWITCHBOARD_CONFIG, else switchboard.toml in the working directory, if it is there.",
)


def policy_file(settings: Settings) -> Path | None:
    """Return the policy's file; None where there is none."""
    if settings.switchboard_config is None and _POLICY.is_file():
        return _POLICY
    return settings.switchboard_config


def written_policy(settings: Settings) -> FileAsWritten | None:
    """Return what the policy's file says, whether or not it fits what is offered; None where there is none.

    Raises:
        UnusableSettings: it can't be read.
    """
    path = policy_file(settings)
    try:
        return None if path is None else read_policy(path)[0]
    except PolicyMistake as error:
        raise UnusableSettings(str(error)) from None


def asks_for_keys(settings: Settings) -> bool:
    """Tell whether callers of what is served under these settings are asked for a key.

    Raises:
        UnusableSettings: nobody can tell.
    """
    file = written_policy(settings)
    return read_settings(IdentitySettings).names_keys or (file is not None and file.auth is not None)


def read_guard(settings: Settings, kinds: Sequence[ServerKind]) -> Guard:
    """Return what callers are held to: the policy's file, or without one that developers may do everything.

    Args:
        settings: say which file.
        kinds: the servers that are offered. What the file says of our other servers is checked, too.

    Raises:
        UnusableSettings: the file can't be used; a line for each mistake, which begins with the file's own line.
    """
    path = policy_file(settings)
    if path is None:
        return Guard(Policy.without_file(vocabulary_of(Catalogue(kinds))))
    try:
        written, places = read_policy(path)
        offered = {kind.server_id for kind in kinds}
        others = {name for name in SERVERS if names_resources(written) or name in servers_named(written)} - offered
        known = Catalogue([*kinds, *(load_servers(sorted(others)) if others else ())])
        return Guard(Policy(written, vocabulary_of(known), places, known_later(known)))
    except PolicyMistake as error:
        raise UnusableSettings(f"The policy can't be used; nothing was started.\n{indent(str(error), '  ')}") from None


@contextmanager
def open_tracing(settings: Settings) -> Generator[Tracing | None]:
    """Make spans of calls while the block runs, where OTEL_EXPORTER_OTLP_ENDPOINT says who gets them.

    Raises:
        UnusableSettings: what it takes is not installed.
    """
    if settings.otel_exporter_otlp_endpoint is None:
        yield None
        return
    try:
        tracing = import_module(_TRACING).OpenTelemetry()
    except ModuleNotFoundError as error:
        raise UnusableSettings(
            f"{_UNUSABLE}\n  OTEL_EXPORTER_OTLP_ENDPOINT: traces want the extra `otel`"
            f" (pip install 'switchboard-gateway[otel]'); there is no {error.name}."
        ) from None
    try:
        yield tracing
    finally:
        tracing.close()


_OTHER_VARIABLES = {
    *("AWS_DEFAULT_REGION", "DATABASE_READER_PASSWORD", "GATEWAY_TOKEN", "GATEWAY_URL"),
    *("ANSWER_MODEL", "ANSWER_MODEL_KEY", "ANSWER_MODEL_URL"),
}
"""Variables that are read by other commands than `serve`, or by libraries."""
_ALIKE = 0.85


def misspelt(env_file: Path | None, servers: Iterable[ServerKind]) -> list[str]:
    """Return a line for each variable of a file that no setting has the name of, but nearly.

    Other names pass: other programs may read the same file.
    """
    given = dotenv_values(env_file) if env_file is not None else {}
    kinds: list[type[BaseSettings]] = [Settings, SecretSettings, *map(address_class, SERVERS)]
    kinds += [kind for server in servers for kind in server.all_settings().values()]
    known = _OTHER_VARIABLES | {
        f"{kind.model_config.get('env_prefix', '')}{name}".upper() for kind in kinds for name in kind.model_fields
    }
    return [
        f"{name} of {env_file} is no setting, and has no effect; did you mean {nearest[0]}?"
        for name in given
        if name.upper() not in known and (nearest := get_close_matches(name.upper(), known, 1, _ALIKE))
    ]


def start_log(settings: Settings, servers: Iterable[ServerKind], policy: Policy) -> None:
    """Set logging up as `LOG_LEVEL`, `LOG_FORMAT` and `LOG_LEVELS` say; warn of what is hardly meant so.

    Args:
        settings: of the process.
        servers: that it offers.
        policy: by which it does.

    Raises:
        UnusableSettings: `LOG_LEVELS` names a logger that is neither a server's nor another one of ours.
    """
    servers = list(servers)
    loggers = {server.server_id: f"MCP.{server.name}" for server in servers}
    known = {*OURS, *loggers.values()}
    levels: dict[str, str] = {}
    for name, level in settings.log_levels.items():
        logger = loggers.get(name.removeprefix(CLIENT_PREFIX), name)
        if logger not in known and not logger.startswith("app."):
            offered = ", ".join([*loggers, *sorted(known)])
            raise UnusableSettings(f"{_UNUSABLE}\n  LOG_LEVELS: there is no logger {name!r}. Loggers: {offered}.")
        levels[logger] = level
    set_up_logging(settings.log_level, settings.log_format, levels)
    if (env_file := click.get_current_context().meta.get("env_file")) is not None:
        for line in misspelt(env_file, servers):
            _log.warning("%s", line)
    for line in policy.doubts:
        _log.warning("the policy may not be what you mean: %s", line)


def run(task: Callable[[], Awaitable[None]], *expected: type[Exception], serves: bool = False) -> None:
    """Run a command on uvloop until it ends, or a signal ends it.

    Args:
        task: what the command does.
        expected: failures, beside `GatewayError` and those of the system, whose message says all.
        serves: it runs until it is told to stop, so that a signal is no failure.

    Raises:
        click.ClickException: it failed, with a line for each reason; the command ends with status 1.
    """

    async def guarded() -> None:
        running = asyncio.current_task()
        assert running is not None
        with stopping_by(lambda _: running.cancel()):
            await task()

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(guarded())
    except asyncio.CancelledError:
        sys.exit(0 if serves else 130)
    except click.ClickException:
        raise
    except Exception as error:  # beside the gateway's, the only place: a start is no call, and its trace helps nobody
        _log.debug("it failed here", exc_info=error)
        reasons = [_reason(failure, (GatewayError, OSError, *expected)) for failure in _failures(error)]
        raise click.ClickException("\n".join(dict.fromkeys(reasons))) from None


def _failures(error: BaseException) -> list[BaseException]:
    """Return what failed, out of the groups that tasks put it in."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return [failure for part in group.exceptions for failure in _failures(part)]
    return [error]


def _reason(failure: BaseException, expected: tuple[type[Exception], ...]) -> str:
    if isinstance(failure, expected):
        return str(failure) or type(failure).__name__
    frames = traceback.extract_tb(failure.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}; " if frames else ""
    return f"{type(failure).__name__}: {failure} ({where}LOG_LEVEL=DEBUG shows how it came there)"


def _explained(kind: type[BaseSettings], error: ValidationError) -> str:
    lines: list[str] = []
    for failure in error.errors(include_input=False, include_url=False):
        name = str(failure["loc"][0]).upper() if failure["loc"] else ""
        prefix = kind.model_config.get("env_prefix", "").upper()
        variable = name if name.startswith(prefix) else prefix + name
        reason = _REASONS.get(failure["type"]) or failure["msg"].removeprefix("Value error, ")
        reason = reason.removeprefix(f"{variable}: ")
        lines.append(f"  {variable}: {reason}" if variable else f"  {reason}")
    return "\n".join([_UNUSABLE, *dict.fromkeys(lines)])
