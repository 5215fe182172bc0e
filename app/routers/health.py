"""`/health` says that the process lives, `/ready` which backends answer."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Literal, Protocol

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from app.errors import GatewayError
from app.servers.base import BaseMCPServer
from app.servers.readiness import ServerReadiness, readiness_of_all


class Health(BaseModel):
    """The process runs."""

    status: Literal["ok"] = "ok"
    version: str


class KeysReadiness(BaseModel):
    """Whether callers can be told apart."""

    ready: bool = Field(description="Keys can be looked up, and one of them is good.")
    code: str | None = Field(default=None, description="The failure's code.")
    detail: str | None = Field(default=None, description="What is wrong and what to do.")


class Identities(Protocol):
    """Knows how it is with the keys."""

    @property
    def asks_for_keys(self) -> bool: ...

    async def objection(self) -> GatewayError | None: ...

    @property
    def lets_somebody_in(self) -> bool: ...


class Readiness(BaseModel):
    """The backends of all servers. One that is down takes no other down, so this is a report, not a gate."""

    status: Literal["ready", "degraded", "stopping"]
    servers: dict[str, ServerReadiness]
    keys: KeysReadiness | None = Field(default=None, description="Where keys are kept, if callers are asked for one.")


def health_router(
    servers: Callable[[], Mapping[str, BaseMCPServer]],
    turned_off: Callable[[str], Mapping[str, GatewayError]],
    is_stopping: Callable[[], bool],
    version: str,
    identity: Identities | None = None,
) -> APIRouter:
    """Return the routes that probes ask.

    Args:
        servers: returns the open servers.
        turned_off: returns the tools of a server that a rule has turned off, with the reasons.
        is_stopping: tells whether the process was told to stop.
        version: of the product.
        identity: who may call; everybody if left out.
    """
    router = APIRouter(tags=["health"])

    @router.get("/health")
    async def health() -> Health:
        """Tell that the process answers; no backend is asked."""
        return Health(version=version)

    @router.get(
        "/ready",
        response_model=Readiness,
        responses={
            503: {"model": Readiness, "description": "No backend answers, nobody is let in, or the gateway stops."}
        },
    )
    async def ready(request: Request, response: Response) -> Readiness | JSONResponse:
        """Ask every backend, and where keys are kept, each for at most two seconds.

        503 if no tool of any server could work, if no caller could be let in, or if we stop.

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
        states, keys = await asyncio.gather(readiness_of_all(servers(), turned_off), _readiness_of_keys())
        none_works = states and not any(state.answers for state in states.values())
        all_ready = all(state.ready for state in states.values())
        if keys is not None and not keys.ready:
            assert identity is not None
            all_ready, none_works = False, none_works or not identity.lets_somebody_in
        readiness = Readiness(status="ready" if all_ready else "degraded", servers=states, keys=keys)
        return readiness, 503 if none_works else 200

    async def _readiness_of_keys() -> KeysReadiness | None:
        if identity is None or not identity.asks_for_keys:
            return None
        objection = await identity.objection()
        if objection is None:
            return KeysReadiness(ready=True)
        return KeysReadiness(ready=False, code=objection.code, detail=objection.detail)

    return router
