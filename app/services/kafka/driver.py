"""All that the gateway uses of aiokafka beyond what aiokafka promises: requests, parsers, its producer's insides.

Nothing here survives a new version unread, so `pyproject.toml` pins aiokafka exactly. Before a change of the version
`tests/services/kafka/test_driver.py` says which of these pieces has changed. The rest of the gateway imports this
module, and of aiokafka itself only `errors` and `structs`.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from io import BytesIO
from types import SimpleNamespace
from typing import Any, Protocol, cast

from aiokafka import AIOKafkaProducer, conn, errors
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import READ_COMMITTED, READ_UNCOMMITTED, PartitionRecords
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from aiokafka.protocol.admin import (
    CreateTopicsRequest,
    DescribeConfigsRequest,
    DescribeGroupsRequest,
    ListGroupsRequest,
)
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest
from aiokafka.protocol.metadata import MetadataRequest, MetadataRequest_v5, MetadataResponse_v5
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.record import default_records, memory_records
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c, decode_varint_py
from aiokafka.structs import ConsumerRecord, RecordMetadata, TopicPartition

__all__ = [
    "READ_COMMITTED",
    "READ_UNCOMMITTED",
    "CreateTopicsRequest",
    "DescribeConfigsRequest",
    "DescribeGroupsRequest",
    "FetchRequest",
    "FindCoordinatorRequest",
    "HeartbeatRequest",
    "JoinGroupRequest",
    "LeaveGroupRequest",
    "ListGroupsRequest",
    "MetadataRequest",
    "OffsetCommitRequest",
    "OffsetFetchRequest",
    "OffsetRequest",
    "SyncGroupRequest",
    "calc_crc32c",
]
"""What is handed on as it is."""

_log = logging.getLogger(__name__)

Record = ConsumerRecord[bytes, bytes]

_MAGIC_WITH_HEADERS = 2


# Connections


class Connection(Protocol):
    """One connection to a broker."""

    def send(self, request: Any) -> Awaitable[Any]: ...
    def connected(self) -> bool: ...
    def close(self) -> Awaitable[None] | None: ...


create_connection = cast("Callable[..., Awaitable[Connection]]", conn.create_conn)  # pyright: ignore[reportUnknownMemberType] - untyped


# The whole cluster's metadata


class _RawMetadata:
    """Leaves a large answer undecoded, so that decoding need not happen on the event loop."""

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read()


class _AllTopicsStruct(MetadataRequest_v5):
    API_VERSION = 5
    RESPONSE_TYPE = _RawMetadata  # pyright: ignore[reportAssignmentType] - aiokafka only calls its decode()


class AllTopicsRequest(MetadataRequest):
    """Asks for all topics and leaves the answer to `decode_all_topics`."""

    def __init__(self) -> None:
        super().__init__(None, False)

    def prepare(self, versions: dict[int, tuple[int, int]]) -> Any:
        return _AllTopicsStruct(None, False)


def decode_all_topics(raw: bytes) -> Any:
    """Return the answer to an `AllTopicsRequest`, decoded."""
    return MetadataResponse_v5.decode(raw)  # pyright: ignore[reportArgumentType] - it takes bytes, too


# Records


class PartitionReader:
    """Takes apart what one partition answered to a fetch: no control records, none that were aborted.

    Args:
        partition: whose records these are.
        position: offset that was asked for; earlier records of the same batch are left out.
        records: as the broker sent them.
        aborted: producers and first offsets of aborted transactions, as the broker sent them.
        isolation: READ_COMMITTED or READ_UNCOMMITTED, for which aborted records are records, too.
    """

    def __init__(self, partition: TopicPartition, position: int, records: bytes, aborted: Any, isolation: int) -> None:
        self._partition = partition
        self._bytes = records
        self._aborted = aborted
        self._isolation = isolation
        self._records = self._read(MemoryRecords(records), position)

    def _read(self, batches: Any, position: int) -> Any:
        return PartitionRecords(self._partition, batches, self._aborted, position, None, None, True, self._isolation)

    def __del__(self) -> None:
        self._let_go()

    def _let_go(self) -> None:
        # aiokafka's reader and its generator hold each other until that has ended, and with them all of the answer.
        if (unread := self._records._records_iterator) is not None:
            unread.close()

    @property
    def position(self) -> int:
        """Offset after all that was taken so far; at the end, after the control records behind it as well."""
        return self._records.next_fetch_offset

    def __iter__(self) -> Iterator[Record]:
        try:
            yield from self._records
        except UnicodeDecodeError:
            # Kafka takes any bytes for a header's name, and one such message must not hide all that come after it.
            position = self.position
            self._let_go()
            self._records = self._read(_BatchesOfAnyNames(self._bytes), position)
            yield from self._records


class _AnyName(bytearray):
    """Bytes that can be decoded in every part: what is no UTF-8 is written as `\\xff`."""

    def __getitem__(self, place: Any) -> Any:
        part: Any = cast("Any", super()).__getitem__(place)
        return _AnyName(part) if isinstance(place, slice) else part

    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        return super().decode(encoding, errors)


_PythonBatch: Any = cast("Any", default_records)._DefaultRecordBatchPy
_PythonBatches: Any = cast("Any", memory_records)._MemoryRecordsPy
"""What aiokafka uses where its extensions are not built."""


class _BatchOfAnyNames(_PythonBatch):
    """A batch of records whose headers' names may be any bytes."""

    def _maybe_uncompress(self) -> None:
        _PythonBatch._maybe_uncompress(self)
        self._buffer = _AnyName(self._buffer)

    def _read_msg(self) -> Any:
        # The extension's reader of numbers takes nothing but a bytearray itself.
        return _PythonBatch._read_msg(self, decode_varint_py)


class _BatchesOfAnyNames(_PythonBatches):
    def next_batch(self) -> Any:
        batch = self._next_slice
        if batch[self.MAGIC_OFFSET] < _MAGIC_WITH_HEADERS:
            return _PythonBatches.next_batch(self)
        self._cache_next()
        return _BatchOfAnyNames(batch)


# Consumer groups


def encode_subscription(topic: str) -> bytes:
    """Return what a member says when it joins: that it takes part for one topic."""
    return ConsumerProtocolMemberMetadata(0, [topic], b"").encode()


def decode_assignment(raw: bytes) -> dict[str, list[int]]:
    """Return what a member was assigned: partitions by topic; none if other clients have written it in their own way.

    Kafka keeps the bytes unread, and Kafka Connect, schema registries and others form groups, too.
    """
    try:
        assigned = ConsumerProtocolMemberAssignment.decode(raw).assignment if raw else ()
    except ValueError:
        return {}
    return {topic: sorted(partitions) for topic, partitions in assigned}


class Subscriptions:
    """What the members of a group take part for, as its leader is told. Who says nothing readable gets nothing.

    Args:
        members: of the answer to a JoinGroupRequest.
    """

    def __init__(self, members: Sequence[tuple[Any, ...]]) -> None:
        self._metadata: dict[str, ConsumerProtocolMemberMetadata] = {}
        for member in members:
            try:
                self._metadata[member[0]] = ConsumerProtocolMemberMetadata.decode(member[-1])
            except ValueError:
                _log.warning("a member of the group says in no readable way what it takes part for: %s", member[0])

    @property
    def topics(self) -> set[str]:
        """Names of all topics that anybody takes part for."""
        return {topic for metadata in self._metadata.values() for topic in metadata.subscription}

    def divide_by_range(self, partitions: Mapping[str, set[int]]) -> list[tuple[str, bytes]]:
        """Return each member's share of the partitions, by Kafka's strategy `range`, as SyncGroupRequest takes it."""
        known = cast("Any", SimpleNamespace(partitions_for_topic=partitions.get))
        shares = RangePartitionAssignor.assign(known, self._metadata)
        return [(member, assignment.encode()) for member, assignment in shares.items()]


# The producer


_UPDATES_APART = 0.1
"""Seconds between two questions of the producer's about its topics."""
_GONE = errors.UnknownTopicOrPartitionError.errno


class _Client(AIOKafkaClient):
    """The producer's client, whose questions about topics neither create them nor grow with the cluster.

    aiokafka's own lets brokers create each topic that it asks about, so that a deleted one would come back,
    and asks about all topics while it has sent nothing. While a message waits for a topic that is gone, it asks
    without a pause, and writes a line each time.
    """

    _last_update = 0.0

    async def _metadata_update(self, cluster_metadata: Any, topics: Any) -> bool:
        this = cast("Any", self)
        await asyncio.sleep(self._last_update + _UPDATES_APART - time.monotonic())
        self._last_update = time.monotonic()
        request = MetadataRequest(list(topics), False)
        for broker in random.sample(nodes := list(this.cluster.brokers()), len(nodes)):
            with contextlib.suppress(errors.KafkaError, OSError):
                answer: Any = await this.send(broker.nodeId, request)
                answer.topics = [topic for topic in answer.topics if topic[0] != _GONE]
                cluster_metadata.update_metadata(answer)
                return True
        cluster_metadata.failed_update(None)
        return False


_HEAD_OF_A_BATCH = 61


def size_of_batch(key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> int:
    """Return the bytes of a batch of one message that is not compressed, which brokers hold against their limits."""
    builder = DefaultRecordBatchBuilder(
        2, 0, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=0, batch_size=1
    )
    return _HEAD_OF_A_BATCH + cast("Any", builder).size_in_bytes(0, 0, key, value, list(headers))


class LargerThanWeSend(errors.MessageSizeTooLargeError):
    """A message that no broker was asked to take: it is larger than the producer may send."""


class Producer:
    """aiokafka's idempotent producer, acknowledged by all in-sync replicas, that also ends when no broker is left.

    Args:
        servers: `host:port` of brokers to begin with.
        max_request_size: largest message in bytes.
        compression: codec, or None.
        one_by_one: send each message in a batch of its own, whatever else is sent at the moment.
        connection_options: of every connection.
    """

    def __init__(
        self,
        servers: Sequence[str],
        *,
        max_request_size: int,
        compression: str | None,
        one_by_one: bool,
        connection_options: Any,
    ) -> None:
        self._producer: Any = cast("Any", AIOKafkaProducer)(
            bootstrap_servers=list(servers),
            enable_idempotence=True,
            acks="all",
            max_request_size=max_request_size,
            compression_type=compression,
            # A batch takes its first message, whatever the size.
            **({"max_batch_size": 1} if one_by_one else {}),
            **connection_options,
        )
        self._producer.client.__class__ = _Client  # AIOKafkaProducer takes no client of ours.

    async def start(self, within: float) -> None:
        """Connect and get the producer's id.

        Args:
            within: seconds.

        Raises:
            KafkaError: no broker gave one. Nothing is left open.
        """
        try:
            async with asyncio.timeout(within):
                await self._producer.start()
        except TimeoutError:
            raise errors.KafkaConnectionError("no broker gave the producer its id") from None
        finally:
            if self._producer._sender.sender_task is None:
                await self._producer.client.close()
                self._producer._closed = True  # There is nothing to flush; without this aiokafka warns of a leak.

    async def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        partition: int | None,
        timestamp_ms: int | None,
        headers: Sequence[tuple[str, bytes]],
    ) -> "asyncio.Future[RecordMetadata]":
        """Queue a message and return what will be its place.

        Args:
            topic: which exists.
            value: None for a tombstone.
            key: None for none.
            partition: chosen by the key if None.
            timestamp_ms: the present if None.
            headers: names and values.

        Raises:
            LargerThanWeSend: it is larger than max_request_size.
            KafkaError: it is not queued, perhaps for the sake of those before it.
        """
        producer = self._producer
        try:
            producer._serialize(key, value, list(headers))
        except errors.MessageSizeTooLargeError:
            raise LargerThanWeSend from None
        known: set[int] | None = producer.client.cluster.partitions_for_topic(topic)
        if partition is not None and known is not None and partition not in known:
            # The producer's own knowledge is older than ours.
            await producer.client.force_metadata_update()
        return await producer.send(topic, value, key, partition, timestamp_ms, list(headers))

    async def stop(self, within: float) -> None:
        """Send what is waiting, then close. What no broker takes in time fails with KafkaTimeoutError.

        Args:
            within: seconds.
        """
        with contextlib.suppress(errors.KafkaError):
            try:
                async with asyncio.timeout(within):
                    await self._producer.stop()
            except TimeoutError:
                _log.warning("messages that no broker took in time are given up; none was answered with an offset")
                # What stop() would have done after the flush, which does not end.
                await self._producer._sender.close()
                self._producer._message_accumulator.fail_all(errors.KafkaTimeoutError())
                await self._producer.client.close()
