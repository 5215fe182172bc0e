"""Describing and creating topics, and the cluster itself."""

from typing import Any

import pytest

from app.errors import Conflict, InvalidArguments, NotFound
from app.services.kafka import KafkaService


async def test_a_topic_is_created_as_it_was_asked_for(kafka: KafkaService, topic_name: str) -> None:
    created = await kafka.topics.create(
        topic_name, num_partitions=4, replication_factor=1, config={"retention.ms": "3600000"}
    )
    assert (created.created, created.partition_count, created.replication_factor) == (True, 4, 1)
    assert created.config == {"retention.ms": "3600000"}
    assert (await kafka.publish(topic_name, "x", partition=3)).offset == 0


async def test_the_brokers_defaults_are_taken(kafka: KafkaService, topic_name: str) -> None:
    created = await kafka.topics.create(topic_name)
    assert (created.partition_count, created.replication_factor) == (1, 1)


async def test_a_topic_that_exists_is_a_conflict_unless_accepted(kafka: KafkaService, topic: str) -> None:
    with pytest.raises(Conflict, match="if_not_exists"):
        await kafka.topics.create(topic, num_partitions=2)
    accepted = await kafka.topics.create(topic, num_partitions=2, if_not_exists=True)
    assert (accepted.created, accepted.partition_count) == (False, 1)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"replication_factor": 5}, "replication_factor"),
        ({"config": {"no.such.setting": "1"}}, "config"),
        ({"config": {"retention.ms": "soon"}}, "config"),
    ],
)
async def test_what_kafka_refuses_is_named(
    kafka: KafkaService, topic_name: str, arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidArguments) as refused:
        await kafka.topics.create(topic_name, **arguments)
    assert refused.value.errors[0].field == field
    assert (await kafka.topics.find(topic_name)).topics == []


async def test_metadata_tells_partitions_offsets_and_what_differs_from_the_default(
    kafka: KafkaService, wide_topic: str
) -> None:
    for number in range(5):
        await kafka.publish(wide_topic, number, partition=1)
    found = await kafka.topics.describe(wide_topic)
    assert (found.partition_count, found.replication_factor, found.message_count) == (3, 1, 5)
    assert [(p.partition, p.first_offset, p.end_offset, p.message_count) for p in found.partitions] == [
        (0, 0, 0, 0),
        (1, 0, 5, 5),
        (2, 0, 0, 0),
    ]
    [broker] = (await kafka.brokers()).brokers
    assert all(p.leader == broker.id and p.replicas == p.in_sync_replicas == [broker.id] for p in found.partitions)
    assert found.config == {}
    assert found.internal is False


async def test_topics_are_listed_by_pattern_in_order(kafka: KafkaService, topic_name: str) -> None:
    for suffix in ("b", "a", "x.y"):
        await kafka.topics.create(f"{topic_name}-{suffix}")

    async def names(pattern: str) -> list[str]:
        return [topic.name.removeprefix(topic_name) for topic in (await kafka.topics.find(pattern)).topics]

    assert await names(f"{topic_name}-*") == ["-a", "-b", "-x.y"]
    assert await names(f"{topic_name}-?") == ["-a", "-b"]
    assert await names(topic_name) == ["-a", "-b", "-x.y"]
    assert await names(f"{topic_name}-x*y") == ["-x.y"]
    assert await names("no-such-topic-*") == []
    [summary] = (await kafka.topics.find(f"{topic_name}-a")).topics
    assert (summary.partitions, summary.replication_factor, summary.internal) == (1, 1, False)


async def test_kafkas_own_topics_are_listed_only_if_asked_for(kafka: KafkaService, topic: str) -> None:
    await kafka.consume(topic, f"group-of-{topic}", max_messages=1, timeout_ms=2000, max_bytes=1000, lease_ms=1000)
    assert not any(listed.internal for listed in (await kafka.topics.find()).topics)
    everything = await kafka.topics.find(include_internal=True)
    assert all(listed.name.startswith("__") for listed in everything.topics if listed.internal)


async def test_an_unknown_topic_or_group_is_not_found(kafka: KafkaService, topic_name: str) -> None:
    with pytest.raises(NotFound, match=topic_name):
        await kafka.topics.describe(topic_name)
    with pytest.raises(NotFound, match=topic_name):
        await kafka.groups.describe(topic_name)


async def test_the_cluster_names_its_brokers_and_controller(kafka: KafkaService) -> None:
    cluster = await kafka.brokers()
    assert cluster.cluster_id
    [broker] = cluster.brokers
    assert broker.is_controller
    assert broker.id == cluster.controller_id
    assert broker.host == "127.0.0.1"
