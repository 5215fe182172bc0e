"""Several addresses of one server: which to try next, which to leave alone for a while."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

TransportT = TypeVar("TransportT")

_FIRST_REST, _LONGEST_REST = 0.5, 30.0
"""Seconds that a failed address is left alone: doubled with each failure in a row, up to the limit."""


@dataclass(frozen=True)
class RetryPolicy:
    """When a failed attempt is repeated.

    A call that is safe to repeat goes round all addresses of its server, and then waits before the next round:
    between nothing and `base_delay` seconds, doubled each time up to `max_delay` (full jitter), and at
    least as long as `Retry-After` says.
    """

    rounds: int = 6
    """How often all addresses are tried before the failure is the caller's."""
    base_delay: float = 0.1
    max_delay: float = 3.0
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic
    random: Callable[[], float] = random.random

    def delay(self, finished_rounds: int, retry_after: float | None) -> float:
        """Return the seconds to wait after so many rounds."""
        jitter = self.random() * min(self.max_delay, self.base_delay * 2 ** (finished_rounds - 1))
        return jitter + (retry_after or 0.0)


class Endpoint(Generic[TransportT]):
    """One address and how it has been doing."""

    def __init__(self, transport: TransportT) -> None:
        self.transport = transport
        self.in_flight = 0
        self.last_used = 0
        self.failures_in_a_row = 0
        self.rests_until = 0.0

    @contextmanager
    def in_use(self) -> Generator[TransportT]:
        """Count a call that is under way."""
        self.in_flight += 1
        try:
            yield self.transport
        finally:
            self.in_flight -= 1


class Balancer(Generic[TransportT]):
    """Spreads calls over the addresses that work, the least busy first.

    Args:
        transports: one for each address.
        policy: tells the time.
    """

    def __init__(self, transports: Sequence[TransportT], policy: RetryPolicy) -> None:
        self.endpoints = [Endpoint(transport) for transport in transports]
        self._policy = policy
        self._uses = 0

    def pick(self, tried: Collection[Endpoint[TransportT]]) -> Endpoint[TransportT]:
        """Return the address for the next attempt.

        One that rests is taken only if nothing else is left: the call would fail otherwise, and the address may
        be back.

        Args:
            tried: what this call has tried since it last waited; not all of the addresses.
        """
        now = self._policy.clock()
        fresh = [endpoint for endpoint in self.endpoints if endpoint not in tried]
        chosen = min(fresh, key=lambda e: (max(0.0, e.rests_until - now), e.in_flight, e.last_used))
        self._uses += 1
        chosen.last_used = self._uses
        return chosen

    def succeeded(self, endpoint: Endpoint[TransportT]) -> None:
        """Note that an address works."""
        endpoint.failures_in_a_row, endpoint.rests_until = 0, 0.0

    def failed(self, endpoint: Endpoint[TransportT], retry_after: float | None = None) -> None:
        """Leave an address alone for a while: as long as it asks for, or longer with each failure in a row."""
        now = self._policy.clock()
        if endpoint.rests_until <= now:
            # Calls that fail together tell of one failure.
            endpoint.failures_in_a_row += 1
        rest = min(_LONGEST_REST, _FIRST_REST * 2 ** (endpoint.failures_in_a_row - 1))
        endpoint.rests_until = max(endpoint.rests_until, now + (retry_after or rest))
