"""What no setting names a backend for is hidden from models, and listed with its reason for people."""

from collections.abc import AsyncGenerator

import httpx
import pytest

from app.main import create_app
from app.routers.kafka import KafkaMCPServer
from app.settings import Settings
from tests.clock import ClockMCPServer
from tests.fixtures.aws import settings_for_aws
from tests.fixtures.gateway import FACES, Served, mcp_client, serve
from tests.fixtures.kafka import settings_for_kafka
from tests.fixtures.postgres import settings_for

MCP_FACES = [face for face in FACES if face != "rest"]
NOTHING = (settings_for(None), settings_for_kafka(None), settings_for_aws(None))


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
async def gateway() -> AsyncGenerator[Served]:
    """A gateway whose Kafka is not configured, beside a server that wants nothing."""
    async with serve(create_app([KafkaMCPServer, ClockMCPServer], Settings(), NOTHING)) as served:
        yield served


@pytest.mark.parametrize("face", MCP_FACES)
async def test_models_are_shown_what_could_work(gateway: Served, face: str) -> None:
    async with mcp_client(gateway, face) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == set(ClockMCPServer.tools)
        assert {str(r.uri).partition("://")[0] for r in (await client.list_resources()).resources} <= {"clock"}
        templates = (await client.list_resource_templates()).resource_templates
        assert {t.uri_template.partition("://")[0] for t in templates} <= {"clock"}
        if "2025" in face:  # clients of 2026 ask for it by themselves
            assert client.instructions is not None
            assert "Kafka" not in client.instructions
        # It is hidden, not gone: whoever knows the name is told what is missing.
        result = await client.call_tool("list_topics", {})
        assert result.is_error
        assert "KAFKA_BOOTSTRAP_SERVERS" in result.content[0].text  # type: ignore[union-attr]
    async with mcp_client(gateway, face, "kafka") as client:
        assert (await client.list_tools()).tools == []


async def test_people_are_told_why(gateway: Served) -> None:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as http:
        kafka, clock = (await http.get("/mcp")).json()["servers"]
        assert (kafka["configured"], clock["configured"]) == (False, True)
        assert kafka["tools"] == list(KafkaMCPServer.tools)
        assert "KAFKA_BOOTSTRAP_SERVERS" in kafka["reason"]
        assert (await http.get("/mcp/kafka")).json()["reason"] == kafka["reason"]
        ready = (await http.get("/ready")).json()["servers"]
        assert ready["kafka"]["code"] == "backend_not_configured"
        assert ready["kafka"]["missing"] == "KAFKA_BOOTSTRAP_SERVERS"
        assert ready["clock"]["ready"] is True
        assert len((await http.get("/mcp/kafka/tools")).json()["tools"]) == len(KafkaMCPServer.tools)


async def test_each_of_our_servers_says_what_is_missing() -> None:
    async with (
        serve(create_app(settings=Settings(), service_settings=NOTHING)) as served,
        httpx.AsyncClient(base_url=served.url, timeout=30) as http,
    ):
        ready = (await http.get("/ready")).json()["servers"]
        missing = {name: state["missing"] for name, state in ready.items()}
        assert missing == {"database": "DATABASE_URL", "kafka": "KAFKA_BOOTSTRAP_SERVERS", "aws": "AWS_REGION"}
        async with mcp_client(served, "mcp-2026-07-28") as client:
            assert (await client.list_tools()).tools == []


@pytest.mark.parametrize("face", MCP_FACES)
async def test_all_is_shown_to_those_who_want_it(face: str) -> None:
    app = create_app([KafkaMCPServer, ClockMCPServer], Settings(hide_unconfigured=False), NOTHING)
    async with serve(app) as served, mcp_client(served, face) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert names == {*KafkaMCPServer.tools, *ClockMCPServer.tools}
        if "2025" in face:
            assert "Kafka" in (client.instructions or "")
