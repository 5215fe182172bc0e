"""A program that serves, and cancels what it has begun, goes on with its event loop as it was before."""

import asyncio

from app.main import create_app
from app.serving.process import Site, serve_sites
from app.settings import Settings
from tests.clock import ClockMCPServer
from tests.faces.raw import client_of
from tests.fixtures.gateway import serve

WITHIN = 30.0


async def test_whoever_cancels_a_server_is_left_with_nothing_of_it() -> None:
    before = asyncio.all_tasks()
    for _ in range(3):
        given = Settings(port=0)
        ready: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(serve_sites([Site(create_app([ClockMCPServer], given), given)], ready.set_result))
        async with asyncio.timeout(WITHIN):
            await ready
            serving.cancel()
            await asyncio.wait([serving])
        assert serving.cancelled()
        assert asyncio.all_tasks() == before
        # The system gives numbers of closed listeners anew, of which the loop may know nothing any more.
        async with serve(create_app([ClockMCPServer], Settings())) as served, client_of(served) as http:
            assert (await http.get("/health")).status_code == 200
