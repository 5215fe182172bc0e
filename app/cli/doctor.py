"""`switchboard doctor`: how things are, a line each, with the remedy where they are not well."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from http import HTTPStatus
from pathlib import Path

import click
import httpx
from mcp import Client
from pydantic_settings import BaseSettings

from app.cli.launcher import read_keyring
from app.cli.running import (
    LOCAL_STACK,
    UnusableSettings,
    chosen_servers,
    gateway_address,
    misspelt,
    read_guard,
    read_settings,
    run,
    say,
)
from app.findings import Finding, checked, counted
from app.gateway import Gateway
from app.guard.policy import Policy
from app.guard.secret import SecretSettings
from app.guard.settings import IdentitySettings
from app.logs import set_up_logging
from app.servers.base import ServerKind
from app.settings import Settings
from app.version import VERSION

_WITHIN = 3.0
"""Seconds in which a gateway that runs here answers."""
_COLOURS = {"ok": "green", "off": "bright_black", "warning": "yellow", "broken": "red"}


@click.command
@click.pass_context
def doctor(context: click.Context) -> None:
    """Check each setting, each backend and what MCP clients are shown; exit 1 if something is broken."""
    # What the checks find, they say.
    set_up_logging("CRITICAL", "text")
    broken: list[Finding] = []

    async def examine() -> None:
        async for subject, finding in _findings(context.meta.get("env_file")):
            mark = click.style(f"{finding.state:<8}", fg=_COLOURS[finding.state])
            say(f" {subject:<9} {finding.text}", lead=mark)
            if finding.state == "broken":
                broken.append(finding)

    run(examine)
    context.exit(1 if broken else 0)


async def _findings(env_file: Path | None) -> AsyncIterator[tuple[str, Finding]]:
    if env_file is not None:
        yield "settings", Finding("ok", f"variables of {env_file} are read; those of the environment go before them")
    try:
        read_settings(SecretSettings)
        read_settings(IdentitySettings)
        settings = read_settings(Settings)
        kinds = chosen_servers([], settings)
    except UnusableSettings as error:
        for finding in _of_settings(error):
            yield "settings", finding
        return
    for line in misspelt(env_file, kinds):
        yield "settings", Finding("warning", line)
    readable: list[ServerKind] = []
    service_settings: list[BaseSettings] = []
    for kind in kinds:
        mistakes: list[Finding] = []
        for wanted in kind.all_settings().values():
            try:
                service_settings.append(read_settings(wanted))
            except UnusableSettings as error:
                mistakes += _of_settings(error)
        for finding in mistakes:
            yield kind.server_id, finding
        if not mistakes:
            readable.append(kind)
    policy: Policy | None = None
    try:
        policy = read_guard(settings, kinds).policy
    except UnusableSettings as error:
        for finding in _of_settings(error):
            yield "policy", finding
    if len(readable) == len(kinds):
        yield "settings", Finding("ok", "each variable can be used as it is")
    for line in policy.doubts if policy is not None else ():
        yield "policy", Finding("warning", line)
    if policy is not None:
        yield "keys", await _keys(policy)
    gateway = Gateway(readable, settings)
    async with gateway.open(service_settings, only_examined=True):
        configured = {name: server for name, server in gateway.servers.items() if server.unconfigured() is None}
        for name, server in gateway.servers.items():
            if (objection := server.unconfigured()) is not None:
                # What no variable names is not in use; what one names in a way that nobody can follow is a mistake.
                yield name, Finding("off" if objection.missing else "broken", objection.detail)
        examined = await asyncio.gather(*(server.examine() for server in configured.values()), return_exceptions=True)
        for name, findings in zip(configured, examined, strict=True):
            for finding in _of_examination(findings):
                yield name, finding
        if not configured:
            local = f", or add --env-file {LOCAL_STACK} for those of `make run`" if LOCAL_STACK.is_file() else ""
            remedy = f"no server is configured, so no tool could work; see .env.example{local}"
            yield "settings", Finding("broken", remedy)
    yield "clients", await _clients_view(settings)


def _of_settings(error: UnusableSettings) -> Iterable[Finding]:
    """Return a finding for each line of a message that says what can't be used."""
    lines = error.message.splitlines()
    return [Finding("broken", line.strip()) for line in lines[1:] or lines]


def _of_examination(findings: Sequence[Finding] | BaseException) -> Sequence[Finding]:
    """Return what was found; a check's own mistake hides none of the others."""
    if isinstance(findings, BaseException):
        return [Finding("broken", f"its checks failed ({type(findings).__name__}), which is a mistake of theirs")]
    return findings


async def _keys(policy: Policy) -> Finding:
    """Return whether callers are asked for keys, and if so, whether there are any."""
    given = read_settings(IdentitySettings)
    if not (policy.has_auth or given.names_keys):
        return Finding("off", "nobody is asked for a key; [auth] in switchboard.toml asks for keys")

    async def let_somebody_in() -> str:
        async with read_keyring(given).open() as keyring:
            if (objection := await keyring.objection()) is not None:
                raise objection
        return "callers are asked for a key, and there is one that is good"

    try:
        return await checked(let_somebody_in())
    except UnusableSettings as error:
        return Finding("broken", error.message.removeprefix("Nothing was started, since "))


async def _clients_view(settings: Settings) -> Finding:
    """Return what an MCP client is shown by the gateway that runs here."""
    url = gateway_address(settings)
    try:
        async with httpx.AsyncClient(base_url=url, timeout=_WITHIN, trust_env=False) as http:
            version = (await http.get("/health")).json()["version"]
            status = (await http.get("/mcp")).status_code
    except httpx.ConnectError:
        return Finding("off", f"no gateway runs at {url} now; `switchboard serve` starts one")
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return Finding("broken", f"what listens at {url} is no Switchboard; choose another PORT")
    if status == HTTPStatus.MISDIRECTED_REQUEST:
        names = ", ".join(settings.allowed_hosts)
        return Finding("warning", f"the gateway at {url} answers for other names only: {names} (ALLOWED_HOSTS)")
    if status == HTTPStatus.UNAUTHORIZED:
        return Finding(
            "ok", f"the gateway at {url} asks callers for a key; `switchboard keys list` shows those there are"
        )
    if status != HTTPStatus.OK:
        return Finding("broken", f"the gateway at {url} answers {status} to MCP clients; its log says why")

    async def shown() -> str:
        async with Client(f"{url}/mcp") as client:
            tools = (await client.list_tools()).tools
        other = "" if version == VERSION else f", by a gateway of version {version} where this is {VERSION}"
        return f"MCP clients are shown {counted(len(tools), 'tool')} at {url}/mcp{other}"

    return await checked(shown())
