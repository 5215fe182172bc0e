"""The shared producer: idempotent, acknowledged by all in-sync replicas, batching under load."""

import asyncio
import hashlib
import sys
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace

from aiokafka import errors
from aiokafka.structs import RecordMetadata

from app.errors import BackendTimeout, Conflict
from app.services.kafka.driver import LargerThanWeSend, Producer, size_of_batch
from app.services.kafka.failures import MOVED, UNREACHABLE
from app.services.kafka.settings import KafkaSettings
from app.stages import current_traceparent

IDEMPOTENCY_HEADER = "idempotency-key"
_TRACE = "traceparent"
"""The header that tells readers of the trace, as W3C names it."""
_KEYS_REMEMBERED = 10_000
_STOP_WITHIN = 10.0

_SENDS_AT_MOST = 10
"""Producers that a message may go by. Each time but the last it was another message that was refused."""
_LIMITS_REMEMBERED = 1000
_LOOK_FOR_TOPIC_EVERY = 3.0
"""Seconds that a message waits before it is asked whether its topic is still there."""
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

_TOO_LARGE: tuple[type[Exception], ...] = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError)

_THIS_ONE_CAN_NOT_BE_QUEUED: tuple[type[Exception], ...] = (
    LargerThanWeSend,
    errors.UnknownTopicOrPartitionError,
    errors.TopicAuthorizationFailedError,
    errors.KafkaTimeoutError,
)
"""The message is not stored, and no other producer would store it."""


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


class _Sending:
    """A message on its way, and the producer that has it."""

    def __init__(self) -> None:
        self.producer: Producer | None = None
        self.task: asyncio.Task[RecordMetadata]

    def forget_producer(self) -> None:
        self.producer = None


class Publisher:
    """Sends messages by one producer, which is started by the first message.

    A second one sends again, one by one, what was too large for the broker together with others.

    Args:
        settings: of producers and time limits.
        largest: returns how many bytes of a batch a topic takes; None if that is unknown.
        look_for: raises UnknownTopicOrPartitionError if a topic is gone.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        largest: Callable[[str], Awaitable[int | None]],
        look_for: Callable[[str], Awaitable[object]],
    ) -> None:
        self._settings = settings
        self._largest = largest
        self._look_for = look_for
        self._limits: dict[str, int] = {}
        """Of topics that have refused something."""
        self._producers: dict[bool, Producer] = {}
        """By whether it sends one by one."""
        self._starting = asyncio.Lock()
        self._stopping: set[asyncio.Task[None]] = set()
        self._by_key: OrderedDict[tuple[str, str], tuple[bytes, _Sending]] = OrderedDict()

    async def publish(self, message: Outgoing, idempotency_key: str | None) -> tuple[RecordMetadata, bool]:
        """Send a message and return where it is stored, and whether an earlier call had sent it.

        A key is remembered, with the result, by this process and among its newest 10,000. A call that repeats
        one whose answer is still outstanding waits for the same answer. The key travels as a header, too, by
        which readers recognize what a repeat through another process has stored twice.

        Raises:
            BackendTimeout: no acknowledgement in time. The message may be stored now or later.
            Conflict: the key was used for another message.
            UnknownTopicOrPartitionError: the topic was deleted meanwhile.
            LargerThanWeSend: it is larger than KAFKA_MAX_REQUEST_SIZE.
            MessageSizeTooLargeError, RecordListTooLargeError: it is larger than the topic takes.
            KafkaError: the message is not stored.
        """
        if idempotency_key is None:
            return await self._within_time(self._begin(message), message.topic), False
        place, digest = (message.topic, idempotency_key), message.digest()
        earlier = self._by_key.get(place)
        if earlier is not None:
            if earlier[0] != digest:
                raise Conflict("idempotency_key was used for another message on this topic; choose a new one")
            return await self._within_time(earlier[1], message.topic), True
        header = IDEMPOTENCY_HEADER, idempotency_key.encode()
        sending = self._begin(replace(message, headers=(*message.headers, header)))
        self._by_key[place] = digest, sending
        sending.task.add_done_callback(lambda done: self._forget_failed(place, done))
        while len(self._by_key) > _KEYS_REMEMBERED:
            self._by_key.popitem(last=False)
        return await self._within_time(sending, message.topic), False

    async def close(self) -> None:
        """Send what is waiting, then stop. What no broker takes within 10 s was never answered with an offset."""
        async with self._starting:
            for producer in list(self._producers.values()):
                self._retire(producer)
        await asyncio.gather(*self._stopping)

    def _forget_failed(self, place: tuple[str, str], sending: "asyncio.Task[RecordMetadata]") -> None:
        if sending.cancelled() or sending.exception() is not None:
            self._by_key.pop(place, None)

    def _begin(self, message: Outgoing) -> _Sending:
        if (trace := current_traceparent()) is not None and all(name != _TRACE for name, _ in message.headers):
            message = replace(message, headers=(*message.headers, (_TRACE, trace.encode())))
        sending = _Sending()
        sending.task = asyncio.create_task(self._send(message, sending))
        # Nobody may be left to hear of a failure.
        sending.task.add_done_callback(lambda done: done.cancelled() or done.exception())
        # A remembered key must not keep a producer.
        sending.task.add_done_callback(lambda _: sending.forget_producer())
        return sending

    async def _within_time(self, sending: _Sending, topic: str) -> RecordMetadata:
        """Wait for a message's place. A caller who gives up does not call the message back."""
        until = time.monotonic() + self._settings.delivery_timeout_ms / 1000
        try:
            while (left := until - time.monotonic()) > 0:
                done, _ = await asyncio.wait([sending.task], timeout=min(left, _LOOK_FOR_TOPIC_EVERY))
                if done:
                    return sending.task.result()
                # The producer would wait for it to come back.
                with suppress(*MOVED, *UNREACHABLE, errors.RequestTimedOutError):
                    await self._look_for(topic)
        except errors.UnknownTopicOrPartitionError:
            self._give_up(sending)
            raise
        self._give_up(sending)
        raise BackendTimeout(_UNCERTAIN)

    def _give_up(self, sending: _Sending) -> None:
        # The brokers may have moved away altogether: a new producer looks for them where the settings say.
        # One that has taken over since is none of this message's business.
        if sending.producer is not None:
            self._retire(sending.producer)

    async def _send(self, message: Outgoing, sending: _Sending) -> RecordMetadata:
        """Send a message, by another producer if its first one fails for another's sake."""
        if message.topic in self._limits and await self._is_too_large(message):
            raise errors.MessageSizeTooLargeError
        one_by_one = False
        failure: errors.KafkaError = errors.ProducerClosed()
        for _ in range(_SENDS_AT_MOST):
            sending.producer = producer = await self._started(one_by_one)
            try:
                stored = await producer.send(
                    message.topic,
                    message.value,
                    message.key,
                    message.partition,
                    message.timestamp_ms,
                    message.headers,
                )
            except _THIS_ONE_CAN_NOT_BE_QUEUED:
                raise
            except errors.KafkaError as error:
                self._retire(producer)
                failure = error
                continue
            try:
                return await stored
            except errors.KafkaError as error:
                # A batch that is refused leaves a gap in the sequence numbers, for which the brokers then
                # refuse whatever this producer sends after it.
                self._retire(producer)
                if isinstance(error, _NO_ANSWER):
                    raise BackendTimeout(_UNCERTAIN) from error
                if isinstance(error, _TOO_LARGE) and not one_by_one:
                    # Perhaps only together with those that were sent at the same moment.
                    self._limits.setdefault(message.topic, 0)
                    if await self._is_too_large(message):
                        raise
                    one_by_one = True
                elif not isinstance(error, _NOT_STORED_FOR_ANOTHERS_SAKE):
                    raise
                failure = error
        raise failure

    async def _is_too_large(self, message: Outgoing) -> bool:
        """Tell whether a topic that has refused something will refuse this, which would cost others their producer."""
        size = size_of_batch(message.key, message.value, message.headers)
        if self._settings.compression_type != "none" or size <= self._limits.get(message.topic, 0):
            return False
        # It may have been raised since.
        largest = await self._largest(message.topic)
        while len(self._limits) >= _LIMITS_REMEMBERED:
            self._limits.pop(next(iter(self._limits)))
        self._limits[message.topic] = sys.maxsize if largest is None else largest
        return largest is not None and size > largest

    def _retire(self, producer: Producer) -> None:
        for one_by_one, current in list(self._producers.items()):
            if current is producer:
                del self._producers[one_by_one]
                stopping = asyncio.create_task(producer.stop(_STOP_WITHIN))
                self._stopping.add(stopping)
                stopping.add_done_callback(self._stopping.discard)

    async def _started(self, one_by_one: bool) -> Producer:
        async with self._starting:
            if one_by_one not in self._producers:
                compression = self._settings.compression_type
                producer = Producer(
                    [f"{host}:{port}" for host, port in self._settings.require_bootstrap_servers()],
                    max_request_size=self._settings.max_request_size,
                    compression=None if compression == "none" else compression,
                    one_by_one=one_by_one,
                    connection_options=self._settings.connection_options(),
                )
                await producer.start(self._settings.request_timeout_ms / 1000)
                self._producers[one_by_one] = producer
            return self._producers[one_by_one]
