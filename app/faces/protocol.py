"""The Model Context Protocol over any transport: the SDK's low-level server, fed from our declarations.

Streamable HTTP, WebSocket and stdio differ only in how messages travel, and in how a client subscribes.
"""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import mcp_types as types
from mcp import MCPError
from mcp.server.caching import CacheHint
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.subscriptions import SUBSCRIPTION_ID_META_KEY
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from app.budget import LARGE
from app.catalogue import Catalogue
from app.errors import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    GatewayError,
    InvalidArguments,
    NotFound,
    TooManyRequests,
    UnknownServer,
    UnknownTool,
    failures_of,
)
from app.faces.holding import Holding
from app.faces.jsonrpc import arguments_of
from app.faces.listing import describe_resources, describe_tool
from app.faces.subscriptions import Subscription, Subscriptions, end
from app.gateway import MOST_OF_A_CONNECTION, About, Gateway, What
from app.results import ProtocolResult, parse_json
from app.servers.base import ServerKind
from app.servers.calls import CallContext, Face, JsonObject, Peer, new_request_id
from app.servers.origins import NOWHERE, origin_of_headers, origin_of_meta, within
from app.servers.resources import Update
from app.servers.tools import Tool
from app.version import VERSION

_Context = ServerRequestContext[Any, Any]
_MODERN = "2026-07-28"
_RESOURCE_NOT_FOUND = -32002
"""The code for an unknown resource up to 2025-11-25; later revisions say -32602."""
_COMPLETE = {"resultType": "complete"}
"""What 2026-07-28 wants in every result; the SDK leaves it out for older revisions."""
_TOO_EARLY = types.ErrorData(code=INVALID_PARAMS, message="Invalid request parameters", data="")
"""What the SDK answers to requests before the handshake."""
_DEEP = 200
"""Levels of nesting that everybody can write."""
_LISTING_HINT = CacheHint(ttl_ms=300_000, scope="private")
PROMPT_LISTING = "prompts/list"
_INSTRUCTING = ("initialize", "server/discover")
"""Methods whose results have instructions."""


class ProtocolServer(Server[Any]):
    """The MCP form of one server, or of all at once.

    What it can do is announced to everybody alike; what it lists and tells as instructions is what the caller may see.

    Args:
        gateway: where calls go.
        server: the server's name; None offers the tools and resources of all.
        face: how calls come in, for the log.
        subscriptions: of the connection, where the transport can carry `resources/subscribe`.
    """

    def __init__(
        self, gateway: Gateway, server: str | None, face: Face, subscriptions: Subscriptions | None = None
    ) -> None:
        self._gateway = gateway
        self._server = server
        self._face: Face = face
        self._subscriptions = subscriptions
        kinds = gateway.catalogue.of(server)
        alone = kinds[0] if server is not None else None
        handlers: dict[str, Any] = {
            "on_list_tools": partial(self._list, self._tools),
            "on_call_tool": self._call_tool,
            # Some clients ask for what is not announced, and drop a server that answers them with an error.
            "on_list_prompts": partial(self._list, _no_prompts),
            "on_list_resources": partial(self._list, self._resources),
            "on_list_resource_templates": partial(self._list, self._templates),
        }
        resources = [offer.declared for offer in gateway.catalogue.resources(server)]
        if resources:
            handlers["on_read_resource"] = self._read_resource
        if any(resource.watcher for resource in resources):
            handlers["on_subscriptions_listen"] = self._listen
            if subscriptions is not None:
                handlers |= {"on_subscribe_resource": self._subscribe, "on_unsubscribe_resource": self._unsubscribe}
        for kind in kinds:
            handlers |= {name: partial(self._handle, kind, handle) for name, handle in kind.mcp_handlers.items()}
        self._announced = {
            "prompts": any("on_list_prompts" in kind.mcp_handlers for kind in kinds),
            "resources": bool(resources),
        }
        """Which capabilities there are, beside the handlers that only answer with an empty list."""
        super().__init__(
            alone.server_id if alone else "switchboard",
            version=VERSION,
            title=alone.name if alone else "Switchboard",
            # Without it every call of 2026-07-28 lists all tools again to check its headers.
            get_tool_input_schema=self._input_schema,
            cache_hints={
                "server/discover": _LISTING_HINT,
                "tools/list": _LISTING_HINT,
                PROMPT_LISTING: _LISTING_HINT,
                "resources/list": _LISTING_HINT,
                "resources/templates/list": _LISTING_HINT,
                "resources/read": CacheHint(ttl_ms=0, scope="private"),
            },
            **handlers,
        )
        # In place of the SDK's spans, which nobody gets: it logs what it can't read of a message's `baggage`.
        self.middleware = [_explaining, self._instructing]

    def answering(self, method: str) -> str | None:
        """Return the id of the server that answers a method of the protocol itself; None if that is not how it is."""
        entry = self.get_request_handler(method)
        handler = entry and entry.handler
        return handler.args[0].server_id if isinstance(handler, partial) and handler.func == self._handle else None

    def get_capabilities(self, *args: Any, **kwargs: Any) -> types.ServerCapabilities:
        """Return what is announced: no listing that is always empty, and no notices of changes, as the SDK promises."""
        capabilities = super().get_capabilities(*args, **kwargs)
        for listing in (capabilities.tools, capabilities.resources, capabilities.prompts):
            if listing is not None:
                listing.list_changed = False
        absent = [name for name, there in self._announced.items() if not there]
        return capabilities.model_copy(update=dict.fromkeys(absent))

    def _input_schema(self, tool: str) -> JsonObject | None:
        offer = self._gateway.catalogue.find_tool(self._server, tool)
        return offer.declared.input_schema if offer else None

    async def _instructing(self, ctx: _Context, call_next: CallNext) -> HandlerResult:
        """Tell in words what the caller may see, where the SDK would tell everybody the same."""
        result = await call_next(ctx)
        if ctx.method in _INSTRUCTING and isinstance(result, dict):
            servers = self._gateway.offered_to(_state(ctx)["principal"]).servers
            if self._server is None:
                shown = filter(self._gateway.is_shown, servers.values())
                result["instructions"] = "\n\n".join(f"{kind.name}: {kind.description}" for kind in shown)
            else:
                seen = servers.get(self._server)
                result["instructions"] = seen.description if seen else ""
        return result

    async def _list(
        self,
        describe: Callable[[Catalogue], Mapping[str, Sequence[JsonObject]]],
        context: _Context,
        params: types.PaginatedRequestParams | None,
    ) -> Any:
        _refuse_cursor(params)
        call = _call_context(context, self._face)
        try:
            return {**_COMPLETE, **await self._gateway.show(self._server, context.method, call, describe)}
        except GatewayError as error:
            raise _protocol_error(error, call) from None

    def _tools(self, offered: Catalogue) -> Mapping[str, Sequence[JsonObject]]:
        schemas = self._gateway.settings.mcp_output_schemas
        shown = [offer.declared for offer in offered.tools(self._server) if self._gateway.is_shown(offer.kind)]
        return {"tools": [describe_tool(tool, output_schema=schemas) for tool in shown]}

    def _resources(self, offered: Catalogue) -> Mapping[str, Sequence[JsonObject]]:
        return {"resources": self._resources_and_templates(offered)[0]}

    def _templates(self, offered: Catalogue) -> Mapping[str, Sequence[JsonObject]]:
        return {"resourceTemplates": self._resources_and_templates(offered)[1]}

    def _resources_and_templates(self, offered: Catalogue) -> tuple[list[JsonObject], list[JsonObject]]:
        return describe_resources(o for o in offered.resources(self._server) if self._gateway.is_shown(o.kind))

    async def _call_tool(self, context: _Context, params: types.CallToolRequestParams) -> Any:
        call = _call_context(context, self._face)
        try:
            result = await self._gateway.call(self._server, params.name, _arguments(context), call, _tool_result)
            holding: Holding = _state(context)["holding"]
            if isinstance(result, ProtocolResult):
                return _in_the_protocols_words(result, holding)
            if isinstance(result, bytes):
                holding.hold(len(result))
                return _answer(holding.leave_out_text(result), holding.leave_out(result))
            return result
        except (UnknownTool, UnknownServer) as error:
            raise _protocol_error(error, call) from None
        except GatewayError as error:
            return _failed_tool(error, call.request_id)

    async def _read_resource(self, context: _Context, params: types.ReadResourceRequestParams) -> Any:
        call = _call_context(context, self._face)
        try:
            media_type, content = await self._gateway.read(self._server, params.uri, call)
        except NotFound as error:
            code = INVALID_PARAMS if context.protocol_version >= _MODERN else _RESOURCE_NOT_FOUND
            raise _protocol_error(error, call, code, uri=params.uri) from None
        except GatewayError as error:
            raise _protocol_error(error, call) from None
        if len(content) > LARGE:
            _state(context)["holding"].hold(len(content))
        contents: JsonObject = {"uri": params.uri, "mimeType": media_type}
        try:
            is_text = media_type.startswith("text/") or media_type.endswith(("json", "xml"))
            contents |= {"text": content.decode()} if is_text else {"blob": base64.b64encode(content).decode()}
        except UnicodeDecodeError:  # a text of another encoding
            contents["blob"] = base64.b64encode(content).decode()
        return {**_COMPLETE, "contents": [contents]}

    async def _listen(self, context: _Context, params: types.SubscriptionsListenRequestParams) -> Any:
        call = _call_context(context, self._face)
        gateway, server, subscriptions = self._gateway, self._server, self._subscriptions
        if subscriptions is None:
            return await _listen(gateway, server, call, context, params, gateway.closing, connection=call)
        with subscriptions.stream():
            closing = subscriptions.closing
            return await _listen(gateway, server, call, context, params, closing, connection=subscriptions)

    async def _subscribe(self, context: _Context, params: types.SubscribeRequestParams) -> types.EmptyResult:
        assert self._subscriptions is not None
        call = _call_context(context, self._face)

        async def notify(update: Update) -> None:
            await context.session.send_notification(_updated(params.uri, update))

        watching = self._gateway.watch(self._server, params.uri, call, self._subscriptions)
        try:
            await self._subscriptions.add(params.uri, watching, notify, call.request_id)
        except GatewayError as error:
            code = _RESOURCE_NOT_FOUND if isinstance(error, NotFound) else None
            raise _protocol_error(error, call, code, uri=params.uri) from None
        return types.EmptyResult()

    async def _unsubscribe(self, context: _Context, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
        assert self._subscriptions is not None
        await self._subscriptions.remove(params.uri)
        return types.EmptyResult()

    async def _handle(
        self, kind: ServerKind, handle: Callable[[_Context, Any], Awaitable[Any]], context: _Context, params: Any
    ) -> Any:
        """Let a server answer a method of the protocol itself."""
        call = _call_context(context, self._face)
        gateway, server, listed = self._gateway, kind.server_id, context.method == PROMPT_LISTING
        if listed and not gateway.shows_prompts(server, call.principal):
            return await self._list(_no_prompts, context, params)

        def shown(prompt: types.Prompt) -> bool:
            return gateway.refuses_prompt(server, prompt.name, call.principal) is None

        async def run() -> ProtocolResult:
            try:
                answer = await handle(context, params)
            except MCPError as error:
                return ProtocolResult(error.error)
            if listed:
                answer = types.ListPromptsResult.model_validate(answer)
                answer = answer.model_copy(update={"prompts": list(filter(shown, answer.prompts))})
            return ProtocolResult(answer)

        given: JsonObject = params.model_dump(by_alias=True) if isinstance(params, BaseModel) else {}
        about = None if listed else about_what(context.method, given)
        try:
            result = await gateway.handle(server, context.method, about, call, run)
            return _in_the_protocols_words(result, _state(context)["holding"])
        except GatewayError as error:
            raise _protocol_error(error, call) from None


def wanted_by(request: types.JSONRPCRequest) -> list[tuple[What, str]]:
    """Return what of a server a request is about, whether or not the rest of it is right; nothing if about all."""
    params: Any = request.params or {}
    names: Any = []
    match request.method:
        case "tools/call":
            names = [("tool", params.get("name"))]
        case "resources/read" | "resources/subscribe" | "resources/unsubscribe":
            names = [("resource", params.get("uri"))]
        case "subscriptions/listen":
            with suppress(AttributeError, TypeError):
                names = [("resource", uri) for uri in params.get("notifications").get("resourceSubscriptions")]
        case _:
            pass
    return [(what, name) for what, name in names if isinstance(name, str)]


def about_what(method: str, params: Mapping[str, Any]) -> About:
    """Return what a method is about that a server answers itself, whether or not the rest of it is right."""
    match method, params:
        case ("prompts/get", {"name": str(name)}):
            return "prompt", name
        case ("completion/complete", {"ref": {"type": "ref/prompt", "name": str(name)}}):
            return "prompt", name
        case ("completion/complete", {"ref": {"type": "ref/resource", "uri": str(uri)}}):
            return "resource", uri
        case _:
            return "prompt", None


def _no_prompts(_: Catalogue) -> Mapping[str, Sequence[JsonObject]]:
    return {"prompts": []}


async def _explaining(ctx: _Context, call_next: CallNext) -> HandlerResult:
    """Say what is wrong with a request where the SDK says only that its parameters are invalid."""
    try:
        return await call_next(ctx)
    except ValidationError as error:
        failures = failures_of(error)
        if failures[0]["loc"][:1] != ("params",):  # not the request's
            raise
        refused = InvalidArguments.from_validation(failures)
        raise MCPError(INVALID_PARAMS, refused.detail, refused.problem().model_dump(exclude_none=True)) from None
    except MCPError as error:
        if not (ctx.session.client_params is None and error.error == _TOO_EARLY):
            raise
        raise MCPError(
            INVALID_REQUEST,
            f"{ctx.method} came before initialize, which has to be the first request of a connection. "
            "Clients of 2026-07-28 send no initialize, but params._meta with each request.",
        ) from None


async def _listen(
    gateway: Gateway,
    server: str | None,
    call: CallContext,
    context: _Context,
    params: types.SubscriptionsListenRequestParams,
    closing: asyncio.Event,
    *,
    connection: object,
) -> types.SubscriptionsListenResult:
    """Serve one `subscriptions/listen` stream until its client goes, its last subscription ends or `closing` is set.

    URIs that can't be watched are left out of the acknowledgement, as the specification wants it; where
    none is left, the request fails and says why.
    """
    wanted = list(dict.fromkeys(params.notifications.resource_subscriptions or ()))
    if len(wanted) > MOST_OF_A_CONNECTION:
        refusal = TooManyRequests(f"A connection has at most {MOST_OF_A_CONNECTION} subscriptions; here are more URIs.")
        raise _protocol_error(refusal, call)
    meta: dict[str, Any] = {SUBSCRIPTION_ID_META_KEY: context.request_id}
    acknowledged = asyncio.Event()

    async def notify(uri: str, update: Update) -> None:
        await acknowledged.wait()
        notice = _updated(uri, {**update, **meta})
        await context.session.send_notification(notice, related_request_id=context.request_id)

    watched: dict[str, Subscription] = {}
    refused: GatewayError | None = None
    async with asyncio.TaskGroup() as tasks:
        closed = tasks.create_task(closing.wait())
        counted = AsyncExitStack()
        try:
            if not wanted:
                try:
                    await counted.enter_async_context(gateway.listen(server, call, connection))
                except GatewayError as error:
                    refused = error
            for uri in wanted:
                watching = gateway.watch(server, uri, call, connection)
                subscription = Subscription(tasks, watching, partial(notify, uri), call.request_id)
                try:
                    await subscription.begun()
                    watched[uri] = subscription
                except GatewayError as error:
                    refused = error
            if watched or refused is None:
                honored = types.SubscriptionFilter(resource_subscriptions=list(watched) or None)
                acknowledgement = types.SubscriptionsAcknowledgedNotification(
                    params=types.SubscriptionsAcknowledgedNotificationParams(notifications=honored, _meta=meta)
                )
                await context.session.send_notification(acknowledgement, related_request_id=context.request_id)
                acknowledged.set()
                if watched:
                    running = [subscription.task for subscription in watched.values()]
                    ended = asyncio.gather(*running, return_exceptions=True)
                    await asyncio.wait([closed, ended], return_when=asyncio.FIRST_COMPLETED)
                else:
                    await closed
        finally:
            closed.cancel()
            await counted.aclose()
            await end(watched.values())
    if refused is not None and not watched:
        raise _protocol_error(refused, call)
    return types.SubscriptionsListenResult(_meta=meta)


def _updated(uri: str, meta: Update) -> types.ResourceUpdatedNotification:
    return types.ResourceUpdatedNotification(
        params=types.ResourceUpdatedNotificationParams(uri=uri, _meta=dict(meta) if meta else None)
    )


def _tool_result(tool: Tool, result: Any) -> Any:
    """Return a result both as text, for models, and as the same object, for programs.

    Whatever can't be written so is found here, and not when the SDK writes it to the connection. A large one stays
    the bytes that it is.
    """
    if isinstance(result, ProtocolResult):
        return result
    body = tool.dump(result)
    text = body.decode()
    if len(body) > LARGE:
        return body
    answer = _answer(text, parse_json(body))
    if body.count(b"[") + body.count(b"{") >= _DEEP:
        # Whether it is nested so deeply that the SDK can't write it: with its envelope around it, as there.
        to_json({"result": answer})
    return answer


def _answer(text: str, value: Any) -> JsonObject:
    return {
        **_COMPLETE,
        "content": [{"type": "text", "text": text}],
        "isError": False,
        "structuredContent": value,
    }


def _in_the_protocols_words(result: ProtocolResult, holding: Holding) -> Any:
    """Return what the SDK is to write of a result that is in its own words already."""
    if result.size > LARGE:
        holding.hold(result.size)
        value = result.value
        if isinstance(value, types.CallToolResult) and value.structured_content is not None:
            structured: Any = value.structured_content
            return value.model_copy(update={"structured_content": holding.leave_out(to_json(structured))})
    return result.value


def _failed_tool(error: GatewayError, request_id: str) -> JsonObject:
    """Return a failure as a tool's result: the `Problem` as text alone.

    It does not satisfy the tool's output schema, and clients that check every `structuredContent` against it would show
    a schema's complaint in place of the failure.
    """
    problem = error.problem(request_id).model_dump_json(exclude_none=True)
    return {**_COMPLETE, "content": [{"type": "text", "text": problem}], "isError": True}


def refusal(request: types.JSONRPCRequest, error: GatewayError, server_info: Mapping[str, Any]) -> JsonObject:
    """Return the answer to a request that no handler sees: in the form that a handler's failure would have.

    Args:
        request: what is refused.
        error: why.
        server_info: who answers, as 2026-07-28 wants it said in every result.
    """
    request_id = new_request_id()
    answer: JsonObject = {"jsonrpc": "2.0", "id": request.id}
    if request.method != "tools/call":
        problem = error.problem(request_id).model_dump(mode="json", exclude_none=True)
        return {**answer, "error": {"code": error.rpc_code, "message": error.detail, "data": problem}}
    result = _failed_tool(error, request_id)
    meta = (request.params or {}).get("_meta")
    if isinstance(meta, dict) and types.PROTOCOL_VERSION_META_KEY in meta:
        result["_meta"] = {types.SERVER_INFO_META_KEY: dict(server_info)}
    else:
        del result["resultType"]
    return {**answer, "result": result}


def _protocol_error(error: GatewayError, call: CallContext, code: int | None = None, **data: Any) -> MCPError:
    problem = error.problem(call.request_id).model_dump(mode="json", exclude_none=True)
    return MCPError(code or error.rpc_code, error.detail, {**problem, **data})


@dataclass(frozen=True)
class Received:
    """A message, carried along with what the SDK has read of it where there is no HTTP request to do so."""

    message: bytes | str
    peer: Peer
    holding: Holding

    @property
    def scope(self) -> Mapping[str, Any]:
        """What `call_context` and the like read of an HTTP request."""
        peer = self.peer
        return {
            "state": {
                "principal": peer.principal,
                "client": peer.client,
                "address": peer.address,
                "origin": peer.origin,
                "message": self.message,
                "holding": self.holding,
            }
        }


def _arguments(context: _Context) -> bytes:
    """Return the arguments of a call as its caller wrote them."""
    return arguments_of(_state(context)["message"])


def _state(context: _Context) -> Mapping[str, Any]:
    """Return what was known of a request when it came in: by HTTP, or as `Received`."""
    assert context.request is not None
    return context.request.scope["state"]


def _call_context(context: _Context, face: Face) -> CallContext:
    state = _state(context)
    client = context.session.client_params
    headers = state.get("headers")
    outer = state.get("origin", NOWHERE) if headers is None else origin_of_headers(headers)
    return CallContext(
        request_id=state.get("request_id") or new_request_id(),
        face=face,
        principal=state["principal"],
        client=client_name(client.client_info) if client else state["client"],
        address=state["address"],
        origin=within(origin_of_meta(cast("Mapping[str, Any] | None", context.meta)), outer),
        report_progress=context.session.report_progress,
        session=context,
    )


def client_name(client: types.Implementation) -> str:
    """Return who a client says it is, fit for a line of the log."""
    return "".join(c if c.isprintable() and c != " " else "_" for c in f"{client.name}/{client.version}"[:64])


def _refuse_cursor(params: BaseModel | None) -> None:
    """Listings are one page; a cursor can only be a mistake."""
    if isinstance(params, types.PaginatedRequestParams) and params.cursor:
        raise MCPError(INVALID_PARAMS, "cursor: the listing has one page, ask for it without a cursor")
