"""Drives load and times it: wrk where it is installed, else a driver of our own; WebSockets always by our own."""

import asyncio
import base64
import itertools
import json
import math
import os
import random
import re
import shutil
import statistics
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

CONNECTIONS = 64
JSON_HEADERS = {"content-type": "application/json"}


@dataclass(frozen=True)
class Sample:
    """One round: calls a second, milliseconds of the median and of the 99th percentile, and answers that were failures.

    A failed call is cheaper than one that works: a rate with failures in it says nothing.
    """

    rate: float
    p50: float
    p99: float
    failures: int = 0
    calls: int = 0
    """All that were made, those among them whose time was not taken."""
    cpu: float = 0.0
    """Microseconds of the server's processors a call, without the database's; 0 where nobody has looked."""


Request = Callable[[int], bytes]
"""Returns the body of the n-th request."""

_FAILED = (b'"success":false', b'"isError":true', b'"error":{')
"""What an answer has that is none of a call that worked, whatever its status says."""
_EDGE = 512
"""Bytes at the beginning and at the end of an answer, in one of which it has that. To look through the 8 kB of a
customer by MCP would take the driver more than all else that it does, of the processors that the server is measured on.
"""
_DIFFERENT = 2000
"""Requests, which are sent again and again."""
_TEXT = 0x81
"""First byte of a frame that is a whole text."""
_ANSWERED_WITHIN = 60.0
"""Seconds after which a driver gives up what it can't read, or nobody answers."""
_CHECKED_FOR = 0.3
"""Seconds of our own driver beside wrk, which reads statuses but no bodies."""


@dataclass(frozen=True)
class Answer:
    """What came for one request."""

    size: int
    """Bytes of it in the buffer; 0 while it is not complete."""
    failed: bool = False


_INCOMPLETE = Answer(0)
Read = Callable[[bytearray], Answer]


async def http_load(
    port: int,
    path: str,
    body: Request,
    headers: dict[str, str],
    seconds: float,
    scratch: Path,
    connections: int = CONNECTIONS,
) -> Sample:
    """Post on keep-alive connections for some seconds."""
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())

    def encode(number: int) -> bytes:
        content = body(number)
        start = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n{head}content-length: {len(content)}\r\n\r\n"
        return start.encode() + content

    if shutil.which("wrk"):
        checked = await _drive(port, encode, read_response, b"", _CHECKED_FOR, connections=connections)
        sample = await _wrk(port, path, body, headers, seconds, scratch, connections)
        both = sample.failures + checked.failures, sample.calls + checked.calls
        return replace(sample, failures=both[0], calls=both[1])
    return await _drive(port, encode, read_response, b"", seconds, connections=connections)


async def websocket_load(
    port: int, path: str, opening: list[bytes], body: Request, seconds: float, connections: int = CONNECTIONS
) -> Sample:
    """Send text frames on WebSockets, the next when the answer is there."""
    key = base64.b64encode(os.urandom(16)).decode()
    handshake = (
        f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        f"sec-websocket-key: {key}\r\nsec-websocket-version: 13\r\nsec-websocket-protocol: mcp\r\n\r\n"
    ).encode()
    frames = [_frame(each) for each in opening]
    return await _drive(port, lambda n: _frame(body(n)), read_frame, handshake, seconds, frames, connections)


async def _wrk(
    port: int, path: str, body: Request, headers: dict[str, str], seconds: float, scratch: Path, connections: int
) -> Sample:
    bodies = [body(random.randrange(1_000_000)).decode() for _ in range(_DIFFERENT)]
    # A Lua long string takes JSON as it is.
    lines = ["local bodies = {", *(f"[==[{text}]==]," for text in bodies), "}", "local n = 0", 'wrk.method = "POST"']
    lines += [f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items()]
    lines += ["request = function() n = n % #bodies + 1 return wrk.format(nil, nil, nil, bodies[n]) end"]
    script = scratch / "wrk.lua"
    script.write_text("\n".join(lines))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", str(script)]
    process = await asyncio.create_subprocess_exec(
        *command, f"http://127.0.0.1:{port}{path}", stdout=asyncio.subprocess.PIPE
    )
    output = (await process.communicate())[0].decode()
    latency = {
        percent: _milliseconds(value) for percent, value in re.findall(r"^\s+(50|99)%\s+(\S+) *$", output, re.MULTILINE)
    }
    failures = sum(int(count) for count in re.findall(r"Non-2xx or 3xx responses: (\d+)", output))
    for errors in re.findall(r"Socket errors: (.*)", output):
        failures += sum(map(int, re.findall(r"\d+", errors)))
    rate, calls = re.findall(r"Requests/sec:\s+(\S+)", output)[0], re.findall(r"(\d+) requests in", output)[0]
    return Sample(float(rate), latency["50"], latency["99"], failures, int(calls))


def _milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


async def _drive(
    port: int,
    encode: Request,
    read: Read,
    handshake: bytes,
    seconds: float,
    opening: list[bytes] | None = None,
    connections: int = CONNECTIONS,
) -> Sample:
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    failures = 0
    finished = [loop.create_future() for _ in range(connections)]
    # Made before, as wrk's are: the driver takes of the processors that the server is measured on.
    requests = itertools.cycle([encode(random.randrange(1_000_000)) for _ in range(_DIFFERENT)])
    until = time.perf_counter() + seconds

    class Client(asyncio.Protocol):
        def __init__(self, number: int) -> None:
            self.number = number
            self.buffer = bytearray()
            self.pending = list(opening or [])
            self.started = 0.0
            self.greeting = bool(handshake)
            self.warming = True

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast("asyncio.Transport", transport)
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
            self.transport.write(next(requests))

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
            nonlocal failures
            while (answer := read(self.buffer)).size:
                del self.buffer[: answer.size]
                if not self.warming:
                    latencies.append(time.perf_counter() - self.started)
                    failures += answer.failed
                self.next()

        def connection_lost(self, error: Exception | None) -> None:
            nonlocal failures
            if not finished[self.number].done():  # closed in the middle: the call that ran has no answer
                failures += 1
                finished[self.number].set_result(None)

    clients = [await loop.create_connection(lambda n=n: Client(n), "127.0.0.1", port) for n in range(connections)]
    async with asyncio.timeout(seconds + _ANSWERED_WITHIN):
        await asyncio.gather(*finished)
    for transport, _ in clients:
        transport.close()
    if len(latencies) < 2:
        return Sample(len(latencies) / seconds, math.nan, math.nan, failures, len(latencies))
    quantiles = statistics.quantiles(latencies, n=100)
    return Sample(len(latencies) / seconds, quantiles[49] * 1e3, quantiles[98] * 1e3, failures, len(latencies))


def read_response(buffer: bytearray) -> Answer:
    """Read an HTTP response with a `Content-Length`, or in chunks."""
    head = buffer.find(b"\r\n\r\n")
    if head < 0:
        return _INCOMPLETE
    if found := re.search(rb"content-length: (\d+)", buffer[:head], re.IGNORECASE):
        size = head + 4 + int(found[1])
    else:
        size = _end_of_chunks(buffer, head + 4)
    if not 0 < size <= len(buffer):
        return _INCOMPLETE
    return Answer(size, failed=buffer[9:10] != b"2" or _is_failure(buffer, head, size))


def _end_of_chunks(buffer: bytearray, start: int) -> int:
    """Return where a body in chunks, without trailers, ends; 0 while it does not."""
    while (line := buffer.find(b"\r\n", start)) >= 0:
        length = int(buffer[start:line], 16)
        start = line + 2 + length + 2
        if not length:
            return start
    return 0


def _is_failure(buffer: bytearray, start: int, end: int) -> bool:
    edges = buffer[start : min(start + _EDGE, end)] + buffer[max(start, end - _EDGE) : end]
    return any(mark in edges for mark in _FAILED)


def _frame(payload: bytes) -> bytes:
    """Return a masked text frame, with a mask that changes nothing."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + struct.pack(">H", size)
    return b"\x81" + length + b"\0\0\0\0" + payload


def read_frame(buffer: bytearray) -> Answer:
    """Read a WebSocket frame of a server; any but a text is a failure."""
    if len(buffer) < 4:
        return _INCOMPLETE
    size = buffer[1] & 0x7F
    start = 2
    if size == 126:
        size, start = int.from_bytes(buffer[2:4]), 4
    elif size == 127:
        size, start = int.from_bytes(buffer[2:10]), 10
    end = start + size
    if len(buffer) < end:
        return _INCOMPLETE
    return Answer(end, failed=buffer[0] != _TEXT or _is_failure(buffer, start, end))
