"""How FastAPI documents what applications of our own answer: routes, bodies, failures."""

import re
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Body, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel, JsonValue
from starlette.types import ASGIApp

from app.errors import GatewayError, InvalidArguments, Problem
from app.faces.http import PROBLEM_JSON


async def documented_by_others() -> None:
    """Stands where FastAPI wants a function; the route's own application answers."""


def takes(body: type[BaseModel]) -> Callable[..., Any]:
    """Return a function whose body parameter FastAPI documents."""

    async def endpoint(body: Any) -> None: ...

    endpoint.__annotations__["body"] = Annotated[body, Body()]
    return endpoint


def answered_by(asgi: ASGIApp) -> type[APIRoute]:
    """Return a route that FastAPI documents and `asgi` answers. `handle` stays: it checks the method."""

    class GatewayRoute(APIRoute):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.app = asgi
            # A line break is a character like any other in what a path names.
            self.path_regex = re.compile(self.path_regex.pattern, re.DOTALL)

    return GatewayRoute


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


def document(app: FastAPI) -> None:
    """Complete the OpenAPI document: every failure is a `Problem` under its own media type."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                tags=app.openapi_tags,
            )
            problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            components = schema.setdefault("components", {}).setdefault("schemas", {})
            components.update(problem.pop("$defs", {}))
            components["Problem"] = problem
            for unused in ("HTTPValidationError", "ValidationError"):
                components.pop(unused, None)
            refused = problem_responses(InvalidArguments)[InvalidArguments.status]
            for operations in schema["paths"].values():
                for operation in operations.values():
                    if "HTTPValidationError" in str(operation["responses"].get("422")):
                        operation["responses"]["422"] = refused
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi
