"""Group work: at least once, by acknowledgement, shared between gateways."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest
from aiokafka import errors

from app.errors import AckExpired, BackendUnavailable, InvalidArguments, NotFound, TooManyRequests
from app.local.kafka import LocalKafka
from app.services.kafka import KafkaService, groups, membership
from app.services.kafka.driver import JoinGroupRequest, SyncGroupRequest, encode_subscription
from app.services.kafka.settings import KafkaSettings
from tests.fixtures.kafka import settings_for_kafka
from tests.services.kafka.conftest import Requests, values, work

WITHIN = 30.0
"""Seconds in which everything that a test waits for happens, or the test fails."""


@pytest.fixture
def shared_settings(kafka_broker: LocalKafka) -> KafkaSettings:
    """Settings of gateways that accept each other's acknowledgements."""
    return settings_for_kafka(kafka_broker, ack_signing_key="the same everywhere")


@pytest.fixture
async def gateways(shared_settings: KafkaSettings) -> AsyncGenerator[tuple[KafkaService, KafkaService]]:
    """Two gateways over one cluster."""
    async with KafkaService.open(shared_settings) as one, KafkaService.open(shared_settings) as two:
        yield one, two


async def formed(kafka: KafkaService, topic: str, group_id: str) -> None:
    """Wait until the group has its member."""
    async with asyncio.timeout(WITHIN):
        while not (await work(kafka, topic, group_id, timeout_ms=200)).partitions:
            pass


async def committed(kafka: KafkaService, group_id: str) -> dict[int, int | None]:
    return {lag.partition: lag.committed_offset for lag in (await kafka.groups.lag(group_id)).partitions}


async def test_a_new_group_begins_at_the_earliest_message(kafka: KafkaService, numbered: str, group_id: str) -> None:
    page = await work(kafka, numbered, group_id, max_messages=3)
    assert values(page) == [0, 1, 2]
    assert page.partitions == [0]
    assert page.ack is not None
    assert page.next_cursor is None


async def test_a_new_group_begins_at_the_latest_message_if_a_setting_says_so(
    kafka_broker: LocalKafka, kafka: KafkaService, numbered: str, group_id: str
) -> None:
    async with KafkaService.open(settings_for_kafka(kafka_broker, auto_offset_reset="latest")) as late:
        while not (await work(late, numbered, group_id, timeout_ms=500)).partitions:
            pass
        await kafka.publish(numbered, "after the group was made")
        assert values(await work(late, numbered, group_id)) == ["after the group was made"]


async def test_who_acknowledges_sees_nothing_twice(kafka: KafkaService, wide_topic: str, group_id: str) -> None:
    for number in range(60):
        await kafka.publish(wide_topic, number)
    seen: list[object] = []
    ack = None
    async with asyncio.timeout(WITHIN):
        while len(seen) < 60:
            page = await work(kafka, wide_topic, group_id, max_messages=7, ack=ack)
            seen += values(page)
            ack = page.ack
        await work(kafka, wide_topic, group_id, max_messages=0, ack=ack)
    assert sorted(seen) == list(range(60))  # type: ignore[type-var]
    assert (await kafka.groups.lag(group_id)).total_lag == 0


async def test_a_lease_keeps_messages_from_others_until_it_ends(
    kafka: KafkaService, numbered: str, group_id: str
) -> None:
    first = await work(kafka, numbered, group_id, max_messages=5, lease_ms=4_000)
    assert values(first) == list(range(5))
    meanwhile = await work(kafka, numbered, group_id, timeout_ms=300)
    assert (meanwhile.messages, meanwhile.ack, meanwhile.reached_end) == ([], None, False)
    again = await work(kafka, numbered, group_id, max_messages=5)
    assert values(again) == list(range(5))


async def test_a_caller_who_dies_loses_nothing(kafka: KafkaService, numbered: str, group_id: str) -> None:
    await work(kafka, numbered, group_id, max_messages=8, lease_ms=1_000)
    # It is never heard of again. Another one takes over once the lease has ended.
    seen: list[object] = []
    ack = None
    async with asyncio.timeout(WITHIN):
        while len(seen) < 20:
            page = await work(kafka, numbered, group_id, ack=ack)
            seen += values(page)
            ack = page.ack
    assert seen == list(range(20))


async def test_an_acknowledgement_that_comes_too_late_is_told(
    kafka: KafkaService, numbered: str, group_id: str
) -> None:
    late = await work(kafka, numbered, group_id, max_messages=5, lease_ms=1_000)
    again = await work(kafka, numbered, group_id, max_messages=10)
    assert values(again) == list(range(10))
    with pytest.raises(AckExpired):
        await work(kafka, numbered, group_id, ack=late.ack)
    assert await committed(kafka, group_id) == {0: None}
    await work(kafka, numbered, group_id, ack=again.ack, max_messages=0)
    assert await committed(kafka, group_id) == {0: 10}


async def test_an_offset_never_moves_back(kafka: KafkaService, numbered: str, group_id: str) -> None:
    first = await work(kafka, numbered, group_id, max_messages=5)
    second = await work(kafka, numbered, group_id, max_messages=5, ack=first.ack)
    await work(kafka, numbered, group_id, max_messages=0, ack=second.ack)
    assert await committed(kafka, group_id) == {0: 10}
    # A repeat, as after a lost answer, is no failure and changes nothing.
    for ack in (first.ack, second.ack):
        await work(kafka, numbered, group_id, max_messages=0, ack=ack)
    assert await committed(kafka, group_id) == {0: 10}


async def test_only_acknowledging_reads_nothing(kafka: KafkaService, numbered: str, group_id: str) -> None:
    page = await work(kafka, numbered, group_id, max_messages=5)
    done = await work(kafka, numbered, group_id, max_messages=0, ack=page.ack)
    assert (done.messages, done.ack) == ([], None)
    assert await committed(kafka, group_id) == {0: 5}


async def test_a_member_leaves_after_the_silence_of_a_lease(kafka: KafkaService, numbered: str, group_id: str) -> None:
    await work(kafka, numbered, group_id, lease_ms=1_000)
    assert len((await kafka.groups.describe(group_id)).members) == 1
    async with asyncio.timeout(WITHIN):
        while (await kafka.groups.describe(group_id)).members:
            await work(kafka, numbered, f"{group_id}-pause", timeout_ms=100)


async def test_who_waits_waits_as_long_as_was_asked_for(kafka: KafkaService, topic: str, group_id: str) -> None:
    await formed(kafka, topic, group_id)
    long = asyncio.create_task(work(kafka, topic, group_id, timeout_ms=50_000))
    short = await work(kafka, topic, group_id, timeout_ms=300)
    assert (short.messages, short.partitions, short.reached_end) == ([], [0], True)
    assert not long.done()
    await kafka.publish(topic, "at last")
    async with asyncio.timeout(WITHIN):
        assert values(await long) == ["at last"]


async def test_a_warm_member_reads_without_a_wait(
    kafka: KafkaService, numbered: str, group_id: str, requests: Requests
) -> None:
    ack = (await work(kafka, numbered, group_id, max_messages=1)).ack
    for number in range(1, 4):
        requests.clear()
        page = await work(kafka, numbered, group_id, max_messages=1, ack=ack, timeout_ms=50_000)
        assert values(page) == [number]
        ack = page.ack
        assert len(requests.of("FetchRequest")) == 1
        assert requests.waiting() == []
        assert requests.of("JoinGroupRequest") == []


async def test_who_waits_gets_a_message_when_it_comes(kafka: KafkaService, topic: str, group_id: str) -> None:
    await formed(kafka, topic, group_id)
    waiting = asyncio.create_task(work(kafka, topic, group_id, timeout_ms=20_000))
    await asyncio.wait([waiting], timeout=0.3)
    await kafka.publish(topic, "work")
    async with asyncio.timeout(15):
        assert values(await waiting) == ["work"]


async def test_who_waits_gets_the_next_messages_when_others_acknowledge(
    kafka: KafkaService, numbered: str, group_id: str
) -> None:
    first = await work(kafka, numbered, group_id, max_messages=5)
    waiting = asyncio.create_task(work(kafka, numbered, group_id, max_messages=5, timeout_ms=20_000))
    await asyncio.wait([waiting], timeout=0.3)
    assert not waiting.done()
    await work(kafka, numbered, group_id, max_messages=0, ack=first.ack)
    async with asyncio.timeout(15):
        assert values(await waiting) == [5, 6, 7, 8, 9]


async def test_two_gateways_share_a_group(
    gateways: tuple[KafkaService, KafkaService], wide_topic: str, group_id: str
) -> None:
    one, two = gateways
    for number in range(300):
        await one.publish(wide_topic, number)
    acknowledged: list[object] = []
    shares: dict[int, set[int]] = {}

    async def worker(number: int, kafka: KafkaService) -> None:
        ack: str | None = None
        holding: list[object] = []
        while len(set(acknowledged)) < 300:
            try:
                page = await work(kafka, wide_topic, group_id, max_messages=20, timeout_ms=500, ack=ack)
            except AckExpired:
                ack, holding = None, []
                continue
            acknowledged.extend(holding)
            holding, ack = values(page), page.ack
            shares.setdefault(number, set()).update(page.partitions or ())

    async with asyncio.timeout(60), asyncio.TaskGroup() as workers:
        workers.create_task(worker(1, one))
        workers.create_task(worker(2, two))
    assert sorted(set(acknowledged)) == list(range(300))  # type: ignore[type-var]
    assert len(acknowledged) == 300
    assert shares[1] | shares[2] == {0, 1, 2}


async def test_another_gateway_acknowledges_and_the_first_reads_on(
    gateways: tuple[KafkaService, KafkaService], topic: str, group_id: str
) -> None:
    one, two = gateways
    for number in range(4):
        await one.publish(topic, number)
    page = await work(one, topic, group_id, max_messages=2)
    await work(two, topic, group_id, max_messages=0, ack=page.ack)
    assert await committed(one, group_id) == {0: 2}
    assert values(await work(one, topic, group_id)) == [2, 3]


async def test_another_gateway_refuses_what_has_expired(
    gateways: tuple[KafkaService, KafkaService], topic: str, group_id: str
) -> None:
    one, two = gateways
    await one.publish(topic, "x")
    page = await work(one, topic, group_id, lease_ms=1_000)
    again = await work(one, topic, group_id)
    with pytest.raises(AckExpired):
        await work(two, topic, group_id, max_messages=0, ack=page.ack)
    await work(two, topic, group_id, max_messages=0, ack=again.ack)
    assert await committed(one, group_id) == {0: 1}


async def test_kafka_fences_the_acknowledgement_of_a_member_that_left(
    shared_settings: KafkaSettings, kafka: KafkaService, topic: str, group_id: str
) -> None:
    await kafka.publish(topic, "x")
    async with KafkaService.open(shared_settings) as gone:
        page = await work(gone, topic, group_id)
    async with KafkaService.open(shared_settings) as successor:
        assert values(await work(successor, topic, group_id)) == ["x"]
        with pytest.raises(AckExpired):
            await work(successor, topic, group_id, max_messages=0, ack=page.ack)


async def test_a_rebalance_costs_no_error_and_keeps_the_leases_that_stay(
    gateways: tuple[KafkaService, KafkaService], wide_topic: str, group_id: str
) -> None:
    one, two = gateways
    for partition in range(3):
        await one.publish(wide_topic, partition, partition=partition)
    page = await work(one, wide_topic, group_id)
    assert sorted(values(page)) == [0, 1, 2]
    async with asyncio.timeout(WITHIN):
        while not (theirs := (await work(two, wide_topic, group_id, timeout_ms=500)).partitions):
            pass
        while (ours := (await work(one, wide_topic, group_id, timeout_ms=200)).partitions) in ([0, 1, 2], []):
            pass
    assert sorted([*theirs, *(ours or ())]) == [0, 1, 2]
    with pytest.raises(AckExpired) as late:
        await work(one, wide_topic, group_id, max_messages=0, ack=page.ack)
    assert all(str(partition) in late.value.detail for partition in theirs)
    offsets = await committed(one, group_id)
    assert {partition for partition, offset in offsets.items() if offset == 1} == set(ours or ())


async def test_a_gateway_that_stops_hands_its_partitions_over(
    gateways: tuple[KafkaService, KafkaService], shared_settings: KafkaSettings, topic: str, group_id: str
) -> None:
    one, two = gateways
    await one.publish(topic, "unfinished")
    async with KafkaService.open(shared_settings) as stopping:
        assert values(await work(stopping, topic, group_id)) == ["unfinished"]
    assert values(await work(two, topic, group_id)) == ["unfinished"]


@pytest.mark.parametrize("ack", ["nonsense", "", "e30", "A" * 400, "é"])
async def test_a_token_that_is_not_ours_is_refused(kafka: KafkaService, topic: str, group_id: str, ack: str) -> None:
    with pytest.raises(InvalidArguments) as refused:
        await work(kafka, topic, group_id, ack=ack)
    assert refused.value.errors[0].field == "ack"


async def test_a_token_can_not_be_altered_or_used_elsewhere(
    kafka: KafkaService, numbered: str, wide_topic: str, group_id: str
) -> None:
    page = await work(kafka, numbered, group_id, max_messages=5)
    assert page.ack is not None
    middle = len(page.ack) // 2
    forged = page.ack[:middle] + ("A" if page.ack[middle] != "A" else "B") + page.ack[middle + 1 :]
    for topic, group, ack in (
        (numbered, group_id, forged),
        (numbered, f"{group_id}-other", page.ack),
        (wide_topic, group_id, page.ack),
    ):
        with pytest.raises(InvalidArguments) as refused:
            await work(kafka, topic, group, max_messages=0, ack=ack)
        assert refused.value.errors[0].field == "ack"
    assert await committed(kafka, group_id) == {0: None}


async def test_gateways_with_keys_of_their_own_refuse_each_others_tokens(
    kafka: KafkaService, gateways: tuple[KafkaService, KafkaService], topic: str, group_id: str
) -> None:
    await kafka.publish(topic, "x")
    page = await work(kafka, topic, group_id)
    with pytest.raises(InvalidArguments, match="SWITCHBOARD_SECRET"):
        await work(gateways[0], topic, group_id, max_messages=0, ack=page.ack)


async def test_an_unknown_topic_makes_no_group(kafka: KafkaService, topic_name: str, group_id: str) -> None:
    with pytest.raises(NotFound):
        await work(kafka, topic_name, group_id)
    with pytest.raises(NotFound):
        await kafka.groups.lag(group_id)


async def test_lag_is_told_by_partition_and_is_null_where_it_is_unknown(
    kafka: KafkaService, wide_topic: str, group_id: str
) -> None:
    for number in range(9):
        await kafka.publish(wide_topic, number, partition=number % 2)
    page = await work(kafka, wide_topic, group_id, max_messages=1)
    await work(kafka, wide_topic, group_id, max_messages=0, ack=page.ack)
    first = page.messages[0].partition
    lag = {partition.partition: partition.lag for partition in (await kafka.groups.lag(group_id)).partitions}
    assert lag[first] == (4 if first == 0 else 3)
    assert [known for partition, known in lag.items() if partition != first] == [None, None]
    [summary] = [group for group in (await kafka.groups.find()).groups if group.group_id == group_id]
    assert (summary.state, summary.members, summary.total_lag) == ("Stable", 1, lag[first])
    group = await kafka.groups.describe(group_id)
    assert group.members[0].partitions == {wide_topic: [0, 1, 2]}


async def test_the_end_is_reached_when_the_other_gateways_have_read_theirs(
    gateways: tuple[KafkaService, KafkaService], wide_topic: str, group_id: str
) -> None:
    one, two = gateways
    await formed(one, wide_topic, group_id)
    async with asyncio.timeout(WITHIN):
        while not (theirs := (await work(two, wide_topic, group_id, timeout_ms=200)).partitions):
            pass
        while len((ours := (await work(one, wide_topic, group_id, timeout_ms=200)).partitions) or ()) + len(theirs) > 3:
            pass
    assert ours
    # All is empty, and both say so.
    for gateway in (one, two):
        assert (await work(gateway, wide_topic, group_id, timeout_ms=0)).reached_end is True
    await one.publish(wide_topic, "unread", partition=ours[0])
    nothing = await work(two, wide_topic, group_id, timeout_ms=0)
    assert (nothing.messages, nothing.reached_end) == ([], False)
    page = await work(one, wide_topic, group_id)
    assert values(page) == ["unread"]
    # It is out with a caller, who may never acknowledge it.
    assert (await work(two, wide_topic, group_id, timeout_ms=0)).reached_end is False
    await work(two, wide_topic, group_id, max_messages=0, ack=page.ack)
    assert (await work(two, wide_topic, group_id, timeout_ms=0)).reached_end is True


async def test_a_gateway_without_a_partition_knows_of_no_end_before_the_other_has_reached_it(
    gateways: tuple[KafkaService, KafkaService], topic: str, group_id: str
) -> None:
    owner, idle = gateways
    async with asyncio.timeout(WITHIN):
        # Both are members, and nothing more is to be rebalanced, before there is anything to read.
        while True:
            parts = [(await work(gateway, topic, group_id, timeout_ms=200)).partitions for gateway in (owner, idle)]
            group = await owner.groups.describe(group_id)
            if sorted(parts, key=bool) == [[], [0]] and (group.state, len(group.members)) == ("Stable", 2):
                break
    if parts[0] == []:
        owner, idle = idle, owner
    await owner.publish(topic, "unread")
    nothing = await work(idle, topic, group_id, timeout_ms=0)
    assert (nothing.messages, nothing.partitions, nothing.reached_end) == ([], [], False)
    page = await work(owner, topic, group_id)
    assert values(page) == ["unread"]
    assert (await work(idle, topic, group_id, timeout_ms=0)).reached_end is False, "it may come again"
    await work(owner, topic, group_id, max_messages=0, ack=page.ack)
    assert (await work(idle, topic, group_id, timeout_ms=0)).reached_end is True


async def members(kafka: KafkaService, group_id: str) -> int:
    return len((await kafka.groups.describe(group_id)).members)


async def test_a_place_is_kept_for_messages_and_not_for_a_wish(
    gateways: tuple[KafkaService, KafkaService],
    monkeypatch: pytest.MonkeyPatch,
    topic: str,
    numbered_elsewhere: str,
    group_id: str,
) -> None:
    """An hour's lease keeps a member for an hour only if messages are out, and until they are acknowledged."""
    monkeypatch.setattr(membership, "_LONGEST_IDLE", 0.5)
    monkeypatch.setattr(membership, "_LOOK_AT_COMMITS_EVERY", 0.2)
    one, two = gateways
    hour = 3_600_000
    page = await work(one, numbered_elsewhere, f"{group_id}-busy", lease_ms=hour)
    while not (await work(one, topic, group_id, lease_ms=hour, timeout_ms=200)).partitions:
        pass
    async with asyncio.timeout(WITHIN):
        while await members(one, group_id):
            pass
    assert await members(one, f"{group_id}-busy") == 1
    # Another gateway is handed the acknowledgement; the one that has the place finds out.
    await work(two, numbered_elsewhere, f"{group_id}-busy", max_messages=0, ack=page.ack)
    async with asyncio.timeout(WITHIN):
        while await members(one, f"{group_id}-busy"):
            pass


@pytest.fixture
async def numbered_elsewhere(kafka: KafkaService, topic_name: str) -> str:
    """Another topic, with one partition and one message."""
    name = f"{topic_name}.elsewhere"
    await kafka.topics.create(name, num_partitions=1)
    await kafka.publish(name, 0)
    return name


async def test_places_that_are_only_kept_warm_lock_nobody_out(
    kafka: KafkaService, monkeypatch: pytest.MonkeyPatch, topic: str, numbered_elsewhere: str, group_id: str
) -> None:
    monkeypatch.setattr(groups, "_MOST_MEMBERS", 3)
    for number in range(5):
        await work(kafka, topic, f"{group_id}-{number}", lease_ms=3_600_000, timeout_ms=0, caller="greedy")
    page = await work(kafka, numbered_elsewhere, group_id, caller="other")
    assert values(page) == [0]
    # What is in use, or has messages out, is not taken away.
    for number in range(2):
        await work(kafka, numbered_elsewhere, f"{group_id}-busy-{number}", caller="other")
    with pytest.raises(TooManyRequests):
        await work(kafka, topic, f"{group_id}-one-more", timeout_ms=0)
    await work(kafka, numbered_elsewhere, group_id, max_messages=0, ack=page.ack)
    await work(kafka, topic, f"{group_id}-one-more", timeout_ms=0)


async def test_a_caller_has_a_share_of_the_places(
    kafka: KafkaService, monkeypatch: pytest.MonkeyPatch, numbered_elsewhere: str, group_id: str
) -> None:
    monkeypatch.setattr(groups, "_MOST_MEMBERS_OF_A_CALLER", 2)
    pages = [await work(kafka, numbered_elsewhere, f"{group_id}-{n}", caller="greedy") for n in range(2)]
    with pytest.raises(TooManyRequests, match="acknowledge"):
        await work(kafka, numbered_elsewhere, f"{group_id}-2", caller="greedy")
    # The groups that it has it may go on with, and others have their own share.
    await work(kafka, numbered_elsewhere, f"{group_id}-0", caller="greedy", timeout_ms=0)
    assert values(await work(kafka, numbered_elsewhere, f"{group_id}-2", caller="other")) == [0]
    await work(kafka, numbered_elsewhere, f"{group_id}-1", max_messages=0, ack=pages[1].ack, caller="greedy")
    assert values(await work(kafka, numbered_elsewhere, f"{group_id}-3", caller="greedy")) == [0]


async def test_a_member_that_breaks_down_is_told_and_replaced(
    kafka: KafkaService, monkeypatch: pytest.MonkeyPatch, numbered: str, group_id: str
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(membership, "decode_assignment", lambda _: 1 / 0)
        with pytest.raises(BackendUnavailable, match="broken off"):
            await work(kafka, numbered, group_id, timeout_ms=50_000)
    assert values(await work(kafka, numbered, group_id, max_messages=1, timeout_ms=50_000)) == [0]


async def join_otherwise(
    kafka: KafkaService, group_id: str, protocol_type: str, protocol: str, metadata: bytes, assignment: bytes
) -> None:
    """Join a group as a client does that writes what it likes, and divide in its own way if it leads."""
    member = ""
    async with asyncio.timeout(WITHIN):
        while True:
            request: Any = JoinGroupRequest(
                group_id, 6_000, 6_000, member, cast("Any", None), protocol_type, [(protocol, metadata)]
            )
            joined = await kafka._cluster.to_coordinator(group_id, request, lane="another client")
            if joined.error_code != errors.MemberIdRequired.errno:
                break
            member = joined.member_id
        shares = [(other[0], assignment) for other in joined.members]
        synced: Any = SyncGroupRequest(
            group_id, joined.generation_id, joined.member_id, cast("Any", None), cast("Any", shares)
        )
        await kafka._cluster.to_coordinator(group_id, synced, lane="another client")


@pytest.mark.parametrize(
    ("protocol_type", "assignment"),
    [
        ("connect", b"\0\1\xff\xff"),
        ("consumer", b"\0"),
        ("consumer", b"\0\1\0\0\0\1\0\2\xff\xff\0\0\0\0"),
    ],
)
async def test_a_group_that_writes_what_only_it_can_read_is_described(
    kafka: KafkaService, topic: str, group_id: str, protocol_type: str, assignment: bytes
) -> None:
    await join_otherwise(kafka, group_id, protocol_type, "its-own", encode_subscription(topic), assignment)
    group = await kafka.groups.describe(group_id)
    assert ([member.partitions for member in group.members], group.protocol) == ([{}], "its-own")
    assert (await kafka.groups.lag(group_id)).partitions == []
    assert (await kafka.groups.find()).total >= (protocol_type == "consumer")


async def test_a_member_that_says_nothing_readable_gets_nothing_and_disturbs_nobody(
    kafka: KafkaService, numbered: str, group_id: str
) -> None:
    assert values(await work(kafka, numbered, group_id, max_messages=1, lease_ms=1_000)) == [0]
    joining = asyncio.create_task(join_otherwise(kafka, group_id, "consumer", "range", b"\xff", b""))
    member = kafka._work._members[group_id, numbered]
    first = member.generation
    async with asyncio.timeout(WITHIN):
        await joining
        while member.generation == first or member.assigned is None:
            await member.changed_since(member.version)
    assert member.failure is None
    page = await work(kafka, numbered, group_id, max_messages=1)
    assert (values(page), page.partitions) == ([0], [0])
