"""The one way in, and the one pipeline: whatever a caller wants done is an `Operation`, and passes the same stages.

1. *Look up* what is wanted among what the principal may see (`offered_to`).
2. *Admit* it: the right to do it and its limit (`Guard.admit`), a place, and a clock (`Admission`).
3. *Parse* what was given as arguments. Nobody without the right to call has learned by now what they are called.
4. *Judge* what was parsed (`Guard.judge`), since one thing has many spellings.
5. *Run* it, and write its result down.
6. *Record* how it ended, whichever way that was.

So a rule written here holds for REST, MCP, WebSocket and stdio alike, for tools, resources, streams, watches
and listings.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Mapping,
    Sequence,
    Set,
)
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any, Literal, TypeVar, cast, overload

from pydantic import BaseModel
from pydantic_core import to_json
from pydantic_settings import BaseSettings
from starlette.requests import Request
from starlette.responses import Response

from app.admission import Admission, Narrow, Serving, StreamAdmission, Surroundings, traced
from app.budget import LARGE, Budget, Share
from app.catalogue import Catalogue, Offer, quoted
from app.errors import (
    GatewayError,
    InsufficientScope,
    InvalidArguments,
    TooManyRequests,
    UnknownResource,
    UnknownServer,
    UnknownTool,
)
from app.guard.confinement import confine, not_confined, with_own_key
from app.guard.guard import Guard
from app.guard.policy import Permit
from app.guard.principal import Principal
from app.guard.vocabulary import PROMPTS
from app.logs import CallLog
from app.lookout import Lookout
from app.results import ProtocolResult, RawResult, parse_json, writer_of
from app.servers.base import BaseMCPServer, ServerKind
from app.servers.calls import CallContext
from app.servers.confining import PUBLIC
from app.servers.operations import Operation, no_arguments
from app.servers.readiness import Standings
from app.servers.resources import Resource, Update
from app.servers.routes import HttpRoute
from app.servers.tools import Tool
from app.settings import Settings
from app.stages import KeptStages, Stages
from app.telemetry.recorder import Recorder, Sink, StartedCall, Tracing, ended_call

T = TypeVar("T")
FoundT = TypeVar("FoundT")
MOST_OF_A_CONNECTION = 128
"""Subscriptions of one connection, or of one stream over HTTP."""
_MOST_SEEN = 10_000
"""Principals of whom it is kept what they may see."""
_LISTEN = "subscriptions/listen"
What = Literal["server", "tool", "resource"]
About = tuple[Literal["resource"], str] | tuple[Literal["prompt"], str | None]
"""What a method is about that a server answers itself: a resource, a prompt, or without a name neither of them."""
Respond = Callable[[Request], Awaitable[Response]]
"""Answers a request with a response that may stream."""
Carry = Callable[[StreamAdmission, Respond], Awaitable[None]]
"""Carries a stream to its end."""


class Gateway:
    """The servers of this process and the rules under which they are called.

    Args:
        kinds: server classes, opened with the gateway, and servers that are constructed already.
        settings: limits of the process.
        sinks: told of every call, beside the log.
        guard: says who may do what; without one everybody may do everything.
        tracing: makes a span of each call.

    Raises:
        ValueError: two servers claim one name, one tool or one resource scheme, which share `/mcp`.
    """

    def __init__(
        self,
        kinds: Sequence[ServerKind],
        settings: Settings,
        sinks: Sequence[Sink] = (),
        guard: Guard | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.settings = settings
        self._tracing = tracing
        self.guard = guard
        self.catalogue = Catalogue(kinds)
        """All that this process serves, for whoever builds ways to it. What somebody may see of it: `offered_to`."""
        self._confined = self.catalogue.restricted(partial(_confined_tool, ruled=guard is not None), _confined_resource)
        """What there is of it for callers that are bound to one customer."""
        self._seen: dict[int, tuple[Principal, Catalogue]] = {}
        """What those who called lately may see, by their place in memory, which is theirs while they are kept here:
        to compare principals field by field takes longer than all else that is asked of one."""
        self.subscriptions = 0
        self._subscriptions_of: Counter[str | int] = Counter()
        """By caller, and by the connection that they are of."""
        self.unfinished = Budget(settings.max_unfinished_bytes)
        """What was received and can't be worked on yet: unfinished bodies, requests that wait for the one before."""
        self.results = Budget(settings.max_unsent_bytes)
        """Large results that are made and not yet on their way."""
        self.standings = Standings()
        """How the servers stand, for those who look at all of them."""
        self.stopping = False
        """Whether the process was told to stop, and callers should go elsewhere."""
        self.closing = asyncio.Event()
        """Set when the process stops: streams that would never end by themselves end then."""
        self.stages = KeptStages()
        """Where the time of single calls went, while somebody looks at them."""
        self._sinks = sinks
        self._around: Surroundings
        """There while the gateway is open."""
        self._serving: dict[ServerKind, Serving] = {kind: self._served(kind) for kind in kinds}
        self._all = BaseMCPServer(server_id="all", name="This gateway")
        """Counts what is about all servers, so that a busy one does not hide the others."""
        self._serving[self._all] = Serving(self._all, logging.getLogger("MCP"), self._all)

    def _served(self, kind: ServerKind) -> Serving:
        # Half of a server's places are for the tools that have no limit of their own.
        half = max(1, self.settings.max_calls_in_flight // 2)
        limits = {name: tool.max_in_flight for name, tool in kind.tools.items()}
        narrow = {name: Narrow(min(limit, half)) for name, limit in limits.items() if limit is not None}
        return Serving(kind, logging.getLogger(f"MCP.{kind.name}"), narrow=narrow)

    @asynccontextmanager
    async def open(
        self, service_settings: Sequence[BaseSettings] = (), *, only_examined: bool = False
    ) -> AsyncGenerator[None]:
        """Open every server; close them in reverse order.

        Args:
            service_settings: settings to use in place of what a server reads from the environment.
            only_examined: servers that are opened here are looked at, and begin nothing by themselves.
        """
        self.stopping = False
        self.closing.clear()
        log = CallLog({serving.kind.server_id: serving.log for serving in self._serving.values()})
        self._around = Surroundings(self.settings, Recorder((log, *self._sinks)), Lookout(), self.guard, self._tracing)
        given = {type(settings): settings for settings in service_settings}
        async with AsyncExitStack() as stack:
            for kind in self.catalogue.servers.values():
                if isinstance(kind, BaseMCPServer):
                    server = kind
                else:
                    read: dict[str, Any] = {
                        name: given.get(wanted) or wanted() for name, wanted in kind.all_settings().items()
                    }
                    server = kind(**read)
                self._serving[kind].server = server
                if not server.is_started:
                    server.is_only_examined = only_examined
                    await stack.enter_async_context(server.opened())
            try:
                yield
            finally:
                self.closing.set()
                self._around.recorder.flush()
                for kind in self.catalogue.servers.values():
                    self._serving[kind].server = None

    @property
    def servers(self) -> Mapping[str, BaseMCPServer]:
        """The open servers by their id."""
        found = {name: self._serving[kind].server for name, kind in self.catalogue.servers.items()}
        return {name: server for name, server in found.items() if server is not None}

    @property
    def lookout(self) -> Lookout:
        """Interrupts what takes too long or has lost its caller, while the gateway is open."""
        return self._around.lookout

    @property
    def late(self) -> Mapping[StartedCall, Admission]:
        """What has run for longer than most calls do, and may be interrupted."""
        return {each.call: each for each in self._around.lookout.late if isinstance(each, Admission)}

    def in_flight(self, server: str) -> int:
        """Return how many calls a server works on now."""
        return self._serving[self.catalogue.server(server)].in_flight

    def streams(self, server: str) -> Set[StreamAdmission]:
        """Return the streams that a server carries now."""
        return self._serving[self.catalogue.server(server)].streams

    def offered_to(self, principal: Principal) -> Catalogue:
        """Return what a principal may see: its calls are looked up there, and its listings made from it."""
        held = self._seen.get(id(principal))
        return self._see(principal) if held is None else held[1]

    def _see(self, principal: Principal) -> Catalogue:
        """Find what a principal may see, and keep it: it stays as long as the process."""
        whole = self.catalogue if principal.customer is None else self._confined
        seen = whole if self.guard is None else self.guard.offered_to(principal, whole)
        if len(self._seen) >= _MOST_SEEN:
            self._seen.clear()
        self._seen[id(principal)] = principal, seen
        return seen

    def is_shown(self, kind: ServerKind) -> bool:
        """Tell whether MCP's listings show a server: not if nothing of it could work for lack of a setting."""
        server = self._serving[kind].server
        return not self.settings.hide_unconfigured or server is None or server.unconfigured() is None

    def turned_off(self, server: str) -> Mapping[str, GatewayError]:
        """Return the tools of a server that a rule has turned off, each with the reason."""
        return {} if self.guard is None else self.guard.turned_off(server)

    def refuses_operator(self, scope: str, principal: Principal) -> GatewayError | None:
        """Return why a principal may not do what operators may be allowed to; None if it may.

        Args:
            scope: one of `OPERATORS`, such as `metrics:read`.
            principal: who would do it. Nobody who is bound to a customer may: all callers are shown there.
        """
        of, _, name = scope.partition(":")
        if principal.customer is not None:
            return not_confined(scope)
        if self.guard is None or self.guard.allows(principal, of, name):
            return None
        return self.guard.why_not(principal, of, name)

    def lacks_scope(
        self, server: str | None, wanted: Iterable[tuple[What, str]], context: CallContext
    ) -> InsufficientScope | None:
        """Return why a principal may use nothing of what it wants; None if it may, or if that is not the reason.

        For faces that have to say so before they look at the rest of a request.

        Args:
            server: the server's name; None for all.
            wanted: what it wants; one of them is enough.
            context: who calls, and how.
        """
        refusal: GatewayError | None = None
        name = ""
        for what, name in wanted if self.guard is not None else ():
            find = _FINDERS[what]
            try:
                find(self.offered_to(context.principal), server, name)
            except (UnknownServer, UnknownTool, UnknownResource):
                refusal = self._why_not(find, server, name, context.principal)
            else:
                return None
        return self._told_ahead(refusal, server, name, context)

    def lacks_answer(self, server: str, method: str, about: About, context: CallContext) -> InsufficientScope | None:
        """Return the same of what a server does itself for a method of the protocol.

        Args:
            server: its id.
            method: of the protocol, for the log.
            about: what it is about.
            context: who calls, and how.
        """
        if context.principal.customer is not None:
            return None
        match about:
            case ("resource", uri):
                return self.lacks_scope(server, [("resource", uri)], context)
            case ("prompt", name):
                refusal = self.refuses_prompt(server, name, context.principal)
                return self._told_ahead(refusal, server, method, context)

    def _told_ahead(
        self, refusal: GatewayError | None, server: str | None, name: str, context: CallContext
    ) -> InsufficientScope | None:
        """Return and record a refusal if faces have to tell it before they look at the rest of a request."""
        if not isinstance(refusal, InsufficientScope):
            return None
        self._record_refusal(refusal, server, name, context)
        return refusal

    def server_for(self, name: str, principal: Principal) -> str:
        """Return the id of a server that a principal may use something of.

        Args:
            name: as clients say it.
            principal: who would use it.

        Raises:
            UnknownServer: there is no such server.
            InsufficientScope, NotConfined: there is, and nothing of it is for this principal.
        """
        try:
            return _server(self.offered_to(principal), name, "").server_id
        except UnknownServer as error:
            raise self._why_not(_server, name, "", principal) or error from None

    def refuses_prompt(self, server: str, name: str | None, principal: Principal) -> GatewayError | None:
        """Return why a principal may not use a prompt; None if it may.

        Args:
            server: the server's id.
            name: of the prompt; None for what else a server does itself for methods of the protocol.
            principal: who would use it. Nobody knows how to confine that to a customer.
        """
        what = self._prompt(server, name)
        if principal.customer is None and (self.guard is None or self.guard.allows(principal, server, what)):
            return None
        return self._kept_from(principal, server, what)

    def _prompt(self, server: str, name: str | None) -> str:
        return PROMPTS if self.guard is None else self.guard.policy.prompt(server, name)

    def shows_prompts(self, server: str, principal: Principal) -> bool:
        """Tell whether some prompt of a server is for a principal."""
        return principal.customer is None and (self.guard is None or self.guard.allows_prompts(principal, server))

    # The ways in

    @overload
    async def call(
        self, server: str | None, name: str, arguments: bytes, context: CallContext, *, held: Share | None = None
    ) -> bytes: ...

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
        write: Callable[[Tool, Any], Any] | None = None,
        *,
        held: Share | None = None,
    ) -> Any:
        """Run one tool and return its result object as JSON.

        Args:
            server: the server's name, or None to find the tool among all servers.
            name: the tool's name.
            arguments: the arguments object as JSON; nothing means `{}`.
            context: who calls, and how.
            write: writes the result down in the face's own form, `Tool.dump` if left out. A result that can't be
                written is a failure of the tool, so it happens here.
            held: results that are a part of the same answer; they are no reason to refuse this one.

        Raises:
            GatewayError: the only exception, beside cancellation, that leaves this method.
        """
        offer = self.offered_to(context.principal).find_tool(server, name)
        if offer is None:  # by this spelling of its server's name, at least
            offer = self._look_up(Catalogue.tool, server, name, context)
        written = offer.declared.dump if write is None else partial(write, offer.declared)
        return await self.run(offer, arguments, context, written, held=held)

    def run(
        self,
        offer: Offer[Tool],
        arguments: bytes,
        context: CallContext,
        write: Callable[[Any], T],
        *,
        held: Share | None = None,
    ) -> Awaitable[T]:
        """Run one tool that was looked up just now, among what the caller may see (`offered_to`).

        All else is as for `call`; `write` knows which tool's result it writes down.
        """
        tool = offer.declared
        admission = Admission(self._around, self._serving[offer.kind], tool.operation, context, offer.permit)
        return self._pass(admission, arguments, write, changes=not tool.read_only, held=held)

    async def read(self, server: str | None, uri: str, context: CallContext) -> tuple[str, bytes]:
        """Return the media type and the bytes of a resource.

        Raises:
            GatewayError: as for `call`.
        """
        offer, variables = self._look_up(Catalogue.resource, server, uri, context)
        resource = offer.declared
        admission = Admission(self._around, self._serving[offer.kind], resource.reading(uri), context, offer.permit)
        return resource.mime_type, await self._pass(admission, variables, _resource_bytes)

    @asynccontextmanager
    async def watch(
        self, server: str | None, uri: str, context: CallContext, connection: object
    ) -> AsyncGenerator[AsyncIterator[Update]]:
        """Subscribe to a resource: every change after entering is seen by the iterator.

        Args:
            server: the server's name; None for all.
            uri: of the resource.
            context: who subscribes.
            connection: any object that stands for the one connection, or request, which it ends with.

        Raises:
            UnknownResource: there is no such resource.
            InvalidArguments: it exists but can't be watched.
            TooManyRequests: the process, the caller or the connection has as many as it may.
        """
        offer, variables = self._look_up(Catalogue.resource, server, uri, context)
        serving, resource = self._serving[offer.kind], offer.declared

        def parse(given: Mapping[str, str]) -> dict[str, Any]:
            if resource.watcher is None:
                raise InvalidArguments.of("uri", f"{quoted(uri)} can't be subscribed to")
            return resource.parse(given)

        async def begin(server: BaseMCPServer, arguments: dict[str, Any], _: CallContext) -> AsyncIterator[Update]:
            stack.enter_context(self._subscription(context, connection))
            return await stack.enter_async_context(resource.watch(server, arguments, context))

        operation = Operation(
            f"watch {resource.template}",
            resource.template,
            parse,
            begin,
            True,
            resource.with_arguments,
            confinement=resource.watch_confinement,
        )
        try:
            async with AsyncExitStack() as stack:
                # Only the start is a call: afterwards a subscription takes no place among the calls in flight.
                yield await self._pass(Admission(self._around, serving, operation, context), variables, _as_it_is)
        except GatewayError:
            raise
        except Exception as error:
            raise serving.unforeseen(error, context) from error

    @asynccontextmanager
    async def listen(
        self, server: str | None, context: CallContext, connection: object, name: str = _LISTEN
    ) -> AsyncGenerator[None]:
        """Begin a stream of events that watches nothing: while it lasts it counts like one that does.

        Args:
            server: the server's name; None for all.
            context: who listens.
            connection: as for `watch`.
            name: of the stream, for the log.

        Raises:
            GatewayError: as for `call`.
        """
        kind = self._all if server is None else self._look_up(_server, server, name, context)

        async def begin(*_: object) -> None:
            stack.enter_context(self._subscription(context, connection))

        operation = Operation(name, None, _as_it_is, begin, True, no_arguments)
        with ExitStack() as stack:
            yield await self._pass(Admission(self._around, self._serving[kind], operation, context), None, _as_it_is)

    async def stream(self, server: str, route: HttpRoute, path: str, context: CallContext, carry: Carry) -> None:
        """Run a server's plain HTTP route, its streaming included, under the rules of the tool that it acts as.

        Args:
            server: the server's name.
            route: one of its routes.
            path: of the request, below the server's, as it came over the wire.
            context: who calls, and how.
            carry: carries the stream.

        Raises:
            GatewayError: as for `call`.
        """
        offer = self._look_up(Catalogue.tool, server, route.acts_as, context)

        async def run(server: BaseMCPServer, arguments: dict[str, Any], context: CallContext) -> None:
            await carry(stream, partial(route.method, server, context=context, **arguments))

        operation = Operation(
            route.name,
            route.acts_as,
            route.parse,
            run,
            offer.declared.read_only,
            route.with_arguments,
            confinement=route.confinement,
        )
        stream = StreamAdmission(self._around, self._serving[offer.kind], operation, context)
        await self._pass(stream, path, _as_it_is)

    async def show(
        self, server: str | None, listing: str, context: CallContext, describe: Callable[[Catalogue], T]
    ) -> T:
        """Return what is listed to a caller.

        Args:
            server: the server's name; None for a listing of all.
            listing: its name, for the log.
            context: who calls, and how.
            describe: makes it of what the caller may see.

        Raises:
            GatewayError: as for `call`.
        """
        kind = self._all if server is None else self._look_up(_server, server, listing, context)

        async def run(*_: object) -> T:
            return describe(self.offered_to(context.principal))

        operation = Operation(listing, None, _as_it_is, run, True, no_arguments, confinement=PUBLIC)
        return await self._pass(Admission(self._around, self._serving[kind], operation, context), None, _as_it_is)

    async def operate(
        self, name: str, scope: str, context: CallContext, work: Callable[[], Awaitable[T]], *, changes: bool = False
    ) -> T:
        """Do what operators do with the gateway itself; whether this one may, its face has asked (`refuses_operator`).

        It costs a token of the limits that the roles have for it.

        Args:
            name: of what is done, for the log.
            scope: what it takes, one of `OPERATORS`.
            context: who does it, and how.
            work: does it.
            changes: it changes something.

        Raises:
            GatewayError: as for `call`.
        """

        async def run(*_: object) -> T:
            return await work()

        of, _, what = scope.partition(":")
        permit = None if self.guard is None else self.guard.leave(context.principal, of, what)
        operation = Operation(name, None, _as_it_is, run, not changes, no_arguments)
        admission = Admission(self._around, self._serving[self._all], operation, context, permit)
        return await self._pass(admission, {}, _as_it_is)

    async def handle(
        self,
        server: str,
        method: str,
        about: About | None,
        context: CallContext,
        run: Callable[[], Awaitable[ProtocolResult]],
    ) -> ProtocolResult:
        """Run what a server does itself for a method of the protocol.

        Args:
            server: the server's name.
            method: of the protocol, for the log.
            about: what it is about; None for a listing, of which the caller is shown what is for it.
            context: who calls, and how.
            run: does it.

        Raises:
            GatewayError: as for `call`.
        """
        kind = self._look_up(_server, server, method, context)

        def handle(*_: object) -> Awaitable[ProtocolResult]:
            return run()

        obeys: str | None = None
        match about:
            case ("resource", uri):
                obeys = self._look_up(Catalogue.resource, server, uri, context)[0].name
            case ("prompt", name):
                obeys = self._prompt(kind.server_id, name)
            case None:
                pass
        operation = Operation(method, obeys, _as_it_is, handle, False, no_arguments)
        return await self._pass(Admission(self._around, self._serving[kind], operation, context), None, _as_it_is)

    @contextmanager
    def _subscription(self, context: CallContext, connection: object) -> Generator[None]:
        """Count a subscription, or a stream of events without any, while it lasts.

        Args:
            context: whose it is.
            connection: any object that stands for the one connection, or request, which it ends with.

        Raises:
            TooManyRequests: the process, the caller or the connection has as many as it may.
        """
        caller = context.caller
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

    # The pipeline

    def _look_up(
        self,
        find: Callable[[Catalogue, Any, str], FoundT],
        server: str | None,
        name: str,
        context: CallContext,
    ) -> FoundT:
        """Find what is wanted among what the principal may see; record that it was wanted if there is no such thing.

        Raises:
            UnknownServer, UnknownTool, UnknownResource: there is none.
            NotConfined: there is one, which can't be confined to the customer that the principal is bound to.
        """
        try:
            return find(self.offered_to(context.principal), server, name)
        except (UnknownServer, UnknownTool, UnknownResource) as error:
            refusal = self._why_not(find, server, name, context.principal)
            self._record_refusal(refusal or error, server, name, context)
            if refusal is None:
                raise
            raise refusal from None

    def _record_refusal(self, error: GatewayError, server: str | None, name: str, context: CallContext) -> None:
        where = "all" if server is None else quoted(server)
        # Of a URI the scheme: the rest may be about a customer.
        what = quoted("".join(name.partition("://")[:2]))
        if (tracing := self._around.tracing) is not None:
            span = tracing.begin(where, what, context, tool=False)
            context = traced(context, span)
            span.end(error.code)
        self._around.recorder.ended(ended_call(where, what, context, perf_counter(), error.code, 0.0, error.rule))

    def _why_not(
        self, find: Callable[[Catalogue, Any, str], Any], server: str | None, name: str, principal: Principal
    ) -> GatewayError | None:
        """Return why a principal may not use what it has not found; None if there is no such thing at all.

        What is kept from a caller is told apart from what does not exist: a caller has to know what to ask for, and the
        names of tools are no secret. Of a server of which it may use nothing, it learns no names of things.
        """
        if self.guard is None and principal.customer is None:
            return None
        try:
            found = find(self.catalogue, server, name)
        except (UnknownTool, UnknownResource):
            # On a server that is kept from it.
            if server is None or self.catalogue.server(server).server_id in self.offered_to(principal).servers:
                return None
            return self._kept_from(principal, self.catalogue.server(server).server_id, None)
        except UnknownServer:
            return None
        if isinstance(found, tuple):
            found = cast("tuple[Offer[Resource], object]", found)[0]
        if isinstance(found, Offer):
            offer = cast("Offer[Tool] | Offer[Resource]", found)
            return self._kept_from(principal, offer.kind.server_id, offer.name)
        return self._kept_from(principal, cast("ServerKind", found).server_id, None)

    def _kept_from(self, principal: Principal, server: str, name: str | None) -> GatewayError:
        """Return why a principal may not use what exists: no role allows it, or nothing confines it to a customer."""
        if self.guard is not None and not self.guard.allows(principal, server, name):
            return self.guard.why_not(principal, server, name)
        return not_confined(name or server)

    def _refuse_beyond(self, size: int, own: Share | None) -> None:
        """Refuse a large result, or a call that changes something, while those before it wait to be written.

        One alone is never too large. What a call that changes something has come to is not refused once it has run.

        Raises:
            TooManyRequests: there is no room.
        """
        held = self.results.held
        if held + size > self.results.limit and held > (own.held if own is not None else 0):
            self.results.make_room()
            raise TooManyRequests(f"{held} bytes of results wait to be written (MAX_UNSENT_BYTES). Repeat in a moment.")

    async def _pass(
        self,
        admission: Admission,
        given: Any,
        write: Callable[[Any], T],
        *,
        changes: bool = False,
        held: Share | None = None,
    ) -> T:
        """Take an operation through all stages after the look-up.

        Args:
            admission: of the operation.
            given: its arguments, as the face has them.
            write: writes its result down.
            changes: it is not to be refused once it has run.
            held: as for `call`.
        """
        with admission as server:
            operation = admission.operation
            if self.stages.wanted > 0 or admission.span is not None or admission.log.isEnabledFor(logging.DEBUG):
                kept = self.stages.begin(admission.call.at)
                stages = Stages(admission.log, operation.name, admission.context.request_id, admission.span, kept)
                operation, write = _telling(stages, operation, write)
            if changes and self.results.held:
                self._refuse_beyond(0, held)
            principal = admission.context.principal
            arguments = self._judged(admission.permit, operation, principal, operation.parse(given))
            written = write(await operation.run(server, arguments, admission.context))
            size = len(written) if type(written) is bytes else _size(written)
            if size > LARGE:
                if not changes:
                    self._refuse_beyond(size, held)
                elif self.results.held + size > self.results.limit:
                    self.results.make_room()  # others give way, if they take nothing
            return written

    def _judged(self, permit: Permit | None, operation: Operation, principal: Principal, arguments: Any) -> Any:
        """Return the arguments with which an operation is run, of those that were given."""
        customer = principal.customer
        if customer is not None:
            arguments = confine(operation, customer, arguments, ruled=self.guard is not None)
        if self.guard is not None and permit is not None and (permit.ruled is not None or customer is not None):
            judged = self.guard.judge(permit, operation, principal, arguments)
            if customer is not None and judged is not arguments:  # no rule puts another in its place
                judged = confine(operation, customer, judged, ruled=True)
            arguments = judged
        return arguments if operation.read_only else with_own_key(arguments, principal)

    def _permit(self, offer: Offer[Any], operation: Operation, principal: Principal) -> Permit | None:
        return None if self.guard is None else self.guard.permit(offer.kind.server_id, operation, principal)

    def foretell(
        self, server: str | None, wanted: str, principal: Principal, given: bytes | None
    ) -> GatewayError | None:
        """Return what a call would be refused with before it runs; None if it would run. No limit is asked.

        Args:
            server: the server's name, None for a resource.
            wanted: a tool's name, or a resource's URI.
            principal: who would call.
            given: the tool's arguments; None leaves out what is judged of them.
        """
        find: Callable[[Catalogue, Any, str], Any] = Catalogue.resource if server is None else Catalogue.tool
        try:
            found = find(self.offered_to(principal), server, wanted)
        except (UnknownServer, UnknownTool, UnknownResource) as error:
            return self._why_not(find, server, wanted, principal) or error
        try:
            if server is None:
                offer, variables = cast("tuple[Offer[Resource], Mapping[str, str]]", found)
                operation = offer.declared.reading(wanted)
                self._judged(
                    self._permit(offer, operation, principal), operation, principal, operation.parse(variables)
                )
            elif given is not None:
                tool = cast("Offer[Tool]", found)
                operation = tool.declared.operation
                self._judged(self._permit(tool, operation, principal), operation, principal, operation.parse(given))
        except GatewayError as error:
            return error
        return None


def _telling(stages: Stages, operation: Operation, write: Callable[[Any], T]) -> tuple[Operation, Callable[[Any], T]]:
    """Return an operation, and what writes its result, that tell the log of each stage that they end."""

    def parse(given: Any) -> Any:
        arguments = operation.parse(given)
        stages.end("parsed")
        return arguments

    async def run(server: BaseMCPServer, arguments: Any, context: CallContext) -> Any:
        with stages.shown():
            try:
                return await operation.run(server, arguments, context)
            finally:
                stages.end("ran")

    def write_and_tell(result: Any) -> T:
        written = write(result)
        stages.end("wrote")
        return written

    return replace(operation, parse=parse, run=run), write_and_tell


def _confined_tool(offer: Offer[Tool], *, ruled: bool) -> Offer[Tool] | None:
    tool = offer.declared.for_bound
    if tool is None or tool.confinement is None or (tool.confinement.rule_on is not None and not ruled):
        return None
    return Offer(offer.kind, tool)


def _confined_resource(offer: Offer[Resource]) -> Offer[Resource] | None:
    return None if offer.declared.confinement is None else offer


def _server(catalogue: Catalogue, server: str, _: str) -> ServerKind:
    return catalogue.server(server)


_FINDERS: Mapping[What, Callable[[Catalogue, Any, str], Any]] = {
    "server": _server,
    "tool": Catalogue.tool,
    "resource": Catalogue.resource,
}


def _size(written: object) -> int:
    """Return how many bytes a result has, where that may be many."""
    if isinstance(written, bytes):
        return len(written)
    return written.size if isinstance(written, ProtocolResult) else 0


def _as_it_is(given: T) -> T:
    return given


def _resource_bytes(content: Any) -> bytes:
    if isinstance(content, RawResult):
        return cast("RawResult[Any]", content).json
    if isinstance(content, BaseModel):
        return writer_of(type(content))(content)
    if isinstance(content, bytes):
        return content
    if isinstance(content, str):
        return content.encode()
    body = to_json(content, inf_nan_mode="constants")
    parse_json(body)  # NaN is no JSON
    return body
