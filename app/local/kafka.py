"""A Kafka broker on loopback, from the `noida-db` wheel."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from app.local.process import StartFailed, accepts_connections, child_process, free_port


@dataclass(frozen=True)
class LocalKafka:
    """A running broker."""

    port: int
    process: asyncio.subprocess.Process

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self.port}"


@asynccontextmanager
async def run_kafka(data_dir: Path, *, port: int | None = None) -> AsyncGenerator[LocalKafka]:
    """Run a broker on a data directory, whose topics a later run finds again.

    It keeps every message in memory, so it is for development and tests.

    Args:
        data_dir: holds its data and its log.
        port: a free one if left out.

    Raises:
        StartFailed: it did not come up; the message ends with the tail of its log.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    data_dir = data_dir.resolve()
    port = port or free_port()
    if await accepts_connections(port):
        # Or else the other one would be taken for ours.
        raise StartFailed(f"port {port} is taken; stop what listens there or choose another port")
    # The wheel's own command is a Python process that leaves the broker behind when it is ended.
    program = resources.files("noida_db") / "noida-db"
    command = [str(program), "start", "--data-dir", str(data_dir), "--host", "127.0.0.1"]
    command += ["--only", "kafka", "--kafka-port", str(port)]

    async def is_ready() -> bool:
        return await accepts_connections(port)

    async with child_process(command, log=data_dir / "log", is_ready=is_ready) as process:
        yield LocalKafka(port=port, process=process)
