"""Files as the guide's agents handle them: the bytes of a PDF go up by the client, and come back as they were."""

import base64
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from agents.client import MCPClient
from agents.errors import InvalidArguments, NotFound
from app.local.aws import LocalAws
from app.local.kafka import LocalKafka
from app.main import create_app
from app.routers.aws import AWSMCPServer
from app.routers.kafka import KafkaMCPServer
from app.settings import Settings
from tests.fixtures.aws import settings_for_aws
from tests.fixtures.gateway import Served, serve
from tests.fixtures.kafka import settings_for_kafka

PDF = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<<>>\nendobj\n"


@pytest.fixture(scope="module")
async def gateway(aws_stack: LocalAws, kafka_broker: LocalKafka) -> AsyncGenerator[Served]:
    settings = (settings_for_aws(aws_stack), settings_for_kafka(kafka_broker))
    async with serve(create_app([AWSMCPServer, KafkaMCPServer], Settings(), settings)) as served:
        yield served


@pytest.fixture(params=["http", "ws"])
async def client(gateway: Served, request: pytest.FixtureRequest) -> AsyncGenerator[MCPClient]:
    base = gateway.url if request.param == "http" else gateway.websocket_url
    async with MCPClient(
        {
            "servers": {
                name: {"uri": f"{base}/mcp/{name}{'' if request.param == 'http' else '/ws'}"}
                for name in ("aws", "kafka")
            }
        }
    ) as opened:
        yield opened


@pytest.mark.parametrize("content", [PDF, bytearray(PDF), memoryview(PDF)], ids=["bytes", "bytearray", "memoryview"])
async def test_bytes_are_uploaded_as_they_are(client: MCPClient, bucket: str, content: Any) -> None:
    uploaded = await client.call_tool(
        "mcp_aws",
        "s3_upload_file",
        {"bucket": bucket, "key": "invoice.pdf", "content": content, "content_type": "application/pdf"},
    )
    assert uploaded["success"] is True
    stored = await client.call_tool("aws", "s3_download_file", {"bucket": bucket, "key": "invoice.pdf"})
    assert base64.b64decode(stored["content"]) == PDF
    assert stored["content_type"] == "application/pdf"


async def test_bytes_that_are_text_are_bytes_nevertheless(client: MCPClient, topic: str) -> None:
    calls = [
        {"server": "kafka", "tool": "publish_message", "arguments": {"topic": topic, "message": b"x", "key": b"\xff"}}
    ]
    [published] = await client.batch(calls)  # type: ignore[arg-type]
    assert isinstance(published, dict)
    consumed = await client.call_tool("kafka", "consume_messages", {"topic": topic, "start": "earliest"})
    [message] = consumed["messages"]
    assert (message["value"], base64.b64decode(message["key"])) == ("x", b"\xff")


async def test_bytes_where_none_belong_are_refused_by_name(client: MCPClient, bucket: str) -> None:
    with pytest.raises(InvalidArguments, match="key"):
        await client.call_tool("aws", "s3_download_file", {"bucket": bucket, "key": b"invoice.pdf"})
    with pytest.raises(InvalidArguments, match="encoding"):
        await client.call_tool(
            "aws", "s3_upload_file", {"bucket": bucket, "key": "a", "content": PDF, "encoding": "text"}
        )


@pytest.mark.parametrize("content", [b"as text", b"\xff", bytearray(b"x"), memoryview(b"x")])
async def test_bytes_within_an_argument_are_refused_by_their_place(client: MCPClient, topic: str, content: Any) -> None:
    arguments: dict[str, Any] = {"topic": topic, "message": {"a": [1, content]}}
    with pytest.raises(InvalidArguments, match=r"message\.a\.1: holds bytes") as refusal:
        await client.call_tool("kafka", "publish_message", arguments)
    assert [error.field for error in refusal.value.errors] == ["message.a.1"]
    [outcome] = await client.batch([{"server": "kafka", "tool": "publish_message", "arguments": arguments}])
    assert isinstance(outcome, InvalidArguments)


async def test_text_that_is_no_utf_8_is_answered_with_what_to_do(gateway: Served, bucket: str) -> None:
    body = b'{"bucket": "%b", "key": "a.pdf", "content": "%b"}' % (bucket.encode(), b"\xe2\xe3\xcf\xd3")
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        answer = await http.post(
            "/mcp/aws/tools/s3_upload_file", content=body, headers={"content-type": "application/json"}
        )
    assert answer.status_code == 400
    assert 'encoding: "base64"' in answer.json()["detail"].replace("`", "")


async def test_a_bucket_that_does_not_exist_is_answered_with_those_that_do(client: MCPClient, bucket: str) -> None:
    with pytest.raises(NotFound, match=bucket):
        await client.call_tool("aws", "s3_list_objects", {"bucket": f"{bucket}s"})
