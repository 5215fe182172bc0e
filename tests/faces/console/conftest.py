"""What the tests of the console share."""

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import httpx
import pytest

from app.servers.base import BaseMCPServer
from tests.faces.console.desk import Desk, opened
from tests.faces.raw import client_of


@pytest.fixture
def more() -> Sequence[BaseMCPServer]:
    """Servers that the gateway has beside the clock; a module has its own."""
    return ()


@pytest.fixture
async def desk(tmp_path: Path, more: Sequence[BaseMCPServer]) -> AsyncGenerator[Desk]:
    async with opened(tmp_path, more=more) as found:
        yield found


@pytest.fixture
async def http(desk: Desk) -> AsyncGenerator[httpx.AsyncClient]:
    async with client_of(desk.served) as client:
        yield client
