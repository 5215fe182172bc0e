"""What a viewer can try: tools, resources and prompts, and calls of them as the viewer."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send

from app.catalogue import Catalogue, Offer
from app.faces.console.door import UNKEPT, Viewer, send_json
from app.faces.http import call_context, send_bytes
from app.faces.rest import ToolEndpoint
from app.gateway import Gateway
from app.guard.principal import Principal
from app.servers.resources import Resource
from app.servers.tools import Tool


class Tools:
    """Lists what a viewer may use, and calls it as the viewer: under the same rules, limits and log as all calls.

    Args:
        gateway: where calls go.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def show(self, scope: Scope, receive: Receive, send: Send, viewer: Viewer) -> None:
        """Answer with all that the viewer may use."""

        def describe(offered: Catalogue) -> dict[str, list[dict[str, Any]]]:
            return {
                "tools": [self._tool(offer, viewer.principal) for offer in offered.tools()],
                "resources": [self._resource(offer, viewer.principal) for offer in offered.resources()],
            }

        listing = await self._gateway.show(None, "console/tools", call_context(scope, "rest"), describe)
        await send_json(scope, send, listing)

    async def call(self, scope: Scope, receive: Receive, send: Send, viewer: Viewer) -> None:
        """Answer as the tool's own address does."""
        parameters = scope["path_params"]
        await ToolEndpoint(self._gateway, parameters["server"], parameters["tool"])(scope, receive, send)

    async def read(self, scope: Scope, receive: Receive, send: Send, viewer: Viewer) -> None:
        """Answer with a resource's content."""
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("uri", [""])
        media_type, content = await self._gateway.read(None, given[0], call_context(scope, "rest", receive))
        request_id = scope["state"]["request_id"]
        with self._gateway.results.share() as share:
            share.take(len(content))
            # Somebody else may have written it, and it stands at our own origin.
            headers = {**UNKEPT, "content-security-policy": "sandbox"}
            await send_bytes(send, 200, media_type, content, request_id, headers)

    def _tool(self, offer: Offer[Tool], principal: Principal) -> dict[str, Any]:
        tool = offer.declared
        return {
            "server": offer.kind.server_id,
            "name": tool.name,
            "title": tool.title,
            "description": tool.description,
            "read_only": tool.read_only,
            "destructive": tool.destructive and not tool.read_only,
            "input_schema": tool.input_schema,
            "example": tool.example,
            "policy": self._granted(offer.kind.server_id, offer.name, principal),
        }

    def _resource(self, offer: Offer[Resource], principal: Principal) -> dict[str, Any]:
        resource = offer.declared
        return {
            "server": offer.kind.server_id,
            "uri": resource.uri,
            "template": resource.template,
            "name": resource.name,
            "title": resource.title,
            "description": resource.description,
            "mime_type": resource.mime_type,
            "policy": self._granted(offer.kind.server_id, offer.name, principal),
        }

    def _granted(self, server: str, name: str, principal: Principal) -> str | None:
        """Return what allows it; None where nobody is asked."""
        guard = self._gateway.guard
        lines: Iterator[str] = iter(()) if guard is None else guard.explain(principal, server, name)
        return "; ".join(line.strip() for line in lines) or None
