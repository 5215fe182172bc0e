"""`switchboard seed`: the demo in each system, once, and nothing in AWS itself."""

import asyncio
from pathlib import Path

from app.local.aws import run_aws
from app.local.kafka import LocalKafka
from app.services.aws.demo.seeding import DEMO_BUCKET, DEMO_FUNCTION
from app.services.kafka import KafkaService
from app.services.kafka.demo import DEMO_GROUP, DEMO_TOPICS
from tests.fixtures.aws import clients_of
from tests.fixtures.kafka import settings_for_kafka
from tests.fixtures.postgres import TestDatabase
from tests.test_cli import invoke


async def test_the_demo_is_brought_to_each_system_that_is_named(
    database: TestDatabase, kafka_broker: LocalKafka, tmp_path: Path
) -> None:
    async with run_aws(tmp_path / "aws", durable=False, demo=False) as stack:
        variables = {
            **stack.environment,
            "DATABASE_URL": database.url,
            "KAFKA_BOOTSTRAP_SERVERS": kafka_broker.bootstrap_servers,
        }
        said = [await invoke("seed", "database", "kafka", "aws", **variables) for _ in range(2)]
        assert [status for status, _ in said] == [0, 0], said
        assert "Loaded 300 customers" in said[0][1]
        assert "holds data already" in said[1][1]
        async with clients_of(stack) as behind:
            assert "customers/12345/contract.md" in await behind.keys(DEMO_BUCKET)
            assert await behind.functions.get_function(FunctionName=DEMO_FUNCTION)
            assert await behind.ssm.get_parameter(Name="/switchboard/support/email")
    async with KafkaService.open(settings_for_kafka(kafka_broker)) as kafka:
        topics, lag = await asyncio.gather(kafka.topics.find(), kafka.groups.lag(DEMO_GROUP))
        assert set(DEMO_TOPICS) <= {topic.name for topic in topics.topics}
        assert [partition.topic for partition in lag.partitions] == [DEMO_TOPICS[1]]


async def test_nothing_is_brought_to_aws_itself() -> None:
    status, said = await invoke("seed", "aws", AWS_REGION="eu-central-1", AWS_ACCESS_KEY_ID="a", AWS_ENDPOINT_URL="")
    assert (status, "AWS_ENDPOINT_URL" in said) == (2, True)


async def test_what_is_down_is_said() -> None:
    status, said = await invoke("seed", "kafka", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1", KAFKA_REQUEST_TIMEOUT_MS="500")
    assert status == 1
    assert "Traceback" not in said
