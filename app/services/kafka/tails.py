"""Who waits for new messages of a topic shares one tail with all others who do."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import cast
from uuid import uuid4

from aiokafka import errors

from app.errors import BackendUnavailable
from app.services.kafka.cluster import LATEST, Cluster
from app.services.kafka.failures import MOVED, UNREACHABLE

_log = logging.getLogger(__name__)

_POLL_MS = 5_000
_PARTITIONS_ARE_OLD_AFTER = 30.0
_PAUSE = 0.2
_PASSING: tuple[type[Exception], ...] = (
    *MOVED,
    *UNREACHABLE,
    errors.OffsetOutOfRangeError,
    errors.RequestTimedOutError,
)
"""What asking again may help against, and soon."""
NEVER = 2**63 - 1
"""A position that no partition ends beyond."""


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
        self.trouble: Exception | None = None
        """Why nothing can be heard for now; None while it can."""
        self._failures = 0
        """In a row."""
        self._failure: BaseException | None = None

    async def start(self) -> None:
        """Learn the ends: whatever is published after this is seen."""
        topic = await self._cluster.topic(self._topic)
        ends = await self._cluster.offsets(self._topic, dict.fromkeys(topic.partitions, LATEST))
        self._advance({partition: end for partition, end in ends.items() if end is not None})

    async def moved_beyond(self, positions: Mapping[int, int]) -> None:
        """Return once a partition ends after the given position, or a partition is new, or the topic is gone.

        Raises:
            KafkaError: Kafka refuses to let the topic be followed.
            BackendUnavailable: it is followed no more; begin again.
        """
        while not (self.gone or self._is_beyond(positions)):
            await self._next_news()

    async def changed_since(self, positions: Mapping[int, int], trouble: Exception | None) -> None:
        """Return as `moved_beyond`, or once `trouble` has come or gone, given what it was.

        Raises:
            As `moved_beyond`.
        """
        while not (self.gone or self._is_beyond(positions) or (self.trouble is None) is not (trouble is None)):
            await self._next_news()

    def _is_beyond(self, positions: Mapping[int, int]) -> bool:
        return any(end > positions.get(partition, 0) for partition, end in self.ends.items())

    async def _next_news(self) -> None:
        if isinstance(self._failure, errors.KafkaError):
            raise self._failure
        if self._failure is not None:
            raise BackendUnavailable("following the topic was broken off; begin again") from self._failure
        await self._moved.wait()

    def ended(self, running: asyncio.Task[None]) -> None:
        """Tell the followers if nobody polls for them any more, for whatever reason."""
        failure = None if running.cancelled() else running.exception()
        if failure is not None:
            failure = _first(failure)
            _log.error("following topic %s was broken off", self._topic, exc_info=failure)
            self._failure = failure
            self._notify()

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
            self.trouble, self._failures = None, 0
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
        except* errors.TopicAuthorizationFailedError:
            raise
        except* _PASSING as failures:
            self._note_trouble(failures)
            await asyncio.sleep(_PAUSE)
        except* errors.KafkaError as failures:
            self._note_trouble(failures)
            _log.warning("following topic %s: %s", self._topic, type(failures.exceptions[0]).__name__)
            await asyncio.sleep(10 * _PAUSE)

    def _note_trouble(self, failure: BaseException) -> None:
        """Tell the followers that nothing can be heard. One failure is none: a leader moved, a connection was old."""
        self._failures += 1
        first = _first(failure)
        if self._failures > 1 and self.trouble is None and isinstance(first, Exception):
            self.trouble = first
            self._notify()

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


def _first(failure: BaseException) -> BaseException:
    """Return what failed first in a group of tasks."""
    while isinstance(failure, BaseExceptionGroup):
        failure = cast("BaseExceptionGroup[BaseException]", failure).exceptions[0]
    return failure


class _Followed:
    """A tail, its tasks and the number of those who follow it."""

    def __init__(self, cluster: Cluster, topic: str) -> None:
        self.tail = Tail(cluster, topic)
        self.followers = 0
        self.started = asyncio.create_task(self.tail.start())
        self._running = asyncio.create_task(self._run())
        self._running.add_done_callback(self.tail.ended)

    @property
    def over(self) -> bool:
        """Whether nothing can be heard from it any more."""
        return self._running.done()

    async def end(self) -> None:
        self.started.cancel()
        self._running.cancel()
        await asyncio.gather(self.started, self._running, return_exceptions=True)

    async def _run(self) -> None:
        await asyncio.wait([self.started])
        if not self.started.cancelled() and self.started.exception() is None:  # else the followers hear of it
            await self.tail.run()


class Tails:
    """The tails of this process: one a topic, for as long as somebody follows it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._followed: dict[str, _Followed] = {}

    def __len__(self) -> int:
        return len(self._followed)

    @asynccontextmanager
    async def follow(self, topic: str) -> AsyncGenerator[Tail]:
        """Share the tail of a topic; every message after this has been entered moves it.

        Raises:
            KafkaError: the topic is unknown or the cluster does not answer.
        """
        followed = self._followed.get(topic)
        if followed is None or followed.over:
            followed = self._followed[topic] = _Followed(self._cluster, topic)
        followed.followers += 1
        try:
            # A follower who gives up must not stop the others' start.
            await asyncio.shield(followed.started)
            yield followed.tail
        finally:
            followed.followers -= 1
            if not followed.followers:
                if self._followed.get(topic) is followed:
                    del self._followed[topic]
                await followed.end()
