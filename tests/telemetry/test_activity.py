"""What calls do now and did lately: told exactly as it was, in memory that does not grow."""

import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from time import perf_counter

import pytest

from app.errors import GatewayError, Interrupted
from app.gateway import Gateway
from app.guard.principal import Principal
from app.servers.calls import CallContext
from app.settings import Settings
from app.telemetry.activity import (
    MOST_REMEMBERED,
    MOST_SERIES,
    OTHERS,
    POINTS,
    STEP,
    UNKNOWN,
    Activity,
    prometheus_buckets,
)
from app.telemetry.recorder import ended_call
from tests.clock import ClockMCPServer

BEGAN = 1_790_000_000.0
CONTEXT = CallContext("r-1", "rest", Principal("alice", customer="anna"), "curl/8")
UNBOUND = CallContext("r-1", "rest", Principal("alice"), "curl/8")


class Time:
    """Goes when it is told to."""

    def __init__(self) -> None:
        self.now = BEGAN

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def activity(clock: Time) -> Activity:
    return Activity(["clock"], clock=clock)


def end(
    activity: Activity,
    ms: float = 1.0,
    outcome: str = "ok",
    operation: str = "get_time",
    server: str = "clock",
    context: CallContext = CONTEXT,
) -> None:
    activity.calls_ended([ended_call(server, operation, context, perf_counter(), outcome, ms)])


@asynccontextmanager
async def opened() -> AsyncGenerator[tuple[Gateway, ClockMCPServer, Activity]]:
    clock = ClockMCPServer()
    activity = Activity(["clock"], lambda: gateway.late)
    gateway = Gateway([clock], Settings(), [activity])
    async with gateway.open():
        yield gateway, clock, activity


def test_a_call_that_has_ended_is_remembered_as_it_was(activity: Activity) -> None:
    end(activity, 12.3456, "not_found")
    count, [past] = activity.ended(0)
    assert count == 1
    assert activity.past(past.id) == past
    assert past.shown() == {
        "id": past.id,
        "request_id": "r-1",
        "server": "clock",
        "operation": "get_time",
        "face": "rest",
        "client": "curl/8",
        "principal": "alice",
        "customer": "anna",
        "outcome": "not_found",
        "ms": 12.346,
        "ended": BEGAN,
    }


def test_whoever_reads_on_is_told_what_is_new_and_never_twice(activity: Activity) -> None:
    for number in range(5):
        end(activity, number)
    seen, calls = activity.ended(3)
    assert (seen, [call.call.ms for call in calls]) == (5, [3, 4])
    assert activity.ended(seen) == (5, [])
    for number in range(MOST_REMEMBERED + 10):
        end(activity, number)
    seen, calls = activity.ended(seen)
    assert (seen, len(calls), calls[0].call.ms) == (MOST_REMEMBERED + 15, MOST_REMEMBERED, 10)


def test_of_turns_in_which_many_end_the_newest_calls_are_remembered(activity: Activity, clock: Time) -> None:
    for turn in range(10):
        clock.now = BEGAN + turn
        calls = [ended_call("clock", "get_time", CONTEXT, turn + n * 1e-3, "ok", turn * 300 + n) for n in range(300)]
        activity.calls_ended(calls)
    seen, remembered = activity.ended(0)
    assert seen == 3000
    assert [call.call.ms for call in remembered] == list(range(3000 - MOST_REMEMBERED, 3000))
    assert {call.ended - BEGAN for call in remembered} == {3, 4, 5, 6, 7, 8, 9}
    assert [call.call.ms for call in activity.ended(2899)[1]] == list(range(2899, 3000))
    assert activity.past(remembered[0].id) == remembered[0]
    assert activity.past(f"{round((3 + 99e-3) * 1e9):x}") is None  # the one before these


def test_no_two_calls_have_one_id(activity: Activity) -> None:
    for _ in range(MOST_REMEMBERED):
        end(activity)
    assert len({call.id for call in activity.ended(0)[1]}) == MOST_REMEMBERED


def test_calls_of_one_turn_are_told_apart(activity: Activity, clock: Time) -> None:
    kinds = [
        ("get_time", "ok"),
        ("get_time", "ok"),
        ("get_time", "not_found"),
        ("tick", "not_found"),
        ("tick", "ok"),
        ("tick", "ok"),
    ]
    for _ in range(3):
        calls = [ended_call("clock", name, CONTEXT, perf_counter(), outcome, 1.0) for name, outcome in kinds]
        activity.calls_ended(calls)
        clock.now += STEP * 6
    assert {key[1::2]: histogram.count for key, histogram in activity.totals().items()} == {
        kind: 3 * kinds.count(kind) for kind in kinds
    }


def test_names_that_callers_make_up_are_one_name(activity: Activity) -> None:
    for number in range(3000):
        end(activity, outcome="unknown_tool", operation=f"'tool_{number}'", server="'mcp_clock'")
        end(activity, outcome="unknown_server", operation=f'"it\'s {number}"', server=f"'server_{number}'")
    assert {key: histogram.count for key, histogram in activity.totals().items()} == {
        ("clock", UNKNOWN, "rest", "unknown_tool"): 3000,
        (UNKNOWN, UNKNOWN, "rest", "unknown_server"): 3000,
    }


def test_what_goes_beyond_all_bounds_is_counted_together(activity: Activity, clock: Time) -> None:
    for number in range(MOST_SERIES + 500):
        end(activity, operation=f"tool_{number}")
        clock.now += 1
    totals = activity.totals()
    assert len(totals) == MOST_SERIES + 1
    assert totals[OTHERS, OTHERS, OTHERS, OTHERS].count == 500


def test_nothing_of_a_call_is_held_after_its_end(activity: Activity) -> None:
    class Connection:
        async def gone(self) -> None: ...

    connection = Connection()
    held = weakref.ref(connection)
    end(activity, context=CallContext("r-1", "rest", gone=connection.gone, session=connection))
    del connection
    gc.collect()
    assert held() is None


@pytest.mark.parametrize(
    ("times", "half", "most"),
    [([1.0] * 100, (0.8, 1.0), (0.8, 1.0)), ([1.0] * 95 + [500.0] * 5, (0.8, 1.0), (400.0, 500.0))],
)
def test_quantiles_are_within_a_bucket_of_the_truth(
    activity: Activity, times: list[float], half: tuple[float, float], most: tuple[float, float]
) -> None:
    for ms in times:
        end(activity, ms)
    shown = activity.snapshot(BEGAN)
    assert half[0] <= shown["p50"] <= half[1]
    assert most[0] <= shown["p99"] <= most[1]


def test_no_quantile_is_longer_than_the_longest_call_and_of_few_it_is_that(activity: Activity, clock: Time) -> None:
    end(activity, 9_000.0, operation="console/events")
    end(activity, 810.0)
    shown = activity.snapshot()
    one = {"p50": 810.0, "p95": 810.0, "p99": 810.0}
    assert {name: shown[name] for name in one} == one
    assert {name: shown["series"][name][-1] for name in one} == one
    assert shown["slowest"][0]["p95"] == 810.0
    for _ in range(17):
        end(activity, 1.0)
    end(activity, 801.0)
    assert activity.snapshot()["p95"] == 810.0, "of 19 calls"
    for _ in range(100):
        end(activity, 801.0)
    shown = activity.snapshot()
    assert 800.0 < shown["p50"] < shown["p95"] < 810.0
    clock.now += 2 * STEP
    end(activity, 5.5)
    assert activity.snapshot()["series"]["p99"][-2:] == [None, 5.5]


def test_a_bucket_holds_what_took_as_long_as_its_bound_or_less(activity: Activity) -> None:
    for ms in (10.0, 10.1, 300_000.0, 900_000.0):
        end(activity, ms)
    [histogram] = activity.totals().values()
    assert list(prometheus_buckets(histogram, (10.0, 20.0, 300_000.0))) == [(10.0, 1), (20.0, 2), (300_000.0, 3)]
    assert (histogram.count, histogram.ms) == (4, 1_200_020.1)
    assert histogram.quantile(1.0) == 900_000.0


def test_the_charts_show_a_quarter_of_an_hour(activity: Activity, clock: Time) -> None:
    end(activity, 2.0)
    end(activity, 2.0, "backend_timeout")
    end(activity, 2.0, "cancelled")
    clock.now += STEP
    end(activity, 2.0)
    series = activity.snapshot()["series"]
    assert (series["step"], series["from"]) == (STEP, BEGAN - (POINTS - 2) * STEP)
    assert {len(series[name]) for name in ("calls", "errors", "p50", "p95", "p99")} == {POINTS}
    assert series["calls"][-2:] == [3, 1]
    assert series["errors"][-2:] == [1, 0]
    assert series["p50"][-3] is None
    assert 1.5 <= series["p50"][-1] <= 2.0
    later = activity.snapshot(points=2)["series"]
    assert later == {name: value[-2:] if isinstance(value, list) else value for name, value in series.items()} | {
        "from": BEGAN
    }
    clock.now += POINTS * STEP
    assert sum(activity.snapshot()["series"]["calls"]) == 0
    assert sum(histogram.count for histogram in activity.totals().values()) == 4


def test_who_only_looks_makes_no_figures(activity: Activity, clock: Time) -> None:
    end(activity, 2.0)
    for _ in range(2):
        end(activity, 900.0, operation="console/access")
        end(activity, 900.0, "insufficient_scope", operation="console/access")
    end(activity, 2.0, "backend_timeout")
    shown = activity.snapshot()
    assert (sum(shown["series"]["calls"]), sum(shown["series"]["errors"])) == (2, 1)
    assert "console/access" not in str(shown)
    assert shown["p99"] <= 2.0
    assert sum(histogram.count for histogram in activity.totals().values()) == 6
    assert len(activity.ended(0)[1]) == 6


def test_a_rate_is_of_the_last_seconds(activity: Activity, clock: Time) -> None:
    clock.now += 600
    for _ in range(30):
        end(activity)
        clock.now += 0.5
    shown = activity.snapshot()["rate"]
    assert shown == {"calls": 2.0, "errors": 0.0}
    clock.now += 2 * STEP
    assert activity.snapshot()["rate"] == {"calls": 0.0, "errors": 0.0}


def test_the_slowest_and_the_most_failing_operations_are_named(activity: Activity, clock: Time) -> None:
    for _ in range(10):
        end(activity, 900.0, operation="oversleep")
        end(activity, 1.0)
        end(activity, 1.0, "cancelled", operation="left")
    for outcome in ("not_found", "backend_timeout", "backend_timeout"):
        end(activity, 1.0, outcome, operation="fail")
    shown = activity.snapshot()
    assert shown["slowest"][0] | {"p95": 0} == {"server": "clock", "operation": "oversleep", "calls": 10, "p95": 0}
    assert 800 <= shown["slowest"][0]["p95"] <= 1000
    assert shown["failing"] == [
        {"server": "clock", "operation": "fail", "calls": 3, "errors": 3, "outcome": "backend_timeout"}
    ]
    clock.now += POINTS * STEP + 60
    shown = activity.snapshot()
    assert (shown["slowest"], shown["failing"]) == ([], [])


async def test_a_running_call_is_listed_and_interrupted() -> None:
    async with opened() as (gateway, clock, activity):
        calling = asyncio.create_task(gateway.call("clock", "wait_for_cancellation", b"", UNBOUND))
        await clock.started.wait()
        async with asyncio.timeout(5):
            while not gateway.late:  # noqa: ASYNC110 - the look-out has no event for it
                await asyncio.sleep(0)
        [running] = activity.running()
        assert running.shown(can_cancel=running.call in gateway.late) | {"id": "", "started": 0} == {
            "id": "",
            "request_id": "r-1",
            "server": "clock",
            "operation": "wait_for_cancellation",
            "face": "rest",
            "client": "curl/8",
            "principal": "alice",
            "customer": None,
            "started": 0,
            "can_cancel": True,
        }
        gateway.late[running.call].interrupt(Interrupted())
        with pytest.raises(Interrupted):
            await calling
        assert clock.cancelled.is_set()
        assert not gateway.late
        await asyncio.sleep(0)
        assert activity.running(0.0) == []
        assert activity.past(running.id) == activity.ended(0)[1][-1]
        assert activity.ended(0)[1][-1].outcome == "interrupted"


async def test_what_was_refused_has_ended_too() -> None:
    async with opened() as (gateway, _, activity):
        for tool in ("get_time", "nope"):
            with suppress(GatewayError):
                await gateway.call("clock", tool, b'{"zone":"Atlantis"}', UNBOUND)
        await asyncio.sleep(0)
        assert activity.running(0.0) == []
        assert [call.outcome for call in activity.ended(0)[1]] == ["not_found", "unknown_tool"]
