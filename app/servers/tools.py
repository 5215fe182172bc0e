"""A tool, as every face sees it: what it is called, what it takes and returns, how a call of it is run."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import Any, Self

from pydantic import BaseModel, JsonValue

from app.errors import GatewayError, InvalidArguments, MalformedRequest
from app.exact_json import NotExact, NotJson, ReadText, read
from app.results import ProtocolResult, RawResult
from app.servers.calls import CallContext, JsonObject
from app.servers.confining import Confinement
from app.servers.json_schema import CompiledSchema
from app.servers.leniency import Leniency
from app.servers.operations import Operation


@dataclass(frozen=True)
class Tool(ABC):
    """One operation of a server: a method (`MethodTool`), or known only at run time (`DynamicTool`)."""

    name: str
    title: str
    description: str
    _: KW_ONLY
    result: type[BaseModel] | None = None
    """The model of its result, if there is one."""
    read_only: bool = False
    destructive: bool = True
    idempotent: bool = False
    open_world: bool = False
    timeout: float | None = None
    """Seconds; None takes the gateway's default."""
    max_in_flight: int | None = None
    """Calls at a time; None leaves it to the server's limit."""
    cache_seconds: float | None = None
    """For how long identical calls of one identity are answered from memory; None never does that."""
    example: JsonObject | None = None
    errors: tuple[type[GatewayError], ...] = ()
    """Failures beyond those that every tool may answer, for the documentation."""
    confinement: Confinement | None = None
    """How it is kept to one customer for callers that are bound to one; None refuses them."""
    hidden: tuple[str, ...] = ()
    """Arguments that callers do not see, as they are filled in for them or not theirs to give; in `for_bound` only."""

    @cached_property
    def for_bound(self) -> Self | None:
        """The tool as callers that are bound to one customer see it; None where it can't be confined to one."""
        if self.confinement is None:
            return None
        hidden = self.confinement.hidden
        return self.with_hidden(hidden) if hidden and not self.hidden else self

    def with_hidden(self, arguments: tuple[str, ...]) -> Self:
        """Return the tool as it is for callers who do not see some of its arguments, and need not give them."""
        example = None if self.example is None else _without(self.example, arguments)
        return replace(self, hidden=arguments, example=example)

    @cached_property
    def input_schema(self) -> JsonObject:
        """JSON Schema of the arguments object: flat, no `anyOf` at its top; plain, if we have written it ourselves."""
        schema = self.schema_of_arguments()
        return _schema_without(schema, self.hidden) if self.hidden else schema

    @abstractmethod
    def schema_of_arguments(self) -> JsonObject:
        """Return the JSON Schema of all its arguments, filled in or not."""

    @cached_property
    def output_schema(self) -> JsonObject | None:
        """JSON Schema of the result object, if that is known."""
        return self.schema_of_result()

    @abstractmethod
    def schema_of_result(self) -> JsonObject | None:
        """Return the JSON Schema of the result object, if that is known."""

    @cached_property
    def _compiled_schema(self) -> CompiledSchema:
        return CompiledSchema(self.input_schema)

    @cached_property
    def _leniency(self) -> Leniency:
        return Leniency(self._compiled_schema)

    @cached_property
    def mirrors_arguments(self) -> bool:
        """Whether 2026-07-28 wants a copy of an argument in a header, to be compared."""
        return "x-mcp-header" in str(self.input_schema)

    @cached_property
    @abstractmethod
    def is_plain(self) -> bool:
        """Whether a call of it needs nothing of the protocol but its arguments and its result."""

    @cached_property
    def encodings(self) -> Mapping[str, str]:
        """The arguments that say how other ones are encoded, by these."""
        return {}

    @cached_property
    @abstractmethod
    def argument_names(self) -> frozenset[str] | None:
        """What its arguments are called; None where they may be called anything."""

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

    @abstractmethod
    def parse(self, raw: bytes) -> Any:
        """Check an arguments object, as JSON: what fits the schema strictly, or certainly means something that does.

        Raises:
            MalformedRequest: it is not JSON at all.
            InvalidArguments: each refused field is named, its value is not repeated.
        """

    @abstractmethod
    def with_arguments(self, parsed: Any, changes: Mapping[str, JsonValue]) -> Any:
        """Return parsed arguments with others in place of some, checked again.

        Raises:
            InvalidArguments: these don't go with the ones that the caller has given.
        """

    @abstractmethod
    def run(self, server: Any, arguments: Any, context: CallContext) -> Awaitable[Any]:
        """Call it on an open server, with checked arguments.

        Raises:
            ValueError: a tool known only at run time breaks its own output schema.
        """

    @abstractmethod
    def dump(self, result: BaseModel | RawResult[Any] | ProtocolResult | Mapping[str, JsonValue]) -> bytes:
        """Serialize a result, once.

        Raises:
            ValueError: it is no JSON, as NaN is none.
        """


def read_arguments(text: bytes) -> Any:
    """Return what an arguments object says, as JSON, exactly.

    Raises:
        MalformedRequest: it is not JSON at all.
        InvalidArguments: something in it can't be handed on as it is.
    """
    try:
        return text.document if isinstance(text, ReadText) else read(text)
    except NotJson as error:
        raise not_json(str(error)) from None
    except NotExact as error:
        raise InvalidArguments.at(error.defects) from None


def not_json(reason: str) -> MalformedRequest:
    """Return how arguments are refused that are no JSON."""
    return MalformedRequest(f"The arguments are not valid JSON ({reason}). Send one JSON object.")


def _without(values: JsonObject, arguments: tuple[str, ...]) -> JsonObject:
    return {name: value for name, value in values.items() if name not in arguments}


def _schema_without(schema: JsonObject, arguments: tuple[str, ...]) -> JsonObject:
    """Return a schema of an arguments object that does not tell of some of them."""
    properties, required = schema.get("properties", {}), schema.get("required", [])
    assert isinstance(properties, dict)
    assert isinstance(required, list)
    left: JsonObject = {**schema, "properties": _without(properties, arguments)}
    if required:
        left["required"] = [name for name in required if name not in arguments]
    return left
