"""`/health` says that the process lives, `/ready` which backends answer."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from app.errors import BackendTimeout, GatewayError, InternalError
from app.servers.base import BaseMCPServer

_log = logging.getLogger(__name__)
_PING_WITHIN = 2.0


class Health(BaseModel):
    """The process runs."""

    status: Literal["ok"] = "ok"
    version: str


class ToolOff(BaseModel):
    """A tool that could not work now."""

    code: str = Field(description="The code of the failure that a call would be answered with.")
    detail: str = Field(description="What is wrong and what to do.")


class ServerReadiness(BaseModel):
    """One server's backend."""

    ready: bool = Field(description="Each tool of the server could work now.")
    code: str | None = Field(default=None, description="The failure's code, if it does not answer.")
    detail: str | None = Field(default=None, description="What is wrong and what to do.")
    tools_off: dict[str, ToolOff] | None = Field(
        default=None, description="The tools that could not work, where others could, each with the reason."
    )


class Readiness(BaseModel):
    """The backends of all servers. One that is down takes no other down, so this is a report, not a gate."""

    status: Literal["ready", "degraded", "stopping"]
    servers: dict[str, ServerReadiness]


def health_router(
    servers: Callable[[], Mapping[str, BaseMCPServer]], is_stopping: Callable[[], bool], version: str
) -> APIRouter:
    """Return the routes that probes ask.

    Args:
        servers: returns the open servers.
        is_stopping: tells whether the process was told to stop.
        version: of the product.
    """
    router = APIRouter(tags=["health"])

    @router.get("/health")
    async def health() -> Health:
        """Tell that the process answers; no backend is asked."""
        return Health(version=version)

    @router.get(
        "/ready", responses={503: {"model": Readiness, "description": "No backend answers, or the gateway stops."}}
    )
    async def ready(response: Response) -> Readiness:
        """Ask every backend, each for at most two seconds. 503 if no tool of any server could work, or we stop."""
        if is_stopping():
            response.status_code = 503
            return Readiness(status="stopping", servers={})
        opened = servers()
        answers = await asyncio.gather(*map(_ask, opened.values()), return_exceptions=True)
        states = {name: _state(name, answer) for name, answer in zip(opened, answers, strict=True)}
        if states and not any(state.ready or state.tools_off for state in states.values()):
            response.status_code = 503
        all_ready = all(state.ready for state in states.values())
        return Readiness(status="ready" if all_ready else "degraded", servers=states)

    return router


def _state(server_id: str, answer: ServerReadiness | BaseException) -> ServerReadiness:
    """Return a server's answer, or what to say of a mistake in its `ping`, which is no reason to hide the others."""
    if isinstance(answer, ServerReadiness):
        return answer
    _log.error("server %s: unforeseen failure of its ping", server_id, exc_info=answer)
    return ServerReadiness(ready=False, code=InternalError.code, detail="Its ping failed; the log says how.")


async def _ask(server: BaseMCPServer) -> ServerReadiness:
    try:
        async with asyncio.timeout(_PING_WITHIN):
            off = await server.ping() or {}
    except TimeoutError:
        return ServerReadiness(ready=False, code=BackendTimeout.code, detail=f"No answer within {_PING_WITHIN:g} s.")
    except GatewayError as error:
        return ServerReadiness(ready=False, code=error.code, detail=error.detail)
    if not off:
        return ServerReadiness(ready=True)
    names = ", ".join(off)
    return ServerReadiness(
        ready=False,
        detail=f"Some tools could not work: {names}.",
        tools_off={tool: ToolOff(code=error.code, detail=error.detail) for tool, error in off.items()},
    )
