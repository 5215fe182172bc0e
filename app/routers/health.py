"""`/health` says that the process lives, `/ready` which backends answer."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from app.errors import BackendTimeout, GatewayError
from app.servers import BaseMCPServer

_PING_WITHIN = 2.0


class Health(BaseModel):
    """The process runs."""

    status: Literal["ok"] = "ok"
    version: str


class ServerReadiness(BaseModel):
    """One server's backend."""

    ready: bool
    code: str | None = Field(default=None, description="The failure's code, if it does not answer.")
    detail: str | None = Field(default=None, description="What is wrong and what to do.")


class Readiness(BaseModel):
    """The backends of all servers. One that is down takes no other down, so this is a report, not a gate."""

    status: Literal["ready", "degraded"]
    servers: dict[str, ServerReadiness]


def health_router(servers: Callable[[], Mapping[str, BaseMCPServer]], version: str) -> APIRouter:
    """Return the routes that probes ask.

    Args:
        servers: returns the open servers.
        version: of the product.
    """
    router = APIRouter(tags=["health"])

    @router.get("/health")
    async def health() -> Health:
        """Tell that the process answers; no backend is asked."""
        return Health(version=version)

    @router.get("/ready", responses={503: {"model": Readiness, "description": "No backend answers."}})
    async def ready(response: Response) -> Readiness:
        """Ask every backend, each for at most two seconds. 503 only if none answers."""
        opened = servers()
        states = dict(zip(opened, await asyncio.gather(*map(_ask, opened.values())), strict=True))
        if states and not any(state.ready for state in states.values()):
            response.status_code = 503
        all_ready = all(state.ready for state in states.values())
        return Readiness(status="ready" if all_ready else "degraded", servers=states)

    return router


async def _ask(server: BaseMCPServer) -> ServerReadiness:
    try:
        async with asyncio.timeout(_PING_WITHIN):
            await server.ping()
    except TimeoutError:
        return ServerReadiness(ready=False, code=BackendTimeout.code, detail=f"No answer within {_PING_WITHIN:g} s.")
    except GatewayError as error:
        return ServerReadiness(ready=False, code=error.code, detail=error.detail)
    return ServerReadiness(ready=True)
