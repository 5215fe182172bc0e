"""Token buckets: how many calls somebody may make in a while."""

import re
import time
from dataclasses import dataclass, field
from typing import Self

_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}
_RATE = re.compile(r"(?P<calls>[1-9][0-9]{0,8})/(?P<unit>s|min|h)(?: burst (?P<burst>[1-9][0-9]{0,8}))?")
_MOST_BUCKETS = 65_536
"""Buckets that are kept. One that is full again says no more than none, so it is the full ones that go first."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A limit such as `600/min burst 60`.

    Args:
        per_second: calls a second, in the long run.
        burst: calls that may come at once after a pause.
    """

    per_second: float
    burst: int
    text: str = field(default="", compare=False)
    """As it was written."""

    def __str__(self) -> str:
        return self.text or f"{self.per_second:g}/s burst {self.burst}"

    @classmethod
    def read(cls, text: str) -> Self:
        """Read a limit; without `burst` a tenth of it, at least one call, may come at once.

        Raises:
            ValueError: the message says what is expected.
        """
        found = _RATE.fullmatch(text.strip())
        if found is None:
            raise ValueError("expected a limit such as '600/min burst 60' or '5/s'")
        calls = int(found["calls"])
        return cls(calls / _UNITS[found["unit"]], int(found["burst"] or max(1, calls // 10)), text.strip())


class RateLimiter:
    """Buckets by whatever is limited, such as a principal with a role.

    A bucket is two numbers that are brought up to date when somebody asks: no timer, no task, 0.3 µs a call.
    """

    def __init__(self) -> None:
        self._buckets: dict[object, tuple[float, float]] = {}
        """Tokens, and when there were so many, by the monotonic clock."""

    def take(self, key: object, rate: Rate, tokens: int = 1, now: float | None = None) -> float:
        """Take tokens out of a bucket, or none at all if there are not enough.

        Args:
            key: whose bucket.
            rate: how it fills. Another rate for the same key holds from now on.
            tokens: how many; a batch of 50 calls costs 50. More than the burst can never be had. Less than none gives
                back what was taken.
            now: the time, by the monotonic clock; the present if left out.

        Returns:
            Seconds until there will be enough: 0.0 means that they were taken, infinity that they never will be.
        """
        if now is None:
            now = time.monotonic()
        held = self._buckets.get(key)
        left = float(rate.burst)
        if held is not None and (filled := held[0] + (now - held[1]) * rate.per_second) < left:
            left = filled
        if left >= tokens:
            if held is None and len(self._buckets) >= _MOST_BUCKETS:
                self._forget()
            self._buckets[key] = left - tokens, now
            return 0.0
        return (tokens - left) / rate.per_second if tokens <= rate.burst else float("inf")

    def overdraw(self, key: object, rate: Rate, now: float | None = None) -> None:
        """Take a token that may not be there, for what is known only afterwards; at most a burst of them is missing."""
        if now is None:
            now = time.monotonic()
        tokens, since = self._buckets.get(key, (float(rate.burst), now))
        left = min(rate.burst, tokens + (now - since) * rate.per_second)
        self._buckets[key] = max(left - 1, -rate.burst), now

    def _forget(self) -> None:
        """Drop the half that was used longest ago: these are the fullest."""
        oldest = sorted(self._buckets, key=lambda key: self._buckets[key][1])[: _MOST_BUCKETS // 2]
        for key in oldest:
            del self._buckets[key]
