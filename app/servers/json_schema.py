"""JSON Schemas: compiled so that no stranger's schema can hold the process, and what they refuse in words."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Protocol

import jsonschema_rs
from pydantic import JsonValue

from app.errors import MOST_REFUSALS

Refusal = tuple[tuple[str | int, ...], str]
"""Where something is refused, and why."""

_LINEAR = jsonschema_rs.RegexOptions(size_limit=1 << 20)
"""Patterns are matched in linear time, and compiled they have at most a megabyte. They can't look around or back."""
_MASK = "the value"


class SchemaValidator(Protocol):
    """What a compiled schema does, whichever draft it is of."""

    def is_valid(self, instance: Any) -> bool: ...
    def validate(self, instance: Any) -> None: ...
    def iter_errors(self, instance: Any) -> Iterable[jsonschema_rs.ValidationError]: ...


def compile_schema(schema: Mapping[str, JsonValue]) -> SchemaValidator:
    """Return a validator of the draft that `$schema` names, 2020-12 if it names none. Nothing is ever fetched.

    Raises:
        ValueError: it is no valid schema, refers to something outside, or has a pattern that can't be matched in
            linear time. The message says which.
    """
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
