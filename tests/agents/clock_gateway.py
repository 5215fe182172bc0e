"""A gateway with the clock server and the database server as a process: prints its port when it listens."""

from app.cli.running import run
from app.main import create_app
from app.routers.database import DatabaseMCPServer
from app.serving.process import serve
from app.settings import Settings
from tests.clock import ClockMCPServer


async def main() -> None:
    app = create_app([ClockMCPServer(), DatabaseMCPServer])
    # The first line that whoever has started us reads.
    await serve(app, Settings(port=0), on_ready=lambda port: print(port, flush=True))


if __name__ == "__main__":
    run(main)
