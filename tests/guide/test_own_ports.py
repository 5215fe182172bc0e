"""One program that starts the three servers on ports of their own, and the guide's `mcp_config` for them."""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from agents.client import MCPClient
from agents.query import QueryAgent
from app.local.aws import LocalAws
from app.local.kafka import LocalKafka
from app.local.process import free_port
from app.routers.aws import AWSMCPServer
from app.routers.database import DatabaseMCPServer
from app.routers.kafka import KafkaMCPServer
from app.serving.addresses import address_class
from app.serving.process import PortInUse, serve_servers
from tests.clock import ClockMCPServer
from tests.fixtures.aws import settings_for_aws
from tests.fixtures.postgres import TestDatabase
from tests.guide.test_custom_server import CustomMCPServer

_VARIABLES = {"mcp_database": "DB_MCP_PORT", "mcp_kafka": "KAFKA_MCP_PORT", "mcp_aws": "AWS_MCP_PORT"}


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Free ports in place of 8001, 8002 and 8003, set as an operator would."""
    chosen = {server: free_port() for server in _VARIABLES}
    for server, port in chosen.items():
        monkeypatch.setenv(_VARIABLES[server], str(port))
    return chosen


@pytest.fixture
async def mcp_config(
    ports: dict[str, int], demo_database: TestDatabase, kafka_broker: LocalKafka, aws_stack: LocalAws
) -> AsyncGenerator[dict[str, Any]]:
    """The guide's configuration of agents, with the three servers behind it."""
    servers = [
        DatabaseMCPServer(demo_database.url, demo_database.reader_url),
        KafkaMCPServer(kafka_broker.bootstrap_servers),
        AWSMCPServer(settings=settings_for_aws(aws_stack)),
    ]
    async with serve_servers(servers) as listening:
        assert listening == {server.removeprefix("mcp_"): port for server, port in ports.items()}
        yield {"servers": {server: {"uri": f"ws://localhost:{port}"} for server, port in ports.items()}}
    for port in ports.values():
        with pytest.raises(OSError):  # noqa: PT011 - refused, however the system words it
            await asyncio.open_connection("127.0.0.1", port)


def test_the_ports_are_the_guides(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if "_MCP_" in name:
            monkeypatch.delenv(name)
    defaults = {name: address_class(name).model_validate({}).port for name in ("database", "kafka", "aws")}
    assert defaults == {"database": 8001, "kafka": 8002, "aws": 8003}


async def test_agents_work_over_one_websocket_a_server(mcp_config: dict[str, Any], topic_name: str) -> None:
    agent = QueryAgent("query-agent-1", "query", mcp_config=mcp_config)
    await agent.start()
    try:
        context = await agent.call_mcp_tool("mcp_database", "get_customer_context", {"customer_id": "12345"})
        assert context["customer"]["id"] == "12345"
    finally:
        await agent.stop()
    async with MCPClient(mcp_config) as client:
        assert (await client.call_tool("mcp_kafka", "create_topic", {"topic": topic_name}))["success"] is True
        listed = await client.call_tool("mcp_aws", "s3_list_objects", {"bucket": "switchboard-demo"})
        assert listed["success"] is True


async def test_a_port_in_use_is_named_with_its_variable_and_nothing_is_opened(
    ports: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    taken = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", ports["mcp_aws"])
    async with taken:
        with pytest.raises(PortInUse, match=rf"{ports['mcp_aws']}.*AWS_MCP_PORT"):
            async with serve_servers([DatabaseMCPServer(), KafkaMCPServer(), AWSMCPServer()]):
                raise AssertionError
    assert caplog.records == []
    free = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", ports["mcp_database"])
    free.close()


async def test_a_server_of_ones_own_has_a_port_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOCK_MCP_PORT", str(free_port()))
    async with serve_servers([CustomMCPServer(), ClockMCPServer]) as ports:
        assert str(ports["clock"]) == os.environ["CLOCK_MCP_PORT"]
        config = {"servers": {name: {"uri": f"ws://localhost:{port}"} for name, port in ports.items()}}
        async with MCPClient(config) as client:
            assert (await client.call_tool("mcp_custom", "custom_tool", {}))["success"] is True
            assert (await client.call_tool("clock", "get_time", {"zone": "UTC"}))["success"] is True


async def test_what_goes_wrong_in_the_block_closes_the_ports_and_passes(ports: dict[str, int]) -> None:
    with pytest.raises(ZeroDivisionError):
        async with serve_servers([DatabaseMCPServer]):
            raise ZeroDivisionError
    with pytest.raises(OSError):  # noqa: PT011 - refused, however the system words it
        await asyncio.open_connection("127.0.0.1", ports["mcp_database"])
