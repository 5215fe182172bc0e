"""Kafka for callers: publish, browse, work in groups, describe, follow. Failures are the gateway's."""

import asyncio
import fnmatch
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal, Self

from aiokafka import errors
from pydantic import JsonValue

from app.errors import ArgumentRefused, Conflict, Forbidden, InvalidArguments, NotFound
from app.outages import Outages
from app.services.kafka.cluster import LATEST, Allowance, Cluster, Topic
from app.services.kafka.connections import Connections
from app.services.kafka.driver import LargerThanWeSend, decode_assignment
from app.services.kafka.failures import answers, translated
from app.services.kafka.groups import GroupWork
from app.services.kafka.messages import (
    ConsumedMessages,
    PublishedMessage,
    decode_records,
    encode_headers,
    encode_key,
    encode_value,
    utc,
)
from app.services.kafka.publishing import IDEMPOTENCY_HEADER, Outgoing, Publisher
from app.services.kafka.reading import Cursor, Limits, Page, Reader, Start, chosen_partitions, containing
from app.services.kafka.schemas import (
    BrokerInfo,
    BrokerList,
    ConsumerGroup,
    ConsumerGroupLag,
    ConsumerGroupList,
    ConsumerGroupMember,
    ConsumerGroupSummary,
    CreatedTopic,
    PartitionLag,
    PartitionMetadata,
    StreamEvent,
    TopicList,
    TopicMetadata,
    TopicSummary,
)
from app.services.kafka.settings import KafkaSettings
from app.services.kafka.tails import Tails

_STREAM_PAGE = 100
_STREAM_BYTES = 1024 * 1024
_SHORTEST_BOUND = 5.0
"""Seconds that looking up a topic may take even if the caller wants to wait for messages less than that."""
_MOST_GROUPS_DESCRIBED = 200
_MOST_TOPICS_LISTED = 1000
_GROUPS_AT_A_TIME = 16


CUSTOMER_HEADER = "switchboard-customer"
"""Says to whom the session was bound that has sent a message."""


def _key_of(customer: str, given: str | None) -> str:
    """Return the key of a customer's messages: the customer's id if a rule of the policy has set it to that."""
    return customer if given == customer else f"customer-{customer}"


def _refuse_pretence(headers: Mapping[str, str] | None, partition: int | None) -> None:
    """Refuse what would let a bound caller's message pass for another customer's.

    Raises:
        ArgumentRefused: there is such a thing.
    """
    # Some readers don't tell capitals apart, or take the first of two headers.
    if any(name.strip().casefold() == CUSTOMER_HEADER for name in headers or ()):
        raise ArgumentRefused(
            f"headers: {CUSTOMER_HEADER} is written by the gateway, for the customer of this session."
        )
    if partition is not None:
        raise ArgumentRefused("partition: the messages of this session go where its customer's key leads.")


class KafkaService:
    """The gateway's Kafka. It connects when it is first used, and again after a failure."""

    def __init__(self, settings: KafkaSettings, outages: Outages | None = None) -> None:
        self._settings = settings
        self._within = settings.request_timeout_ms / 1000
        self._connections = Connections(settings, outages)
        self._cluster = Cluster(settings, self._connections)
        self.tails = Tails(self._cluster)
        self._reader = Reader(self._cluster, self.tails)
        self._groups = GroupWork(self._cluster, self._reader, self.tails, settings)
        self._publisher = Publisher(settings, self._largest_batch, self._cluster.look_for)

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: KafkaSettings, outages: Outages | None = None) -> AsyncGenerator[Self]:
        """Make it ready; on exit send what was accepted and leave all groups. Kafka need not be up.

        Args:
            settings: where Kafka is, and the limits.
            outages: hears of it when it can't be reached.
        """
        service = cls(settings, outages)
        try:
            yield service
        finally:
            await service._publisher.close()
            await service._groups.close()
            await service._connections.close()

    async def ping(self) -> None:
        """Return if a broker answers.

        Raises:
            BackendUnavailable: none does.
        """
        async with answers(self._within):
            await self._cluster.brokers()

    # Messages

    async def publish(
        self,
        topic: str,
        message: JsonValue,
        *,
        encoding: Literal["base64"] | None = None,
        key: str | None = None,
        key_encoding: Literal["base64"] | None = None,
        headers: dict[str, str] | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        idempotency_key: str | None = None,
        customer: str | None = None,
    ) -> PublishedMessage:
        """Store a message and return its place, once all in-sync replicas have it.

        Args:
            customer: to whom the caller is bound. The message has that customer's key, and a header that tells of it;
                idempotency keys are the customer's own.

        Raises:
            ArgumentRefused: who is bound to a customer may not say that.
            NotFound: the topic is unknown.
            InvalidArguments: an argument is not for Kafka; the message names it.
            BackendTimeout: no acknowledgement in time: the message may be stored now or later.
        """
        if customer is not None:
            _refuse_pretence(headers, partition)
            headers = {**(headers or {}), CUSTOMER_HEADER: customer}
            key, key_encoding = _key_of(customer, key), None
            # Readers drop what has the key of an earlier message, whoever sent that.
            idempotency_key = idempotency_key and f"customer-{customer}:{idempotency_key}"
        value, raw_key = encode_value(message, encoding), encode_key(key, key_encoding)
        if value is None and raw_key is None:
            raise InvalidArguments.of("key", "a null message deletes a key: say which")
        if idempotency_key is not None and IDEMPOTENCY_HEADER in (headers or {}):
            raise InvalidArguments.of("headers", f"{IDEMPOTENCY_HEADER} is written from idempotency_key")
        outgoing = Outgoing(topic, value, raw_key, encode_headers(headers), partition, timestamp_ms)
        async with answers(self._within, topic=topic):
            try:
                known = await self._cluster.topic(topic)
            except errors.UnknownTopicOrPartitionError:
                if not self._settings.allow_auto_create_topics:
                    raise
                known = await self._create(topic, -1, -1, {}, if_not_exists=True)
            chosen_partitions(known, partition)
        # The publisher keeps its own, longer time.
        async with answers(self._settings.delivery_timeout_ms / 1000 + self._within, topic=topic):
            try:
                placed, duplicate = await self._publisher.publish(outgoing, idempotency_key)
            except LargerThanWeSend:
                most = self._settings.max_request_size
                raise InvalidArguments.of(
                    "message", f"larger, with key and headers, than the {most} bytes of KAFKA_MAX_REQUEST_SIZE"
                ) from None
            except (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError) as error:
                raise await self._too_large(topic, error) from error
        return PublishedMessage(
            topic=topic,
            partition=placed.partition,
            offset=placed.offset,
            timestamp=utc(placed.timestamp),
            duplicate=duplicate,
        )

    async def _too_large(self, topic: str, error: Exception) -> InvalidArguments:
        """Name the limit of the broker's that a message was refused for."""
        name = "segment.bytes" if isinstance(error, errors.RecordListTooLargeError) else "max.message.bytes"
        most = await self._size_limit(topic, name)
        limit = f"the {most} bytes that topic {topic!r} takes ({name})" if most else f"topic {topic!r} takes ({name})"
        return InvalidArguments.of("message", f"larger, with key, headers and Kafka's own, than {limit}")

    async def _largest_batch(self, topic: str) -> int | None:
        return await self._size_limit(topic, "max.message.bytes")

    async def _size_limit(self, topic: str, name: str) -> int | None:
        """Return one of a topic's limits in bytes; None if the broker does not tell."""
        try:
            value = await self._cluster.effective_config(topic, name)
        except (errors.KafkaError, OSError):
            return None
        return int(value) if value and value.isdecimal() else None

    async def browse(
        self,
        topic: str,
        *,
        start: Start,
        cursor: str | None,
        partition: int | None,
        max_messages: int,
        timeout_ms: int,
        max_bytes: int,
        key_contains: str | None = None,
        value_contains: str | None = None,
    ) -> ConsumedMessages:
        """Read a topic without a trace, from a start or from a cursor.

        Raises:
            NotFound: the topic is unknown.
            InvalidArguments: there is no such place in it.
        """
        deadline = time.monotonic() + timeout_ms / 1000
        limits = Limits(max_messages, max_bytes, containing(key_contains, value_contains))
        stands = Cursor.read(cursor, topic) if cursor is not None else None
        async with answers(max(timeout_ms / 1000, _SHORTEST_BOUND), topic=topic):
            known = await self._cluster.topic(topic)
            if stands is not None:
                positions = await self._reader.resume(known, stands, partition)
            else:
                positions = await self._reader.begin(known, start, partition)
        whole = partition is None and (stands is None or stands.whole)
        async with answers(timeout_ms / 1000 + 60, topic=topic):
            page = await self._reader.read(known, positions, limits, deadline, whole=whole)
        return await _consumed(page, cursor=Cursor.at(topic, page.positions, whole=whole).write())

    async def consume(
        self,
        topic: str,
        group_id: str,
        *,
        max_messages: int,
        timeout_ms: int,
        max_bytes: int,
        lease_ms: int,
        ack: str | None = None,
        caller: str = "",
        owner: str = "",
    ) -> ConsumedMessages:
        """Acknowledge what was dealt with, if anything, and lease further messages of a group.

        The caller has a share of the places; an acknowledgement is its owner's, and nobody else's.

        Raises:
            AckExpired: the acknowledged messages come again. Nothing was read.
            TooManyRequests: the caller works for as many groups as one may, or the gateway does.
            NotFound: the topic is unknown.
        """
        deadline = time.monotonic() + timeout_ms / 1000
        async with answers(max(timeout_ms / 1000, _SHORTEST_BOUND), topic=topic, group_id=group_id):
            await self._cluster.topic(topic)
            if ack is not None:
                await self._groups.acknowledge(topic, group_id, ack, owner)
        if max_messages == 0:
            return await _consumed(Page({}), partitions=[])
        async with answers(timeout_ms / 1000 + 60, topic=topic, group_id=group_id):
            work = await self._groups.consume(
                topic,
                group_id,
                Limits(max_messages, max_bytes),
                deadline=deadline,
                lease_seconds=lease_ms / 1000,
                caller=caller,
                owner=owner,
            )
        return await _consumed(work.page, ack=work.ack, partitions=work.partitions)

    @asynccontextmanager
    async def changes(self, topic: str) -> AsyncGenerator[AsyncIterator[dict[str, Any]]]:
        """Follow a topic: yields an iterator of notices once every later message is sure to be noticed.

        Read from a notice's `cursor` to get what is new since the one before it. While Kafka can't tell of changes, it
        is asked again without end; a notice says so, with the problem in `interrupted`, and the next one with a cursor
        says that it is over. It ends when the topic is deleted.

        Raises:
            NotFound: the topic is unknown.
        """
        try:
            async with self._reader.changes(topic) as changes:
                yield (_notice(topic, change) async for change in changes)
        except (errors.KafkaError, OSError) as error:
            raise translated(error, topic=topic) from error

    async def stream(
        self, topic: str, *, start: Start, cursor: str | None, idle_after: float = 15.0
    ) -> AsyncGenerator[StreamEvent]:
        """Return a topic's messages as they come, for as long as somebody asks for more.

        It reads on only when it is asked, so that a slow reader costs nothing but time; what retention
        removes meanwhile is reported as skipped.

        Args:
            topic: its name.
            start: where to begin.
            cursor: where to begin instead; that of the last event seen.
            idle_after: seconds without a message after which an `idle` event comes.

        Raises:
            NotFound: the topic is unknown.
            InvalidArguments: it is no cursor of this topic.
        """
        stands = Cursor.read(cursor, topic) if cursor is not None else None
        async with answers(self._within, topic=topic):
            known = await self._cluster.topic(topic)
            if stands is not None:
                positions = await self._reader.resume(known, stands, None)
            else:
                positions = await self._reader.begin(known, start, None)
        return self._events(known, positions, idle_after)

    async def _events(self, topic: Topic, positions: dict[int, int], idle_after: float) -> AsyncGenerator[StreamEvent]:
        limits = Limits(_STREAM_PAGE, _STREAM_BYTES)
        name = topic.name
        try:
            async with self.tails.follow(name) as tail:
                while not tail.gone:
                    page = await self._reader.read(topic, positions, limits, time.monotonic() + idle_after)
                    if page.skipped:
                        yield StreamEvent(kind="skipped", cursor=_cursor_of(name, positions), skipped=page.skipped)
                    for message in await decode_records(page.records):
                        positions[message.partition] = message.offset + 1
                        yield StreamEvent(kind="message", cursor=_cursor_of(name, positions), message=message)
                    positions = page.positions
                    if not page.records:
                        yield StreamEvent(kind="idle", cursor=_cursor_of(name, positions))
        except (errors.KafkaError, OSError) as error:
            raise translated(error, topic=name) from error
        raise NotFound(f"topic {name!r} was deleted")

    # Topics

    async def topics(self, pattern: str | None = None, *, include_internal: bool = False) -> TopicList:
        """Return topics by a pattern: `*` and `?` stand for characters, other text for a part of the name."""
        async with answers(self._within):
            found = await self._cluster.topics()
        if pattern:
            glob = pattern if re.search(r"[*?\[]", pattern) else f"*{pattern}*"
            matches = re.compile(fnmatch.translate(glob)).match
            found = [topic for topic in found if matches(topic.name)]
        chosen = sorted(
            (topic for topic in found if include_internal or not topic.internal), key=lambda topic: topic.name
        )
        return TopicList(
            topics=[_summary(topic) for topic in chosen[:_MOST_TOPICS_LISTED]],
            total=len(chosen),
            truncated=len(chosen) > _MOST_TOPICS_LISTED,
        )

    async def topic(self, name: str) -> TopicMetadata:
        """Return all that is known of a topic.

        Raises:
            NotFound: it is unknown.
        """
        async with answers(self._within, topic=name):
            topic = await self._cluster.topic(name, fresh=True)
            bounds, config = await asyncio.gather(
                self._cluster.bounds(name, list(topic.partitions)), self._cluster.own_config(name)
            )
            counts = await self._count(name, bounds, Allowance())
        partitions = [
            PartitionMetadata(
                partition=partition.id,
                leader=partition.leader,
                replicas=list(partition.replicas),
                in_sync_replicas=list(partition.isr),
                first_offset=bounds[partition.id][0],
                end_offset=bounds[partition.id][1],
                message_count=counts[partition.id][0],
                estimated=not counts[partition.id][1],
            )
            for partition in topic.partitions.values()
        ]
        return TopicMetadata(
            topic=name,
            internal=topic.internal,
            partition_count=len(partitions),
            replication_factor=_replication_factor(topic),
            message_count=_sum_of_all(partition.message_count for partition in partitions),
            estimated=any(partition.estimated for partition in partitions),
            partitions=partitions,
            config=config,
        )

    async def create_topic(
        self,
        name: str,
        *,
        num_partitions: int | None = None,
        replication_factor: int | None = None,
        config: Mapping[str, str] | None = None,
        if_not_exists: bool = False,
    ) -> CreatedTopic:
        """Create a topic; None takes the broker's default.

        Raises:
            Conflict: it exists, and that is not accepted.
            InvalidArguments: Kafka refuses the name, the numbers or the configuration.
        """
        async with answers(self._within, topic=name):
            created = True
            try:
                topic = await self._create(name, num_partitions or -1, replication_factor or -1, config or {})
            except Conflict:
                if not if_not_exists:
                    raise
                created, topic = False, await self._cluster.topic(name, fresh=True)
            own = await self._cluster.own_config(name)
        return CreatedTopic(
            topic=name,
            created=created,
            partition_count=len(topic.partitions),
            replication_factor=_replication_factor(topic),
            config=own,
        )

    async def _create(
        self,
        name: str,
        num_partitions: int,
        replication_factor: int,
        config: Mapping[str, str],
        *,
        if_not_exists: bool = False,
    ) -> Topic:
        code, reason = await self._cluster.create_topic(
            name, num_partitions, replication_factor, config, self._within / 2
        )
        error = errors.for_code(code)
        if error is errors.TopicAlreadyExistsError and not if_not_exists:
            raise Conflict(f"topic {name!r} exists already; pass if_not_exists to accept that")
        if code and error is not errors.TopicAlreadyExistsError:
            raise _creation_refused(error, name, reason)
        while True:
            # The controller knows of the topic before the brokers do.
            try:
                topic = await self._cluster.topic(name, fresh=True)
                if topic.partitions and all(partition.leader is not None for partition in topic.partitions.values()):
                    return topic
            except (errors.UnknownTopicOrPartitionError, errors.LeaderNotAvailableError):
                pass
            await asyncio.sleep(0.05)

    # Groups and brokers

    async def group_lag(self, group_id: str) -> ConsumerGroupLag:
        """Return how far a group is behind.

        Raises:
            NotFound: it is unknown.
        """
        group = await self.group(group_id)
        return ConsumerGroupLag(
            group_id=group.group_id,
            state=group.state,
            total_lag=group.total_lag,
            estimated=group.estimated,
            partitions=group.partitions,
        )

    async def group(self, group_id: str) -> ConsumerGroup:
        """Return a consumer group with its members and lag.

        Raises:
            NotFound: it is unknown.
        """
        async with answers(self._within, group_id=group_id):
            return await self._describe(group_id, Allowance())

    async def groups(self) -> ConsumerGroupList:
        """Return the consumer groups with state, members and lag."""
        async with answers(3 * self._within):
            ids = await self._cluster.groups()
            described = ids[:_MOST_GROUPS_DESCRIBED]
            allowance = Allowance()
            summaries: list[ConsumerGroupSummary] = []
            for start in range(0, len(described), _GROUPS_AT_A_TIME):
                part = described[start : start + _GROUPS_AT_A_TIME]
                found = await asyncio.gather(*(self._summary_of(group_id, allowance) for group_id in part))
                summaries += [summary for summary in found if summary is not None]
        return ConsumerGroupList(groups=summaries, total=len(ids))

    async def _summary_of(self, group_id: str, allowance: Allowance) -> ConsumerGroupSummary | None:
        try:
            group = await self._describe(group_id, allowance)
        except NotFound:
            return None  # It went away between the two questions.
        return ConsumerGroupSummary(
            group_id=group_id,
            state=group.state,
            members=len(group.members),
            total_lag=group.total_lag,
            estimated=group.estimated,
        )

    async def brokers(self) -> BrokerList:
        """Return the cluster's brokers."""
        async with answers(self._within):
            metadata = await self._cluster.brokers()
        return BrokerList(
            cluster_id=metadata.cluster_id,
            controller_id=metadata.controller,
            brokers=[
                BrokerInfo(
                    id=broker.id,
                    host=broker.host,
                    port=broker.port,
                    rack=broker.rack,
                    is_controller=broker.id == metadata.controller,
                )
                for broker in sorted(metadata.brokers, key=lambda broker: broker.id)
            ],
        )

    async def _describe(self, group_id: str, allowance: Allowance) -> ConsumerGroup:
        group, committed = await asyncio.gather(self._cluster.group(group_id), self._cluster.committed(group_id))
        if group.state == "Dead" and not committed:
            raise NotFound(f"there is no consumer group {group_id!r}; kafka://consumer-groups tells which there are")
        members = [
            ConsumerGroupMember(
                member_id=member.id,
                client_id=member.client_id,
                host=member.host.removeprefix("/"),
                partitions=decode_assignment(member.assignment),
            )
            for member in group.members
        ]
        readers = {
            (topic, partition): member
            for member in members
            for topic, partitions in member.partitions.items()
            for partition in partitions
        }
        places = sorted({(place.topic, place.partition) for place in committed} | set(readers))
        topics = sorted({topic for topic, _ in places})
        ends = dict(zip(topics, await asyncio.gather(*(self._ends(topic) for topic in topics)), strict=True))
        offsets = {(place.topic, place.partition): offset for place, offset in committed.items()}
        lags = {
            topic: await self._count(
                topic, {p: (offsets.get((t, p)), ends[t].get(p)) for t, p in places if t == topic}, allowance
            )
            for topic in topics
        }
        partitions = [
            PartitionLag(
                topic=topic,
                partition=partition,
                committed_offset=offsets.get((topic, partition)),
                end_offset=ends[topic].get(partition),
                lag=lags[topic][partition][0],
                estimated=not lags[topic][partition][1],
                client_id=readers[topic, partition].client_id if (topic, partition) in readers else None,
                host=readers[topic, partition].host if (topic, partition) in readers else None,
            )
            for topic, partition in places
        ]
        known = [partition.lag for partition in partitions if partition.lag is not None]
        return ConsumerGroup(
            group_id=group_id,
            state=group.state,
            protocol=group.protocol,
            members=members,
            total_lag=sum(known) if known else None,
            estimated=any(partition.estimated for partition in partitions),
            partitions=partitions,
        )

    async def _count(
        self, topic: str, bounds: Mapping[int, tuple[int | None, int | None]], allowance: Allowance
    ) -> dict[int, tuple[int | None, bool]]:
        """Return how many messages there are between two offsets of each partition, and whether all were counted."""
        unknown: dict[int, tuple[int | None, bool]] = dict.fromkeys(bounds, (None, True))
        ranges = {p: (first, end) for p, (first, end) in bounds.items() if first is not None and end is not None}
        return unknown | dict(await self._cluster.count(topic, ranges, allowance))

    async def _ends(self, topic: str) -> dict[int, int | None]:
        try:
            known = await self._cluster.topic(topic)
            return await self._cluster.offsets(topic, dict.fromkeys(known.partitions, LATEST))
        except errors.UnknownTopicOrPartitionError:
            return {}  # Its offsets outlive a deleted topic for a while.


async def _consumed(
    page: Page, *, cursor: str | None = None, ack: str | None = None, partitions: list[int] | None = None
) -> ConsumedMessages:
    return ConsumedMessages(
        messages=await decode_records(page.records),
        next_cursor=cursor,
        reached_end=page.reached_end,
        truncated=page.truncated,
        skipped=page.skipped,
        ack=ack,
        partitions=partitions,
    )


def _notice(topic: str, change: Cursor | Exception) -> dict[str, Any]:
    if isinstance(change, Cursor):
        return {"cursor": change.write()}
    problem = translated(change, topic=topic).problem()
    return {"interrupted": problem.model_dump(mode="json", exclude_none=True)}


def _cursor_of(topic: str, positions: Mapping[int, int]) -> str:
    return Cursor.at(topic, positions, whole=True).write()


def _summary(topic: Topic) -> TopicSummary:
    return TopicSummary(
        name=topic.name,
        partitions=len(topic.partitions),
        replication_factor=_replication_factor(topic),
        internal=topic.internal,
    )


def _replication_factor(topic: Topic) -> int:
    return max((len(partition.replicas) for partition in topic.partitions.values()), default=0)


def _sum_of_all(numbers: Iterable[int | None]) -> int | None:
    known = list(numbers)
    return None if None in known else sum(number or 0 for number in known)


def _creation_refused(error: type[errors.BrokerResponseError], name: str, reason: str | None) -> Exception:
    """Say which argument Kafka refused. Its reasons are written for callers and hold nothing else."""
    fields: dict[Any, str] = {
        errors.InvalidTopicError: "topic",
        errors.InvalidPartitionsError: "num_partitions",
        errors.InvalidReplicationFactorError: "replication_factor",
        errors.InvalidReplicationAssignmentError: "replication_factor",
        errors.InvalidConfigurationError: "config",
    }
    if error in fields:
        return InvalidArguments.of(fields[error], reason or "Kafka refuses it")
    if error is errors.PolicyViolationError:
        return Forbidden(f"a policy of the Kafka cluster refuses the topic: {reason or 'no reason given'}")
    return error(name)
