"""Calls of one fixed read that wait for a connection at the same moment share one statement, and nothing else."""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import pytest
from sqlalchemy import BigInteger, Text, bindparam, case, func, literal_column, select

from app.errors import Forbidden, InvalidArguments, NotFound, TooManyRequests
from app.local.postgres import LocalPostgres
from app.results import RawResult
from app.services.postgres.connections.fixed_reads import FixedReads
from app.services.postgres.connections.pools import Database, Statement, open_database
from app.services.postgres.connections.sharing import MOST_TOGETHER
from app.services.postgres.desk.pages import (
    _ROWS,
    ARTICLES,
    CUSTOMERS,
    INTERACTIONS,
    TICKETS,
    Listing,
    SupportRecords,
)
from app.services.postgres.desk.support import _WITHOUT_NOTES, CUSTOMER_CONTEXT, SupportDesk
from app.stages import Stage, Stages
from tests.fixtures.pgbouncer import run_pgbouncer
from tests.fixtures.postgres import TestDatabase, settings_for

BOUND = 20.0
GATE = 4711
"""A lock of PostgreSQL that statements wait for while a test holds it."""

_KEY = bindparam("key", type_=Text())


def _shown(*parts: Any) -> Any:
    """Select the key, when its statement began, and what is another each time that it is evaluated."""
    told = func.json_build_object("at", func.statement_timestamp(), "once", func.gen_random_uuid(), "key", _KEY, *parts)
    return select(told).where(_KEY != "absent")


SHOW = Statement(_shown("other", bindparam("other", type_=BigInteger())), shared_by="key")
GATED = Statement(
    _shown("gate", literal_column(f"pg_advisory_xact_lock_shared({GATE})::text")),
    shared_by="key",
)
BROKEN = Statement(
    _shown("ratio", literal_column("1") / case((_KEY == "bad", literal_column("0")), else_=literal_column("1"))),
    shared_by="key",
)
WRITES = Statement(_shown("next", func.nextval("tickets_id_seq")), shared_by="key")
HOLDS = Statement(select(literal_column(f"pg_advisory_xact_lock_shared({GATE})::text")))
"""What keeps a connection busy while a test holds the gate. It can be shared with nobody."""


@pytest.fixture
async def single(desk: TestDatabase) -> AsyncGenerator[Database]:
    """Pools of one connection, so that whoever comes second waits."""
    async with open_database(settings_for(desk.url, read_pool_size=1, pool_wait=60.0, statement_timeout=60.0)) as pools:
        yield pools


@asynccontextmanager
async def gate_closed(database: TestDatabase) -> AsyncGenerator[Callable[[int], Awaitable[None]]]:
    """Hold the gate; give what waits until some statements stand before it."""
    async with database.connect() as keeper, asyncio.timeout(BOUND):
        await keeper.execute(f"SELECT pg_advisory_lock({GATE})")

        async def stand(count: int) -> None:
            query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = $1 AND NOT granted"
            while await keeper.fetchval(query, GATE) != count:
                pass

        try:
            yield stand
        finally:
            await keeper.execute(f"SELECT pg_advisory_unlock({GATE})")


async def until(holds: Callable[[], bool]) -> None:
    """Let the others of the loop run until something holds."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(BOUND):
        while not holds():
            turn = loop.create_future()
            loop.call_soon(turn.set_result, None)
            await turn


async def queued(reads: FixedReads, count: int) -> None:
    """Return once some callers stand in line."""
    await until(lambda: reads.waiting == count)


async def while_busy(
    pools: Database, database: TestDatabase, calls: Sequence[Awaitable[Any]], after: Callable[[], Any] = lambda: None
) -> list[Any]:
    """Return what calls come to, and raise, that all wait for the one connection at the same moment."""
    async with gate_closed(database) as stand:
        holder = asyncio.ensure_future(pools.reads.fetch_json(HOLDS))
        await stand(1)
        tasks = [asyncio.ensure_future(call) for call in calls]
        await queued(pools.reads._reads, len(tasks))
        after()
    await holder
    async with asyncio.timeout(BOUND):
        return await asyncio.gather(*tasks, return_exceptions=True)


def show(pools: Database, key: str, statement: Statement = SHOW, **values: Any) -> Awaitable[bytes | None]:
    return pools.reads.fetch_json(statement, key=key, **({"other": 1} | values if statement is SHOW else values))


def statements_of(answers: Sequence[Any]) -> Counter[str]:
    """Return how many answers came of each statement."""
    return Counter(json.loads(answer)["at"] for answer in answers)


async def test_those_who_wait_at_the_same_moment_share_a_statement(single: Database, desk: TestDatabase):
    names = [f"k{number}" for number in range(10)]
    answers = await while_busy(single, desk, [show(single, name) for name in names])
    assert [json.loads(answer)["key"] for answer in answers] == names
    assert list(statements_of(answers).values()) == [10]


async def test_those_who_come_in_one_turn_of_the_loop_share_a_statement_though_a_connection_is_free(single: Database):
    await show(single, "opens the connection")
    answers = await asyncio.gather(*(show(single, f"k{number}") for number in range(5)))
    assert list(statements_of(answers).values()) == [5]


async def test_those_who_come_in_one_turn_of_the_loop_open_no_more_connections_than_there_may_be(desk: TestDatabase):
    async with open_database(settings_for(desk.url, read_pool_size=3)) as pools:
        answers = await asyncio.gather(*(show(pools, f"k{number}") for number in range(20)))
        assert pools.reads._reads.opened == 3
        assert pools.reads._reads.waiting == 0
        assert [json.loads(answer)["key"] for answer in answers if answer] == [f"k{number}" for number in range(20)]


async def test_who_finds_a_connection_free_asks_alone_and_waits_for_nobody(single: Database):
    answers = [await show(single, "a"), await show(single, "b")]
    assert list(statements_of(answers).values()) == [1, 1]
    async with asyncio.timeout(BOUND):
        first, *others = await asyncio.gather(*(show(single, f"k{number}") for number in range(5)))
    assert statements_of([first])[json.loads(first or b"")["at"]] == 1
    assert list(statements_of(others).values()) == [4]


async def test_a_statement_is_asked_for_at_most_sixteen_rows(single: Database, desk: TestDatabase):
    answers = await while_busy(single, desk, [show(single, f"k{number}") for number in range(2 * MOST_TOGETHER + 5)])
    assert sorted(statements_of(answers).values()) == [5, MOST_TOGETHER, MOST_TOGETHER]


async def test_what_many_ask_about_is_asked_once(single: Database, desk: TestDatabase):
    answers = await while_busy(single, desk, [show(single, f"k{number % 3}") for number in range(90)])
    assert list(statements_of(answers).values()) == [90]
    assert sorted(Counter(json.loads(answer)["once"] for answer in answers).values()) == [30, 30, 30]
    assert [json.loads(answer)["key"] for answer in answers] == [f"k{number % 3}" for number in range(90)]


async def test_other_arguments_have_to_be_equal(single: Database, desk: TestDatabase):
    answers = await while_busy(single, desk, [show(single, f"k{n}", other=n % 2) for n in range(8)])
    assert sorted(statements_of(answers).values()) == [4, 4]
    assert [json.loads(answer)["other"] for answer in answers] == [0, 1] * 4


async def test_what_is_another_read_or_can_not_be_shared_keeps_its_place(single: Database, desk: TestDatabase):
    plain = Statement(_shown())
    calls = [show(single, "a"), show(single, "b", plain), show(single, "c"), show(single, "d", plain)]
    answers = await while_busy(single, desk, calls)
    assert [json.loads(answer)["key"] for answer in answers] == ["a", "b", "c", "d"]
    assert sorted(statements_of(answers).values()) == [1, 1, 2]
    times = [json.loads(answer)["at"] for answer in answers]
    assert times[0] == times[2] < times[1] < times[3]


async def test_what_does_not_exist_is_missing_for_its_own_caller(single: Database, desk: TestDatabase):
    support = SupportDesk(single)
    calls = [support.customer_context(name, 1, 1) for name in ("12345", "nobody", "quiet", "nobody ")]
    there, missing, quiet, other = await while_busy(single, desk, calls)
    assert json.loads(there.json)["customer"]["id"] == "12345"
    assert json.loads(quiet.json)["customer"]["id"] == "quiet"
    assert isinstance(missing, NotFound)
    assert isinstance(other, NotFound)
    assert "'nobody '" in str(other)


async def test_answers_are_byte_for_byte_what_the_statement_of_one_gives(demo_database: TestDatabase):
    async with (
        demo_database.connect() as connection,
        open_database(settings_for(demo_database.url, read_pool_size=1, pool_wait=60.0)) as pools,
    ):
        support, records = SupportDesk(pools), SupportRecords(pools)
        calls: list[Callable[[], Awaitable[Any]]] = []
        tables: Sequence[Listing[Any, Any]] = (CUSTOMERS, TICKETS, ARTICLES, INTERACTIONS)
        for listing in tables:
            read = cast("Callable[..., Awaitable[Any]]", records.row)
            for row in await connection.fetch(f"SELECT id FROM {listing.name} ORDER BY id LIMIT 150"):
                calls.append(partial(read, listing, row["id"]))
                if listing is CUSTOMERS:
                    calls.append(partial(support.customer_context, row["id"], 10, 20))
                    calls.append(partial(support.customer_context, row["id"], 0, 3))
        for owner, ticket in await connection.fetch("SELECT customer_id, min(id) FROM tickets GROUP BY 1 LIMIT 30"):
            calls.append(partial(records.row, TICKETS, ticket, owner))
        alone = [await _outcome(call()) for call in calls]
        together = await while_busy(pools, demo_database, [_outcome(call()) for call in calls])
        assert sum(isinstance(each, bytes) for each in alone) > 300
        assert alone == together


async def _outcome(call: Awaitable[RawResult[Any]]) -> bytes | str:
    try:
        return (await call).json
    except NotFound as error:  # of drafts there is nothing
        return error.detail


async def test_a_statement_is_not_planned_each_time_however_few_share_it(single: Database, desk: TestDatabase):
    support = SupportDesk(single)
    for number in range(8):
        await while_busy(single, desk, [support.customer_context(f"{number}-{n}", 10, 20) for n in range(2)])
    member = single.reads._reads._idle[0]
    plans = await member.connection.fetch("SELECT generic_plans FROM pg_prepared_statements WHERE statement ~ 'unnest'")
    assert [plan[0] for plan in plans] == [3]


# Confinement


async def test_who_is_bound_to_a_customer_shares_with_nobody_who_is_bound_to_another(
    single: Database, desk: TestDatabase
):
    """What the staff asks is shared; whoever is bound shares with those of the same customer only."""
    records = SupportRecords(single)
    asked = [(1, None), (4, None), (1, "12345"), (2, "12345"), (4, "other"), (1, "other"), (4, "12345")]
    found = await while_busy(single, desk, [records.row(TICKETS, ticket, owner) for ticket, owner in asked])
    assert [not isinstance(each, NotFound) for each in found] == [True, True, True, True, True, False, False]
    groups = [_group(ticket, owner) for ticket, owner in asked]
    assert len(set(groups)) == 3
    assert groups[2] == groups[3] == groups[6] != groups[4]


def _group(ticket: int, owner: str | None) -> Any:
    question = _ROWS["tickets"].of(owner).question({"id": ticket, "customer": owner})
    assert question is not None
    return question.group


async def test_a_customers_own_context_is_shared_by_those_who_are_bound_to_it_alone(
    single: Database, desk: TestDatabase
):
    support = SupportDesk(single)
    asked = [(name, notes) for notes in (False, True) for name in ("12345", "other", "nobody", "12345", "other")]
    alone = [await _outcome(support.customer_context(name, 10, 20, notes=notes)) for name, notes in asked]
    calls = [_outcome(support.customer_context(name, 10, 20, notes=notes)) for name, notes in asked]
    found = await while_busy(single, desk, calls)
    assert found == alone
    shown = [json.loads(each) if isinstance(each, bytes) else None for each in found]
    assert [each and each["customer"]["id"] for each in shown] == ["12345", "other", None, "12345", "other"] * 2
    assert [each and len(each["internal_notes"]) for each in shown] == [0, 0, None, 0, 0, 1, 0, None, 1, 0]


async def test_whose_own_context_is_asked_for_decides_who_shares_it(single: Database, desk: TestDatabase):
    """Each statement has one customer, and says of nobody else whatever else it may be asked for."""
    own = {"customer": "12345", "wanted": "12345", "ticket_limit": 10, "interaction_limit": 20}

    def group(**others: Any) -> Any:
        question = _WITHOUT_NOTES.question(own | others)
        assert question is not None
        return question.group

    assert group() == group()
    assert group() != group(customer="other", wanted="other")
    assert group() != group(ticket_limit=9)
    assert CUSTOMER_CONTEXT.question(own) is not None
    assert group() != CUSTOMER_CONTEXT.question(own).group  # type: ignore[union-attr]
    crossing = [
        single.reads.fetch_json(_WITHOUT_NOTES, **own | {"wanted": wanted}) for wanted in ("12345", "other", "12345")
    ]
    answers = await while_busy(single, desk, crossing)
    assert [answer is not None for answer in answers] == [True, False, True]
    assert answers[0] == answers[2]
    assert len([each for each in await _statements(single) if "unnest" in each]) == 1


async def _statements(pools: Database) -> list[str]:
    """Return the statements that were run, of a pool of one connection."""
    return list(pools.reads._reads._idle[0].prepared)


# Who goes, and what fails


async def test_who_goes_touches_nobody_else(single: Database, desk: TestDatabase):
    async with gate_closed(desk) as stand:
        holder = asyncio.ensure_future(show(single, "holder", GATED))
        await stand(1)
        tasks = [asyncio.ensure_future(show(single, f"k{number}", GATED)) for number in range(5)]
        await queued(single.reads._reads, 5)
        tasks[4].cancel()
        await queued(single.reads._reads, 4)
        backend = await _end_of(holder, desk, stand)
        # The statement of the four waits before the gate: the first of them goes, and another one.
        tasks[0].cancel()
        tasks[2].cancel()
        await asyncio.wait([tasks[0], tasks[2]])
        assert await _backend_before_gate(desk) == backend
    first, second = await asyncio.wait_for(asyncio.gather(tasks[1], tasks[3]), BOUND)
    assert list(statements_of([first, second]).values()) == [2]
    assert [json.loads(answer or b"")["key"] for answer in (first, second)] == ["k1", "k3"]


async def _end_of(
    holder: "asyncio.Future[Any]", database: TestDatabase, stand: Callable[[int], Awaitable[None]]
) -> int:
    """Cancel who has the connection; return the backend that works for those who waited, once it stands at the gate."""
    holder.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holder
    async with database.connect() as connection, asyncio.timeout(BOUND):
        query = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ 'unnest' AND pid <> $1"
        while (backend := await connection.fetchval(query, connection.get_server_pid())) is None:
            pass
    await stand(1)
    return cast("int", backend)


async def _backend_before_gate(database: TestDatabase) -> int:
    async with database.connect() as connection:
        return cast("int", await connection.fetchval("SELECT pid FROM pg_locks WHERE objid = $1 AND NOT granted", GATE))


async def test_a_statement_ends_with_the_last_of_its_callers(single: Database, desk: TestDatabase):
    async with gate_closed(desk) as stand:
        holder = asyncio.ensure_future(show(single, "holder", GATED))
        await stand(1)
        tasks = [asyncio.ensure_future(show(single, f"k{number}", GATED)) for number in range(3)]
        await queued(single.reads._reads, 3)
        await _end_of(holder, desk, stand)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await stand(0)
        assert await asyncio.wait_for(show(single, "next"), BOUND)
    assert single.reads._reads.used == 0


async def test_the_pool_closes_after_the_statement_that_callers_share(single: Database, desk: TestDatabase):
    reads = single.reads._reads
    async with gate_closed(desk) as stand:
        holder = asyncio.ensure_future(show(single, "holder", GATED))
        await stand(1)
        tasks = [asyncio.ensure_future(show(single, f"k{number}", GATED)) for number in range(3)]
        await queued(reads, 3)
        await _end_of(holder, desk, stand)
        closing = asyncio.ensure_future(reads.close())
    await asyncio.wait_for(closing, BOUND)
    assert not reads._shared
    assert reads.opened == 0
    assert list(statements_of(await asyncio.gather(*tasks)).values()) == [3]


async def test_a_connection_is_not_lost_where_all_go_as_their_statement_begins(
    single: Database, desk: TestDatabase, monkeypatch: pytest.MonkeyPatch
):
    reads = single.reads._reads
    async with gate_closed(desk) as stand:
        holder = asyncio.ensure_future(single.reads.fetch_json(HOLDS))
        await stand(1)
        tasks = [asyncio.ensure_future(show(single, f"k{number}")) for number in range(3)]
        await queued(reads, 3)
        serve_next = reads._serve_next

        def serve_and_go(member: Any) -> bool:
            served = serve_next(member)
            for task in tasks:
                task.cancel()
            return served

        monkeypatch.setattr(reads, "_serve_next", serve_and_go)
    async with asyncio.timeout(BOUND):
        await asyncio.wait([*tasks, holder])
        assert all(task.cancelled() for task in tasks)
        await until(lambda: not reads._shared)
        assert await show(single, "next")
    assert (reads.opened, reads.used, reads.waiting) == (1, 0, 0)


async def test_if_the_shared_statement_fails_each_is_asked_alone(single: Database, desk: TestDatabase):
    names = ["a", "bad", "b", "bad", "absent"]
    answers = await while_busy(single, desk, [show(single, name, BROKEN) for name in names])
    assert [isinstance(answer, InvalidArguments) for answer in answers] == [False, True, False, True, False]
    assert answers[4] is None
    assert [json.loads(answers[place])["key"] for place in (0, 2)] == ["a", "b"]
    assert list(statements_of([answers[0], answers[2]]).values()) == [1, 1]


async def test_who_asks_with_what_can_not_be_sent_fails_alone(single: Database, desk: TestDatabase):
    answers = await while_busy(single, desk, [show(single, name) for name in ("a", "\ud800", "b", "\0")])
    assert [isinstance(answer, InvalidArguments) for answer in answers] == [False, True, False, True]


async def test_a_connection_that_ends_under_a_shared_statement_costs_no_caller_anything(
    single: Database, desk: TestDatabase
):
    async with gate_closed(desk) as stand, desk.connect() as connection:
        holder = asyncio.ensure_future(show(single, "holder", GATED))
        await stand(1)
        tasks = [asyncio.ensure_future(show(single, f"k{number}", GATED)) for number in range(4)]
        await queued(single.reads._reads, 4)
        backend = await _end_of(holder, desk, stand)
        await connection.execute("SELECT pg_terminate_backend($1)", backend)
        await stand(1)
        assert await _backend_before_gate(desk) != backend
    answers = await asyncio.wait_for(asyncio.gather(*tasks), BOUND)
    assert [json.loads(answer or b"")["key"] for answer in answers] == ["k0", "k1", "k2", "k3"]


async def test_a_shared_statement_that_a_migration_outdated_is_prepared_again(single: Database, desk: TestDatabase):
    records = SupportRecords(single)

    async def ask() -> list[str]:
        rows = await while_busy(single, desk, [records.row(CUSTOMERS, name) for name in ("12345", "quiet", "other")])
        return [json.loads(row.json)["customer"]["name"] for row in rows]

    before = await ask()
    async with desk.connect() as connection:
        await connection.execute("ALTER TABLE customers ALTER COLUMN name TYPE varchar(200)")
        assert await ask() == before
        await connection.execute("ALTER TABLE customers ALTER COLUMN name TYPE text")
    assert await ask() == before == ["Ada Lovelace", "Never Wrote", "Bob Other"]


async def test_shared_statements_can_not_write(single: Database, desk: TestDatabase):
    answers = await while_busy(single, desk, [show(single, name, WRITES) for name in ("a", "b")])
    assert [type(answer) for answer in answers] == [Forbidden, Forbidden]


async def test_each_waits_for_a_connection_as_long_as_it_may_and_no_longer(desk: TestDatabase):
    async with open_database(settings_for(desk.url, read_pool_size=1, pool_wait=0.05)) as pools:
        async with gate_closed(desk) as stand:
            holder = asyncio.ensure_future(pools.reads.fetch_json(HOLDS))
            await stand(1)
            answers = await asyncio.gather(*(show(pools, f"k{n}") for n in range(40)), return_exceptions=True)
        assert {type(answer) for answer in answers} == {TooManyRequests}
        await holder
        assert await show(pools, "after")


class Span:
    """The span of a call."""

    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    def part(self, name: str, began: float, ended: float) -> None: ...

    def end(self, outcome: str) -> None: ...


async def test_who_is_traced_asks_alone(single: Database, desk: TestDatabase):
    async def traced(key: str) -> bytes | None:
        with Stages(logging.getLogger("MCP"), "show", "r-1", Span(), []).shown():
            return await show(single, key)

    answers = await while_busy(single, desk, [traced("a"), show(single, "b"), traced("c"), show(single, "d")])
    assert [json.loads(answer)["key"] for answer in answers] == ["a", "b", "c", "d"]
    assert sorted(statements_of(answers).values()) == [1, 1, 2]


async def test_whose_stages_are_told_shares_all_the_same(single: Database, desk: TestDatabase):
    told: list[Stage] = []

    async def watched(key: str) -> bytes | None:
        with Stages(logging.getLogger("MCP"), "show", "r-1", None, told).shown():
            return await show(single, key)

    answers = await while_busy(single, desk, [watched("a"), show(single, "b"), show(single, "c")])
    assert list(statements_of(answers).values()) == [3]
    assert [stage for stage, _ in told] == ["waited for a connection"]


async def test_statements_are_shared_behind_a_pooler_that_lends_transactions(
    postgres_server: LocalPostgres, desk: TestDatabase
):
    async with (
        run_pgbouncer(desk.url, mode="transaction") as (url,),
        open_database(settings_for(url, read_pool_size=1, pool_wait=60.0)) as pools,
    ):
        for _ in range(3):
            answers = await while_busy(pools, desk, [show(pools, f"k{number}") for number in range(5)])
            assert list(statements_of(answers).values()) == [5]
        answers = await while_busy(pools, desk, [show(pools, name, BROKEN) for name in ("a", "bad")])
        assert isinstance(answers[1], InvalidArguments)
        assert json.loads(answers[0])["key"] == "a"
