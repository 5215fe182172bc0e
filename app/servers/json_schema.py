"""JSON Schemas: compiled so that no stranger's schema can hold the process, and what they refuse in words."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Any, Protocol, cast
from urllib.parse import quote

import jsonschema_rs
from pydantic import JsonValue

from app.errors import MOST_REFUSALS
from app.servers.schema_cost import LARGEST_PATTERN, SchemaCost

Refusal = tuple[tuple[str | int, ...], str]
"""Where something is refused, and why."""

_LINEAR = jsonschema_rs.RegexOptions(size_limit=LARGEST_PATTERN)
"""Patterns are matched in linear time. They can't look around or back."""
_MASK = "the value"
_MOST_TOLD = 3 << 20
"""Bytes that the library may copy to say what is wrong; it copies a value for each branch that it does not fit."""
_TOO_MUCH_TO_TELL = "does not fit the schema, in more ways than can be told; send less at a time to hear which"
_LONGEST_REASON = 500
"""Characters of a reason, which may list all that a stranger's schema takes."""
_UNKNOWN = "is not an argument that is known here"
MOST_UNKNOWN = 10
"""Unknown arguments of which the nearest known one is told; each comparison takes some 20 µs."""
_MOST_COMPARED = 200
_LONGEST_NAME = 64
"""Characters of a name that is compared."""
_ROOT = "urn:switchboard:schema"


class _Validator(Protocol):
    """What a compiled schema does, whichever draft it is of."""

    def is_valid(self, instance: Any) -> bool: ...
    def validate(self, instance: Any) -> None: ...
    def iter_errors(self, instance: Any) -> Iterable[jsonschema_rs.ValidationError]: ...


class CompiledSchema:
    """A JSON Schema of the draft that `$schema` names, 2020-12 if it names none. Nothing is ever fetched.

    Args:
        schema: it must not change any more.

    Raises:
        ValueError: it is no valid schema, refers to something outside, has a pattern that can't be matched in linear
            time, or means more than it says. The message says which.
    """

    def __init__(self, schema: Mapping[str, JsonValue]) -> None:
        self.schema = dict(schema)
        self.cost = SchemaCost(self.schema)
        self._validator = _compiled(self.schema)
        self._registry: jsonschema_rs.Registry | None = None
        self._parts: dict[int, _Validator] = {}

    def is_valid(self, value: Any) -> bool:
        """Tell whether a value fits.

        Raises:
            TooMuchWork: to find out takes longer than anybody should wait.
        """
        self.cost.of(value)
        return self._validator.is_valid(value)

    def fits_part(self, value: Any, part: Mapping[str, Any]) -> bool:
        """Tell whether a value fits a schema within the schema. What it costs is for the caller to know.

        Raises:
            ValueError: there is no such part.
        """
        if id(part) not in self._parts:
            self._parts[id(part)] = self._compiled_part(part)
        return self._parts[id(part)].is_valid(value)

    def refusals(self, value: Any) -> list[Refusal]:
        """Return what is refused of a value that does not fit: where, and why. It repeats no value.

        Raises:
            TooMuchWork: as `is_valid`.
        """
        if self.cost.of(value).telling <= _MOST_TOLD:
            errors = list(islice(self._validator.iter_errors(value), MOST_REFUSALS))
        elif not self.cost.has_alternatives:
            errors = [_first_error(self._validator, value)]
        else:
            return self._refused_members(value) or [((), _TOO_MUCH_TO_TELL)]
        found = [refusal for error in errors for refusal in self._refusals(error)]
        return sorted(found, key=lambda refusal: list(map(str, refusal[0])))

    def unknown(self, place: Sequence[str | int]) -> str:
        """Return what is said of a member that the schema does not know: the nearest one that it does, if any is near.

        Args:
            place: of the member.
        """
        name = str(place[-1])
        near: list[str] = []
        if len(name) <= _LONGEST_NAME:
            known = [other for other in self.cost.names_beside(place) if len(other) <= _LONGEST_NAME]
            near = get_close_matches(_folded(name), map(_folded, known[:_MOST_COMPARED]), 1)
            near = [other for other in known if _folded(other) in near]
        return f"{_UNKNOWN}; did you mean `{near[0]}`?" if near else _UNKNOWN

    def _refusals(self, error: jsonschema_rs.ValidationError) -> Iterator[Refusal]:
        place = tuple(error.instance_path)
        kinds = jsonschema_rs.ValidationErrorKind
        match error.kind:
            case kinds.Required(property=name):
                yield (*place, str(name)), "is required"
            case kinds.AdditionalProperties(unexpected=names) | kinds.UnevaluatedProperties(unexpected=names):
                for number, name in enumerate(names[:MOST_REFUSALS]):
                    yield (*place, name), self.unknown((*place, name)) if number < MOST_UNKNOWN else _UNKNOWN
            case kinds.AnyOf(context=branches):
                wanted = " or ".join(branch[0].message for branch in branches if branch)
                yield place, _shortened(f"fits nothing that is accepted: {wanted}")
            case _:
                yield place, _shortened(error.message)

    def _refused_members(self, value: Any) -> list[Refusal]:
        properties = self.schema.get("properties")
        if not isinstance(value, dict) or not isinstance(properties, dict):
            return []
        members = ((name, member, properties.get(name)) for name, member in cast("dict[str, Any]", value).items())
        refused = (
            ((name,), _TOO_MUCH_TO_TELL)
            for name, member, part in members
            if isinstance(part, dict) and not self.fits_part(member, part)
        )
        return list(islice(refused, MOST_REFUSALS))

    def _compiled_part(self, part: Mapping[str, Any]) -> _Validator:
        pointer = self.cost.pointer(part)
        if pointer is None:
            raise ValueError("it is no part of the schema")
        if self._registry is None:
            # Parts share what they refer to instead of having it copied for each of them.
            self._registry = jsonschema_rs.Registry([(_ROOT, self.schema)], retriever=_refuse_to_fetch)
        draft = {"$schema": self.schema["$schema"]} if "$schema" in self.schema else {}
        return _compiled({**draft, "$ref": f"{_ROOT}#{quote(pointer)}"}, self._registry)


def _compiled(schema: dict[str, Any], registry: jsonschema_rs.Registry | None = None) -> _Validator:
    try:
        return jsonschema_rs.validator_for(schema, offline=True, pattern_options=_LINEAR, mask=_MASK, registry=registry)
    except jsonschema_rs.ValidationError as error:
        where = "/".join(map(str, error.instance_path)) or "the schema"
        what = (
            "this pattern can't be matched in linear time (no look-around, no back-references, not too large)"
            if error.kind.name == "format"
            else error.message
        )
        raise ValueError(f"{where}: {_shortened(what)}") from None


def _refuse_to_fetch(uri: str) -> Any:
    raise ValueError(f"Retrieval is disabled: {uri}")


def _first_error(validator: _Validator, value: Any) -> jsonschema_rs.ValidationError:
    try:
        validator.validate(value)
    except jsonschema_rs.ValidationError as error:
        return error
    raise ValueError("it fits")


def _shortened(reason: str) -> str:
    return reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]} …"


def _folded(name: str) -> str:
    """Return a name without what people write in different ways: capitals and what joins words."""
    return "".join(filter(str.isalnum, name)).lower()
