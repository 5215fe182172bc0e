"""The plain `tools/call` over HTTP, answered without the SDK: most of MCP's traffic, at a third of its cost.

Plain is a call of which nothing has to be known but the tool and its arguments: no progress is asked for, nothing is
unusual, nothing is wrong. Whatever differs in the least goes to the SDK, which knows every case and every error of the
protocol; so there are none here. `tests/faces/test_plain_calls.py` holds both ways to the same answers.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import mcp_types as types
import msgspec
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from app.errors import CallerGone, GatewayError
from app.exact_json import NotExact, NotJson, read
from app.faces.http import JSON, call_context, send_bytes
from app.faces.protocol import client_name
from app.gateway import Gateway
from app.servers.declaring import Tool

_MIRRORED_IN_A_HEADER = "x-mcp-header"
"""An argument of which 2026-07-28 wants a copy in a header, to be compared."""


class _Meta(BaseModel):
    """What 2026-07-28 wants with each request, and nothing that it merely allows."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: Literal["2026-07-28"] = Field(alias="io.modelcontextprotocol/protocolVersion")
    capabilities: types.ClientCapabilities = Field(alias="io.modelcontextprotocol/clientCapabilities")
    client: types.Implementation | None = Field(default=None, alias="io.modelcontextprotocol/clientInfo")


class _Params(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    arguments: msgspec.Raw = msgspec.Raw(b"")
    meta: msgspec.Raw = msgspec.field(name="_meta", default=msgspec.Raw(b""))


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    jsonrpc: Literal["2.0"]
    id: msgspec.Raw
    method: Literal["tools/call"]
    params: _Params


_request = msgspec.json.Decoder(_Request)
_write_text = msgspec.json.Encoder().encode
_MODERN = b"2026-07-28"
_VERSIONS = frozenset({b"2025-06-18", b"2025-11-25", _MODERN})
_MOST_META = 2048
"""Bytes of `_meta`; the newest 256 are remembered."""
_ID = re.compile(rb'0|-?[1-9][0-9]{0,99}|"[^"\\]*"')
_STRINGS = len(("jsonrpc", "2.0", "id", "method", "tools/call", "params", "name", "its name"))
"""Keys and texts of a call without arguments."""
_SHORT = 200
"""Bytes of arguments, of ASCII, that no other parser refuses if the decoder does not: they can't be nested too deeply
for one, nor hold a number that is too long."""


@dataclass(slots=True)
class PlainCall:
    """A call that was recognized."""

    id: bytes
    """As JSON, to be repeated."""
    name: str
    arguments: bytes
    client: str | None
    """Who calls, if it says so."""
    modern: bool


class PlainCalls:
    """Recognizes and answers the plain calls of one MCP endpoint.

    Args:
        gateway: where calls go.
        server: the server's name; None for all servers.
        tools: of the endpoint.
        server_info: who answers, as 2026-07-28 wants it said in every result.
    """

    def __init__(
        self, gateway: Gateway, server: str | None, tools: Sequence[Tool], server_info: Mapping[str, Any]
    ) -> None:
        self._gateway = gateway
        self._server = server
        self._plain = {tool.name for tool in tools if _is_plain(tool)}
        stamp = to_json({"io.modelcontextprotocol/serverInfo": server_info})
        self._modern_end = b',"resultType":"complete","_meta":' + stamp + b"}}"

    def recognize(self, scope: Scope, body: bytes) -> PlainCall | None:
        """Return the call that a POST is, or None if it is anything but a plain one."""
        headers: dict[bytes, bytes] = scope["state"]["headers"]
        version = headers.get(b"mcp-protocol-version", b"")
        if (
            version not in _VERSIONS
            or len(headers) < len(scope["headers"])  # one of them is there twice
            or b"mcp-session-id" in headers
        ):
            return None
        try:
            request = _request.decode(body)
        except (msgspec.DecodeError, RecursionError):
            return None
        params = request.params
        request_id, arguments, meta = bytes(request.id), bytes(params.arguments), bytes(params.meta)
        strings = _STRINGS + (arguments != b"") + (meta != b"") + request_id.startswith(b'"')
        if (
            params.name not in self._plain
            or not _ID.fullmatch(request_id)
            # One more means that a key is there twice, of which the decoder has taken the last.
            or body.count(b'"') - arguments.count(b'"') - meta.count(b'"') != 2 * strings
        ):
            return None
        if not arguments:
            arguments = b"{}"
        elif not arguments.startswith(b"{"):
            return None
        if len(arguments) > _SHORT or not body.isascii():
            try:
                read(body)
            except (NotJson, NotExact):
                return None
        client = None
        modern = version == _MODERN
        if modern:
            if headers.get(b"mcp-method") != b"tools/call" or headers.get(b"mcp-name") != params.name.encode():
                return None
            if len(meta) > _MOST_META:
                return None
            try:
                client = _client(meta)
            except ValueError:
                return None
        elif meta:
            return None
        return PlainCall(request_id, params.name, arguments, client, modern)

    async def answer(self, call: PlainCall, scope: Scope, receive: Receive, send: Send) -> None:
        """Run a call and write its result or failure as the SDK would."""
        context = call_context(scope, "mcp", receive, client=call.client)
        try:
            body = await self._gateway.call(self._server, call.name, call.arguments, context)
        except CallerGone:
            return
        except GatewayError as error:
            failure = error.problem(context.request_id).model_dump_json(exclude_none=True)
            result = b'],"isError":true'
            text = _write_text(failure)
        else:
            result = b'],"isError":false,"structuredContent":' + body
            text = _write_text(body.decode())
        end = self._modern_end if call.modern else b"}}"
        parts = (b'{"jsonrpc":"2.0","id":', call.id, b',"result":{"content":[{"type":"text","text":', text)
        await send_bytes(send, 200, JSON, b"".join((*parts, b"}", result, end)), context.request_id)


@lru_cache(256)
def _client(meta: bytes) -> str | None:
    """Return who a client says it is; the same words come with all of its requests.

    Raises:
        ValueError: they say more than a plain call may, or something else to every parser.
    """
    read(meta)
    client = _Meta.model_validate_json(meta).client
    return client_name(client) if client else None


def _is_plain(tool: Tool) -> bool:
    """Tell whether a call of the tool needs nothing of the protocol but its arguments and its result."""
    needs_the_protocol = tool.method is None or tool.context_parameter is not None
    return not needs_the_protocol and _MIRRORED_IN_A_HEADER not in str(tool.input_schema)
