"""How FastAPI documents what applications of our own answer: routes, bodies, failures."""

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any
from weakref import WeakKeyDictionary

from fastapi import Body, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel, JsonValue
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from app.catalogue import Catalogue, Offer
from app.errors import (
    ArgumentRefused,
    GatewayError,
    IdentityUnavailable,
    InsufficientScope,
    InvalidArguments,
    NotConfined,
    Problem,
    RateLimited,
    Unauthenticated,
)
from app.faces.http import JSON, PROBLEM_JSON, call_context
from app.faces.identity import ONE_WORD, OPEN, Identity
from app.gateway import Gateway
from app.servers.calls import JsonObject
from app.servers.tools import Tool

_OF_GUARD = (Unauthenticated, InsufficientScope, ArgumentRefused, NotConfined, RateLimited, IdentityUnavailable)
"""What any call may be answered where callers are told apart."""


async def documented_by_others() -> None:
    """Stands where FastAPI wants a function; the route's own application answers."""


def takes(body: type[BaseModel]) -> Callable[..., Any]:
    """Return a function whose body parameter FastAPI documents."""

    async def endpoint(body: Any) -> None: ...

    endpoint.__annotations__["body"] = Annotated[body, Body()]
    return endpoint


def answered_by(asgi: ASGIApp, tool: Offer[Tool] | None = None) -> type[APIRoute]:
    """Return a route that FastAPI documents and `asgi` answers. `handle` stays: it checks the method.

    Args:
        asgi: answers.
        tool: whoever may not see it sees no documentation of the route.
    """

    class GatewayRoute(APIRoute):
        documents = tool

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.app = asgi
            # A line break is a character like any other in what a path names.
            self.path_regex = re.compile(self.path_regex.pattern, re.DOTALL)

    return GatewayRoute


def operation_id(offer: Offer[Tool]) -> str:
    """Return what OpenAPI calls a tool."""
    return f"{offer.kind.server_id}_{offer.declared.name}"


def request_body(tool: Tool) -> JsonObject:
    """Document the arguments of a tool."""
    content: JsonObject = {"schema": tool.input_schema}
    if tool.example is not None:
        content["example"] = tool.example
    return {"required": True, "content": {JSON: content}}


def problem_responses(*errors: type[GatewayError]) -> dict[int | str, dict[str, Any]]:
    """Document failures; several may share a status."""
    schema: JsonValue = {"$ref": "#/components/schemas/Problem"}
    by_status: dict[int, list[type[GatewayError]]] = {}
    for error in dict.fromkeys(errors):
        by_status.setdefault(error.status, []).append(error)
    return {
        status: {
            "description": " or ".join(f"{error.title} (`{error.code}`)" for error in sharing),
            "content": {PROBLEM_JSON: {"schema": schema}},
        }
        for status, sharing in sorted(by_status.items())
    }


def document(app: FastAPI, gateway: Gateway, identity: Identity | None = None) -> None:
    """Add `/openapi.json`: what the caller may see. Every failure is a `Problem` under its own media type.

    Args:
        app: whose routes are documented.
        gateway: says what callers may see.
        identity: says whether callers need a key; they need none if left out.
    """
    documents: WeakKeyDictionary[Catalogue, dict[str, Any]] = WeakKeyDictionary()

    def documented(offered: Catalogue) -> dict[str, Any]:
        if offered not in documents:
            documents[offered] = _document([route for route in app.routes if _is_shown(route, offered)], offered)
        return documents[offered]

    def _document(routes: Sequence[BaseRoute], offered: Catalogue) -> dict[str, Any]:
        kept = gateway.catalogue.servers.keys() - offered.servers.keys()
        tags = [tag for tag in app.openapi_tags or () if tag["name"] not in kept]
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=routes, tags=tags
        )
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        components = schema.setdefault("components", {}).setdefault("schemas", {})
        components.update(problem.pop("$defs", {}))
        components["Problem"] = problem
        for unused in ("HTTPValidationError", "ValidationError"):
            components.pop(unused, None)
        refused = problem_responses(InvalidArguments)[InvalidArguments.status]
        bodies = {operation_id(offer): request_body(offer.declared) for offer in offered.tools()}
        for operations in schema["paths"].values():
            for operation in operations.values():
                if body := bodies.get(operation["operationId"]):
                    operation["requestBody"] = body  # of the tool as the caller sees it
                if "HTTPValidationError" in str(operation["responses"].get("422")):
                    operation["responses"]["422"] = refused
        if identity is not None and identity.keyring is not None:
            _ask_for_keys(schema, optional=identity.anonymous is not None)
        _show_by_example(schema, offered)
        return schema

    async def answer(request: Request) -> JSONResponse:
        schema = await gateway.show(None, "openapi", call_context(request.scope, "rest"), documented)
        root_path = request.scope.get("root_path", "").rstrip("/")
        return JSONResponse({**schema, "servers": [{"url": root_path}]} if root_path else schema)

    app.openapi = lambda: documented(gateway.catalogue)
    app.add_route("/openapi.json", answer, include_in_schema=False)


def _ask_for_keys(schema: dict[str, Any], *, optional: bool) -> None:
    """Document that callers show a key, where they have to or may."""
    schema["components"]["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "A key that `switchboard keys create` has made."}
    }
    key: dict[str, list[str]] = {"key": []}
    schema["security"] = [{}, key] if optional else [key]
    refused = problem_responses(*_OF_GUARD)
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            if path in OPEN:
                operation["security"] = []
            else:
                responses = operation["responses"]
                for status, response in refused.items():
                    known = responses.get(str(status))
                    others = f"{known['description']} or " if known is not None else ""
                    responses[str(status)] = {**response, "description": others + response["description"]}
                if path == ONE_WORD:
                    del responses[str(InsufficientScope.status)]  # whoever has a key is told
                    operation["security"] = [{}, key]


def _is_shown(route: BaseRoute, offered: Catalogue) -> bool:
    tool: Offer[Tool] | None = getattr(route, "documents", None)
    return tool is None or offered.find_tool(tool.kind.server_id, tool.declared.name) is not None


def _show_by_example(schema: dict[str, Any], offered: Catalogue) -> None:
    """Put examples where any server, tool or resource may stand: of what the caller may use, and of nothing else."""
    calls = [
        {"server": offer.kind.server_id, "tool": offer.declared.name, "arguments": offer.declared.example}
        for offer in offered.tools()
        if offer.declared.read_only and offer.declared.example is not None
    ]
    whole = (offer for offer in offered.resources() if "{" not in offer.declared.template.partition("{?")[0])
    resource = next(whole, None)
    server = resource.kind.server_id if resource else next(iter(offered.servers), None)
    examples = {"server": server, "uri": resource.declared.template.partition("{?")[0] if resource else None}
    for operations in schema["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()) if "servers" in operation.get("tags", ()) else ():
                if (example := examples.get(parameter["name"])) is not None:
                    parameter["schema"]["examples"] = [example]
    if calls and (batch := schema["components"]["schemas"].get("BatchRequest")):
        batch["properties"]["calls"]["examples"] = [calls[:2]]
