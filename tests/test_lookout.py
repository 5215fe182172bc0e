"""The lookout: what only slow calls need is set up for slow calls only, once; and what it may do to them."""

import asyncio

import pytest

from app.errors import GatewayError
from app.lookout import TICK, Interruptible, Lookout

WITHIN = 30


class Block(Interruptible):
    def __init__(self, lookout: Lookout) -> None:
        self.lookout = lookout
        self.noticed = asyncio.Event()
        self.times = 0

    def overdue(self) -> None:
        self.times += 1
        self.noticed.set()

    def __enter__(self) -> "Block":
        self.begin(self.lookout)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if (reason := self.end(error)) is not None:
            raise reason from error


class Impatient(Block):
    """Interrupts itself as soon as it may."""

    def overdue(self) -> None:
        self.interrupt(TooLong())


class TooLong(GatewayError):
    pass


async def test_a_slow_call_is_noticed_once() -> None:
    lookout = Lookout()
    started = lookout.loop.time()
    async with asyncio.timeout(WITHIN):
        with Block(lookout) as slow:
            await slow.noticed.wait()
            with Block(lookout) as later:
                await later.noticed.wait()
    assert slow.times == 1
    assert lookout.loop.time() - started >= TICK


async def test_a_call_that_ended_is_never_noticed() -> None:
    lookout = Lookout()
    async with asyncio.timeout(WITHIN):
        with Block(lookout) as slow:
            with Block(lookout) as quick:
                pass
            await slow.noticed.wait()
    assert quick.times == 0


async def test_nothing_is_looked_after_while_nothing_is_under_way() -> None:
    lookout = Lookout()
    async with asyncio.timeout(WITHIN):
        with Block(lookout) as call:
            await call.noticed.wait()
    assert not lookout.watching


async def test_an_interrupted_block_raises_the_reason() -> None:
    lookout = Lookout()
    async with asyncio.timeout(WITHIN):
        with pytest.raises(TooLong), Impatient(lookout):
            await asyncio.Event().wait()
        # The task itself goes on as if it had never been cancelled.
        await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_failure_of_its_own_leaves_the_block_as_it_is() -> None:
    lookout = Lookout()

    async def work() -> None:
        with Impatient(lookout):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise ZeroDivisionError from None

    async with asyncio.timeout(WITHIN):
        with pytest.raises(ZeroDivisionError):
            await work()


async def test_somebody_elses_cancellation_is_not_taken_for_ours() -> None:
    lookout, started = Lookout(), asyncio.Event()

    async def work() -> None:
        with Block(lookout) as block:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                block.interrupt(TooLong())

    async with asyncio.timeout(WITHIN):
        task = asyncio.create_task(work())
        await started.wait()
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()
