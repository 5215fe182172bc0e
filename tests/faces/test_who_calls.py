"""Who calls: what is verified enters with the request or the connection; what a client says stands beside it."""

from collections.abc import AsyncGenerator

import pytest

from app.main import create_app
from app.results import Result
from app.servers.base import BaseMCPServer
from app.servers.calls import CallContext
from app.servers.declaring import tool
from app.settings import Settings
from tests.fixtures.gateway import Call, Served, serve


class Who(Result):
    """Who calls."""

    principal: str
    client: str
    address: str
    changed: bool


class DoorMCPServer(BaseMCPServer):
    """Asks who is there."""

    @tool(read_only=True)
    async def who(self, context: CallContext) -> Who:
        """Tell who calls."""
        try:
            context.client = "somebody else"  # type: ignore[misc]
            changed = True
        except AttributeError:
            changed = False
        return Who(principal=context.principal.id, client=context.client, address=context.address, changed=changed)


@pytest.fixture(scope="module")
async def gateway() -> AsyncGenerator[Served]:
    async with serve(create_app([DoorMCPServer], Settings())) as served:
        yield served


async def test_a_tool_is_told_who_calls_and_cant_change_it(call: Call, face: str) -> None:
    answer = await call("door", "who")
    assert (answer["principal"], answer["address"], answer["changed"]) == ("anonymous", "127.0.0.1", False)
    # Clients of 2025 say who they are once, which over stateless HTTP is another request's.
    assert answer["client"].startswith("python-httpx" if face in ("rest", "mcp-2025-11-25") else "mcp/")
