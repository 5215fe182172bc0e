"""Token buckets."""

import math

import pytest

from app.guard.limits import Rate, RateLimiter


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("600/min burst 60", Rate(10.0, 60)),
        ("5/s", Rate(5.0, 1)),
        ("7200/h", Rate(2.0, 720)),
    ],
)
def test_a_limit_reads_as_it_is_written(text: str, rate: Rate) -> None:
    assert Rate.read(text) == rate


@pytest.mark.parametrize(
    "text", ["", "600", "600/day", "0/s", "-1/s", "5/s burst 0", "1e3/s", "5/s burst", "\u0665/s", "1\u0665/s"]
)
def test_what_is_no_limit_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="600/min burst 60"):
        Rate.read(text)


def test_a_burst_is_served_and_then_one_call_for_each_interval() -> None:
    limiter, rate = RateLimiter(), Rate(per_second=2.0, burst=3)
    assert [limiter.take("a", rate, now=100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert limiter.take("a", rate, now=100.25) == 0.25
    assert limiter.take("a", rate, now=100.5) == 0.0
    assert limiter.take("a", rate, now=100.5) == 0.5


def test_a_pause_fills_no_more_than_the_burst() -> None:
    limiter, rate = RateLimiter(), Rate(per_second=1000.0, burst=2)
    assert limiter.take("a", rate, now=0.0) == 0.0
    assert [limiter.take("a", rate, now=1e6) for _ in range(3)] == [0.0, 0.0, 0.001]


def test_a_batch_is_taken_whole_or_not_at_all() -> None:
    limiter, rate = RateLimiter(), Rate(per_second=1.0, burst=50)
    assert limiter.take("a", rate, 20, now=0.0) == 0.0
    assert limiter.take("a", rate, 50, now=0.0) == 20.0
    assert limiter.take("a", rate, 30, now=0.0) == 0.0
    assert limiter.take("a", rate, 51, now=1e6) == math.inf


def test_what_is_known_afterwards_is_paid_for_by_waiting_and_not_for_ever() -> None:
    limiter, rate = RateLimiter(), Rate(per_second=1.0, burst=3)
    for _ in range(5):
        limiter.overdraw("a", rate, now=100.0)
    assert limiter.take("a", rate, now=100.0) == 3.0
    assert limiter.take("a", rate, now=103.0) == 0.0
    for _ in range(1000):
        limiter.overdraw("a", rate, now=103.0)
    assert limiter.take("a", rate, now=103.0) == 4.0


def test_nobody_pays_for_another() -> None:
    limiter, rate = RateLimiter(), Rate(per_second=1.0, burst=1)
    assert limiter.take("a", rate, now=0.0) == 0.0
    assert limiter.take("b", rate, now=0.0) == 0.0
    assert limiter.take("a", rate, now=0.0) == 1.0


def test_a_stranger_with_many_names_does_not_fill_the_memory_and_frees_nobody() -> None:
    limiter, slow = RateLimiter(), Rate(per_second=0.001, burst=1)
    for number in range(70_000):
        limiter.take(number, Rate(1.0, 1), now=float(number))
    assert limiter.take("busy", slow, now=70_000.0) == 0.0
    for number in range(100_000, 120_000):
        limiter.take(number, Rate(1.0, 1), now=70_001.0)
    assert limiter.take("busy", slow, now=70_001.0) > 0
    assert len(limiter._buckets) <= 65_536
