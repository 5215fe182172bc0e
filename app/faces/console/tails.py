"""Streams of events that servers have, such as a topic's live tail, for a page: the same streams, as the viewer."""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial

import anyio
from starlette.types import Receive, Scope, Send

from app.faces.console.door import Answer, Viewer
from app.faces.rest import RouteEndpoint
from app.gateway import Gateway
from app.guard.sessions import Sessions

_BELOW = "/console/streams"


class Tails:
    """Answers with the streams of the servers' own routes: under the same rules, limits and log as these.

    Args:
        gateway: whose servers they are of.
        sessions: of browsers; their streams end with them.
    """

    def __init__(self, gateway: Gateway, sessions: Sessions | None) -> None:
        self._gateway = gateway
        self._sessions = sessions

    def addresses(self) -> Iterator[tuple[str, Answer]]:
        """Iterate over the paths of the streams that have no end, and what answers there."""
        for kind, route in self._gateway.catalogue.routes():
            if route.endless and "GET" in route.methods:
                below = f"{_BELOW}/{kind.server_id}"
                endpoint = RouteEndpoint(self._gateway, kind.server_id, route, below)
                yield f"{below}{route.path}", partial(self._follow, endpoint)

    async def _follow(
        self, endpoint: RouteEndpoint, scope: Scope, receive: Receive, send: Send, viewer: Viewer
    ) -> None:
        session = viewer.session
        with anyio.CancelScope() as lasting:
            until = (
                nullcontext()
                if session is None or self._sessions is None
                else self._sessions.holding(session, lambda _: lasting.cancel())
            )
            with until:
                await endpoint(scope, receive, send)
