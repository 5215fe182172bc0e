"""Consumer groups as one sees them from outside: who is in them, and how far they are behind."""

import asyncio
from collections.abc import Sequence

from aiokafka import errors

from app.errors import NotFound
from app.services.kafka.cluster import LATEST, Allowance, Cluster
from app.services.kafka.driver import decode_assignment
from app.services.kafka.failures import answers
from app.services.kafka.schemas import (
    ConsumerGroup,
    ConsumerGroupLag,
    ConsumerGroupList,
    ConsumerGroupMember,
    ConsumerGroupSummary,
    PartitionLag,
)

_MOST_GROUPS_DESCRIBED = 200
_GROUPS_AT_A_TIME = 16


class ConsumerGroups:
    """The consumer groups of a cluster.

    Args:
        cluster: where they are.
        within: seconds that a question may take.
    """

    def __init__(self, cluster: Cluster, within: float) -> None:
        self._cluster = cluster
        self._within = within

    async def lag(self, group_id: str) -> ConsumerGroupLag:
        """Return how far a group is behind.

        Raises:
            NotFound: it is unknown.
        """
        group = await self.describe(group_id)
        return ConsumerGroupLag(
            group_id=group.group_id,
            state=group.state,
            total_lag=group.total_lag,
            estimated=group.estimated,
            partitions=group.partitions,
        )

    async def describe(self, group_id: str) -> ConsumerGroup:
        """Return a consumer group with its members and lag.

        Raises:
            NotFound: it is unknown.
        """
        async with answers(self._within, group_id=group_id):
            return await self._describe(group_id, Allowance())

    async def find(self) -> ConsumerGroupList:
        """Return the consumer groups with state, members and lag."""
        async with answers(3 * self._within):
            ids = await self._cluster.groups()
            summaries = await self._summaries_of(ids[:_MOST_GROUPS_DESCRIBED])
        return ConsumerGroupList(groups=summaries, total=len(ids))

    async def total_lags(self, groups: Sequence[str]) -> dict[str, int]:
        """Return how far some groups are behind, where it is known."""
        async with answers(self._within):
            summaries = await self._summaries_of(groups)
        return {each.group_id: each.total_lag for each in summaries if each.total_lag is not None}

    async def _summaries_of(self, groups: Sequence[str]) -> list[ConsumerGroupSummary]:
        allowance = Allowance()
        summaries: list[ConsumerGroupSummary] = []
        for start in range(0, len(groups), _GROUPS_AT_A_TIME):
            part = groups[start : start + _GROUPS_AT_A_TIME]
            found = await asyncio.gather(*(self._summary_of(group_id, allowance) for group_id in part))
            summaries += [summary for summary in found if summary is not None]
        return summaries

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
            topic: await self._cluster.count_known(
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

    async def _ends(self, topic: str) -> dict[int, int | None]:
        try:
            known = await self._cluster.topic(topic)
            return await self._cluster.offsets(topic, dict.fromkeys(known.partitions, LATEST))
        except errors.UnknownTopicOrPartitionError:
            return {}  # Its offsets outlive a deleted topic for a while.
