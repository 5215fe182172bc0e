"""What a tool returns: a model that says `success`, or the bytes of one."""

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel


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
