"""Publishing: what is answered with an offset is stored, once, as it was given."""

import asyncio
import base64
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient

from app.errors import BackendTimeout, Conflict, InvalidArguments, NotFound
from app.local.kafka import LocalKafka
from app.services.kafka import KafkaService, driver, publishing
from app.services.kafka.driver import Producer
from tests.fixtures.kafka import settings_for_kafka
from tests.services.kafka.conftest import Requests, browse, values


async def test_an_answer_names_the_exact_place(kafka: KafkaService, topic: str) -> None:
    placed = [await kafka.publish(topic, f"message {number}") for number in range(3)]
    assert [(place.topic, place.partition, place.offset) for place in placed] == [(topic, 0, n) for n in range(3)]
    stored = (await browse(kafka, topic)).messages
    assert [(message.offset, message.value, message.timestamp) for message in stored] == [
        (place.offset, f"message {number}", place.timestamp) for number, place in enumerate(placed)
    ]


@pytest.mark.parametrize(
    ("message", "value", "encoding"),
    [
        ("plain", "plain", "text"),
        ("", "", "text"),
        ({"a": [1, None, "é"]}, {"a": [1, None, "é"]}, "json"),
        ([1, 2], [1, 2], "json"),
        (7, 7, "json"),
        (2**80, 2**80, "json"),
        (1.5, 1.5, "json"),
        (True, True, "json"),
        ('{"written": "by hand"}', {"written": "by hand"}, "json"),
        ("1.10", "1.10", "text"),
        ("007", "007", "text"),
        ("1e400", "1e400", "text"),
        ("NaN", "NaN", "text"),
        ("{not json", "{not json", "text"),
        ("[" * 5000, "[" * 5000, "text"),
    ],
)
async def test_a_value_comes_back_as_it_was_meant(
    kafka: KafkaService, topic: str, message: Any, value: Any, encoding: str
) -> None:
    await kafka.publish(topic, message)
    [stored] = (await browse(kafka, topic)).messages
    assert (stored.value, stored.encoding) == (value, encoding)


async def test_bytes_travel_as_base64(kafka: KafkaService, topic: str) -> None:
    raw = base64.b64encode(bytes(range(256))).decode()
    await kafka.publish(topic, raw, encoding="base64", key=raw, key_encoding="base64")
    [stored] = (await browse(kafka, topic)).messages
    assert (stored.value, stored.encoding) == (raw, "base64")
    assert (stored.key, stored.key_encoding) == (raw, "base64")


async def test_a_null_is_a_tombstone_of_its_key(kafka: KafkaService, topic: str) -> None:
    await kafka.publish(topic, None, key="gone")
    [stored] = (await browse(kafka, topic)).messages
    assert (stored.key, stored.value, stored.encoding) == ("gone", None, None)
    with pytest.raises(InvalidArguments) as refused:
        await kafka.publish(topic, None)
    assert refused.value.errors[0].field == "key"


async def test_a_key_of_digits_stays_a_string(kafka: KafkaService, topic: str) -> None:
    await kafka.publish(topic, "x", key="42")
    [stored] = (await browse(kafka, topic)).messages
    assert (stored.key, stored.key_encoding) == ("42", "text")


async def test_headers_and_timestamp_are_kept(kafka: KafkaService, topic: str) -> None:
    # Not so old that retention takes it.
    moment = datetime.now(UTC).replace(microsecond=250_000) - timedelta(hours=1)
    placed = await kafka.publish(
        topic, "x", headers={"trace": "abc", "name": "Zoë"}, timestamp_ms=int(moment.timestamp() * 1000)
    )
    [stored] = (await browse(kafka, topic)).messages
    assert stored.headers == {"trace": "abc", "name": "Zoë"}
    assert stored.timestamp == placed.timestamp == moment


async def test_the_same_key_goes_to_the_same_partition(kafka: KafkaService, wide_topic: str) -> None:
    placed = [await kafka.publish(wide_topic, number, key="customer-7") for number in range(5)]
    assert len({place.partition for place in placed}) == 1
    assert (await kafka.publish(wide_topic, "x", partition=2)).partition == 2


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"message": "not base64!", "encoding": "base64"}, "message"),
        ({"message": {"a": 1}, "encoding": "base64"}, "message"),
        ({"message": "x", "key": "?", "key_encoding": "base64"}, "key"),
        ({"message": "\ud800"}, "message"),
        ({"message": "x", "headers": {"h": "\ud800"}}, "headers.h"),
        ({"message": "x", "partition": 1}, "partition"),
        ({"message": "x" * 1_100_000}, "message"),
    ],
)
async def test_what_kafka_can_not_store_is_refused_by_name(
    kafka: KafkaService, topic: str, arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidArguments) as refused:
        await kafka.publish(topic, **arguments)
    assert refused.value.errors[0].field == field
    assert (await kafka.topics.describe(topic)).message_count == 0


async def test_a_message_past_the_brokers_maximum_is_refused_by_name(kafka: KafkaService, topic_name: str) -> None:
    await kafka.topics.create(topic_name, num_partitions=1, config={"max.message.bytes": "2000"})
    with pytest.raises(InvalidArguments) as refused:
        await kafka.publish(topic_name, "x" * 5000)
    assert refused.value.errors[0].field == "message"
    assert (await kafka.publish(topic_name, "small")).offset == 0


async def test_a_refusal_names_the_limit_that_was_hit(kafka_broker: LocalKafka, topic_name: str) -> None:
    async with KafkaService.open(settings_for_kafka(kafka_broker, max_request_size=3000)) as kafka:
        await kafka.topics.create(topic_name, num_partitions=1, config={"max.message.bytes": "2000"})
        with pytest.raises(InvalidArguments, match=r"2000 bytes .*max\.message\.bytes"):
            await kafka.publish(topic_name, "x" * 2500)
        with pytest.raises(InvalidArguments, match=r"2000 bytes .*max\.message\.bytes"):
            await kafka.publish(topic_name, "x", headers={"long": "x" * 2500})
        await kafka.topics.create(f"{topic_name}.roomy", num_partitions=1)
        with pytest.raises(InvalidArguments, match=r"3000 bytes of KAFKA_MAX_REQUEST_SIZE"):
            await kafka.publish(f"{topic_name}.roomy", "x" * 3500)
        assert (await kafka.publish(topic_name, "x" * 1500)).offset == 0


async def test_messages_that_are_too_large_only_together_are_stored(
    kafka: KafkaService, kafka_broker: LocalKafka, topic_name: str
) -> None:
    """What is published at the same moment travels in one batch, and the broker's limit is one of batches."""
    await kafka.topics.create(topic_name, num_partitions=1, config={"max.message.bytes": "2000"})
    moment = int(datetime.now(UTC).timestamp() * 1000) - 1000
    placed = await asyncio.gather(
        *(kafka.publish(topic_name, f"{number:3}" * 300, key=str(number), timestamp_ms=moment) for number in range(20))
    )
    assert sorted(place.offset for place in placed) == list(range(20))
    stored = (await browse(kafka, topic_name, max_messages=20)).messages
    by_offset = {message.offset: message for message in stored}
    for number, place in enumerate(placed):
        assert by_offset[place.offset].value == f"{number:3}" * 300
        assert by_offset[place.offset].timestamp == place.timestamp == datetime.fromtimestamp(moment / 1000, UTC)


async def test_messages_that_are_too_large_take_no_others_with_them(kafka: KafkaService, topic_name: str) -> None:
    await kafka.topics.create(topic_name, num_partitions=1, config={"max.message.bytes": "2000"})
    small = [f"small {number}" for number in range(40)]
    attempts = [kafka.publish(topic_name, message) for message in small]
    attempts += [kafka.publish(topic_name, "large " * 500) for _ in range(10)]
    attempts += [kafka.publish(topic_name, f"and {message}") for message in small]
    answers = await asyncio.gather(*attempts, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert [type(answer) for answer in refused] == [InvalidArguments] * 10
    assert all("2000 bytes" in str(answer) for answer in refused)
    stored = values(await browse(kafka, topic_name, max_messages=100))
    assert sorted(stored) == sorted(small + [f"and {message}" for message in small])


async def test_a_publish_that_times_out_late_leaves_the_producer_alone_that_took_over(
    kafka_broker: LocalKafka, monkeypatch: pytest.MonkeyPatch, topic: str
) -> None:
    started: list[Producer] = []
    stopped: list[Producer] = []

    class KeepsSilent(Producer):
        """A producer whose brokers store everything and do not answer for some of it."""

        async def start(self, within: float) -> None:
            await super().start(within)
            started.append(self)

        async def send(self, topic: str, value: bytes | None, *others: Any, **options: Any) -> Any:
            stored = await super().send(topic, value, *others, **options)
            return asyncio.get_running_loop().create_future() if value == b"silence" else stored

        async def stop(self, within: float) -> None:
            stopped.append(self)
            await super().stop(within)

    monkeypatch.setattr(publishing, "Producer", KeepsSilent)
    async with KafkaService.open(settings_for_kafka(kafka_broker, delivery_timeout_ms=1000)) as kafka:
        silent: list[asyncio.Task[Any]] = []
        for _ in range(5):
            silent.append(asyncio.create_task(kafka.publish(topic, "silence")))
            for number in range(30):
                await kafka.publish(topic, number)
        while not all(task.done() for task in silent):
            await kafka.publish(topic, "meanwhile")
        assert all(isinstance(task.exception(), BackendTimeout) for task in silent)
        await kafka.publish(topic, "after")
        assert len(started) == 2
        assert stopped == started[:1]


async def test_a_producer_whose_sender_has_ended_is_replaced(
    kafka_broker: LocalKafka, monkeypatch: pytest.MonkeyPatch, topic: str
) -> None:
    started: list[Producer] = []

    class Known(Producer):
        async def start(self, within: float) -> None:
            await super().start(within)
            started.append(self)

    monkeypatch.setattr(publishing, "Producer", Known)
    async with KafkaService.open(settings_for_kafka(kafka_broker)) as kafka:
        await kafka.publish(topic, "before")
        # What aiokafka does when its sender meets something unforeseen.
        insides: Any = started[0]
        insides._producer._message_accumulator.fail_all(errors.KafkaError("Unexpected error during batch delivery"))
        assert (await kafka.publish(topic, "after")).offset == 1
        assert len(started) == 2


async def test_an_unknown_topic_is_not_created(kafka: KafkaService, topic_name: str) -> None:
    with pytest.raises(NotFound, match=topic_name):
        await kafka.publish(topic_name, "x")
    with pytest.raises(NotFound):
        await browse(kafka, topic_name)
    assert (await kafka.topics.find(topic_name)).topics == []


async def test_an_unknown_topic_is_created_if_a_setting_says_so(kafka_broker: LocalKafka, topic_name: str) -> None:
    settings = settings_for_kafka(kafka_broker, allow_auto_create_topics=True)
    async with KafkaService.open(settings) as kafka:
        assert (await kafka.publish(topic_name, "x")).offset == 0
        assert [topic.name for topic in (await kafka.topics.find(topic_name)).topics] == [topic_name]


async def test_a_topic_that_is_deleted_does_not_come_back(
    kafka: KafkaService, kafka_broker: LocalKafka, topic: str
) -> None:
    await kafka.publish(topic, "x")
    admin: Any = AIOKafkaAdminClient(bootstrap_servers=kafka_broker.bootstrap_servers)
    await admin.start()
    try:
        await admin.delete_topics([topic])
    finally:
        await admin.close()
    with pytest.raises(NotFound):
        await asyncio.wait_for(_publish_until_refused(kafka, topic), 20)
    assert (await kafka.topics.find(topic)).topics == []


async def test_messages_to_a_topic_that_was_just_deleted_are_refused_without_a_storm(
    kafka: KafkaService,
    kafka_broker: LocalKafka,
    topic: str,
    wide_topic: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    requests: Requests,
) -> None:
    """aiokafka asks for the topic without a pause, hundreds of times a second, and writes a line each time."""
    monkeypatch.setattr(publishing, "_LOOK_FOR_TOPIC_EVERY", 0.5)
    updates = 0
    update: Any = driver._Client._metadata_update

    async def counted(self: Any, *given: Any) -> bool:
        nonlocal updates
        updates += 1
        done: bool = await update(self, *given)
        return done

    monkeypatch.setattr(driver._Client, "_metadata_update", counted)
    await kafka.publish(wide_topic, "x", partition=2)
    admin: Any = AIOKafkaAdminClient(bootstrap_servers=kafka_broker.bootstrap_servers)
    await admin.start()
    try:
        # What is known of the topic is kept, as in the moment after it was deleted.
        known = kafka._cluster._topics[wide_topic][1]
        await admin.delete_topics([wide_topic])
        kafka._cluster._topics[wide_topic] = time.monotonic() + 60, known
    finally:
        await admin.close()
    requests.clear()
    async with asyncio.timeout(40):
        outcomes = await asyncio.gather(
            *(kafka.publish(wide_topic, "y", partition=n % 3) for n in range(50)), return_exceptions=True
        )
    assert {type(outcome) for outcome in outcomes} == {NotFound}
    assert updates < 200
    assert len(requests.of("MetadataRequest")) < 200
    assert "not found in cluster metadata" not in caplog.text
    assert (await kafka.publish(topic, "others")).offset == 0


async def _publish_until_refused(kafka: KafkaService, topic: str) -> None:
    while True:
        await kafka.publish(topic, "y")


async def test_a_repeat_with_the_same_key_is_stored_once(kafka: KafkaService, topic: str) -> None:
    first = await kafka.publish(topic, "pay", idempotency_key="order-1")
    again = await kafka.publish(topic, "pay", idempotency_key="order-1")
    assert (first.duplicate, again.duplicate) == (False, True)
    assert again.offset == first.offset
    [stored] = (await browse(kafka, topic)).messages
    assert stored.headers == {"idempotency-key": "order-1"}
    with pytest.raises(Conflict):
        await kafka.publish(topic, "pay twice", idempotency_key="order-1")
    with pytest.raises(InvalidArguments):
        await kafka.publish(topic, "pay", idempotency_key="order-2", headers={"idempotency-key": "order-1"})


async def test_repeats_at_the_same_moment_share_one_answer(kafka: KafkaService, topic: str) -> None:
    placed = await asyncio.gather(*(kafka.publish(topic, "pay", idempotency_key="order-1") for _ in range(20)))
    assert {place.offset for place in placed} == {0}
    assert (await kafka.topics.describe(topic)).message_count == 1


async def test_a_caller_who_leaves_does_not_take_the_message_back(kafka: KafkaService, topic: str) -> None:
    leaving = asyncio.create_task(kafka.publish(topic, "on its way", idempotency_key="k"))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    assert (await kafka.publish(topic, "on its way", idempotency_key="k")).offset == 0
    assert values(await browse(kafka, topic)) == ["on its way"]


async def test_ten_thousand_messages_are_read_back_complete_and_in_order(kafka: KafkaService, wide_topic: str) -> None:
    async def publish(numbers: range) -> list[tuple[int, int, int]]:
        return [
            ((place := await kafka.publish(wide_topic, number, key=str(number % 7))).partition, place.offset, number)
            for number in numbers
        ]

    answered = [
        place
        for part in await asyncio.gather(*(publish(range(start, 10_000, 100)) for start in range(100)))
        for place in part
    ]
    read: list[tuple[int, int, int]] = []
    cursor = None
    while True:
        page = await browse(kafka, wide_topic, cursor=cursor, max_messages=1000)
        read += [(message.partition, message.offset, message.value) for message in page.messages]  # type: ignore[misc]
        cursor = page.next_cursor
        if page.reached_end:
            break
    assert len(read) == 10_000
    assert sorted(read) == sorted(answered)
    for partition in range(3):
        offsets = [offset for found, offset, _ in read if found == partition]
        assert offsets == list(range(len(offsets)))


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_compressed_messages_come_back_whole(
    kafka_broker: LocalKafka, kafka: KafkaService, topic: str, codec: str
) -> None:
    async with KafkaService.open(settings_for_kafka(kafka_broker, compression_type=codec)) as compressing:
        await asyncio.gather(*(compressing.publish(topic, f"{codec} " * 200) for _ in range(20)))
    assert values(await browse(kafka, topic, max_messages=20)) == [f"{codec} " * 200] * 20
