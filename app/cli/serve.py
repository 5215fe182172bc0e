"""`switchboard serve`: the gateway as operators run it."""

from pathlib import Path

import click

from app.cli.identity import identity_for
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
from app.guard.secret import SecretSettings
from app.main import create_app
from app.serving.addresses import address_class
from app.serving.process import PortInUse, Site, own_site, serve_sites
from app.settings import Settings


@click.command
@click.option("--host", default=None, help="Address to listen on; HOST.")
@click.option("--port", type=int, default=None, help="Port to listen on; PORT.")
@click.option(
    "--server", default=None, help="Offer this server only, on <NAME>_MCP_HOST and <NAME>_MCP_PORT (8001, 8002, 8003)."
)
@click.option("--all-ports", is_flag=True, help="Offer each server on its own port, as --server does one.")
@click.option("--allow-anonymous", is_flag=True, help="Ask nobody for a key; SWITCHBOARD_ALLOW_ANONYMOUS.")
@CONFIG
def serve(
    host: str | None,
    port: int | None,
    server: str | None,
    config: Path | None,
    *,
    all_ports: bool,
    allow_anonymous: bool,
) -> None:
    """Serve on the backends that the environment names. Starts none itself."""
    if all_ports and (port is not None or server is not None):
        raise click.UsageError("--all-ports takes the ports from <NAME>_MCP_PORT, and offers every server of SERVERS.")
    read_settings(SecretSettings)  # so that a wrong one ends the start here, and not a server's
    settings = read_settings(Settings, host=host, port=port, switchboard_config=config)
    kinds = chosen_servers([server] if server else [], settings)
    service_settings = read_service_settings(kinds)
    addresses = {
        kind.server_id: read_settings(address_class(kind.server_id), host=host, port=port)
        for kind in (kinds if all_ports or server else ())
    }
    guard = read_guard(settings, kinds)
    hosts = [address.host for address in addresses.values()] or [settings.host]
    identities = [
        identity_for(hosts, guard.policy, allow_anonymous=allow_anonymous) for _ in (kinds if addresses else [None])
    ]
    start_log(settings, kinds, guard.policy)
    with open_tracing(settings) as tracing:
        if addresses:
            sites = [
                own_site(kind, addresses[kind.server_id], settings, service_settings, guard, identity, tracing)
                for kind, identity in zip(kinds, identities, strict=True)
            ]
        else:
            [identity] = identities
            app = create_app(kinds, settings, service_settings, guard=guard, identity=identity, tracing=tracing)
            sites = [Site(app, settings)]
        run(lambda: serve_sites(sites), PortInUse, serves=True)
