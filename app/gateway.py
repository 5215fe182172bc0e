"""The one way in. Every face ends up in `Gateway.call`, `read`, `watch` or `admit`.

A call is looked up, admitted (limits), validated, timed, run and logged here and nowhere else, so that
a rule written here holds for REST, MCP, WebSocket and stdio alike.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping, Sequence, Set
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeVar, cast, overload

from pydantic import BaseModel
from pydantic_core import to_json
from pydantic_settings import BaseSettings

from app.budget import Budget
from app.errors import (
    BackendTimeout,
    CallerGone,
    CallerStalled,
    GatewayError,
    InternalError,
    InvalidArguments,
    TooManyRequests,
    UnknownResource,
    UnknownServer,
    UnknownTool,
)
from app.guard.principal import ANONYMOUS
from app.logs import CallLog
from app.lookout import Interruptible, Lookout
from app.results import RawResult, parse_json
from app.servers.base import CLIENT_PREFIX, BaseMCPServer, ServerKind
from app.servers.calls import CallContext
from app.servers.declaring import Resource, Tool, Update
from app.settings import Settings
from app.stages import Stages
from app.telemetry.recorder import EndedCall, Recorder, Sink, StartedCall

T = TypeVar("T")
_STALLED = 2.0
"""Seconds that a stream must have waited for its caller to be ended for the sake of another that wants its place."""
MOST_OF_A_CONNECTION = 128
"""Subscriptions of one connection, or of one stream over HTTP."""
_LEAST_MOVED = 16 * 1024
"""Bytes that a stream's caller sends, or takes, until its clock begins anew."""


@dataclass(slots=True)
class _Serving:
    """A server in this process."""

    kind: ServerKind
    server: BaseMCPServer | None = None
    """The open server; None while the gateway is not open."""
    in_flight: int = 0
    """Calls that it works on."""
    streams: "set[Admission]" = field(default_factory=set["Admission"])
    """Streams that it carries. They last as long as their callers like, so they take no call's place."""

    @property
    def log(self) -> logging.Logger:
        return logging.getLogger(f"MCP.{self.kind.name}")

    def unforeseen(self, error: Exception, context: CallContext) -> InternalError:
        """Log the trace of what nobody foresaw; return what its caller is told."""
        self.log.error("request_id=%s: unforeseen failure", context.request_id, exc_info=error)
        return InternalError()


@dataclass(slots=True)
class _Narrow:
    """A tool with a limit of its own."""

    name: str
    most: int
    in_flight: int = 0


class Gateway:
    """The servers of this process and the rules under which they are called.

    Args:
        kinds: server classes, opened with the gateway, and servers that are constructed already.
        settings: limits of the process.
        sinks: told of every call, beside the log.

    Raises:
        ValueError: two servers claim one name, one tool or one resource scheme, which share `/mcp`.
    """

    def __init__(self, kinds: Sequence[ServerKind], settings: Settings, sinks: Sequence[Sink] = ()) -> None:
        self.settings = settings
        self._sinks = sinks
        self.kinds: dict[str, ServerKind] = {}
        self.subscriptions = 0
        self._subscriptions_of: Counter[str | int] = Counter()
        """By caller, and by the connection that they are of."""
        self.unfinished = Budget(settings.max_unfinished_bytes)
        """What was received and can't be worked on yet: unfinished bodies, requests that wait for the one before."""
        self.recorder: Recorder
        """Tells of every call, while the gateway is open."""
        self.lookout: Lookout
        """Interrupts calls that take too long or have lost their caller, while the gateway is open."""
        self.stopping = False
        """Whether the process was told to stop, and callers should go elsewhere."""
        self.closing = asyncio.Event()
        """Set when the process stops: streams that would never end by themselves end then."""
        self._serving: dict[str, _Serving] = {}
        everything = BaseMCPServer(server_id="all", name="This gateway")
        self._all = _Serving(everything, everything)
        """Counts what is about all servers, so that a busy one does not hide the others."""
        self._tools: dict[tuple[str | None, str], tuple[_Serving, Tool, _Narrow | None]] = {}
        """By server and name, and by name alone."""
        owners: dict[str, str] = {}
        for kind in kinds:
            claims = [f"server name {kind.server_id!r}"]
            claims += [f"tool {name!r}" for name in kind.tools]
            claims += [f"resource scheme {scheme!r}" for scheme in {r.scheme for r in kind.resources.values()}]
            for claim in claims:
                if claim in owners:
                    raise ValueError(f"{kind.name} and {owners[claim]} both claim the {claim}")
                owners[claim] = kind.name
            self.kinds[kind.server_id] = kind
            serving = _Serving(kind)
            self._serving[kind.server_id] = serving
            for name, tool in kind.tools.items():
                found = serving, tool, self._narrow(tool)
                self._tools[kind.server_id, name] = self._tools[None, name] = found
        self._scheme_owner = {r.scheme: kind.server_id for kind in kinds for r in kind.resources.values()}

    @asynccontextmanager
    async def open(self, service_settings: Sequence[BaseSettings] = ()) -> AsyncGenerator[None]:
        """Open every server; close them in reverse order.

        Args:
            service_settings: settings to use in place of what a server reads from the environment.
        """
        self.stopping = False
        self.closing.clear()
        log = CallLog({server_id: serving.log for server_id, serving in self._serving.items()})
        self.recorder = Recorder((log, *self._sinks))
        self.lookout = Lookout()
        given = {type(settings): settings for settings in service_settings}
        async with AsyncExitStack() as stack:
            for serving in self._serving.values():
                if isinstance(serving.kind, BaseMCPServer):
                    serving.server = serving.kind
                elif (wanted := serving.kind.settings_class) is not None:
                    serving.server = serving.kind(settings=given.get(wanted) or wanted())
                else:
                    serving.server = serving.kind()
                if not serving.server.is_started:
                    await stack.enter_async_context(serving.server.opened())
            try:
                yield
            finally:
                self.closing.set()
                self.recorder.flush()
                for serving in self._serving.values():
                    serving.server = None

    @property
    def servers(self) -> Mapping[str, BaseMCPServer]:
        """The open servers by their id."""
        return {server_id: serving.server for server_id, serving in self._serving.items() if serving.server}

    def streams(self, server: str) -> "Set[Admission]":
        """Return the streams that a server carries now."""
        return self._serving[self.kind(server).server_id].streams

    # Look-up

    def kind(self, server: str) -> ServerKind:
        """Return a server's declaration by its name; clients may say `mcp_database` for `database`.

        Raises:
            UnknownServer: the message lists the names that exist.
        """
        found = self.kinds.get(server) or self.kinds.get(server.removeprefix(CLIENT_PREFIX))
        if found is None:
            raise UnknownServer(f"There is no server {_quoted(server)}. Servers: {', '.join(self.kinds)}.")
        return found

    def is_shown(self, kind: ServerKind) -> bool:
        """Tell whether MCP's listings show a server: not if nothing of it could work for lack of a setting."""
        server = self._serving[kind.server_id].server
        return not self.settings.hide_unconfigured or server is None or server.unconfigured() is None

    def kinds_of(self, server: str | None) -> list[ServerKind]:
        """Return the declaration of one server, or of all for None.

        Raises:
            UnknownServer: as for `kind`.
        """
        return list(self.kinds.values()) if server is None else [self.kind(server)]

    def tool(self, server: str | None, name: str, context: CallContext) -> tuple[str, Tool]:
        """Return the owner's id and the declaration of a tool; `server=None` searches all servers.

        Raises:
            UnknownServer, UnknownTool: the message lists the names that exist. The log has a line of it.
        """
        serving, tool, _ = self._find(server, name, context)
        return serving.kind.server_id, tool

    def _narrow(self, tool: Tool) -> _Narrow | None:
        """Return the places of a tool that has a limit of its own: half of the server's are for the others."""
        if tool.max_in_flight is None:
            return None
        return _Narrow(tool.name, min(tool.max_in_flight, max(1, self.settings.max_calls_in_flight // 2)))

    def _find(self, server: str | None, name: str, context: CallContext) -> tuple[_Serving, Tool, _Narrow | None]:
        if found := self._tools.get((server, name)):
            return found
        try:
            return self._find_otherwise(server, name)
        except GatewayError as error:
            where = "all" if server is None else _quoted(server)
            call = StartedCall(where, _quoted(name), context, time.perf_counter())
            self.recorder.started(call)
            self.recorder.ended(EndedCall(call, error.code, 0.0))
            raise

    def _find_otherwise(self, server: str | None, name: str) -> tuple[_Serving, Tool, _Narrow | None]:
        """Find a tool by another spelling of its server's name, or say what there is."""
        if server is None:
            where, names = "this gateway", [name for owner, name in self._tools if owner is None]
        else:
            kind = self.kind(server)
            if found := self._tools.get((kind.server_id, name)):
                return found
            where, names = kind.server_id, list(kind.tools)
        raise UnknownTool(f"There is no tool {_quoted(name)} on {where}. Tools: {', '.join(names)}.")

    def resource(self, server: str | None, uri: str) -> tuple[str, Resource, dict[str, str]]:
        """Return the owner's id, the declaration and the variables of a resource's URI.

        Raises:
            UnknownServer, UnknownResource: nothing of that form is offered.
        """
        if server is None:
            kinds = [self.kinds[owner]] if (owner := self._scheme_owner.get(uri.partition("://")[0])) else []
        else:
            kinds = [self.kind(server)]
        for kind in kinds:
            for resource in kind.resources.values():
                if (variables := resource.match(uri)) is not None:
                    return kind.server_id, resource, variables
        offered = [r.template for kind in (kinds or self.kinds.values()) for r in kind.resources.values()]
        raise UnknownResource(f"There is no resource {_quoted(uri)}. Resources: {', '.join(offered)}.")

    # The ways in

    @overload
    async def call(self, server: str | None, name: str, arguments: bytes, context: CallContext) -> bytes: ...

    @overload
    async def call(
        self, server: str | None, name: str, arguments: bytes, context: CallContext, write: Callable[[Tool, Any], T]
    ) -> T: ...

    async def call(
        self,
        server: str | None,
        name: str,
        arguments: bytes,
        context: CallContext,
        write: Callable[[Tool, Any], Any] = Tool.dump,
    ) -> Any:
        """Run one tool and return its result object as JSON.

        Args:
            server: the server's name, or None to find the tool among all servers.
            name: the tool's name.
            arguments: the arguments object as JSON; nothing means `{}`.
            context: who calls, and how.
            write: writes the result down in the face's own form. A result that can't be written is a failure of the
                tool, so it happens here.

        Raises:
            GatewayError: the only exception, beside cancellation, that leaves this method.
        """
        serving, tool, narrow = self._find(server, name, context)
        limit = tool.timeout or self.settings.tool_timeout
        with Admission(self, serving, tool.name, context, limit, narrow=narrow) as opened:
            if serving.log.isEnabledFor(logging.DEBUG):
                stages = Stages(serving.log, tool.name, context.request_id)
                return await _call_in_stages(stages, opened, tool, arguments, context, write)
            return write(tool, await tool.run(opened, tool.parse(arguments), context))

    async def read(self, server: str | None, uri: str, context: CallContext) -> tuple[str, bytes]:
        """Return the media type and the bytes of a resource.

        Raises:
            GatewayError: as for `call`.
        """
        server_id, resource, variables = self.resource(server, uri)
        with self.admit(server_id, resource.template, context, time_limit=self.settings.tool_timeout) as opened:
            if resource.method is None:
                content = await opened.read_undeclared(uri, context)
            else:
                content = await resource.run(opened, variables, context)
            return resource.mime_type, _resource_bytes(content)

    @asynccontextmanager
    async def watch(
        self, server: str | None, uri: str, context: CallContext, connection: object
    ) -> AsyncGenerator[AsyncIterator[Update]]:
        """Subscribe to a resource: every change after entering is seen by the iterator.

        Args:
            server: the server's name; None for all.
            uri: of the resource.
            context: who subscribes.
            connection: as for `subscription`.

        Raises:
            UnknownResource: there is no such resource.
            InvalidArguments: it exists but can't be watched.
            TooManyRequests: as for `subscription`.
        """
        server_id, resource, variables = self.resource(server, uri)
        if resource.watcher is None:
            raise InvalidArguments.of("uri", f"{_quoted(uri)} can't be subscribed to")
        try:
            keywords = resource.parse(variables)
            async with AsyncExitStack() as stack:
                stack.enter_context(self.subscription(context, connection))
                # Admission covers the start; afterwards a subscription costs no place among the calls in flight.
                with self.admit(
                    server_id, f"watch {resource.template}", context, time_limit=self.settings.tool_timeout
                ) as opened:
                    updates = await stack.enter_async_context(resource.watcher(opened, **keywords))
                yield updates
        except GatewayError:
            raise
        except Exception as error:
            raise self._serving[server_id].unforeseen(error, context) from error

    @contextmanager
    def subscription(self, context: CallContext, connection: object) -> Generator[None]:
        """Count a subscription, or a stream of events without any, while it lasts.

        Args:
            context: whose it is.
            connection: any object that stands for the one connection, or request, which it ends with.

        Raises:
            TooManyRequests: the process, the caller or the connection has as many as it may.
        """
        # Before it is known who calls, its address is all that tells it from others.
        caller = context.address if context.principal is ANONYMOUS else f"principal {context.principal.id}"
        most = self.settings.max_subscriptions
        of_caller = min(most, self.settings.max_subscriptions_per_caller)
        if self.subscriptions >= most:
            raise TooManyRequests(f"This gateway serves at most {most} subscriptions (MAX_SUBSCRIPTIONS).")
        if self._subscriptions_of[caller] >= of_caller:
            raise TooManyRequests(
                f"A caller has at most {of_caller} subscriptions (MAX_SUBSCRIPTIONS_PER_CALLER). End one first."
            )
        if self._subscriptions_of[id(connection)] >= MOST_OF_A_CONNECTION:
            raise TooManyRequests(f"A connection has at most {MOST_OF_A_CONNECTION} subscriptions. End one first.")
        holders = caller, id(connection)
        self.subscriptions += 1
        self._subscriptions_of.update(holders)
        try:
            yield
        finally:
            self.subscriptions -= 1
            for holder in holders:
                self._subscriptions_of[holder] -= 1
                if not self._subscriptions_of[holder]:
                    del self._subscriptions_of[holder]

    def admit(
        self,
        server: str | None,
        operation: str,
        context: CallContext,
        *,
        time_limit: float,
    ) -> "Admission":
        """Let one operation of a server run: the first half of `call`.

        Args:
            server: the server's name; None for what is about all of them, such as a listing.
            operation: what is done, for the log.
            context: who calls, and how.
            time_limit: seconds.

        Returns:
            A context manager that gives the open server. Entering it raises `TooManyRequests` if the server
            works on as many calls as it may. Leaving it turns what went wrong within into a `GatewayError`:
            `BackendTimeout` when the time is up, `InternalError` for anything unforeseen, whose trace is logged
            under the request id.
        """
        serving = self._all if server is None else self._serving[self.kind(server).server_id]
        return Admission(self, serving, operation, context, time_limit)

    def admit_stream(self, server: str, operation: str, context: CallContext) -> "Admission":
        """Let a stream run, as `admit` does, in a place of its own and for as long as its bytes flow.

        Whoever carries it says when it begins to wait for the caller and what that came to; after STREAM_IDLE_TIMEOUT
        seconds of waiting without progress, or at once if it is the one that has waited longest where another wants its
        place, it is interrupted with `CallerStalled`.
        """
        return Admission(self, self._serving[self.kind(server).server_id], operation, context, None)


class Admission(Interruptible):
    """One operation while it runs: counted, timed, and logged when it ends.

    A class, where a generator would read shorter, because every call passes here.
    """

    __slots__ = (
        "_call",
        "_gateway",
        "_moved",
        "_narrow",
        "_seconds",
        "_serving",
        "_timer",
        "_waited",
        "waiting_since",
    )

    def __init__(
        self,
        gateway: Gateway,
        serving: _Serving,
        operation: str,
        context: CallContext,
        seconds: float | None,
        narrow: _Narrow | None = None,
    ) -> None:
        self._gateway = gateway
        self._serving = serving
        self._call = StartedCall(serving.kind.server_id, operation, context, time.perf_counter())
        self._seconds = seconds
        self._narrow = narrow
        self._timer: asyncio.TimerHandle | None = None
        if seconds is None:
            self.waiting_since: float | None = None
            """Of a stream: since when it waits for its caller, by the loop's clock; None while it does not."""
            self._waited = 0.0
            self._moved = 0

    def __enter__(self) -> BaseMCPServer:
        gateway, serving = self._gateway, self._serving
        assert serving.server is not None, "the gateway is not open"
        gateway.recorder.started(self._call)
        try:
            if self._seconds is None:
                self._take_stream()
            elif serving.in_flight >= (most := gateway.settings.max_calls_in_flight):
                raise TooManyRequests(f"{serving.server.name} works on {most} calls already. Repeat in a moment.")
            elif (narrow := self._narrow) is None:
                serving.in_flight += 1
            elif narrow.in_flight >= narrow.most:
                raise TooManyRequests(f"{narrow.name} works on {narrow.most} calls already. Repeat in a moment.")
            else:
                narrow.in_flight += 1
                serving.in_flight += 1
        except TooManyRequests:
            self._ended(TooManyRequests.code)
            raise
        self.begin(gateway.lookout)
        return serving.server

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._seconds is None:
            self._serving.streams.discard(self)
        else:
            self._serving.in_flight -= 1
            if self._narrow is not None:
                self._narrow.in_flight -= 1
        if self._timer is not None:
            self._timer.cancel()
        reason = self.end(error)
        if error is None:
            self._ended("ok")
        elif reason is not None:
            self._ended("cancelled" if isinstance(reason, CallerGone) else reason.code)
            raise reason from error
        elif isinstance(error, GatewayError):
            self._ended(error.code)
        elif isinstance(error, Exception):
            self._ended(InternalError.code)
            raise self._serving.unforeseen(error, self._call.context) from error
        else:
            self._ended("cancelled")

    def overdue(self) -> None:
        """Set the clock and watch the caller, which most calls end too early to need."""
        if self._seconds is None:
            self._look_for_a_stall()
        else:
            left = self._call.at + self._seconds - time.perf_counter()
            self._timer = self._lookout.loop.call_later(left, self._time_is_up)
        if (gone := self._call.context.gone) is not None:
            self.interrupt_after(gone, CallerGone())

    def _time_is_up(self) -> None:
        self.interrupt(BackendTimeout(f"{self._call.operation} took longer than {self._seconds:g} s and was stopped."))

    def _take_stream(self) -> None:
        """Take a place among the server's streams; the one that has waited longest for its caller makes room."""
        streams, most = self._serving.streams, self._gateway.settings.max_streams
        if len(streams) >= most:
            stalled = max(streams, key=lambda stream: stream.waited() if stream.waiting_since is not None else -1.0)
            if stalled.waiting_since is None or stalled.waited() < _STALLED:
                raise TooManyRequests(f"{self._serving.kind.name} carries {most} streams already (MAX_STREAMS).")
            streams.remove(stalled)
            stalled.interrupt(CallerStalled("Nothing was sent or taken, and another stream wants the place."))
        streams.add(self)

    def wait_for_caller(self) -> None:
        """Note that a stream waits for its caller to send, or to take, something."""
        self.waiting_since = self._lookout.loop.time()

    def go_on(self, moved: int) -> None:
        """Note that a stream's caller has sent, or taken, so many bytes. A few make no progress."""
        self._waited, self.waiting_since = self.waited(), None
        self._moved += moved
        if self._moved >= _LEAST_MOVED:
            self._waited, self._moved = 0.0, 0

    def waited(self) -> float:
        """Return for how many seconds a stream has waited for its caller since it last got on."""
        now = self._lookout.loop.time()
        return self._waited + (now - self.waiting_since if self.waiting_since is not None else 0.0)

    def _look_for_a_stall(self) -> None:
        """Interrupt a stream that has waited too long for its caller; else look again when it might have."""
        limit = self._gateway.settings.stream_idle_timeout
        left = limit - self.waited()
        if left > 0:
            self._timer = self._lookout.loop.call_later(left, self._look_for_a_stall)
        else:
            few = f"Less than {_LEAST_MOVED} bytes"
            self.interrupt(CallerStalled(f"{few} were sent or taken in {limit:g} s (STREAM_IDLE_TIMEOUT)."))

    def _ended(self, outcome: str) -> None:
        call = self._call
        self._gateway.recorder.ended(EndedCall(call, outcome, (time.perf_counter() - call.at) * 1e3))


async def _call_in_stages(
    stages: Stages,
    opened: BaseMCPServer,
    tool: Tool,
    arguments: bytes,
    context: CallContext,
    write: Callable[[Tool, Any], Any],
) -> Any:
    """Do what `call` does once it is admitted, and tell the log of each stage."""
    with stages.shown():
        parsed = tool.parse(arguments)
        stages.end("parsed")
        try:
            result = await tool.run(opened, parsed, context)
        finally:
            stages.end("ran")
        written = write(tool, result)
        stages.end("wrote")
        return written


def _quoted(name: str, limit: int = 100) -> str:
    """Return a caller's name for a thing, fit to be shown again."""
    shown = "".join(c if c.isprintable() else "?" for c in name[:limit])
    return f"{shown!r}" + ("…" if len(name) > limit else "")


def _resource_bytes(content: Any) -> bytes:
    if isinstance(content, RawResult):
        return cast("RawResult[Any]", content).json
    if isinstance(content, BaseModel):
        return content.__pydantic_serializer__.to_json(content)
    if isinstance(content, bytes):
        return content
    if isinstance(content, str):
        return content.encode()
    body = to_json(content, inf_nan_mode="constants")
    parse_json(body)  # NaN is no JSON
    return body
