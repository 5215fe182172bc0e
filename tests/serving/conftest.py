"""What tests of connections share: a gateway whose server takes its time, and a caller who writes bytes."""

from collections.abc import AsyncGenerator

import pytest

from app.main import create_app
from tests.fixtures.gateway import Served, serve
from tests.serving.callers import Raw, SlowMCPServer, caller


@pytest.fixture
async def slow() -> SlowMCPServer:
    """The server. What waits in it is let go at the end."""
    return SlowMCPServer()


@pytest.fixture
async def gateway(slow: SlowMCPServer) -> AsyncGenerator[Served]:
    """The gateway, as it is where nobody sets anything."""
    async with serve(create_app([slow])) as served:
        yield served
        slow.release.set()


@pytest.fixture
async def raw(gateway: Served) -> AsyncGenerator[Raw]:
    """A connection of somebody who writes requests by hand."""
    async with caller(gateway) as connection:
        yield connection
