"""What callers want done, whatever it is, in the one form that the gateway runs."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from app.errors import InternalError
from app.servers.calls import CallContext, JsonObject
from app.servers.confining import Confinement


@dataclass(frozen=True, slots=True)
class Operation:
    """A tool's work, a resource's reading, a watch, a stream, a listing: all that the gateway has to know of it."""

    name: str
    """What the log calls it."""
    obeys: str | None
    """The tool, resource (by its template) or `prompt/<name>` whose rules it obeys: who may not use that may not do
    this. None where everybody may, and gets only what it may see."""
    parse: Callable[[Any], Any]
    """Returns the arguments that a caller has given, once they are such; raises `GatewayError` where they are not."""
    run: Callable[[Any, Any, CallContext], Awaitable[Any]]
    """Does it, with the open server, the arguments and the context."""
    read_only: bool
    """Whether it changes nothing."""
    with_arguments: Callable[[Any, Mapping[str, Any]], Any]
    """Returns parsed arguments with others in place of some; raises `GatewayError` where they don't fit together."""
    timeout: float | None = None
    """Seconds; None takes the gateway's default."""
    confinement: Confinement | None = None
    """How it is kept to the customer that its caller is bound to; None refuses callers that are bound."""


class RunsUndeclared(Protocol):
    """Runs tools and reads resources that have no declared method, as `BaseMCPServer` does."""

    def call_undeclared(self, tool_name: str, arguments: JsonObject, context: CallContext) -> Awaitable[Any]: ...

    def read_undeclared(self, resource_uri: str, context: CallContext) -> Awaitable[Any]: ...


def no_arguments(_: Any, changes: Mapping[str, Any]) -> Any:
    """Refuse to change arguments where there are none: a rule on them would hold for nothing."""
    raise InternalError
