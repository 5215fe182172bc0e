"""Callers who write bytes as they like, and a server for them."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from app.results import RawResult
from app.servers.base import BaseMCPServer
from app.servers.calls import CallContext
from app.servers.declaring import route, tool
from app.serving.connections import Connections
from app.serving.http import HttpProtocol
from tests.clock import ClockTime
from tests.faces.raw import WITHIN
from tests.fixtures.gateway import Served

HOST = b"host: 127.0.0.1\r\n"
JSON = b"content-type: application/json\r\n"
LARGE = 16 * 1024 * 1024
"""Bytes of an answer that the kernel's buffers can't take."""


class SlowMCPServer(BaseMCPServer):
    """Holds calls until a test lets them go, and shows what it received."""

    server_id = "slow"

    def __init__(self) -> None:
        super().__init__()
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.release = asyncio.Event()

    @tool(read_only=True)
    async def get_time(self, zone: str = "UTC") -> ClockTime:
        """Answer at once."""
        return ClockTime(zone=zone)

    @tool()
    async def wait(self) -> ClockTime:
        """Answer when the test says so."""
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return ClockTime(zone="late")

    @tool()
    async def get_much(self) -> RawResult[ClockTime]:
        """Answer at length."""
        return RawResult(b'{"success":true,"zone":"%b","ticks":7}' % (b"x" * LARGE))

    @route("/fields", methods=["GET", "POST"], acts_as="get_time")
    async def fields(self, request: Request, context: CallContext) -> Response:
        """Return the request's fields and the size of its body, once the body is there."""
        body = await request.body()
        names = [name.decode() for name, _ in request.scope["headers"]]
        return Response(json.dumps({"fields": names, "size": len(body)}), media_type="application/json")

    @route("/unread", methods=["POST"], acts_as="get_time")
    async def unread(self, request: Request, context: CallContext) -> Response:
        """Leave the body alone until the test says so."""
        self.started.set()
        await self.release.wait()
        return Response(json.dumps({"size": len(await request.body())}), media_type="application/json")

    @route("/events", methods=["GET"], acts_as="get_time", endless=True)
    async def events(self, request: Request, context: CallContext) -> Response:
        """Say one thing, and then nothing for ever."""

        async def stream() -> AsyncIterator[bytes]:
            yield b"data: 1\n\n"
            await self.release.wait()
            yield b"data: 2\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")


@dataclass
class Answer:
    status: int
    fields: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Raw:
    """One connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, *parts: bytes) -> None:
        """Write without waiting for anybody to take it."""
        self._writer.write(b"".join(parts))

    async def sent(self) -> None:
        """Wait until the kernel has all."""
        async with asyncio.timeout(WITHIN):
            await self._writer.drain()

    async def answer(self) -> Answer:
        """Read one answer."""
        async with asyncio.timeout(WITHIN):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            body = await self._reader.readexactly(int(fields["content-length"]))
        return Answer(int(head[0].split()[1]), fields, body)

    async def line(self) -> bytes:
        async with asyncio.timeout(WITHIN):
            return await self._reader.readline()

    async def at_least(self, size: int) -> bytes:
        """Read so many bytes."""
        async with asyncio.timeout(WITHIN):
            return await self._reader.readexactly(size)

    async def some(self) -> bytes:
        """Read what is there next."""
        async with asyncio.timeout(WITHIN):
            return await self._reader.read(65536)

    async def ended(self) -> bytes:
        """Wait until the gateway ends the connection; return what came before."""
        received = b""
        async with asyncio.timeout(WITHIN):
            try:
                while piece := await self._reader.read(65536):
                    received += piece
            except ConnectionError:
                pass
        return received

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def caller(served: Served, *, reads_little: bool = False) -> AsyncGenerator[Raw]:
    """Connect.

    Args:
        served: to what.
        reads_little: take next to nothing of what comes unless it is asked for.
    """
    link = socket.socket()
    link.setblocking(False)
    if reads_little:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await asyncio.get_running_loop().sock_connect(link, ("127.0.0.1", served.port))
    reader, writer = await asyncio.open_connection(sock=link, limit=4096 if reads_little else 2**20)
    raw = Raw(reader, writer)
    try:
        yield raw
    finally:
        writer.transport.abort()


def post(tool_name: str, body: bytes = b"{}", fields: bytes = b"", *, server: str = "slow") -> bytes:
    """Return a call."""
    head = b"POST /mcp/%b/tools/%b HTTP/1.1\r\n" % (server.encode(), tool_name.encode())
    return head + HOST + JSON + fields + b"content-length: %d\r\n\r\n" % len(body) + body


def connections(served: Served) -> Connections:
    """Return what looks after the connections of a gateway."""
    found = served.server.config.http_protocol_class.args[0]  # type: ignore[attr-defined]
    assert isinstance(found, Connections)
    return found


def protocols(served: Served) -> list[HttpProtocol]:
    """Return the open HTTP connections of a gateway."""
    return [protocol for protocol in served.server.server_state.connections if isinstance(protocol, HttpProtocol)]


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop, in which the gateway runs too, go on until something is so."""
    async with asyncio.timeout(WITHIN):
        while not condition():
            await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=0.005)
