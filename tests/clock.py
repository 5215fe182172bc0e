"""A server with no backend, for tests of the spine: it answers, waits, fails and changes on command."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from app.errors import BackendUnavailable, Conflict, NotFound
from app.results import RawResult, Result
from app.servers.base import BaseMCPServer
from app.servers.calls import CallContext, JsonObject
from app.servers.declaring import resource, route, tool, watch
from app.servers.resources import Update

CALL: JsonObject = {"name": "get_time", "arguments": {"zone": "CET"}}
CALLS: Sequence[JsonObject] = [
    CALL,
    {"name": "get_time"},
    {"name": "get_time", "arguments": {}},
    {"name": "get_time", "arguments": {"zone": 'a "quoted" \\ é 漢 \u2028'}},
    {"name": "get_raw_time", "arguments": {}},
    {"name": "get_time", "arguments": {"zone": 5, "more": [1, {"deep": None}]}},
    {"name": "get_time", "arguments": {"zone": "Atlantis"}},
    {"name": "oversleep"},
    {"name": "fail", "arguments": {"how": "down"}},
    {"name": "fail", "arguments": {"how": "badly"}},
]
"""Calls of every kind of outcome, which every lane has to answer alike."""


class ClockTime(Result):
    zone: str
    ticks: int = 0


class ClockMCPServer(BaseMCPServer):
    """Tells the time."""

    def __init__(self) -> None:
        super().__init__()
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.watchers: list[asyncio.Queue[Update]] = []
        self.unwatched = asyncio.Event()

    @tool(read_only=True, example={"zone": "UTC"}, errors=(NotFound,))
    async def get_time(self, zone: Annotated[str, Field(min_length=1, max_length=20)] = "UTC") -> ClockTime:
        """Return the time in a zone."""
        if zone == "Atlantis":
            raise NotFound("There is no zone 'Atlantis'.")
        return ClockTime(zone=zone)

    @tool(read_only=True)
    async def get_raw_time(self) -> RawResult[ClockTime]:
        """Return the time as the backend wrote it."""
        return RawResult(b'{"success":true,"zone":"UTC","ticks":7}')

    @tool(read_only=True)
    async def tick(self, context: CallContext, ticks: Annotated[int, Field(ge=1, le=100)]) -> ClockTime:
        """Count, and report each tick."""
        for n in range(ticks):
            await context.report_progress(n + 1, ticks, f"tick {n + 1}")
        return ClockTime(zone="UTC", ticks=ticks)

    @tool(timeout=0.05)
    async def oversleep(self) -> ClockTime:
        """Take longer than allowed."""
        await asyncio.Event().wait()
        raise AssertionError

    @tool()
    async def wait_for_cancellation(self) -> ClockTime:
        """Run until somebody cancels."""
        self.started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        raise AssertionError

    @tool()
    async def fail(self, how: str) -> ClockTime:
        """Fail in one of the known ways."""
        match how:
            case "conflict":
                raise Conflict("The clock is set already.")
            case "down":
                raise BackendUnavailable("The clock has stopped. Wind it up.")
            case "timeout":
                raise TimeoutError("password=hunter2")
            case _:
                raise RuntimeError("password=hunter2")

    @resource("clock://zones{?limit}")
    async def zones(self, limit: Annotated[int, Field(ge=1, le=10)] = 3) -> ClockTime:
        """The zones."""
        return ClockTime(zone="all", ticks=limit)

    @resource("clock://zones/{zone}")
    async def zone(self, zone: str) -> ClockTime:
        """One zone."""
        if zone == "Atlantis":
            raise NotFound("There is no zone 'Atlantis'.")
        return ClockTime(zone=zone)

    @watch("clock://zones/{zone}")
    @asynccontextmanager
    async def watch_zone(self, zone: str) -> AsyncGenerator[AsyncIterator[Update]]:
        queue: asyncio.Queue[Update] = asyncio.Queue()

        async def updates() -> AsyncGenerator[Update]:
            while True:
                yield {**await queue.get(), "zone": zone}

        self.watchers.append(queue)
        try:
            yield updates()
        finally:
            self.watchers.remove(queue)
            if not self.watchers:
                self.unwatched.set()

    @route("/chimes/{ticks:int}", methods=["GET", "POST"], acts_as="tick")
    async def chimes(self, request: Request, context: CallContext, ticks: int) -> Response:
        """Strike, as a stream; a POST counts the bytes of its body first."""
        if ticks == 13:
            raise NotFound("No clock strikes thirteen.")
        received = 0
        if request.method == "POST":
            async for chunk in request.stream():
                received += len(chunk)

        async def strikes() -> AsyncGenerator[bytes]:
            for n in range(ticks):
                yield f"{n + 1} {received}\n".encode()

        return StreamingResponse(strikes(), media_type="text/plain")
