"""MCP over Streamable HTTP, stateless, at `/mcp/<server>` and `/mcp`: both eras on one endpoint."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import cast

import anyio
import mcp_types as types
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import CallerGone, GatewayError, InsufficientScope, MalformedRequest, MethodNotAllowed, NotAcceptable
from app.faces.accept import accepted
from app.faces.holding import Holding
from app.faces.http import (
    JSON,
    Naming,
    call_context,
    note_refusal,
    receive_json,
    replay,
    run_cancellably,
    send_bytes,
    send_problem,
    send_refusal,
    take_json,
)
from app.faces.jsonrpc import NotAMessage, read_message
from app.faces.plain_calls import PlainCalls
from app.faces.protocol import PROMPT_LISTING, ProtocolServer, about_what, wanted_by
from app.gateway import Gateway
from app.guard.principal import Principal

_CHECKED_BY_THE_PERIMETER = TransportSecuritySettings(enable_dns_rebinding_protection=False)
_WANTS_NOTIFICATIONS = (b'"progressToken"', b'logLevel"', b'"subscriptions/listen"')
"""Words of a body whose answer may be more than one message. Found by accident they cost speed, not correctness."""
_LISTEN = "subscriptions/listen"
_VERSIONS = (*HANDSHAKE_PROTOCOL_VERSIONS, *MODERN_PROTOCOL_VERSIONS)


class StreamableHTTP:
    """The MCP endpoint of one server or of all, as an ASGI application.

    A request that can't be sent notifications is answered in plain JSON, at a half to a quarter of an event
    stream's cost, and is cancelled when its caller goes away. Clients of 2025 may not expect the latter: the
    specification says SHOULD NOT, but on a stateless connection nobody could ever collect the result.

    Args:
        gateway: where calls go.
        server: the server's name; None for all servers.
        listing: returns the answer to a GET that does not ask for an event stream.
    """

    def __init__(self, gateway: Gateway, server: str | None, listing: Callable[[Scope], Awaitable[Response]]) -> None:
        self._gateway = gateway
        self._name = server
        self._listing = listing
        self._server = ProtocolServer(gateway, server, "mcp")
        self._can_log = self._server.get_request_handler("logging/setLevel") is not None
        self._plain_calls = PlainCalls(gateway, server, self._server)
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
        headers: dict[bytes, bytes] = scope["state"]["headers"]
        takes = accepted(headers.get(b"accept", b""))
        if scope["method"] in ("GET", "HEAD") and b"text/event-stream" not in headers.get(b"accept", b""):
            try:
                listing = await self._listing(scope)
            except GatewayError as error:
                await send_problem(send, error, request_id)
            else:
                await listing(scope, receive, send)
            return
        if scope["method"] != "POST":
            refusal = MethodNotAllowed("This MCP endpoint is stateless: it takes POST, and GET for the JSON listing.")
            await send_refusal(scope, send, refusal, {"allow": "POST, GET"})
            return
        assert self._json is not None
        assert self._events is not None
        try:
            if not (takes.json or takes.events):
                raise NotAcceptable("Answers are application/json or text/event-stream. Accept one of them, or both.")
            body = take_json(scope, receive, self._gateway, stated=True)
            if body is None:
                body = await receive_json(scope, receive, self._gateway)
        except CallerGone:
            return
        except GatewayError as error:
            await send_refusal(scope, send, error)
            return
        if not takes.json:
            send = _as_events(send)
        if call := self._plain_calls.recognize(scope, body):
            await self._plain_calls.answer(call, scope, receive, send)
            return
        try:
            # The SDK would answer clients of 2025 with pydantic's text, the body in it, and the wrong code.
            message = read_message(body)
            _check_version(headers, message)
            scope["state"]["message"] = body
        except NotAMessage as error:
            note_refusal(scope, MalformedRequest())
            await send_bytes(send, 400, JSON, error.answer, request_id)
            return
        if isinstance(message, types.JSONRPCRequest) and (refused := self._lacks_scope(scope, message)):
            await send_problem(send, refused, request_id)
            return
        if not takes.events and isinstance(message, types.JSONRPCRequest) and message.method == _LISTEN:
            await send_refusal(scope, send, NotAcceptable(f"{_LISTEN} is answered as text/event-stream alone."))
            return
        scope["headers"] = _as_the_sdk_wants_them(scope["headers"])
        holding = scope["state"]["holding"] = Holding(self._gateway)
        send = holding.completing(send)
        try:
            async with _while_the_key_is_good(scope, send) as send:
                if takes.events and (
                    any(word in body for word in _WANTS_NOTIFICATIONS) or self._may_log(scope, message)
                ):
                    await self._events(scope, replay(body, receive), send)
                else:
                    await run_cancellably(self._json, scope, receive, send, body=body, lookout=self._gateway.lookout)
        finally:
            holding.release()

    def _lacks_scope(self, scope: Scope, message: types.JSONRPCRequest) -> InsufficientScope | None:
        """Return why a caller may not ask for what it asks: by HTTP's status and challenge, before it is parsed."""
        context = call_context(scope, "mcp")
        wanted = wanted_by(message) or ([("server", self._name)] if self._name is not None else [])
        refused = self._gateway.lacks_scope(self._name, wanted, context)
        answering = self._server.answering(message.method)
        if refused is None and answering is not None and message.method != PROMPT_LISTING:
            about = about_what(message.method, message.params or {})
            refused = self._gateway.lacks_answer(answering, message.method, about, context)
        return refused

    def _may_log(self, scope: Scope, message: types.JSONRPCMessage) -> bool:
        """Tell whether log messages may come with an answer: clients of 2025 ask for them by another request."""
        if not (self._can_log and isinstance(message, types.JSONRPCRequest)):
            return False
        if message.method != "tools/call":
            return True
        name = str((message.params or {}).get("name"))
        offer = self._gateway.offered_to(scope["state"]["principal"]).find_tool(self._name, name)
        return offer is not None and not offer.declared.is_plain

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


@asynccontextmanager
async def _while_the_key_is_good(scope: Scope, send: Send) -> AsyncGenerator[Send]:
    """Yield a `send` for what may last, and end both it and the answer in order once the caller's key has ended."""
    principal: Principal = scope["state"]["principal"]
    if principal.credential is None:
        yield send
        return
    begun = over = False
    reason: GatewayError | None = None

    def end(error: GatewayError) -> None:
        nonlocal reason
        reason = error
        lasting.cancel()

    async def send_noted(message: Message) -> None:
        nonlocal begun, over
        begun = True
        over = message["type"] == "http.response.body" and not message.get("more_body")
        await send(message)

    with anyio.CancelScope() as lasting, principal.holding(end):
        yield send_noted
    if reason is None or over:
        return
    if begun:
        await send({"type": "http.response.body", "body": b""})
    else:
        await send_refusal(scope, send, reason)


def mcp_route(path: str, endpoint: StreamableHTTP) -> Route:
    """Return an exact route: a mount would redirect and would shadow `/mcp/<server>/tools/*`."""
    return Route(path, endpoint, methods=None, include_in_schema=False)


def _check_version(headers: Mapping[bytes, bytes], message: types.JSONRPCMessage) -> None:
    """Refuse a revision that nobody here knows; the SDK would look for the fault in the body.

    It finds the fault where the body names the same one, and then says which revisions there are of those that do.

    Raises:
        NotAMessage: the header names no revision, or two.
    """
    given = headers.get(b"mcp-protocol-version")
    version = given.decode("latin-1").strip() if given is not None else None
    if version is None or version in _VERSIONS or version == _version_within(message):
        return
    # To a request of 2026-07-28 the revisions that `server/discover` names, as its official suite compares them.
    params = message.params if isinstance(message, types.JSONRPCRequest) else None
    modern = types.PROTOCOL_VERSION_META_KEY in ((params or {}).get("_meta") or {})
    raise NotAMessage(
        types.UNSUPPORTED_PROTOCOL_VERSION,
        f"MCP-Protocol-Version: this revision is not known here. Known are {', '.join(_VERSIONS)}.",
        message.id if isinstance(message, types.JSONRPCRequest) else None,
        types.UnsupportedProtocolVersionErrorData(
            supported=list(MODERN_PROTOCOL_VERSIONS if modern else _VERSIONS), requested=version[:64]
        ).model_dump(),
    )


def _version_within(message: types.JSONRPCMessage) -> object:
    """Return the revision that a request says it is of, as those of 2026-07-28 and later do."""
    params = message.params if isinstance(message, types.JSONRPCRequest) else None
    meta = (params or {}).get("_meta")
    return cast("Mapping[str, object]", meta).get(types.PROTOCOL_VERSION_META_KEY) if isinstance(meta, dict) else None


def _as_the_sdk_wants_them(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return a request's headers without what would keep the SDK from answering.

    It compares values with the body's, white space that the HTTP parser left behind them included; and it would accept
    less than we do: we choose how a request is answered, and have looked at what it is.
    """
    others = [(name, value.strip()) for name, value in headers if name not in (b"accept", b"content-type")]
    return [*others, (b"accept", b"application/json, text/event-stream"), (b"content-type", b"application/json")]


def _as_events(send: Send) -> Send:
    """Return a `send` that writes a result in JSON as an event stream of one event; failures stay what they are."""
    held: Message | None = None
    parts: list[bytes] = []

    async def convert(message: Message) -> None:
        nonlocal held
        if message["type"] == "http.response.start":
            if message["status"] == 200 and Headers(raw=message["headers"]).get("content-type") == JSON:
                held = message
                return
        elif held is not None:
            parts.append(message.get("body", b""))
            if message.get("more_body"):
                return
            # Where a line ends in JSON, it ends between two words.
            data = b"".join(parts).replace(b"\r", b" ").replace(b"\n", b" ")
            event = b"event: message\r\ndata: " + data + b"\r\n\r\n"
            fields = MutableHeaders(raw=list(held["headers"]))
            fields.update({"content-type": "text/event-stream", "cache-control": "no-cache, no-transform"})
            fields["content-length"] = str(len(event))
            await send({**held, "headers": fields.raw})
            message = {**message, "body": event}
        await send(message)

    return convert
