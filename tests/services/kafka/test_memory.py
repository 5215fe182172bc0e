"""What readers hold together: it is bounded by bytes, however many they are and however slowly they take it."""

import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from app.services.kafka import KafkaService, reading
from app.services.kafka.cluster import Cluster
from app.services.kafka.driver import PartitionReader
from app.services.kafka.messages import ConsumedMessages
from app.services.kafka.positions import FromTail
from app.services.kafka.reading import Page, Reader
from app.services.kafka.records import Fetched
from app.services.kafka.schemas import StreamEvent
from tests.services.kafka.conftest import Requests, browse, values, work

WITHIN = 30.0
LARGE = 900_000
"""Bytes of a message of which a default answer takes one."""


@pytest.fixture
async def large(kafka: KafkaService, topic: str) -> str:
    """A topic of three large messages."""
    for letter in "abc":
        await kafka.publish(topic, letter * LARGE)
    return topic


@contextmanager
def without_the_collector() -> Iterator[None]:
    """Free nothing but what nobody refers to."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def test_no_more_is_asked_for_than_the_answer_takes(kafka: KafkaService, large: str, requests: Requests) -> None:
    for most in (LARGE * 2, LARGE, 1000):
        requests.clear()
        cursor: str | None = None
        read: list[Any] = []
        while len(read) < 3:
            page = await browse(kafka, large, max_messages=1000, max_bytes=most, cursor=cursor)
            assert page.messages, "one message comes, however large it is"
            read += values(page)
            cursor = page.next_cursor
        assert read == [letter * LARGE for letter in "abc"]
        asked = [request._max_bytes for request in requests.of("FetchRequest")]
        assert asked
        assert max(asked) <= max(min(most, 1024 * 1024), 64 * 1024)


async def test_a_group_and_a_tail_get_messages_that_are_larger_than_their_answers(
    kafka: KafkaService, large: str, group_id: str
) -> None:
    given = await work(kafka, large, group_id, max_bytes=1000)
    assert values(given) == ["a" * LARGE]
    assert values(await work(kafka, large, group_id, max_bytes=1000, ack=given.ack)) == ["b" * LARGE]
    assert values(await browse(kafka, large, start=FromTail(tail=1), max_bytes=1000)) == ["c" * LARGE]


@pytest.mark.parametrize("by", ["browsing", "group"])
async def test_what_all_readers_have_read_is_bounded_and_an_answer_is_cut_short_rather_than_kept_waiting(
    kafka: KafkaService, large: str, group_id: str, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """Forty answers of 2.7 MB: a reader that waited for room with what it had would hold what nobody counts."""
    pages: list[weakref.ref[Page]] = []
    held: list[int] = []
    take: Any = Reader._take

    async def noted(self: Reader, page: Page, *given: Any) -> bool:
        full: bool = await take(self, page, *given)
        if not any(known() is page for known in pages):
            pages.append(weakref.ref(page))
        held.append(sum(found.size for known in pages if (found := known()) is not None))
        return full

    async def read(reader: int) -> ConsumedMessages:
        if by == "group":
            return await work(kafka, large, f"{group_id}-{reader}", max_bytes=8 << 20, timeout_ms=20_000)
        return await browse(kafka, large, max_messages=1000, max_bytes=8 << 20, timeout_ms=20_000)

    def first_batch(partition: Any, position: int, first: int, end: int, records: bytes, *further: Any) -> Fetched:
        """As a broker answers that sends no more than it is asked for."""
        size = 12 + int.from_bytes(records[8:12])
        return Fetched(partition, position, first, end, records[:size], *further)

    monkeypatch.setattr("app.services.kafka.cluster.Fetched", first_batch)
    monkeypatch.setattr(Reader, "_take", noted)
    monkeypatch.setattr(kafka._reader._turns, "limit", 6 << 20)
    async with asyncio.timeout(60):
        answers = await asyncio.gather(*(read(reader) for reader in range(40)))
    # What is asked for at once is a guess, and the messages twice as large.
    assert max(held) <= 2.5 * (6 << 20)
    for answer in answers:
        assert values(answer) == [letter * LARGE for letter in "abc"][: len(answer.messages)]
        assert answer.messages
        assert answer.truncated is (len(answer.messages) < 3)
        if answer.truncated and by == "browsing":
            further: dict[str, Any] = {"cursor": answer.next_cursor, "timeout_ms": 20_000}
            rest = await browse(kafka, large, max_messages=1000, max_bytes=8 << 20, **further)
            assert len(rest.messages) == 3 - len(answer.messages)
    assert kafka._reader._turns.held == 0


@pytest.mark.parametrize("cancelled", [False, True])
async def test_all_readers_together_ask_for_so_many_bytes_and_the_others_wait(
    kafka: KafkaService, large: str, monkeypatch: pytest.MonkeyPatch, *, cancelled: bool
) -> None:
    asked: list[int] = []
    go_on = asyncio.Event()
    full = asyncio.Event()
    fetch: Any = Cluster.fetch

    async def held_up(self: Cluster, topic: str, positions: Any, **how: Any) -> Any:
        asked.append(how["max_bytes"])
        if sum(asked) + 1024 * 1024 > reading._MOST_READ:
            full.set()
        await go_on.wait()
        return await fetch(self, topic, positions, **how)

    monkeypatch.setattr(Cluster, "fetch", held_up)
    readers = [asyncio.create_task(browse(kafka, large, max_messages=1000, timeout_ms=20_000)) for _ in range(50)]
    async with asyncio.timeout(WITHIN):
        await full.wait()
        turns = kafka._reader._turns
        assert sum(asked) == turns.held == reading._MOST_READ
        if cancelled:
            for reader in readers[::2]:
                reader.cancel()
        go_on.set()
        pages = await asyncio.gather(*readers, return_exceptions=True)
    answered = [page for page in pages if isinstance(page, ConsumedMessages)]
    assert len(answered) == (25 if cancelled else 50)
    assert all(values(page) == ["a" * LARGE] for page in answered)
    assert turns.held == 0


async def test_who_waits_for_messages_holds_nothing(
    kafka: KafkaService, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = asyncio.Event()
    wait: Any = Reader._more_than

    async def noted(self: Reader, *given: Any) -> None:
        waits.set()
        await wait(self, *given)

    monkeypatch.setattr(Reader, "_more_than", noted)
    waiting = asyncio.create_task(browse(kafka, topic, timeout_ms=20_000))
    async with asyncio.timeout(WITHIN):
        await waits.wait()
        assert kafka._reader._turns.held == 0
        await kafka.publish(topic, "now")
        assert values(await waiting) == ["now"]


async def test_what_a_broker_sent_is_freed_with_its_answer(
    kafka: KafkaService, large: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiokafka's reader is a part of a ring, which the collector finds some hundreds of megabytes later."""
    inside: list[weakref.ref[Any]] = []
    read: Any = PartitionReader._read

    def noted(self: PartitionReader, batches: Any, position: int) -> Any:
        records = read(self, batches, position)
        inside.append(weakref.ref(records))
        return records

    monkeypatch.setattr(PartitionReader, "_read", noted)
    with without_the_collector():
        assert values(await browse(kafka, large, max_messages=1)) == ["a" * LARGE]
        assert inside
        assert [records() for records in inside] == [None] * len(inside)


async def test_a_stream_keeps_nothing_of_what_its_caller_has(kafka: KafkaService, large: str) -> None:
    stream: AsyncGenerator[StreamEvent] = await kafka.stream(large, start="earliest", cursor=None)
    try:
        with without_the_collector():
            for letter in "abc":
                async with asyncio.timeout(WITHIN):
                    event = await anext(stream)
                assert event.message is not None
                message, value = weakref.ref(event.message), event.message.value
                del event
                assert value == letter * LARGE
                assert message() is None
                assert kafka._reader._turns.held == 0
    finally:
        await stream.aclose()
