"""What a viewer can try, tools and resources, and calls of them as the viewer; `prompts.py` has the prompts."""

from collections.abc import Iterator
from typing import Any, TypeVar
from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send

from app.catalogue import Catalogue, Offer
from app.faces.console.door import UNKEPT, Viewer, send_json
from app.faces.http import call_context, send_bytes
from app.faces.rest import ToolEndpoint
from app.gateway import Gateway
from app.guard.guard import Guard
from app.guard.principal import Principal
from app.servers.resources import Resource
from app.servers.tools import Tool

_Offered = TypeVar("_Offered", Tool, Resource)


class Tools:
    """Lists what a viewer may use, and calls it as the viewer: under the same rules, limits and log as all calls.

    Args:
        gateway: where calls go.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def show(self, scope: Scope, receive: Receive, send: Send, viewer: Viewer) -> None:
        """Answer with all that the viewer may use."""

        def describe(offered: Catalogue) -> dict[str, Any]:
            return {
                "tools": [self._tool(offer, viewer.principal) for offer in offered.tools()],
                "resources": [self._resource(offer, viewer.principal) for offer in offered.resources()],
                "prompting": self._prompting(viewer.principal),
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
            **self._about(offer, principal),
            "read_only": tool.read_only,
            "destructive": tool.destructive and not tool.read_only,
            "input_schema": tool.input_schema,
            "example": tool.example,
        }

    def _resource(self, offer: Offer[Resource], principal: Principal) -> dict[str, Any]:
        resource = offer.declared
        return {
            **self._about(offer, principal),
            "uri": resource.uri,
            "template": resource.template,
            "mime_type": resource.mime_type,
        }

    def _about(self, offer: Offer[_Offered], principal: Principal) -> dict[str, Any]:
        server, declared = offer.kind.server_id, offer.declared
        return {
            "server": server,
            "name": declared.name,
            "title": declared.title,
            "description": declared.description,
            "policy": granted(self._gateway.guard, server, offer.name, principal),
        }

    def _prompting(self, principal: Principal) -> list[str]:
        """Return the ids of the servers that have prompts for a principal; which ones, they say themselves."""
        gateway = self._gateway
        return [
            name
            for name, kind in gateway.catalogue.servers.items()
            if "on_list_prompts" in kind.mcp_handlers
            and gateway.is_shown(kind)
            and gateway.shows_prompts(name, principal)
        ]


def granted(guard: Guard | None, server: str, name: str, principal: Principal) -> str | None:
    """Return what allows something of a server; None where nobody is asked."""
    lines: Iterator[str] = iter(()) if guard is None else guard.explain(principal, server, name)
    return "; ".join(line.strip() for line in lines) or None
