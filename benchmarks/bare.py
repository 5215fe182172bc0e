"""What `switchboard stdio database` is measured beside: the least that a server over the same libraries imports."""

import asyncio
from typing import Any

import asyncpg
import mcp_types as types
import sqlalchemy.ext.asyncio
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

USED = (asyncpg, sqlalchemy.ext.asyncio)


async def _list_tools(context: Any, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    return types.ListToolsResult(tools=[])


async def main() -> None:
    """Serve a list of no tools over standard input and output."""
    server = Server[Any]("bare", on_list_tools=_list_tools)
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


if __name__ == "__main__":
    asyncio.run(main())
