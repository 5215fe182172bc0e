"""Prompts: a viewer lists and tries them as MCP's clients do, at the server's own endpoint of the protocol."""

from collections.abc import Mapping
from math import ceil
from typing import Annotated, Any, cast

import mcp_types as types
import msgspec
from starlette.types import Message, Receive, Scope, Send

from app.errors import CallerGone, InternalError, InvalidArguments, NotFound, UnknownServer
from app.faces.console.door import UNKEPT, Viewer, read_as, send_json
from app.faces.console.tools import granted
from app.faces.http import PROBLEM_JSON, replay, send_bytes
from app.faces.streamable_http import StreamableHTTP
from app.gateway import Gateway

_REVISION = b"2025-06-18"
"""Of the protocol: one whose requests stand alone."""
MOST_PAGES = 20
"""Pages of a server's listing that are asked for: one that names a next page for ever has its end here."""


class _Wanted(msgspec.Struct, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
    arguments: dict[str, str] = {}


class Prompts:
    """Asks servers for their prompts, as the viewer: under the same rules, limits and log as all calls.

    Args:
        gateway: whose servers they are.
        endpoints: where each server speaks MCP, by its id.
    """

    def __init__(self, gateway: Gateway, endpoints: Mapping[str, StreamableHTTP]) -> None:
        self._gateway = gateway
        self._endpoints = endpoints

    async def show(self, scope: Scope, receive: Receive, send: Send, viewer: Viewer) -> None:
        """Answer with the prompts of a server that the viewer may use, and what allows each."""
        server: str = scope["path_params"]["server"]
        prompts: list[dict[str, Any]] = []
        cursor: str | None = None
        for _ in range(MOST_PAGES):
            params = {} if cursor is None else {"cursor": cursor}
            page = await self._ask(scope, receive, send, "prompts/list", params)
            if page is None:
                return
            prompts += page["prompts"]
            if (cursor := page.get("nextCursor")) is None:
                break
        guard = self._gateway.guard
        for prompt in prompts:
            obeyed = "" if guard is None else guard.policy.prompt(server, prompt["name"])
            prompt |= {"server": server, "policy": granted(guard, server, obeyed, viewer.principal)}
        await send_json(scope, send, {"prompts": prompts})

    async def fill_in(self, scope: Scope, receive: Receive, send: Send, viewer: Viewer) -> None:
        """Answer with a prompt's messages."""
        wanted = await read_as(_Wanted, scope, receive, self._gateway)
        filled = await self._ask(scope, receive, send, "prompts/get", msgspec.to_builtins(wanted))
        if filled is not None:
            await send_json(scope, send, filled)

    async def _ask(
        self, scope: Scope, receive: Receive, send: Send, method: str, params: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """Return what a server's endpoint answers to a request; None where it was refused and that was sent.

        Raises:
            GatewayError: there is no such server, or it has answered with an error of its own.
        """
        endpoint = self._endpoints.get(scope["path_params"]["server"])
        if endpoint is None:
            raise UnknownServer("There is no such server.")
        message = msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        # What the request says of itself holds for what was sent to the console.
        fields = {
            name: value
            for name, value in scope["state"]["headers"].items()
            if not name.startswith((b"content-", b"transfer-", b"mcp-", b"accept"))
        }
        fields |= {b"content-type": b"application/json", b"accept": b"application/json"}
        fields |= {b"content-length": str(len(message)).encode(), b"mcp-protocol-version": _REVISION}
        asked = {
            **scope,
            "method": "POST",
            "headers": list(fields.items()),
            "state": {**scope["state"], "headers": fields},
        }
        begun, body = False, bytearray()

        async def keep(message: Message) -> None:
            nonlocal begun
            begun = True
            body.extend(message.get("body", b""))

        with self._gateway.results.share() as share:
            await endpoint(asked, replay(message, receive), keep)
            if not begun:
                raise CallerGone()
            share.take(len(body))
            answer: dict[str, Any] = msgspec.json.decode(body)
            if "result" in answer:
                return answer["result"]
            error: dict[str, Any] = answer.get("error", {})
            # What the gateway refuses is a problem of REST's form, alone or in the protocol's envelope.
            data: object = error.get("data")
            problem = cast("dict[str, Any]", data) if isinstance(data, dict) else answer
            if isinstance(status := problem.get("status"), int):
                given, wait = msgspec.json.encode(problem), problem.get("retry_after")
                headers = UNKEPT if wait is None else {**UNKEPT, "retry-after": str(ceil(wait))}
                await send_bytes(send, status, PROBLEM_JSON, given, scope["state"]["request_id"], headers)
                return None
            told = str(error.get("message", ""))
            match error.get("code"):
                case types.METHOD_NOT_FOUND:
                    raise NotFound("This server has no prompts.")
                case types.INTERNAL_ERROR:
                    raise InternalError
                case _:
                    raise InvalidArguments(told)
