"""Gateways as operators run them: `switchboard serve`, several times on one database, with keys and one secret."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx

from app.local.aws import LocalAws
from app.local.kafka import LocalKafka
from app.local.process import child_process, free_port
from tests.fixtures.gateway import Served
from tests.fixtures.postgres import TestDatabase
from tests.test_cli import SWITCHBOARD
from tests.test_keys import clean

_SECRET = "one-secret-of-all-processes-of-this-test"


def variables_of(
    database: TestDatabase, kafka: LocalKafka | None = None, aws: LocalAws | None = None, **others: str
) -> dict[str, str]:
    """Return the variables of a gateway on some backends; what is left out is not configured."""
    return {
        "DATABASE_URL": database.url,
        "DATABASE_READER_URL": database.reader_url,
        "SWITCHBOARD_SECRET": _SECRET,
        **({"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers} if kafka is not None else {}),
        **(aws.environment if aws is not None else {}),
        **others,
    }


@asynccontextmanager
async def two_processes(directory: Path, policy: str, variables: Mapping[str, str]) -> AsyncGenerator[list[Served]]:
    """Run `switchboard serve` twice, with nothing in common but what the variables and a policy name.

    Args:
        directory: where they work, and leave their logs.
        policy: `switchboard.toml`.
        variables: of both.
    """
    (directory / "switchboard.toml").write_text(policy)
    ports = [free_port(), free_port()]
    async with AsyncExitStack() as stack:
        starting = [
            child_process(
                [SWITCHBOARD, "serve", "--port", str(port), "--config", str(directory / "switchboard.toml")],
                log=directory / f"{port}.log",
                is_ready=partial(_is_ready, port),
                environment=clean(**variables),
            )
            for port in ports
        ]
        await asyncio.gather(*(stack.enter_async_context(each) for each in starting))
        # Of a process there is but the address.
        yield [Served(cast("Any", None), port, cast("Any", None)) for port in ports]


async def _is_ready(port: int) -> bool:
    async with httpx.AsyncClient(verify=False, timeout=30) as http:
        with contextlib.suppress(httpx.TransportError):
            return (await http.get(f"http://127.0.0.1:{port}/health")).status_code == 200
    return False


def bearer(token: str) -> dict[str, str]:
    """Return the header that shows a key."""
    return {"authorization": f"Bearer {token}"}
