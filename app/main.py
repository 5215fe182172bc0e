"""The ASGI application: opens the servers and mounts every face."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from fastapi import FastAPI
from pydantic_settings import BaseSettings
from starlette.types import ASGIApp, Receive, Scope, Send

from app.catalogue import load_servers
from app.client_configs import LaunchedByClients
from app.faces.batch import add_batch_route
from app.faces.console.routes import console_routes
from app.faces.holding import Holding
from app.faces.identity import Identity
from app.faces.metrics import MetricsPage
from app.faces.openapi import document
from app.faces.perimeter import Perimeter
from app.faces.proxies import Proxies
from app.faces.rest import (
    FastLane,
    add_rest_routes,
    free_paths,
    list_servers,
    show_server,
    speak_problem_json,
    tool_endpoints,
)
from app.faces.streamable_http import StreamableHTTP, mcp_route
from app.faces.websocket import WebSocketFace
from app.gateway import Gateway
from app.guard.guard import Guard
from app.routers.health import health_router
from app.servers.base import ServerKind
from app.settings import Settings
from app.telemetry.activity import Activity
from app.telemetry.recorder import Tracing
from app.version import VERSION

_ABOUT = """
Every tool is one route: `POST /mcp/<server>/tools/<tool>` with its arguments as the JSON body.
The same tools are reachable as MCP (Streamable HTTP at `/mcp/<server>` and `/mcp`, WebSocket at
`/mcp/<server>/ws`) with the same schemas, checks and errors.
"""


class GatewayApp(FastAPI):
    """FastAPI, which documents everything, behind the perimeter and the lane of the tool calls."""

    front: ASGIApp
    """What answers requests; the application itself only adds the lifespan to it, at the cost of a coroutine."""

    def put_in_front(self, app: ASGIApp, settings: Settings, identity: Identity | None = None) -> None:
        """Let an application see every request first; what it does not answer it hands to `documented`."""
        proxied = settings.root_path or settings.trusted_proxies
        # Where callers are told to come, they may come.
        own = [identity.public_origin] if identity is not None and identity.public_origin is not None else []
        self.front = Perimeter(
            app,
            allowed_hosts=[*settings.allowed_hosts, *(origin.partition("://")[2] for origin in own)],
            allowed_origins=[*settings.allowed_origins, *own],
            proxies=Proxies(settings.trusted_proxies, settings.root_path) if proxied else None,
            identity=identity,
        )

    async def documented(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer by FastAPI's own routes; HEAD wherever they have GET, whose answer's body the server leaves out."""
        scope = {**scope, "path": scope.get("root_path", "") + scope["path"]}  # Starlette wants the whole of it
        if scope.get("method") == "HEAD":
            scope["method"] = "GET"
            scope["state"]["head"] = True
        holding = scope["state"]["holding"] = Holding(self.state.gateway)
        try:
            await super().__call__(scope, receive, send)
        finally:
            holding.release()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
        else:
            await self.front(scope, receive, send)


def create_app(
    servers: Sequence[ServerKind] | None = None,
    settings: Settings | None = None,
    service_settings: Sequence[BaseSettings] = (),
    *,
    root_server: str | None = None,
    launched: LaunchedByClients | None = None,
    guard: Guard | None = None,
    identity: Identity | None = None,
    tracing: Tracing | None = None,
) -> GatewayApp:
    """Return the gateway as one ASGI application.

    Args:
        servers: what is offered; all of the catalogue if left out.
        settings: of the process; read from the environment if left out.
        service_settings: in place of what single servers would read from the environment.
        root_server: the server whose WebSocket also answers at `/`, where it has the process to itself.
        launched: what the console tells clients that launch a process of their own.
        guard: says who may do what; without one everybody may do everything.
        identity: who may call; everybody if left out.
        tracing: makes a span of each call.
    """
    settings = settings or Settings()
    kinds = load_servers() if servers is None else servers
    activity = Activity([kind.server_id for kind in kinds], lambda: gateway.late)
    gateway = Gateway(kinds, settings, [activity], guard, tracing)
    endpoints = tool_endpoints(gateway)
    mcp = {"/mcp": StreamableHTTP(gateway, None, partial(list_servers, gateway))}
    for server_id in gateway.catalogue.servers:
        mcp[f"/mcp/{server_id}"] = StreamableHTTP(gateway, server_id, partial(show_server, gateway, server_id))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        async with gateway.open(service_settings), AsyncExitStack() as stack:
            if identity is not None:
                await stack.enter_async_context(identity.open())
            for endpoint in mcp.values():
                await stack.enter_async_context(endpoint.run())
            yield

    app = GatewayApp(
        title="Switchboard",
        version=VERSION,
        description=_ABOUT,
        openapi_tags=[
            *(
                {"name": kind.server_id, "description": kind.description.partition("\n\n")[0]}
                for kind in gateway.catalogue.servers.values()
            ),
            {"name": "servers", "description": "What there is: servers, their tools and their resources."},
            {"name": "batch", "description": "Many calls for one round trip."},
            {"name": "health", "description": "Whether the process lives, and which backends answer."},
        ],
        lifespan=lifespan,
        redirect_slashes=False,
        openapi_url=None,  # `document` shows what the caller may see
        docs_url=None,  # `Console` has pages that load nothing from elsewhere
        redoc_url=None,
    )
    app.state.gateway = gateway
    app.state.activity = activity
    speak_problem_json(app)
    app.include_router(
        health_router(lambda: gateway.servers, gateway.turned_off, lambda: gateway.stopping, VERSION, identity)
    )
    add_rest_routes(app.router, gateway, endpoints)
    add_batch_route(app.router, gateway)
    protocol = {name: mcp[f"/mcp/{name}"] for name in gateway.catalogue.servers}
    app.router.routes.extend(mcp_route(path, endpoint) for path, endpoint in mcp.items())
    app.router.routes.extend(mcp_route(f"/mcp/mcp_{name}", endpoint) for name, endpoint in protocol.items())
    app.router.routes.extend(console_routes(gateway, activity, identity, launched, protocol))
    app.router.routes.append(MetricsPage([(gateway, activity)]).route())
    app.router.routes.extend(WebSocketFace(gateway, root_server=root_server).routes())
    document(app, gateway, identity)
    front = FastLane(app.documented, endpoints={**endpoints, **mcp}, free_paths=free_paths(gateway))
    app.put_in_front(front, settings, identity)
    return app


def create_metrics_app(apps: Sequence[FastAPI], settings: Settings) -> GatewayApp:
    """Return an application that serves nothing but `/metrics`, to all who reach it.

    Args:
        apps: what `create_app` has made, whose metrics are shown together.
        settings: of the process.
    """
    app = GatewayApp(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.gateway = Gateway((), settings)  # what the process asks of each application that it serves
    speak_problem_json(app, served="GET /metrics is all that is answered here.")
    shown = [(each.state.gateway, each.state.activity) for each in apps]
    app.router.routes.append(MetricsPage(shown, open_to_all=True).route())
    app.put_in_front(app.documented, settings)
    return app
