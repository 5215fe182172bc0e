"""Gateways that fail in chosen ways, and a clock that tests turn themselves."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import respx
import uvicorn
from fastapi import FastAPI

from agents.balancing import RetryPolicy
from app.serving.process import uvicorn_config
from tests.fixtures.postgres import TestDatabase


@dataclass
class FakeTime:
    """Time that passes only while somebody sleeps."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def policy(self, random: Callable[[], float] = lambda: 0.5, **options: Any) -> RetryPolicy:
        return RetryPolicy(sleep=self.sleep, clock=lambda: self.now, random=random, **options)


def described(name: str, *, read_only: bool = False, idempotency_key: bool = False) -> dict[str, Any]:
    """A tool as a gateway lists it."""
    properties = {"idempotency_key": {"type": "string"}} if idempotency_key else {}
    return {
        "name": name,
        "inputSchema": {"type": "object", "properties": properties},
        "annotations": {"readOnlyHint": read_only},
    }


TOOLS = [described("look", read_only=True), described("store", idempotency_key=True), described("shoot")]


def mock_gateway(router: respx.MockRouter, url: str = "http://gateway") -> None:
    """Let a mocked gateway list `TOOLS` for the server `things`."""
    router.get(f"{url}/mcp/things/tools").respond(json={"success": True, "tools": TOOLS})


def problem(status: int, code: str, **others: Any) -> httpx.Response:
    body = {"success": False, "status": status, "code": code, "title": code, "detail": f"It is {code}.", **others}
    return httpx.Response(status, json=body, headers={"content-type": "application/problem+json"})


@contextlib.asynccontextmanager
async def serve_at(app: FastAPI, port: int) -> AsyncGenerator[None]:
    """Serve an application on a port that was free a moment ago, as a restarted gateway does."""
    server = uvicorn.Server(uvicorn_config(app, app.state.gateway.settings.model_copy(update={"port": port})))
    running = asyncio.create_task(server.serve())
    while not server.started and not running.done():
        await asyncio.wait([running], timeout=0.01)
    assert server.started
    try:
        yield
    finally:
        app.state.gateway.closing.set()
        server.should_exit = True
        await running


@dataclass(frozen=True)
class GatewayProcess:
    """A gateway in a process of its own that can be killed."""

    process: asyncio.subprocess.Process
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def websocket_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    async def kill(self) -> None:
        """End it without a word to anybody."""
        self.process.kill()
        await self.process.wait()


@contextlib.asynccontextmanager
async def gateway_processes(number: int, database: TestDatabase) -> AsyncGenerator[list[GatewayProcess]]:
    """Start gateways as processes on free ports, all on one database."""
    environment = {**os.environ, "DATABASE_URL": database.url, "DATABASE_READER_URL": database.reader_url}
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.agents.clock_gateway",
            stdout=asyncio.subprocess.PIPE,
            env=environment,
        )
        for _ in range(number)
    ]
    try:
        gateways: list[GatewayProcess] = []
        async with asyncio.timeout(90):
            for process in processes:
                assert process.stdout is not None
                gateways.append(GatewayProcess(process, int(await process.stdout.readline())))
        yield gateways
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
            await process.wait()


@contextlib.asynccontextmanager
async def scripted_server(*scripts: bytes | None) -> AsyncGenerator[str]:
    """Serve one script a connection: bytes to send before closing, or None to close without a byte.

    A request is read to its end first, so that the connection breaks in the answer. The last script goes on.
    """
    left = list(scripts)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                await reader.readexactly(int(line.partition(b":")[2]))
        script = left.pop(0) if len(left) > 1 else left[0]
        if script is not None:
            writer.write(script)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
