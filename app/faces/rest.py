"""REST: `POST /mcp/<server>/tools/<tool>` with the arguments object as the body, and the listings.

FastAPI owns the documentation and everything slow. Tool calls are answered by `FastLane`, a dict in front
of it, so that the cost of a call does not grow with the number of tools; the route that FastAPI knows runs
the very same endpoint.
"""

import asyncio
import re
from collections.abc import Awaitable, Mapping, Sequence
from typing import Annotated, cast
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.admission import StreamAdmission
from app.budget import LARGE
from app.catalogue import Catalogue, Offer
from app.errors import (
    BackendTimeout,
    BackendUnavailable,
    CallerGone,
    CallerStalled,
    GatewayError,
    InternalError,
    InvalidArguments,
    MalformedRequest,
    MethodNotAllowed,
    MisdirectedRequest,
    NotFound,
    OriginRefused,
    RequestTooLarge,
    TooManyRequests,
    UnknownTool,
    UnsupportedMediaType,
)
from app.faces.http import (
    JSON,
    PROBLEM_JSON,
    Naming,
    answer_at_once,
    call_context,
    note_refusal,
    problem_headers,
    receive_json,
    refuse_transfer_codings,
    send_bytes,
    send_problem,
    send_refusal,
    send_result,
    take_json,
)
from app.faces.listing import describe_resources, describe_server, describe_tool
from app.faces.openapi import answered_by, documented_by_others, operation_id, problem_responses, request_body
from app.gateway import Gateway, Respond
from app.results import RememberedJson
from app.servers.calls import JsonObject
from app.servers.routes import HttpRoute
from app.servers.tools import Tool

_EVERY_TOOL_MAY_ANSWER: tuple[type[GatewayError], ...] = (
    MalformedRequest,
    OriginRefused,
    UnknownTool,
    RequestTooLarge,
    UnsupportedMediaType,
    MisdirectedRequest,
    InvalidArguments,
    TooManyRequests,
    InternalError,
    BackendUnavailable,
    BackendTimeout,
)
ServerName = Annotated[str, Path(description="The server's name.")]
_LISTING_MAY_ANSWER: tuple[type[GatewayError], ...] = (NotFound, TooManyRequests, InternalError)
_READING_MAY_ANSWER: tuple[type[GatewayError], ...] = (NotFound, *_EVERY_TOOL_MAY_ANSWER)


class ServerListing(BaseModel):
    """The servers of this gateway."""

    success: bool = True
    servers: list[JsonObject]


class ToolListing(BaseModel):
    """The tools of a server, in the form of MCP's `tools/list`."""

    success: bool = True
    tools: list[JsonObject]


class ResourceListing(BaseModel):
    """The resources of a server, in the form of MCP's `resources/list` and `resources/templates/list`."""

    success: bool = True
    resources: list[JsonObject]
    resourceTemplates: list[JsonObject]  # noqa: N815 - MCP's spelling


class ToolEndpoint:
    """Runs one tool for REST callers, as an ASGI application."""

    def __init__(self, gateway: Gateway, server_id: str, name: str) -> None:
        self._gateway = gateway
        self._server_id = server_id
        self._name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = call_context(scope, "rest", receive)
        try:
            body = take_json(scope, receive, self._gateway)
            if body is None:
                body = await receive_json(scope, receive, self._gateway)
        except CallerGone:
            return
        except GatewayError as error:
            await send_refusal(scope, send, error)
            return
        try:
            result = await self._gateway.call(self._server_id, self._name, body, context)
        except CallerGone:
            return
        except GatewayError as error:
            await send_problem(send, error, context.request_id)
        else:
            is_small, headers = len(result) <= LARGE, None if type(result) is bytes else _age(result)
            if is_small and headers is None and answer_at_once(send, 200, JSON, result, context.request_id):
                return
            if not is_small:
                await send_result(send, self._gateway, result, context.request_id, headers)
            else:
                await send_bytes(send, 200, JSON, result, context.request_id, headers)


def _age(result: bytes) -> dict[str, str] | None:
    """Return the header that says how old a result is that was not made for its caller, as RFC 9111 has it."""
    return {"age": str(int(result.age))} if isinstance(result, RememberedJson) else None


class FastLane:
    """Answers what is posted to the given paths, where tools are called; all else goes on to FastAPI.

    Args:
        app: FastAPI.
        endpoints: applications that answer a POST themselves, under the request's id, by path.
        free_paths: forms of the paths at whose end anything may stand, a slash too. Elsewhere it means nothing.
    """

    def __init__(
        self, app: ASGIApp, *, endpoints: Mapping[str, ASGIApp], free_paths: Sequence[re.Pattern[str]] = ()
    ) -> None:
        self._app = Naming(app)
        self._endpoints = endpoints
        self._free_paths = free_paths

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        path: str = scope["path"]
        if path[-1:] == "/" and not any(form.match(path) for form in self._free_paths):
            scope["path"] = path = path[:-1] or "/"
        endpoint = self._endpoints.get(path)
        if endpoint is not None and scope["type"] == "http" and scope["method"] == "POST":
            return endpoint(scope, receive, send)
        return self._app(scope, receive, send)


class _HeadIsAll(Exception):
    """Ends the body of an answer to HEAD before its first byte is fetched for nobody."""


class RouteEndpoint:
    """Runs a server's plain HTTP route inside `Gateway.stream`, its streaming included.

    Args:
        gateway: what runs it.
        server_id: its server's.
        route: the route.
        below: what stands before its path, if not where the server itself is.
    """

    def __init__(self, gateway: Gateway, server_id: str, route: HttpRoute, below: str | None = None) -> None:
        self._gateway = gateway
        self._server_id = server_id
        self._route = route
        self._below = below or f"/mcp/{server_id}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = call_context(scope, "stream")
        if scope["state"].get("head"):
            scope = {**scope, "method": "HEAD"}
        scope["state"]["streams"] = True  # so that the connection's clock gives its body the time that it takes
        started = False

        async def send_noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        async def carry(stream: StreamAdmission, respond: Respond) -> None:
            await self._carry(stream, respond, scope, receive, send_noted)

        try:
            path = _path_below(self._below, scope)
            await self._gateway.stream(self._server_id, self._route, path, context, carry)
        except CallerGone:
            return
        except GatewayError as error:
            if not started:
                # The rest of a body is not waited for.
                headers = {"connection": "close"} if isinstance(error, CallerStalled) else None
                await send_problem(send, error, context.request_id, headers)
            # Else the status is on the wire: only a broken connection can still say that the body is not whole, and
            # that is what an application gets that returns before the end of its response.

    async def _carry(
        self, stream: StreamAdmission, respond: Respond, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Send a route's response to its end, and note when it waits for its caller.

        Raises:
            CallerGone: the caller left before the end.
            UnsupportedMediaType: the body is in a coding that nobody undoes.
        """
        body_ended = ended = gone = False

        async def receive_watched() -> Message:
            nonlocal body_ended, gone
            if body_ended:  # what comes now is the caller's going away, for which nobody waits in vain
                message = await receive()
                gone = True
                return message
            stream.wait_for_caller()
            message = await receive()
            stream.go_on(len(message.get("body", b"")))
            body_ended = not message.get("more_body")
            return message

        async def send_watched(message: Message) -> None:
            nonlocal ended
            if scope["method"] == "HEAD" and message["type"] == "http.response.body":
                await send({"type": "http.response.body"})
                ended = True
                raise _HeadIsAll
            # What is sent to a caller who has gone is dropped in silence: whoever listens for that has to get a turn.
            await asyncio.sleep(0)
            stream.wait_for_caller()
            await send(message)
            stream.go_on(len(message.get("body", b"")))
            ended = message["type"] == "http.response.body" and not message.get("more_body") and not gone

        refuse_transfer_codings(scope["state"]["headers"])
        try:
            response = await respond(Request(scope, receive_watched))
            answering = response(scope, receive_watched, send_watched)
            await (self._until_closing(answering) if self._route.endless else answering)
        except _HeadIsAll:
            pass
        except ClientDisconnect as error:
            raise CallerGone from error
        if not (ended or self._route.endless):
            # Starlette ends a response in silence when its caller has gone.
            raise CallerGone

    async def _until_closing(self, answering: Awaitable[None]) -> None:
        """Answer until the caller goes or the gateway stops, which would wait for an endless stream in vain."""
        tasks = [asyncio.ensure_future(answering), asyncio.ensure_future(self._gateway.closing.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if not tasks[0].cancelled():
            tasks[0].result()


def _path_below(prefix: str, scope: Scope) -> str:
    """Return what follows a prefix in a request's path as it came over the wire, percent-encoding and all."""
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    return raw.decode("latin-1").partition(prefix)[2]


def tool_endpoints(gateway: Gateway) -> dict[str, ToolEndpoint]:
    """Return the endpoint of every tool by its path."""
    named = ((offer.kind.server_id, offer.declared.name) for offer in gateway.catalogue.tools())
    return {tool_path(server_id, name): ToolEndpoint(gateway, server_id, name) for server_id, name in named}


def free_paths(gateway: Gateway) -> list[re.Pattern[str]]:
    """Return the forms of the routes' paths at whose end anything may stand, such as an object's key."""
    routes = gateway.catalogue.routes()
    return [compile_path(f"/mcp/{kind.server_id}{route.path}")[0] for kind, route in routes if route.takes_any_end]


def tool_path(server_id: str, tool_name: str) -> str:
    """Return where a tool is called."""
    return f"/mcp/{server_id}/tools/{tool_name}"


def add_rest_routes(router: APIRouter, gateway: Gateway, endpoints: Mapping[str, ToolEndpoint]) -> None:
    """Add the documented routes of every server.

    Args:
        router: the application's own. FastAPI wraps the routes of an included router and would not run ours.
        gateway: where calls go.
        endpoints: of the tools, by path.
    """
    for kind in gateway.catalogue.servers.values():
        for offer in gateway.catalogue.tools(kind.server_id):
            _add_tool_route(router, offer, endpoints[tool_path(kind.server_id, offer.declared.name)])
        for route in kind.routes.values():
            tool = gateway.catalogue.tool(kind.server_id, route.acts_as)
            _add_http_route(router, tool, route, RouteEndpoint(gateway, kind.server_id, route))

    @router.get("/mcp/{server}/tools", tags=["servers"], responses=problem_responses(*_LISTING_MAY_ANSWER))
    async def list_tools(server: ServerName, request: Request) -> ToolListing:
        """List a server's tools with their schemas."""
        shown = gateway.settings.mcp_output_schemas

        def describe(offered: Catalogue) -> ToolListing:
            tools = [describe_tool(offer.declared, output_schema=shown) for offer in offered.tools(server)]
            return ToolListing(tools=tools)

        return await gateway.show(server, "tools/list", call_context(request.scope, "rest"), describe)

    @router.get("/mcp/{server}/resources", tags=["servers"], responses=problem_responses(*_LISTING_MAY_ANSWER))
    async def list_resources(server: ServerName, request: Request) -> ResourceListing:
        """List a server's resources and resource templates."""

        def describe(offered: Catalogue) -> ResourceListing:
            resources, templates = describe_resources(offered.resources(server))
            return ResourceListing(resources=resources, resourceTemplates=templates)

        return await gateway.show(server, "resources/list", call_context(request.scope, "rest"), describe)

    @router.get(
        "/mcp/{server}/resources/read",
        tags=["servers"],
        response_class=Response,
        responses={200: {"content": {JSON: {}}}, **problem_responses(*_READING_MAY_ANSWER)},
    )
    async def read_resource(
        server: ServerName,
        uri: Annotated[str, Query(description="The resource's URI.")],
        request: Request,
    ) -> Response:
        """Return a resource's content."""
        context = call_context(request.scope, "rest", request.receive)
        media_type, content = await gateway.read(server, uri, context)
        if len(content) > LARGE:
            request.scope["state"]["holding"].hold(len(content))
        return Response(content, media_type=media_type, headers=_age(content))

    async def other_spelling(scope: Scope, receive: Receive, send: Send) -> None:
        """Serve `mcp_database` for `database`, and name what exists to callers of what does not."""
        parameters = scope["path_params"]
        await ToolEndpoint(gateway, parameters["server"], parameters["tool"])(scope, receive, send)

    router.add_api_route(
        "/mcp/{server}/tools/{tool}",
        documented_by_others,
        methods=["POST"],
        include_in_schema=False,
        route_class_override=answered_by(other_spelling),
    )


async def list_servers(gateway: Gateway, scope: Scope) -> JSONResponse:
    """Return what `GET /mcp` answers to those who don't ask for an event stream."""
    root_path = scope.get("root_path", "")

    def describe(offered: Catalogue) -> ServerListing:
        opened = gateway.servers
        servers = [describe_server(offered, name, root_path, opened.get(name)) for name in offered.servers]
        return ServerListing(servers=servers)

    listing = await gateway.show(None, "servers/list", call_context(scope, "rest"), describe)
    return JSONResponse(listing.model_dump())


async def show_server(gateway: Gateway, server: str, scope: Scope) -> JSONResponse:
    """Return what `GET /mcp/<server>` answers to those who don't ask for an event stream."""
    root_path = scope.get("root_path", "")

    def describe(offered: Catalogue) -> JsonObject:
        return {"success": True, **describe_server(offered, server, root_path, gateway.servers.get(server))}

    return JSONResponse(await gateway.show(server, "servers/read", call_context(scope, "rest"), describe))


def speak_problem_json(
    app: FastAPI, *, served: str = "GET {root}/mcp lists the servers, {root}/docs the routes."
) -> None:
    """Make the failures that Starlette and FastAPI find themselves look like everybody's.

    Args:
        app: the application.
        served: what who asks for another path is told of those that there are; `{root}` stands before our paths.
    """

    async def answer(request: Request, error: Exception) -> Response:
        recorded = isinstance(error, GatewayError)  # by the gateway, whichever call it was
        if isinstance(error, RequestValidationError):
            error = InvalidArguments.from_validation(error.errors(), skip=1)
        headers: Mapping[str, str] = {}
        if isinstance(error, HTTPException):
            headers = error.headers or {}
            error = _from_http_exception(error, request, served)
        if not isinstance(error, GatewayError):
            error = InternalError()
        if not recorded:
            note_refusal(request.scope, error)
        request_id = cast("str | None", request.scope.get("state", {}).get("request_id"))
        content = error.problem(request_id).model_dump_json(exclude_none=True)
        return Response(content, error.status, {**headers, **problem_headers(error)}, media_type=PROBLEM_JSON)

    for kind in (GatewayError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, answer)


def _from_http_exception(error: HTTPException, request: Request, served: str) -> GatewayError:
    if error.status_code == 404:
        scope = request.scope
        root: str = scope.get("app_root_path", scope.get("root_path", ""))  # not the folder of files that lacks it
        return NotFound(f"Nothing is at {scope['path'][:200]}. {served.format(root=root)}")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return MethodNotAllowed(f"{request.method} is not allowed here. Use {allowed}.")
    return MalformedRequest(str(error.detail)) if error.status_code < 500 else InternalError()


def _add_tool_route(router: APIRouter, offer: Offer[Tool], endpoint: ToolEndpoint) -> None:
    server_id, tool = offer.kind.server_id, offer.declared
    responses = problem_responses(*_EVERY_TOOL_MAY_ANSWER, *tool.errors)
    if tool.result is None:
        responses[200] = {"content": {JSON: {"schema": tool.output_schema or {"type": "object"}}}}
    if tool.cache_seconds is not None:
        about = (
            f"Seconds since the result was made, which is remembered for {tool.cache_seconds:g}; absent if it is new."
        )
        responses.setdefault(200, {})["headers"] = {"Age": {"description": about, "schema": {"type": "integer"}}}
    router.add_api_route(
        tool_path(server_id, tool.name),
        documented_by_others,
        methods=["POST"],
        tags=[server_id],
        operation_id=operation_id(offer),
        summary=tool.title,
        description=tool.description,
        response_model=tool.result,
        responses=responses,
        openapi_extra={"requestBody": request_body(tool)},
        route_class_override=answered_by(endpoint, offer),
    )


def _add_http_route(router: APIRouter, tool: Offer[Tool], route: HttpRoute, endpoint: RouteEndpoint) -> None:
    server_id = tool.kind.server_id
    for method in route.methods:
        router.add_api_route(
            f"/mcp/{server_id}{route.path}",
            documented_by_others,
            methods=[method],
            tags=[server_id],
            operation_id=f"{server_id}_{route.name}_{method.lower()}",
            summary=route.name.replace("_", " ").capitalize(),
            description=route.description,
            response_class=Response,
            responses=problem_responses(*_EVERY_TOOL_MAY_ANSWER),
            openapi_extra=dict(route.openapi),
            route_class_override=answered_by(endpoint, tool),
        )
