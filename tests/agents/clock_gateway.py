"""A gateway with the clock server and the database server as a process: prints its port when it listens."""

import asyncio

import uvicorn

from app.main import create_app
from app.routers.database import DatabaseMCPServer
from tests.clock import ClockMCPServer


async def main() -> None:
    config = uvicorn.Config(
        create_app([ClockMCPServer(), DatabaseMCPServer]), port=0, log_config=None, ws="websockets-sansio"
    )
    server = uvicorn.Server(config)
    socket = config.bind_socket()
    running = asyncio.create_task(server.serve([socket]))
    while not server.started:
        await asyncio.wait([running], timeout=0.01)
    # The first line that whoever has started us reads.
    print(socket.getsockname()[1], flush=True)
    await running


if __name__ == "__main__":
    asyncio.run(main())
