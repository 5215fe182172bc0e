"""`switchboard config`: what a person copies into an MCP client."""

from pathlib import Path

import click

from app.cli.running import read_settings
from app.client_configs import client_configs, own_command
from app.settings import Settings

_LOCAL_STACK = Path(".switchboard/env")
"""Where `switchboard dev` leaves the addresses of its backends."""
_CLIENTS = [config.client for config in client_configs("", ["switchboard"], None)]


@click.command
@click.argument("client", type=click.Choice(_CLIENTS))
@click.option("--url", default=None, help="The gateway's address; http://127.0.0.1 with PORT if left out.")
@click.pass_context
def config(context: click.Context, client: str, url: str | None) -> None:
    """Print the configuration of an MCP client, with the addresses and paths of this installation."""
    address = (url or f"http://127.0.0.1:{read_settings(Settings).port}").rstrip("/").removesuffix("/mcp")
    found: Path | None = context.meta.get("env_file")
    if found is None and _LOCAL_STACK.is_file():
        found = _LOCAL_STACK
    configs = {c.client: c for c in client_configs(address, own_command(), found.resolve() if found else None)}
    chosen = configs[client]
    click.echo(f"For {chosen.title}: {chosen.place}", err=True)
    click.echo(chosen.text)
