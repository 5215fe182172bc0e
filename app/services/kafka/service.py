"""Kafka for callers: publish, browse, work in groups, follow. Failures are the gateway's."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any, Literal, Self

from aiokafka import errors
from pydantic import JsonValue

from app.budget import Turn
from app.errors import InvalidArguments, NotFound
from app.outages import Outages
from app.services.kafka.cluster import Cluster, Topic
from app.services.kafka.confined import CUSTOMER_HEADER, key_of, refuse_pretence
from app.services.kafka.connections import Connections
from app.services.kafka.driver import LargerThanWeSend
from app.services.kafka.failures import answers, translated
from app.services.kafka.groups import GroupWork
from app.services.kafka.lag import ConsumerGroups
from app.services.kafka.messages import (
    ConsumedMessages,
    PublishedMessage,
    decode_records,
    encode_headers,
    encode_key,
    encode_value,
    utc,
)
from app.services.kafka.positions import Cursor, Start
from app.services.kafka.publishing import IDEMPOTENCY_HEADER, Outgoing, Publisher
from app.services.kafka.reading import Limits, Page, Reader, chosen_partitions, containing
from app.services.kafka.schemas import (
    BrokerInfo,
    BrokerList,
    StreamEvent,
)
from app.services.kafka.settings import KafkaSettings
from app.services.kafka.tails import Tails
from app.services.kafka.topics import Topics

_STREAM_PAGE = 100
_MOST_STREAMED = 128 * 1024
"""A stream holds its page for as long as its caller takes, so it reads less at a time, but for a larger message."""
_SHORTEST_BOUND = 5.0
"""Seconds that looking up a topic may take even if the caller wants to wait for messages less than that."""


class KafkaService:
    """The gateway's Kafka. It connects when it is first used, and again after a failure."""

    def __init__(self, settings: KafkaSettings, outages: Outages | None = None) -> None:
        self._settings = settings
        self._within = settings.request_timeout_ms / 1000
        self._connections = Connections(settings, outages)
        self._cluster = Cluster(settings, self._connections)
        self.topics = Topics(self._cluster, self._within)
        self.groups = ConsumerGroups(self._cluster, self._within)
        self.tails = Tails(self._cluster)
        self._reader = Reader(self._cluster, self.tails)
        self._work = GroupWork(self._cluster, self._reader, self.tails, settings)
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
            await service._work.close()
            await service._connections.close()

    async def lags_of_served(self) -> dict[str, int]:
        """Return how far the groups are behind that this process has served, where it is known."""
        return await self.groups.total_lags(list(self._work.served))

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
            refuse_pretence(headers, partition)
            headers = {**(headers or {}), CUSTOMER_HEADER: customer}
            key, key_encoding = key_of(customer, key), None
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
                known = await self.topics.made_if_missing(topic)
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

    def room(self) -> AbstractContextManager[Turn]:
        """Return what an answer has of the bytes that all readers may hold: none at the end."""
        return self._reader.room()

    async def browse(
        self,
        topic: str,
        *,
        room: Turn | None = None,
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

        Args:
            room: counts the answer among the bytes that all readers hold, until who gave it releases it; None counts it
                until it is returned.

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
        with self._counted(room) as counted:
            async with answers(timeout_ms / 1000 + 60, topic=topic):
                page = await self._reader.read(known, positions, limits, deadline, whole=whole, room=counted)
            return await _consumed(page, cursor=Cursor.at(topic, page.positions, whole=whole).write())

    async def consume(
        self,
        topic: str,
        group_id: str,
        *,
        room: Turn | None = None,
        max_messages: int,
        timeout_ms: int,
        max_bytes: int,
        lease_ms: int,
        ack: str | None = None,
        caller: str = "",
        owner: str = "",
    ) -> ConsumedMessages:
        """Acknowledge what was dealt with, if anything, and lease further messages of a group.

        The caller has a share of the places; an acknowledgement is its owner's, and nobody else's. `room` is as for
        `browse`.

        Raises:
            AckExpired: the acknowledged messages come again. Nothing was read.
            TooManyRequests: the caller works for as many groups as one may, or the gateway does.
            NotFound: the topic is unknown.
        """
        deadline = time.monotonic() + timeout_ms / 1000
        async with answers(max(timeout_ms / 1000, _SHORTEST_BOUND), topic=topic, group_id=group_id):
            await self._cluster.topic(topic)
            if ack is not None:
                await self._work.acknowledge(topic, group_id, ack, owner)
        if max_messages == 0:
            return await _consumed(Page({}), partitions=[])
        with self._counted(room) as counted:
            async with answers(timeout_ms / 1000 + 60, topic=topic, group_id=group_id):
                work = await self._work.consume(
                    topic,
                    group_id,
                    Limits(max_messages, max_bytes),
                    deadline=deadline,
                    lease_seconds=lease_ms / 1000,
                    caller=caller,
                    room=counted,
                    owner=owner,
                )
            return await _consumed(work.page, ack=work.ack, partitions=work.partitions)

    def _counted(self, room: Turn | None) -> AbstractContextManager[Turn]:
        """Return what counts an answer: the caller's, or one of its own."""
        return self.room() if room is None else nullcontext(room)

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
        limits = Limits(_STREAM_PAGE, _MOST_STREAMED)
        name = topic.name
        try:
            async with self.tails.follow(name) as tail:
                while not tail.gone:
                    with self.room() as room:
                        until = time.monotonic() + idle_after
                        page = await self._reader.read(topic, positions, limits, until, room=room)
                        messages = await decode_records(page.records)
                    # Whoever takes them may be slow: what has gone to it is not kept, in whatever form.
                    page.records.clear()
                    messages.reverse()
                    is_idle = not messages
                    if page.skipped:
                        yield StreamEvent(kind="skipped", cursor=_cursor_of(name, positions), skipped=page.skipped)
                    while messages:
                        positions[messages[-1].partition] = messages[-1].offset + 1
                        cursor = _cursor_of(name, positions)
                        yield StreamEvent(kind="message", cursor=cursor, message=messages.pop())
                    positions = page.positions
                    if is_idle:
                        yield StreamEvent(kind="idle", cursor=_cursor_of(name, positions))
        except (errors.KafkaError, OSError) as error:
            raise translated(error, topic=name) from error
        raise NotFound(f"topic {name!r} was deleted")

    # Topics

    # Groups and brokers

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
