"""What of others' calls somebody may see: those of the servers, tools and resources that it could use itself."""

from collections.abc import Iterator

from app.catalogue import Catalogue
from app.gateway import Gateway
from app.guard.principal import Principal
from app.servers.readiness import Standing


class Sight:
    """What viewers with the same rights see.

    Args:
        offered: what they may use.
        everything: whether that is all there is. Only they see what is about all servers at once, and what nobody
            offers: its names are made up by callers.
    """

    def __init__(self, offered: Catalogue, *, everything: bool) -> None:
        self.everything = everything
        self.servers = offered.servers
        self._operations = frozenset(_operations(offered))

    def sees(self, server: str, operation: str) -> bool:
        """Tell whether a call is seen.

        Args:
            server: its server, by the id.
            operation: what it does, as the log names it.
        """
        return self.everything or (server, operation) in self._operations

    def shown(self, server: str, standing: Standing) -> dict[str, object]:
        """Return what is told of a server's state."""
        state = standing.readiness
        off = state.tools_off or {}
        return {
            "id": server,
            "name": self.servers[server].name,
            "state": standing.state,
            "reason": None if off else state.detail,
            "since": round(standing.since, 3),
            "off": {tool: why.detail for tool, why in off.items() if self.sees(server, tool)},
        }


class Sights:
    """The sight of each principal, the same object for those who may use the same."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._known: dict[Catalogue, Sight] = {}
        """By what is offered, of which there is one for each set of rights."""

    def of(self, principal: Principal) -> Sight:
        """Return what a principal sees."""
        offered, gateway = self._gateway.offered_to(principal), self._gateway
        sight = self._known.get(offered)
        if sight is None:
            nobodys = set(gateway.guard.policy.misfits) if gateway.guard is not None else set[tuple[str, str]]()
            left_out = set(_operations(gateway.catalogue)) - set(_operations(offered)) - nobodys
            sight = self._known[offered] = Sight(offered, everything=not left_out)
        return sight


def _operations(offered: Catalogue) -> Iterator[tuple[str, str]]:
    """Iterate over the operations that there are of what is offered, as the log names them."""
    for tool in offered.tools():
        yield tool.kind.server_id, tool.name
    for resource in offered.resources():
        yield resource.kind.server_id, resource.name
        yield resource.kind.server_id, f"watch {resource.name}"
    for kind, route in offered.routes():
        yield kind.server_id, route.name
