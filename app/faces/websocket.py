"""MCP over WebSocket at `/mcp/<server>/ws` and `/mcp/ws`: one JSON-RPC 2.0 message a text frame.

The specification allows transports of one's own; clients of the TypeScript SDK speak this one
(`WebSocketClientTransport`, subprotocol `mcp`). The client's first request decides the era.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import anyio
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from app.catalogue import quoted
from app.errors import GatewayError, IdentityUnavailable, NotFound
from app.faces.duplex import Backlog, Duplex, Write
from app.faces.http import send_refusal
from app.gateway import Gateway
from app.servers.calls import Peer
from app.servers.origins import Origin, origin_of_headers

_SUBPROTOCOL = "mcp"
_FAREWELL = 1.0
"""Seconds that a close may wait for what is before it."""

_CLOSED = (WebSocketDisconnect, RuntimeError)
"""What Starlette and uvicorn raise when a closed socket is to send."""
_POLICY_VIOLATION, _UNSUPPORTED_DATA, _TOO_BIG, _GOING_AWAY, _TRY_AGAIN_LATER = 1008, 1003, 1009, 1001, 1013


FRAMES = "switchboard.frames"
"""The extension of ASGI by which a WebSocket on a socket of ours offers its `Frames`."""


class Frames:
    """A WebSocket on a socket of ours, whose texts can be taken and written as they are.

    By ASGI's messages a text passes two queues, four coroutines and as many changes of tasks, which cost a quick call
    as much as the rest of it. So a text that somebody takes at once, or that can be written at once, passes as it is.
    """

    def offer_to(self, take: Callable[[bytes], bool]) -> None:
        """Offer each text that comes while `receive` waits for one to `take`, and give it to `receive` if it says no.

        Args:
            take: tells whether it has taken the text, which is UTF-8 if it has.
        """
        raise NotImplementedError

    def write(self, text: bytes) -> bool:
        """Write a text, which is UTF-8, as `send` would; False, and nothing is done, where it has to be sent."""
        raise NotImplementedError


class WebSocketFace:
    """Serves MCP to one WebSocket after another, many calls in flight on each."""

    def __init__(self, gateway: Gateway, *, root_server: str | None = None) -> None:
        self._gateway = gateway
        self._root_server = root_server
        self._backlog = Backlog(gateway.settings.max_unsent_bytes)

    def routes(self) -> list[WebSocketRoute]:
        """Return the addresses: every server's, all servers' and, where one server has the process, `/`."""
        routes = [
            WebSocketRoute("/mcp/ws", self._serve_all),
            WebSocketRoute("/mcp/{server}/ws", self._serve_named),
        ]
        if self._root_server is not None:
            routes.append(WebSocketRoute("/", self._serve_root))
        return [*routes, WebSocketRoute("/{path:path}", self._serve_nothing)]

    async def _serve_nothing(self, socket: WebSocket) -> None:
        scope = socket.scope
        root, servers = scope.get("root_path", ""), self._gateway.offered_to(scope["state"]["principal"]).servers
        missing = NotFound(
            f"No WebSocket is at {quoted(scope['path'])}. {root}/mcp/ws serves all servers, "
            f"{root}/mcp/<server>/ws one: {', '.join(servers)}."
        )
        await send_refusal(scope, socket.send, missing)

    async def _serve_all(self, socket: WebSocket) -> None:
        await self._serve(socket, None)

    async def _serve_root(self, socket: WebSocket) -> None:
        assert self._root_server is not None
        await self._serve_one(socket, self._root_server)

    async def _serve_named(self, socket: WebSocket) -> None:
        await self._serve_one(socket, socket.path_params["server"])

    async def _serve_one(self, socket: WebSocket, name: str) -> None:
        try:
            server = self._gateway.server_for(name, socket.scope["state"]["principal"])
        except GatewayError as error:
            await send_refusal(socket.scope, socket.send, error)
            return
        await self._serve(socket, server)

    async def _serve(self, socket: WebSocket, server: str | None) -> None:
        offered: list[str] = socket.scope.get("subprotocols", [])
        await socket.accept(subprotocol=_SUBPROTOCOL if _SUBPROTOCOL in offered else None)
        state = socket.scope["state"]
        # Each message is a call of its own, so a handshake's span is the parent of none.
        conversation = Origin(conversation=origin_of_headers(state["headers"]).conversation)
        peer = Peer(state["principal"], state["client"], state["address"], conversation)
        frames: Frames | None = socket.scope.get("extensions", {}).get(FRAMES)
        write_now = None if frames is None else frames.write
        connection = Duplex(
            self._gateway, server, "websocket", _writer(socket), self._backlog, peer, write_now=write_now
        )
        ended: list[GatewayError] = []

        def end(reason: GatewayError) -> None:
            ended.append(reason)
            connection.give_up()

        with peer.principal.holding(end):
            await connection.serve(self._read(socket, connection, frames))
        if ended:
            code = _TRY_AGAIN_LATER if isinstance(ended[0], IdentityUnavailable) else _POLICY_VIOLATION
            await _close(socket, code, ended[0].title)
        else:
            await _close(socket, _GOING_AWAY)

    async def _read(self, socket: WebSocket, connection: Duplex, frames: Frames | None) -> None:
        limit = self._gateway.settings.max_request_bytes
        if frames is not None:
            frames.offer_to(connection.take_now)
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            if text is None:
                await _close(socket, _UNSUPPORTED_DATA, "Send JSON-RPC as text frames")
                return
            encoded = text.encode()
            if len(encoded) > limit:
                await _close(socket, _TOO_BIG, f"Messages have at most {limit} bytes")
                return
            await connection.take(encoded)


def _writer(socket: WebSocket) -> Write:
    async def write(text: bytes) -> None:
        try:
            await socket.send_text(text.decode())
        except _CLOSED:
            raise anyio.BrokenResourceError from None

    return write


async def _close(socket: WebSocket, code: int, reason: str | None = None) -> None:
    """Close a socket, unless that is done; a client that takes nothing is not told why."""
    with suppress(*_CLOSED, TimeoutError):
        async with asyncio.timeout(_FAREWELL):
            await socket.close(code, reason)
