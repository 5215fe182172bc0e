"""At DEBUG the log shows where the time of a call goes; nothing of what was said in it, and nothing at INFO."""

import logging
import re
from collections.abc import AsyncGenerator

import pytest

from app.local.aws import LocalAws
from app.local.kafka import LocalKafka
from app.main import create_app
from app.routers.aws import AWSMCPServer
from app.routers.database import DatabaseMCPServer
from app.routers.kafka import KafkaMCPServer
from app.servers.calls import JsonObject
from app.settings import Settings
from tests.fixtures.aws import settings_for_aws
from tests.fixtures.gateway import Call, Served, serve
from tests.fixtures.kafka import settings_for_kafka
from tests.fixtures.postgres import TestDatabase

_LINE = re.compile(r"request_id=(\S+) operation=(\S+) stage='([^']+)' ms=\d+\.\d")

CALLS: dict[str, tuple[str, JsonObject, list[str]]] = {
    "get_customer_context": ("database", {"customer_id": "12345"}, ["waited for a connection"]),
    "query_database": ("database", {"query": "SELECT 1"}, ["waited for a place", "waited for a connection"]),
    "save_interaction": (
        "database",
        {"customer_id": "12345", "query_text": "said in secret"},
        ["waited for a connection"],
    ),
    "list_topics": ("kafka", {}, ["waited for a connection"]),
    "s3_list_objects": ("aws", {"bucket": "switchboard-demo"}, ["waited for AWS s3"]),
}


@pytest.fixture
async def gateway(demo_database: TestDatabase, kafka_broker: LocalKafka, aws_stack: LocalAws) -> AsyncGenerator[Served]:
    settings = [demo_database.settings, settings_for_kafka(kafka_broker), settings_for_aws(aws_stack)]
    async with serve(create_app(settings=Settings(), service_settings=settings)) as served:
        yield served


@pytest.mark.parametrize("face", ["rest", "mcp-2025-11-25", "websocket-2026-07-28"], indirect=True)
async def test_each_stage_of_a_call_is_a_line_with_its_request_id(call: Call, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "MCP")
    for tool, (server, arguments, waits) in CALLS.items():
        caplog.clear()
        assert (await call(server, tool, arguments))["success"] is True
        # Official clients list the tools before or after.
        told = [(r.levelno, m) for r in caplog.records if (m := _LINE.fullmatch(r.getMessage()))]
        lines = [(level, m) for level, m in told if m[2] == tool]
        stages = [m[3] for _, m in lines]
        assert {level for level, _ in lines} == {logging.DEBUG}
        assert (stages[0], stages[-2:]) == ("parsed", ["ran", "wrote"])
        assert set(waits) <= set(stages[1:-2])
        [request_id] = {m[1] for _, m in lines}
        [record] = [r for r in caplog.records if r.levelno == logging.INFO and f"operation={tool} " in r.getMessage()]
        assert request_id in record.getMessage()
    assert "said in secret" not in caplog.text


@pytest.mark.parametrize("face", ["rest"], indirect=True)
async def test_one_server_is_looked_into_and_the_others_are_not(call: Call, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "MCP")
    caplog.set_level(logging.DEBUG, f"MCP.{KafkaMCPServer.name}")
    for tool, (server, arguments, _) in CALLS.items():
        await call(server, tool, arguments)
    told = {record.name for record in caplog.records if record.levelno == logging.DEBUG}
    assert told == {f"MCP.{KafkaMCPServer.name}"}
    assert {f"MCP.{kind.name}" for kind in (DatabaseMCPServer, AWSMCPServer)} <= {r.name for r in caplog.records}


@pytest.mark.parametrize("face", ["rest"], indirect=True)
async def test_the_guides_logger_governs_them_all(call: Call, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "MCP")
    for tool, (server, arguments, _) in CALLS.items():
        await call(server, tool, arguments)
    assert not [record for record in caplog.records if record.name.startswith("MCP")]


@pytest.mark.parametrize("face", ["rest"], indirect=True)
async def test_a_call_that_fails_shows_how_far_it_came(call: Call, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "MCP")
    assert (await call("database", "get_customer_context", {"customer_id": "nobody"}))["code"] == "not_found"
    stages = [m[3] for r in caplog.records if (m := _LINE.fullmatch(r.getMessage()))]
    assert stages == ["parsed", "waited for a connection", "ran"]
