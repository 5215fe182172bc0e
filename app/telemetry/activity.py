"""What calls do now and what became of them lately, for the console and for Prometheus."""

import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from typing import Any

from app.guard.principal import Principal
from app.telemetry.recorder import EndedCall, StartedCall

MOST_REMEMBERED = 2000
"""Calls that have ended and are remembered one by one."""
MOST_SERIES = 1000
"""Combinations of server, operation, face and outcome that are counted apart."""
OTHERS = "others"
"""The server, operation, face and outcome of what goes beyond these."""
UNKNOWN = "unknown"
"""The operation, or server, of calls for what does not exist: callers make its names up."""
QUICK = 0.02
"""Seconds within which most calls end, so that nobody need look at them while they run."""
STEP = 10
"""Seconds of a point of the charts."""
POINTS = 90
"""Points of the charts: a quarter of an hour."""
_STEPS_A_WINDOW = 6
_WINDOWS = POINTS // _STEPS_A_WINDOW
"""Windows in which the last quarter of an hour is kept by operation."""
_WINDOW = STEP * _STEPS_A_WINDOW
"""Seconds of such a window."""
_TOLD = (0.5, 0.95, 0.99)
"""Parts of the calls of which it is told within how long they ended."""
_NAMED = 5
"""Operations that are named as the slowest, or as those that fail most."""
_OWN = "console/"
"""How operations are called by which the console serves its pages."""
_NO_FAILURES = frozenset({"ok", "cancelled"})

BOUNDS: tuple[float, ...] = tuple(
    round(step * 10.0**power, 3) for power in range(-2, 6) for step in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
)
"""Upper bounds of a histogram's buckets, in milliseconds: from 10 µs, each at most a third above the one before."""

Key = tuple[str, str, str, str]
"""Server, operation, face, outcome."""


class Histogram:
    """How long calls took, by `BOUNDS`; what took longer than the last is counted after it."""

    __slots__ = ("counts", "longest", "ms")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.ms = 0.0
        """Of all of them together."""
        self.longest = 0.0
        """Milliseconds of the one that took longest."""

    @property
    def count(self) -> int:
        """How many calls there were."""
        return sum(self.counts)

    def add(self, other: "Histogram") -> None:
        """Take those of another one in."""
        self.counts = [own + more for own, more in zip(self.counts, other.counts, strict=True)]
        self.ms += other.ms
        self.longest = max(self.longest, other.longest)

    def quantile(self, part: float) -> float | None:
        """Return the milliseconds within which a part of the calls ended; None where there were none."""
        return self.quantiles(part)[0]

    def quantiles(self, *parts: float) -> list[float | None]:
        """Return the milliseconds within which parts of the calls ended, as `quantile` does.

        The longest is known, and told where a quantile is that one call's, such as p95 of fewer than 20. Within the
        bucket of any other they are taken as spread evenly, up to the longest.
        """
        sums = list(accumulate(self.counts))
        return [self._within(sums, part * sums[-1]) if sums[-1] else None for part in parts]

    def _within(self, sums: Sequence[int], rank: float) -> float:
        if rank > sums[-1] - 1:
            return round(self.longest, 3)
        at = bisect_left(sums, rank)
        low = BOUNDS[at - 1] if at else 0.0
        high = min(BOUNDS[at], self.longest) if at < len(BOUNDS) else self.longest
        return round(low + (high - low) * (rank - (sums[at] - self.counts[at])) / self.counts[at], 3)


class _Point(Histogram):
    """All calls that ended in the same `STEP` seconds."""

    __slots__ = ("errors", "number")

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        """Of the step, since 1970."""
        self.errors = 0


@dataclass(frozen=True, slots=True)
class PastCall:
    """A call that has ended."""

    call: EndedCall
    ended: float
    """In seconds since 1970."""

    @property
    def server(self) -> str:
        """As it was recorded."""
        return self.call.server

    @property
    def operation(self) -> str:
        """As it was recorded."""
        return self.call.operation

    @property
    def principal(self) -> Principal:
        """As it was recorded."""
        return self.call.principal

    @property
    def outcome(self) -> str:
        """As it was recorded."""
        return self.call.outcome

    @property
    def id(self) -> str:
        """What it is called among the calls of this process."""
        return _id(self.call.at)

    def shown(self) -> dict[str, Any]:
        """Return a line of the console's feed."""
        call = self.call
        return {
            "id": self.id,
            "request_id": call.request_id,
            "server": call.server,
            "operation": call.operation,
            "face": call.face,
            "client": call.client,
            "principal": call.principal.id,
            "customer": call.principal.customer,
            "outcome": call.outcome,
            "ms": round(call.ms, 3),
            "ended": round(self.ended, 3),
        }


@dataclass(frozen=True, slots=True)
class RunningCall:
    """A call that has not ended yet."""

    call: StartedCall
    started: float
    """In seconds since 1970."""

    @property
    def id(self) -> str:
        """What it is called among the calls of this process, also after its end."""
        return _id(self.call.at)

    def shown(self, *, can_cancel: bool) -> dict[str, Any]:
        """Return a line of the console's list of running calls."""
        who = self.call.context
        return {
            "id": self.id,
            "request_id": who.request_id,
            "server": self.call.server,
            "operation": self.call.operation,
            "face": who.face,
            "client": who.client,
            "principal": who.principal.id,
            "customer": who.principal.customer,
            "started": round(self.started, 3),
            "can_cancel": can_cancel,
        }


@dataclass(slots=True)
class _Window:
    """What ended in some steps, by operation."""

    number: int
    of: dict[Key, Histogram] = field(default_factory=dict[Key, Histogram])

    def point(self, sees: Callable[[str, str], bool]) -> _Point:
        """Return all of it that is of some operations, as one point of a chart."""
        point = _Point(self.number)
        for (server, operation, _, outcome), histogram in self.of.items():
            if sees(server, operation):
                point.add(histogram)
                point.errors += 0 if outcome in _NO_FAILURES else histogram.count
        return point


_NONE = Histogram(), "", "", "", "", False
"""Where no call was counted: none has an operation of this name."""


class Activity:
    """A sink that keeps account of calls in memory that does not grow.

    Args:
        servers: the ids of those that there are.
        running: returns the calls that have run for longer than `QUICK` or some more.
        clock: the time in seconds since 1970.
    """

    def __init__(
        self,
        servers: Collection[str],
        running: Callable[[], Iterable[StartedCall]] = tuple,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._servers = {"all", *servers}
        self._clock = clock
        self.began = clock()
        """Since when account is kept."""
        self.count = 0
        """Calls that have ended so far."""
        self._running = running
        self._latest = _NONE
        """Where the latest call was counted, its server, operation, face, outcome, and whether it was the console's."""
        self._past: deque[tuple[float, Sequence[EndedCall]]] = deque()
        """The calls that are remembered, and the time, by the turn of the event loop in which they ended."""
        self._kept = 0
        """How many they are: at least as many as are to be remembered, once there were so many."""
        self._keys: set[Key] = set()
        """What is counted apart."""
        self._before: dict[Key, Histogram] = {}
        """All that ended before the present window."""
        self._window = _Window(0)
        self._windows: deque[_Window] = deque(maxlen=_WINDOWS)
        self.refusals: Counter[tuple[str, str]] = Counter()
        """What the guard has refused, by the outcome of the call and the rule."""
        self._own = [0] * (len(BOUNDS) + 1)
        """In place of a point's counts for the console's own calls: who only looks makes no figures."""
        self._point = _Point(0)
        self._points: deque[_Point] = deque(maxlen=POINTS + 1)

    # As a sink

    def calls_ended(self, calls: Sequence[EndedCall]) -> None:
        """Take what has ended."""
        now = self._clock()
        self._move_on(now)
        point, of = self._point, self._window.of
        longest = point.longest
        # Calls of one kind come in rows, and to see that costs a third of finding their histogram.
        histogram, server, operation, face, outcome, is_own = self._latest
        counts = self._own if is_own else point.counts
        for call in calls:
            if not (
                call.operation is operation and call.outcome is outcome and call.face is face and call.server is server
            ):
                server, operation, face, outcome = call.server, call.operation, call.face, call.outcome
                histogram = of.get((server, operation, face, outcome))
                if histogram is None:
                    histogram = self._histogram(server, operation, face, outcome)
                is_own = operation.startswith(_OWN)
                counts = self._own if is_own else point.counts
            ms = call.ms
            bucket = bisect_left(BOUNDS, ms)
            histogram.counts[bucket] += 1
            histogram.ms += ms
            if ms > histogram.longest:
                histogram.longest = ms
            counts[bucket] += 1
            if ms > longest and not is_own:
                longest = ms
            if outcome != "ok":
                point.errors += not is_own and outcome not in _NO_FAILURES
                if call.rule is not None:
                    self._refused(outcome, call.rule)
        point.longest = longest
        self._latest = histogram, server, operation, face, outcome, is_own
        self.count += len(calls)
        past = self._past
        past.append((now, calls))
        self._kept += len(calls)
        while self._kept - (oldest := len(past[0][1])) >= MOST_REMEMBERED:
            self._kept -= oldest
            past.popleft()

    def _refused(self, outcome: str, rule: str) -> None:
        refused = outcome, rule
        if refused not in self.refusals and len(self.refusals) >= MOST_SERIES:
            refused = OTHERS, OTHERS
        self.refusals[refused] += 1

    def _move_on(self, now: float) -> None:
        """Begin a new point, and a new window, where it is time to."""
        number = int(now) // STEP
        if number == self._point.number:
            return
        self._point = _Point(number)
        self._points.append(self._point)
        if number // _STEPS_A_WINDOW != self._window.number:
            for key, histogram in self._window.of.items():
                self._before.setdefault(key, Histogram()).add(histogram)
            self._window = _Window(number // _STEPS_A_WINDOW)
            self._latest = _NONE
            self._windows.append(self._window)

    def _histogram(self, server: str, operation: str, face: str, outcome: str) -> Histogram:
        """Return where calls are counted of whose like there was none yet in the present window."""
        if operation[0] in "'\"":
            operation = UNKNOWN
        if server not in self._servers:
            server = name if (name := server.strip("'\"").removeprefix("mcp_")) in self._servers else UNKNOWN
        key = server, operation, face, outcome
        if key not in self._keys:
            if len(self._keys) >= MOST_SERIES:
                key = OTHERS, OTHERS, OTHERS, OTHERS
            self._keys.add(key)
        return self._window.of.setdefault(key, Histogram())

    # For those who look

    def totals(self) -> dict[Key, Histogram]:
        """Return how long all calls took that have ended since account is kept."""
        return together((self._before, self._window.of))

    def ended(self, since: int) -> tuple[int, list[PastCall]]:
        """Return the calls that have ended after so many had, the oldest first, and how many have ended now.

        Those that are not remembered any more are left out.
        """
        new = min(self.count - since, MOST_REMEMBERED)
        return self.count, list(islice(self._newest_first(), new))[::-1] if new > 0 else []

    def past(self, id: str) -> PastCall | None:  # noqa: A002 - it is one
        """Return a call that has ended, by its id; None where there was none, or it is forgotten."""
        remembered = islice(self._newest_first(), MOST_REMEMBERED)
        return next((call for call in remembered if call.id == id), None)

    def _newest_first(self) -> Iterator[PastCall]:
        return (PastCall(call, now) for now, calls in reversed(self._past) for call in reversed(calls))

    def running(self, older_than: float = QUICK) -> list[RunningCall]:
        """Return the calls that run for longer than so many seconds, the oldest first; the quickest are not known."""
        now, wall = time.perf_counter(), self._clock()
        calls = sorted(self._running(), key=lambda call: call.at)
        return [RunningCall(call, wall - (now - call.at)) for call in calls if now - call.at >= older_than]

    def snapshot(
        self, now: float | None = None, *, points: int = POINTS, sees: Callable[[str, str], bool] | None = None
    ) -> dict[str, Any]:
        """Return what the console's overview says of calls.

        Args:
            now: the time in seconds since 1970.
            points: how many of the charts' are wanted, from the newest on.
            sees: says whether calls of a server and an operation are counted; all are if left out. Others than all are
                told apart in windows of a minute, so these are the steps then.
        """
        now = self._clock() if now is None else now
        self._move_on(now)
        if sees is None:
            step, found = STEP, {point.number: point for point in self._points}
        else:
            step, points = _WINDOW, max(2, points // _STEPS_A_WINDOW)
            found = {window.number: window.point(sees) for window in list(self._windows)[-points:]}
        newest = int(now) // step
        chosen = [found.get(number) for number in range(newest - points + 1, newest + 1)]
        lately = [found[number] for number in (newest - 1, newest) if number in found]
        seconds = max(1.0, min(step + now % step, now - self.began))
        both = Histogram()
        for point in lately:
            both.add(point)
        p50, p95, p99 = both.quantiles(*_TOLD)
        quantiles = [point.quantiles(*_TOLD) if point else (None,) * len(_TOLD) for point in chosen]
        return {
            "at": round(now, 3),
            "rate": {
                "calls": round(both.count / seconds, 2),
                "errors": round(sum(point.errors for point in lately) / seconds, 2),
            },
            "p50": p50,
            "p95": p95,
            "p99": p99,
            "series": {
                "step": step,
                "from": (newest - points + 1) * step,
                "calls": [point.count if point else 0 for point in chosen],
                "errors": [point.errors if point else 0 for point in chosen],
                "p50": [each[0] for each in quantiles],
                "p95": [each[1] for each in quantiles],
                "p99": [each[2] for each in quantiles],
            },
            **self._outstanding(int(now) // _WINDOW, sees or _sees_all),
        }

    def _outstanding(self, newest: int, sees: Callable[[str, str], bool]) -> dict[str, Any]:
        """Return the slowest operations of the last quarter of an hour, and those that failed most."""
        lately = together(window.of for window in self._windows if window.number > newest - _WINDOWS)
        worked: dict[tuple[str, str], Histogram] = {}
        failed: dict[tuple[str, str], dict[str, int]] = {}
        calls: dict[tuple[str, str], int] = {}
        for (server, operation, face, outcome), histogram in lately.items():
            if not sees(server, operation) or operation.startswith(_OWN):
                continue
            what = server, operation
            calls[what] = calls.get(what, 0) + histogram.count
            if face != "stream":  # which is no slower for lasting as long as somebody reads
                worked.setdefault(what, Histogram()).add(histogram)
            if outcome not in _NO_FAILURES:
                by_outcome = failed.setdefault(what, {})
                by_outcome[outcome] = by_outcome.get(outcome, 0) + histogram.count
        slowest = sorted(worked, key=lambda what: worked[what].quantile(0.95) or 0.0, reverse=True)
        failing = sorted(failed, key=lambda what: sum(failed[what].values()), reverse=True)
        return {
            "slowest": [
                {"server": what[0], "operation": what[1], "calls": calls[what], "p95": worked[what].quantile(0.95)}
                for what in slowest[:_NAMED]
            ],
            "failing": [
                {
                    "server": what[0],
                    "operation": what[1],
                    "calls": calls[what],
                    "errors": sum(failed[what].values()),
                    "outcome": max(failed[what], key=failed[what].__getitem__),
                }
                for what in failing[:_NAMED]
            ],
        }


def _sees_all(server: str, operation: str) -> bool:
    return True


def _id(at: float) -> str:
    """Return a call's name. No two start in the same nanosecond, since one thread starts them all."""
    return f"{round(at * 1e9):x}"


def together(parts: Iterable[Mapping[Key, Histogram]]) -> dict[Key, Histogram]:
    """Return the sums of histograms by key."""
    whole: dict[Key, Histogram] = {}
    for part in parts:
        for key, histogram in part.items():
            whole.setdefault(key, Histogram()).add(histogram)
    return whole


def prometheus_buckets(histogram: Histogram, bounds: Sequence[float]) -> Iterator[tuple[float, int]]:
    """Iterate over some of the bounds, each of `BOUNDS`, with how many calls ended within it."""
    sums = list(accumulate(histogram.counts))
    for bound in bounds:
        yield bound, sums[bisect_left(BOUNDS, bound)]
