"""One run of a piece of work for all who wait for it."""

import asyncio
import gc

import pytest

from app.single_flight import SingleFlight


class _Work:
    """Work that takes until it is let go."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.runs = 0
        self.cancelled = 0
        self.begun = asyncio.Event()
        self.let_go = asyncio.Event()
        self._failure = failure

    async def __call__(self) -> int:
        self.runs += 1
        self.begun.set()
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self._failure:
            raise self._failure
        return self.runs


async def test_all_who_wait_share_one_run() -> None:
    flight, work = SingleFlight[int](), _Work()
    waiters = [asyncio.create_task(flight.run(work)) for _ in range(200)]
    await work.begun.wait()
    work.let_go.set()
    assert await asyncio.gather(*waiters) == [1] * 200


async def test_who_asks_later_starts_it_anew() -> None:
    flight, work = SingleFlight[int](), _Work()
    work.let_go.set()
    assert [await flight.run(work), await flight.run(work)] == [1, 2]


async def test_a_failure_reaches_every_waiter_and_is_not_remembered() -> None:
    flight, failing, working = SingleFlight[int](), _Work(OSError("gone")), _Work()
    waiters = [asyncio.create_task(flight.run(failing)) for _ in range(3)]
    await failing.begun.wait()
    failing.let_go.set()
    assert [str(failure) for failure in await asyncio.gather(*waiters, return_exceptions=True)] == ["gone"] * 3
    working.let_go.set()
    assert await flight.run(working) == 1


async def test_a_waiter_that_leaves_takes_nothing_from_the_others() -> None:
    flight, work = SingleFlight[int](), _Work()
    first, second = (asyncio.create_task(flight.run(work)) for _ in range(2))
    await work.begun.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    work.let_go.set()
    assert await second == 1


async def test_work_ends_with_its_last_waiter_and_the_next_starts_it_anew() -> None:
    flight, work = SingleFlight[int](), _Work()
    waiters = [asyncio.create_task(flight.run(work)) for _ in range(2)]
    await work.begun.wait()
    for waiter in waiters:
        waiter.cancel()
    await asyncio.wait(waiters)
    work.let_go.set()
    assert await flight.run(work) == 2
    assert work.cancelled == 1


async def test_what_work_raises_that_nobody_waits_for_is_nobodys() -> None:
    flight, begun, unheard = SingleFlight[int](), asyncio.Event(), list[dict[str, object]]()

    async def work() -> int:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("the end of a connection")

    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    waiter = asyncio.create_task(flight.run(work))
    await begun.wait()
    running = flight._flight
    assert running is not None
    waiter.cancel()
    await asyncio.wait([waiter, running])
    assert waiter.cancelled()
    del running, waiter  # asyncio speaks of a task once nothing holds it, such as a trace of who waited
    gc.collect()
    assert unheard == []
