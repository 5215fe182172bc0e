"""Following a topic: notices with a cursor, and streams of the messages themselves."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from app.errors import BackendUnavailable, InvalidArguments, NotFound
from app.local.kafka import LocalKafka
from app.services.kafka import KafkaService, tails
from app.services.kafka.schemas import StreamEvent
from tests.services.kafka.conftest import Requests, browse, values

WITHIN = 30.0


async def test_every_later_message_is_noticed(kafka: KafkaService, numbered: str) -> None:
    async with kafka.changes(numbered) as notices, asyncio.timeout(WITHIN):
        await kafka.publish(numbered, "first")
        assert values(await browse(kafka, numbered, cursor=(await anext(notices))["cursor"])) == ["first"]
        await kafka.publish(numbered, "second")
        assert values(await browse(kafka, numbered, cursor=(await anext(notices))["cursor"])) == ["second"]


async def test_notices_that_nobody_takes_become_one(kafka: KafkaService, wide_topic: str) -> None:
    async with kafka.changes(wide_topic) as notices, kafka.changes(wide_topic) as others, asyncio.timeout(WITHIN):
        for number in range(50):
            await kafka.publish(wide_topic, number)
        # The other subscriber shows when the tail has seen them all.
        seen: list[object] = []
        async for notice in others:
            seen += values(await browse(kafka, wide_topic, cursor=notice["cursor"], max_messages=100))
            if 49 in seen:
                break
        while (
            page := await browse(kafka, wide_topic, cursor=(await anext(notices))["cursor"], max_messages=100)
        ).messages:
            if len(values(page)) == 50:
                break
        assert sorted(values(page)) == list(range(50))


async def test_followers_of_a_topic_share_one_tail(kafka: KafkaService, topic: str, wide_topic: str) -> None:
    async with kafka.changes(topic), kafka.changes(topic), kafka.changes(wide_topic):
        assert len(kafka.tails) == 2
        async with kafka.changes(topic):
            assert len(kafka.tails) == 2
    assert len(kafka.tails) == 0


async def test_a_message_is_looked_at_once_for_all_who_follow(
    kafka: KafkaService, topic: str, requests: Requests
) -> None:
    async with AsyncExitStack() as stack, asyncio.timeout(WITHIN):
        following = [await stack.enter_async_context(kafka.changes(topic)) for _ in range(20)]
        waiting = [asyncio.ensure_future(anext(notices)) for notices in following]
        requests.clear()
        await kafka.publish(topic, "x" * 100_000)
        assert len({notice["cursor"] for notice in await asyncio.gather(*waiting)}) == 1
        assert len([request for request in requests.of("FetchRequest") if not request._max_wait_ms]) == 1


async def test_an_unknown_topic_can_not_be_followed(kafka: KafkaService, topic_name: str) -> None:
    with pytest.raises(NotFound):
        async with kafka.changes(topic_name):
            raise AssertionError
    with pytest.raises(NotFound):
        await kafka.stream(topic_name, start="latest", cursor=None)
    assert len(kafka.tails) == 0


async def test_a_stream_goes_on_after_its_last_event(kafka: KafkaService, numbered: str) -> None:
    async with asyncio.timeout(WITHIN):
        events = await kafka.stream(numbered, start="earliest", cursor=None)
        seen: list[StreamEvent] = []
        async for event in events:
            seen.append(event)
            if len(seen) == 8:
                break
        await events.aclose()
        assert [event.message.value for event in seen if event.message] == list(range(8))
        resumed = await kafka.stream(numbered, start="latest", cursor=seen[-1].cursor)
        event = await anext(resumed)
        assert event.message is not None
        assert event.message.value == 8
        await resumed.aclose()


async def test_a_stream_gives_messages_as_they_come(kafka: KafkaService, topic: str) -> None:
    events = await kafka.stream(topic, start="latest", cursor=None, idle_after=0.2)
    async with asyncio.timeout(WITHIN):
        assert (await anext(events)).kind == "idle"
        await kafka.publish(topic, "now")
        kinds = [(await anext(events)) for _ in range(1)]
        while kinds[-1].kind == "idle":
            kinds.append(await anext(events))
        assert kinds[-1].message is not None
        assert kinds[-1].message.value == "now"
    await events.aclose()
    assert len(kafka.tails) == 0


async def test_a_stream_begins_only_at_a_cursor_of_its_topic(kafka: KafkaService, topic: str) -> None:
    with pytest.raises(InvalidArguments):
        await kafka.stream(topic, start="latest", cursor="nonsense")


async def test_a_tail_that_breaks_down_is_told_and_replaced(
    kafka: KafkaService, monkeypatch: pytest.MonkeyPatch, topic: str
) -> None:
    async def fail(*_: Any) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as broken:
        broken.setattr(tails.Tail, "_poll", fail)
        for attempt in (browse(kafka, topic, timeout_ms=50_000), first_notice(kafka, topic), last_event(kafka, topic)):
            with pytest.raises(BackendUnavailable, match="broken off"):
                async with asyncio.timeout(WITHIN):
                    await attempt
    async with kafka.changes(topic) as notices, asyncio.timeout(WITHIN):
        await kafka.publish(topic, "new")
        assert values(await browse(kafka, topic, cursor=(await anext(notices))["cursor"])) == ["new"]
    assert len(kafka.tails) == 0


async def first_notice(kafka: KafkaService, topic: str) -> dict[str, Any]:
    async with kafka.changes(topic) as notices:
        return await anext(notices)


async def last_event(kafka: KafkaService, topic: str) -> None:
    async for _ in await kafka.stream(topic, start="latest", cursor=None):
        pass


async def test_a_stream_goes_on_into_partitions_that_are_added(
    kafka: KafkaService, kafka_broker: LocalKafka, monkeypatch: pytest.MonkeyPatch, topic: str
) -> None:
    monkeypatch.setattr(tails, "_PARTITIONS_ARE_OLD_AFTER", 0.5)
    monkeypatch.setattr(tails, "_POLL_MS", 200)
    events = await kafka.stream(topic, start="latest", cursor=None, idle_after=0.2)
    async with asyncio.timeout(WITHIN):
        assert (await anext(events)).kind == "idle"
        admin: Any = AIOKafkaAdminClient(bootstrap_servers=kafka_broker.bootstrap_servers)
        await admin.start()
        try:
            await admin.create_partitions({topic: NewPartitions(2)})
        finally:
            await admin.close()
        while len((await kafka.topics.describe(topic)).partitions) < 2:
            pass
        await kafka.publish(topic, "in the new one", partition=1)
        while (event := await anext(events)).message is None:
            pass
        assert (event.message.partition, event.message.value) == (1, "in the new one")
    await events.aclose()
