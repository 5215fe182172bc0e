"""Transactions (Kafka Streams, exactly-once): markers and aborted messages have offsets, but are no messages."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from app.local.kafka import LocalKafka
from app.services.kafka import KafkaService
from app.services.kafka.cluster import Allowance, Cluster
from app.services.kafka.connections import Connections
from app.services.kafka.positions import FromTail
from tests.fixtures.kafka import settings_for_kafka
from tests.services.kafka.conftest import browse, values, work

WITHIN = 30.0
"""Seconds in which everything that a test waits for happens, or the test fails."""


class Transactions:
    """A producer that writes by transactions."""

    def __init__(self, producer: Any) -> None:
        self.producer = producer

    async def commit(self, topic: str, *messages: str, partition: int = 0, timestamp_ms: int | None = None) -> None:
        async with self.producer.transaction():
            for message in messages:
                await self.producer.send_and_wait(
                    topic, message.encode(), partition=partition, timestamp_ms=timestamp_ms
                )

    async def abort(self, topic: str, *messages: str, partition: int = 0) -> None:
        await self.producer.begin_transaction()
        for message in messages:
            await self.producer.send_and_wait(topic, message.encode(), partition=partition)
        await self.producer.abort_transaction()


@asynccontextmanager
async def open_transactions(broker: LocalKafka, name: str) -> AsyncGenerator[Transactions]:
    producer: Any = AIOKafkaProducer(bootstrap_servers=broker.bootstrap_servers, transactional_id=name)
    await producer.start()
    try:
        yield Transactions(producer)
    finally:
        await producer.stop()


@pytest.fixture
async def transactions(kafka_broker: LocalKafka, topic_name: str) -> AsyncGenerator[Transactions]:
    async with open_transactions(kafka_broker, topic_name) as opened:
        yield opened


@pytest.fixture
async def aborting(
    kafka_broker: LocalKafka, topic_name: str, transactions: Transactions
) -> AsyncGenerator[Transactions]:
    """A producer whose transactions are aborted: the same one on Apache Kafka.

    The local broker names aborted transactions also to those who read behind their end, so that what the same producer
    has committed after them is taken for aborted, too.
    """
    if os.environ.get("KAFKA_BROKER") == "apache":
        yield transactions
        return
    async with open_transactions(kafka_broker, f"{topic_name}-aborting") as opened:
        yield opened


async def five_committed(transactions: Transactions, aborting: Transactions, topic: str) -> None:
    """Write five messages, each by a transaction of its own, with aborted ones between."""
    for number in range(5):
        await transactions.commit(topic, f"message {number}")
        if number % 2:
            await aborting.abort(topic, "aborted", "aborted, too")


async def tail(kafka: KafkaService, topic: str, count: int, **changes: Any) -> list[Any]:
    return values(await browse(kafka, topic, start=FromTail(tail=count), max_messages=100, **changes))


async def test_the_newest_are_messages_and_not_offsets(
    kafka: KafkaService, transactions: Transactions, aborting: Transactions, topic: str
) -> None:
    await five_committed(transactions, aborting, topic)
    for count in range(1, 8):
        assert await tail(kafka, topic, count) == [f"message {number}" for number in range(5)][-count:]
    # Behind more aborted messages than are looked at first.
    await aborting.abort(topic, *["aborted"] * 40)
    assert await tail(kafka, topic, 1) == ["message 4"]
    assert await tail(kafka, topic, 2) == ["message 3", "message 4"]


async def test_the_newest_over_all_partitions_are_messages(
    kafka: KafkaService, transactions: Transactions, aborting: Transactions, wide_topic: str
) -> None:
    began = int(time.time() * 1000) - 1000
    await transactions.commit(wide_topic, "old", partition=0, timestamp_ms=began)
    await transactions.commit(wide_topic, "newer", partition=1, timestamp_ms=began + 1)
    await transactions.commit(wide_topic, "newest", partition=0, timestamp_ms=began + 2)
    await aborting.abort(wide_topic, *["aborted"] * 5, partition=2)
    assert await tail(kafka, wide_topic, 2) == ["newer", "newest"]
    assert await tail(kafka, wide_topic, 2, partition=0) == ["old", "newest"]
    assert await tail(kafka, wide_topic, 2, partition=2) == []


async def test_a_topic_counts_its_messages(
    kafka: KafkaService, transactions: Transactions, aborting: Transactions, topic: str
) -> None:
    await five_committed(transactions, aborting, topic)
    found = await kafka.topics.describe(topic)
    assert (found.message_count, found.partitions[0].message_count, found.estimated) == (5, 5, False)
    assert (found.partitions[0].end_offset or 0) > 5
    assert (await kafka.topics.describe(topic)).model_dump().keys() >= {"message_count"}
    assert "estimated" not in found.model_dump()


async def test_what_a_transaction_still_holds_back_is_not_counted(
    kafka: KafkaService, transactions: Transactions, topic: str
) -> None:
    await transactions.commit(topic, "committed")
    await transactions.producer.begin_transaction()
    await transactions.producer.send_and_wait(topic, b"held back")
    assert (await kafka.topics.describe(topic)).message_count == 1
    assert await tail(kafka, topic, 2) == ["committed"]
    async with kafka.changes(topic) as notices, asyncio.timeout(WITHIN):
        await transactions.producer.commit_transaction()
        await anext(notices)  # Kafka answers before the transaction's marker is written.
    assert (await kafka.topics.describe(topic)).message_count == 2
    assert await tail(kafka, topic, 2) == ["committed", "held back"]


async def test_who_reads_uncommitted_messages_counts_them_but_no_markers(
    kafka_broker: LocalKafka, transactions: Transactions, aborting: Transactions, kafka: KafkaService, topic: str
) -> None:
    await transactions.commit(topic, "committed")
    await aborting.abort(topic, "aborted")
    async with KafkaService.open(settings_for_kafka(kafka_broker, isolation_level="read_uncommitted")) as all_of_it:
        assert (await all_of_it.topics.describe(topic)).message_count == 2
        assert await tail(all_of_it, topic, 2) == ["committed", "aborted"]
    assert (await kafka.topics.describe(topic)).message_count == 1


async def test_an_answer_that_ends_with_the_last_message_says_so(
    kafka: KafkaService, transactions: Transactions, aborting: Transactions, topic: str
) -> None:
    await five_committed(transactions, aborting, topic)
    page = await browse(kafka, topic, max_messages=5)
    assert (len(page.messages), page.reached_end) == (5, True)
    again = await browse(kafka, topic, cursor=page.next_cursor)
    assert (again.messages, again.reached_end, again.skipped) == ([], True, 0)
    assert (await browse(kafka, topic, max_messages=4)).reached_end is False


async def test_a_group_that_has_acknowledged_everything_has_no_lag(
    kafka: KafkaService, transactions: Transactions, aborting: Transactions, topic: str, group_id: str
) -> None:
    await five_committed(transactions, aborting, topic)
    page = await work(kafka, topic, group_id, max_messages=2)
    assert values(page) == ["message 0", "message 1"]
    page = await work(kafka, topic, group_id, max_messages=2, ack=page.ack)
    assert (await kafka.groups.lag(group_id)).total_lag == 3
    page = await work(kafka, topic, group_id, ack=page.ack)
    assert (values(page), page.reached_end) == (["message 4"], True)
    await work(kafka, topic, group_id, max_messages=0, ack=page.ack)
    lag = await kafka.groups.lag(group_id)
    # The position is committed, behind the last marker: other tools see no lag either.
    assert (lag.total_lag, lag.partitions[0].committed_offset) == (0, lag.partitions[0].end_offset)
    [summary] = [group for group in (await kafka.groups.find()).groups if group.group_id == group_id]
    assert summary.total_lag == 0


async def test_a_group_leaves_aborted_messages_behind(
    kafka: KafkaService, transactions: Transactions, aborting: Transactions, topic: str, group_id: str
) -> None:
    await transactions.commit(topic, "message")
    page = await work(kafka, topic, group_id)
    await aborting.abort(topic, "aborted", "aborted, too")
    await work(kafka, topic, group_id, max_messages=0, ack=page.ack)
    lag = await kafka.groups.lag(group_id)
    assert lag.total_lag == 0
    assert lag.partitions[0].committed_offset != lag.partitions[0].end_offset
    nothing = await work(kafka, topic, group_id, timeout_ms=0)
    assert (nothing.messages, nothing.ack, nothing.reached_end) == ([], None, True)
    lag = await kafka.groups.lag(group_id)
    assert lag.partitions[0].committed_offset == lag.partitions[0].end_offset


async def test_the_lag_within_a_batch_is_that_of_its_messages(
    kafka: KafkaService, transactions: Transactions, topic: str, group_id: str
) -> None:
    """Three messages that Kafka keeps as one batch: a group stands in the middle of it."""
    async with transactions.producer.transaction():
        sent = [await transactions.producer.send(topic, b"%d" % number) for number in range(3)]
        await asyncio.gather(*sent)
    page = await work(kafka, topic, group_id, max_messages=1)
    await work(kafka, topic, group_id, max_messages=0, ack=page.ack)
    assert (await kafka.groups.lag(group_id)).total_lag == 2


async def test_subscribers_hear_of_messages_and_not_of_aborted_ones(
    kafka: KafkaService, transactions: Transactions, aborting: Transactions, topic: str
) -> None:
    async with asyncio.timeout(WITHIN), kafka.changes(topic) as cursors, kafka.tails.follow(topic) as tail:
        notice = asyncio.ensure_future(anext(cursors))
        await aborting.abort(topic, "aborted")
        await tail.moved_beyond({0: 0})
        await kafka.topics.describe(topic)  # longer than it takes to tell
        assert not notice.done()
        await transactions.commit(topic, "first")
        assert values(await browse(kafka, topic, cursor=(await notice)["cursor"])) == ["first"]


async def test_more_than_may_be_counted_is_told_as_an_estimate(
    kafka_broker: LocalKafka, transactions: Transactions, kafka: KafkaService, topic: str
) -> None:
    for number in range(20):
        await transactions.commit(topic, f"{number}")
    end = (await kafka.topics.describe(topic)).partitions[0].end_offset
    assert end is not None
    settings = settings_for_kafka(kafka_broker)
    connections = Connections(settings)
    try:
        cluster = Cluster(settings, connections)
        assert await cluster.count(topic, {0: (0, end)}, Allowance(left=0)) == {0: (end, False)}
        assert await cluster.count(topic, {0: (0, end)}, Allowance()) == {0: (20, True)}
        assert await cluster.count(topic, {0: (end, end)}, Allowance(left=0)) == {0: (0, True)}
    finally:
        await connections.close()


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
async def test_compressed_messages_are_counted_one_by_one(
    kafka_broker: LocalKafka, kafka: KafkaService, topic: str, group_id: str, codec: str
) -> None:
    async with KafkaService.open(settings_for_kafka(kafka_broker, compression_type=codec)) as compressing:
        await asyncio.gather(*(compressing.publish(topic, f"{number} " * 50) for number in range(30)))
    assert (await kafka.topics.describe(topic)).message_count == 30
    page = await work(kafka, topic, group_id, max_messages=7)
    await work(kafka, topic, group_id, max_messages=0, ack=page.ack)
    assert (await kafka.groups.lag(group_id)).total_lag == 23
