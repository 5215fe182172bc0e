"""What callers want done, whatever it is, in the one form that the gateway runs."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from app.servers.calls import CallContext


@dataclass(frozen=True, slots=True)
class Operation:
    """A tool's work, a resource's reading, a watch, a stream, a listing: all that the gateway has to know of it."""

    name: str
    """What the log calls it."""
    parse: Callable[[Any], Any]
    """Returns the arguments that a caller has given, once they are such; raises `GatewayError` where they are not."""
    run: Callable[[Any, Any, CallContext], Awaitable[Any]]
    """Does it, with the open server, the arguments and the context."""
    read_only: bool
    """Whether it changes nothing."""
    timeout: float | None = None
    """Seconds; None takes the gateway's default."""
