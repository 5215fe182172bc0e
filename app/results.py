"""What a tool returns: a model that says `success`, or the bytes of one."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Generic, Literal, Never, Self, TypeVar, cast

import msgspec
from pydantic import BaseModel
from pydantic_core import SchemaSerializer, from_json, to_json


class Result(BaseModel):
    """Base of every result object."""

    success: Literal[True] = True


ResultT = TypeVar("ResultT", bound=Result)


class RawResult(msgspec.Struct, Generic[ResultT], frozen=True):
    """A result that the backend already wrote as JSON, so that nothing is parsed to be serialized again.

    `RawResult[CustomerContext]` promises that `json` is what `CustomerContext` would serialize to,
    `success` included; tests hold the promise, the gateway does not check it.
    """

    json: bytes


class RememberedJson(bytes):
    """The JSON of a result that is not made for the call it answers."""

    age: float
    """Seconds since its making began."""

    def __new__(cls, json: bytes, age: float) -> Self:
        remembered = super().__new__(cls, json)
        remembered.age = age
        return remembered


@dataclass(frozen=True)
class ProtocolResult:
    """A result in the words of MCP, as the SDK's types say them, which only a face that speaks it can carry whole.

    A tool that is known only at run time may return one, and so does whatever answers a method of the protocol.
    """

    value: Any

    @cached_property
    def size(self) -> int:
        """Bytes that it has as JSON."""
        return len(to_json(self.value))


@cache
def writer_of(kind: type[BaseModel]) -> Callable[[BaseModel], bytes]:
    """Return what writes models of a class as JSON, and raises ValueError for one that JSON has no words for.

    Pydantic writes null for a number that is none, which nobody could tell from a value that is missing.
    """
    schema = kind.__pydantic_core_schema__
    types = set(_types_within(schema))
    if not types & {"float", "any"}:
        return kind.__pydantic_serializer__.to_json
    # What stands in a value of any type follows the serializer's configuration, what is declared a float its model's.
    serializer = SchemaSerializer(schema, {"ser_json_inf_nan": "constants"})
    declares_floats = "float" in types

    def write(model: BaseModel) -> bytes:
        body = serializer.to_json(model)
        _refuse_no_numbers(body)
        if declares_floats and body.find(b"null") >= 0:
            _refuse_no_numbers(to_json(model.model_dump(mode="json"), inf_nan_mode="constants"))
        return body

    return write


def _refuse_no_numbers(body: bytes) -> None:
    if body.find(b"NaN") >= 0 or body.find(b"Infinity") >= 0:
        parse_json(body)  # in a text they are as good as any other word


def _types_within(schema: Any) -> Iterator[str]:
    """Yield the type of each part of a schema of pydantic's core that JSON is written by."""
    if isinstance(schema, dict):
        part = cast("dict[str, Any]", schema)
        if isinstance(kind := part.get("type"), str):
            yield kind
        for name, value in part.items():
            if name not in ("metadata", "config", "python_schema"):
                yield from _types_within(value)
    elif isinstance(schema, list | tuple):
        for value in cast("list[Any]", schema):
            yield from _types_within(value)


def parse_json(body: bytes) -> Any:
    """Return what the JSON of a result says.

    Raises:
        ValueError: it is no JSON, as NaN is none, or nested deeper than Python can follow.
    """
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        if "recursion limit" not in str(error):
            raise
        # The fast parser reads 200 levels, as it does of arguments: what was stored that deep comes back with more.
        try:
            return json.loads(body, parse_constant=_no_number)
        except RecursionError:
            raise ValueError("nested too deeply") from error


def _no_number(name: str) -> Never:
    raise ValueError(f"{name} is not JSON")
