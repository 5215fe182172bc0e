"""Reading by assignment and seek: no group, no trace on the cluster, and the cursor is all the state."""

import asyncio
import heapq
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field

from aiokafka.errors import KafkaError

from app.budget import Turn, Turns
from app.errors import BackendTimeout, Conflict, InvalidArguments
from app.services.kafka.cluster import EARLIEST, LATEST, Cluster, Topic, standing_still
from app.services.kafka.driver import Record
from app.services.kafka.messages import record_size
from app.services.kafka.positions import Cursor, FromOffset, FromTail, FromTimestamp, Start
from app.services.kafka.records import Fetched
from app.services.kafka.tails import NEVER, Tail, Tails
from app.single_flight import SingleFlights

_BYTES_A_MESSAGE = 4096
"""What a message is expected to take at most, for the size of the first fetch."""
_LEAST_FETCH, _MOST_FETCH = 64 * 1024, 1024 * 1024
_MOST_ANSWER = 8 * 1024 * 1024
_MOST_READ = 32 * 1024 * 1024
"""Bytes that all readers together ask for, or have and have not written yet, as they are stored."""
_LOOKED_AT_A_TIME = 1000
"""Records, of which a fetch may bring hundreds of thousands, that hold the event loop for some 3 ms."""
GRACE = 0.3
"""Seconds beyond the caller's time that an answer which is on its way gets."""


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
    records: list[Record] = field(default_factory=list[Record])
    size: int = 0
    drained: bool = False
    """Nothing more can be read now."""
    reached_end: bool = False
    """Nothing more is stored in any partition that was to be read: drained, and none of them is out of reach."""
    truncated: bool = False
    skipped: int = 0
    room: Turn | None = None
    """What it has of the bytes that all readers may hold, from before its records are fetched; None: it has none."""

    @property
    def spans(self) -> dict[int, int]:
        """Where to read on in the partitions that the records are of."""
        return {record.partition: self.positions[record.partition] for record in self.records}


class Reader:
    """Reads topics from given positions."""

    def __init__(self, cluster: Cluster, tails: Tails) -> None:
        self._cluster = cluster
        self._tails = tails
        self._turns = Turns(_MOST_READ)
        self._looking: SingleFlights[bool] = SingleFlights()

    def room(self) -> AbstractContextManager[Turn]:
        """Return what a page has of the bytes that all readers may hold: nothing yet, and none at the end."""
        return self._turns.turn()

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

    async def read(
        self,
        topic: Topic,
        positions: Mapping[int, int],
        limits: Limits,
        deadline: float,
        *,
        room: Turn,
        whole: bool = True,
    ) -> Page:
        """Read up to the limits; wait for a first message if there is none.

        Args:
            topic: where.
            positions: where to begin, by partition.
            limits: when the answer is full.
            deadline: by time.monotonic(), until when a first message is waited for; a long search ends then, too.
            room: of what all readers may hold; whoever gave it releases it when the page is written.
            whole: all partitions are to be read, also those that are added meanwhile; else those of `positions`.
        """
        page = Page(dict(positions), room=room)
        bound = asyncio.timeout(max(deadline - time.monotonic(), 0) + GRACE)
        try:
            async with bound:
                await self.read_stored(topic.name, page, limits, deadline, bound)
                if page.records or not page.drained or time.monotonic() >= deadline:
                    return _with_end(page, topic, whole)
                async with self._tails.follow(topic.name) as tail:
                    while page.drained and not page.records and not tail.gone:
                        try:
                            async with asyncio.timeout(deadline - time.monotonic()):
                                await self._more_than(tail, topic, page, whole)
                        except TimeoutError:
                            if tail.trouble is not None:
                                raise tail.trouble from None  # nobody knows whether there is more
                            return _with_end(page, topic, whole)
                        await self.read_stored(topic.name, page, limits, deadline, bound)
        except TimeoutError:
            if not bound.expired() or not (page.records or page.drained):
                raise BackendTimeout("Kafka did not answer within timeout_ms; try again later") from None
            page.truncated = True
        return _with_end(page, topic, whole)

    async def _more_than(self, tail: Tail, topic: Topic, page: Page, whole: bool) -> None:
        """Wait until there is something behind the page's positions. New partitions are read from their beginning."""
        not_read = (topic.partitions if whole else tail.ends).keys() - page.positions.keys()
        await tail.moved_beyond({**page.positions, **dict.fromkeys(not_read, NEVER)})
        if whole:
            page.positions |= dict.fromkeys(tail.ends.keys() - topic.partitions.keys() - page.positions.keys(), 0)

    async def read_stored(
        self, topic: str, page: Page, limits: Limits, deadline: float, clock: asyncio.Timeout | None = None
    ) -> None:
        """Read what is stored, without waiting for more, and add it to the page.

        Args:
            topic: its name.
            page: it is read on from its positions.
            limits: when the page is full.
            deadline: by time.monotonic(); a search that takes longer is broken off.
            clock: as for `Cluster.fetch`.

        Raises:
            Conflict: what comes next is too large to be unpacked.
        """
        # Even who does not want to wait gets more than one fetch, if there is more.
        deadline = max(deadline, time.monotonic() + GRACE / 2)
        page.reached_end = False  # as long as it is not seen again
        expected = limits.messages * _BYTES_A_MESSAGE
        while page.positions:
            # Who takes whatever comes is given no more than fits: the next call fetches what is beyond anew.
            lacking = limits.bytes - page.size if limits.matches is None else _MOST_FETCH
            wanted = min(max(min(expected, lacking), _LEAST_FETCH), _MOST_FETCH)
            most = min(wanted * len(page.positions), _MOST_ANSWER)
            if page.room is not None and page.records:
                # What was read takes room for as long as it waits: while others want it, it goes as it is.
                if not page.room.grow(page.size + most):
                    page.truncated = True
                    return
            elif page.room is not None:
                with standing_still(clock):
                    await page.room.take(most)
            try:
                fetched, outside = await self._cluster.fetch(
                    topic, page.positions, partition_bytes=wanted, max_bytes=most, clock=clock
                )
            except Conflict:
                if not page.records:
                    raise
                page.truncated = True  # what is before it comes first
                return
            if outside:
                await self._return_to_what_is_stored(topic, page, outside)
            full = await self._take(page, fetched, limits)
            page.drained = (
                not full
                and not outside
                and all(page.positions[partition] >= answer.end for partition, answer in fetched.items())
            )
            page.reached_end = page.drained and fetched.keys() == page.positions.keys()
            del fetched
            if page.room is not None:
                page.room.keep(page.size)
            if full or page.drained:
                return
            if time.monotonic() >= deadline and not outside:
                page.truncated = True
                return
            if limits.matches is not None:
                expected = _MOST_FETCH
            # Brokers fill an answer partition by partition: another one gets its turn.
            page.positions = dict([*page.positions.items()][1:] + [*page.positions.items()][:1])

    @asynccontextmanager
    async def changes(self, topic: str) -> AsyncGenerator[AsyncIterator[Cursor | Exception]]:
        """Follow a topic: yields an iterator once every later message is sure to be noticed.

        Each cursor stands before the messages that are new since the one before it, however many they are. While Kafka
        can't tell of any, an exception says why; the next cursor says that it can again.
        """
        async with self._tails.follow(topic) as tail:

            async def notices(seen: dict[int, int]) -> AsyncIterator[Cursor | Exception]:
                trouble: Exception | None = None
                while True:
                    await tail.changed_since(seen, trouble)
                    if tail.gone:
                        return
                    was_in_trouble, trouble = trouble is not None, tail.trouble
                    if trouble is not None:
                        if not was_in_trouble:
                            yield trouble
                        continue
                    ends = dict(tail.ends)
                    if was_in_trouble or await self._is_news(topic, seen, ends):
                        yield Cursor.at(topic, seen, whole=True)
                    seen = ends

            yield notices(dict(tail.ends))

    async def _is_news(self, topic: str, seen: Mapping[int, int], ends: Mapping[int, int]) -> bool:
        """Tell whether a reader finds a message between, and not just the end of a transaction that was aborted."""
        ranges = {partition: (seen.get(partition, 0), end) for partition, end in ends.items()}
        try:
            # All who follow a topic are woken by the same message.
            return await self._looking.run(
                (topic, *sorted(ranges.items())), lambda: self._cluster.holds_messages(topic, ranges)
            )
        except (KafkaError, OSError):
            return True  # Better a notice too many than one too few.

    async def _take(self, page: Page, fetched: Mapping[int, Fetched], limits: Limits) -> bool:
        """Move records into the page, by time across partitions, until it is full; tell whether it is.

        However it ends, the page's positions are behind what was looked at.
        """
        try:
            full = await self._fill(page, fetched, limits)
        finally:
            for partition, answer in fetched.items():
                page.positions[partition] = max(page.positions[partition], answer.position)
        # The last one may have filled it: then there is nothing more to fetch.
        return full and any(page.positions[p] < answer.end for p, answer in fetched.items())

    async def _fill(self, page: Page, fetched: Mapping[int, Fetched], limits: Limits) -> bool:
        full = False
        looked_at = 0
        waiting = [(record.timestamp, p) for p, answer in fetched.items() if (record := answer.peek()) is not None]
        heapq.heapify(waiting)
        while waiting and not full:
            looked_at += 1
            if not looked_at % _LOOKED_AT_A_TIME:
                await asyncio.sleep(0)
            _, partition = waiting[0]
            record = fetched[partition].peek()
            assert record is not None
            if limits.matches is None or limits.matches(record):
                size = record_size(record)
                if page.records and page.size + size > limits.bytes:
                    page.truncated = full = True
                    break
                page.records.append(record)
                page.size += size
                full = len(page.records) >= limits.messages
            fetched[partition].take()
            following = fetched[partition].peek()
            if following is None:
                heapq.heappop(waiting)
            else:
                heapq.heapreplace(waiting, (following.timestamp, partition))
        return full

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
        known = {p: (first or 0, end) for p, (first, end) in bounds.items() if end is not None}
        with self.room() as room:
            newest = await self._newest(topic.name, known, count, room)
        taken = sorted((time, p, offset) for p, records in newest.items() for time, offset in records)[-count:]
        # Within a partition the last ones by offset are taken, whatever their times say.
        shares = {p: sum(1 for _, partition, _ in taken if partition == p) for p in known}
        return {p: newest[p][-shares[p]][1] if shares[p] else end for p, (_, end) in known.items()}

    async def _newest(
        self, topic: str, bounds: Mapping[int, tuple[int, int]], count: int, room: Turn
    ) -> dict[int, list[tuple[int, int]]]:
        """Return time and offset of the last `count` messages of each partition, in order of their offsets.

        Offsets do not say how many messages there are, so it goes back, further each time, until there are enough.
        """
        found: dict[int, list[tuple[int, int]]] = {p: [] for p in bounds}
        seen_from = {p: end for p, (_, end) in bounds.items()}
        step = count
        while lacking := {p for p, (first, _) in bounds.items() if len(found[p]) < count and seen_from[p] > first}:
            windows = {p: (max(bounds[p][0], seen_from[p] - step), seen_from[p]) for p in lacking}
            earlier = await self._last_between(topic, windows, count, room)
            for partition, (begin, _) in windows.items():
                found[partition] = [*earlier[partition], *found[partition]][-count:]
                seen_from[partition] = begin
            step *= 4
        return found

    async def _last_between(
        self, topic: str, windows: Mapping[int, tuple[int, int]], count: int, room: Turn
    ) -> dict[int, deque[tuple[int, int]]]:
        """Return time and offset of the last messages from one offset to before another, by partition."""
        found = {partition: deque[tuple[int, int]](maxlen=count) for partition in windows}
        positions: dict[int, int] = {partition: begin for partition, (begin, _) in windows.items()}
        while positions:
            most = min(_MOST_FETCH * len(positions), _MOST_ANSWER)
            await room.take(most)
            fetched, _outside = await self._cluster.fetch(topic, positions, partition_bytes=_MOST_FETCH, max_bytes=most)
            before = dict(positions)
            for partition, answer in fetched.items():
                end = windows[partition][1]
                for number, record in enumerate(answer):
                    if record.offset >= end:
                        break
                    found[partition].append((record.timestamp, record.offset))
                    if not number % _LOOKED_AT_A_TIME:
                        await asyncio.sleep(0)
                positions[partition] = answer.position
                if answer.position >= end:
                    del positions[partition]
            if positions == before:
                break  # Retention has taken the rest, or nobody leads it.
            positions = dict([*positions.items()][1:] + [*positions.items()][:1])
        return found


def _with_end(page: Page, topic: Topic, whole: bool) -> Page:
    """Say whether the end was reached: a partition that nobody leads now was not read."""
    page.reached_end = page.reached_end and (not whole or topic.partitions.keys() <= page.positions.keys())
    return page


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
