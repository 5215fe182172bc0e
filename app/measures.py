"""A number that somebody keeps, for `/metrics`: what a server holds, how far it is behind."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Measure:
    """One number.

    Args:
        name: as Prometheus has it, with its unit, without `_total`.
        about: what it tells, in one sentence; the same for all of the name.
        value: the number.
        labels: what it is of. Never a principal, a customer or a URI, and of each no more values than are bounded.
        kind: whether it goes up and down, or only up.
    """

    name: str
    about: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    kind: Literal["gauge", "counter"] = "gauge"


def pool_measures(server: str, pool: str, *, most: int, opened: int, used: int, waiting: int) -> list[Measure]:
    """Return what is told of a pool of connections.

    Args:
        server: whose it is.
        pool: its name.
        most: connections that it may open.
        opened: those that are open.
        used: those of them that a call works with.
        waiting: calls that wait for one.
    """
    of = {"server": server, "pool": pool}
    return [
        Measure("switchboard_pool_size", "Connections that a pool may open.", most, of),
        Measure("switchboard_pool_connections", "Connections of a pool.", used, {**of, "state": "used"}),
        Measure("switchboard_pool_connections", "Connections of a pool.", opened - used, {**of, "state": "idle"}),
        Measure("switchboard_pool_waiting", "Calls that wait for a connection of a pool.", waiting, of),
    ]
