"""What a tool returns: a model that says `success`, or the bytes of one."""

import json
from dataclasses import dataclass
from typing import Any, Generic, Literal, Never, TypeVar

from pydantic import BaseModel
from pydantic_core import from_json


class Result(BaseModel):
    """Base of every result object."""

    success: Literal[True] = True


ResultT = TypeVar("ResultT", bound=Result)


@dataclass(frozen=True, slots=True)
class RawResult(Generic[ResultT]):
    """A result that the backend already wrote as JSON, so that nothing is parsed to be serialized again.

    `RawResult[CustomerContext]` promises that `json` is what `CustomerContext` would serialize to,
    `success` included; tests hold the promise, the gateway does not check it.
    """

    json: bytes


@dataclass(frozen=True, slots=True)
class ProtocolResult:
    """A result in the words of MCP, as the SDK's types say them, which only a face that speaks it can carry whole.

    A tool that is known only at run time may return one, and so does whatever answers a method of the protocol.
    """

    value: Any


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
