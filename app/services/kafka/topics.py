"""Topics: which there are, what is in them, new ones."""

import asyncio
import fnmatch
import re
from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka import errors

from app.errors import Conflict, Forbidden, InvalidArguments
from app.services.kafka.cluster import Allowance, Cluster, Topic
from app.services.kafka.failures import answers
from app.services.kafka.schemas import CreatedTopic, PartitionMetadata, TopicList, TopicMetadata, TopicSummary

_MOST_TOPICS_LISTED = 1000


class Topics:
    """The topics of a cluster.

    Args:
        cluster: where they are.
        within: seconds that a question may take.
    """

    def __init__(self, cluster: Cluster, within: float) -> None:
        self._cluster = cluster
        self._within = within

    async def find(self, pattern: str | None = None, *, include_internal: bool = False) -> TopicList:
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

    async def describe(self, name: str) -> TopicMetadata:
        """Return all that is known of a topic.

        Raises:
            NotFound: it is unknown.
        """
        async with answers(self._within, topic=name):
            topic = await self._cluster.topic(name, fresh=True)
            bounds, config = await asyncio.gather(
                self._cluster.bounds(name, list(topic.partitions)), self._cluster.own_config(name)
            )
            counts = await self._cluster.count_known(name, bounds, Allowance())
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

    async def create(
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

    async def made_if_missing(self, name: str) -> Topic:
        """Return a topic that there is then, with the broker's defaults if it is new; failures are Kafka's own."""
        return await self._create(name, -1, -1, {}, if_not_exists=True)

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
