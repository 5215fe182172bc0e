"""What the brokers know, asked in Kafka's own requests: topics, offsets, records, groups.

Requests go to the broker that can answer them. When the cluster has moved a partition or a group, the
request is repeated once with fresh knowledge. Background refreshes do not exist, and no question is ever
about all topics unless somebody wants the list, so the size of the cluster costs nothing.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

from aiokafka import errors
from aiokafka.structs import TopicPartition

from app.services.kafka.connections import Connections
from app.services.kafka.driver import (
    READ_COMMITTED,
    READ_UNCOMMITTED,
    AllTopicsRequest,
    CreateTopicsRequest,
    DescribeConfigsRequest,
    DescribeGroupsRequest,
    FetchRequest,
    FindCoordinatorRequest,
    ListGroupsRequest,
    MetadataRequest,
    OffsetCommitRequest,
    OffsetFetchRequest,
    OffsetRequest,
    decode_all_topics,
)
from app.services.kafka.failures import MOVED, raise_for
from app.services.kafka.records import Fetched
from app.services.kafka.settings import KafkaSettings
from app.services.kafka.unpacking import MOST_UNPACKED
from app.single_flight import SingleFlights

T = TypeVar("T")

EARLIEST = -2
LATEST = -1
"""What stands for a timestamp where an end of the log is meant."""

_RETRY_PAUSE = 0.1
_UNKNOWN_UNTIL_SURE = 0.3
_EXISTED_UNTIL_SURE = 3.0
"""Seconds for which a broker is asked again before a topic is said not to exist: any topic, one that was there."""
_PERHAPS_NOT_YET = (errors.UnknownTopicOrPartitionError.errno, errors.LeaderNotAvailableError.errno)
_MOST_COUNTED = 8 * 1024 * 1024
"""Bytes that are read to count messages for one answer."""
_LOOKED_AT = 64 * 1024
"""Bytes that are read to see whether there is any message at all."""
_COUNTED_AT_A_TIME = 1024 * 1024
"""Bytes, in small batches, that hold the event loop for some 30 ms."""
_TOPIC_RESOURCE = 2
_TOPIC_CONFIG_SOURCE = 1


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition as the cluster describes it."""

    id: int
    leader: int | None
    replicas: tuple[int, ...]
    isr: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic and its partitions by id."""

    name: str
    internal: bool
    partitions: Mapping[int, Partition]


@dataclass(frozen=True, slots=True)
class Broker:
    id: int
    host: str
    port: int
    rack: str | None


@dataclass(frozen=True, slots=True)
class Metadata:
    cluster_id: str | None
    controller: int | None
    brokers: Sequence[Broker]
    topics: Sequence[Topic]


@dataclass(frozen=True, slots=True)
class GroupMember:
    id: str
    client_id: str
    host: str
    metadata: bytes
    assignment: bytes


@dataclass(frozen=True, slots=True)
class Group:
    id: str
    state: str
    protocol_type: str
    protocol: str
    members: Sequence[GroupMember]


@dataclass(slots=True)
class Allowance:
    """How much may still be read to count messages."""

    left: int = _MOST_COUNTED
    """Bytes."""


class Cluster:
    """Questions and requests to a Kafka cluster. Failures are aiokafka's errors, not yet translated."""

    def __init__(self, settings: KafkaSettings, connections: Connections) -> None:
        self._settings = settings
        self.connections = connections
        self._topics: dict[str, tuple[float, Topic]] = {}
        self._asking: SingleFlights[Topic] = SingleFlights()
        self._coordinators: dict[str, int] = {}
        self._finding: SingleFlights[int] = SingleFlights()
        self._isolation = READ_COMMITTED if settings.isolation_level == "read_committed" else READ_UNCOMMITTED

    # Topics

    async def brokers(self) -> Metadata:
        """Return the brokers, without any topic."""
        return self._learn(await self.connections.send(MetadataRequest([], False)))

    async def topics(self) -> Sequence[Topic]:
        """Return all topics. A thread decodes the answer, which may be megabytes."""
        raw: bytes = await self.connections.send(AllTopicsRequest())
        return self._learn(await asyncio.to_thread(decode_all_topics, raw)).topics

    async def topic(self, name: str, *, fresh: bool = False) -> Topic:
        """Return a topic, which may be a few seconds old unless it has to be fresh.

        Raises:
            UnknownTopicOrPartitionError: there is none of this name. It is not created by asking.
        """
        known = self._topics.get(name)
        if fresh:
            return await self._ask_for(name)
        if known is not None and self.connections.alive and time.monotonic() < known[0]:
            return known[1]
        return await self.look_for(name)

    async def look_for(self, name: str) -> Topic:
        """Return a topic as it is now, to all who want to know at the same moment by one answer.

        Raises:
            UnknownTopicOrPartitionError: there is none of this name.
        """
        return await self._asking.run(name, lambda: self._ask_for(name))

    async def _ask_for(self, name: str) -> Topic:
        sure_after = time.monotonic() + (_EXISTED_UNTIL_SURE if name in self._topics else _UNKNOWN_UNTIL_SURE)
        while True:
            answer = await self.connections.send(MetadataRequest([name], False))
            metadata = self._learn(answer)
            code = answer.topics[0][0]
            if code not in _PERHAPS_NOT_YET or time.monotonic() >= sure_after:
                break
            # A broker that has just begun, or that was not told yet of a new topic, knows fewer than there are.
            await asyncio.sleep(_RETRY_PAUSE)
        self._topics.pop(name, None)
        raise_for(code)
        [topic] = metadata.topics
        if all(partition.leader is not None for partition in topic.partitions.values()):
            if len(self._topics) > 10_000:
                self._topics.clear()
            self._topics[name] = (time.monotonic() + self._settings.metadata_max_age_ms / 1000, topic)
        return topic

    async def create_topic(
        self, name: str, partitions: int, replication_factor: int, config: Mapping[str, str], within: float
    ) -> tuple[int, str | None]:
        """Create a topic and return Kafka's error code, 0 for none, with its message.

        Args:
            name: of the topic.
            partitions: how many; -1 for the broker's default.
            replication_factor: copies of each; -1 for the broker's default.
            config: the topic's own configuration.
            within: seconds that the controller may take.
        """
        request = CreateTopicsRequest(
            cast("Any", [(name, partitions, replication_factor, [], list(config.items()))]), int(within * 1000), False
        )

        async def create() -> tuple[int, str | None]:
            controller = (await self.brokers()).controller
            answer = await self.connections.send(request, broker=controller, lane="admin", again=False)
            code, *message = answer.topic_errors[0][1:]
            if code == errors.NotControllerError.errno:
                raise errors.NotControllerError
            return code, message[0] if message else None

        return await self._again_when_moved(create)

    async def own_config(self, topic: str) -> dict[str, str | None]:
        """Return the configuration that is set on the topic itself; sensitive values are None."""
        own: dict[str, str | None] = {}
        for name, value, _read_only, source, sensitive, *_synonyms in await self._config(topic, None):
            # The oldest version of the answer says `is_default` in the place of the source.
            is_own = not source if isinstance(source, bool) else source == _TOPIC_CONFIG_SOURCE
            if is_own:
                own[name] = None if sensitive else value
        return dict(sorted(own.items()))

    async def effective_config(self, topic: str, name: str) -> str | None:
        """Return a value that holds for a topic, set on it or not; None if the broker does not tell."""
        return next((entry[1] for entry in await self._config(topic, [name]) if entry[0] == name), None)

    async def _config(self, topic: str, names: list[str] | None) -> Sequence[Any]:
        answer = await self.connections.send(DescribeConfigsRequest([(_TOPIC_RESOURCE, topic, names)], False))
        code, _message, _type, _name, entries = answer.resources[0]
        raise_for(code)
        return entries

    # Offsets and records

    async def offsets(self, topic: str, wanted: Mapping[int, int]) -> dict[int, int | None]:
        """Return an offset for each partition.

        Args:
            topic: its name.
            wanted: EARLIEST, LATEST or a time in milliseconds by partition: the offset of the first message
                that is not older. None if there is none, or if the partition has no leader.
        """

        async def ask() -> dict[int, int | None]:
            found: dict[int, int | None] = dict.fromkeys(wanted)

            async def ask_leader(leader: int, partitions: list[int]) -> None:
                request = OffsetRequest(-1, self._isolation, [(topic, [(p, wanted[p]) for p in partitions])])
                answer = await self.connections.send(request, broker=leader)
                for partition, code, _timestamp, offset in answer.topics[0][1]:
                    raise_for(code)
                    found[partition] = offset if offset >= 0 else None

            leaders = _by_leader(await self.topic(topic), wanted)
            await _all_of([ask_leader(leader, partitions) for leader, partitions in leaders.items()])
            return found

        return await self._again_when_moved(ask, topic=topic)

    async def bounds(self, topic: str, partitions: Sequence[int]) -> dict[int, tuple[int | None, int | None]]:
        """Return the first offset and the offset after the last message of each partition."""
        first, end = await asyncio.gather(
            self.offsets(topic, dict.fromkeys(partitions, EARLIEST)),
            self.offsets(topic, dict.fromkeys(partitions, LATEST)),
        )
        return {partition: (first[partition], end[partition]) for partition in partitions}

    async def fetch(
        self,
        topic: str,
        positions: Mapping[int, int],
        *,
        partition_bytes: int,
        max_bytes: int,
        unpacked: bool = True,
        clock: asyncio.Timeout | None = None,
    ) -> tuple[dict[int, Fetched], set[int]]:
        """Read what is stored, without waiting for more.

        Args:
            topic: its name.
            positions: where to read, by partition; the first ones are served first.
            partition_bytes: of one partition, as they are stored.
            max_bytes: of one broker, as they are stored.
            unpacked: unpack what is compressed.
            clock: bounds how long Kafka is waited for, and stands still meanwhile.

        Returns:
            what each partition gave, and the partitions whose position is outside of what is stored.
            Partitions without a leader are in neither.

        Raises:
            Conflict: a compressed batch is too large to be unpacked.
        """

        async def ask() -> tuple[dict[int, Fetched], set[int]]:
            found: dict[int, Fetched] = {}
            outside: set[int] = set()

            async def ask_leader(leader: int, partitions: list[int]) -> None:
                part = {partition: positions[partition] for partition in partitions}
                fetched, beyond = await self.fetch_from(
                    leader, topic, part, partition_bytes=partition_bytes, max_bytes=max_bytes
                )
                found.update(fetched)
                outside.update(beyond)

            leaders = _by_leader(await self.topic(topic), positions)
            await _all_of([ask_leader(leader, partitions) for leader, partitions in leaders.items()])
            return found, outside

        found, outside = await self._again_when_moved(ask, topic=topic)
        if unpacked and (packed := [found[p] for p in positions if p in found and found[p].is_packed]):
            with standing_still(clock):
                await asyncio.to_thread(_unpack, packed)
        return found, outside

    async def count(
        self, topic: str, ranges: Mapping[int, tuple[int, int]], allowance: Allowance
    ) -> dict[int, tuple[int, bool]]:
        """Count the messages that may be read, for which offsets alone do not stand.

        Markers of transactions, aborted messages and what compaction removed have offsets, too.

        Args:
            topic: its name.
            ranges: first offset and offset after the last one, by partition.
            allowance: how much may be read for it, which is used up.

        Returns:
            how many there are by partition, and whether all were counted: if not, they are at most so many.
        """
        counted = dict.fromkeys(ranges, 0)
        positions = {partition: first for partition, (first, end) in ranges.items() if first < end}
        while positions and allowance.left > 0:
            room = min(allowance.left, _COUNTED_AT_A_TIME)
            fetched, _outside = await self.fetch(topic, positions, partition_bytes=room, max_bytes=room, unpacked=False)
            before = dict(positions)
            for partition, answer in fetched.items():
                allowance.left -= answer.size
                count = partial(answer.count, ranges[partition][1])
                number, position = await asyncio.to_thread(count) if answer.is_packed else count()
                counted[partition] += number
                positions[partition] = position
                if position >= ranges[partition][1]:
                    del positions[partition]
            if positions == before:
                break
            # Brokers fill an answer partition by partition: another one gets its turn.
            positions = dict([*positions.items()][1:] + [*positions.items()][:1])
        return {
            partition: (
                counted[partition] + (end - positions[partition] if partition in positions else 0),
                partition not in positions,
            )
            for partition, (_, end) in ranges.items()
        }

    async def count_known(
        self, topic: str, bounds: Mapping[int, tuple[int | None, int | None]], allowance: Allowance
    ) -> dict[int, tuple[int | None, bool]]:
        """Count as `count` does, where an offset may be unknown; None is how many there are then."""
        unknown: dict[int, tuple[int | None, bool]] = dict.fromkeys(bounds, (None, True))
        ranges = {p: (first, end) for p, (first, end) in bounds.items() if first is not None and end is not None}
        return unknown | dict(await self.count(topic, ranges, allowance))

    async def holds_messages(self, topic: str, ranges: Mapping[int, tuple[int, int]]) -> bool:
        """Tell whether there is a message that may be read, perhaps one: it does not read far to be sure that not.

        Args:
            topic: its name.
            ranges: first offset and offset after the last one, by partition.
        """
        counts = await self.count(topic, ranges, Allowance(_LOOKED_AT))
        return any(number > 0 for number, _ in counts.values())

    async def fetch_from(
        self,
        leader: int,
        topic: str,
        positions: Mapping[int, int],
        *,
        partition_bytes: int,
        max_bytes: int,
        wait_ms: int = 0,
        lane: str = "",
    ) -> tuple[dict[int, Fetched], set[int]]:
        """Read from one broker, which waits for a message up to `wait_ms` if there is none."""
        request = FetchRequest(
            wait_ms,
            1,
            max_bytes,
            self._isolation,
            [(topic, [(partition, offset, partition_bytes) for partition, offset in positions.items()])],
        )
        answer = await self.connections.send(request, broker=leader, lane=lane)
        found: dict[int, Fetched] = {}
        outside: set[int] = set()
        for _topic, partitions in answer.topics:
            for partition, code, high_watermark, stable, *rest, records in partitions:
                if code == errors.OffsetOutOfRangeError.errno:
                    outside.add(partition)
                    continue
                raise_for(code)
                end = stable if self._isolation == READ_COMMITTED and stable >= 0 else high_watermark
                aborted: Any = rest[1] if len(rest) > 1 else rest[0]
                first = rest[0] if len(rest) > 1 else -1
                found[partition] = Fetched(
                    TopicPartition(topic, partition),
                    positions[partition],
                    first,
                    end,
                    records or b"",
                    aborted,
                    self._isolation,
                )
        return found, outside

    # Groups

    async def coordinator(self, group_id: str) -> int:
        """Return the broker that a consumer group's requests go to."""
        known = self._coordinators.get(group_id)
        return await self._finding.run(group_id, lambda: self._find_coordinator(group_id)) if known is None else known

    async def _find_coordinator(self, group_id: str) -> int:
        while True:
            answer = await self.connections.send(FindCoordinatorRequest(group_id, 0))
            if answer.error_code != errors.GroupCoordinatorNotAvailableError.errno:
                break
            # The cluster's first group makes the broker create its offsets topic. The caller has a time limit.
            await asyncio.sleep(_RETRY_PAUSE)
        raise_for(answer.error_code)
        if len(self._coordinators) > 10_000:
            self._coordinators.clear()
        self._coordinators[group_id] = answer.coordinator_id
        await self.brokers()
        return answer.coordinator_id

    def forget_coordinator(self, group_id: str) -> None:
        """Look the coordinator up anew next time."""
        self._coordinators.pop(group_id, None)

    async def to_coordinator(self, group_id: str, request: Any, *, lane: str = "", again: bool = True) -> Any:
        """Send a request to a group's coordinator. Codes in the answer are the caller's to read."""
        try:
            return await self.connections.send(request, broker=await self.coordinator(group_id), lane=lane, again=again)
        except (errors.KafkaError, OSError):
            self.forget_coordinator(group_id)
            raise

    async def committed(
        self, group_id: str, wanted: Mapping[str, Sequence[int]] | None = None
    ) -> dict[TopicPartition, int]:
        """Return a group's committed offsets, of all partitions that have one unless some are named."""
        request = OffsetFetchRequest(
            group_id, None if wanted is None else [(topic, list(partitions)) for topic, partitions in wanted.items()]
        )

        async def ask() -> dict[TopicPartition, int]:
            answer = await self.to_coordinator(group_id, request)
            raise_for(answer.error_code)
            found: dict[TopicPartition, int] = {}
            for topic, partitions in answer.topics:
                for partition, offset, _metadata, code in partitions:
                    raise_for(code)
                    if offset >= 0:
                        found[TopicPartition(topic, partition)] = offset
            return found

        return await self._again_when_moved(ask, group_id=group_id)

    async def commit(
        self, group_id: str, generation: int, member_id: str, topic: str, offsets: Mapping[int, int]
    ) -> dict[int, int]:
        """Commit offsets in the name of a member and return Kafka's code for each partition.

        It need not come over the member's own connection: Kafka compares the member id and the generation.
        """
        request = OffsetCommitRequest(
            group_id, generation, member_id, -1, [(topic, [(p, offset, "") for p, offset in offsets.items()])]
        )

        async def ask() -> dict[int, int]:
            answer = await self.to_coordinator(group_id, request)
            codes: dict[int, int] = dict(answer.topics[0][1])
            for code in codes.values():
                if issubclass(errors.for_code(code), MOVED):
                    raise_for(code)
            return codes

        return await self._again_when_moved(ask, group_id=group_id)

    async def groups(self) -> list[str]:
        """Return the ids of all consumer groups."""
        brokers = (await self.brokers()).brokers
        answers = await asyncio.gather(
            *(self.connections.send(ListGroupsRequest(), broker=broker.id) for broker in brokers)
        )
        found: set[str] = set()
        for answer in answers:
            raise_for(answer.error_code)
            found.update(group for group, protocol_type in answer.groups if protocol_type in ("consumer", ""))
        return sorted(found)

    async def group(self, group_id: str) -> Group:
        """Describe a consumer group; one that does not exist has the state `Dead`."""

        async def ask() -> Group:
            # One group a request: aiokafka misreads the second one of an answer.
            answer = await self.to_coordinator(group_id, DescribeGroupsRequest([group_id], False))
            code, name, state, protocol_type, protocol, members, *_operations = answer.groups[0]
            if code == errors.GroupIdNotFound.errno:
                return Group(group_id, "Dead", "", "", ())
            raise_for(code)
            return Group(
                name,
                state,
                protocol_type,
                protocol,
                [_group_member(*member) for member in members],
            )

        return await self._again_when_moved(ask, group_id=group_id)

    # The rest

    async def _again_when_moved(
        self, ask: Callable[[], Awaitable[T]], *, topic: str | None = None, group_id: str | None = None
    ) -> T:
        """Repeat a request, with fresh knowledge, for as long as the cluster is rearranging itself.

        Elections end within moments; the caller's time limit ends the rest.
        """
        while True:
            try:
                return await ask()
            except MOVED:
                if group_id is not None:
                    self.forget_coordinator(group_id)
            except errors.UnknownTopicOrPartitionError:
                # So answers a broker, too, that has the partition no more, or not yet. The topic decides.
                if topic is None:
                    raise
            if topic is not None:
                if topic in self._topics:
                    self._topics[topic] = 0.0, self._topics[topic][1]
                await self.topic(topic)
            await asyncio.sleep(_RETRY_PAUSE)

    def _learn(self, answer: Any) -> Metadata:
        brokers = [Broker(*broker) for broker in answer.brokers]
        self.connections.learn({broker.id: (broker.host, broker.port) for broker in brokers})
        topics = [
            Topic(
                name,
                internal,
                {
                    partition: Partition(partition, leader if leader >= 0 else None, tuple(replicas), tuple(isr))
                    for _code, partition, leader, replicas, isr, *_offline in sorted(partitions, key=lambda p: p[1])
                },
            )
            for _code, name, internal, partitions in answer.topics
        ]
        controller = answer.controller_id
        return Metadata(getattr(answer, "cluster_id", None), controller if controller >= 0 else None, brokers, topics)


def _group_member(member_id: str, client_id: str, host: str, metadata: bytes, assignment: bytes) -> GroupMember:
    return GroupMember(member_id, client_id, host, metadata, assignment)


def _by_leader(topic: Topic, partitions: Mapping[int, object]) -> dict[int, list[int]]:
    grouped: defaultdict[int, list[int]] = defaultdict(list)
    for partition in partitions:
        known = topic.partitions.get(partition)
        if known is not None and known.leader is not None:
            grouped[known.leader].append(partition)
    return grouped


@contextmanager
def standing_still(clock: asyncio.Timeout | None) -> Generator[None]:
    """Stop a clock for a block, whose work has a bound of its own."""
    if clock is None or (when := clock.when()) is None:
        yield
        return
    left = when - asyncio.get_running_loop().time()
    clock.reschedule(None)
    try:
        yield
    finally:
        clock.reschedule(asyncio.get_running_loop().time() + max(left, 0))


def _unpack(answers: Sequence[Fetched]) -> None:
    """Unpack what is compressed in the order in which it is to be read, all together as far as there is room."""
    room = MOST_UNPACKED
    for answer in answers:
        room -= answer.unpack(room)


async def _all_of(work: list[Awaitable[None]]) -> None:
    """Await all of it, mostly a single one, for which a task would be wasted."""
    if len(work) == 1:
        await work[0]
    elif work:
        await asyncio.gather(*work)
