"""Drives load and times it: wrk where it is installed, else a driver of our own; WebSockets always by our own."""

import asyncio
import base64
import json
import os
import random
import re
import shutil
import statistics
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CONNECTIONS = 64
JSON_HEADERS = {"content-type": "application/json"}


@dataclass(frozen=True)
class Sample:
    """One round: calls a second, and milliseconds of the median and of the 99th percentile."""

    rate: float
    p50: float
    p99: float
    failures: int = 0


Request = Callable[[int], bytes]
"""Returns the body of the n-th request."""


async def http_load(
    port: int, path: str, body: Request, headers: dict[str, str], seconds: float, scratch: Path
) -> Sample:
    """Post on 64 keep-alive connections for some seconds."""
    if shutil.which("wrk"):
        return await _wrk(port, path, body, headers, seconds, scratch)
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())

    def encode(number: int) -> bytes:
        content = body(number)
        start = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n{head}content-length: {len(content)}\r\n\r\n"
        return start.encode() + content

    return await _drive(port, encode, _http_end, b"", seconds)


async def websocket_load(port: int, path: str, opening: list[bytes], body: Request, seconds: float) -> Sample:
    """Send text frames on 64 WebSockets, the next when the answer is there."""
    key = base64.b64encode(os.urandom(16)).decode()
    handshake = (
        f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        f"sec-websocket-key: {key}\r\nsec-websocket-version: 13\r\nsec-websocket-protocol: mcp\r\n\r\n"
    ).encode()
    return await _drive(port, lambda n: _frame(body(n)), _frame_end, handshake, seconds, [_frame(o) for o in opening])


async def _wrk(port: int, path: str, body: Request, headers: dict[str, str], seconds: float, scratch: Path) -> Sample:
    bodies = [body(random.randrange(1_000_000)).decode() for _ in range(2000)]
    # A Lua long string takes JSON as it is.
    lines = ["local bodies = {", *(f"[==[{text}]==]," for text in bodies), "}", "local n = 0", 'wrk.method = "POST"']
    lines += [f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items()]
    lines += ["request = function() n = n % #bodies + 1 return wrk.format(nil, nil, nil, bodies[n]) end"]
    script = scratch / "wrk.lua"
    script.write_text("\n".join(lines))
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "--latency", "-s", str(script)]
    process = await asyncio.create_subprocess_exec(
        *command, f"http://127.0.0.1:{port}{path}", stdout=asyncio.subprocess.PIPE
    )
    output = (await process.communicate())[0].decode()
    latency = {
        percent: _milliseconds(value) for percent, value in re.findall(r"^\s+(50|99)%\s+(\S+) *$", output, re.MULTILINE)
    }
    failures = sum(int(count) for count in re.findall(r"Non-2xx or 3xx responses: (\d+)", output))
    return Sample(float(re.findall(r"Requests/sec:\s+(\S+)", output)[0]), latency["50"], latency["99"], failures)


def _milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


async def _drive(
    port: int,
    encode: Request,
    end: Callable[[bytearray], int],
    handshake: bytes,
    seconds: float,
    opening: list[bytes] | None = None,
) -> Sample:
    loop = asyncio.get_running_loop()
    until = time.perf_counter() + seconds
    latencies: list[float] = []
    finished = [loop.create_future() for _ in range(CONNECTIONS)]

    class Client(asyncio.Protocol):
        def __init__(self, number: int) -> None:
            self.number = number
            self.buffer = bytearray()
            self.pending = list(opening or [])
            self.started = 0.0
            self.greeting = bool(handshake)
            self.warming = True

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport
            if self.greeting:
                transport.write(handshake)
            else:
                self.next()

        def next(self) -> None:
            self.started = time.perf_counter()
            if self.started > until:
                finished[self.number].set_result(None)
                return
            if self.pending:
                self.transport.write(self.pending.pop(0))
                return
            self.warming = False
            self.transport.write(encode(random.randrange(1_000_000)))

        def data_received(self, data: bytes) -> None:
            self.buffer += data
            if self.greeting:
                cut = self.buffer.find(b"\r\n\r\n")
                if cut < 0:
                    return
                del self.buffer[: cut + 4]
                self.greeting = False
                self.next()
                return
            while (size := end(self.buffer)) > 0:
                del self.buffer[:size]
                if not self.warming:
                    latencies.append(time.perf_counter() - self.started)
                self.next()

    clients = [await loop.create_connection(lambda n=n: Client(n), "127.0.0.1", port) for n in range(CONNECTIONS)]
    await asyncio.gather(*finished)
    for transport, _ in clients:
        transport.close()
    quantiles = statistics.quantiles(latencies, n=100)
    return Sample(len(latencies) / seconds, quantiles[49] * 1e3, quantiles[98] * 1e3)


def _http_end(buffer: bytearray) -> int:
    head = buffer.find(b"\r\n\r\n")
    found = re.search(rb"content-length: (\d+)", buffer[:head], re.IGNORECASE) if head >= 0 else None
    size = head + 4 + int(found[1]) if found else 0
    return size if 0 < size <= len(buffer) else 0


def _frame(payload: bytes) -> bytes:
    """Return a masked text frame, with a mask that changes nothing."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + struct.pack(">H", size)
    return b"\x81" + length + b"\0\0\0\0" + payload


def _frame_end(buffer: bytearray) -> int:
    if len(buffer) < 4:
        return 0
    size = buffer[1] & 0x7F
    start = 2
    if size == 126:
        size, start = int.from_bytes(buffer[2:4]), 4
    elif size == 127:
        size, start = int.from_bytes(buffer[2:10]), 10
    return start + size if len(buffer) >= start + size else 0
