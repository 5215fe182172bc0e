"""Every Python block of `docs/agents.md` runs, in order, against a real gateway and a real agent."""

import ast
import inspect
import re
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

import agents
from agents.a2a import serve_agents
from agents.client import MCPClient
from agents.query import QueryAgent
from app.main import create_app
from app.routers.database import DatabaseMCPServer
from app.settings import Settings
from tests.agents.faults import free_port
from tests.agents.test_a2a import serving
from tests.fixtures.gateway import Served, serve
from tests.fixtures.postgres import TestDatabase

[PACKAGE] = agents.__path__
GUIDE = Path(PACKAGE).parent / "docs" / "agents.md"


def blocks_of_the_guide(addresses: dict[str, str]) -> list[CodeType]:
    """Return the blocks, compiled as `python -m asyncio` compiles them, at the addresses of the test."""
    text = GUIDE.read_text()
    blocks: list[CodeType] = []
    for match in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        source = match[1]
        for printed, real in addresses.items():
            source = source.replace(printed, real)
        # Empty lines in front, so that a traceback names the guide's own line.
        source = "\n" * text.count("\n", 0, match.start(1)) + source
        blocks.append(compile(source, str(GUIDE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT))
    return blocks


async def test_the_blocks_of_the_guide_run(
    support_gateway: Served, demo_database: TestDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    agent = QueryAgent("query-agent", support_gateway.url)
    database_alone = create_app(
        [DatabaseMCPServer], Settings(), [demo_database.settings], root_server=DatabaseMCPServer.server_id
    )
    async with (
        serve(database_alone) as alone,
        serving(serve_agents({"": agent}, f"http://127.0.0.1:{port}"), port) as agent_url,
    ):
        addresses = {
            "http://127.0.0.1:8000": support_gateway.url,
            "ws://127.0.0.1:8000": support_gateway.websocket_url,
            "ws://localhost:8001": alone.websocket_url,
            "http://127.0.0.1:9000": agent_url,
        }
        names: dict[str, Any] = {}
        for block in blocks_of_the_guide(addresses):
            running = eval(block, names)
            if inspect.iscoroutine(running):
                await running
    printed = capsys.readouterr().out
    assert printed.startswith("True ")
    for expected in (
        "Reset or change your password",
        "save_interaction",
        "not_found There is no customer",
        "('search_term', ",
        "('limit', ",
        "failed There is no customer",
        " open tickets.",
        "Forgot password?",
        "customer-queries, partition 0",
    ):
        assert expected in printed
    assert isinstance(names["client"], MCPClient)


def test_the_guide_names_only_what_exists() -> None:
    text = GUIDE.read_text()
    errors = set(re.findall(r"`([A-Z]\w+)`", text.partition("## Several addresses")[0].partition("## Failures")[2]))
    known = {name for name, _ in inspect.getmembers(__import__("agents.errors", fromlist=["x"]), inspect.isclass)}
    assert errors - {"Retry"} <= known
