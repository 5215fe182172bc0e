"""What every server is: a class with declared tools and resources, over one backend."""

import asyncio
import inspect
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any, ClassVar, cast

from pydantic_core import from_json, to_json
from pydantic_settings import BaseSettings

from app.errors import BackendNotConfigured, GatewayError, UnknownResource, UnknownTool
from app.findings import Finding, checked
from app.measures import Measure
from app.outages import Outages
from app.results import RawResult
from app.servers.caching import ResultCache
from app.servers.calls import CallContext, JsonObject, new_request_id
from app.servers.confining import Confinement
from app.servers.dynamic import DynamicTool
from app.servers.methods import MethodTool
from app.servers.resources import Resource
from app.servers.routes import HttpRoute
from app.servers.tools import Tool

RESERVED_NAMES = frozenset({"batch", "ws", "tools", "resources", "console", "metrics"})
"""Path segments under `/mcp` that no server may take as its name."""

CLIENT_PREFIX = "mcp_"
"""Clients may put it before a server's name."""

_WITHOUT_CONTEXT = {"call_tool": 3, "get_resource": 2}
"""How many parameters these methods have, `self` included, if they take no `CallContext`."""
_SERVER_ID = re.compile(r"[a-z][a-z0-9_]*")


class BaseMCPServer:
    """A named group of tools and resources over one backend.

    Declare a subclass with `@tool` and `@resource` methods, and `opened` if it holds anything. Where the tools are
    known only at run time, construct it with `tools=` and `resources=` and override `call_tool` and `get_resource`.

    Args:
        server_id: path segment under `/mcp`; `mcp_custom` is the same as `custom`, and clients may say either.
        name: name for people and for the logger `MCP.<name>`.
        capabilities: free words that a listing shows.
        tools: tools known only at run time; a name alone stands for a tool that takes any object.
        resources: resources known only at run time; a URI alone stands for one of JSON.
        settings: an instance of `settings_class`, where the class has one.
    """

    server_id: str = ""
    name: str = ""
    description: str = ""
    tools: Mapping[str, Tool] = {}
    resources: Mapping[str, Resource] = {}
    routes: Mapping[str, HttpRoute] = {}
    capabilities: Sequence[str] = ()
    mcp_handlers: Mapping[str, Any] = {}
    """Handlers of the MCP SDK's low-level server beyond tools and resources, such as `on_get_prompt`."""
    settings_class: ClassVar[type[BaseSettings] | None] = None
    """What the constructor takes as `settings`; the gateway reads it from the environment."""
    further_settings: ClassVar[Mapping[str, type[BaseSettings]]] = {}
    """More of it, by the names of the constructor's arguments that take it."""

    is_only_examined: bool = False
    """Whether it is opened to be looked at: then it begins nothing by itself, and changes nothing at its backend."""

    _holding: asyncio.Task[None] | None = None
    """Enters and leaves `opened` for `start` and `stop`, which may be called in different tasks."""
    _stop_wanted: asyncio.Event
    _call_takes_context: ClassVar[bool] = False
    _read_takes_context: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        tools: dict[str, Tool] = dict(cls.tools)
        resources: dict[str, Resource] = dict(cls.resources)
        routes: dict[str, HttpRoute] = dict(cls.routes)
        watchers: list[tuple[str, Confinement | None, Any]] = []
        for member in vars(cls).values():
            declared = getattr(member, "__declared__", None)
            if isinstance(declared, Tool):
                tools[declared.name] = declared
            elif isinstance(declared, Resource):
                resources[declared.template] = declared
            elif isinstance(declared, HttpRoute):
                routes[declared.name] = declared
            elif watches := getattr(member, "__watches__", None):
                watchers.append((*watches, member))
        for template, confinement, member in watchers:
            if template not in resources:
                raise TypeError(f"{cls.__name__}: @watch({template!r}) names no resource of this server")
            resources[template] = resources[template].watched_by(member, confinement)
        cls.tools, cls.resources = tools, resources
        cls.routes = {name: route.obeying(tools) for name, route in routes.items()}
        stem = cls.__name__.removesuffix("MCPServer").removesuffix("Server")
        if "server_id" not in vars(cls):
            cls.server_id = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", stem).lower()
        if "name" not in vars(cls):
            cls.name = f"{re.sub(r'(?<=[a-z0-9])(?=[A-Z])', ' ', stem)} MCP Server"
        if "description" not in vars(cls) and cls.__doc__:
            # Not `inspect.getdoc`, which falls back on the docstring of `BaseMCPServer`, and that is for programmers.
            cls.description = inspect.cleandoc(cls.__doc__)
        cls._call_takes_context = len(inspect.signature(cls.call_tool).parameters) > _WITHOUT_CONTEXT["call_tool"]
        cls._read_takes_context = len(inspect.signature(cls.get_resource).parameters) > _WITHOUT_CONTEXT["get_resource"]
        cls.server_id = cls.server_id.removeprefix(CLIENT_PREFIX)
        check_server_id(cls.server_id)

    def __init__(
        self,
        server_id: str | None = None,
        name: str | None = None,
        capabilities: Sequence[str] = (),
        tools: Sequence[Tool | str] = (),
        resources: Sequence[Resource | str] = (),
        *,
        settings: Any = None,
    ) -> None:
        self.settings = settings
        if server_id is not None:
            self.server_id = server_id.removeprefix(CLIENT_PREFIX)
            check_server_id(self.server_id)
        if name is not None:
            self.name = name
        if capabilities:
            self.capabilities = tuple(capabilities)
        if tools:
            known_later = (DynamicTool.of(t) if isinstance(t, str) else t for t in tools)
            self.tools = {**type(self).tools, **{t.name: t for t in known_later}}
        if resources:
            found_later = (Resource.named(r) if isinstance(r, str) else r for r in resources)
            self.resources = {**type(self).resources, **{r.template: r for r in found_later}}

    @classmethod
    def all_settings(cls) -> Mapping[str, type[BaseSettings]]:
        """Return the classes of all settings that the constructor takes, by the names of its arguments."""
        return ({"settings": cls.settings_class} if cls.settings_class else {}) | dict(cls.further_settings)

    @cached_property
    def outages(self) -> Outages:
        """What the log `MCP.<name>` is told of the backend: once that it is down, once that it is back."""
        return Outages(logging.getLogger(f"MCP.{self.name}"))

    @cached_property
    def remembered(self) -> ResultCache:
        """What identical calls are answered with for a while, of what is declared with `cache_seconds`."""
        return ResultCache()

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Hold what the server works with, and release it at the end. The backend need not be up."""
        yield

    async def warm_up(self) -> None:
        """Do ahead what the first callers of an open server would pay for, such as compiling what they run.

        A process that serves for long asks for it once, when callers may come already: it holds the event loop for no
        longer than a call may, changes nothing, and may fail, which is no reason to serve less.
        """

    # In a program of one's own: the gateway does this itself for the servers that it is given as classes.

    @property
    def is_started(self) -> bool:
        """Whether `start` was called, and `stop` was not."""
        return self._holding is not None

    async def start(self) -> None:
        """Open the server until `stop`; one that was started already stays as it is."""
        if self._holding is not None:
            return
        self._stop_wanted, opened = asyncio.Event(), asyncio.Event()
        self._holding = holding = asyncio.create_task(self._hold(opened))
        waiting = asyncio.create_task(opened.wait())
        try:
            await asyncio.wait((holding, waiting), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            # Whatever `opened` waits for, perhaps for ever, is given up with its caller.
            holding.cancel()
            await asyncio.wait((holding,))
            self._holding = None
            raise
        finally:
            waiting.cancel()
        if not opened.is_set():
            await self.stop()

    async def stop(self) -> None:
        """Release what the server holds."""
        holding, self._holding = self._holding, None
        if holding is not None:
            self._stop_wanted.set()
            await holding

    async def _hold(self, opened: asyncio.Event) -> None:
        async with self.opened():
            opened.set()
            await self._stop_wanted.wait()

    def unconfigured(self) -> BackendNotConfigured | None:
        """Return what is not set, if no tool could ever work without it; None otherwise.

        Nobody is asked for it. MCP's listings leave out the servers that return something.
        """
        return None

    async def ping(self) -> Mapping[str, GatewayError] | None:
        """Return if the backend answers, with why each tool can't work now, or not in full (`in_part`).

        Nothing means that every tool could. It is asked by `/ready`, often, and has two seconds.

        Raises:
            BackendUnavailable: it does not answer, so no tool could work; the message says why.
        """

    async def measures(self) -> Iterable[Measure]:
        """Return what `/metrics` shows of an open server beside its calls. Each scrape asks, and waits for a second."""
        return ()

    async def examine(self) -> Sequence[Finding]:
        """Return what `switchboard doctor` shows of an open server that is configured: a line each, with the remedy."""

        limits: list[Finding] = []

        async def answers() -> str:
            for tool, reason in (await self.ping() or {}).items():
                if not reason.in_part:
                    raise reason
                limits.append(Finding("warning", f"{tool} works in part: {reason.detail}"))
            return "it answers"

        return [await checked(answers()), *limits]

    async def call_tool(self, tool_name: str, arguments: JsonObject) -> Any:
        """Run a tool by its name, in a program of one's own or for tools that have no declared method.

        Override it where tools are known only at run time; `context: CallContext` may be a third parameter. The
        arguments are checked already then. The default runs declared tools, outside of any gateway's limits and log.

        Returns:
            The result object: a mapping, which gets `"success": true`.

        Raises:
            GatewayError: as the tool; `UnknownTool` if there is none of that name.
        """
        declared = self.tools.get(tool_name)
        if not isinstance(declared, MethodTool):
            raise UnknownTool(f"{self.server_id} has no tool {tool_name!r}")
        parsed = declared.parse(to_json(arguments))
        return from_json(declared.dump(await declared.run(self, parsed, CallContext(new_request_id(), "internal"))))

    async def get_resource(self, resource_uri: str) -> Any:
        """Read a resource by its URI, as `call_tool` runs a tool.

        Raises:
            GatewayError: as the resource; `UnknownResource` if there is none of that form.
        """
        for declared in self.resources.values():
            if declared.method is not None and (variables := declared.match(resource_uri)) is not None:
                context = CallContext(new_request_id(), "internal")
                content = await declared.run(self, declared.parse(variables), context)
                return from_json(content.json if isinstance(content, RawResult) else content.model_dump_json())
        raise UnknownResource(f"{self.server_id} has no resource {resource_uri}")

    def call_undeclared(self, tool_name: str, arguments: JsonObject, context: CallContext) -> Awaitable[Any]:
        """Let the gateway run a tool that has no declared method."""
        handed_on = (context,) if self._call_takes_context else ()
        return cast("Callable[..., Awaitable[Any]]", self.call_tool)(tool_name, arguments, *handed_on)

    def read_undeclared(self, resource_uri: str, context: CallContext) -> Awaitable[Any]:
        """Let the gateway read a resource that has no declared method."""
        handed_on = (context,) if self._read_takes_context else ()
        return cast("Callable[..., Awaitable[Any]]", self.get_resource)(resource_uri, *handed_on)


ServerKind = type[BaseMCPServer] | BaseMCPServer
"""A server that is opened with the process, or one that somebody has constructed already."""


def check_server_id(server_id: str) -> None:
    """Raise ValueError unless the name can stand in a path under `/mcp`."""
    if server_id in RESERVED_NAMES or not _SERVER_ID.fullmatch(server_id):
        raise ValueError(f"server name {server_id!r}: expected {_SERVER_ID.pattern}, and none of {set(RESERVED_NAMES)}")
