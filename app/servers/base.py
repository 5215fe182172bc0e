"""What every server is: a class with declared tools and resources, over one backend."""

import inspect
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, ClassVar, Self

from pydantic_settings import BaseSettings

from app.errors import GatewayError, UnknownResource, UnknownTool
from app.servers.calls import CallContext, JsonObject
from app.servers.declaring import HttpRoute, Resource, Tool

RESERVED_NAMES = frozenset({"batch", "ws", "tools", "resources"})
"""Path segments under `/mcp` that no server may take as its name."""

_SERVER_ID = re.compile(r"[a-z][a-z0-9_]*")


class BaseMCPServer:
    """A named group of tools and resources over one backend.

    Declare a subclass with `@tool` and `@resource` methods and an `open`. Where the tools are known only
    at run time, construct it with `tools=` and `resources=` and override `call_tool` and `get_resource`.

    Args:
        server_id: path segment under `/mcp`; clients may say `mcp_<server_id>`.
        name: name for people and for the logger `MCP.<name>`.
        capabilities: free words that a listing shows.
        tools: tools known only at run time.
        resources: resources known only at run time.
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
    """What `open` takes; read from the environment by `create_app`."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        tools: dict[str, Tool] = dict(cls.tools)
        resources: dict[str, Resource] = dict(cls.resources)
        routes: dict[str, HttpRoute] = dict(cls.routes)
        watchers: dict[str, Any] = {}
        for member in vars(cls).values():
            declared = getattr(member, "__declared__", None)
            if isinstance(declared, Tool):
                tools[declared.name] = declared
            elif isinstance(declared, Resource):
                resources[declared.template] = declared
            elif isinstance(declared, HttpRoute):
                routes[declared.name] = declared
            elif template := getattr(member, "__watches__", None):
                watchers[template] = member
        for template, member in watchers.items():
            if template not in resources:
                raise TypeError(f"{cls.__name__}: @watch({template!r}) names no resource of this server")
            resources[template] = replace(resources[template], watcher=member)
        cls.tools, cls.resources, cls.routes = tools, resources, routes
        stem = cls.__name__.removesuffix("MCPServer").removesuffix("Server")
        if "server_id" not in vars(cls):
            cls.server_id = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", stem).lower()
        if "name" not in vars(cls):
            cls.name = f"{re.sub(r'(?<=[a-z0-9])(?=[A-Z])', ' ', stem)} MCP Server"
        if "description" not in vars(cls) and cls.__doc__:
            # Not `inspect.getdoc`, which falls back on the docstring of `BaseMCPServer`, and that is for programmers.
            cls.description = inspect.cleandoc(cls.__doc__)
        check_server_id(cls.server_id)

    def __init__(
        self,
        server_id: str | None = None,
        name: str | None = None,
        capabilities: Sequence[str] = (),
        tools: Sequence[Tool] = (),
        resources: Sequence[Resource] = (),
    ) -> None:
        if server_id is not None:
            check_server_id(server_id)
            self.server_id = server_id
        if name is not None:
            self.name = name
        if capabilities:
            self.capabilities = tuple(capabilities)
        if tools:
            self.tools = {**type(self).tools, **{t.name: t for t in tools}}
        if resources:
            self.resources = {**type(self).resources, **{r.template: r for r in resources}}

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Any) -> AsyncGenerator[Self]:
        """Make the server ready; release what it holds on exit. The backend need not be up.

        Args:
            settings: an instance of `settings_class`, or None if the server has none.
        """
        yield cls()

    async def ping(self) -> Mapping[str, GatewayError] | None:
        """Return if the backend answers, with the tools that could not work now, each with the reason.

        Nothing means that every tool could. It is asked by `/ready`, often, and has two seconds.

        Raises:
            BackendUnavailable: it does not answer, so no tool could work; the message says why.
        """

    async def call_tool(self, name: str, arguments: JsonObject, context: CallContext) -> Any:
        """Run a tool that has no declared method. The default knows none."""
        raise UnknownTool(f"{self.server_id} has no tool {name!r}")

    async def get_resource(self, uri: str, context: CallContext) -> Any:
        """Read a resource that has no declared method. The default knows none."""
        raise UnknownResource(f"{self.server_id} has no resource {uri}")


ServerKind = type[BaseMCPServer] | BaseMCPServer
"""A server that is opened with the process, or one that somebody has constructed already."""


def check_server_id(server_id: str) -> None:
    """Raise ValueError unless the name can stand in a path under `/mcp`."""
    if server_id in RESERVED_NAMES or not _SERVER_ID.fullmatch(server_id):
        raise ValueError(f"server name {server_id!r}: expected {_SERVER_ID.pattern}, and none of {set(RESERVED_NAMES)}")
