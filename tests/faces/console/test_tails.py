"""Streams of events that servers have, as a page of the console reads them."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, suppress

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from app.servers.base import BaseMCPServer
from app.servers.calls import CallContext
from app.servers.declaring import route, tool
from tests.clock import ClockTime
from tests.faces.console.desk import MARK, Desk, cookie
from tests.faces.raw import WITHIN, client_of

PATH = "/console/streams/river/banks/left/flow"


class RiverMCPServer(BaseMCPServer):
    """Flows for as long as somebody looks."""

    def __init__(self) -> None:
        super().__init__()
        self.dry = asyncio.Event()

    @tool(read_only=True)
    async def look(self, bank: str) -> ClockTime:
        """Look at it."""
        return ClockTime(zone=bank)

    @route("/banks/{bank}/flow", methods=("GET",), acts_as="look", endless=True)
    async def flow(self, request: Request, context: CallContext, bank: str) -> Response:
        """Flow."""

        async def drops() -> AsyncGenerator[bytes]:
            try:
                while True:
                    yield f"data: {bank} {context.principal.id}\n\n".encode()
                    await asyncio.Event().wait()
            finally:
                self.dry.set()

        return StreamingResponse(drops(), media_type="text/event-stream")

    @route("/banks/{bank}/mud", methods=("GET",), acts_as="look")
    async def mud(self, request: Request, context: CallContext, bank: str) -> Response:
        """End."""
        return Response(b"mud")


@pytest.fixture
def river() -> RiverMCPServer:
    return RiverMCPServer()


@pytest.fixture
def more(river: RiverMCPServer) -> Sequence[BaseMCPServer]:
    return (river,)


async def test_a_stream_is_the_viewers_as_at_its_own_address(desk: Desk, http: httpx.AsyncClient) -> None:
    for role, code in (
        ("stranger", "insufficient_scope"),
        ("bot", "not_confined"),
        ("timekeeper", "insufficient_scope"),
    ):
        answer = await http.get(PATH, headers=desk.bearer(role))
        assert (answer.status_code, answer.json()["code"]) == (403, code), role
    assert (await http.get(PATH)).json()["code"] == "unauthenticated"
    session = cookie(await desk.sign_in(http, "operator"))
    async with http.stream("GET", PATH, headers=session) as answer:
        assert await anext(answer.aiter_lines()) == f"data: left {desk.keys['operator'].id}"
    other_page = {**session, "origin": "https://evil.example"}
    assert (await http.get(PATH, headers=other_page)).json()["code"] == "origin_refused"
    # What ends is downloaded where it is, by who shows a key.
    assert (await http.get(PATH.replace("flow", "mud"), headers=session)).status_code == 404


@pytest.mark.parametrize("how", ["signed out", "revoked", "gone"])
async def test_a_stream_ends_with_what_it_was_opened_by(
    desk: Desk, http: httpx.AsyncClient, river: RiverMCPServer, how: str
) -> None:
    session = cookie(await desk.sign_in(http, "operator"))
    async with AsyncExitStack() as stack:
        reader = await stack.enter_async_context(client_of(desk.served))
        answer = await stack.enter_async_context(reader.stream("GET", PATH, headers=session))
        lines = answer.aiter_lines()
        assert (await anext(lines)).startswith("data: left")
        assert not river.dry.is_set()
        match how:
            case "signed out":
                assert (await http.delete("/console/session", headers={**session, **MARK})).status_code == 204
            case "revoked":
                await desk.revoke("operator")
            case _:
                await answer.aclose()
        async with asyncio.timeout(WITHIN):
            await river.dry.wait()
            if how != "gone":
                with suppress(httpx.RemoteProtocolError):  # only so can what is not whole be told from what is
                    async for _ in lines:
                        pass
    if how != "gone":
        assert (await http.get(PATH, headers=session)).json()["code"] == "unauthenticated"
