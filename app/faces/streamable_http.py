"""MCP over Streamable HTTP, stateless, at `/mcp/<server>` and `/mcp`: both eras on one endpoint."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import CallerGone, GatewayError, MethodNotAllowed
from app.faces.http import JSON, Naming, read_json, replay, run_cancellably, send_bytes, send_problem
from app.faces.jsonrpc import NotAMessage, read_message
from app.faces.plain_calls import PlainCalls
from app.faces.protocol import protocol_server
from app.gateway import Gateway

_CHECKED_BY_THE_PERIMETER = TransportSecuritySettings(enable_dns_rebinding_protection=False)
_WANTS_NOTIFICATIONS = (b'"progressToken"', b'logLevel"', b'"subscriptions/listen"')
"""Words of a body whose answer may be more than one message. Found by accident they cost speed, not correctness."""


class StreamableHTTP:
    """The MCP endpoint of one server or of all, as an ASGI application.

    A request that can't be sent notifications is answered in plain JSON, at a half to a quarter of an event
    stream's cost, and is cancelled when its caller goes away. Clients of 2025 may not expect the latter: the
    specification says SHOULD NOT, but on a stateless connection nobody could ever collect the result.

    Args:
        gateway: where calls go.
        server: the server's name; None for all servers.
        listing: returns the answer to a GET that does not ask for an event stream, given what stands before our paths.
    """

    def __init__(self, gateway: Gateway, server: str | None, listing: Callable[[str], Response]) -> None:
        self._gateway = gateway
        self._listing = listing
        self._server = protocol_server(gateway, server, "mcp")
        # Clients of 2025 ask for log messages by another request, so any later one may be sent some.
        self._may_log = self._server.get_request_handler("logging/setLevel") is not None
        tools = [] if self._may_log else [tool for kind in gateway.kinds_of(server) for tool in kind.tools.values()]
        self._plain_calls = PlainCalls(gateway, server, tools, self._server.server_info_stamp)
        self._json: ASGIApp | None = None
        self._events: ASGIApp | None = None

    @asynccontextmanager
    async def run(self) -> AsyncGenerator[None]:
        """Serve for as long as the context is open. A session manager lives once, so each run makes its own."""
        async with AsyncExitStack() as stack:
            self._json = await stack.enter_async_context(self._transport(json_response=True))
            self._events = await stack.enter_async_context(self._transport(json_response=False))
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = scope["state"]["request_id"]
        # The HTTP parser leaves white space behind values, and the SDK compares them with the body's.
        scope["headers"] = [(name, value.strip()) for name, value in scope["headers"]]
        if scope["method"] in ("GET", "HEAD") and not _accepts_events(scope):
            await self._listing(scope.get("root_path", ""))(scope, receive, send)
            return
        if scope["method"] != "POST":
            refusal = MethodNotAllowed("This MCP endpoint is stateless: it takes POST, and GET for the JSON listing.")
            await send_problem(send, refusal, request_id, {"allow": "POST, GET"})
            return
        assert self._json is not None
        assert self._events is not None
        try:
            body = await read_json(scope, receive, self._gateway.settings.max_request_bytes, stated=True)
        except CallerGone:
            return
        except GatewayError as error:
            await send_problem(send, error, request_id)
            return
        if call := self._plain_calls.recognize(scope, body):
            await self._plain_calls.answer(call, scope, receive, send)
            return
        try:
            # The SDK would answer clients of 2025 with pydantic's text, the body in it, and the wrong code.
            read_message(body)
        except NotAMessage as error:
            await send_bytes(send, 400, JSON, error.answer, request_id)
            return
        if self._may_log or any(word in body for word in _WANTS_NOTIFICATIONS):
            await self._events(scope, replay(body, receive), send)
        else:
            await run_cancellably(self._json, scope, receive, send, body=body, lookout=self._gateway.lookout)

    @asynccontextmanager
    async def _transport(self, *, json_response: bool) -> AsyncGenerator[ASGIApp]:
        manager = StreamableHTTPSessionManager(
            self._server,
            json_response=json_response,
            stateless=True,
            security_settings=_CHECKED_BY_THE_PERIMETER,
            max_request_body_size=self._gateway.settings.max_request_bytes,
        )
        async with manager.run():
            yield Naming(manager.handle_request)


def mcp_route(path: str, endpoint: StreamableHTTP) -> Route:
    """Return an exact route: a mount would redirect and would shadow `/mcp/<server>/tools/*`."""
    return Route(path, endpoint, methods=None, include_in_schema=False)


def _accepts_events(scope: Scope) -> bool:
    return "text/event-stream" in Request(scope).headers.get("accept", "")
