"""What this gateway offers: its servers by dotted name, so that a process imports only those that it serves."""

from collections.abc import Iterable, Mapping
from importlib import import_module

from app.servers.base import BaseMCPServer, ServerKind

SERVERS: Mapping[str, str] = {
    "database": "app.routers.database:DatabaseMCPServer",
    "kafka": "app.routers.kafka:KafkaMCPServer",
    "aws": "app.routers.aws:AWSMCPServer",
}
"""By the server's name. A new server is one more line."""


class NoSuchServer(ValueError):
    """A name that no server has; the message lists the names there are."""


def load_servers(names: Iterable[str] = ()) -> list[ServerKind]:
    """Import servers by their names, or all; clients' spelling `mcp_database` is taken for `database`.

    Raises:
        NoSuchServer: there is none of that name.
    """
    return [_load(name) for name in names] or [_load(name) for name in SERVERS]


def _load(name: str) -> ServerKind:
    place = SERVERS.get(name.removeprefix("mcp_"))
    if place is None:
        raise NoSuchServer(f"There is no server {name!r}. Servers: {', '.join(SERVERS)}.")
    module, _, kind = place.partition(":")
    server = getattr(import_module(module), kind)
    assert issubclass(server, BaseMCPServer)
    return server
