"""A backend that goes down is told to the log once, with its cause, and once more when it is back."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from app.errors import BackendUnavailable
from app.local.aws import run_aws
from app.local.kafka import run_kafka
from app.local.postgres import run_postgres
from app.local.process import free_port
from app.outages import Outages
from app.routers.aws import AWSMCPServer
from app.routers.database import DatabaseMCPServer
from app.routers.kafka import KafkaMCPServer
from app.servers.base import BaseMCPServer
from app.services.postgres.migrations import migrate
from tests.fixtures.aws import settings_for_aws
from tests.fixtures.kafka import settings_for_kafka
from tests.fixtures.postgres import settings_for

_BACK_WITHIN = 20.0


def lines(caplog: pytest.LogCaptureFixture, server: BaseMCPServer) -> list[str]:
    """Return what the server's own log was told, calls aside."""
    return [f"{r.levelname} {r.getMessage()}" for r in caplog.records if r.name == f"MCP.{server.name}"]


async def see_an_outage(
    run: Callable[[], AbstractAsyncContextManager[Any]],
    server: BaseMCPServer,
    call: tuple[str, dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
) -> list[str]:
    """Call a server while its backend runs, five times after it ended, and after it came back; return the log."""
    caplog.set_level(logging.INFO, "MCP")
    try:
        async with run():
            await server.start()
            await server.call_tool(*call)
            assert lines(caplog, server) == []
        for _ in range(5):
            with pytest.raises(BackendUnavailable):
                await server.call_tool(*call)
        [line] = lines(caplog, server)
        assert line.startswith("WARNING")
        async with run(), asyncio.timeout(_BACK_WITHIN):
            while len(lines(caplog, server)) < 2:
                try:
                    await server.call_tool(*call)
                except BackendUnavailable:
                    await asyncio.sleep(0)
            await server.call_tool(*call)
        return lines(caplog, server)
    finally:
        await server.stop()


async def test_postgresql(postgres_directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    async with run_postgres(postgres_directory, port=port, durable=False) as backend:
        url = backend.url()
        await migrate(url)
    server = DatabaseMCPServer(settings=settings_for(url))
    told = await see_an_outage(
        lambda: run_postgres(postgres_directory, port=port, durable=False),
        server,
        ("search_knowledge_base", {"search_term": "password"}),
        caplog,
    )
    assert told[0].startswith(f"WARNING PostgreSQL at host=127.0.0.1 port={port} is down: ")
    # Where the pool opens another connection just when the server stops, that one tells it.
    assert "ECONNREFUSED" in told[0] or "terminating connection" in told[0]
    assert told[-1].startswith(f"INFO PostgreSQL at host=127.0.0.1 port={port} answers again, after ")
    assert [line for line in told if line.startswith("WARNING")] == told[:1]
    assert backend.password not in caplog.text


async def test_kafka(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    server = KafkaMCPServer(settings=settings_for_kafka(f"127.0.0.1:{port}"))
    told = await see_an_outage(lambda: run_kafka(tmp_path, port=port), server, ("list_topics", {}), caplog)
    assert told[0].startswith(f"WARNING Kafka at host=127.0.0.1 port={port} is down: ")
    assert "ECONNREFUSED" in told[0]
    assert told[1].startswith(f"INFO Kafka at host=127.0.0.1 port={port} answers again, after ")
    assert len(told) == 2


async def test_aws(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    async with run_aws(tmp_path, port=port, durable=False) as stack:
        settings = settings_for_aws(stack)
    server = AWSMCPServer(settings=settings)
    told = await see_an_outage(
        lambda: run_aws(tmp_path, port=port, durable=False),
        server,
        ("s3_list_objects", {"bucket": "switchboard-demo"}),
        caplog,
    )
    assert told[0].startswith(f"WARNING AWS s3 at host=127.0.0.1 port={port} is down: ")
    assert "ECONNREFUSED" in told[0]
    assert told[1].startswith(f"INFO AWS s3 at host=127.0.0.1 port={port} answers again, after ")
    assert len(told) == 2


def test_causes_that_are_new_each_time_fill_neither_log_nor_memory(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "MCP")
    outages = Outages(logging.getLogger("MCP.Some MCP Server"))
    for number in range(1000):
        outages.down("It", f"reason {number}")
    assert len(caplog.records) <= 16
    outages.up("Another", "It")
    outages.up("It")
    assert [r.levelname for r in caplog.records].count("WARNING") == 1
    assert caplog.records[-1].getMessage().startswith("It answers again")
    assert not outages.ongoing
