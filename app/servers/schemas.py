"""The JSON Schemas that are advertised: what a model needs to call a tool and to read its answer, and not a word more.

Listings stand in the context of every conversation, and some models' APIs take only plain schemas. So nothing refers to
anything (`$ref`), `null` is no alternative where an argument may simply be left out, and no title repeats a name.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, cast

from pydantic import BaseModel

from app.servers.calls import JsonObject

_BIGINT_LIMIT = 2**63 - 1
"""A limit that is the backend's own, and beyond what clients in JavaScript can read."""


def arguments_schema(model: type[BaseModel]) -> JsonObject:
    """Return the schema of an arguments object: flat, strict, and plain.

    Raises:
        TypeError: the model contains itself, so that it can't be written without a reference.
    """
    schema = _Plain(model.model_json_schema(mode="validation"), null=False).write()
    return {"type": "object", "properties": {}, **schema, "additionalProperties": False}


def result_schema(model: type[BaseModel]) -> JsonObject:
    """Return the schema of a result object. What stands in it more than once is referred to, within it.

    Raises:
        TypeError: as for `arguments_schema`.
    """
    schema = _Plain(model.model_json_schema(mode="serialization"), null=True).write()
    properties = cast("JsonObject", schema["properties"])
    if "success" in properties:
        properties["success"] = {"const": True}
    return schema


class _Plain:
    """Rewrites what pydantic generates.

    Args:
        schema: with definitions.
        null: say where null may stand, and refer to objects that are there more than once, as results want it. Of
            arguments, null means no more than that they are left out.
    """

    def __init__(self, schema: Mapping[str, Any], *, null: bool) -> None:
        self._schema = schema
        self._definitions = cast("dict[str, Any]", schema.get("$defs", {}))
        self._null = null
        self._open: list[str] = []
        """Definitions that are being written."""
        self._shared: dict[str, Any] = {}
        self._bases = dict(self._extensions()) if null else {}
        """By name: the definition all of whose fields another one has, too."""
        uses = Counter([*_references(schema), *self._bases.values()])
        self._several = {name for name in self._definitions if null and uses[name] > 1 and len(self._fields(name)) > 1}

    def write(self) -> JsonObject:
        """Return the schema in our words."""
        written = self._plain({name: value for name, value in self._schema.items() if name not in _ABOUT_THE_MODEL})
        return {**written, "$defs": self._shared} if self._shared else written

    def _plain(self, schema: Any) -> Any:
        if not isinstance(schema, dict):
            return schema
        given = cast("dict[str, Any]", schema)
        if (reference := given.get("$ref")) is not None:
            return self._referred(_name(reference), {name: given[name] for name in given if name != "$ref"})
        if branches := given.get("anyOf"):
            others = [branch for branch in branches if branch != {"type": "null"}]
            if len(others) < len(branches):
                return self._nullable(others, {name: given[name] for name in given if name != "anyOf"})
        if not self._null:
            given = {_PLAINER.get(name, name): [value] if name == "const" else value for name, value in given.items()}
        said = {name: value for name, value in given.items() if not self._says_nothing(name, value)}
        if self._null and not said.keys().isdisjoint({"enum", "const"}):
            said.pop("type", None)  # the values show it; of arguments some models' APIs want it nevertheless
        return {name: self._written(name, value) for name, value in said.items()}

    def _written(self, keyword: str, value: Any) -> Any:
        match keyword:
            case "properties":
                return {name: self._plain(member) for name, member in value.items()}
            case "items" | "additionalProperties":
                return self._plain(value)
            case "anyOf" | "oneOf" | "allOf" | "prefixItems":
                return [self._plain(branch) for branch in value]
            case _:
                return value

    def _says_nothing(self, keyword: str, value: Any) -> bool:
        match keyword:
            case "title" | "discriminator" | "examples":
                return True
            case "ge" | "gt" | "le" | "lt":
                return True  # pydantic's own words, where JSON Schema has none
            case "default":
                return value is None or self._null
            case "additionalProperties":
                return value is True or self._plain(value) == {}
            case "required":
                return self._null and bool(self._open)  # within a result every field is there
            case "minLength" | "maxLength":
                return not self._null  # nobody counts characters, and the refusal says it
            case "maximum":
                return value == _BIGINT_LIMIT
            case _:
                return False

    def _referred(self, name: str, beside: dict[str, Any]) -> dict[str, Any]:
        if name in self._open:
            raise TypeError(f"{name} contains itself: its schema can't be written without a reference")
        if name not in self._several:
            return {**self._definition(name), **self._plain(beside)}
        if name not in self._shared:
            self._shared[name] = self._definition(name)
        return {"$ref": f"#/$defs/{name}", **self._plain(beside)}

    def _definition(self, name: str) -> dict[str, Any]:
        definition = {word: value for word, value in self._definitions[name].items() if word not in _ABOUT_THE_MODEL}
        self._open.append(name)
        if base := self._bases.get(name):
            definition["properties"] = {
                n: v for n, v in definition["properties"].items() if n not in self._fields(base)
            }
            definition["allOf"] = [{"$ref": f"#/$defs/{base}"}]
        written = self._plain(definition)
        self._open.pop()
        return written

    def _fields(self, name: str) -> dict[str, Any]:
        return self._definitions[name].get("properties", {})

    def _extensions(self) -> Iterator[tuple[str, str]]:
        for name in self._definitions:
            for base in self._definitions:
                fields = self._fields(base)
                if len(fields) > 1 and fields.items() < self._fields(name).items():
                    yield name, base

    def _nullable(self, others: list[Any], beside: dict[str, Any]) -> dict[str, Any]:
        alone = self._plain(others[0]) if len(others) == 1 else {"anyOf": [self._plain(branch) for branch in others]}
        if self._null:
            if "enum" in alone:
                alone["enum"] = [*alone["enum"], None]
            elif isinstance(alone.get("type"), str):
                alone["type"] = [alone["type"], "null"]
            elif alone.keys() - {"description"}:  # without any word it takes null already
                alone = {"anyOf": [*alone.get("anyOf", [alone]), {"type": "null"}]}
        return {**alone, **self._plain(beside)}


_PLAINER = {"oneOf": "anyOf", "const": "enum"}
"""Words that Gemini's declarations of functions have for others, and that mean the same in what we write."""
_ABOUT_THE_MODEL = ("$defs", "description")
"""A model's docstring is for those who read the code; where an argument or a field needs words, it has its own."""


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for keyword, value in cast("dict[str, Any]", schema).items():
            if keyword == "$ref":
                yield _name(value)
            else:
                yield from _references(value)
    elif isinstance(schema, list):
        for member in cast("list[Any]", schema):
            yield from _references(member)


def _name(reference: str) -> str:
    return reference.removeprefix("#/$defs/")
