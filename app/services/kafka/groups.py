"""Work shared in a consumer group: at least once, by acknowledgement.

Reading leases messages; the caller's acknowledgement commits their offsets; without one they come again
when the lease ends. A read always begins at the committed offsets, so the only things that the gateway
remembers are the leases.
"""

import asyncio
import time
from collections.abc import Coroutine, Generator, Mapping, Set
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from aiokafka import errors

from app.budget import Turn
from app.errors import AckExpired, BackendUnavailable, TooManyRequests
from app.services.kafka.acks import Ack, AckSigner
from app.services.kafka.cluster import EARLIEST, LATEST, Cluster, Topic
from app.services.kafka.failures import raise_for, translated
from app.services.kafka.membership import Lease, Member, by_partition
from app.services.kafka.reading import GRACE, Limits, Page, Reader
from app.services.kafka.settings import KafkaSettings
from app.services.kafka.tails import NEVER, Tail, Tails

_MOST_MEMBERS = 500
_MOST_MEMBERS_OF_A_CALLER = 100
"""Groups that one caller may wait in, or have messages of, at a time."""
_MOST_GROUPS_MEASURED = 50
"""Groups whose lag is measured: callers make up their names, and each is a series of Prometheus for good."""
_LOOK_AT_COMMITS_EVERY = 0.25
"""Seconds. Nobody tells us when another gateway commits an acknowledgement for a member of ours."""
_CLOCKS_DIFFER_BY = 0.5
"""Seconds that we wait longer than a token says, since another gateway may still be committing it."""
_FENCED = (errors.IllegalGenerationError.errno, errors.UnknownMemberIdError.errno)


@dataclass(frozen=True)
class Work:
    """What a group's caller gets."""

    page: Page
    ack: str | None
    partitions: list[int]


class GroupWork:
    """The groups that this process takes part in, each with one member a topic."""

    def __init__(self, cluster: Cluster, reader: Reader, tails: Tails, settings: KafkaSettings) -> None:
        self._cluster = cluster
        self._reader = reader
        self._tails = tails
        self._settings = settings
        self._signer = AckSigner(settings.ack_keys)
        self._members: dict[tuple[str, str], Member] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self.served: dict[str, None] = {}
        """The groups that this process has taken part in, the first of them."""

    async def close(self) -> None:
        """Leave all groups."""
        await asyncio.gather(*(member.leave() for member in list(self._members.values())), *self._leaving)

    async def consume(
        self,
        topic: str,
        group_id: str,
        limits: Limits,
        *,
        deadline: float,
        lease_seconds: float,
        caller: str,
        room: Turn,
        owner: str = "",
    ) -> Work:
        """Lease messages of the group's partitions that are not out with another caller.

        Args:
            topic: its name.
            group_id: the group.
            limits: when the answer is full.
            deadline: by time.monotonic(), until when a first message is waited for.
            lease_seconds: how long the caller has to acknowledge.
            caller: who may have a share of the places, and no more.
            room: as for `Reader.read`.
            owner: whose the acknowledgement is.

        Raises:
            TooManyRequests: the caller, or all of them together, work for as many groups as they may.
            KafkaError: Kafka does not answer.
            GatewayError: Kafka refuses the group.
        """
        work = Work(Page({}), None, [])
        with self._using(topic, group_id, lease_seconds, caller) as member, suppress(TimeoutError):
            async with asyncio.timeout(max(deadline - time.monotonic(), 0) + GRACE), AsyncExitStack() as stack:
                tail: Tail | None = None
                while True:
                    seen = member.version
                    if member.failure is not None:
                        raise _failed(member) from member.failure
                    work = await self._lease(member, limits, deadline, lease_seconds, owner, room)
                    if work.page.records or time.monotonic() >= deadline:
                        break
                    if tail is None and work.partitions:
                        tail = await stack.enter_async_context(self._tails.follow(topic))
                    await self._until_there_may_be_more(member, seen, tail, work.page, deadline)
        return work

    async def acknowledge(self, topic: str, group_id: str, token: str, owner: str = "") -> None:
        """Commit what a token stands for, whichever gateway gave it out. A repeat changes nothing.

        Raises:
            AckExpired: some of its messages come again: the lease ended or the partition has moved.
            InvalidArguments: it is no token for this.
            KafkaError: Kafka does not answer.
        """
        ack = self._signer.read(token, group_id=group_id, topic=topic, owner=owner)
        member = self._members.get((group_id, topic))
        if member is not None and member.id == ack.member:
            async with member.reading:
                late = await self._commit(ack, member)
            member.notify()
        else:
            late = await self._commit(ack, None)
        if late:
            raise AckExpired(
                f"too late for partition {', '.join(map(str, sorted(late)))}: the lease ended or the group has "
                "rebalanced. The messages come again; consume without this ack and acknowledge with the new one"
            )

    async def _commit(self, ack: Ack, member: Member | None) -> set[int]:
        """Commit an acknowledgement and return the partitions for which it is too late.

        For a member of our own the leases decide, and they may outlive a rebalance. For a member elsewhere
        Kafka decides, by its generation.
        """
        while True:
            stored = by_partition(await self._cluster.committed(ack.group, {ack.topic: sorted(ack.offsets)}), ack.topic)
            # Offsets never move back: what is committed already is done.
            owed = {p: offset for p, offset in ack.offsets.items() if stored.get(p, -1) < offset}
            if member is not None:
                valid = {p: offset for p, offset in owed.items() if _is_lease(member.leases.get(p), ack.lease)}
                generation = member.generation
            else:
                valid = owed if time.time() < ack.expires else {}
                generation = ack.generation
            codes = await self._cluster.commit(ack.group, generation, ack.member, ack.topic, valid) if valid else {}
            if errors.RebalanceInProgressError.errno not in codes.values():
                break
            # The new generation is being agreed upon; then it is known who may commit. The caller has a time limit.
            await asyncio.sleep(_LOOK_AT_COMMITS_EVERY)
        for code in set(codes.values()) - set(_FENCED):
            raise_for(code)
        done = {partition for partition, code in codes.items() if not code}
        if member is not None:
            member.leases = {p: lease for p, lease in member.leases.items() if lease.id != ack.lease}
        return set(owed) - done

    @contextmanager
    def _using(self, topic: str, group_id: str, lease_seconds: float, caller: str) -> Generator[Member]:
        key = group_id, topic
        member = self._members.get(key)
        if member is None:
            self._make_room(caller)
            if len(self.served) < _MOST_GROUPS_MEASURED:
                self.served[group_id] = None
            member = self._members[key] = Member(self._cluster, self._settings, group_id, topic, self._forget)
        member.use(caller)
        try:
            yield member
        finally:
            member.done(lease_seconds + _CLOCKS_DIFFER_BY)

    def _make_room(self, caller: str) -> None:
        """See that there is a place for one more member, if need be that of one which is only kept warm."""
        held = sum(member.busy for member in self._members.values() if member.caller == caller)
        if held >= _MOST_MEMBERS_OF_A_CALLER:
            raise TooManyRequests(
                f"you work for {held} groups at once; acknowledge messages, or wait until their leases end",
                retry_after=10,
            )
        if len(self._members) < _MOST_MEMBERS:
            return
        unused = [member for member in self._members.values() if not member.busy]
        if not unused:
            raise TooManyRequests(f"this gateway works for {_MOST_MEMBERS} groups already", retry_after=10)
        coldest = min(unused, key=lambda member: member.warm_until)
        self._forget(coldest)
        leaving = asyncio.create_task(coldest.leave())
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    def _forget(self, member: Member) -> None:
        key = member.group_id, member.topic
        if self._members.get(key) is member:
            del self._members[key]

    async def _lease(
        self, member: Member, limits: Limits, deadline: float, lease_seconds: float, owner: str, room: Turn
    ) -> Work:
        """Take what is stored now in the partitions that nobody works on."""
        async with member.reading:
            epoch = member.epoch
            assigned = member.assigned
            if assigned is None:
                return Work(Page({}), None, [])
            topic = await self._cluster.topic(member.topic)
            stored = by_partition(
                await self._cluster.committed(member.group_id, {member.topic: list(topic.partitions)}), member.topic
            )
            member.drop_leases(stored)
            free = assigned - member.leases.keys()
            page = Page(await self._positions(member, free, stored), room=room)
            began = dict(page.positions)
            await self._reader.read_stored(member.topic, page, limits, deadline)
            # Markers and aborted messages are left behind, since nobody can acknowledge them.
            passed = {p: offset for p, offset in page.positions.items() if offset > began[p] and p not in page.spans}
            if passed:
                member_id, generation, _ = epoch
                await self._cluster.commit(member.group_id, generation, member_id, member.topic, passed)
            page.reached_end = (
                (page.reached_end or not assigned)
                and page.positions.keys() == assigned
                and await self._are_read(topic, topic.partitions.keys() - assigned, stored)
            )
            if member.epoch != epoch:
                # What was read may be another member's by now.
                room.release()
                return Work(Page({}), None, sorted(member.assigned or ()))
            if not page.records:
                return Work(page, None, sorted(assigned))
            lease_id = uuid4().hex
            until = time.monotonic() + lease_seconds + _CLOCKS_DIFFER_BY
            for partition, next_offset in page.spans.items():
                member.leases[partition] = Lease(lease_id, next_offset, until)
            ack = Ack(
                g=member.group_id,
                t=member.topic,
                m=member.id,
                n=member.generation,
                i=lease_id,
                x=time.time() + lease_seconds,
                p=owner,
                o=page.spans,
            )
            return Work(page, self._signer.write(ack), sorted(assigned))

    async def _are_read(self, topic: Topic, partitions: Set[int], stored: Mapping[int, int]) -> bool:
        """Tell whether the group's other members have acknowledged all messages of their partitions."""
        if not partitions:
            return True
        if self._settings.auto_offset_reset == "latest" and partitions - stored.keys():
            return False  # Where its reader begins, only the reader knows.
        bounds = await self._cluster.bounds(topic.name, sorted(partitions))
        ranges: dict[int, tuple[int, int]] = {}
        for partition, (first, end) in bounds.items():
            if first is None or end is None:
                return False  # Nobody leads it, so nobody knows.
            ranges[partition] = stored.get(partition, first), end
        return not await self._cluster.holds_messages(topic.name, ranges)

    async def _positions(self, member: Member, free: frozenset[int], stored: Mapping[int, int]) -> dict[int, int]:
        new = sorted(partition for partition in free if partition not in stored)
        positions = {partition: stored[partition] for partition in sorted(free) if partition in stored}
        if not new:
            return positions
        end = EARLIEST if self._settings.auto_offset_reset == "earliest" else LATEST
        found = await self._cluster.offsets(member.topic, dict.fromkeys(new, end))
        begin = {partition: offset for partition, offset in found.items() if offset is not None}
        if end == LATEST:
            # Or else every read would begin at a later end, and what came in between would be lost.
            await self._cluster.commit(member.group_id, member.generation, member.id, member.topic, begin)
        return positions | begin

    async def _until_there_may_be_more(
        self, member: Member, seen: int, tail: Tail | None, page: Page, deadline: float
    ) -> None:
        """Wait for a message in a free partition, a change of the member, the end of a lease, or the deadline."""
        until = deadline - time.monotonic()
        if member.leases:
            until = min(until, _LOOK_AT_COMMITS_EVERY)
        signals: list[Coroutine[Any, Any, None]] = [member.changed_since(seen)]
        if tail is not None:
            # Partitions that are not ours, or are out with somebody, are no reason to look again.
            positions = {partition: page.positions.get(partition, NEVER) for partition in tail.ends}
            signals.append(tail.moved_beyond(positions))
        waiting = [asyncio.ensure_future(signal) for signal in signals]
        try:
            await asyncio.wait(waiting, timeout=max(until, 0), return_when=asyncio.FIRST_COMPLETED)
            for signal in waiting:
                if signal.done():
                    signal.result()
        finally:
            for signal in waiting:
                signal.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


def _failed(member: Member) -> Exception:
    if isinstance(member.failure, errors.KafkaError):
        return translated(member.failure, topic=member.topic, group_id=member.group_id)
    return BackendUnavailable(f"work for group {member.group_id!r} was broken off; try again")


def _is_lease(lease: Lease | None, lease_id: str) -> bool:
    return lease is not None and lease.id == lease_id
