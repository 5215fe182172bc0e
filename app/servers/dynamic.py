"""Tools that are known only at run time: JSON Schemas say what they take and return, their server runs them by name."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self, cast

import mcp_types as types
from pydantic import BaseModel, JsonValue
from pydantic_core import to_json

from app.budget import LARGE
from app.errors import InvalidArguments
from app.results import ProtocolResult, RawResult, Result, parse_json
from app.servers.calls import CallContext, JsonObject
from app.servers.confining import check_confinement
from app.servers.json_schema import CompiledSchema
from app.servers.operations import RunsUndeclared
from app.servers.schema_cost import TooMuchWork
from app.servers.signatures import title_of
from app.servers.tools import Tool, read_arguments


@dataclass(frozen=True)
class DynamicTool(Tool):
    """A tool that its server's `call_tool` runs."""

    arguments_schema: JsonObject = field(default_factory=lambda: {"type": "object"}, kw_only=True)
    result_schema: JsonObject | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        # `call_tool` may take the context, if it likes.
        check_confinement(self.name, self.confinement, None, tells_who_calls=True)
        # Mistakes are told now, not at the first call.
        _ = self._compiled_schema, self._compiled_result_schema

    @classmethod
    def of(
        cls,
        name: str,
        description: str = "",
        input_schema: Mapping[str, JsonValue] | None = None,
        output_schema: Mapping[str, JsonValue] | None = None,
        **options: Any,
    ) -> Self:
        """Describe a tool by JSON Schemas of the draft that they name, or of 2020-12.

        Args:
            name: as callers give it, and `call_tool` gets it.
            description: for models; the title if left out.
            input_schema: of the arguments object; any object if left out.
            output_schema: of the result object. Each result is held against it.
            options: as for `@tool`, and the title.

        Raises:
            ValueError: a schema is not valid, refers to something outside, or has a pattern that can't be matched in
                linear time. Somebody else may have written it, and it must not hold the process.
        """
        title = options.pop("title", None) or title_of(name)
        return cls(
            name,
            title,
            description or title,
            arguments_schema=dict(input_schema or {"type": "object"}),
            result_schema=_with_success(output_schema) if output_schema else None,
            **options,
        )

    def schema_of_arguments(self) -> JsonObject:
        return self.arguments_schema

    def schema_of_result(self) -> JsonObject | None:
        return self.result_schema

    @cached_property
    def _compiled_result_schema(self) -> CompiledSchema | None:
        return None if self.result_schema is None else CompiledSchema(self.result_schema)

    @cached_property
    def is_plain(self) -> bool:
        # It may answer in the words of the protocol.
        return False

    @cached_property
    def argument_names(self) -> frozenset[str] | None:
        properties = self.input_schema.get("properties")
        return frozenset(properties) if isinstance(properties, dict) else None

    def parse(self, raw: bytes) -> JsonObject:
        return self._checked(read_arguments(raw or b"{}"))

    def with_arguments(self, parsed: JsonObject, changes: Mapping[str, JsonValue]) -> JsonObject:
        return self._checked({**parsed, **changes})

    def _checked(self, given: Any) -> JsonObject:
        if isinstance(given, dict) and (hidden := [name for name in self.hidden if name in given]):
            # The schema does not know them; whether they are the caller's to give is for the guard to say.
            given = cast("JsonObject", given)
            others = {name: value for name, value in given.items() if name not in hidden}
            return {**self._checked(others), **{name: given[name] for name in hidden}}
        taken = self._leniency.take(given)
        if not isinstance(taken, dict):
            raise InvalidArguments.at([((), "expected an object")])
        try:
            if not self._compiled_schema.is_valid(taken):
                raise InvalidArguments.at(self._compiled_schema.refusals(taken))
        except TooMuchWork as error:
            raise InvalidArguments.at([((), f"they can't be checked in time: {error}; send less at a time")]) from None
        return cast("JsonObject", taken)

    async def run(self, server: RunsUndeclared, arguments: JsonObject, context: CallContext) -> Any:
        result = await server.call_undeclared(self.name, arguments, context)
        if self.result_schema is None:
            return result
        if isinstance(result, ProtocolResult):
            value = cast("object", result.value)
            if isinstance(value, types.CallToolResult) and not value.is_error:
                await self._check_aside(value.structured_content, result.size)
        elif not isinstance(result, BaseModel) or isinstance(result, Result):
            body = self.dump(cast("Any", result))
            await self._check_aside(parse_json(body), len(body))
            result = cast("object", RawResult(body))
        return result

    async def _check_aside(self, value: Any, size: int) -> None:
        """Hold a result of so many bytes against the schema; not on the event loop, if it is a large one."""
        if size > LARGE:
            await asyncio.to_thread(self.check_result, value)
        else:
            self.check_result(value)

    def dump(self, result: BaseModel | RawResult[Any] | ProtocolResult | Mapping[str, JsonValue]) -> bytes:
        # Nobody has promised anything of it.
        if isinstance(result, ProtocolResult):
            result = cast("BaseModel", result.value)
        if isinstance(result, RawResult):
            body = result.json
        elif isinstance(result, BaseModel):
            # Not the model's own JSON, which has null in place of NaN.
            body = to_json(result.model_dump(mode="json"), inf_nan_mode="constants")
        else:
            body = to_json({"success": True, **result}, inf_nan_mode="constants")
        parse_json(body)
        return body

    def check_result(self, value: Any) -> None:
        """Hold a result, as JSON says it, against its schema.

        Raises:
            ValueError: it breaks the schema, or is too much to be checked. The message, for the log, says where and
                repeats nothing of it.
        """
        promised = self._compiled_result_schema
        if promised is not None and not promised.is_valid(value):
            place, rule = promised.refusals(value)[0]
            where = ".".join(map(str, place)) or "the result"
            raise ValueError(f"{self.name} breaks its output schema at {where}: {rule}")


def _with_success(schema: Mapping[str, JsonValue]) -> JsonObject:
    """Return a result's schema that lets the `success` pass which every result object carries."""
    properties = schema.get("properties", {})
    if schema.get("additionalProperties") is not False or not isinstance(properties, dict):
        return dict(schema)
    return {**schema, "properties": {"success": {"const": True}, **properties}}
