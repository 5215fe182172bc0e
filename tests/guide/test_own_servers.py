"""The three servers constructed in a program of one's own, as the guide does."""

from app.local.aws import LocalAws
from app.local.kafka import LocalKafka
from app.routers.aws import AWSMCPServer
from app.routers.database import DatabaseMCPServer
from app.routers.kafka import KafkaMCPServer
from tests.fixtures.postgres import TestDatabase


async def test_the_database_server_works_by_itself(demo_database: TestDatabase) -> None:
    server = DatabaseMCPServer(demo_database.url, demo_database.reader_url)
    await server.start()
    try:
        result = await server.call_tool("get_customer_context", {"customer_id": "12345"})
        assert result["success"] is True
        assert result["customer"]["id"] == "12345"
        assert (await server.get_resource("db://customers?limit=1"))["success"] is True
    finally:
        await server.stop()


async def test_the_kafka_server_works_by_itself(kafka_broker: LocalKafka, topic_name: str) -> None:
    server = KafkaMCPServer(kafka_broker.bootstrap_servers)
    await server.start()
    try:
        assert (await server.call_tool("create_topic", {"topic": topic_name}))["success"] is True
        published = await server.call_tool("publish_message", {"topic": topic_name, "message": {"a": 1}})
        assert published["offset"] == 0
    finally:
        await server.stop()


async def test_the_aws_server_works_by_itself(aws_stack: LocalAws) -> None:
    environment = aws_stack.environment
    server = AWSMCPServer(
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
    )
    await server.start()
    try:
        assert (await server.get_resource("aws://s3/buckets"))["success"] is True
    finally:
        await server.stop()
