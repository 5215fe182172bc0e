"""Kafka as an MCP server: publish, browse without a trace, work in consumer groups, follow topics."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Any, Literal, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    model_validator,
)
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from app.budget import Turn
from app.errors import AckExpired, BackendNotConfigured, Conflict, GatewayError, InvalidArguments, NotFound
from app.findings import Finding
from app.guard.principal import Principal
from app.measures import Measure
from app.results import RawResult
from app.servers.base import BaseMCPServer
from app.servers.calls import CallContext, JsonObject
from app.servers.declaring import resource, route, tool, watch
from app.servers.methods import Encoded
from app.servers.resources import Update
from app.services.kafka import KafkaService
from app.services.kafka.examination import examine
from app.services.kafka.messages import ConsumedMessages, PublishedMessage, written
from app.services.kafka.positions import MAX_MESSAGES, Milliseconds, Start
from app.services.kafka.schemas import (
    BrokerList,
    ConsumerGroup,
    ConsumerGroupLag,
    ConsumerGroupList,
    CreatedTopic,
    GroupId,
    StreamEvent,
    TopicList,
    TopicMetadata,
    TopicName,
)
from app.services.kafka.settings import KafkaSettings

LONGEST_WAIT_MS = 60_000
_BROKERS_DEFAULT = "The broker's default if left out."
_OVERHEAD = 15.0
"""Seconds that a broker may need beyond the caller's own timeout."""

_SPELLINGS = {"value": "message", "group": "group_id", "consumer_group": "group_id", "limit": "max_messages"}
"""Other words that callers use for our arguments."""


_STREAM_OPENAPI: JsonObject = {
    "parameters": [
        {
            "name": "topic",
            "in": "path",
            "required": True,
            "description": "Name of the topic.",
            "schema": {"type": "string", "pattern": "^[a-zA-Z0-9._-]{1,249}$", "examples": ["customer-queries"]},
        },
        {
            "name": "start",
            "in": "query",
            "description": "Where to begin; `latest` if left out.",
            "schema": {"type": "string", "enum": ["earliest", "latest"]},
        },
        {
            "name": "cursor",
            "in": "query",
            "description": "Begin at the `id` of an event, or at a `next_cursor`.",
            "schema": {"type": "string"},
        },
        {
            "name": "Last-Event-ID",
            "in": "header",
            "description": "Sent by browsers that connect again; it wins over `cursor`.",
            "schema": {"type": "string"},
        },
    ],
    "responses": {
        "200": {
            "description": "Events `message` (a message as consume_messages answers it), `skipped` and `failure`.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        }
    },
}
_RECONNECT_AFTER_MS = 2_000
_LINE_ENDS = str.maketrans({end: f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"})
"""Not to browsers, but many clients end a line at these, too. In JSON they stand in texts only."""


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _other_spellings(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        arguments = cast("dict[str, Any]", given)
        for spelling, name in _SPELLINGS.items():
            if spelling in arguments and name in cls.model_fields and name not in arguments:
                arguments = {(name if key == spelling else key): value for key, value in arguments.items()}
        return arguments


class PublishMessage(_Arguments):
    """Arguments of publish_message."""

    topic: TopicName
    message: Annotated[JsonValue, Encoded(by="encoding")] = Field(
        description="A string is stored as it is, null as a tombstone (needs a key). Also accepted: `value`."
    )
    encoding: Literal["base64"] | None = Field(None, description="If `message` is base64 of bytes.")
    key: Annotated[str | None, Encoded(by="key_encoding")] = Field(
        None, description="Messages of one key stay in order."
    )
    key_encoding: Literal["base64"] | None = Field(None, description="If `key` is base64 of bytes.")
    headers: dict[str, str] | None = None
    partition: int | None = Field(None, ge=0, description="By the key if left out.")
    timestamp: Milliseconds | None = Field(
        None, description="ISO 8601 with an offset, or milliseconds since 1970; now if left out."
    )
    idempotency_key: str | None = Field(
        None,
        min_length=1,
        max_length=255,
        description="A repeat with the same key stores nothing.",
    )


class ConsumeMessages(_Arguments):
    """Arguments of consume_messages."""

    topic: TopicName
    max_messages: int = Field(10, ge=0, le=MAX_MESSAGES, description="0 with `ack`: only acknowledge.")
    timeout_ms: int = Field(1000, ge=0, le=LONGEST_WAIT_MS, description="To wait for a first message.")
    group_id: GroupId | None = Field(None, description="Work in this group; browse if left out.")
    start: Start | None = Field(
        None,
        description='"earliest" if left out; {"offset": n} is of one partition, {"tail": n} the newest n.',
    )
    cursor: str | None = Field(None, description="`next_cursor` of the last answer, to browse on.")
    partition: int | None = Field(None, ge=0, description="Browse only this one.")
    key_contains: str | None = Field(None, description="Browse only keys with this text.")
    value_contains: str | None = Field(None, description="Browse only values with this text.")
    max_bytes: int = Field(1_048_576, ge=1, le=8_388_608, description="Of the answer; at least one message comes.")
    ack: str | None = Field(None, description="`ack` of an earlier answer whose messages are dealt with.")
    lease_ms: int = Field(60_000, ge=1_000, le=3_600_000, description="Time to acknowledge before they come again.")


class KafkaMCPServer(BaseMCPServer):
    """Messages in Apache Kafka: publish them, browse topics, work in consumer groups, follow topics live."""

    name = "Kafka MCP Server"
    capabilities = ("publish", "consume", "consumer groups", "topics", "subscriptions")
    settings_class = KafkaSettings

    kafka: KafkaService
    """There while the server is open."""

    def __init__(self, bootstrap_servers: str | None = None, *, settings: KafkaSettings | None = None) -> None:
        given = {"bootstrap_servers": bootstrap_servers} if bootstrap_servers else {}
        super().__init__(settings=settings or KafkaSettings.model_validate(given))

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Hold the connections. No broker need be up; one that comes later is found."""
        async with KafkaService.open(self.settings, self.outages) as self.kafka:
            yield

    def unconfigured(self) -> BackendNotConfigured | None:
        return self.settings.unconfigured()

    async def ping(self) -> None:
        """Return if a broker answers."""
        await self.kafka.ping()

    async def measures(self) -> Iterable[Measure]:
        about = "Messages that a consumer group which this process has served has not taken yet."
        lags = await self.kafka.lags_of_served()
        return [Measure("switchboard_kafka_group_lag", about, lag, {"group": group}) for group, lag in lags.items()]

    async def examine(self) -> Sequence[Finding]:
        return await examine(self.kafka)

    @tool(
        timeout=45,
        confined="service",
        needs_rule="topic",
        errors=[NotFound, Conflict],
        example={"topic": "customer-queries", "message": {"ticket": 42, "event": "opened"}, "key": "customer-7"},
    )
    async def publish_message(self, arguments: PublishMessage, principal: Principal) -> PublishedMessage:
        """Store a message in a topic and return its exact offset, once all in-sync replicas have it.

        After a time-out it may be stored nevertheless: give an `idempotency_key` and repeat the call to be safe.
        """
        return await self.kafka.publish(
            arguments.topic,
            arguments.message,
            encoding=arguments.encoding,
            key=arguments.key,
            key_encoding=arguments.key_encoding,
            headers=arguments.headers,
            partition=arguments.partition,
            timestamp_ms=arguments.timestamp,
            idempotency_key=arguments.idempotency_key,
            customer=principal.customer,
        )

    @tool(
        timeout=LONGEST_WAIT_MS / 1000 + _OVERHEAD,
        errors=[NotFound, AckExpired],
        example={"topic": "customer-queries", "max_messages": 5, "start": {"tail": 5}},
    )
    async def consume_messages(self, arguments: ConsumeMessages, context: CallContext) -> RawResult[ConsumedMessages]:
        """Read messages of a topic, by browsing or as work of a consumer group.

        Browsing changes nothing.

        With a `group_id` nobody else of the group gets the messages until `lease_ms` have passed. Deal with them, then
        call again with the answer's `ack`. `ack_expired` means that you were too late: call again without `ack`.
        """
        # The event loop writes many answers by turns: each counts until it is written.
        with self.kafka.room() as room:
            if arguments.group_id is not None:
                return await written(await self._work(arguments, arguments.group_id, context, room))
            return await written(await self._browse(arguments, context, room))

    async def _browse(self, arguments: ConsumeMessages, context: CallContext, room: Turn) -> ConsumedMessages:
        for field in ("ack", "lease_ms"):
            if field in arguments.model_fields_set:
                raise InvalidArguments.of(field, "is for work in a group; give group_id, too")
        if arguments.start is not None and arguments.cursor is not None:
            raise InvalidArguments.of("start", "leave it out when you give a cursor")
        if arguments.max_messages == 0:
            raise InvalidArguments.of("max_messages", "must be at least 1 to browse")
        principal = context.principal
        found = await self.kafka.browse(
            arguments.topic,
            room=room,
            start=arguments.start or "earliest",
            cursor=principal.read_cursor(arguments.cursor),
            partition=arguments.partition,
            max_messages=arguments.max_messages,
            timeout_ms=arguments.timeout_ms,
            max_bytes=arguments.max_bytes,
            key_contains=arguments.key_contains,
            value_contains=arguments.value_contains,
        )
        return found.model_copy(update={"next_cursor": principal.own_cursor(found.next_cursor)})

    async def _work(
        self, arguments: ConsumeMessages, group_id: str, context: CallContext, room: Turn
    ) -> ConsumedMessages:
        for field in ("start", "cursor", "partition", "key_contains", "value_contains"):
            if getattr(arguments, field) is not None:
                raise InvalidArguments.of(field, "is for browsing; a group reads on from its committed offsets")
        if arguments.max_messages == 0 and arguments.ack is None:
            raise InvalidArguments.of("max_messages", "0 only acknowledges; give the ack")
        return await self.kafka.consume(
            arguments.topic,
            group_id,
            room=room,
            max_messages=arguments.max_messages,
            timeout_ms=arguments.timeout_ms,
            max_bytes=arguments.max_bytes,
            lease_ms=arguments.lease_ms,
            ack=arguments.ack,
            caller=context.caller,
            owner=context.principal.owner,
        )

    @tool(read_only=True, errors=[NotFound], example={"topic": "customer-queries"})
    async def get_topic_metadata(self, topic: TopicName) -> TopicMetadata:
        """Return a topic's partitions with leaders, replicas and offsets, its message count and configuration."""
        return await self.kafka.topics.describe(topic)

    @tool(errors=[Conflict], example={"topic": "support-events", "num_partitions": 3, "if_not_exists": True})
    async def create_topic(
        self,
        topic: TopicName,
        num_partitions: Annotated[int | None, Field(ge=1, le=10_000, description=_BROKERS_DEFAULT)] = None,
        replication_factor: Annotated[int | None, Field(ge=1, le=32_767, description=_BROKERS_DEFAULT)] = None,
        config: Annotated[dict[str, str] | None, Field(description='Such as {"retention.ms": "86400000"}.')] = None,
        if_not_exists: Annotated[bool, Field(description="Return one of that name, no conflict.")] = False,
    ) -> CreatedTopic:
        """Create a topic."""
        return await self.kafka.topics.create(
            topic,
            num_partitions=num_partitions,
            replication_factor=replication_factor,
            config=config,
            if_not_exists=if_not_exists,
        )

    @tool(read_only=True, example={"pattern": "customer-*"})
    async def list_topics(
        self,
        pattern: Annotated[
            str | None,
            Field(max_length=249, description="With `*` and `?`, or a part of the name."),
        ] = None,
        include_internal: Annotated[bool, Field(description="Kafka's own, too.")] = False,
    ) -> TopicList:
        """List topics with their partition count and replication factor."""
        return await self.kafka.topics.find(pattern, include_internal=include_internal)

    @tool(read_only=True, errors=[NotFound], example={"group_id": "response-processors"})
    async def get_consumer_group_lag(self, group_id: GroupId) -> ConsumerGroupLag:
        """Return how many messages a group has yet to acknowledge, by partition; null where that is unknown."""
        return await self.kafka.groups.lag(group_id)

    @resource("kafka://topics")
    async def topics(self) -> TopicList:
        """The topics, without Kafka's own."""
        return await self.kafka.topics.find()

    @resource("kafka://topics/{topic}")
    async def topic(self, topic: TopicName) -> TopicMetadata:
        """One topic. Subscribe to it to hear of new messages; each notice carries a cursor to read them from."""
        return await self.kafka.topics.describe(topic)

    @watch("kafka://topics/{topic}")
    @asynccontextmanager
    async def topic_changes(self, topic: TopicName, principal: Principal) -> AsyncGenerator[AsyncIterator[Update]]:
        """Tell of new messages, at most one notice at a time; read from its cursor what came since the one before."""
        async with self.kafka.changes(topic) as notices:
            yield (_own_notice(notice, principal) async for notice in notices)

    @resource("kafka://consumer-groups")
    async def consumer_groups(self) -> ConsumerGroupList:
        """The consumer groups with state, members and lag."""
        return await self.kafka.groups.find()

    @resource("kafka://consumer-groups/{group_id}")
    async def consumer_group(self, group_id: GroupId) -> ConsumerGroup:
        """One consumer group: who reads which partitions, and how far it is behind."""
        return await self.kafka.groups.describe(group_id)

    @resource("kafka://brokers")
    async def brokers(self) -> BrokerList:
        """The brokers of the cluster and which of them is the controller."""
        return await self.kafka.brokers()

    @route(
        "/topics/{topic}/stream", methods=("GET",), acts_as="consume_messages", openapi=_STREAM_OPENAPI, endless=True
    )
    async def topic_stream(self, request: Request, context: CallContext, topic: str) -> Response:
        """Stream a topic's messages as server-sent events, for browsers and plain clients.

        Each event's `id` is a cursor: a client that sends it back as `Last-Event-ID` misses nothing that is
        still stored. What retention has removed is told by an event `skipped`.
        """
        start = request.query_params.get("start", "latest")
        if start not in ("earliest", "latest"):
            raise InvalidArguments.of("start", "expected `earliest` or `latest`")
        cursor = request.headers.get("last-event-id") or request.query_params.get("cursor") or None
        principal = context.principal
        events = await self.kafka.stream(topic, start=start, cursor=principal.read_cursor(cursor))
        return EventsResponse(_server_sent(events, principal))


class EventsResponse(StreamingResponse):
    """Passes events on, and ends what they come from however that ends."""

    def __init__(self, events: AsyncGenerator[bytes]) -> None:
        # Proxies must pass each event on at once.
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events):
            await super().__call__(scope, receive, send)


def _own_notice(notice: Update, principal: Principal) -> Update:
    cursor = notice.get("cursor")
    return {**notice, "cursor": principal.own_cursor(cursor)} if isinstance(cursor, str) else notice


async def _server_sent(events: AsyncGenerator[StreamEvent], principal: Principal) -> AsyncGenerator[bytes]:
    """Write events in the form that browsers' EventSource reads."""
    yield f"retry: {_RECONNECT_AFTER_MS}\n\n".encode()
    async with aclosing(events):
        try:
            async for event in events:
                written = _written(event, principal)
                del event  # its message may be large, and whoever takes this may be slow
                yield written
                del written
        except GatewayError as error:
            # The status is sent already: the client hears of it here and connects again from its last id.
            yield _event("failure", error.problem().model_dump_json(exclude_none=True), None)


def _written(event: StreamEvent, principal: Principal) -> bytes:
    cursor = principal.own_cursor(event.cursor)
    match event.kind:
        case "message":
            assert event.message is not None
            return _event(event.kind, event.message.model_dump_json(), cursor)
        case "skipped":
            return _event(event.kind, f'{{"skipped":{event.skipped}}}', cursor)
        case "idle":
            return b": idle\n\n"


def _event(kind: str, data: str, cursor: str | None) -> bytes:
    identity = f"id: {cursor}\n" if cursor else ""
    return f"event: {kind}\n{identity}data: {data.translate(_LINE_ENDS)}\n\n".encode()
