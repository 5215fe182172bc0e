"""What callers read by its address, and are told of when it changes."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self, get_type_hints
from urllib.parse import parse_qsl

from mcp.shared.uri_template import UriTemplate
from pydantic import BaseModel, ConfigDict, JsonValue, create_model

from app.guard.principal import Principal
from app.results import RawResult, Result, writer_of
from app.servers.caching import ResultCache, check_cache_seconds, key_of
from app.servers.calls import CallContext
from app.servers.confining import Confinement, check_confinement
from app.servers.operations import Operation, RunsUndeclared
from app.servers.signatures import Signature, title_of
from app.servers.variables import change_variables, parse_variables

Update = Mapping[str, JsonValue]
"""What a change notice carries in its `_meta`, such as a cursor. It may be empty."""


@dataclass(frozen=True)
class Resource:
    """Something that a server lets callers read by its URI.

    A template whose only variables are optional query parameters is also readable without them and
    is listed as a resource; any other template is listed as a template.
    """

    template: str
    name: str
    title: str
    description: str
    mime_type: str = "application/json"
    method: Callable[..., Awaitable[Result | RawResult[Any]]] | None = None
    arguments: type[BaseModel] | None = None
    context_parameter: str | None = None
    principal_parameter: str | None = None
    watcher: Callable[..., AbstractAsyncContextManager[AsyncIterator[Update]]] | None = None
    """The method that tells of changes; None where the resource can't be watched."""
    watch_principal_parameter: str | None = None
    confinement: Confinement | None = None
    watch_confinement: Confinement | None = None
    """How its reading, and its watching, are kept to one customer for callers that are bound; None refuses them."""
    cache_seconds: float | None = None
    """For how long identical readings of one identity are answered from memory; None never does that."""

    @classmethod
    def declared(
        cls,
        template: str,
        method: Callable[..., Awaitable[Result | RawResult[Any]]],
        *,
        title: str | None = None,
        confinement: Confinement | None = None,
        cache_seconds: float | None = None,
    ) -> Self:
        """Read a resource off a method; its parameters are the template's variables."""
        name = method.__name__
        signature = Signature.of(method)
        if set(UriTemplate.parse(template).variable_names) != set(signature.fields):
            raise TypeError(f"{name}: the variables of {template} and the parameters differ")
        check_confinement(name, confinement, signature.fields, tells_who_calls=signature.tells_who_calls)
        return cls(
            template=template,
            name=name,
            title=title or title_of(name),
            description=inspect.getdoc(method) or "",
            method=method,
            arguments=create_model(f"{name}_variables", __config__=ConfigDict(extra="forbid"), **signature.fields),
            context_parameter=signature.context_parameter,
            principal_parameter=signature.principal_parameter,
            confinement=confinement,
            cache_seconds=cache_seconds,
        )

    def __post_init__(self) -> None:
        takes_context, is_watched = self.context_parameter is not None, self.watcher is not None
        check_cache_seconds(
            self.name, self.cache_seconds, read_only=True, takes_context=takes_context, is_watched=is_watched
        )

    def watched_by(self, method: Callable[..., Any], confinement: Confinement | None) -> Self:
        """Return it with the method that tells of its changes.

        Raises:
            TypeError: the method can't be confined as it says.
        """
        told = next((name for name, kind in get_type_hints(method).items() if kind is Principal), None)
        names = self._parsed.variable_names
        check_confinement(method.__name__, confinement, names, tells_who_calls=told is not None)
        return replace(self, watcher=method, watch_confinement=confinement, watch_principal_parameter=told)

    def watch(
        self, server: object, variables: Mapping[str, Any], context: CallContext
    ) -> AbstractAsyncContextManager[AsyncIterator[Update]]:
        """Call the method that tells of changes, with the checked variables of a URI."""
        assert self.watcher is not None
        keywords = dict(variables)
        if self.watch_principal_parameter:
            keywords[self.watch_principal_parameter] = context.principal
        return self.watcher(server, **keywords)

    @classmethod
    def named(cls, uri: str) -> Self:
        """Describe a resource of which nothing is known but its URI."""
        return cls(uri, uri, uri, f"What the server has at {uri}.")

    @cached_property
    def _parsed(self) -> UriTemplate:
        return UriTemplate.parse(self.template)

    @cached_property
    def scheme(self) -> str:
        return self.template.partition("://")[0]

    @cached_property
    def uri(self) -> str | None:
        """The address that needs no variables; None for a template."""
        required = set(self._parsed.variable_names) - self._parsed.query_variable_names
        return None if required else self._parsed.expand({})

    def match(self, uri: str) -> dict[str, str] | None:
        """Return the variables of a URI, or None if it is not of this template.

        Query variables that the template does not know are among them, for `parse` to refuse.
        """
        found = self._parsed.match(uri)
        if found is None:
            return None
        given = dict(parse_qsl(uri.partition("?")[2], keep_blank_values=True))
        return given | {name: str(value) for name, value in found.items()}

    def parse(self, variables: Mapping[str, str]) -> dict[str, Any]:
        """Check the variables of a URI, which are strings, against the method's parameters.

        Raises:
            InvalidArguments: each refused variable is named.
        """
        return dict(variables) if self.arguments is None else parse_variables(self.arguments, variables)

    def with_arguments(self, parsed: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return checked variables with others in place of some, checked again.

        Raises:
            InvalidArguments: as for `parse`.
        """
        return {**parsed, **changes} if self.arguments is None else change_variables(self.arguments, parsed, changes)

    def run(
        self, server: Any, variables: Mapping[str, Any], context: CallContext
    ) -> Awaitable[Result | RawResult[Any]]:
        """Return what the method has for the checked variables of a URI, or has had a moment ago."""
        if self.cache_seconds is None:
            return self._run(server, variables, context)

        async def make() -> bytes:
            content = await self._run(server, variables, context)
            return content.json if isinstance(content, RawResult) else writer_of(type(content))(content)

        cache: ResultCache = server.remembered
        return cache.result(key_of(self.template, context.principal, variables), self.cache_seconds, make)

    def _run(
        self, server: object, variables: Mapping[str, Any], context: CallContext
    ) -> Awaitable[Result | RawResult[Any]]:
        assert self.method is not None
        keywords = dict(variables)
        if self.context_parameter:
            keywords[self.context_parameter] = context
        if self.principal_parameter:
            keywords[self.principal_parameter] = context.principal
        return self.method(server, **keywords)

    def reading(self, uri: str) -> Operation:
        """Return how the gateway reads it at one of its URIs."""

        def run_undeclared(server: RunsUndeclared, _: Mapping[str, Any], context: CallContext) -> Awaitable[Any]:
            return server.read_undeclared(uri, context)

        run = self.run if self.method else run_undeclared
        return Operation(
            self.template, self.template, self.parse, run, True, self.with_arguments, confinement=self.confinement
        )
