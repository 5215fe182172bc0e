"""The lookout: what only slow calls need is set up for slow calls only, once."""

import asyncio

from app.lookout import TICK, Lookout


class Call:
    def __init__(self) -> None:
        self.noticed = asyncio.Event()
        self.times = 0

    def overdue(self) -> None:
        self.times += 1
        self.noticed.set()


async def test_a_slow_call_is_noticed_once() -> None:
    lookout, slow = Lookout(), Call()
    started = asyncio.get_running_loop().time()
    lookout.add(slow)
    async with asyncio.timeout(10):
        await slow.noticed.wait()
        later = Call()
        lookout.add(later)
        await later.noticed.wait()
    assert slow.times == 1
    assert asyncio.get_running_loop().time() - started >= TICK


async def test_a_call_that_ended_is_never_noticed() -> None:
    lookout, quick, slow = Lookout(), Call(), Call()
    lookout.add(quick)
    lookout.add(slow)
    lookout.remove(quick)
    async with asyncio.timeout(10):
        await slow.noticed.wait()
    assert quick.times == 0


async def test_no_timer_runs_while_nothing_is_under_way() -> None:
    lookout, call = Lookout(), Call()
    lookout.add(call)
    async with asyncio.timeout(10):
        await call.noticed.wait()
    assert not lookout._ticking
