"""The official clients and suites of `package.json`, run by Node."""

import asyncio
import warnings
from collections.abc import AsyncGenerator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPDeprecationWarning

from app.main import create_app
from app.settings import Settings
from tests.clock import ClockMCPServer
from tests.conformance.server import ConformanceMCPServer
from tests.fixtures.gateway import Served, serve
from tests.fixtures.node import ENVIRONMENT, NODE, install

HERE = Path(__file__).parent
_RUN_WITHIN = 100.0

RunNode = Callable[..., Coroutine[Any, Any, tuple[int, str]]]


async def _node(*arguments: str | Path) -> tuple[int, str]:
    """Run a program of Node's; return its exit code and what it printed. Nothing of it outlives the call."""
    process = await asyncio.create_subprocess_exec(
        NODE,
        *arguments,
        cwd=HERE,
        env=ENVIRONMENT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_RUN_WITHIN):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, output.decode(errors="replace")


@pytest.fixture(scope="session")
async def node() -> RunNode:
    """Run Node with the packages of `package-lock.json` at hand."""
    await asyncio.to_thread(install, HERE)
    return _node


@pytest.fixture
async def gateway() -> AsyncGenerator[Served]:
    """The clock and the suites' fixture server behind one gateway."""
    with warnings.catch_warnings():
        # `logging/setLevel`, which the suite of 2025 wants from the fixture, is deprecated since 2026-07-28.
        warnings.simplefilter("ignore", MCPDeprecationWarning)
        app = create_app([ClockMCPServer(), ConformanceMCPServer()], Settings())
    async with serve(app) as served:
        yield served
