"""One member of a consumer group: it joins, keeps its place by heartbeats and leaves.

It reads nothing itself. What it knows is which partitions are its own, under which member id and
generation, and what of them is out with callers.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from uuid import uuid4

from aiokafka import errors

from app.services.kafka.cluster import Cluster
from app.services.kafka.driver import (
    HeartbeatRequest,
    JoinGroupRequest,
    LeaveGroupRequest,
    Subscriptions,
    SyncGroupRequest,
    decode_assignment,
    encode_subscription,
)
from app.services.kafka.failures import raise_for
from app.services.kafka.settings import KafkaSettings

_log = logging.getLogger(__name__)

_PAUSE = 0.2
_LONGEST_IDLE = 60.0
"""Seconds for which a member that nobody uses stays warm. It stays longer only for messages that are out."""
_LOOK_AT_COMMITS_EVERY = 5.0
"""Seconds. An unused member asks so often whether another gateway was given the acknowledgement it stays for."""
_STRATEGIES = ("range", "roundrobin")
"""Names that we may agree on with other clients. Whoever leads divides; as the leader we divide by range."""

_FATAL: tuple[type[Exception], ...] = (
    errors.GroupAuthorizationFailedError,
    errors.TopicAuthorizationFailedError,
    errors.InconsistentGroupProtocolError,
    errors.InvalidGroupIdError,
    errors.InvalidSessionTimeoutError,
    errors.UnknownTopicOrPartitionError,
    errors.UnsupportedVersionError,
)
_EXPELLED: tuple[type[Exception], ...] = (errors.UnknownMemberIdError, errors.IllegalGenerationError)


@dataclass(frozen=True, slots=True)
class Lease:
    """Messages of one partition that are out with a caller."""

    id: str
    next: int
    """Offset after the last of them."""
    expires: float
    """By time.monotonic()."""


class Member:
    """A member of a group for one topic, kept warm between calls.

    Args:
        cluster: where the group is.
        settings: of sessions and heartbeats.
        group_id: the group.
        topic: the one topic that it takes part for.
        on_end: called once when it is over: nobody used it for a while, or Kafka refused it for good.
    """

    def __init__(
        self,
        cluster: Cluster,
        settings: KafkaSettings,
        group_id: str,
        topic: str,
        on_end: "Callable[[Member], None]",
    ) -> None:
        self._cluster = cluster
        self._settings = settings
        self._on_end = on_end
        self._lane = f"member:{uuid4()}"
        self._changed = asyncio.Event()
        self._leads = False
        self._partition_count = 0
        self._warm_until = 0.0
        self._users = 0
        self.group_id = group_id
        self.topic = topic
        self.id = ""
        self.generation = -1
        self.assigned: frozenset[int] | None = None
        """Partitions that are ours; None while the group rebalances."""
        self.leases: dict[int, Lease] = {}
        self.reading = asyncio.Lock()
        """Held while messages are taken or acknowledged, so that no two callers get the same."""
        self.failure: BaseException | None = None
        """Why it has ended: Kafka refuses it, for good, or something unforeseen."""
        self.version = 0
        self.caller = ""
        """Who used it last."""
        self._running = asyncio.create_task(self._run())
        self._running.add_done_callback(self._ended)

    def use(self, caller: str) -> None:
        """Begin to use it."""
        self._users += 1
        self.caller = caller

    def done(self, lease_seconds: float) -> None:
        """End one use. It stays warm for as long as the caller wanted messages for, but not for long."""
        self._users -= 1
        self._warm_until = max(self._warm_until, time.monotonic() + min(lease_seconds, _LONGEST_IDLE))

    @property
    def busy(self) -> bool:
        """Whether somebody uses it or has messages of it."""
        return self._users > 0 or self._leased_until() > time.monotonic()

    @property
    def warm_until(self) -> float:
        """Until when it stays if nobody uses it any more, by time.monotonic()."""
        return max(self._warm_until, self._leased_until())

    def _leased_until(self) -> float:
        return max((lease.expires for lease in self.leases.values()), default=0.0)

    @property
    def epoch(self) -> tuple[str, int, frozenset[int] | None]:
        """What must not change between reading messages and handing them out."""
        return self.id, self.generation, self.assigned

    async def changed_since(self, version: int) -> None:
        """Return once the assignment or the leases have changed since the member had this version."""
        while self.version == version:
            await self._changed.wait()

    def notify(self) -> None:
        """Wake those who wait for a change."""
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    def drop_leases(self, committed: Mapping[int, int]) -> None:
        """Forget leases that were acknowledged, here or elsewhere, or that have ended."""
        now = time.monotonic()
        self.leases = {
            partition: lease
            for partition, lease in self.leases.items()
            if lease.next > committed.get(partition, -1) and lease.expires > now
        }

    async def leave(self) -> None:
        """Leave the group now, so that others get the partitions without a delay."""
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while True:
                try:
                    await self._join()
                    await self._stay()
                except errors.RebalanceInProgressError:
                    self._pause()
                except _EXPELLED:
                    self._pause()
                    self.id, self.generation = "", -1
                except _FATAL as error:
                    self.failure = error
                    return
                except (errors.KafkaError, OSError) as error:
                    _log.info("group %s: %s, trying again", self.group_id, type(error).__name__)
                    self._cluster.forget_coordinator(self.group_id)
                    await asyncio.sleep(_PAUSE)
                else:
                    return
        finally:
            self._on_end(self)
            self._pause()
            await self._say_goodbye()

    def _ended(self, running: asyncio.Task[None]) -> None:
        """Tell those who wait for it, whatever it was that ended it."""
        if not running.cancelled() and (failure := running.exception()) is not None:
            _log.error("group %s: broken off", self.group_id, exc_info=failure)
            self.failure = failure
            self.notify()

    def _pause(self) -> None:
        self.assigned = None
        self.notify()

    async def _say_goodbye(self) -> None:
        try:
            async with asyncio.timeout(2):
                if self.id:
                    request = LeaveGroupRequest(self.group_id, self.id)
                    await self._cluster.to_coordinator(self.group_id, request, lane=self._lane, again=False)
        except (errors.KafkaError, OSError):
            _log.info("group %s: could not leave; the session ends by itself", self.group_id)
        finally:
            await self._cluster.connections.close_lane(self._lane)

    async def _join(self) -> None:
        """Join or rejoin and take the assignment."""
        answer = await self._ask_to_join()
        previous = self.id, self.generation
        self.id, generation = answer.member_id, answer.generation_id
        self._leads = answer.leader_id == self.id
        shares = await self._divide(answer.members) if self._leads else []
        sync = SyncGroupRequest(self.group_id, generation, self.id, cast("Any", None), shares)
        synced = await self._send(sync)
        raise_for(synced.error_code)
        if not synced.member_assignment:
            # The leader did not know of us yet; the next rebalance includes us.
            await asyncio.sleep(_PAUSE)
            raise errors.RebalanceInProgressError
        assigned = frozenset(decode_assignment(synced.member_assignment).get(self.topic, ()))
        # Who was in each generation knows that nobody else had the partition in between.
        unbroken = previous == (self.id, generation - 1)
        self.leases = {p: lease for p, lease in self.leases.items() if p in assigned} if unbroken else {}
        self.generation = generation
        self.assigned = assigned
        self.notify()

    async def _ask_to_join(self) -> Any:
        metadata = encode_subscription(self.topic)
        while True:
            request = JoinGroupRequest(
                self.group_id,
                self._settings.session_timeout_ms,
                self._settings.rebalance_timeout_ms,
                self.id,
                cast("Any", None),
                "consumer",
                [(name, metadata) for name in _STRATEGIES],
            )
            answer = await self._send(request)
            if answer.error_code == errors.MemberIdRequired.errno:
                self.id = answer.member_id
                continue
            raise_for(answer.error_code)
            return answer

    async def _divide(self, members: list[tuple[Any, ...]]) -> list[tuple[str, bytes]]:
        """As the leader, share out the partitions of all topics that members of the group take part for."""
        subscriptions = Subscriptions(members)
        partitions: dict[str, set[int]] = {}
        for topic in subscriptions.topics:
            try:
                partitions[topic] = set((await self._cluster.topic(topic, fresh=True)).partitions)
            except errors.UnknownTopicOrPartitionError:
                _log.info("group %s: topic %s does not exist", self.group_id, topic)
        self._partition_count = len(partitions.get(self.topic, ()))
        return subscriptions.divide_by_range(partitions)

    async def _stay(self) -> None:
        """Send heartbeats until nobody needs the member any more.

        Raises:
            RebalanceInProgressError: the group wants everyone to join again.
        """
        interval = self._settings.heartbeat_interval_ms / 1000
        look_at = time.monotonic() + _LOOK_AT_COMMITS_EVERY
        while self._users or time.monotonic() < self.warm_until:
            await asyncio.sleep(interval if self._users else min(interval, self.warm_until - time.monotonic()))
            if not self._users and self.leases and time.monotonic() >= look_at:
                self.drop_leases(await self._committed())
                look_at = time.monotonic() + _LOOK_AT_COMMITS_EVERY
            answer = await self._send(HeartbeatRequest(self.group_id, self.generation, self.id))
            raise_for(answer.error_code)
            if self._leads:
                topic = await self._cluster.topic(self.topic)
                if len(topic.partitions) != self._partition_count:
                    raise errors.RebalanceInProgressError

    async def _committed(self) -> dict[int, int]:
        places = await self._cluster.committed(self.group_id, {self.topic: list(self.leases)})
        return by_partition(places, self.topic)

    async def _send(self, request: Any) -> Any:
        return await self._cluster.to_coordinator(self.group_id, request, lane=self._lane)


def by_partition(offsets: Mapping[Any, int], topic: str) -> dict[int, int]:
    """Return the offsets of one topic by partition."""
    found: defaultdict[int, int] = defaultdict(int)
    for place, offset in offsets.items():
        if place.topic == topic:
            found[place.partition] = offset
    return dict(found)
