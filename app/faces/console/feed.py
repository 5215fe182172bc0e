"""`/console/events`: one stream of events for each who looks, of what all of them are told.

Everything is found out and written down once for all who see the same. Whoever does not read is told less, and later
closed by the clock of the connections.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext

import anyio
import msgspec
from starlette.types import Receive, Scope, Send

from app.errors import GatewayError
from app.faces.console.door import UNKEPT, Viewer
from app.faces.console.sight import Sight, Sights
from app.faces.http import call_context
from app.gateway import Gateway
from app.guard.sessions import Sessions
from app.servers.readiness import readiness_of_all
from app.telemetry.activity import POINTS, Activity, PastCall
from app.version import VERSION

_log = logging.getLogger(__name__)
_PAUSE = 0.25
"""Seconds between two looks at what has ended."""
_LOOKS_A_SNAPSHOT = 4
_SNAPSHOTS_A_PING = 2
"""How often the servers' backends are asked, while somebody looks."""
_MOST_LINES = 50
"""Calls that are told of at a time; of more a sample, failures first."""
_NEWEST_POINTS = 2
_FINE = ("ok", "cancelled")
_HEADERS = {
    **UNKEPT,
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store, no-transform",
    "x-accel-buffering": "no",
}


class _Stream:
    """What one viewer has not been sent yet: never more than one snapshot and one sample of calls.

    Args:
        sight: what it sees.
        may_act: whether it may interrupt calls.
    """

    def __init__(self, sight: Sight, *, may_act: bool) -> None:
        self.sight, self.may_act = sight, may_act
        self.told = asyncio.Event()
        self._snapshot = self._calls = b""
        self._missed = 0

    def tell_state(self, snapshot: bytes) -> None:
        """Take a snapshot, in place of the one that was not sent."""
        self._snapshot = snapshot
        self.told.set()

    def tell_calls(self, calls: bytes, count: int) -> None:
        """Take an event that tells of so many calls; they count as dropped where the one before was not sent."""
        if self._calls:
            self._missed += count
        else:
            self._calls = calls
        self.told.set()

    def take(self) -> bytes:
        """Return what is to be sent now."""
        self.told.clear()
        missed = _event("calls", {"dropped": self._missed, "calls": []}) if self._missed else b""
        taken = self._snapshot + self._calls + missed
        self._snapshot = self._calls = b""
        self._missed = 0
        return taken


class Feed:
    """Tells those who look what happens.

    Args:
        gateway: whose calls they are.
        activity: keeps account of them.
        sessions: of browsers; their streams end with them.
    """

    def __init__(self, gateway: Gateway, activity: Activity, sights: Sights, sessions: Sessions | None) -> None:
        self._gateway = gateway
        self._activity = activity
        self._sights = sights
        self._sessions = sessions
        self._streams: dict[_Stream, Callable[[], object]] = {}
        """With what ends each."""
        self._telling: asyncio.Task[None] | None = None
        self._pinging: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send, viewer: Viewer) -> None:
        """Answer with events until the viewer goes, its key or session ends, or the gateway stops."""
        context = call_context(scope, "rest")
        async with self._gateway.listen(None, context, object(), "console/events"):
            fields = {"x-request-id": context.request_id, **_HEADERS}
            raw = [(name.encode(), value.encode()) for name, value in fields.items()]
            await send({"type": "http.response.start", "status": 200, "headers": raw})
            if not scope["state"].get("head"):
                await self._stream(scope, receive, send, viewer)
            await send({"type": "http.response.body", "body": b""})

    async def _stream(self, scope: Scope, receive: Receive, send: Send, viewer: Viewer) -> None:
        ended: GatewayError | None = None

        def end(reason: GatewayError) -> None:
            nonlocal ended
            ended = reason
            lasting.cancel()

        async def wait_for_going() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            lasting.cancel()

        stream = _Stream(self._sights.of(viewer.principal), may_act=viewer.may_act)
        if not all(map(self._gateway.standings.of, stream.sight.servers)):
            await self._look()
        session = viewer.session
        until = nullcontext() if session is None or self._sessions is None else self._sessions.holding(session, end)
        watching = asyncio.create_task(wait_for_going())
        try:
            with (
                anyio.CancelScope() as lasting,
                viewer.principal.holding(end),
                until,
                self._told(stream, lasting.cancel),
            ):
                await send(_part(self._first(stream, viewer)))
                while True:
                    await stream.told.wait()
                    await send(_part(stream.take()))
        finally:
            watching.cancel()
        if ended is not None:
            problem = ended.problem(scope["state"]["request_id"])
            await send(_part(_event("end", problem.model_dump(mode="json", exclude_none=True))))

    @contextmanager
    def _told(self, stream: _Stream, end: Callable[[], object]) -> Generator[None]:
        """Tell a stream what happens, for as long as the block runs."""
        self._streams[stream] = end
        if self._telling is None:
            self._begin()
        try:
            yield
        finally:
            del self._streams[stream]

    def _begin(self) -> None:
        self._gateway.stages.wanted = _MOST_LINES  # as many as are told of at a time
        self._telling = asyncio.create_task(self._tell(), name="telling of the console")
        self._telling.add_done_callback(self._stopped)

    # What is told

    def _first(self, stream: _Stream, viewer: Viewer) -> bytes:
        _, past = self._activity.ended(0)
        seen = [call.shown() for call in past if stream.sight.sees(call.server, call.operation, call.principal)]
        return (
            _event("hello", viewer.shown(self._gateway))
            + self._snapshot(stream.sight, POINTS, may_act=stream.may_act)
            + _event("calls", {"dropped": 0, "calls": seen[-_MOST_LINES:]})
        )

    def _snapshot(self, sight: Sight, points: int, *, may_act: bool) -> bytes:
        gateway = self._gateway
        late = gateway.late
        running = [
            each.shown(can_cancel=may_act and each.call in late)
            for each in self._activity.running()
            if sight.sees(each.call.server, each.call.operation, each.call.context.principal)
        ]
        standings = [(server, gateway.standings.of(server)) for server in sight.servers]
        servers = [sight.shown(server, standing) for server, standing in standings if standing is not None]
        counted = self._activity.snapshot(points=points, sees=None if sight.everything else sight.knows)
        return _event("snapshot", {**counted, "version": VERSION, "servers": servers, "running": running})

    async def _tell(self) -> None:
        """Tell all streams, until there is none or the gateway stops."""
        looks, since = 0, self._activity.count
        closing = asyncio.create_task(self._gateway.closing.wait())
        try:
            while self._streams and not closing.done():
                await asyncio.wait([closing], timeout=_PAUSE)
                looks += 1
                self._gateway.stages.wanted = _MOST_LINES
                since = self._tell_calls(since)
                if looks % _LOOKS_A_SNAPSHOT == 0:
                    self._tell_state()
                if looks % (_LOOKS_A_SNAPSHOT * _SNAPSHOTS_A_PING) == 1:
                    self._ping()
        finally:
            self._gateway.stages.wanted = 0
            closing.cancel()
            if self._pinging is not None:
                self._pinging.cancel()

    def _stopped(self, telling: asyncio.Task[None]) -> None:
        """End the streams that are left where the gateway stops, or after what nobody foresaw."""
        self._telling = None
        error = None if telling.cancelled() else telling.exception()
        if error is not None:
            _log.error("the console's streams have ended, and begin anew", exc_info=error)
        elif self._streams and not self._gateway.closing.is_set():  # somebody came while the last one went
            self._begin()
            return
        for end in list(self._streams.values()):
            end()

    def _tell_calls(self, since: int) -> int:
        count, past = self._activity.ended(since)
        if count == since:
            return count
        forgotten = count - since - len(past)
        written: dict[Sight, tuple[bytes, int]] = {}
        for stream in self._streams:
            sight = stream.sight
            if sight not in written:
                seen = [call for call in past if sight.sees(call.server, call.operation, call.principal)]
                chosen = _sample(seen)
                dropped = len(seen) - len(chosen) + (forgotten if sight.everything else 0)
                told = {"dropped": dropped, "calls": [call.shown() for call in chosen]}
                written[sight] = _event("calls", told) if seen else b"", dropped + len(chosen)
            event, calls = written[sight]
            if event:
                stream.tell_calls(event, calls)
        return count

    def _tell_state(self) -> None:
        written: dict[tuple[Sight, bool], bytes] = {}
        for stream in self._streams:
            key = stream.sight, stream.may_act
            if key not in written:
                written[key] = self._snapshot(stream.sight, _NEWEST_POINTS, may_act=stream.may_act)
            stream.tell_state(written[key])

    def _ping(self) -> None:
        """Ask the backends how they are; what they say is in the next snapshot."""
        if self._pinging is None or self._pinging.done():
            self._pinging = asyncio.create_task(self._look(), name="look at the backends for the console")

    async def _look(self) -> None:
        gateway = self._gateway
        gateway.standings.note(await readiness_of_all(gateway.servers, gateway.turned_off), time.time())


def _sample(calls: Sequence[PastCall]) -> Sequence[PastCall]:
    """Return some calls of many, in their order: failures first, else evenly."""
    if len(calls) <= _MOST_LINES:
        return calls
    failed = [at for at, call in enumerate(calls) if call.outcome not in _FINE][-_MOST_LINES:]
    others = [at for at, call in enumerate(calls) if call.outcome in _FINE]
    room = _MOST_LINES - len(failed)
    chosen = failed + [others[number * len(others) // room] for number in range(min(room, len(others)))]
    return [calls[at] for at in sorted(set(chosen))]


def _event(name: str, content: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(content))


def _part(body: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": body, "more_body": True}
