"""Whether a server could work now: what `/ready`, the log and `switchboard doctor` say of it."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, Field

from app.errors import BackendNotConfigured, BackendTimeout, GatewayError, InternalError
from app.servers.base import BaseMCPServer

_log = logging.getLogger(__name__)
_PING_WITHIN = 2.0


class ToolOff(BaseModel):
    """Why a tool can't work now, or not in full."""

    code: str = Field(description="The failure's code; with that of a tool that is off, calls are answered.")
    detail: str = Field(description="What is wrong and what to do.")


class ServerReadiness(BaseModel):
    """One server's backend."""

    ready: bool = Field(description="Each tool of the server could work now.")
    code: str | None = Field(default=None, description="The failure's code, if it does not answer.")
    detail: str | None = Field(default=None, description="What is wrong and what to do.")
    missing: str | None = Field(default=None, description="The variable that is not set, where that is the matter.")
    tools_off: dict[str, ToolOff] | None = Field(
        default=None, description="The tools that can't work, each with the reason."
    )
    tools_limited: dict[str, ToolOff] | None = Field(
        default=None, description="The tools that work in part, each with what is missing."
    )

    @property
    def answers(self) -> bool:
        """Whether the backend answers, though perhaps not for all tools."""
        return bool(self.ready or self.tools_off or self.tools_limited)

    @property
    def state(self) -> str:
        """The state in one word, as `Standing` has it."""
        if self.ready:
            return "ready"
        if self.answers:
            return "degraded"
        return "unconfigured" if self.code == BackendNotConfigured.code else "down"

    def in_words(self) -> str:
        """Return the state in a few words, for a line of the log."""
        if self.ready:
            return "ready"
        if self.missing is not None:
            return f"not configured: {self.missing}"
        if self.answers:
            kinds = ("ready but for", self.tools_off), ("limited in", self.tools_limited)
            return ", ".join(f"{words} {_with_reasons(tools)}" for words, tools in kinds if tools)
        reason = (self.detail or "").partition(";")[0]
        return f"not {'configured' if self.code == BackendNotConfigured.code else 'ready'}: {reason}"


def _with_reasons(tools: Mapping[str, ToolOff]) -> str:
    return ", ".join(f"{name} ({why.detail.partition(';')[0]})" for name, why in tools.items())


@dataclass(frozen=True, slots=True)
class Standing:
    """How a server stands, and since when."""

    readiness: ServerReadiness
    state: str
    """`ready`, `degraded` (some tools are off or limited), `down` or `unconfigured`."""
    since: float
    """Since when, in seconds since 1970, as far as somebody has asked."""


class Standings:
    """How the servers of a gateway stand, by what was said of them last."""

    def __init__(self) -> None:
        self._known: dict[str, Standing] = {}

    def note(self, readiness: Mapping[str, ServerReadiness], now: float) -> None:
        """Take what some servers' backends have said, at a time in seconds since 1970."""
        for server, said in readiness.items():
            before = self._known.get(server)
            since = before.since if before is not None and before.state == said.state else now
            self._known[server] = Standing(said, said.state, since)

    def of(self, server: str) -> Standing | None:
        """Return how a server stands; None before anybody has asked."""
        return self._known.get(server)


async def _ask(server: BaseMCPServer, turned_off: Mapping[str, GatewayError]) -> ServerReadiness:
    try:
        async with asyncio.timeout(_PING_WITHIN):
            off = {**(await server.ping() or {}), **turned_off}
    except TimeoutError:
        return ServerReadiness(ready=False, code=BackendTimeout.code, detail=f"No answer within {_PING_WITHIN:g} s.")
    except GatewayError as error:
        missing = error.missing or None if isinstance(error, BackendNotConfigured) else None
        return ServerReadiness(ready=False, code=error.code, detail=error.detail, missing=missing)
    if not off:
        return ServerReadiness(ready=True)
    reasons = {tool: ToolOff(code=error.code, detail=error.detail) for tool, error in off.items()}
    limited = {tool: reason for tool, reason in reasons.items() if off[tool].in_part}
    whole = {tool: reason for tool, reason in reasons.items() if tool not in limited}
    kinds = ("Off", whole), ("Limited", limited)
    return ServerReadiness(
        ready=False,
        detail=" ".join(f"{kind}: {', '.join(tools)}." for kind, tools in kinds if tools),
        tools_off=whole or None,
        tools_limited=limited or None,
    )


async def readiness_of_all(
    servers: Mapping[str, BaseMCPServer], turned_off: Callable[[str], Mapping[str, GatewayError]]
) -> dict[str, ServerReadiness]:
    """Ask all backends at the same time, each for at most two seconds.

    Args:
        servers: by name.
        turned_off: returns the tools of a server that are off or limited whatever its backend says, with the reasons.
    """
    asked = (_ask(server, turned_off(name)) for name, server in servers.items())
    answers = await asyncio.gather(*asked, return_exceptions=True)
    return {name: _state(name, answer) for name, answer in zip(servers, answers, strict=True)}


def _state(server_id: str, answer: ServerReadiness | BaseException) -> ServerReadiness:
    """Return a server's answer, or what to say of a mistake in its `ping`, which is no reason to hide the others."""
    if isinstance(answer, ServerReadiness):
        return answer
    _log.error("server %s: unforeseen failure of its ping", server_id, exc_info=answer)
    return ServerReadiness(ready=False, code=InternalError.code, detail="Its ping failed; the log says how.")
