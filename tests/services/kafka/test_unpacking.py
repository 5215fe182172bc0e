"""Compressed batches are unpacked beside the event loop, and no further than fits."""

import asyncio
import threading
import zlib
from collections.abc import Mapping
from typing import Any, Literal

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.structs import TopicPartition

from app.errors import Conflict
from app.local.kafka import LocalKafka
from app.services.kafka import KafkaService, unpacking
from app.services.kafka.driver import READ_COMMITTED
from app.services.kafka.positions import FromOffset
from app.services.kafka.reading import GRACE
from app.services.kafka.records import Fetched
from app.services.kafka.unpacking import LARGEST_BATCH, MOST_UNPACKED, BatchTooLarge, is_packed, unpack
from tests.services.kafka.conftest import browse, values, work

CODECS: Mapping[str | None, int] = {None: 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
PARTITION = TopicPartition("topic", 0)


def batch(codec: str | None, base: int, *stored: bytes) -> bytes:
    """Write a batch as a producer does, and give it its place as a broker does."""
    builder = DefaultRecordBatchBuilder(2, CODECS[codec], False, -1, -1, -1, 1 << 30)
    for number, value in enumerate(stored):
        builder.append(number, timestamp=1_700_000_000_000, key=None, value=value, headers=[])
    written = bytearray(builder.build())
    written[:8] = base.to_bytes(8, "big")
    return bytes(written)


def read(records: bytes) -> list[tuple[int, bytes | None]]:
    answer = Fetched(PARTITION, 0, 0, 1000, records, None, READ_COMMITTED)
    return [(record.offset, record.value) for record in answer]


@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec])
def test_what_was_compressed_is_read_as_if_it_had_not_been(codec: str) -> None:
    stored = [b"a" * 70_000, b"", b"c" * 10]
    records = batch(None, 0, b"x") + batch(codec, 1, *stored) + batch(None, 4, b"y") + batch(codec, 5, b"z" * 1000)
    assert is_packed(records)
    unpacked, used = unpack(records, MOST_UNPACKED)
    assert not is_packed(unpacked)
    assert read(unpacked) == read(records) == [*enumerate([b"x", *stored, b"y", b"z" * 1000])]
    assert len(unpacked) - used == len(batch(None, 0, b"x")) + len(batch(None, 4, b"y"))


def old_messages(magic: Literal[0, 1], codec: str | None, *stored: bytes) -> bytearray:
    """Write messages as producers did before Kafka 0.11, counted from 0."""
    builder = LegacyRecordBatchBuilder(magic, CODECS[codec], 1 << 30)
    for number, value in enumerate(stored):
        builder.append(number, timestamp=1_700_000_000_000, key=b"key", value=value)
    return bytearray(builder.build())


@pytest.mark.parametrize("codec", ["gzip", "snappy"])
@pytest.mark.parametrize("magic", [0, 1])
def test_messages_from_before_there_were_batches_are_unpacked_too(magic: Literal[0, 1], codec: str) -> None:
    stored = [b"a" * 70_000, b"", b"c" * 10]
    held = old_messages(magic, codec, *stored)
    held[:8] = (2).to_bytes(8, "big")  # as a broker does: the last one's offset
    after = old_messages(magic, None, b"z")
    after[:8] = (3).to_bytes(8, "big")
    records = bytes(held + after)
    assert is_packed(records)
    unpacked, _ = unpack(records, MOST_UNPACKED)
    assert not is_packed(unpacked)
    assert read(unpacked) == read(records) == [*enumerate([*stored, b"z"])]
    # aiokafka takes all that comes at once for what the first is.
    assert read(records + batch(codec, 4, b"new")) == read(records)
    assert unpack(bytes(held[:-1]), MOST_UNPACKED) == (held[:-1], 0)
    held[-1] ^= 1
    assert unpack(bytes(held), MOST_UNPACKED) == (held, 0)


def test_old_messages_have_the_time_that_their_broker_gave_them_all() -> None:
    held = old_messages(1, "gzip", b"a", b"b")
    held[:8] = (7).to_bytes(8, "big")
    held[17] |= 0x08
    held[18:26] = (1_800_000_000_000).to_bytes(8, "big")
    held[12:16] = zlib.crc32(held[16:]).to_bytes(4, "big")
    answer = Fetched(PARTITION, 0, 0, 1000, unpack(bytes(held), MOST_UNPACKED)[0], None, READ_COMMITTED)
    assert [(record.offset, record.timestamp) for record in answer] == [(6, 1_800_000_000_000), (7, 1_800_000_000_000)]


@pytest.mark.parametrize("magic", [0, 1])
def test_an_old_message_that_becomes_a_huge_one_is_refused(magic: Literal[0, 1]) -> None:
    bomb = bytes(old_messages(magic, "gzip", b"a" * (LARGEST_BATCH + 1)))
    with pytest.raises(BatchTooLarge) as refusal:
        unpack(bomb, MOST_UNPACKED)
    assert (refusal.value.begin, refusal.value.following) == (0, 1)


def test_blocks_of_snappy_are_read_without_their_frame() -> None:
    """The C library's clients write one block; Java's write many, in a frame, as above."""
    framed = batch("snappy", 0, b"a" * 100)
    payload = unpacking._codecs.snappy.compress_raw(unpack(framed, MOST_UNPACKED)[0][unpacking.HEAD.size :])
    head = framed[: unpacking.HEAD.size]
    assert read(unpacking._plain(head, 2, bytes(payload))) == [(0, b"a" * 100)]
    assert read(unpack(unpacking._plain(head, 2, bytes(payload)), MOST_UNPACKED)[0]) == [(0, b"a" * 100)]


@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec])
def test_what_does_not_fit_is_left_to_the_next_fetch(codec: str) -> None:
    three = [batch(codec, number, b"a" * 3_000_000) for number in range(3)]
    unpacked, used = unpack(b"".join(three), MOST_UNPACKED)
    assert [offset for offset, _ in read(unpacked)] == [0, 1]
    assert 6_000_000 < used < MOST_UNPACKED
    for left in (0, -1, 1000):
        assert unpack(batch(None, 0, b"x") + three[1], left) == (batch(None, 0, b"x"), 0)
        assert unpack(three[0], left) == (b"", 0)
    # One that is larger comes alone.
    large = batch(codec, 0, b"a" * (MOST_UNPACKED + 1))
    assert [offset for offset, _ in read(unpack(large + three[1], MOST_UNPACKED)[0])] == [0]
    assert [offset for offset, _ in read(unpack(three[0] + large, MOST_UNPACKED)[0])] == [0]


@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec])
def test_a_batch_that_nobody_could_read_is_named_by_its_place(codec: str) -> None:
    bomb = batch(codec, 7, b"\0" * LARGEST_BATCH, b"more")
    with pytest.raises(BatchTooLarge) as refused:
        unpack(bomb, MOST_UNPACKED)
    assert (refused.value.begin, refused.value.following) == (7, 9)
    # What is before it is read first.
    assert read(unpack(batch(codec, 6, b"x") + bomb, MOST_UNPACKED)[0]) == [(6, b"x")]


@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec])
def test_what_is_damaged_or_cut_off_is_left_as_it_is(codec: str) -> None:
    whole = batch(codec, 0, b"a" * 5000, bytes(range(256)))
    assert unpack(whole[:-1], MOST_UNPACKED) == (whole[:-1], 0)
    damaged = whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:]
    assert unpack(damaged, MOST_UNPACKED) == (damaged, 0)
    # With a checksum that fits, as only its producer could have written it.
    nonsense = unpacking._plain(whole[: unpacking.HEAD.size], CODECS[codec], b"nonsense" * 10)
    assert unpack(nonsense, MOST_UNPACKED) == (nonsense, 0)


async def store(broker: LocalKafka, topic: str, codec: str, *stored: bytes) -> None:
    """Store each value in a compressed batch of its own, of any size."""
    options: Any = {"compression_type": codec, "max_request_size": 1 << 30}
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap_servers, **options) as producer:
        for value in stored:
            await producer.send_and_wait(topic, value, partition=0)


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
async def test_a_small_batch_that_becomes_a_huge_one_is_refused_and_read_past(
    kafka_broker: LocalKafka, kafka: KafkaService, topic: str, group_id: str, codec: str
) -> None:
    await store(kafka_broker, topic, codec, b"before", b"\0" * (2 * LARGEST_BATCH), b"after")
    refusal = f"partition 0 of {topic} holds at offset 1 .* 16 MiB; .* from offset 2"
    page = await browse(kafka, topic, timeout_ms=10_000)
    assert (values(page), page.truncated, page.reached_end) == (["before"], True, False)
    with pytest.raises(Conflict, match=refusal):
        await browse(kafka, topic, cursor=page.next_cursor, timeout_ms=10_000)
    with pytest.raises(Conflict, match=refusal):
        await browse(kafka, topic, start=FromOffset(offset=1), timeout_ms=10_000)
    assert values(await browse(kafka, topic, start=FromOffset(offset=2))) == ["after"]
    assert (await kafka.topics.describe(topic)).message_count == 3
    first = await work(kafka, topic, group_id)
    assert values(first) == ["before"]
    with pytest.raises(Conflict, match=refusal):
        await work(kafka, topic, group_id, ack=first.ack)


async def test_batches_are_unpacked_beside_the_event_loop(
    kafka_broker: LocalKafka, kafka: KafkaService, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[threading.Thread] = set()
    unpack_gzip = unpacking._CODECS[1]

    def observed(data: bytes, most: int) -> bytes:
        threads.add(threading.current_thread())
        return unpack_gzip(data, most)

    monkeypatch.setattr(unpacking, "_CODECS", {**unpacking._CODECS, 1: observed})
    large = [bytes([letter]) * (MOST_UNPACKED // 2) for letter in b"abc"]
    await store(kafka_broker, topic, "gzip", *large)
    found: list[Any] = []
    page = await browse(kafka, topic, max_bytes=8_388_608)
    while page.messages:
        found += values(page)
        page = await browse(kafka, topic, max_bytes=8_388_608, cursor=page.next_cursor)
    assert found == [value.decode() for value in large]
    assert (await kafka.topics.describe(topic)).message_count == 3
    assert threads
    assert threading.main_thread() not in threads


async def test_who_does_not_wait_for_kafka_waits_for_what_is_unpacked(
    kafka_broker: LocalKafka, kafka: KafkaService, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store(kafka_broker, topic, "gzip", b"a" * 1000)
    over = threading.Event()
    unpack_gzip = unpacking._CODECS[1]
    loop = asyncio.get_running_loop()

    def slow(data: bytes, most: int) -> bytes:
        loop.call_soon_threadsafe(loop.call_later, 2 * GRACE, over.set)
        assert over.wait(10)
        return unpack_gzip(data, most)

    monkeypatch.setattr(unpacking, "_CODECS", {**unpacking._CODECS, 1: slow})
    assert values(await browse(kafka, topic, timeout_ms=0)) == ["a" * 1000]
    assert over.is_set()
