"""Tools that are methods: the signature says what they take and return, pydantic checks it."""

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any, Self, cast

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError, create_model
from pydantic_core import SchemaValidator, to_json

from app.errors import MOST_REFUSALS, InvalidArguments, failures_of
from app.exact_json import ALTERED
from app.results import ProtocolResult, RawResult, Result, writer_of
from app.servers.caching import ResultCache, check_cache_seconds, key_of
from app.servers.calls import CallContext, JsonObject
from app.servers.confining import check_confinement
from app.servers.json_schema import MOST_UNKNOWN, CompiledSchema
from app.servers.leniency import Leniency, altered_integers
from app.servers.schemas import arguments_schema, result_schema
from app.servers.signatures import Signature, title_of
from app.servers.tools import Tool, not_json, read_arguments

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


@dataclass(frozen=True)
class MethodTool(Tool):
    """A tool that `@tool` has declared."""

    method: Callable[..., Awaitable[Result | RawResult[Any]]] = field(kw_only=True)
    """Unbound."""
    signature: Signature = field(kw_only=True)
    arguments: type[BaseModel] = field(kw_only=True)
    whole_model: str | None = field(default=None, kw_only=True)
    """The one parameter that takes the whole arguments model, if the method has such a parameter."""

    def __post_init__(self) -> None:
        told = self.signature.tells_who_calls
        check_confinement(self.name, self.confinement, self.arguments.model_fields, tells_who_calls=told)
        takes_context = self.signature.context_parameter is not None
        check_cache_seconds(self.name, self.cache_seconds, read_only=self.read_only, takes_context=takes_context)

    @classmethod
    def declared(cls, method: Callable[..., Awaitable[Result | RawResult[Any]]], **options: Any) -> Self:
        """Read a tool off the signature and docstring of a method.

        Raises:
            TypeError: the declaration breaks a rule; the message names it. This happens at import.
        """
        name = method.__name__
        signature = Signature.of(method)
        arguments, whole_model = None, None
        if len(signature.fields) == 1:
            [(parameter_name, (kind, _default))] = signature.fields.items()
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                if kind.model_config.get("extra") != "forbid":
                    raise TypeError(f"{name}: {kind.__name__} must forbid unknown arguments (extra='forbid')")
                arguments, whole_model = kind, parameter_name
        if arguments is None:
            model_name = "".join(part.capitalize() for part in name.split("_")) + "Arguments"
            arguments = create_model(model_name, __config__=ConfigDict(extra="forbid"), **signature.fields)
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
            signature=signature,
            arguments=arguments,
            result=signature.result,
            whole_model=whole_model,
            **options,
        )

    def with_hidden(self, arguments: tuple[str, ...]) -> Self:
        assert self.confinement is not None
        filled_in = self.confinement.argument
        fields = self.arguments.model_fields
        optional: dict[str, Any] = {
            name: (fields[name].rebuild_annotation() | None, None)
            for name in arguments
            if name == filled_in or fields[name].is_required()
        }
        model = create_model(self.arguments.__name__, __base__=self.arguments, **optional)
        return replace(super().with_hidden(arguments), arguments=model)

    def schema_of_arguments(self) -> JsonObject:
        return arguments_schema(self.arguments)

    def schema_of_result(self) -> JsonObject:
        return result_schema(self.signature.result)

    @cached_property
    def is_plain(self) -> bool:
        return self.signature.context_parameter is None and not self.mirrors_arguments

    @cached_property
    def encodings(self) -> Mapping[str, str]:
        fields = self.arguments.model_fields.items()
        return {name: mark.by for name, about in fields for mark in about.metadata if isinstance(mark, Encoded)}

    @cached_property
    def argument_names(self) -> frozenset[str]:
        return frozenset(self.arguments.model_fields)

    @cached_property
    def _validator(self) -> SchemaValidator:
        validator = self.arguments.__pydantic_validator__
        assert isinstance(validator, SchemaValidator)
        return validator

    @cached_property
    def _leniency(self) -> Leniency:
        # What is hidden may be said all the same, and is judged as what it means.
        return Leniency(CompiledSchema(self.schema_of_arguments())) if self.hidden else super()._leniency

    @cached_property
    def _takes_doubles(self) -> bool:
        return b'"number"' in to_json(self.input_schema)

    @cached_property
    def _is_flat(self) -> bool:
        """Whether it takes nothing but texts, integers and booleans, each under its own name."""
        if self.arguments.__pydantic_decorators__.model_validators:
            return False
        properties = cast("Mapping[str, JsonObject]", self.input_schema.get("properties", {}))
        return all(each.get("type") in _FLAT_TYPES and "format" not in each for each in properties.values())

    def parse(self, raw: bytes) -> BaseModel:
        text = raw or b"{}"
        if self._is_flat and len(text) <= _SHORT and (arguments := self._parse_flat(text)) is not None:
            return arguments
        given = read_arguments(text)
        if self._takes_doubles:
            self._refuse_altered(self._in_our_words(given))
        try:
            return self._validator.validate_json(text, strict=True)
        except ValidationError as error:
            return self._parse_leniently(given, error)

    def with_arguments(self, parsed: BaseModel, changes: Mapping[str, JsonValue]) -> BaseModel:
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
            raise not_json(failures[0]["msg"])
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
        for validator in self.arguments.__pydantic_decorators__.model_validators.values():
            if validator.info.mode == "before":
                try:
                    given = validator.func(given)
                except (ValueError, AssertionError):  # what pydantic takes for a refusal
                    return given
        return given

    @cached_property
    def _write(self) -> Callable[[BaseModel], bytes]:
        return writer_of(self.signature.result)

    def dump(self, result: BaseModel | RawResult[Any] | ProtocolResult | Mapping[str, JsonValue]) -> bytes:
        if type(result) is self.result:  # as nearly always; isinstance would ask pydantic's metaclass
            return self._write(cast("BaseModel", result))
        if isinstance(result, RawResult):
            return result.json
        assert isinstance(result, BaseModel)
        return writer_of(type(result))(result)

    def run(self, server: Any, arguments: BaseModel, context: CallContext) -> Awaitable[Any]:
        if self.cache_seconds is None:
            return self._run(server, arguments, context)

        async def make() -> bytes:
            return self.dump(await self._run(server, arguments, context))

        cache: ResultCache = server.remembered
        key = key_of(self.name, context.principal, self._keywords(arguments))
        return cache.result(key, self.cache_seconds, make)

    def _keywords(self, arguments: BaseModel) -> Mapping[str, Any]:
        return {self.whole_model: arguments} if self.whole_model else arguments.__dict__

    def _run(self, server: object, arguments: BaseModel, context: CallContext) -> Awaitable[Any]:
        keywords = self._keywords(arguments)
        if self.signature.context_parameter:
            keywords = {**keywords, self.signature.context_parameter: context}
        if self.signature.principal_parameter:
            keywords = {**keywords, self.signature.principal_parameter: context.principal}
        return self.method(server, **keywords)


def _may_backtrack(schema: Any) -> bool:
    """Tell whether a schema of pydantic's has a pattern that Python's engine matches, and not its own linear one."""
    if isinstance(schema, dict):
        part = cast("dict[str, Any]", schema)
        by_python = isinstance(part.get("pattern"), re.Pattern) or part.get("regex_engine") == "python-re"
        return by_python or any(map(_may_backtrack, part.values()))
    return isinstance(schema, list | tuple) and any(map(_may_backtrack, cast("list[Any]", schema)))
