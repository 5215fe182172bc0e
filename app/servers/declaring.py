"""Declare once: an MCP server is a class, a tool is one of its methods.

    class ClockMCPServer(BaseMCPServer):
        '''Tells the time.'''

        @tool(read_only=True)
        async def get_time(self, zone: str = "UTC") -> ClockTime:
            '''Return the current time in a zone.'''

The signature is the input schema, the return model the output schema and the docstring the
description, in REST, MCP, WebSocket and stdio alike. `docs/adding-a-server.md` walks through it.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

from app.errors import GatewayError
from app.servers.calls import JsonObject
from app.servers.confining import Confinement
from app.servers.methods import MethodTool
from app.servers.resources import Resource
from app.servers.routes import HttpRoute

_Method = TypeVar("_Method", bound=Callable[..., Any])


def tool(
    *,
    title: str | None = None,
    read_only: bool = False,
    destructive: bool = False,
    idempotent: bool = False,
    open_world: bool = False,
    timeout: float | None = None,
    max_in_flight: int | None = None,
    example: JsonObject | None = None,
    errors: Sequence[type[GatewayError]] = (),
    confined_by: str | None = None,
    confined: Literal["service"] | None = None,
    public: bool = False,
    needs_rule: str | None = None,
    staff_only: Sequence[str] = (),
    cache_seconds: float | None = None,
) -> Callable[[_Method], _Method]:
    """Offer a method of a `BaseMCPServer` to the gateway's callers.

    Args:
        title: name for people; made from the method's name if left out.
        read_only: the tool changes nothing, so that a client may repeat it freely.
        destructive: it may delete or overwrite.
        idempotent: a repeat with the same arguments changes nothing more.
        open_world: it reaches systems whose content the gateway does not own.
        timeout: seconds; the gateway's default if left out.
        max_in_flight: calls at a time, for a slow tool: what waits in it leaves places to the server's other tools. It
            never takes more than half of the places that the server has.
        example: arguments that work on the demo data; shown at `/docs`.
        errors: failures beyond the general ones, for the documentation.
        confined_by: the argument that names a customer. For a caller that is bound to one it is filled in after the
            arguments are parsed (validators of the whole model see None), and its schema has no such argument.
        confined: "service" if the method takes a `Principal`, or a `CallContext`, and keeps to its customer.
        public: it is the same for everybody. A tool that says nothing of the kind refuses callers that are bound.
        needs_rule: an argument that the policy must have a rule on for callers that are bound; if nothing else
            confines the tool, one that says `{customer}`.
        staff_only: arguments that are not for callers who are bound: they see none of them, and give only defaults.
        cache_seconds: identical calls of one identity are answered from memory for so long, at most an hour; say so in
            the docstring. For tools that only read. What writes change meanwhile is not seen, not by who wrote either.
    """

    def declare(method: _Method) -> _Method:
        method.__declared__ = MethodTool.declared(  # type: ignore[attr-defined]
            method,
            confinement=Confinement.declared(
                method.__name__,
                confined_by=confined_by,
                confined=confined,
                public=public,
                needs_rule=needs_rule,
                staff_only=staff_only,
            ),
            title=title,
            read_only=read_only,
            destructive=destructive and not read_only,
            idempotent=idempotent or read_only,
            open_world=open_world,
            timeout=timeout,
            max_in_flight=max_in_flight,
            cache_seconds=cache_seconds,
            example=example,
            errors=tuple(errors),
        )
        return method

    return declare


def resource(
    template: str,
    *,
    title: str | None = None,
    confined_by: str | None = None,
    confined: Literal["service"] | None = None,
    public: bool = False,
    cache_seconds: float | None = None,
) -> Callable[[_Method], _Method]:
    """Offer a method as a resource.

    Args:
        template: RFC 6570 URI template; its variables are the method's parameters, and optional
            ones stand in a query: `db://customers{?cursor,limit}`.
        title: name for people; made from the method's name if left out.
        confined_by: the variable that names a customer; of others there is nothing to callers that are bound to one.
        confined: as for `tool`, as is what follows.
        public: as there.
        cache_seconds: as there. Not for what is watched.
    """

    def declare(method: _Method) -> _Method:
        confinement = Confinement.declared(method.__name__, confined_by=confined_by, confined=confined, public=public)
        method.__declared__ = Resource.declared(  # type: ignore[attr-defined]
            template, method, title=title, confinement=confinement, cache_seconds=cache_seconds
        )
        return method

    return declare


def route(
    path: str,
    *,
    methods: Sequence[str],
    acts_as: str,
    openapi: JsonObject | None = None,
    endless: bool = False,
    confined_by: str | None = None,
    confined: Literal["service"] | None = None,
    public: bool = False,
) -> Callable[[_Method], _Method]:
    """Offer a method as a plain HTTP route below `/mcp/<server>`.

    The method takes `(request: Request, context: CallContext)` and the variables of the path by their names, and
    returns a Starlette `Response`, which may stream. It runs, and streams, inside `Gateway.stream`: the same rules, log
    and errors as a tool, and a place among the server's streams instead of one among its calls in flight.

    Args:
        path: in Starlette's notation, such as `/s3/{bucket}/{key:path}`. Its variables are arguments of the tool.
        methods: HTTP methods.
        acts_as: the tool of the same server whose rules it obeys: who may not call that may not use the route.
        openapi: what OpenAPI says of the operation beyond its summary: parameters, bodies, responses.
        endless: the response ends only with its caller, or when the gateway stops.
        confined_by: a variable of the path, and else as for `tool`, as is what follows. Where nothing is said, the
            route is confined as its tool is, if that is by arguments which stand in its path.
        confined: "service" if it keeps to the customer of `context.principal`.
        public: as for `tool`.
    """

    def declare(method: _Method) -> _Method:
        method.__declared__ = HttpRoute(  # type: ignore[attr-defined]
            methods=tuple(methods),
            path=path,
            name=method.__name__,
            description=inspect.getdoc(method) or "",
            method=method,
            acts_as=acts_as,
            openapi=dict(openapi or {}),
            endless=endless,
            confinement=Confinement.declared(
                method.__name__, confined_by=confined_by, confined=confined, public=public
            ),
        )
        return method

    return declare


def watch(
    template: str,
    *,
    confined_by: str | None = None,
    confined: Literal["service"] | None = None,
    public: bool = False,
) -> Callable[[_Method], _Method]:
    """Let callers subscribe to the resource of the same template.

    The method takes the template's variables, and a `Principal` if it wants one, and is an async context manager: it
    yields an async iterator of `Update`s once every later change is sure to be seen.

    Args:
        template: of the resource.
        confined_by: as for `resource`, as is what follows; how the resource is read says nothing of it.
        confined: as there.
        public: as there.
    """

    def declare(method: _Method) -> _Method:
        confinement = Confinement.declared(method.__name__, confined_by=confined_by, confined=confined, public=public)
        method.__watches__ = template, confinement  # type: ignore[attr-defined]
        return method

    return declare
