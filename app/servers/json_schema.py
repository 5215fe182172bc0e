"""JSON Schemas: compiled so that no stranger's schema can hold the process, and what they refuse in words."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Protocol, cast

import jsonschema_rs
from pydantic import JsonValue

from app.errors import MOST_REFUSALS

Refusal = tuple[tuple[str | int, ...], str]
"""Where something is refused, and why."""

_LINEAR = jsonschema_rs.RegexOptions(size_limit=1 << 20)
"""Patterns are matched in linear time, and compiled they have at most a megabyte. They can't look around or back."""
_MASK = "the value"
_MOST_RULES = 10_000
_NO_RULES = frozenset({"$defs", "definitions", "default", "enum", "const", "examples"})
"""Parts of a schema that are no rules where they stand."""


class SchemaValidator(Protocol):
    """What a compiled schema does, whichever draft it is of."""

    def is_valid(self, instance: Any) -> bool: ...
    def validate(self, instance: Any) -> None: ...
    def iter_errors(self, instance: Any) -> Iterable[jsonschema_rs.ValidationError]: ...


def compile_schema(schema: Mapping[str, JsonValue]) -> SchemaValidator:
    """Return a validator of the draft that `$schema` names, 2020-12 if it names none. Nothing is ever fetched.

    Raises:
        ValueError: it is no valid schema, refers to something outside, has a pattern that can't be matched in linear
            time, or means more than it says. The message says which.
    """
    if _rules(schema) > _MOST_RULES:
        raise ValueError(f"the schema has more than {_MOST_RULES} rules once what it refers to is written out")
    try:
        return jsonschema_rs.validator_for(dict(schema), offline=True, pattern_options=_LINEAR, mask=_MASK)
    except jsonschema_rs.ValidationError as error:
        where = "/".join(map(str, error.instance_path)) or "the schema"
        what = (
            "this pattern can't be matched in linear time (no look-around, no back-references, not too large)"
            if error.kind.name == "format"
            else error.message
        )
        raise ValueError(f"{where}: {what}") from None


def _rules(schema: Mapping[str, JsonValue]) -> int:
    """Return of how many objects a schema is with its references written out, each within itself but once.

    A few hundred bytes may say `anyOf` of one thing three times, and that of another, and so on: 3 to the power of 30.
    """
    counted: dict[int, int] = {}

    def count(part: Any, depth: int) -> int:
        if isinstance(part, list):
            return sum(count(member, depth) for member in cast("list[Any]", part))
        if not isinstance(part, dict) or depth > _MOST_RULES:
            return 0
        rules = cast("dict[str, Any]", part)
        if id(rules) not in counted:
            counted[id(rules)] = 0  # while it is counted
            total = 1 + sum(count(rules[name], depth + 1) for name in rules if name not in _NO_RULES)
            reference = rules.get("$ref")
            if isinstance(reference, str) and reference.startswith("#"):
                total += count(resolve(schema, reference), depth + 1)
            counted[id(rules)] = total
        return counted[id(rules)]

    try:
        return count(schema, 0)
    except RecursionError:
        return _MOST_RULES + 1


def resolve(schema: Any, reference: str) -> Any:
    """Return what a reference within a schema (`#/$defs/…`) refers to; None if there is nothing."""
    found = schema
    for part in reference[1:].split("/")[1:]:
        found = (
            cast("dict[str, Any]", found).get(part.replace("~1", "/").replace("~0", "~"))
            if isinstance(found, dict)
            else None
        )
    return found


def refusals(validator: SchemaValidator, arguments: Any, *, first_only: bool = False) -> list[Refusal]:
    """Return what a schema refuses of an arguments object: where, and why. It repeats no value.

    Args:
        validator: of the schema.
        arguments: what it refuses.
        first_only: find the first one, where to find some takes the library the time of all that there are.
    """
    errors: list[jsonschema_rs.ValidationError] = []
    if first_only:
        try:
            validator.validate(arguments)
        except jsonschema_rs.ValidationError as error:
            errors = [error]
    else:
        errors = list(islice(validator.iter_errors(arguments), MOST_REFUSALS))
    found = [refusal for error in errors for refusal in _refusals(error)]
    return sorted(found, key=lambda refusal: list(map(str, refusal[0])))


def _refusals(error: jsonschema_rs.ValidationError) -> Iterator[Refusal]:
    place = tuple(error.instance_path)
    match error.kind:
        case jsonschema_rs.ValidationErrorKind.Required(property=name):
            yield (*place, str(name)), "is required"
        case jsonschema_rs.ValidationErrorKind.AdditionalProperties(unexpected=names):
            for name in names[:MOST_REFUSALS]:
                yield (*place, name), "is not an argument that is known here"
        case jsonschema_rs.ValidationErrorKind.AnyOf(context=branches):
            wanted = " or ".join(branch[0].message for branch in branches if branch)
            yield place, f"fits nothing that is accepted: {wanted}"
        case _:
            yield place, error.message
