"""What the tests of the console share."""

from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest

from tests.faces.console.desk import Desk, opened
from tests.faces.raw import client_of


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncGenerator[Desk]:
    async with opened(tmp_path) as found:
        yield found


@pytest.fixture
async def http(desk: Desk) -> AsyncGenerator[httpx.AsyncClient]:
    async with client_of(desk.served) as client:
        yield client
