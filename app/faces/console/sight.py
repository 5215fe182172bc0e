"""What of others' calls somebody may see: those of what it could use itself, and of its own tenant where it has one."""

from collections.abc import Iterator, Mapping
from weakref import WeakValueDictionary

from app.catalogue import Catalogue
from app.gateway import Gateway
from app.guard.principal import Principal
from app.servers.readiness import Standing, ToolOff


class Sight:
    """What viewers with the same rights see.

    Args:
        offered: what they may use.
        tenant: whose calls they see; None: everybody's.
        everything: whether they may use all there is, and are of no tenant. Only they see what is about all servers at
            once, and what nobody offers: its names are made up by callers.
    """

    def __init__(self, offered: Catalogue, tenant: str | None, *, everything: bool) -> None:
        self.everything = everything
        self.servers = offered.servers
        self._tenant = tenant
        self._operations = frozenset(_operations(offered))

    def knows(self, server: str, operation: str) -> bool:
        """Tell whether the figures of an operation are seen.

        Args:
            server: its server, by the id.
            operation: as the log names it.
        """
        return self.everything or (server, operation) in self._operations

    def sees(self, server: str, operation: str, principal: Principal) -> bool:
        """Tell whether a call of an operation by a principal is seen."""
        return self.knows(server, operation) and (self._tenant is None or principal.tenant == self._tenant)

    def shown(self, server: str, standing: Standing) -> dict[str, object]:
        """Return what is told of a server's state."""
        state = standing.readiness
        return {
            "id": server,
            "name": self.servers[server].name,
            "state": standing.state,
            "reason": None if state.answers else state.detail,
            "since": round(standing.since, 3),
            "off": self._reasons(server, state.tools_off),
            "limited": self._reasons(server, state.tools_limited),
        }

    def _reasons(self, server: str, tools: Mapping[str, ToolOff] | None) -> dict[str, str]:
        return {tool: why.detail for tool, why in (tools or {}).items() if self.knows(server, tool)}


class Sights:
    """The sight of each principal: one object for those who look at the same time, and see the same."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._known: WeakValueDictionary[tuple[Catalogue, str | None], Sight] = WeakValueDictionary()
        """By what is offered, of which there is one for each set of rights, and the tenant; kept while it is used."""

    def of(self, principal: Principal) -> Sight:
        """Return what a principal sees."""
        offered, gateway = self._gateway.offered_to(principal), self._gateway
        sight = self._known.get((offered, principal.tenant))
        if sight is None:
            nobodys = set(gateway.guard.policy.misfits) if gateway.guard is not None else set[tuple[str, str]]()
            left_out = set(_operations(gateway.catalogue)) - set(_operations(offered)) - nobodys
            everything = not left_out and principal.tenant is None
            sight = Sight(offered, principal.tenant, everything=everything)
            self._known[offered, principal.tenant] = sight
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
