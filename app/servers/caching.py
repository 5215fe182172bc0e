"""Results that are answered from memory for a while, where a tool or a resource says so: `@tool(cache_seconds=30)`.

It stands after all that the pipeline asks: who may not call is refused whatever is remembered, and what is remembered
is each identity's own. Failures are not remembered.
"""

import hashlib
import pickle
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Never

from pydantic import BaseModel

from app.guard.principal import Principal
from app.results import RawResult, RememberedJson
from app.single_flight import SingleFlights

MAX_CACHE_SECONDS = 3600.0
MOST_REMEMBERED_BYTES = 8 * 1024 * 1024
"""Of a server's results."""
MOST_REMEMBERED = 1000
LARGEST_REMEMBERED = MOST_REMEMBERED_BYTES // 8
"""Bytes of a result beyond which it is not remembered, since it would push out too many others."""


def key_of(name: str, principal: Principal, arguments: Any) -> bytes | None:
    """Return what is equal for calls that may be answered alike; None where nobody can tell.

    Args:
        name: of the tool, or the resource's template.
        principal: who calls. Credentials are not compared: two keys of one identity see the same.
        arguments: what a method is given, after it is parsed and judged.
    """
    identity = principal.id, sorted(principal.roles), principal.tenant, principal.customer
    written = BytesIO()
    try:
        _Writer(written).dump((name, identity, arguments))
    except (pickle.PicklingError, TypeError, AttributeError):  # of a type that says so
        return None
    return hashlib.sha256(written.getbuffer()).digest()


class _Writer(pickle.Pickler):
    """Writes all that a method can see of what it is given, which JSON is not: a secret is written as stars there,
    fields can be left out of it or rounded, and a model does not tell what it was not given. Nobody reads it.
    """

    def __init__(self, target: BytesIO) -> None:
        super().__init__(target, pickle.HIGHEST_PROTOCOL)
        self.fast = True  # equal things are written alike, be they one object or two

    def reducer_override(self, given: Any) -> Any:
        if isinstance(given, BaseModel):
            parts = given.__dict__, given.__pydantic_extra__, given.__pydantic_private__
            return _never, (type(given), sorted(given.model_fields_set), parts)
        if isinstance(given, type):  # by its name alone, so that it may stand within a function
            return _never, (given.__module__, given.__qualname__)
        return NotImplemented


def _never(*_: object) -> Never:
    """Stand where a pickle says what would make its object again: this one is digested, and nobody reads it."""
    raise NotImplementedError


def check_cache_seconds(
    name: str, seconds: float | None, *, read_only: bool, takes_context: bool, is_watched: bool = False
) -> None:
    """Refuse to remember results where that could not be right.

    Args:
        name: of what is declared.
        seconds: as declared.
        read_only: whether it changes nothing.
        takes_context: whether it is told more of a call than who makes it.
        is_watched: whether callers are told of its changes, and then read it again.

    Raises:
        TypeError: the message says why.
    """
    if seconds is None:
        return
    if not 0 < seconds <= MAX_CACHE_SECONDS:
        raise TypeError(f"{name}: cache_seconds is above 0 and at most {MAX_CACHE_SECONDS:g}")
    if not read_only:
        raise TypeError(f"{name}: cache_seconds goes with read_only=True; what a call changes, memory does not")
    if takes_context:
        raise TypeError(f"{name}: cache_seconds does not go with a parameter of type CallContext, of which each is one")
    if is_watched:
        raise TypeError(f"{name}: cache_seconds does not go with @watch, whose notices say that there is news to read")


@dataclass(slots=True)
class _Remembered:
    json: bytes
    at: float
    until: float
    size: int


@dataclass(eq=False, slots=True)
class _Flight:
    began: float


@dataclass(eq=False)
class ResultCache:
    """What a server remembers of its results, and the calls that work on what identical ones wait for.

    Args:
        clock: seconds that only go on.
    """

    clock: Callable[[], float] = time.monotonic
    size: int = 0
    """Bytes that it holds."""
    _kept: "OrderedDict[bytes, _Remembered]" = field(default_factory=OrderedDict[bytes, _Remembered])
    _joined: dict[bytes, _Flight] = field(default_factory=dict[bytes, _Flight])
    """The one that others may join, as long as its own caller waits: a call that hangs has that caller's clock, and who
    comes after begins anew, where all who come one after the other would hang with it for ever."""
    _flights: SingleFlights[bytes] = field(default_factory=SingleFlights[bytes])

    def __len__(self) -> int:
        return len(self._kept)

    async def result(self, key: bytes | None, seconds: float, make: Callable[[], Awaitable[bytes]]) -> RawResult[Any]:
        """Return what is remembered, or what is made now; `json` is `RememberedJson` if it is older than the call.

        Args:
            key: of the call; None makes it anew.
            seconds: for how long a result is remembered, from when its making began; nor is one older for those who
                wait for it.
            make: runs the call.
        """
        if key is None:
            return RawResult(await make())
        found = self._kept.get(key)
        now = self.clock()
        if found is not None:
            if now < found.until:
                return RawResult(RememberedJson(found.json, now - found.at))
            self._forget(key)

        flight = self._joined.get(key)
        if flight is not None and now - flight.began < seconds:
            return RawResult(await self._flights.run(flight, make))
        flight = self._joined[key] = _Flight(now)

        async def work() -> bytes:
            json = await make()
            self._keep(key, json, flight.began, seconds)
            return json

        try:
            return RawResult(await self._flights.run(flight, work))
        finally:
            if self._joined.get(key) is flight:
                del self._joined[key]

    def _keep(self, key: bytes, json: bytes, began: float, seconds: float) -> None:
        size = len(json)
        until = began + seconds
        if size > LARGEST_REMEMBERED or until <= self.clock():
            return
        if (other := self._kept.get(key)) is not None:
            if other.at > began:
                return
            self._forget(key)
        self._kept[key] = _Remembered(json, began, until, size)
        self.size += size
        while self.size > MOST_REMEMBERED_BYTES or len(self._kept) > MOST_REMEMBERED:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: bytes) -> None:
        self.size -= self._kept.pop(key).size
