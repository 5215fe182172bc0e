"""Reading by assignment and seek: no group, no trace on the cluster, and the cursor is all the state."""

import asyncio
import base64
import binascii
import heapq
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationError
from pydantic_core import to_json

from app.errors import BackendTimeout, InvalidArguments
from app.services.kafka.cluster import EARLIEST, LATEST, Cluster, Fetched, Record, Topic
from app.services.kafka.messages import Message, decode_record, record_size
from app.services.kafka.tails import Tails

MAX_MESSAGES = 1000

_BYTES_A_MESSAGE = 4096
"""What a message is expected to take at most, for the size of the first fetch."""
_LEAST_FETCH, _MOST_FETCH = 64 * 1024, 1024 * 1024
_MOST_ANSWER = 8 * 1024 * 1024
GRACE = 0.3
"""Seconds beyond the caller's time that an answer which is on its way gets."""


_LARGEST = 2**63 - 1
Offset = Annotated[int, Field(ge=0, le=_LARGEST)]


def _milliseconds(moment: Any) -> int:
    """Read a time as callers write it."""
    if isinstance(moment, str):
        parsed = datetime.fromisoformat(moment)
        if parsed.tzinfo is None:
            raise ValueError("an ISO 8601 time needs its offset from UTC, such as `Z`")
        moment = int(parsed.timestamp() * 1000)
    if isinstance(moment, bool) or not isinstance(moment, int) or not 0 <= moment <= _LARGEST:
        raise ValueError("expected an ISO 8601 time or milliseconds, and none before 1970")
    return moment


_Iso8601 = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Milliseconds = Annotated[
    int,
    BeforeValidator(
        _milliseconds, json_schema_input_type=Annotated[str, Field(json_schema_extra={"format": "date-time"})] | int
    ),
    Field(ge=0, lt=2**63),
]
"""A moment, in Kafka's milliseconds since 1970. Callers may write ISO 8601 with an offset instead."""


class FromOffset(BaseModel):
    """Begin at an offset of one partition."""

    model_config = ConfigDict(extra="forbid")

    offset: Offset


class FromTimestamp(BaseModel):
    """Begin at the first message that is not older."""

    model_config = ConfigDict(extra="forbid")

    timestamp: Milliseconds = Field(description="ISO 8601 with an offset, or milliseconds since 1970.")


class FromTail(BaseModel):
    """Begin so that the last n messages of the topic are read."""

    model_config = ConfigDict(extra="forbid")

    tail: int = Field(ge=1, le=MAX_MESSAGES)


def _kind_of_start(start: Any) -> str | None:
    if isinstance(start, str):
        return "word"
    if isinstance(start, dict):
        keys = cast("dict[str, Any]", start).keys() & {"offset", "timestamp", "tail"}
        return next(iter(keys)) if len(keys) == 1 else None
    return None


Start = Annotated[
    Annotated[Literal["earliest", "latest"], Tag("word")]
    | Annotated[FromOffset, Tag("offset")]
    | Annotated[FromTimestamp, Tag("timestamp")]
    | Annotated[FromTail, Tag("tail")],
    Discriminator(
        _kind_of_start,
        custom_error_type="start",
        custom_error_message='expected "earliest", "latest", {"offset": n}, {"timestamp": t} or {"tail": n}',
    ),
]
"""Where a reader may begin."""


class Cursor(BaseModel):
    """Where a reader stands. It is no secret and holds nothing that the reader may not choose anyway."""

    model_config = ConfigDict(extra="forbid")

    topic: str = Field(alias="t")
    offsets: dict[Annotated[int, Field(ge=0)], Offset] = Field(alias="o")
    whole: bool = Field(alias="w")
    """All partitions are read, so that one which is added later is read from its beginning."""

    @classmethod
    def at(cls, topic: str, offsets: Mapping[int, int], *, whole: bool) -> Self:
        """Return the cursor of a position."""
        return cls(t=topic, o=dict(offsets), w=whole)

    def write(self) -> str:
        """Return the cursor as an opaque string."""
        return base64.urlsafe_b64encode(to_json(self, by_alias=True)).rstrip(b"=").decode()

    @classmethod
    def read(cls, text: str, topic: str) -> Self:
        """Read a cursor.

        Raises:
            InvalidArguments: it is none, or one of another topic.
        """
        try:
            cursor = cls.model_validate_json(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        except (ValidationError, binascii.Error, ValueError):
            raise InvalidArguments.of("cursor", "is not a cursor of this server; take next_cursor as it is") from None
        if cursor.topic != topic:
            raise InvalidArguments.of("cursor", "is a cursor of another topic")
        return cursor


@dataclass(frozen=True)
class Limits:
    """Where an answer ends, and what does not belong in it."""

    messages: int
    bytes: int
    matches: Callable[[Record], bool] | None = None


@dataclass
class Page:
    """What was read, and where to read on."""

    positions: dict[int, int]
    messages: list[Message] = field(default_factory=list[Message])
    size: int = 0
    reached_end: bool = False
    truncated: bool = False
    skipped: int = 0
    spans: dict[int, int] = field(default_factory=dict[int, int])
    """Offset after the last returned message, by partition."""


class Reader:
    """Reads topics from given positions."""

    def __init__(self, cluster: Cluster, tails: Tails) -> None:
        self._cluster = cluster
        self._tails = tails

    async def begin(self, topic: Topic, start: Start, partition: int | None) -> dict[int, int]:
        """Return the position by partition at which a reader begins.

        Raises:
            InvalidArguments: the topic has no such partition, or an offset is given without a partition.
        """
        chosen = chosen_partitions(topic, partition)
        match start:
            case "earliest":
                return await self._known(topic, dict.fromkeys(chosen, EARLIEST))
            case "latest":
                return await self._known(topic, dict.fromkeys(chosen, LATEST))
            case FromOffset(offset=offset):
                if len(chosen) > 1:
                    raise InvalidArguments.of("partition", f"say which; {topic.name} has {len(chosen)} partitions")
                [(first, end)] = (await self._cluster.bounds(topic.name, chosen)).values()
                if end is not None and offset > end:
                    raise InvalidArguments.of("start.offset", f"partition {chosen[0]} has offsets {first} to {end}")
                return dict.fromkeys(chosen, offset)
            case FromTimestamp(timestamp=timestamp):
                found = await self._cluster.offsets(topic.name, dict.fromkeys(chosen, timestamp))
                ends = await self._known(topic, dict.fromkeys(chosen, LATEST))
                return {p: end if (offset := found[p]) is None else offset for p, end in ends.items()}
            case FromTail(tail=count):
                return await self._before_the_end(topic, chosen, count)

    async def resume(self, topic: Topic, cursor: Cursor, partition: int | None) -> dict[int, int]:
        """Return the position by partition at which a cursor stands.

        Raises:
            InvalidArguments: the topic has no such partition, or the cursor does not cover it.
        """
        chosen = chosen_partitions(topic, partition)
        if not cursor.whole:
            if partition is not None and partition not in cursor.offsets:
                raise InvalidArguments.of("partition", "the cursor is one of another partition")
            return {p: offset for p, offset in cursor.offsets.items() if p in topic.partitions}
        added = [p for p in chosen if p not in cursor.offsets]
        beginnings = await self._known(topic, dict.fromkeys(added, EARLIEST)) if added else {}
        return {p: cursor.offsets[p] for p in chosen if p in cursor.offsets} | beginnings

    async def read(self, topic: str, positions: Mapping[int, int], limits: Limits, deadline: float) -> Page:
        """Read up to the limits; wait for a first message if there is none.

        Args:
            topic: its name.
            positions: where to begin, by partition.
            limits: when the answer is full.
            deadline: by time.monotonic(), until when a first message is waited for; a long search ends then, too.
        """
        page = Page(dict(positions))
        bound = asyncio.timeout(max(deadline - time.monotonic(), 0) + GRACE)
        try:
            async with bound:
                await self.read_stored(topic, page, limits, deadline)
                if page.messages or not page.reached_end or time.monotonic() >= deadline:
                    return page
                async with self._tails.follow(topic) as tail:
                    while page.reached_end and not page.messages and not tail.gone:
                        try:
                            async with asyncio.timeout(deadline - time.monotonic()):
                                await tail.moved_beyond(page.positions)
                        except TimeoutError:
                            return page
                        await self.read_stored(topic, page, limits, deadline)
        except TimeoutError:
            if not bound.expired() or not (page.messages or page.reached_end):
                raise BackendTimeout("Kafka did not answer within timeout_ms; try again later") from None
            page.truncated = True
        return page

    async def read_stored(self, topic: str, page: Page, limits: Limits, deadline: float) -> None:
        """Read what is stored, without waiting for more, and add it to the page.

        Args:
            topic: its name.
            page: it is read on from its positions.
            limits: when the page is full.
            deadline: by time.monotonic(); a search that takes longer is broken off.
        """
        # Even who does not want to wait gets more than one fetch, if there is more.
        deadline = max(deadline, time.monotonic() + GRACE / 2)
        room = min(max(limits.messages * _BYTES_A_MESSAGE, _LEAST_FETCH), _MOST_FETCH)
        while page.positions:
            fetched, outside = await self._cluster.fetch(
                topic, page.positions, partition_bytes=room, max_bytes=_MOST_ANSWER
            )
            if outside:
                await self._return_to_what_is_stored(topic, page, outside)
            full = self._take(page, fetched, limits)
            page.reached_end = (
                not full
                and not outside
                and all(page.positions[partition] >= answer.end for partition, answer in fetched.items())
            )
            if full or page.reached_end:
                return
            if time.monotonic() >= deadline and not outside:
                page.truncated = True
                return
            if limits.matches is not None:
                room = _MOST_FETCH
            # Brokers fill an answer partition by partition: another one gets its turn.
            page.positions = dict([*page.positions.items()][1:] + [*page.positions.items()][:1])

    @asynccontextmanager
    async def changes(self, topic: str) -> AsyncGenerator[AsyncIterator[Cursor]]:
        """Follow a topic: yields an iterator once every later message is sure to be noticed.

        Each cursor stands before the messages that are new since the one before it, however many they are.
        """
        async with self._tails.follow(topic) as tail:

            async def notices(seen: dict[int, int]) -> AsyncIterator[Cursor]:
                while True:
                    await tail.moved_beyond(seen)
                    if tail.gone:
                        return
                    notice = Cursor.at(topic, seen, whole=True)
                    seen = dict(tail.ends)
                    yield notice

            yield notices(dict(tail.ends))

    def _take(self, page: Page, fetched: Mapping[int, Fetched], limits: Limits) -> bool:
        """Move records into the page until it is full; tell whether it is."""
        for record in heapq.merge(*fetched.values(), key=_time):
            if limits.matches is None or limits.matches(record):
                size = record_size(record)
                if page.messages and page.size + size > limits.bytes:
                    page.truncated = True
                    return True
                page.messages.append(decode_record(record))
                page.size += size
                page.spans[record.partition] = record.offset + 1
            page.positions[record.partition] = record.offset + 1
            if len(page.messages) >= limits.messages:
                # It may be the last one: then there is nothing more to fetch.
                return any(page.positions[p] < answer.end for p, answer in fetched.items())
        for partition, answer in fetched.items():
            # Markers of transactions and what compaction removed have offsets, too.
            page.positions[partition] = max(page.positions[partition], answer.position)
        return False

    async def _return_to_what_is_stored(self, topic: str, page: Page, outside: set[int]) -> None:
        """Move positions that retention has overtaken, or that are past the end, to where messages are."""
        for partition, (first, end) in (await self._cluster.bounds(topic, sorted(outside))).items():
            position = page.positions[partition]
            if first is None or end is None:
                continue
            if position < first:
                page.skipped += first - position
                page.positions[partition] = first
            elif position > end:
                # Past the end: the topic was deleted and made again. A reader who chose an offset is told so before.
                page.positions[partition] = first

    async def _known(self, topic: Topic, wanted: dict[int, int]) -> dict[int, int]:
        found = await self._cluster.offsets(topic.name, wanted)
        return {partition: offset for partition, offset in found.items() if offset is not None}

    async def _before_the_end(self, topic: Topic, chosen: list[int], count: int) -> dict[int, int]:
        """Return positions after which `count` messages come, the newest of the topic by their time."""
        bounds = await self._cluster.bounds(topic.name, chosen)
        ends = {p: end for p, (_, end) in bounds.items() if end is not None}
        starts = {p: max((first or 0), ends[p] - count) for p, (first, _) in bounds.items() if p in ends}
        if len(starts) == 1:
            return starts
        newest: list[tuple[int, int, int]] = []
        positions = dict(starts)
        while any(positions[p] < ends[p] for p in positions):
            behind = {p: offset for p, offset in positions.items() if offset < ends[p]}
            fetched, outside = await self._cluster.fetch(
                topic.name, behind, partition_bytes=_MOST_FETCH, max_bytes=_MOST_ANSWER
            )
            for partition, answer in fetched.items():
                newest += [(record.timestamp, partition, record.offset) for record in answer]
                positions[partition] = max(positions[partition], answer.position)
            if outside or all(positions[p] == offset for p, offset in behind.items()):
                break
        taken = sorted(newest)[-count:]
        # Within a partition the last ones by offset are taken, whatever their times say.
        shares = {p: sum(1 for _, partition, _ in taken if partition == p) for p in starts}
        offsets = {p: sorted(offset for _, partition, offset in newest if partition == p) for p in starts}
        return {p: offsets[p][-shares[p]] if shares[p] else ends[p] for p in starts}


def chosen_partitions(topic: Topic, partition: int | None) -> list[int]:
    """Return the partitions to use: one, or all.

    Raises:
        InvalidArguments: the topic has no such partition.
    """
    if partition is None:
        return list(topic.partitions)
    if partition not in topic.partitions:
        raise InvalidArguments.of("partition", f"{topic.name} has partitions 0 to {len(topic.partitions) - 1}")
    return [partition]


def containing(key: str | None, value: str | None) -> Callable[[Record], bool] | None:
    """Return a filter on the text of keys and values; None if everything passes."""
    if not key and not value:
        return None
    in_key, in_value = (key or "").encode(errors="surrogatepass"), (value or "").encode(errors="surrogatepass")
    return lambda record: in_key in (record.key or b"") and in_value in (record.value or b"")


def _time(record: Record) -> int:
    return record.timestamp
