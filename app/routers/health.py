"""`/health` says that the process lives, `/ready` which backends answer."""

from collections.abc import Callable, Mapping
from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from app.errors import GatewayError
from app.servers.base import BaseMCPServer
from app.servers.readiness import ServerReadiness, readiness_of_all


class Health(BaseModel):
    """The process runs."""

    status: Literal["ok"] = "ok"
    version: str


class Readiness(BaseModel):
    """The backends of all servers. One that is down takes no other down, so this is a report, not a gate."""

    status: Literal["ready", "degraded", "stopping"]
    servers: dict[str, ServerReadiness]


def health_router(
    servers: Callable[[], Mapping[str, BaseMCPServer]],
    turned_off: Callable[[str], Mapping[str, GatewayError]],
    is_stopping: Callable[[], bool],
    version: str,
) -> APIRouter:
    """Return the routes that probes ask.

    Args:
        servers: returns the open servers.
        turned_off: returns the tools of a server that a rule has turned off, with the reasons.
        is_stopping: tells whether the process was told to stop.
        version: of the product.
    """
    router = APIRouter(tags=["health"])

    @router.get("/health")
    async def health() -> Health:
        """Tell that the process answers; no backend is asked."""
        return Health(version=version)

    @router.get(
        "/ready",
        response_model=Readiness,
        responses={503: {"model": Readiness, "description": "No backend answers, or the gateway stops."}},
    )
    async def ready(request: Request, response: Response) -> Readiness | JSONResponse:
        """Ask every backend, each for at most two seconds. 503 if no tool of any server could work, or we stop.

        Where keys are asked for, those without one are told the status alone.
        """
        readiness, status_code = await _readiness()
        if request.scope["state"].get("one_word"):
            return JSONResponse({"status": readiness.status}, status_code)
        response.status_code = status_code
        return readiness

    async def _readiness() -> tuple[Readiness, int]:
        if is_stopping():
            return Readiness(status="stopping", servers={}), 503
        states = await readiness_of_all(servers(), turned_off)
        none_works = states and not any(state.ready or state.tools_off for state in states.values())
        all_ready = all(state.ready for state in states.values())
        return Readiness(status="ready" if all_ready else "degraded", servers=states), 503 if none_works else 200

    return router
