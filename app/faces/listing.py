"""How servers, tools and resources are described: the words of MCP, on every face the same."""

from collections.abc import Iterable

from app.catalogue import Catalogue, Offer
from app.servers.base import BaseMCPServer
from app.servers.calls import JsonObject
from app.servers.resources import Resource
from app.servers.signatures import title_of
from app.servers.tools import Tool


def describe_tool(tool: Tool, *, output_schema: bool = True) -> JsonObject:
    """Return a tool as MCP's `tools/list` shows it.

    Every conversation carries it, so what says no more than the name, or than the specification assumes, is left out.

    Args:
        tool: what is described.
        output_schema: tell what the result looks like, if that is known.
    """
    described: JsonObject = {
        "name": tool.name,
        "title": tool.title,
        "description": tool.description,
        "inputSchema": tool.input_schema,
    }
    if tool.title == title_of(tool.name):
        del described["title"]
    if output_schema and tool.output_schema is not None:
        described["outputSchema"] = tool.output_schema
    annotations: JsonObject = {}
    if tool.read_only:
        annotations["readOnlyHint"] = True
    else:
        if not tool.destructive:
            annotations["destructiveHint"] = False
        if tool.idempotent:
            annotations["idempotentHint"] = True
    if not tool.open_world:
        annotations["openWorldHint"] = False
    if annotations:
        described["annotations"] = annotations
    return described


def describe_resources(offers: Iterable[Offer[Resource]]) -> tuple[list[JsonObject], list[JsonObject]]:
    """Return resources and resource templates as MCP lists them."""
    resources: list[JsonObject] = []
    templates: list[JsonObject] = []
    for resource in (offer.declared for offer in offers):
        if resource.uri is not None:
            resources.append({"uri": resource.uri, **_described(resource)})
        if resource.uri != resource.template:
            templates.append({"uriTemplate": resource.template, **_described(resource)})
    return resources, templates


def describe_server(
    catalogue: Catalogue, server: str, root_path: str = "", opened: BaseMCPServer | None = None
) -> JsonObject:
    """Return a server as `GET /mcp` shows it.

    Args:
        catalogue: what is offered.
        server: the server's name.
        root_path: what callers have to put before our paths.
        opened: the server itself, which knows whether it is configured.
    """
    kind = catalogue.server(server)
    missing = opened.unconfigured() if opened else None
    resources, templates = describe_resources(catalogue.resources(server))
    path = f"{root_path}/mcp/{kind.server_id}"
    return {
        "id": kind.server_id,
        "client_id": f"mcp_{kind.server_id}",
        "name": kind.name,
        "description": kind.description,
        "configured": missing is None,
        **({"reason": missing.detail} if missing else {}),
        "capabilities": list(kind.capabilities),
        "tools": [offer.declared.name for offer in catalogue.tools(server)],
        "resources": [resource["uri"] for resource in resources],
        "resource_templates": [template["uriTemplate"] for template in templates],
        "mcp": path,
        "websocket": f"{path}/ws",
        "rest": f"{path}/tools/{{tool}}",
    }


def _described(resource: Resource) -> JsonObject:
    return {
        "name": resource.name,
        "title": resource.title,
        "description": resource.description,
        "mimeType": resource.mime_type,
    }
