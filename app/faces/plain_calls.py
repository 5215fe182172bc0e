"""The plain `tools/call`, answered without the SDK: most of MCP's traffic, at a third of its cost.

Plain is a call of which nothing has to be known but the tool and its arguments: no progress is asked for, nothing is
unusual, nothing is wrong. Whatever differs in the least goes to the SDK, which knows every case and every error of the
protocol; so there are none here. `tests/faces/test_plain_calls.py` holds both ways to the same answers.
"""

import re
from functools import lru_cache, partial
from typing import Any, Literal

import mcp_types as types
import msgspec
from mcp.server.lowlevel import Server
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from app.budget import LARGE
from app.catalogue import Offer
from app.errors import CallerGone, GatewayError, Unauthenticated
from app.exact_json import NotExact, NotJson, ReadText, read
from app.faces.http import JSON, answer_at_once, call_context, send_bytes, send_problem, send_result
from app.faces.protocol import client_name
from app.gateway import Gateway
from app.guard.principal import Principal
from app.servers.calls import CallContext
from app.servers.origins import NOWHERE, Origin, origin_of_headers, origin_of_meta, within
from app.servers.tools import Tool


class _Meta(BaseModel):
    """What 2026-07-28 wants with each request, and nothing that it merely allows."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: Literal["2026-07-28"] = Field(alias="io.modelcontextprotocol/protocolVersion")
    capabilities: types.ClientCapabilities = Field(alias="io.modelcontextprotocol/clientCapabilities")
    client: types.Implementation | None = Field(default=None, alias="io.modelcontextprotocol/clientInfo")
    traceparent: str | None = None
    tracestate: str | None = None
    baggage: str | None = None
    conversation_id: str | None = None
    conversation: str | None = None
    conversation_in_capitals: str | None = Field(default=None, alias="conversationId")


class _Params(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    name: str
    arguments: msgspec.Raw = msgspec.Raw(b"")
    meta: msgspec.Raw = msgspec.field(name="_meta", default=msgspec.Raw(b""))


class _Request(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    jsonrpc: Literal["2.0"]
    id: msgspec.Raw
    method: Literal["tools/call"]
    params: _Params


_request = msgspec.json.Decoder(_Request)
_write_text = msgspec.json.Encoder().encode
_START, _TEXT = b'{"jsonrpc":"2.0","id":', b',"result":{"content":[{"type":"text","text":'
_STRUCTURED, _FAILED = b'}],"isError":false,"structuredContent":', b'}],"isError":true'
"""What is in every answer, in this order: `_START`, the id, `_TEXT`, a text, one of these, and the end."""
_MODERN = "2026-07-28"
PLAIN_LEGACY = frozenset({"2025-06-18", "2025-11-25"})
"""Revisions before 2026-07-28 whose results have a `structuredContent`."""
_VERSIONS = {version.encode(): version == _MODERN for version in (*PLAIN_LEGACY, _MODERN)}
_MOST_META = 2048
"""Bytes of `_meta`; the newest 256 are remembered."""
_ID = re.compile(rb'0|-?[1-9][0-9]{0,99}|"[^"\\]*"')
_STRINGS = len(("jsonrpc", "2.0", "id", "method", "tools/call", "params", "name", "its name"))
"""Keys and texts of a call without arguments."""
_SHORT = 200
"""Bytes of arguments, of ASCII, that no other parser refuses if the decoder does not: they can't be nested too deeply
for one, nor hold a number that is too long."""


class PlainCall(msgspec.Struct, gc=False):
    """A call that was recognized."""

    id: bytes
    """As JSON, to be repeated."""
    tool: Offer[Tool]
    arguments: bytes
    client: str | None
    """Who calls, if it says so."""
    origin: Origin
    """Where the call comes from, as far as the message says."""
    modern: bool


class PlainCalls:
    """Recognizes and answers the plain calls of one MCP endpoint.

    Args:
        gateway: where calls go.
        server: the server's name; None for all servers.
        protocol: of the endpoint, which answers all other calls.
    """

    def __init__(self, gateway: Gateway, server: str | None, protocol: Server[Any]) -> None:
        self._gateway = gateway
        self._server = server
        stamp = to_json({types.SERVER_INFO_META_KEY: protocol.server_info_stamp})
        self._modern_end = b',"resultType":"complete","_meta":' + stamp + b"}}"

    def recognize(self, scope: Scope, body: bytes) -> PlainCall | None:
        """Return the call that a POST is, or None if it is anything but a plain one."""
        headers: dict[bytes, bytes] = scope["state"]["headers"]
        modern = _VERSIONS.get(headers.get(b"mcp-protocol-version", b""))
        if (
            modern is None
            or len(headers) < len(scope["headers"])  # one of them is there twice
            or b"mcp-session-id" in headers
        ):
            return None
        call = self.read(body, scope["state"]["principal"], modern=modern)
        if call is None or not modern:
            return call
        name = call.tool.declared.name.encode()
        return call if headers.get(b"mcp-method") == b"tools/call" and headers.get(b"mcp-name") == name else None

    def read(self, body: bytes, principal: Principal, *, modern: bool) -> PlainCall | None:
        """Return the call that a message is, or None if it is anything but a plain one.

        Args:
            body: the message.
            principal: who calls.
            modern: it is of 2026-07-28, and else of `PLAIN_LEGACY`.
        """
        try:
            request = _request.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        params = request.params
        offer = self._gateway.offered_to(principal).find_tool(self._server, params.name)
        if offer is None or not offer.declared.is_plain:
            return None
        request_id, arguments, meta = bytes(request.id), bytes(params.arguments), bytes(params.meta)
        told = _SAYS_NOTHING
        if meta or modern:
            if not modern or len(meta) > _MOST_META:
                return None
            try:
                told = _told(meta)
            except ValueError:
                return None
        strings = _STRINGS + (arguments != b"") + (meta != b"") + request_id.startswith(b'"')
        if (
            not _ID.fullmatch(request_id)
            # One more means that a key is there twice, of which the decoder has taken the last.
            or body.count(b'"') - arguments.count(b'"') - told.quotes != 2 * strings
        ):
            return None
        if not arguments:
            arguments = b"{}"
        elif not arguments.startswith(b"{"):
            return None
        if len(arguments) > _SHORT or not body.isascii():
            try:
                document = read(body)
            except (NotJson, NotExact):
                return None
            arguments = ReadText(arguments, document["params"].get("arguments", {}))
        return PlainCall(request_id, offer, arguments, told.client, told.origin, modern)

    async def answer(self, call: PlainCall, scope: Scope, receive: Receive, send: Send) -> None:
        """Run a call and send its result or failure, unless its caller goes."""
        origin = None if call.origin is NOWHERE else within(call.origin, origin_of_headers(scope["state"]["headers"]))
        context = call_context(scope, "mcp", receive, client=call.client, origin=origin)
        try:
            message = await self._gateway.run(call.tool, call.arguments, context, partial(self._write, call))
        except CallerGone:
            return
        except Unauthenticated as error:  # the caller's key ended during the call, and HTTP has a status for it
            await send_problem(send, error, context.request_id)
            return
        except GatewayError as error:
            message = self._failure(call, error, context)
        if len(message) > LARGE:
            await send_result(send, self._gateway, message, context.request_id)
        elif not answer_at_once(send, 200, JSON, message, context.request_id):
            await send_bytes(send, 200, JSON, message, context.request_id)

    async def run(self, call: PlainCall, context: CallContext) -> bytes:
        """Run a call and return its result or failure in a message, as the SDK would write it.

        Raises:
            CallerGone: nobody is there to be answered.
        """
        try:
            return await self._gateway.run(call.tool, call.arguments, context, partial(self._write, call))
        except CallerGone:
            raise
        except GatewayError as error:
            return self._failure(call, error, context)

    def _failure(self, call: PlainCall, error: GatewayError, context: CallContext) -> bytes:
        failure = _write_text(error.problem(context.request_id).model_dump_json(exclude_none=True))
        return b"".join((_START, call.id, _TEXT, failure, _FAILED, self._end(call)))

    def _write(self, call: PlainCall, result: Any) -> bytes:
        """Return the message with a tool's result. What can't be written so is the tool's failure."""
        body = call.tool.declared.dump(result)
        return b"".join((_START, call.id, _TEXT, _write_text(body.decode()), _STRUCTURED, body, self._end(call)))

    def _end(self, call: PlainCall) -> bytes:
        return self._modern_end if call.modern else b"}}"


class _Told(msgspec.Struct, frozen=True):
    """What the `_meta` of a call says."""

    client: str | None
    """Who the client says it is."""
    origin: Origin
    quotes: int
    """Quotation marks in it."""


_SAYS_NOTHING = _Told(None, NOWHERE, 0)


@lru_cache(256)
def _told(meta: bytes) -> _Told:
    """Return what a client says of itself and of its call; without a trace, the same words come again.

    Raises:
        ValueError: they say more than a plain call may, or something else to every parser.
    """
    document = read(meta)
    client = _Meta.model_validate_json(meta).client
    return _Told(client_name(client) if client else None, origin_of_meta(document), meta.count(b'"'))
