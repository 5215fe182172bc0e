"""The JSON Schemas that are advertised: what a model needs to call a tool and to read its answer, and not a word more.

Listings stand in the context of every conversation, and some models' APIs take only plain schemas. So nothing refers to
anything (`$ref`), `null` is no alternative where an argument may simply be left out, and no title repeats a name.
"""

from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel

from app.servers.calls import JsonObject


def arguments_schema(model: type[BaseModel]) -> JsonObject:
    """Return the schema of an arguments object: flat, strict, and plain.

    Raises:
        TypeError: the model contains itself, so that it can't be written without a reference.
    """
    schema = _Plain(model.model_json_schema(mode="validation"), null=False).write()
    schema.pop("description", None)
    return {"type": "object", "properties": {}, **schema, "additionalProperties": False}


def result_schema(model: type[BaseModel]) -> JsonObject:
    """Return the schema of a result object.

    Raises:
        TypeError: as for `arguments_schema`.
    """
    schema = _Plain(model.model_json_schema(mode="serialization"), null=True).write()
    schema.pop("description", None)  # the tool's own says it
    properties = cast("JsonObject", schema["properties"])
    if "success" in properties:
        properties["success"] = {"const": True}
    return schema


class _Plain:
    """Rewrites what pydantic generates.

    Args:
        schema: with definitions.
        null: write where null may stand; otherwise leave the value out is what it means.
    """

    def __init__(self, schema: Mapping[str, Any], *, null: bool) -> None:
        self._schema = schema
        self._definitions = cast("dict[str, Any]", schema.get("$defs", {}))
        self._null = null
        self._open: list[str] = []
        """Definitions that are being written."""

    def write(self) -> JsonObject:
        return self._plain({name: value for name, value in self._schema.items() if name != "$defs"})

    def _plain(self, schema: Any) -> Any:
        if not isinstance(schema, dict):
            return schema
        given = cast("dict[str, Any]", schema)
        if (reference := given.get("$ref")) is not None:
            return self._inlined(str(reference).removeprefix("#/$defs/"), given)
        if branches := given.get("anyOf"):
            others = [branch for branch in branches if branch != {"type": "null"}]
            if len(others) < len(branches):
                return self._nullable(others, {name: value for name, value in given.items() if name != "anyOf"})
        written: dict[str, Any] = {}
        for name, value in given.items():
            match name:
                case "title" | "discriminator":
                    continue
                case "default" if value is None:
                    continue
                case "additionalProperties" if value is True or self._plain(value) == {}:
                    continue
                case "ge" | "gt" | "le" | "lt":
                    continue  # pydantic's own words, for a limit of a type that JSON Schema has no limit for
                case "properties":
                    written[name] = {key: self._plain(member) for key, member in value.items()}
                case "items" | "additionalProperties":
                    written[name] = self._plain(value)
                case "anyOf" | "oneOf" | "allOf" | "prefixItems":
                    written[name] = [self._plain(branch) for branch in value]
                case _:
                    written[name] = value
        return written

    def _inlined(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        if name in self._open:
            raise TypeError(f"{name} contains itself: its schema can't be written without a reference")
        self._open.append(name)
        definition = self._plain(self._definitions[name])
        self._open.pop()
        return {**definition, **self._plain({key: value for key, value in given.items() if key != "$ref"})}

    def _nullable(self, others: list[Any], given: dict[str, Any]) -> dict[str, Any]:
        alone = self._plain(others[0]) if len(others) == 1 else {"anyOf": [self._plain(branch) for branch in others]}
        if self._null:
            if isinstance(alone.get("type"), str) and "const" not in alone:
                alone["type"] = [alone["type"], "null"]
                if "enum" in alone:
                    alone["enum"] = [*alone["enum"], None]
            else:
                alone = {"anyOf": [*alone.get("anyOf", [alone]), {"type": "null"}]}
        return {**alone, **self._plain(given)}
