"""Browsing: from anywhere, with the cursor as all the state, and no trace on the cluster."""

import asyncio
import json
import time
from base64 import urlsafe_b64encode
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from app.errors import InvalidArguments, NotFound
from app.local.kafka import LocalKafka
from app.services.kafka import KafkaService
from app.services.kafka.positions import FromOffset, FromTail, FromTimestamp
from app.services.kafka.reading import Limits
from tests.services.kafka.conftest import Requests, browse, values, work

WITHIN = 30.0
"""Seconds in which everything that a test waits for happens, or the test fails."""


def an_hour_ago() -> int:
    """A time that retention leaves alone, in milliseconds."""
    return int(time.time() * 1000) - 3_600_000


async def test_a_cursor_reads_on_without_gap_or_repeat(kafka: KafkaService, numbered: str) -> None:
    first = await browse(kafka, numbered, max_messages=7)
    second = await browse(kafka, numbered, max_messages=7, cursor=first.next_cursor)
    third = await browse(kafka, numbered, max_messages=7, cursor=second.next_cursor)
    assert [values(page) for page in (first, second, third)] == [
        list(range(7)),
        list(range(7, 14)),
        list(range(14, 20)),
    ]
    assert [page.reached_end for page in (first, second, third)] == [False, False, True]
    assert values(await browse(kafka, numbered, cursor=third.next_cursor)) == []
    await kafka.publish(numbered, "new")
    assert values(await browse(kafka, numbered, cursor=third.next_cursor)) == ["new"]


async def test_an_answer_that_ends_with_the_last_message_says_so(kafka: KafkaService, numbered: str) -> None:
    assert (await browse(kafka, numbered, max_messages=20)).reached_end is True


async def test_the_newest_messages_over_all_partitions(kafka: KafkaService, wide_topic: str) -> None:
    began = an_hour_ago()
    for number in range(30):
        await kafka.publish(wide_topic, number, partition=number % 3, timestamp_ms=began + number)
    newest = await browse(kafka, wide_topic, start=FromTail(tail=5))
    assert values(newest) == [25, 26, 27, 28, 29]
    assert newest.reached_end is True
    assert values(await browse(kafka, wide_topic, start=FromTail(tail=2), partition=1)) == [25, 28]
    assert len(values(await browse(kafka, wide_topic, start=FromTail(tail=100), max_messages=100))) == 30


async def test_messages_of_several_partitions_come_by_time(kafka: KafkaService, wide_topic: str) -> None:
    began = an_hour_ago()
    for number in range(12):
        await kafka.publish(wide_topic, number, partition=number % 3, timestamp_ms=began + number)
    assert values(await browse(kafka, wide_topic, max_messages=12)) == list(range(12))


async def test_beginning_at_an_offset(kafka: KafkaService, numbered: str, wide_topic: str) -> None:
    assert values(await browse(kafka, numbered, start=FromOffset(offset=18))) == [18, 19]
    assert values(await browse(kafka, numbered, start=FromOffset(offset=20))) == []
    with pytest.raises(InvalidArguments) as past:
        await browse(kafka, numbered, start=FromOffset(offset=21))
    assert past.value.errors[0].field == "start.offset"
    with pytest.raises(InvalidArguments) as ambiguous:
        await browse(kafka, wide_topic, start=FromOffset(offset=0))
    assert ambiguous.value.errors[0].field == "partition"


async def test_beginning_at_a_time(kafka: KafkaService, topic: str) -> None:
    began = datetime.fromtimestamp(an_hour_ago() // 1000, UTC)
    for minutes in range(5):
        moment = began + timedelta(minutes=minutes)
        await kafka.publish(topic, minutes, timestamp_ms=int(moment.timestamp() * 1000))

    async def since(moment: object) -> list[object]:
        return values(await browse(kafka, topic, start=FromTimestamp.model_validate({"timestamp": moment})))

    assert await since((began + timedelta(minutes=2, seconds=30)).isoformat()) == [3, 4]
    assert await since(began.astimezone(timezone(timedelta(hours=2))).isoformat()) == [0, 1, 2, 3, 4]
    assert await since((began + timedelta(minutes=2, milliseconds=1)).isoformat()) == [3, 4]
    assert await since(int(began.timestamp() * 1000) + 120_000) == [2, 3, 4]
    assert await since((began + timedelta(days=1)).isoformat()) == []


async def test_beginning_at_the_latest_waits_for_what_comes(kafka: KafkaService, numbered: str) -> None:
    waiting = asyncio.create_task(browse(kafka, numbered, start="latest", timeout_ms=20_000))
    while not waiting.done():
        await kafka.publish(numbered, "news")
        await asyncio.wait([waiting], timeout=0.2)
    assert set(values(waiting.result())) == {"news"}


async def test_filters_pass_what_contains_the_text(kafka: KafkaService, topic: str) -> None:
    for number in range(300):
        await kafka.publish(topic, {"ticket": number}, key=f"customer-{number % 10}")
    found = await browse(kafka, topic, value_contains='"ticket":29', max_messages=50, timeout_ms=2000)
    assert [message.value for message in found.messages] == [{"ticket": n} for n in (29, *range(290, 300))]
    both = await browse(kafka, topic, key_contains="-7", value_contains="19", max_messages=50, timeout_ms=2000)
    assert values(both) == [{"ticket": 197}]
    assert both.reached_end is True


async def test_a_size_limit_truncates_and_the_cursor_goes_on(kafka: KafkaService, topic: str) -> None:
    for letter in "abcdef":
        await kafka.publish(topic, letter * 1000)
    page = await browse(kafka, topic, max_bytes=2500)
    assert [value[0] for value in values(page)] == ["a", "b"]
    assert (page.truncated, page.reached_end) == (True, False)
    rest = await browse(kafka, topic, cursor=page.next_cursor)
    assert [value[0] for value in values(rest)] == ["c", "d", "e", "f"]
    assert rest.truncated is False
    one = await browse(kafka, topic, max_bytes=10)
    assert len(one.messages) == 1


async def test_a_message_larger_than_a_fetch_comes_whole(kafka: KafkaService, topic: str) -> None:
    await kafka.publish(topic, "x" * 900_000)
    await kafka.publish(topic, "after")
    assert [len(value) for value in values(await browse(kafka, topic, max_messages=2))] == [900_000, 5]


async def test_what_is_there_is_read_without_a_wait(kafka: KafkaService, numbered: str, requests: Requests) -> None:
    await browse(kafka, numbered)
    requests.clear()
    page = await browse(kafka, numbered, timeout_ms=50_000)
    assert len(page.messages) == 10
    assert len(requests.of("FetchRequest")) == 1
    assert len(requests) <= 3  # and where it begins, and perhaps whether the topic is as it was
    assert requests.waiting() == []


async def test_who_waits_waits_as_long_as_was_asked_for(kafka: KafkaService, topic: str) -> None:
    long = asyncio.create_task(browse(kafka, topic, timeout_ms=50_000))
    short = await browse(kafka, topic, timeout_ms=300)
    assert (short.messages, short.reached_end) == ([], True)
    assert not long.done()
    await kafka.publish(topic, "at last")
    assert values(await asyncio.wait_for(long, WITHIN)) == ["at last"]


async def test_who_waits_for_one_partition_is_not_kept_awake_by_others(
    kafka: KafkaService, wide_topic: str, requests: Requests
) -> None:
    for partition in (0, 2):
        await kafka.publish(wide_topic, "elsewhere", partition=partition)
    page = await browse(kafka, wide_topic, partition=1, timeout_ms=500)
    assert (page.messages, page.reached_end) == ([], True)
    assert len([fetch for fetch in requests.of("FetchRequest") if not fetch._max_wait_ms]) <= 3


async def test_many_who_wait_share_one_tail(kafka: KafkaService, topic: str) -> None:
    waiting = [asyncio.create_task(browse(kafka, topic, timeout_ms=20_000)) for _ in range(30)]
    tails = kafka.tails
    async with asyncio.timeout(WITHIN):
        while not len(tails):
            await asyncio.wait(waiting, timeout=0.02)
    assert len(tails) == 1
    await kafka.publish(topic, "to all")
    async with asyncio.timeout(WITHIN):
        pages = await asyncio.gather(*waiting)
    assert all(values(page) == ["to all"] for page in pages)
    assert len(tails) == 0


async def test_browsing_leaves_no_group_behind(kafka: KafkaService, numbered: str) -> None:
    # Those of other tests may be left by their last member, and end, meanwhile.
    before = {group.group_id for group in (await kafka.groups.find()).groups}
    page = await browse(kafka, numbered)
    await browse(kafka, numbered, cursor=page.next_cursor, timeout_ms=300)
    assert {group.group_id for group in (await kafka.groups.find()).groups} <= before


async def test_a_single_partition_is_browsed_by_its_own_cursor(kafka: KafkaService, wide_topic: str) -> None:
    for number in range(9):
        await kafka.publish(wide_topic, number, partition=number % 3)
    page = await browse(kafka, wide_topic, partition=1, max_messages=2)
    assert values(page) == [1, 4]
    assert values(await browse(kafka, wide_topic, cursor=page.next_cursor)) == [7]
    with pytest.raises(InvalidArguments):
        await browse(kafka, wide_topic, cursor=page.next_cursor, partition=2)
    with pytest.raises(InvalidArguments):
        await browse(kafka, wide_topic, partition=3)


@pytest.mark.parametrize("cursor", ["nonsense", "e30", "", "W10", "é", "x" * 10_000])
async def test_a_cursor_that_is_none_is_refused(kafka: KafkaService, topic: str, cursor: str) -> None:
    with pytest.raises(InvalidArguments) as refused:
        await browse(kafka, topic, cursor=cursor)
    assert refused.value.errors[0].field == "cursor"


async def test_a_cursor_with_an_offset_that_kafka_can_not_write_is_refused(kafka: KafkaService, topic: str) -> None:
    made_up = urlsafe_b64encode(json.dumps({"t": topic, "o": {"0": 2**70}, "w": True}).encode()).decode()
    with pytest.raises(InvalidArguments):
        await browse(kafka, topic, cursor=made_up)


async def test_a_cursor_of_another_topic_is_refused(kafka: KafkaService, topic: str, wide_topic: str) -> None:
    page = await browse(kafka, wide_topic)
    with pytest.raises(InvalidArguments):
        await browse(kafka, topic, cursor=page.next_cursor)


async def test_an_unknown_topic_is_not_found(kafka: KafkaService, topic_name: str) -> None:
    with pytest.raises(NotFound):
        await browse(kafka, topic_name, timeout_ms=5000)


async def delete_before(broker: LocalKafka, topic: str, offset: int) -> None:
    """Remove a topic's oldest messages, as retention does."""
    admin: Any = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(offset)})
    finally:
        await admin.close()


async def test_what_retention_has_removed_is_told(kafka: KafkaService, kafka_broker: LocalKafka, numbered: str) -> None:
    page = await browse(kafka, numbered, max_messages=3)
    await delete_before(kafka_broker, numbered, 10)
    after = await browse(kafka, numbered, cursor=page.next_cursor, max_messages=3)
    assert (values(after), after.skipped) == ([10, 11, 12], 7)
    assert values(await browse(kafka, numbered, start="earliest", max_messages=1)) == [10]
    stream = await kafka.stream(numbered, start="latest", cursor=page.next_cursor)
    events = [await anext(stream), await anext(stream)]
    await stream.aclose()
    assert [(event.kind, event.skipped) for event in events] == [("skipped", 7), ("message", 0)]


async def test_messages_of_an_aborted_transaction_are_not_read(
    kafka: KafkaService, kafka_broker: LocalKafka, topic: str, group_id: str
) -> None:
    producer: Any = AIOKafkaProducer(bootstrap_servers=kafka_broker.bootstrap_servers, transactional_id=topic)
    await producer.start()
    try:
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"aborted")
        await producer.abort_transaction()
        async with producer.transaction():
            await producer.send_and_wait(topic, b"committed")
    finally:
        await producer.stop()
    page = await browse(kafka, topic, timeout_ms=2000)
    assert values(page) == ["committed"]
    assert values(await work(kafka, topic, group_id)) == ["committed"]
    assert values(await browse(kafka, topic, cursor=page.next_cursor)) == []


async def test_a_search_leaves_others_their_turns(kafka_broker: LocalKafka, kafka: KafkaService, topic: str) -> None:
    """A fetch may bring hundreds of thousands of small messages: the event loop is not held for all of them."""
    producer: Any = AIOKafkaProducer(
        bootstrap_servers=kafka_broker.bootstrap_servers, linger_ms=20, max_batch_size=500_000
    )
    await producer.start()
    try:
        await asyncio.gather(*[await producer.send(topic, b"x", partition=0) for _ in range(20_000)])
    finally:
        await producer.stop()
    turn = 0
    looked_at: Counter[int] = Counter()

    def matches(_: object) -> bool:
        looked_at[turn] += 1
        return False

    async def take_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    others = asyncio.create_task(take_turns())
    reader: Any = kafka._reader
    known = await kafka._cluster.topic(topic)
    with reader.room() as room:
        page = await reader.read(known, {0: 0}, Limits(10, 1_048_576, matches), 0.0, room=room)
    others.cancel()
    assert (page.positions, page.records) == ({0: 20_000}, [])
    assert sum(looked_at.values()) == 20_000
    assert max(looked_at.values()) <= 1_000
