"""The shared producer: idempotent, acknowledged by all in-sync replicas, batching under load."""

import asyncio
import contextlib
import hashlib
import logging
import random
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any, cast

from aiokafka import AIOKafkaProducer, errors
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.structs import RecordMetadata

from app.errors import BackendTimeout, Conflict
from app.services.kafka.failures import MOVED, UNREACHABLE
from app.services.kafka.settings import KafkaSettings

_log = logging.getLogger(__name__)

IDEMPOTENCY_HEADER = "idempotency-key"
_KEYS_REMEMBERED = 10_000
_STOP_WITHIN = 10.0

_SENDS_AT_MOST = 3
_UNCERTAIN = (
    "Kafka did not acknowledge the message in time; it may be stored now or later. "
    "Repeat with the same idempotency_key to store it once"
)

_NO_ANSWER: tuple[type[Exception], ...] = (
    *MOVED,
    *UNREACHABLE,
    errors.RequestTimedOutError,
    errors.KafkaTimeoutError,
)
"""aiokafka gave a batch up, perhaps after an attempt whose answer was lost."""

_NOT_STORED_FOR_ANOTHERS_SAKE: tuple[type[Exception], ...] = (
    errors.ProducerClosed,
    errors.ProducerFenced,
    errors.OutOfOrderSequenceNumber,
    errors.UnknownProducerId,
    errors.InvalidProducerEpoch,
    errors.InvalidProducerIdMapping,
)
"""The brokers refused the producer, not the message: it can go by another one."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message on its way to a topic."""

    topic: str
    value: bytes | None
    key: bytes | None
    headers: Sequence[tuple[str, bytes]]
    partition: int | None
    timestamp_ms: int | None

    def digest(self) -> bytes:
        """Return what tells it from other messages, without keeping it."""
        return hashlib.sha256(repr(astuple(self)).encode()).digest()


class _Client(AIOKafkaClient):
    """The producer's client, whose questions about topics neither create them nor grow with the cluster.

    aiokafka's own lets brokers create each topic that it asks about, so that a deleted one would come back,
    and asks about all topics while it has sent nothing.
    """

    async def _metadata_update(self, cluster_metadata: Any, topics: Any) -> bool:
        this = cast("Any", self)
        request = MetadataRequest(list(topics), False)
        for broker in random.sample(nodes := list(this.cluster.brokers()), len(nodes)):
            with contextlib.suppress(errors.KafkaError, OSError):
                cluster_metadata.update_metadata(await this.send(broker.nodeId, request))
                return True
        cluster_metadata.failed_update(None)
        return False


class Publisher:
    """Sends messages by one producer, which is started by the first message."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._producer: Any = None
        self._starting = asyncio.Lock()
        self._stopping: set[asyncio.Task[None]] = set()
        self._by_key: OrderedDict[tuple[str, str], tuple[bytes, asyncio.Task[RecordMetadata]]] = OrderedDict()

    async def publish(self, message: Outgoing, idempotency_key: str | None) -> tuple[RecordMetadata, bool]:
        """Send a message and return where it is stored, and whether an earlier call had sent it.

        A key is remembered, with the result, by this process and among its newest 10,000. A call that repeats
        one whose answer is still outstanding waits for the same answer. The key travels as a header, too, by
        which readers recognize what a repeat through another process has stored twice.

        Raises:
            BackendTimeout: no acknowledgement in time. The message may be stored now or later.
            Conflict: the key was used for another message.
            KafkaError: the message is not stored.
        """
        if idempotency_key is None:
            return await self._within_time(self._begin(message)), False
        place, digest = (message.topic, idempotency_key), message.digest()
        earlier = self._by_key.get(place)
        if earlier is not None:
            if earlier[0] != digest:
                raise Conflict("idempotency_key was used for another message on this topic; choose a new one")
            return await self._within_time(earlier[1]), True
        header = IDEMPOTENCY_HEADER, idempotency_key.encode()
        sending = self._begin(replace(message, headers=(*message.headers, header)))
        self._by_key[place] = digest, sending
        sending.add_done_callback(lambda done: self._forget_failed(place, done))
        while len(self._by_key) > _KEYS_REMEMBERED:
            self._by_key.popitem(last=False)
        return await self._within_time(sending), False

    async def close(self) -> None:
        """Send what is waiting, then stop. What no broker takes within 10 s was never answered with an offset."""
        async with self._starting:
            if self._producer is not None:
                self._retire(self._producer)
        await asyncio.gather(*self._stopping)

    def _forget_failed(self, place: tuple[str, str], sending: "asyncio.Task[RecordMetadata]") -> None:
        if sending.cancelled() or sending.exception() is not None:
            self._by_key.pop(place, None)

    def _begin(self, message: Outgoing) -> "asyncio.Task[RecordMetadata]":
        sending = asyncio.create_task(self._send(message))
        # Nobody may be left to hear of a failure.
        sending.add_done_callback(lambda done: done.cancelled() or done.exception())
        return sending

    async def _within_time(self, sending: "asyncio.Task[RecordMetadata]") -> RecordMetadata:
        """Wait for a message's place. A caller who gives up does not call the message back."""
        done, _ = await asyncio.wait([sending], timeout=self._settings.delivery_timeout_ms / 1000)
        if not done:
            # The brokers may have moved away altogether: a new producer looks for them where the settings say.
            if self._producer is not None:
                self._retire(self._producer)
            raise BackendTimeout(_UNCERTAIN)
        return sending.result()

    async def _send(self, message: Outgoing) -> RecordMetadata:
        for left in reversed(range(_SENDS_AT_MOST)):
            producer = await self._started()
            known: set[int] | None = producer.client.cluster.partitions_for_topic(message.topic)
            if message.partition is not None and known is not None and message.partition not in known:
                # The producer's own knowledge is older than ours.
                await producer.client.force_metadata_update()
            try:
                stored = await producer.send(
                    message.topic,
                    message.value,
                    message.key,
                    message.partition,
                    message.timestamp_ms,
                    list(message.headers),
                )
            except errors.ProducerClosed:
                continue
            try:
                return await stored
            except errors.KafkaError as error:
                # A batch that is refused leaves a gap in the sequence numbers, for which the brokers then
                # refuse whatever this producer sends after it.
                self._retire(producer)
                if isinstance(error, _NO_ANSWER):
                    raise BackendTimeout(_UNCERTAIN) from error
                if not left or not isinstance(error, _NOT_STORED_FOR_ANOTHERS_SAKE):
                    raise
        raise errors.ProducerClosed

    def _retire(self, producer: Any) -> None:
        if self._producer is producer:
            self._producer = None
            stopping = asyncio.create_task(self._stop(producer))
            self._stopping.add(stopping)
            stopping.add_done_callback(self._stopping.discard)

    async def _started(self) -> Any:
        async with self._starting:
            if self._producer is None:
                compression = self._settings.compression_type
                producer = cast("Any", AIOKafkaProducer)(
                    bootstrap_servers=[f"{host}:{port}" for host, port in self._settings.require_bootstrap_servers()],
                    enable_idempotence=True,
                    acks="all",
                    max_request_size=self._settings.max_request_size,
                    compression_type=None if compression == "none" else compression,
                    **self._settings.connection_options(),
                )
                producer.client.__class__ = _Client  # AIOKafkaProducer takes no client of ours.
                try:
                    async with asyncio.timeout(self._settings.request_timeout_ms / 1000):
                        await producer.start()
                except TimeoutError:
                    raise errors.KafkaConnectionError("no broker gave the producer its id") from None
                finally:
                    if producer._sender.sender_task is None:
                        await producer.client.close()
                        producer._closed = True  # There is nothing to flush; without this aiokafka warns of a leak.
                self._producer = producer
            return self._producer

    async def _stop(self, producer: Any) -> None:
        with contextlib.suppress(errors.KafkaError):
            try:
                async with asyncio.timeout(_STOP_WITHIN):
                    await producer.stop()
            except TimeoutError:
                _log.warning("messages that no broker took in time are given up; none was answered with an offset")
                # What stop() would have done after the flush, which does not end.
                await producer._sender.close()
                producer._message_accumulator.fail_all(errors.KafkaTimeoutError())
                await producer.client.close()
