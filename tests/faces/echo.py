"""A server that says what reached it; over standard input and output as `python -m tests.faces.echo`."""

import asyncio

from pydantic import JsonValue

from app.faces.stdio import serve_stdio
from app.gateway import Gateway
from app.results import Result
from app.servers.base import BaseMCPServer
from app.servers.declaring import tool
from app.settings import Settings


class Echo(Result):
    """What was said."""

    value: JsonValue


class EchoMCPServer(BaseMCPServer):
    """Says what is said to it."""

    @tool(read_only=True)
    async def echo(self, value: JsonValue, count: int = 1) -> Echo:
        """Return the value."""
        return Echo(value=value)


async def main() -> None:
    gateway = Gateway([EchoMCPServer()], Settings())
    async with gateway.open():
        await serve_stdio(gateway, "echo")


if __name__ == "__main__":
    asyncio.run(main())
