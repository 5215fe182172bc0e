"""How servers, tools and resources are described: the words of MCP, on every face the same."""

from app.servers.base import ServerKind
from app.servers.calls import JsonObject
from app.servers.declaring import Resource, Tool


def describe_tool(tool: Tool) -> JsonObject:
    """Return a tool as MCP's `tools/list` shows it."""
    described: JsonObject = {
        "name": tool.name,
        "title": tool.title,
        "description": tool.description,
        "inputSchema": tool.input_schema,
    }
    if tool.output_schema is not None:
        described["outputSchema"] = tool.output_schema
    described["annotations"] = {
        "title": tool.title,
        "readOnlyHint": tool.read_only,
        "destructiveHint": tool.destructive and not tool.read_only,
        "idempotentHint": tool.idempotent or tool.read_only,
        "openWorldHint": tool.open_world,
    }
    return described


def describe_resources(kind: ServerKind) -> tuple[list[JsonObject], list[JsonObject]]:
    """Return a server's resources and its resource templates as MCP lists them."""
    resources: list[JsonObject] = []
    templates: list[JsonObject] = []
    for resource in kind.resources.values():
        if resource.uri is not None:
            resources.append({"uri": resource.uri, **_described(resource)})
        if resource.uri != resource.template:
            templates.append({"uriTemplate": resource.template, **_described(resource)})
    return resources, templates


def describe_server(kind: ServerKind, root_path: str = "") -> JsonObject:
    """Return a server as `GET /mcp` shows it.

    Args:
        kind: the server.
        root_path: what callers have to put before our paths.
    """
    resources, templates = describe_resources(kind)
    path = f"{root_path}/mcp/{kind.server_id}"
    return {
        "id": kind.server_id,
        "client_id": f"mcp_{kind.server_id}",
        "name": kind.name,
        "description": kind.description,
        "capabilities": list(kind.capabilities),
        "tools": list(kind.tools),
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
