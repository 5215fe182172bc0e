"""Who waits for new messages of a topic shares one tail with all others who do."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from uuid import uuid4

from aiokafka import errors

from app.services.kafka.cluster import LATEST, Cluster
from app.services.kafka.failures import MOVED, UNREACHABLE

_log = logging.getLogger(__name__)

_POLL_MS = 5_000
_PARTITIONS_ARE_OLD_AFTER = 30.0
_PAUSE = 0.2


class Tail:
    """Knows the ends of a topic's partitions, by one long poll for each broker that leads some of them.

    It keeps numbers only, however many messages arrive and however many wait for them.
    """

    def __init__(self, cluster: Cluster, topic: str) -> None:
        self._cluster = cluster
        self._topic = topic
        self._lane = f"tail:{uuid4()}"
        self._moved = asyncio.Event()
        self.ends: dict[int, int] = {}
        """Offset after the last message that may be read, by partition."""
        self.gone = False
        """The topic was deleted."""

    async def start(self) -> None:
        """Learn the ends: whatever is published after this is seen."""
        topic = await self._cluster.topic(self._topic)
        ends = await self._cluster.offsets(self._topic, dict.fromkeys(topic.partitions, LATEST))
        self._advance({partition: end for partition, end in ends.items() if end is not None})

    async def moved_beyond(self, positions: Mapping[int, int]) -> None:
        """Return once a partition ends after the given position, or a partition is new, or the topic is gone."""
        while not self.gone and all(end <= positions.get(partition, 0) for partition, end in self.ends.items()):
            await self._moved.wait()

    async def run(self) -> None:
        """Follow the topic until it is deleted."""
        try:
            while not self.gone:
                await self._follow()
        finally:
            await self._cluster.connections.close_lane(self._lane)

    async def _follow(self) -> None:
        """Poll with what is known of the partitions until it is old or wrong."""
        try:
            topic = await self._cluster.topic(self._topic, fresh=True)
            ends = await self._cluster.offsets(self._topic, dict.fromkeys(topic.partitions, LATEST))
            # A topic that was deleted and made again ends before it did.
            self.ends = {partition: end for partition, end in ends.items() if end is not None}
            self._notify()
            leaders = {partition.leader for partition in topic.partitions.values()}
            until = time.monotonic() + _PARTITIONS_ARE_OLD_AFTER
            async with asyncio.TaskGroup() as polls:
                for leader in leaders - {None}:
                    assert leader is not None
                    led = [p.id for p in topic.partitions.values() if p.leader == leader]
                    polls.create_task(self._poll(leader, led, until))
        except* errors.UnknownTopicOrPartitionError:
            self.gone = True
            self._notify()
        except* (*MOVED, *UNREACHABLE, errors.OffsetOutOfRangeError, errors.RequestTimedOutError):
            await asyncio.sleep(_PAUSE)
        except* errors.KafkaError as failures:
            _log.warning("following topic %s: %s", self._topic, type(failures.exceptions[0]).__name__)
            await asyncio.sleep(10 * _PAUSE)

    async def _poll(self, leader: int, partitions: list[int], until: float) -> None:
        while time.monotonic() < until:
            asked = time.monotonic()
            # One byte is enough: the answer's ends are wanted, not its messages.
            fetched, outside = await self._cluster.fetch_from(
                leader,
                self._topic,
                {partition: self.ends.get(partition, 0) for partition in partitions},
                partition_bytes=1,
                max_bytes=1,
                wait_ms=_POLL_MS,
                lane=self._lane,
            )
            if outside:
                raise errors.OffsetOutOfRangeError
            news = {p: answer.end for p, answer in fetched.items() if answer.end > self.ends.get(p, 0)}
            self._advance(news)
            if not news and time.monotonic() - asked < _PAUSE:
                # A transaction that is open makes the broker answer at once; so may other brokers.
                await asyncio.sleep(_PAUSE)

    def _advance(self, ends: Mapping[int, int]) -> None:
        if ends:
            self.ends = {**self.ends, **ends}
            self._notify()

    def _notify(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()


class Tails:
    """The tails of this process: one a topic, for as long as somebody follows it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._tails: dict[str, tuple[Tail, asyncio.Task[None], asyncio.Task[None]]] = {}
        self._followers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._tails)

    @asynccontextmanager
    async def follow(self, topic: str) -> AsyncGenerator[Tail]:
        """Share the tail of a topic; every message after this has been entered moves it.

        Raises:
            KafkaError: the topic is unknown or the cluster does not answer.
        """
        if topic not in self._tails:
            tail = Tail(self._cluster, topic)
            started = asyncio.create_task(tail.start())
            self._tails[topic] = tail, started, asyncio.create_task(_run_after(started, tail))
        tail, started, running = self._tails[topic]
        self._followers[topic] = self._followers.get(topic, 0) + 1
        try:
            # A follower who gives up must not stop the others' start.
            await asyncio.shield(started)
            yield tail
        finally:
            self._followers[topic] -= 1
            if not self._followers[topic]:
                del self._tails[topic], self._followers[topic]
                started.cancel()
                running.cancel()
                await asyncio.gather(started, running, return_exceptions=True)


async def _run_after(started: asyncio.Task[None], tail: Tail) -> None:
    with suppress(errors.KafkaError, OSError):
        await started
        await tail.run()
