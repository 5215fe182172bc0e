"""One call: who makes it, and by which face."""

import itertools
import os
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol

import msgspec
from pydantic import JsonValue

from app.guard.principal import ANONYMOUS, Principal
from app.servers.origins import NOWHERE, Origin

Face = Literal["rest", "mcp", "websocket", "stdio", "batch", "stream", "internal"]
JsonObject = dict[str, JsonValue]

_PROCESS = os.urandom(12).hex()
_requests = itertools.count(1)


def new_request_id() -> str:
    """Return an id for a request whose caller sent none: unique, not secret."""
    return _PROCESS + "%08x" % next(_requests)  # noqa: UP031 - a third of what an f-string takes


class ReportProgress(Protocol):
    """Tells the caller how far a call is. It costs nothing where the caller did not ask."""

    async def __call__(self, progress: float, total: float | None = None, message: str | None = None) -> None: ...


async def _no_progress(progress: float, total: float | None = None, message: str | None = None) -> None:
    return


class Peer(msgspec.Struct, frozen=True):
    """Who is at the other end of a connection that carries many calls."""

    principal: Principal = ANONYMOUS
    client: str = "-"
    address: str = "-"
    """As in `CallContext`."""
    origin: Origin = NOWHERE
    """What the connection says; its messages may say more of themselves."""


# One is made for every call: a frozen dataclass would cost ten times as much.
class CallContext(msgspec.Struct, frozen=True):
    """Who calls, by which face. A tool that wants it declares a parameter of this type."""

    request_id: str
    face: Face
    principal: Principal = ANONYMOUS
    """Who it is, as the gateway has verified it."""
    client: str = "-"
    """The program that it says it is, by `clientInfo` or `User-Agent`; `-` where it says nothing."""
    address: str = "-"
    """The IP address that it calls from, as far as our own proxies tell; `-` where there is none."""
    origin: Origin = NOWHERE
    """The trace and the conversation that it is a part of, as its caller says."""
    report_progress: ReportProgress = _no_progress
    gone: Callable[[], Awaitable[None]] | None = None
    """Returns when the caller has gone, which cancels the call; None where the face sees to that itself."""
    session: Any = None
    """The MCP SDK's request context, on the faces that speak MCP; for servers that are themselves protocol fixtures."""

    @property
    def caller(self) -> str:
        """Whose share of what there is a call takes: before it is known who calls, its address is all that tells."""
        return self.address if self.principal.id == ANONYMOUS.id else f"principal {self.principal.id}"
