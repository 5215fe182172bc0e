"""`switchboard config`: what a person copies into an MCP client."""

from pathlib import Path

import click

from app.cli.running import LOCAL_STACK, gateway_address, read_settings
from app.client_configs import client_configs, own_command
from app.settings import Settings

_CLIENTS = [config.client for config in client_configs("", ["switchboard"], None)]


@click.command
@click.argument("client", type=click.Choice(_CLIENTS))
@click.option("--url", default=None, help="The gateway's address; GATEWAY_URL, PORT or that of `make run` if left out.")
@click.pass_context
def config(context: click.Context, client: str, url: str | None) -> None:
    """Print the configuration of an MCP client, with the addresses and paths of this installation."""
    address = (url or gateway_address(read_settings(Settings))).rstrip("/").removesuffix("/mcp")
    found: Path | None = context.meta.get("env_file")
    if found is None and LOCAL_STACK.is_file():
        found = LOCAL_STACK
    configs = {c.client: c for c in client_configs(address, own_command(), found.resolve() if found else None)}
    chosen = configs[client]
    click.echo(f"For {chosen.title}: {chosen.place}", err=True)
    click.echo(chosen.text)
