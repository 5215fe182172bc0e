"""What this gateway offers: its servers by dotted name, and what of those that it serves is offered now.

The names are dotted so that a process imports only the servers that it serves.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, TypeVar

from app.errors import UnknownResource, UnknownServer, UnknownTool
from app.servers.base import CLIENT_PREFIX, BaseMCPServer, ServerKind
from app.servers.resources import Resource
from app.servers.routes import HttpRoute
from app.servers.tools import Tool

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
    place = SERVERS.get(name.removeprefix(CLIENT_PREFIX))
    if place is None:
        raise NoSuchServer(f"There is no server {name!r}. Servers: {', '.join(SERVERS)}.")
    module, _, kind = place.partition(":")
    server = getattr(import_module(module), kind)
    assert issubclass(server, BaseMCPServer)
    return server


DeclaredT = TypeVar("DeclaredT", Tool, Resource)


@dataclass(frozen=True, slots=True, eq=False)
class Offer(Generic[DeclaredT]):
    """A tool or a resource of one of the servers."""

    kind: ServerKind
    declared: DeclaredT
    permit: Any = None
    """The leave to use it of those who see it so, as the guard has it: looking it up is looking that up."""

    @property
    def name(self) -> str:
        """What rights to it are called by: a tool's name, a resource's template."""
        return self.declared.name if isinstance(self.declared, Tool) else self.declared.template


class Catalogue:
    """What is offered: the servers with their tools, resources and routes, in an order that stays.

    Whatever is looked up by a caller's name for it is looked up here, and whatever is listed to a caller is listed from
    here; so who is given another catalogue has other names and other listings, on every face.

    Args:
        kinds: the servers.

    Raises:
        ValueError: two servers claim one name, one tool or one resource scheme, which share `/mcp`.
    """

    def __init__(self, kinds: Sequence[ServerKind]) -> None:
        _refuse_claims_of_two(kinds)
        self._fill(
            kinds,
            [Offer(kind, each) for kind in kinds for each in kind.tools.values()],
            [Offer(kind, each) for kind in kinds for each in kind.resources.values()],
        )

    def _fill(
        self, kinds: Sequence[ServerKind], tools: Sequence[Offer[Tool]], resources: Sequence[Offer[Resource]]
    ) -> None:
        self.servers: Mapping[str, ServerKind] = {kind.server_id: kind for kind in kinds}
        """By their ids."""
        self._tools: dict[tuple[str | None, str], Offer[Tool]] = {}
        """By server and name, and by name alone."""
        self._tools_of: dict[str, list[Offer[Tool]]] = {server_id: [] for server_id in self.servers}
        for offer in tools:
            server_id, name = offer.kind.server_id, offer.declared.name
            self._tools_of[server_id].append(offer)
            self._tools[server_id, name] = self._tools[None, name] = offer
        self._resources_of: dict[str, list[Offer[Resource]]] = {server_id: [] for server_id in self.servers}
        for found in resources:
            self._resources_of[found.kind.server_id].append(found)
        self._scheme_owner = {found.declared.scheme: found.kind.server_id for found in resources}

    def restricted(
        self,
        tool: Callable[[Offer[Tool]], Offer[Tool] | None],
        resource: Callable[[Offer[Resource]], Offer[Resource] | None],
        servers: Set[str] = frozenset(),
    ) -> "Catalogue":
        """Return a catalogue of less: a server of which nothing is left is not there, nor is a route without its tool.

        Args:
            tool: returns what stands for a tool, None for nothing.
            resource: the same of a resource.
            servers: those that stay in any case.
        """
        tools = [seen for offer in self.tools() if (seen := tool(offer)) is not None]
        resources = [seen for offer in self.resources() if (seen := resource(offer)) is not None]
        left = {offer.kind.server_id for offer in (*tools, *resources)} | servers
        less = Catalogue(())
        less._fill([kind for name, kind in self.servers.items() if name in left], tools, resources)
        return less

    # What there is. `server` is a server's name, or None for all of them.

    def of(self, server: str | None) -> Sequence[ServerKind]:
        """Return one server, or all.

        Raises:
            UnknownServer: as for `server`.
        """
        return list(self.servers.values()) if server is None else [self.server(server)]

    def tools(self, server: str | None = None) -> Iterator[Offer[Tool]]:
        """Iterate over the tools.

        Raises:
            UnknownServer: as for `server`.
        """
        return (offer for kind in self.of(server) for offer in self._tools_of[kind.server_id])

    def resources(self, server: str | None = None) -> Iterator[Offer[Resource]]:
        """Iterate over the resources.

        Raises:
            UnknownServer: as for `server`.
        """
        return (offer for kind in self.of(server) for offer in self._resources_of[kind.server_id])

    def routes(self) -> Iterator[tuple[ServerKind, HttpRoute]]:
        """Iterate over the plain HTTP routes."""
        for kind in self.servers.values():
            for route in kind.routes.values():
                if (kind.server_id, route.acts_as) in self._tools:
                    yield kind, route

    # What somebody names

    def server(self, name: str) -> ServerKind:
        """Return a server by its name; clients may say `mcp_database` for `database`.

        Raises:
            UnknownServer: the message lists the names that exist.
        """
        found = self.servers.get(name) or self.servers.get(name.removeprefix(CLIENT_PREFIX))
        if found is None:
            raise UnknownServer(f"There is no server {quoted(name)}. Servers: {', '.join(self.servers)}.")
        return found

    def find_tool(self, server: str | None, name: str) -> Offer[Tool] | None:
        """Return a tool by its own name and its server's, None if there is none."""
        return self._tools.get((server, name))

    def tool(self, server: str | None, name: str) -> Offer[Tool]:
        """Return a tool by its name.

        Raises:
            UnknownServer, UnknownTool: the message lists the names that exist.
        """
        if found := self._tools.get((server, name)):
            return found
        if server is None:
            where, offered = "this gateway", self.tools()
        else:
            where = self.server(server).server_id
            if found := self._tools.get((where, name)):
                return found
            offered = self.tools(server)
        names = ", ".join(offer.declared.name for offer in offered)
        raise UnknownTool(f"There is no tool {quoted(name)} on {where}. Tools: {names}.")

    def resource(self, server: str | None, uri: str) -> tuple[Offer[Resource], Mapping[str, str]]:
        """Return the resource at a URI, and what the URI says for its variables.

        Raises:
            UnknownServer, UnknownResource: nothing of that form is offered.
        """
        owner = self._scheme_owner.get(uri.partition("://")[0]) if server is None else server
        for offer in self.resources(owner) if owner is not None else ():
            if (variables := offer.declared.match(uri)) is not None:
                return offer, variables
        templates = ", ".join(offer.declared.template for offer in self.resources(owner))
        raise UnknownResource(f"There is no resource {quoted(uri)}. Resources: {templates}.")


def _refuse_claims_of_two(kinds: Sequence[ServerKind]) -> None:
    owners: dict[str, str] = {}
    for kind in kinds:
        claims = [f"server name {kind.server_id!r}"]
        claims += [f"tool {name!r}" for name in kind.tools]
        claims += [f"resource scheme {scheme!r}" for scheme in {r.scheme for r in kind.resources.values()}]
        for claim in claims:
            if claim in owners:
                raise ValueError(f"{kind.name} and {owners[claim]} both claim the {claim}")
            owners[claim] = kind.name


def quoted(name: str, limit: int = 100) -> str:
    """Return a caller's name for a thing, fit to be shown again."""
    shown = "".join(c if c.isprintable() else "?" for c in name[:limit])
    return f"{shown!r}" + ("…" if len(name) > limit else "")
