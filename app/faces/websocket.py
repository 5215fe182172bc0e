"""MCP over WebSocket at `/mcp/<server>/ws` and `/mcp/ws`: one JSON-RPC 2.0 message a text frame.

The specification allows transports of one's own; clients of the TypeScript SDK speak this one
(`WebSocketClientTransport`, subprotocol `mcp`). The client's first request decides the era.
"""

import asyncio
from contextlib import suppress

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.server.runner import serve_dual_era_loop
from mcp.shared.message import ServerMessageMetadata, SessionMessage
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from app.errors import UnknownServer
from app.faces.jsonrpc import NotAMessage, read_message
from app.faces.protocol import Received, Subscriptions, protocol_server
from app.gateway import Gateway

_SUBPROTOCOL = "mcp"
_UNREAD_MESSAGES = 32
"""Messages that wait on either side before the other is slowed down."""

_POLICY_VIOLATION, _UNSUPPORTED_DATA, _TOO_BIG, _GOING_AWAY = 1008, 1003, 1009, 1001


class WebSocketFace:
    """Serves MCP to one WebSocket after another, many calls in flight on each."""

    def __init__(self, gateway: Gateway, *, root_server: str | None = None) -> None:
        self._gateway = gateway
        self._root_server = root_server

    def routes(self) -> list[WebSocketRoute]:
        """Return the addresses: every server's, all servers' and, where one server has the process, `/`."""
        routes = [
            WebSocketRoute("/mcp/ws", self._serve_all),
            WebSocketRoute("/mcp/{server}/ws", self._serve_named),
        ]
        if self._root_server is not None:
            routes.append(WebSocketRoute("/", self._serve_root))
        return routes

    async def _serve_all(self, socket: WebSocket) -> None:
        await self._serve(socket, None)

    async def _serve_root(self, socket: WebSocket) -> None:
        await self._serve(socket, self._root_server)

    async def _serve_named(self, socket: WebSocket) -> None:
        try:
            server = self._gateway.kind(socket.path_params["server"]).server_id
        except UnknownServer as error:
            await socket.close(_POLICY_VIOLATION, error.title)
            return
        await self._serve(socket, server)

    async def _serve(self, socket: WebSocket, server: str | None) -> None:
        offered: list[str] = socket.scope.get("subprotocols", [])
        await socket.accept(subprotocol=_SUBPROTOCOL if _SUBPROTOCOL in offered else None)
        incoming_send, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](_UNREAD_MESSAGES)
        outgoing, outgoing_receive = anyio.create_memory_object_stream[SessionMessage](_UNREAD_MESSAGES)
        async with asyncio.TaskGroup() as tasks:
            subscriptions = Subscriptions(tasks)
            protocol = protocol_server(
                self._gateway, server, "websocket", subscriptions, socket.scope["state"]["address"]
            )
            # Whichever ends first ends the connection: the client left, or the gateway stops.
            parts = [
                tasks.create_task(self._read(socket, incoming_send)),
                tasks.create_task(_write(socket, outgoing_receive)),
                tasks.create_task(serve_dual_era_loop(protocol, incoming, outgoing, lifespan_state=None)),
                tasks.create_task(self._gateway.closing.wait()),
            ]
            try:
                await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for part in parts:
                    part.cancel()
                await subscriptions.close()
        with suppress(RuntimeError, WebSocketDisconnect):
            await socket.close(_GOING_AWAY)

    async def _read(self, socket: WebSocket, incoming: MemoryObjectSendStream[SessionMessage | Exception]) -> None:
        limit = self._gateway.settings.max_request_bytes
        async with incoming:
            while True:
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                text = message.get("text")
                if text is None:
                    await socket.close(_UNSUPPORTED_DATA, "Send JSON-RPC as text frames")
                    return
                if len(text) > limit or len(text.encode()) > limit:
                    await socket.close(_TOO_BIG, f"Messages have at most {limit} bytes")
                    return
                try:
                    parsed = read_message(text)
                except NotAMessage as error:
                    await socket.send_text(error.answer.decode())
                    continue
                await incoming.send(SessionMessage(parsed, ServerMessageMetadata(request_context=Received(text))))


async def _write(socket: WebSocket, outgoing: MemoryObjectReceiveStream[SessionMessage]) -> None:
    async with outgoing:
        async for item in outgoing:
            await socket.send_text(item.message.model_dump_json(by_alias=True, exclude_none=True))
