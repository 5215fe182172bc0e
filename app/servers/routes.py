"""Plain HTTP routes of a server, beside its tools."""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self
from urllib.parse import unquote_to_bytes

from pydantic import BaseModel, create_model
from starlette.responses import Response
from starlette.routing import compile_path

from app.errors import ArgumentRefused, InvalidArguments
from app.servers.calls import JsonObject
from app.servers.confining import Confinement, check_confinement
from app.servers.methods import MethodTool
from app.servers.tools import Tool
from app.servers.variables import change_variables, parse_variables


@dataclass(frozen=True)
class HttpRoute:
    """A plain HTTP route of a server, for what no tool can carry: streams of bytes or of events."""

    methods: tuple[str, ...]
    path: str
    """Below `/mcp/<server>`, in Starlette's notation."""
    name: str
    description: str
    method: Callable[..., Awaitable[Response]]
    acts_as: str
    """The tool whose rules it obeys; the variables of its path are arguments of that tool."""
    openapi: JsonObject
    endless: bool
    arguments: type[BaseModel] | None = None
    """What its path says; None until it is known which tool it acts as."""
    confinement: Confinement | None = None
    """As it declares, or else as its tool does where that holds for its path; None refuses callers that are bound."""

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        return compile_path(self.path)[0]

    @property
    def takes_any_end(self) -> bool:
        """Whether anything may stand at the end of its path, a slash too."""
        return self.path.endswith(":path}")

    def obeying(self, tools: Mapping[str, Tool]) -> Self:
        """Return it with its arguments, as the tool that it acts as declares them.

        Raises:
            TypeError: there is no such tool, or it has no such arguments.
        """
        tool = tools.get(self.acts_as)
        if tool is None:
            raise TypeError(f"{self.name}: acts_as={self.acts_as!r} names no tool of this server")
        declared = tool.arguments.model_fields if isinstance(tool, MethodTool) else {}
        unknown = self.pattern.groupindex.keys() - declared.keys()
        if unknown:
            raise TypeError(f"{self.name}: {self.acts_as} has no arguments {', '.join(sorted(unknown))}")
        fields: dict[str, Any] = {name: (declared[name].rebuild_annotation(), ...) for name in self.pattern.groupindex}
        confinement = self.confinement
        if confinement is None and tool.confinement is not None and not tool.confinement.by_service:
            # What the tool's method does for its callers, this one does not.
            needed = {tool.confinement.argument, tool.confinement.rule_on} - {None}
            confinement = tool.confinement if needed <= fields.keys() else None
        check_confinement(self.name, confinement, fields, tells_who_calls=True)
        return replace(self, arguments=create_model(f"{self.name}_path", **fields), confinement=confinement)

    def parse(self, path: str) -> dict[str, Any]:
        """Check what a path says, as arguments of the tool that the route acts as.

        Args:
            path: below the server's, as it came over the wire. Once percent-encoding is undone nobody can tell which
                slashes belong to a variable, and what was no UTF-8.

        Raises:
            InvalidArguments: each refused variable is named.
        """
        assert self.arguments is not None
        found = self.pattern.match(path if self.takes_any_end else path.removesuffix("/"))
        given: dict[str, str] = {}
        for name, value in (found.groupdict() if found else {}).items():
            try:
                given[name] = unquote_to_bytes(value).decode()
            except UnicodeDecodeError:
                raise InvalidArguments.of(name, "not UTF-8 once its percent-encoding is undone") from None
        return parse_variables(self.arguments, given)

    def with_arguments(self, parsed: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return the variables of a path with others in place of some, checked again.

        Raises:
            ArgumentRefused: the path can't say one of them.
            InvalidArguments: as for `parse`.
        """
        if unknown := changes.keys() - parsed.keys():
            raise ArgumentRefused(f"{', '.join(sorted(unknown))}: can't be said here; call {self.acts_as} instead")
        assert self.arguments is not None
        return change_variables(self.arguments, parsed, changes)
