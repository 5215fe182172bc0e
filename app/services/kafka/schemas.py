"""What callers read of topics, groups and brokers, and the names that they give."""

import operator
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field

from app.results import Result
from app.services.kafka.messages import Message


def _topic_name(name: str) -> str:
    if name in (".", ".."):
        raise ValueError("`.` and `..` are no topic names")
    return name


TopicName = Annotated[
    str,
    Field(pattern=r"^[a-zA-Z0-9._-]{1,249}$"),
    AfterValidator(_topic_name),
]
GroupId = Annotated[str, Field(min_length=1, max_length=249)]


Estimated = Annotated[
    bool,
    Field(
        exclude_if=operator.not_,
        description="There is too much to be counted: it is at most so many, since not every offset is a message.",
    ),
]
"""Stands beside numbers of messages, and is left out where they are exact."""


class TopicSummary(BaseModel):
    """A topic in a list."""

    name: str
    partitions: int
    replication_factor: int
    internal: bool


class TopicList(Result):
    """Topics in order of their names."""

    topics: list[TopicSummary]
    total: int = Field(description="More than are listed if `truncated`.")
    truncated: bool


class PartitionMetadata(BaseModel):
    """One partition."""

    partition: int
    leader: int | None = Field(description="Null while no broker serves it.")
    replicas: list[int]
    in_sync_replicas: list[int]
    first_offset: int | None = Field(description="Of the oldest message.")
    end_offset: int | None = Field(description="After the last message that may be read.")
    message_count: int | None = Field(description="Messages that may be read.")
    estimated: Estimated = False


class TopicMetadata(Result):
    """A topic in detail."""

    topic: str
    internal: bool
    partition_count: int
    replication_factor: int
    message_count: int | None = Field(description="Null if a partition has no leader.")
    estimated: Estimated = False
    partitions: list[PartitionMetadata]
    config: dict[str, str | None] = Field(description="What is set on it; sensitive values are null.")


class CreatedTopic(Result):
    """A topic as it was created, or as it is if it existed."""

    topic: str
    created: bool
    partition_count: int
    replication_factor: int
    config: dict[str, str | None]


class PartitionLag(BaseModel):
    """How far a group is behind in one partition."""

    topic: str
    partition: int
    committed_offset: int | None
    end_offset: int | None
    lag: int | None = Field(description="Null where it can't be known.")
    estimated: Estimated = False
    client_id: str | None = Field(None, description="Its reader now.")
    host: str | None = None


class ConsumerGroupLag(Result):
    """How far a group is behind."""

    group_id: str
    state: str
    total_lag: int | None = Field(description="Where it is known.")
    estimated: Estimated = False
    partitions: list[PartitionLag]


class ConsumerGroupMember(BaseModel):
    """One consumer of a group."""

    member_id: str
    client_id: str
    host: str
    partitions: dict[str, list[int]] = Field(description="What it reads, by topic.")


class ConsumerGroup(Result):
    """A consumer group in detail."""

    group_id: str
    state: str
    protocol: str
    members: list[ConsumerGroupMember]
    total_lag: int | None
    estimated: Estimated = False
    partitions: list[PartitionLag]


class ConsumerGroupSummary(BaseModel):
    """A consumer group in a list."""

    group_id: str
    state: str
    members: int
    total_lag: int | None
    estimated: Estimated = False


class ConsumerGroupList(Result):
    """The cluster's consumer groups."""

    groups: list[ConsumerGroupSummary]
    total: int = Field(description="How many there are; the first 200 by name are described.")


class BrokerInfo(BaseModel):
    """One broker."""

    id: int
    host: str
    port: int
    rack: str | None
    is_controller: bool


class BrokerList(Result):
    """The cluster's brokers."""

    cluster_id: str | None
    controller_id: int | None
    brokers: list[BrokerInfo]


class StreamEvent(BaseModel):
    """What a stream of a topic yields."""

    kind: Literal["message", "skipped", "idle"]
    """`idle` says that nothing came for a while, so that the connection can be kept open."""
    cursor: str
    """Where to begin again after this event."""
    message: Message | None = None
    skipped: int = 0
