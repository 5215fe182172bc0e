"""MCP by hand: what the official client is too polite to send, and what it does not show."""

import asyncio
import json
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from app.servers.calls import JsonObject
from tests.fixtures.gateway import Served

ERAS = ("2025-11-25", "2026-07-28")
STARTS_WITHIN = 60.0
"""Seconds that a process of our own may take to its first answer."""
WITHIN = 20.0
"""Seconds in which everything that a test waits for happens, or the test fails: less than the gateway's own limits."""

_PREFIX = "io.modelcontextprotocol/"


def client_of(served: Served) -> httpx.AsyncClient:
    """Return an HTTP client of the gateway. Nothing here is TLS, and certificates take longer to load than a call."""
    # As many connections as there are requests, or a test of the gateway's limits would meet httpx's.
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=served.url, timeout=WITHIN, verify=False, limits=limits)


def request(era: str, method: str, params: JsonObject | None = None, *, number: int = 1, **meta: Any) -> JsonObject:
    """Return a JSON-RPC request in the form of its era."""
    if era == "2026-07-28":
        meta[f"{_PREFIX}protocolVersion"] = era
        meta[f"{_PREFIX}clientInfo"] = {"name": "raw", "version": "1"}
        meta[f"{_PREFIX}clientCapabilities"] = {}
    every: JsonObject = {**(params or {}), **({"_meta": meta} if meta else {})}
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": every}


def headers(era: str, message: JsonObject) -> dict[str, str]:
    """Return the headers that go with a request over HTTP."""
    fields = {
        "accept": "application/json, text/event-stream",
        "content-type": "application/json",
        "mcp-protocol-version": era,
    }
    if era == "2026-07-28":
        fields["mcp-method"] = str(message["method"])
        params: Any = message.get("params")
        if name := params.get("name") or params.get("uri"):
            fields["mcp-name"] = name
    return fields


async def post(served: Served, era: str, method: str, params: JsonObject | None = None, **more: str) -> httpx.Response:
    """Send one request to the clock over Streamable HTTP; `more` are headers, with `_` for `-`."""
    message = request(era, method, params)
    fields = headers(era, message) | {name.replace("_", "-"): value for name, value in more.items()}
    async with client_of(served) as http:
        return await http.post("/mcp/clock", json=message, headers=fields)


async def send_and_hold(
    served: Served, path: str, body: bytes, fields: dict[str, str]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """POST a whole HTTP request and leave its connection open; who closes the writer is a caller who goes away."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    head = {"host": "127.0.0.1", "content-length": str(len(body)), **fields}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", ""]
    writer.write("\r\n".join(lines).encode() + body)
    await writer.drain()
    return reader, writer


async def exchange(served: Served, path: str, body: bytes, fields: dict[str, str]) -> tuple[int, bytes]:
    """POST as it stands, where HTTP libraries would refuse to; return the status and the body."""
    reader, writer = await send_and_hold(served, path, body, {**fields, "connection": "close"})
    async with asyncio.timeout(WITHIN):
        answer = await reader.read()
    writer.close()
    head, _, content = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), content


class Duplex:
    """A connection that both sides send JSON-RPC messages on."""

    async def send(self, message: Any) -> None:
        raise NotImplementedError

    async def receive(self) -> dict[str, Any]:
        raise NotImplementedError

    async def ask(self, message: JsonObject) -> dict[str, Any]:
        """Send a request and return its answer; what comes before it is dropped."""
        await self.send(message)
        while (answer := await self.receive()).get("id") != message["id"]:
            pass
        return answer


class Pipe(Duplex):
    """The JSON-RPC messages, a line each, of a process that speaks over its standard input and output."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process, self.stdin, self.stdout = process, process.stdin, process.stdout

    async def send(self, message: Any) -> None:
        self.stdin.write((message if isinstance(message, str) else json.dumps(message)).encode() + b"\n")
        await self.stdin.drain()

    async def receive(self) -> dict[str, Any]:
        async with asyncio.timeout(STARTS_WITHIN):
            message: dict[str, Any] = json.loads(await self.stdout.readline())
            return message

    async def call(self, era: str, tool: str, number: int) -> dict[str, Any]:
        """Call a tool without arguments and return its result object."""
        answer = await self.ask(request(era, "tools/call", {"name": tool, "arguments": {}}, number=number))
        result: dict[str, Any] = answer["result"]["structuredContent"]
        return result


@asynccontextmanager
async def launched(era: str, command: Sequence[str], **options: Any) -> AsyncGenerator[Pipe]:
    """Launch a process as desktop clients do, with the handshake where the era has one; end it on leaving."""
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE, **options)
    pipe = Pipe(process)
    try:
        if era != "2026-07-28":
            await pipe.ask(request(era, "initialize", handshake(era), number=1000))
            await pipe.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        yield pipe
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


class Messages(Duplex):
    """The JSON-RPC messages of a duplex connection."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def send(self, message: Any) -> None:
        await self.socket.send(json.dumps(message))

    async def receive(self) -> dict[str, Any]:
        async with asyncio.timeout(WITHIN):
            message: dict[str, Any] = json.loads(await self.socket.recv())
            return message


@asynccontextmanager
async def websocket(served: Served, era: str, path: str = "/mcp/clock/ws", **options: Any) -> AsyncGenerator[Messages]:
    """Open MCP over WebSocket, with the handshake where the era has one."""
    url = f"{served.websocket_url}{path}"
    async with connect(url, subprotocols=[Subprotocol("mcp")], **options) as socket:
        messages = Messages(socket)
        if era != "2026-07-28":
            await initialize(messages, era)
        yield messages


async def initialize(messages: Messages, era: str) -> dict[str, Any]:
    """Shake hands as clients of 2025 do; return the result."""
    answer = await messages.ask(request(era, "initialize", handshake(era), number=1000))
    await messages.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
    result: dict[str, Any] = answer["result"]
    return result


def handshake(era: str) -> JsonObject:
    """Return the parameters of `initialize`."""
    return {"protocolVersion": era, "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}


@asynccontextmanager
async def event_stream(
    served: Served, message: JsonObject, era: str, *, path: str = "/mcp/clock", fields: Mapping[str, str] | None = None
) -> AsyncGenerator[AsyncIterator[dict[str, Any]]]:
    """Send a request over Streamable HTTP and iterate over the messages that it is answered with."""
    async with (
        client_of(served) as http,
        http.stream("POST", path, json=message, headers=headers(era, message) | dict(fields or {})) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream"), await response.aread()

        async def messages() -> AsyncIterator[dict[str, Any]]:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    yield json.loads(line.removeprefix("data: "))

        yield messages()
