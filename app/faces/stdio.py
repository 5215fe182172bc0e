"""MCP over standard input and output: what a desktop client launches."""

import asyncio

from mcp.server.runner import serve_dual_era_loop
from mcp.server.stdio import stdio_server

from app.faces.protocol import Subscriptions, protocol_server
from app.gateway import Gateway


async def serve_stdio(gateway: Gateway, server: str | None) -> None:
    """Serve one server, or all, until the client closes our input. The gateway must be open."""
    async with stdio_server() as (incoming, outgoing), asyncio.TaskGroup() as tasks:
        subscriptions = Subscriptions(tasks)
        protocol = protocol_server(gateway, server, "stdio", subscriptions)
        await serve_dual_era_loop(protocol, incoming, outgoing, lifespan_state=None)
        await subscriptions.close()
