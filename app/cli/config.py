"""`switchboard config`: what a person copies into an MCP client."""

import os
from pathlib import Path

import click

from app.cli.running import (
    LOCAL_STACK,
    asks_for_keys,
    gateway_address,
    policy_file,
    read_settings,
    say,
    written_policy,
)
from app.client_configs import KEY_PLACEHOLDER, LaunchedByClients, client_configs, own_command
from app.settings import Settings

_CLIENTS = [config.client for config in client_configs("", LaunchedByClients())]


@click.command
@click.argument("client", type=click.Choice(_CLIENTS))
@click.option(
    "--url",
    default=None,
    help="The gateway's address; else GATEWAY_URL, public_url of the policy, or that of `make run` or PORT.",
)
@click.pass_context
def config(context: click.Context, client: str, url: str | None) -> None:
    """Print the configuration of an MCP client, with the addresses and paths of this installation."""
    settings = read_settings(Settings)
    found: Path | None = context.meta.get("env_file")
    if found is None and LOCAL_STACK.is_file():
        found = LOCAL_STACK
    asks = asks_for_keys(settings)
    written = written_policy(settings)
    auth = written.auth if written is not None else None
    has_role = auth is not None and auth.local_role is not None
    address = (url or gateway_address(settings)).rstrip("/").removesuffix("/mcp")
    if auth is not None and auth.public_url is not None and not (url or os.environ.get("GATEWAY_URL")):
        address = auth.public_url
    launched = LaunchedByClients(own_command(), found, policy_file(settings), asks_for_key=asks and not has_role)
    known = client_configs(address, launched, asks_for_key=asks)
    chosen = next(config for config in known if config.client == client)
    say(f"For {chosen.title}: {chosen.place}", err=True)
    if KEY_PLACEHOLDER in chosen.text:
        say(f"Put a key in place of {KEY_PLACEHOLDER}: `switchboard keys create` makes one.", err=True)
    say(chosen.text)
