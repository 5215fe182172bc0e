"""Arguments are written by models: what they certainly mean is taken, though the schema asks for it in other words.

Taken are `5.0` and `"5"` for an integer, `"0.5"` for a number, `"true"` for a boolean, JSON in a string for a list or
an object, and `null` for an argument that may be left out, at every depth where the schema says what is wanted. Never a
boolean for a number, never a number that would be altered, and what fits stays as it is. Whether the outcome is valid
is for others to say.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, cast

from pydantic_core import to_json

from app.exact_json import NotExact, NotJson, Place, count_values, exact_float, read
from app.servers.json_schema import CompiledSchema
from app.servers.schema_cost import TooMuchWork

_INTEGER = re.compile(r"(-?(?:0|[1-9][0-9]{0,99}))(?:\.0{1,99})?")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_BOOLEANS = {"true": True, "false": False}
_MOST_WITHIN_STRINGS = 10_000
"""Values that are read from strings of one document, all of which stand for lists and objects."""
_MOST_STEPS = 40_000
"""Values that are looked at, each by one schema."""
_TRIAL = 10
"""Steps in the time of which one value is held against one branch, whatever it is."""
_CHECKS_IN_A_STEP = 10
"""Steps of the validator in the time of one of ours, with the counting of them."""
_DEEPEST = 64
"""Levels of schemas within each other, so that one which refers to itself comes to an end."""


class Leniency:
    """Takes values in the words of one JSON Schema.

    Args:
        schema: of the arguments object.
    """

    def __init__(self, schema: CompiledSchema) -> None:
        self._schema = schema
        self._wanted: dict[int, frozenset[str]] = {}
        self._steps_left = 0
        """Until nothing more is made to fit: branches within branches of a stranger's schema are no end of them."""
        self._values_left = 0
        """Values that may still be read from strings; in them nobody has counted any before."""

    def take(self, arguments: Any) -> Any:
        """Return the arguments as the schema wants them, or the very same object if there is nothing to change."""
        self._steps_left, self._values_left = _MOST_STEPS, _MOST_WITHIN_STRINGS
        return self._take(arguments, self._schema.schema, 0)

    def _take(self, value: Any, schema: Any, depth: int) -> Any:
        self._steps_left -= 1
        if not isinstance(schema, dict) or depth > _DEEPEST or self._steps_left < 0:
            return value
        rules = cast("dict[str, Any]", schema)
        if "$ref" in rules:
            for part in self._schema.cost.targets(rules):
                value = self._take(value, part, depth + 1)
        for part in _list(rules.get("allOf")):
            value = self._take(value, part, depth + 1)
        for keyword in ("anyOf", "oneOf"):
            if branches := _list(rules.get(keyword)):
                value = self._take_one(value, branches, depth + 1)
        if id(rules) not in self._wanted:
            self._wanted[id(rules)] = _types(rules)
        wanted = self._wanted[id(rules)]
        if wanted and not _fits(value, wanted):
            value = self._convert(value, wanted)
        if isinstance(value, dict):
            return self._take_members(cast("dict[str, Any]", value), rules, depth + 1)
        if isinstance(value, list):
            return self._take_items(cast("list[Any]", value), rules, depth + 1)
        return value

    def _take_one(self, value: Any, branches: Sequence[Any], depth: int) -> Any:
        """Take a value by the branch that it fits, else as all branches say that it can be made to fit."""
        for branch in branches:
            if self._valid(value, branch):
                return self._take(value, branch, depth)
        taken = {
            to_json(candidate): candidate
            for branch in branches
            if (candidate := self._take(value, branch, depth)) is not value and self._valid(candidate, branch)
        }
        return taken.popitem()[1] if len(taken) == 1 else value

    def _take_members(self, members: dict[str, Any], rules: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = _dict(rules.get("properties"))
        required = _list(rules.get("required"))
        others = rules.get("additionalProperties")
        if not properties and not isinstance(others, dict):
            return members
        taken: dict[str, Any] = {}
        changed = False
        for name, member in members.items():
            if self._steps_left < 0:
                taken[name] = member
                continue
            schema = properties.get(name, others)
            if member is None and name in properties and name not in required and not self._valid(None, schema):
                changed = True
                continue
            taken[name] = self._take(member, schema, depth)
            changed = changed or taken[name] is not member
        return taken if changed else members

    def _take_items(self, items: list[Any], rules: Mapping[str, Any], depth: int) -> list[Any]:
        first, others = _list(rules.get("prefixItems")), rules.get("items")
        if not first and not others:  # where nothing is said of them, there may be any number
            return items
        taken = [
            self._take(item, first[position] if position < len(first) else others, depth)
            if self._steps_left >= 0
            else item
            for position, item in enumerate(items)
        ]
        return taken if any(new is not old for new, old in zip(taken, items, strict=True)) else items

    def _valid(self, value: Any, schema: Any) -> bool:
        if not isinstance(schema, dict):
            return schema is not False
        part = cast("dict[str, Any]", schema)
        if self._steps_left < 0:
            return False
        try:
            cost = self._schema.cost.of(value, part)
            self._steps_left -= _TRIAL + cost.values + cost.checking // _CHECKS_IN_A_STEP
            return self._steps_left >= 0 and self._schema.fits_part(value, part)
        except TooMuchWork:
            self._steps_left = 0
            return False

    def _convert(self, value: Any, wanted: frozenset[str]) -> Any:
        if isinstance(value, float) and "integer" in wanted:
            digits = Decimal(repr(value))
            return int(digits) if digits == digits.to_integral_value() else value
        if not isinstance(value, str):
            return value
        text = value.strip()
        if "integer" in wanted and (found := _INTEGER.fullmatch(text)):
            return int(found[1])
        if "number" in wanted and _NUMBER.fullmatch(text):
            if _INTEGER.fullmatch(text) and "." not in text:
                return int(text)
            exact = exact_float(text)
            return value if exact is None else exact
        if "boolean" in wanted and text.lower() in _BOOLEANS:
            return _BOOLEANS[text.lower()]
        if (text.startswith("[") and "array" in wanted) or (text.startswith("{") and "object" in wanted):
            try:
                document = text.encode()
                self._values_left -= count_values(document)
                return read(document) if self._values_left >= 0 else value
            except (NotJson, NotExact, UnicodeEncodeError):
                return value
        return value


def altered_integers(value: Any, schema: Any, place: Place = ()) -> Iterator[Place]:
    """Yield where an integer would become another one, since a method takes a double and none holds it.

    Args:
        value: of the arguments.
        schema: of a declared tool, so without references.
        place: where the value stands.
    """
    rules = _dict(schema)
    if isinstance(value, dict):
        properties, others = _dict(rules.get("properties")), rules.get("additionalProperties")
        for name, member in cast("dict[str, Any]", value).items():
            yield from altered_integers(member, properties.get(name, others), (*place, name))
    elif isinstance(value, list):
        for position, item in enumerate(cast("list[Any]", value)):
            yield from altered_integers(item, rules.get("items"), (*place, position))
    elif isinstance(value, int) and not _is_double(value) and _takes_doubles_only(rules):
        yield place


def _is_double(value: int) -> bool:
    try:
        return float(value) == value
    except OverflowError:
        return False


def _takes_doubles_only(rules: Mapping[str, Any]) -> bool:
    branches = _list(rules.get("anyOf"))
    types = frozenset[str]().union(*map(_types, [_dict(branch) for branch in branches])) if branches else _types(rules)
    return "number" in types and "integer" not in types


def _types(rules: Mapping[str, Any]) -> frozenset[str]:
    """Return the JSON types that a schema takes; none means that it takes any."""
    named = rules.get("type")
    if isinstance(named, str):
        return frozenset({named})
    if isinstance(named, list):
        return frozenset(cast("list[str]", named))
    return frozenset(map(_type, _list(rules.get("enum")) or ([rules["const"]] if "const" in rules else [])))


def _type(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def _fits(value: Any, wanted: frozenset[str]) -> bool:
    kind = _type(value)
    return kind in wanted or (kind == "integer" and "number" in wanted)


def _dict(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []
