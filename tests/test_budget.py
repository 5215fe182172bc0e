"""Turns: bytes for work that takes moments, to each who waits in order."""

import asyncio

import pytest

from app.budget import Turn, Turns


async def started(*work: "asyncio.Task[None]") -> None:
    """Let tasks come as far as they can."""
    for _ in work:
        await asyncio.sleep(0)


async def test_who_finds_too_little_room_waits_and_nobody_overtakes() -> None:
    turns = Turns(10)
    first, second, small = Turn(turns), Turn(turns), Turn(turns)
    await first.take(8)
    waiting = asyncio.create_task(second.take(9))
    await started(waiting)
    overtaking = asyncio.create_task(small.take(1))
    await started(waiting, overtaking)
    assert (waiting.done(), overtaking.done(), turns.held) == (False, False, 8)
    first.keep(1)
    await waiting
    assert (overtaking.done(), turns.held) == (False, 10)
    first.release()
    await overtaking
    second.release()
    small.release()
    assert turns.held == 0


async def test_who_holds_something_gets_more_at_once_or_not_at_all() -> None:
    turns = Turns(10)
    one, other = Turn(turns), Turn(turns)
    await one.take(4)
    assert (one.grow(7), one.held, turns.held) == (True, 7, 7)
    await other.take(3)
    assert (one.grow(8), one.held, turns.held) == (False, 7, 10)
    other.release()
    waiting = asyncio.create_task(other.take(9))
    await started(waiting)
    assert not one.grow(8), "somebody waits"
    one.release()
    await waiting
    assert other.grow(99), "who is alone may have more than all together"
    other.keep(100)
    assert turns.held == 100
    other.release()
    assert turns.held == 0


async def test_one_alone_may_have_more_than_all_together() -> None:
    turns = Turns(10)
    with turns.turn() as turn:
        await turn.take(25)
        waiting = asyncio.create_task(turns.take(1))
        await started(waiting)
        assert not waiting.done()
    await waiting
    assert turns.held == 1


@pytest.mark.parametrize("called", [False, True])
async def test_who_gives_up_takes_nothing_from_those_behind(*, called: bool) -> None:
    turns = Turns(10)
    await turns.take(10)
    gone, behind = asyncio.create_task(turns.take(10)), asyncio.create_task(turns.take(3))
    await started(gone, behind)
    if called:
        turns.give_back(10)  # it is called, and does not know yet
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    if not called:
        turns.give_back(10)
    await behind
    assert turns.held == 3


async def test_a_turn_that_is_taken_anew_waits_with_nothing() -> None:
    turns = Turns(10)
    one, other = Turn(turns), Turn(turns)
    await one.take(6)
    await other.take(4)
    again = asyncio.create_task(one.take(8))
    more = asyncio.create_task(other.take(8))
    await started(again, more)
    await again
    assert not more.done()
    one.release()
    await more
    assert turns.held == 8
