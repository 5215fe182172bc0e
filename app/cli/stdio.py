"""`switchboard stdio`: what a desktop client launches. It imports no web framework, and only the servers it serves."""

from pathlib import Path

import click

from app.cli.launcher import launcher_of
from app.cli.running import (
    CONFIG,
    chosen_servers,
    open_tracing,
    read_guard,
    read_service_settings,
    read_settings,
    run,
    start_log,
)
from app.faces.stdio import serve_stdio
from app.gateway import Gateway
from app.guard.secret import SecretSettings
from app.settings import Settings


@click.command
@click.argument("servers", nargs=-1)
@CONFIG
def stdio(servers: tuple[str, ...], config: Path | None) -> None:
    """Speak MCP over standard input and output: all servers, or those named."""
    read_settings(SecretSettings)  # so that a wrong one ends the start here, and not a server's
    settings = read_settings(Settings, switchboard_config=config)
    kinds = chosen_servers(servers, settings)
    service_settings = read_service_settings(kinds)
    guard = read_guard(settings, kinds)
    launcher = launcher_of(guard.policy)
    start_log(settings, kinds, guard.policy)

    async def speak() -> None:
        gateway = Gateway(kinds, settings, guard=guard, tracing=tracing)
        only = kinds[0].server_id if len(kinds) == 1 else None
        async with gateway.open(service_settings), launcher() as principal:
            await serve_stdio(gateway, only, principal)

    # The SDK reads its input in a thread that only the end of the process ends.
    with open_tracing(settings) as tracing:
        run(speak, serves=True)
