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
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any, Literal, Protocol, Self, TypeVar, cast, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl, unquote_to_bytes

from mcp.shared.uri_template import UriTemplate
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError, create_model
from pydantic_core import SchemaValidator, to_json
from starlette.responses import Response
from starlette.routing import compile_path

from app.errors import MOST_REFUSALS, ArgumentRefused, GatewayError, InvalidArguments, MalformedRequest, failures_of
from app.exact_json import ALTERED, NotExact, NotJson, ReadText, read
from app.guard.principal import Principal
from app.results import ProtocolResult, RawResult, Result, parse_json, writer_of
from app.servers.calls import CallContext, JsonObject
from app.servers.confining import Confinement
from app.servers.json_schema import MOST_UNKNOWN, CompiledSchema
from app.servers.leniency import Leniency, altered_integers
from app.servers.operations import Operation
from app.servers.schema_cost import TooMuchWork
from app.servers.schemas import arguments_schema, result_schema

_FLAT_TYPES = ("string", "integer", "boolean")
_SHORT = 4096
"""Bytes of arguments that may be looked at twice."""
_OF_TYPE_OR_FORM = ("_type", "_parsing", "_mismatch")
"""How pydantic's names of such refusals end."""
_LONGEST_EXAMPLE = 100
_TOOL_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True)
class Encoded:
    """Marks an argument that another one says the encoding of: `Annotated[str, Encoded(by="key_encoding")]`."""

    by: str


class CallsTools(Protocol):
    """Runs tools and reads resources that have no declared method, as `BaseMCPServer` does."""

    def call_undeclared(self, tool_name: str, arguments: JsonObject, context: CallContext) -> Awaitable[Any]: ...

    def read_undeclared(self, resource_uri: str, context: CallContext) -> Awaitable[Any]: ...


@dataclass(frozen=True)
class Tool:
    """One operation of a server, as every face sees it."""

    name: str
    title: str
    description: str
    _: KW_ONLY
    method: Callable[..., Awaitable[Result | RawResult[Any]]] | None = None
    """The declared method, unbound; None where the server's `call_tool` decides at run time."""
    arguments: type[BaseModel] | None = None
    result: type[BaseModel] | None = None
    whole_model: str | None = None
    """The one parameter that takes the whole arguments model, if the method has such a parameter."""
    context_parameter: str | None = None
    principal_parameter: str | None = None
    """The parameters that the gateway fills, if the method has such parameters: `CallContext`, or `Principal` alone."""
    dynamic_input_schema: JsonObject = field(default_factory=lambda: {"type": "object"})
    dynamic_output_schema: JsonObject | None = None
    read_only: bool = False
    destructive: bool = True
    idempotent: bool = False
    open_world: bool = False
    timeout: float | None = None
    """Seconds; None takes the gateway's default."""
    max_in_flight: int | None = None
    """Calls at a time; None leaves it to the server's limit."""
    example: JsonObject | None = None
    errors: tuple[type[GatewayError], ...] = ()
    """Failures beyond those that every tool may answer, for the documentation."""
    confinement: Confinement | None = None
    """How it is kept to one customer for callers that are bound to one; None refuses them."""
    filled_in: str | None = None
    """The argument that callers need not give, and do not see, since it is filled in for them; in `for_bound` only."""

    def __post_init__(self) -> None:
        declared = self.arguments.model_fields if self.arguments is not None else None
        _check_confinement(self.name, self.confinement, declared, tells_who_calls=self._is_told_who_calls)

    @classmethod
    def declared(cls, method: Callable[..., Awaitable[Result | RawResult[Any]]], **options: Any) -> Self:
        """Read a tool off the signature and docstring of a method.

        Raises:
            TypeError: the declaration breaks a rule; the message names it. This happens at import.
        """
        name = method.__name__
        hints = get_type_hints(method, include_extras=True)
        result = _result_model(name, hints.get("return"))
        context_parameter, principal_parameter, arguments, whole_model = None, None, None, None
        fields: dict[str, Any] = {}
        _, *parameters = inspect.signature(method).parameters.values()
        for parameter in parameters:
            if parameter.name not in hints:
                raise TypeError(f"{name}: parameter {parameter.name!r} has no type")
            kind = hints[parameter.name]
            if kind is CallContext:
                context_parameter = parameter.name
            elif kind is Principal:
                principal_parameter = parameter.name
            else:
                default: Any = ... if parameter.default is parameter.empty else parameter.default
                fields[parameter.name] = (kind, default)
        if len(fields) == 1:
            [(parameter_name, (kind, _default))] = fields.items()
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                if kind.model_config.get("extra") != "forbid":
                    raise TypeError(f"{name}: {kind.__name__} must forbid unknown arguments (extra='forbid')")
                arguments, whole_model = kind, parameter_name
        if arguments is None:
            model_name = "".join(part.capitalize() for part in name.split("_")) + "Arguments"
            arguments = create_model(model_name, __config__=ConfigDict(extra="forbid"), **fields)
        if _may_backtrack(arguments.__pydantic_core_schema__):
            raise TypeError(f"{name}: write patterns as text: those of Python's `re` can take for ever")
        description = inspect.getdoc(method)
        if not description:
            raise TypeError(f"{name}: a tool needs a docstring, since models choose tools by it")
        if not _TOOL_NAME.fullmatch(name):
            raise TypeError(f"{name}: a tool's name matches {_TOOL_NAME.pattern}")
        title = options.pop("title", None) or title_of(name)
        return cls(
            name,
            title,
            description,
            method=method,
            arguments=arguments,
            result=result,
            whole_model=whole_model,
            context_parameter=context_parameter,
            principal_parameter=principal_parameter,
            **options,
        )

    @classmethod
    def dynamic(
        cls,
        name: str,
        description: str = "",
        input_schema: Mapping[str, JsonValue] | None = None,
        output_schema: Mapping[str, JsonValue] | None = None,
        **options: Any,
    ) -> Self:
        """Describe a tool that is known only at run time, by JSON Schemas of the draft that they name, or of 2020-12.

        Raises:
            ValueError: a schema is not valid, refers to something outside, or has a pattern that can't be matched in
                linear time. Somebody else may have written it, and it must not hold the process.
        """
        title = options.pop("title", None) or title_of(name)
        described = cls(
            name,
            title,
            description or title,
            dynamic_input_schema=dict(input_schema or {"type": "object"}),
            dynamic_output_schema=_with_success(output_schema) if output_schema else None,
            **options,
        )
        # Mistakes are told now, not at the first call.
        _ = described._compiled_schema, described._compiled_output_schema
        return described

    @property
    def _is_told_who_calls(self) -> bool:
        # `call_tool` may take the context, if it likes.
        return self.method is None or self.context_parameter is not None or self.principal_parameter is not None

    @cached_property
    def for_bound(self) -> Self | None:
        """The tool as callers that are bound to one customer see it; None where it can't be confined to one."""
        if self.confinement is None:
            return None
        argument = self.confinement.argument
        if argument is None or self.filled_in is not None:
            return self
        arguments = self.arguments
        if arguments is not None:
            kind: Any = arguments.model_fields[argument].rebuild_annotation()
            left_out: dict[str, Any] = {argument: (kind | None, None)}
            arguments = create_model(arguments.__name__, __base__=arguments, **left_out)
        example = {name: value for name, value in (self.example or {}).items() if name != argument}
        return replace(self, arguments=arguments, filled_in=argument, example=None if self.example is None else example)

    @cached_property
    def input_schema(self) -> JsonObject:
        """JSON Schema of the arguments object: flat, no `anyOf` at its top; plain, if we have written it ourselves."""
        schema = self.dynamic_input_schema if self.arguments is None else arguments_schema(self.arguments)
        return schema if self.filled_in is None else _without(schema, self.filled_in)

    @cached_property
    def output_schema(self) -> JsonObject | None:
        """JSON Schema of the result object."""
        if self.result is None:
            return self.dynamic_output_schema
        return result_schema(self.result)

    @cached_property
    def mirrors_arguments(self) -> bool:
        """Whether 2026-07-28 wants a copy of an argument in a header, to be compared."""
        return "x-mcp-header" in str(self.input_schema)

    @cached_property
    def _validator(self) -> SchemaValidator:
        assert self.arguments is not None
        validator = self.arguments.__pydantic_validator__
        assert isinstance(validator, SchemaValidator)
        return validator

    @cached_property
    def _write(self) -> Callable[[BaseModel], bytes]:
        assert self.result is not None
        return writer_of(self.result)

    @cached_property
    def _compiled_schema(self) -> CompiledSchema:
        return CompiledSchema(self.input_schema)

    @cached_property
    def _compiled_output_schema(self) -> CompiledSchema | None:
        return None if self.dynamic_output_schema is None else CompiledSchema(self.dynamic_output_schema)

    @cached_property
    def _leniency(self) -> Leniency:
        return Leniency(self._compiled_schema)

    @cached_property
    def _takes_doubles(self) -> bool:
        return b'"number"' in to_json(self.input_schema)

    @cached_property
    def _is_flat(self) -> bool:
        """Whether it takes nothing but texts, integers and booleans, each under its own name."""
        if self.arguments is None or self.arguments.__pydantic_decorators__.model_validators:
            return False
        properties = cast("Mapping[str, JsonObject]", self.input_schema.get("properties", {}))
        return all(each.get("type") in _FLAT_TYPES and "format" not in each for each in properties.values())

    @cached_property
    def is_plain(self) -> bool:
        """Whether a call of it needs nothing of the protocol but its arguments and its result."""
        needs_the_protocol = self.method is None or self.context_parameter is not None
        return not needs_the_protocol and not self.mirrors_arguments

    @cached_property
    def operation(self) -> Operation:
        """A call of it, as the gateway runs it."""
        return Operation(
            self.name,
            self.name,
            self.parse,
            self.run,
            self.read_only,
            self.with_arguments,
            self.timeout,
            self.confinement,
        )

    @cached_property
    def encodings(self) -> Mapping[str, str]:
        """The arguments that say how other ones are encoded, by these."""
        fields = self.arguments.model_fields.items() if self.arguments is not None else ()
        return {name: mark.by for name, about in fields for mark in about.metadata if isinstance(mark, Encoded)}

    @cached_property
    def argument_names(self) -> frozenset[str] | None:
        """What its arguments are called; None where they may be called anything."""
        if self.arguments is not None:
            return frozenset(self.arguments.model_fields)
        properties = self.input_schema.get("properties")
        return frozenset(properties) if isinstance(properties, dict) else None

    def parse(self, raw: bytes) -> BaseModel | JsonObject:
        """Check an arguments object, as JSON: what fits the schema strictly, or certainly means something that does.

        Raises:
            MalformedRequest: it is not JSON at all.
            InvalidArguments: each refused field is named, its value is not repeated.
        """
        text = raw or b"{}"
        if self._is_flat and len(text) <= _SHORT and (arguments := self._parse_flat(text)) is not None:
            return arguments
        try:
            given = text.document if isinstance(text, ReadText) else read(text)
        except NotJson as error:
            raise _not_json(str(error)) from None
        except NotExact as error:
            raise InvalidArguments.at(error.defects) from None
        if self.arguments is None:
            return self._parse_by_schema(given)
        if self._takes_doubles:
            self._refuse_altered(self._in_our_words(given))
        try:
            return self._validator.validate_json(text, strict=True)
        except ValidationError as error:
            return self._parse_leniently(given, error)

    def with_arguments(
        self, parsed: BaseModel | JsonObject, changes: Mapping[str, JsonValue]
    ) -> BaseModel | JsonObject:
        """Return parsed arguments with others in place of some, checked again.

        Raises:
            InvalidArguments: these don't go with the ones that the caller has given.
        """
        if isinstance(parsed, dict):
            return self._parse_by_schema({**parsed, **changes})
        given = {name: value for name, value in parsed.__dict__.items() if name in parsed.model_fields_set}
        try:
            return type(parsed).model_validate({**given, **changes})
        except ValidationError as error:
            raise InvalidArguments.from_validation(failures_of(error)) from None

    def _parse_flat(self, text: bytes) -> BaseModel | None:
        """Return arguments that fit strictly and of which nothing can be lost; None is no refusal, but for the rest.

        Each argument has a colon. So where there are no more of them, there is no key twice; nor is a number altered
        of which nobody takes a fraction or an exponent.
        """
        try:
            arguments = self._validator.validate_json(text, strict=True)
        except ValidationError:
            return None
        return (
            arguments if text.count(b":") == len(arguments.__pydantic_fields_set__) and text.find(b"-0") < 0 else None
        )

    def _parse_leniently(self, given: Any, refused: ValidationError) -> BaseModel:
        """Take what strictness has refused but whose meaning is certain; only calls that would fail pay for it."""
        taken = self._leniency.take(self._in_our_words(given))
        if taken is not given:
            if self._takes_doubles:
                self._refuse_altered(taken)
            try:
                return self._validator.validate_json(to_json(taken), strict=True)
            except ValidationError as error:
                refused = error
        failures = failures_of(refused)
        if failures[0]["type"] == "json_invalid":
            raise _not_json(failures[0]["msg"])
        for unknown in [failure for failure in failures if failure["type"] == "extra_forbidden"][:MOST_UNKNOWN]:
            unknown["msg"] = self._compiled_schema.unknown(unknown["loc"])
        for failure in failures:
            failure["msg"] += self._example_for(failure)
        raise InvalidArguments.from_validation(failures)

    def _example_for(self, failure: Mapping[str, Any]) -> str:
        """Return what an argument may look like, where it has come as another type or in another form."""
        place: tuple[str | int, ...] = failure["loc"]
        if not failure["type"].endswith(_OF_TYPE_OR_FORM):
            return ""
        # A number in place of a text is not taken: the zeros that an id may have begun with are lost by then.
        in_quotes = "; put it in quotes" if failure["type"] == "string_type" else ""
        example = to_json((self.example or {}).get(str(place[0])) if len(place) == 1 else None).decode()
        return in_quotes if example == "null" or len(example) > _LONGEST_EXAMPLE else f"{in_quotes}, such as {example}"

    def _refuse_altered(self, arguments: Any) -> None:
        altered = islice(altered_integers(arguments, self.input_schema), MOST_REFUSALS)
        if refused := [(place, str(ALTERED)) for place in altered]:
            raise InvalidArguments.at(refused)

    def _in_our_words(self, given: Any) -> Any:
        """Return arguments by the names that the schema has, where the model also takes other ones."""
        assert self.arguments is not None
        for validator in self.arguments.__pydantic_decorators__.model_validators.values():
            if validator.info.mode == "before":
                try:
                    given = validator.func(given)
                except (ValueError, AssertionError):  # what pydantic takes for a refusal
                    return given
        return given

    def _parse_by_schema(self, given: Any) -> JsonObject:
        if self.filled_in is not None and isinstance(given, dict) and self.filled_in in given:
            # The schema does not know it; whether it is the caller's own is for the guard to say.
            others = {name: value for name, value in cast("JsonObject", given).items() if name != self.filled_in}
            return {**self._parse_by_schema(others), self.filled_in: given[self.filled_in]}
        taken = self._leniency.take(given)
        if not isinstance(taken, dict):
            raise InvalidArguments.at([((), "expected an object")])
        try:
            if not self._compiled_schema.is_valid(taken):
                raise InvalidArguments.at(self._compiled_schema.refusals(taken))
        except TooMuchWork as error:
            raise InvalidArguments.at([((), f"they can't be checked in time: {error}; send less at a time")]) from None
        return cast("JsonObject", taken)

    def dump(self, result: "BaseModel | RawResult[Any] | ProtocolResult | Mapping[str, JsonValue]") -> bytes:
        """Serialize a result, once.

        Raises:
            ValueError: it is no JSON, as NaN is none; or a tool known only at run time breaks its own output schema.
        """
        if type(result) is self.result:  # as nearly always; isinstance would ask pydantic's metaclass
            return self._write(cast("BaseModel", result))
        if self.method is None:
            return self._dump_unknown(result)
        if isinstance(result, RawResult):
            return result.json
        assert isinstance(result, BaseModel)
        return writer_of(type(result))(result)

    def _dump_unknown(self, result: "BaseModel | RawResult[Any] | ProtocolResult | Mapping[str, JsonValue]") -> bytes:
        """Serialize what nobody has promised anything of, and check it."""
        if isinstance(result, ProtocolResult):
            result = cast("BaseModel", result.value)
        if isinstance(result, RawResult):
            body = result.json
        elif isinstance(result, BaseModel):
            # Not the model's own JSON, which has null in place of NaN.
            body = to_json(result.model_dump(mode="json"), inf_nan_mode="constants")
        else:
            body = to_json({"success": True, **result}, inf_nan_mode="constants")
        value = parse_json(body)
        if not isinstance(result, BaseModel) or isinstance(result, Result):
            self.check_result(value)
        return body

    def check_result(self, value: Any) -> None:
        """Hold a result against the output schema of a tool that is known only at run time.

        Raises:
            ValueError: it breaks the schema, or is too much to be checked. The message, for the log, says where and
                repeats nothing of it.
        """
        promised = self._compiled_output_schema
        if promised is not None and not promised.is_valid(value):
            place, rule = promised.refusals(value)[0]
            where = ".".join(map(str, place)) or "the result"
            raise ValueError(f"{self.name} breaks its output schema at {where}: {rule}")

    def run(self, server: CallsTools, arguments: BaseModel | JsonObject, context: CallContext) -> Awaitable[Any]:
        """Call the method with checked arguments."""
        if self.method is None:
            assert isinstance(arguments, dict)
            return server.call_undeclared(self.name, arguments, context)
        keywords = {self.whole_model: arguments} if self.whole_model else arguments.__dict__
        if self.context_parameter:
            keywords = {**keywords, self.context_parameter: context}
        if self.principal_parameter:
            keywords = {**keywords, self.principal_parameter: context.principal}
        return self.method(server, **keywords)


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
    watcher: "Callable[..., AbstractAsyncContextManager[AsyncIterator[Update]]] | None" = None
    """The method that tells of changes; None where the resource can't be watched."""
    watch_principal_parameter: str | None = None
    confinement: Confinement | None = None
    watch_confinement: Confinement | None = None
    """How its reading, and its watching, are kept to one customer for callers that are bound; None refuses them."""

    @classmethod
    def declared(
        cls,
        template: str,
        method: Callable[..., Awaitable[Result | RawResult[Any]]],
        *,
        title: str | None = None,
        confinement: Confinement | None = None,
    ) -> Self:
        """Read a resource off a method; its parameters are the template's variables."""
        name = method.__name__
        hints = get_type_hints(method, include_extras=True)
        _result_model(name, hints.get("return"))
        _, *parameters = inspect.signature(method).parameters.values()
        context_parameter = next((p.name for p in parameters if hints[p.name] is CallContext), None)
        principal_parameter = next((p.name for p in parameters if hints[p.name] is Principal), None)
        fields: dict[str, Any] = {
            p.name: (hints[p.name], ... if p.default is p.empty else p.default)
            for p in parameters
            if p.name not in (context_parameter, principal_parameter)
        }
        if set(UriTemplate.parse(template).variable_names) != set(fields):
            raise TypeError(f"{name}: the variables of {template} and the parameters differ")
        told = context_parameter is not None or principal_parameter is not None
        _check_confinement(name, confinement, fields, tells_who_calls=told)
        return cls(
            template=template,
            name=name,
            title=title or title_of(name),
            description=inspect.getdoc(method) or "",
            method=method,
            arguments=create_model(f"{name}_variables", __config__=ConfigDict(extra="forbid"), **fields),
            context_parameter=context_parameter,
            principal_parameter=principal_parameter,
            confinement=confinement,
        )

    def watched_by(self, method: Callable[..., Any], confinement: Confinement | None) -> Self:
        """Return it with the method that tells of its changes.

        Raises:
            TypeError: the method can't be confined as it says.
        """
        told = next((name for name, kind in get_type_hints(method).items() if kind is Principal), None)
        names = self._parsed.variable_names
        _check_confinement(method.__name__, confinement, names, tells_who_calls=told is not None)
        return replace(self, watcher=method, watch_confinement=confinement, watch_principal_parameter=told)

    def watch(
        self, server: object, variables: Mapping[str, Any], context: CallContext
    ) -> "AbstractAsyncContextManager[AsyncIterator[Update]]":
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
        if self.arguments is None:
            return dict(variables)
        try:
            return dict(self.arguments.model_validate_strings(dict(variables)).__dict__)
        except ValidationError as error:
            raise InvalidArguments.from_validation(failures_of(error)) from None

    def with_arguments(self, parsed: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return checked variables with others in place of some, checked again.

        Raises:
            InvalidArguments: as for `parse`.
        """
        return _checked(self.arguments, {**parsed, **changes})

    def run(
        self, server: object, variables: Mapping[str, Any], context: CallContext
    ) -> Awaitable[Result | RawResult[Any]]:
        """Call the method with the checked variables of a URI."""
        assert self.method is not None
        keywords = dict(variables)
        if self.context_parameter:
            keywords[self.context_parameter] = context
        if self.principal_parameter:
            keywords[self.principal_parameter] = context.principal
        return self.method(server, **keywords)

    def reading(self, uri: str) -> Operation:
        """Return how the gateway reads it at one of its URIs."""

        def run_undeclared(server: CallsTools, _: Mapping[str, Any], context: CallContext) -> Awaitable[Any]:
            return server.read_undeclared(uri, context)

        run = self.run if self.method else run_undeclared
        return Operation(
            self.template, self.template, self.parse, run, True, self.with_arguments, confinement=self.confinement
        )


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
        declared = tool.arguments.model_fields if tool.arguments is not None else {}
        unknown = self.pattern.groupindex.keys() - declared.keys()
        if unknown:
            raise TypeError(f"{self.name}: {self.acts_as} has no arguments {', '.join(sorted(unknown))}")
        fields: dict[str, Any] = {name: (declared[name].rebuild_annotation(), ...) for name in self.pattern.groupindex}
        confinement = self.confinement
        if confinement is None and tool.confinement is not None and not tool.confinement.by_service:
            # What the tool's method does for its callers, this one does not.
            needed = {tool.confinement.argument, tool.confinement.rule_on} - {None}
            confinement = tool.confinement if needed <= fields.keys() else None
        _check_confinement(self.name, confinement, fields, tells_who_calls=True)
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
        try:
            return dict(self.arguments.model_validate_strings(given).__dict__)
        except ValidationError as error:
            raise InvalidArguments.from_validation(failures_of(error)) from None

    def with_arguments(self, parsed: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return the variables of a path with others in place of some, checked again.

        Raises:
            ArgumentRefused: the path can't say one of them.
            InvalidArguments: as for `parse`.
        """
        if unknown := changes.keys() - parsed.keys():
            raise ArgumentRefused(f"{', '.join(sorted(unknown))}: can't be said here; call {self.acts_as} instead")
        return _checked(self.arguments, {**parsed, **changes})


Update = Mapping[str, JsonValue]
"""What a change notice carries in its `_meta`, such as a cursor. It may be empty."""

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
    """

    def declare(method: _Method) -> _Method:
        method.__declared__ = Tool.declared(  # type: ignore[attr-defined]
            method,
            confinement=Confinement.declared(
                method.__name__, confined_by=confined_by, confined=confined, public=public, needs_rule=needs_rule
            ),
            title=title,
            read_only=read_only,
            destructive=destructive and not read_only,
            idempotent=idempotent or read_only,
            open_world=open_world,
            timeout=timeout,
            max_in_flight=max_in_flight,
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
) -> Callable[[_Method], _Method]:
    """Offer a method as a resource.

    Args:
        template: RFC 6570 URI template; its variables are the method's parameters, and optional
            ones stand in a query: `db://customers{?cursor,limit}`.
        title: name for people; made from the method's name if left out.
        confined_by: the variable that names a customer; of others there is nothing to callers that are bound to one.
        confined: as for `tool`, as is what follows.
        public: as there.
    """

    def declare(method: _Method) -> _Method:
        confinement = Confinement.declared(
            method.__name__, confined_by=confined_by, confined=confined, public=public, needs_rule=None
        )
        method.__declared__ = Resource.declared(  # type: ignore[attr-defined]
            template, method, title=title, confinement=confinement
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
                method.__name__, confined_by=confined_by, confined=confined, public=public, needs_rule=None
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
        confinement = Confinement.declared(
            method.__name__, confined_by=confined_by, confined=confined, public=public, needs_rule=None
        )
        method.__watches__ = template, confinement  # type: ignore[attr-defined]
        return method

    return declare


def _checked(arguments: type[BaseModel] | None, values: dict[str, Any]) -> dict[str, Any]:
    if arguments is None:
        return values
    try:
        return dict(arguments.model_validate(values).__dict__)
    except ValidationError as error:
        raise InvalidArguments.from_validation(failures_of(error)) from None


def _check_confinement(
    name: str, confinement: Confinement | None, arguments: Container[str] | None, *, tells_who_calls: bool
) -> None:
    """Refuse a declaration that would confine nobody.

    Args:
        name: of what is declared.
        confinement: as declared.
        arguments: the names of its arguments; None where only a schema knows them.
        tells_who_calls: whether the method is told.

    Raises:
        TypeError: the message says what is missing.
    """
    if confinement is None:
        return
    for argument in (confinement.argument, confinement.rule_on):
        if argument is not None and arguments is not None and argument not in arguments:
            raise TypeError(f"{name}: it is confined by {argument!r}, and has no such argument")
    if confinement.by_service and not tells_who_calls:
        raise TypeError(f'{name}: confined="service" needs a parameter of type Principal, or how would it know?')


def _without(schema: JsonObject, argument: str) -> JsonObject:
    """Return a schema of an arguments object that does not tell of one of them."""
    properties, required = schema.get("properties", {}), schema.get("required", [])
    assert isinstance(properties, dict)
    assert isinstance(required, list)
    left: JsonObject = {**schema, "properties": {name: properties[name] for name in properties if name != argument}}
    if argument in required:
        left["required"] = [name for name in required if name != argument]
    return left


def _with_success(schema: Mapping[str, JsonValue]) -> JsonObject:
    """Return a result's schema that lets the `success` pass which every result object carries."""
    properties = schema.get("properties", {})
    if schema.get("additionalProperties") is not False or not isinstance(properties, dict):
        return dict(schema)
    return {**schema, "properties": {"success": {"const": True}, **properties}}


def _may_backtrack(schema: Any) -> bool:
    """Tell whether a schema of pydantic's has a pattern that Python's engine matches, and not its own linear one."""
    if isinstance(schema, dict):
        part = cast("dict[str, Any]", schema)
        by_python = isinstance(part.get("pattern"), re.Pattern) or part.get("regex_engine") == "python-re"
        return by_python or any(map(_may_backtrack, part.values()))
    return isinstance(schema, list | tuple) and any(map(_may_backtrack, cast("list[Any]", schema)))


def title_of(name: str) -> str:
    """Return a name as people read it."""
    return name.replace("_", " ").capitalize()


def _not_json(reason: str) -> MalformedRequest:
    return MalformedRequest(f"The arguments are not valid JSON ({reason}). Send one JSON object.")


def _result_model(name: str, annotation: Any) -> type[BaseModel]:
    """Return the result model of a method: `Model` itself or the one in `RawResult[Model]`."""
    model = get_args(annotation)[0] if get_origin(annotation) is RawResult else annotation
    if not (isinstance(model, type) and issubclass(model, Result)):
        raise TypeError(f"{name}: the return type must be a Result model or RawResult of one, not {annotation!r}")
    return model
