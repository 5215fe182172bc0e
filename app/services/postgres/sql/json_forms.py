"""The JSON form of every PostgreSQL type, and the way back from JSON to a parameter.

PostgreSQL writes and reads all values itself: columns are selected as JSON text and parameters are sent as text,
so that no value passes through a Python type that can't hold it (infinity, the year 44 BC, 24:00, intervals of months).
`docs/query-database.md` has the table.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, cast

from asyncpg import Type
from pydantic import JsonValue

from app.errors import InvalidArguments

MAX_SAFE_INTEGER = 2**53 - 1
"""Largest integer that every reader of JSON keeps exactly; JavaScript rounds larger ones."""

MAX_DEPTH = 100
"""Deepest JSON that is answered as JSON; deeper one is answered as its text."""

_FIXED_SIZE = frozenset(
    {"bool", "char", "int2", "int4", "int8", "oid", "float4", "float8", "date", "time", "timetz"}
) | {
    "timestamp",
    "timestamptz",
    "interval",
    "uuid",
    "macaddr",
    "macaddr8",
    "money",
    "name",
}


_VECTORS = ("vector", "halfvec")

_AS_IT_IS = _FIXED_SIZE - {"oid", "int8"} | {
    *("text", "varchar", "bpchar", "citext", "xml", "inet", "cidr", "bit", "varbit", "tsvector", "tsquery", "ltree")
}
"""Types of which PostgreSQL's JSON is what is answered."""

# All of an array of numbers but its NaN and Infinity, which are strings already.
_NUMBER = re.compile(r"-?[0-9][0-9.]*")
# A number that a double may not hold, or half a surrogate pair.
_SUSPICIOUS = re.compile(r"[0-9.]{16}|[0-9][eE][-+]?[0-9]|\\u[dD]")


def json_expression(column: str, of: Type) -> str:
    """Return the SQL that writes a column as JSON text; NULL stays NULL."""
    if of.name == "bytea":
        value = f"pg_catalog.translate(pg_catalog.encode({column}, 'base64'), E'\\n', '')"
    elif of.kind == "range":
        value = _range(column)
    elif of.kind == "multirange":
        each = _range("r")
        rows = f"FROM pg_catalog.unnest({column}) AS u(r)"
        value = f"(SELECT coalesce(pg_catalog.json_agg({each}), '[]'::json) {rows})"
    else:
        return f"pg_catalog.to_json({column})::pg_catalog.text"
    return f"CASE WHEN {column} IS NOT NULL THEN pg_catalog.to_json({value})::pg_catalog.text END"


def _range(expression: str) -> str:
    return (
        "(SELECT pg_catalog.row_to_json(parts) FROM (SELECT "  # noqa: S608 - of our own words and a column's name
        f"pg_catalog.lower({expression}) AS lower, pg_catalog.upper({expression}) AS upper, "
        f"CASE WHEN pg_catalog.isempty({expression}) THEN 'empty' ELSE "
        f"CASE WHEN pg_catalog.lower_inc({expression}) THEN '[' ELSE '(' END || "
        f"CASE WHEN pg_catalog.upper_inc({expression}) THEN ']' ELSE ')' END END AS bounds) AS parts)"
    )


def size_expression(column: str, of: Type, most: int, *, as_text: bool = False) -> str | None:
    """Return the SQL that tells how many bytes a value takes, None where that is always few.

    Args:
        column: its name.
        of: its type.
        most: bytes beyond which it need not be exact.
        as_text: count the characters, of which numbers may have 13,000 times as many as bytes in memory.
    """
    if of.name in _FIXED_SIZE:
        return None
    size = f"switchboard_sql.text_size({column}, {most})" if as_text else f"pg_catalog.pg_column_size({column})"
    return f"coalesce({size}, 0)::pg_catalog.int8"


def json_writer(of: Type) -> Callable[[str], str]:
    """Return what turns the JSON text of a column, as PostgreSQL writes it, into the JSON that is answered."""
    base = of.name.removesuffix("[]")
    if of.kind == "scalar" or of.name.endswith("[]"):
        if base in _AS_IT_IS:
            return _unchanged
        if base == "numeric":
            return _numbers_as_strings
        if base in ("oid", *_VECTORS):
            # PostgreSQL writes what JSON has as a string.
            return lambda text: text.replace('"', "")
    if of.name == "bytea[]":
        return lambda text: _dump(_in_base64(json.loads(text)))
    if base == "jsonb":
        return _document
    return lambda text: _dump(_read_document(text))


def _unchanged(text: str) -> str:
    return text


def _numbers_as_strings(text: str) -> str:
    return _NUMBER.sub(r'"\g<0>"', text)


def _document(text: str) -> str:
    """Return JSON as it is, unless it holds something that has another form in an answer."""
    if _SUSPICIOUS.search(text) or text.count("[") + text.count("{") > MAX_DEPTH:
        return _dump(_read_document(text))
    return text


def _dump(value: JsonValue) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _in_base64(value: Any) -> Any:
    if isinstance(value, list):
        return [_in_base64(item) for item in cast("list[Any]", value)]
    return base64.b64encode(bytes.fromhex(value.removeprefix("\\x"))).decode() if isinstance(value, str) else value


def _exact_integer(text: str) -> int | str:
    if len(text) > 17:
        return text
    value = int(text)
    return value if -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER else text


def _exact_fraction(text: str) -> float | str:
    value = float(text)
    return value if Decimal(repr(value)) == Decimal(text) else text


_DOCUMENT = json.JSONDecoder(parse_int=_exact_integer, parse_float=_exact_fraction)


def _read_document(text: str) -> Any:
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        return text
    value = _DOCUMENT.decode(text)
    # The type json keeps an escape for half a surrogate pair, which no UTF-8 can.
    return _without_lone_surrogates(value) if "\\ud" in text or "\\uD" in text else value


def _depth(text: str) -> int:
    deepest = depth = 0
    in_string = escaped = False
    for character in text:
        if in_string:
            in_string = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            in_string = True
        elif character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


def _without_lone_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_lone_surrogates(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {_without_lone_surrogates(name): _without_lone_surrogates(item) for name, item in items}
    return value


def unique_names(names: Sequence[str]) -> list[str]:
    """Return the names with repeats told apart: `id`, `id_2`, `id_3`."""
    given, used, unique = set(names), set[str](), list[str]()
    next_numbers: dict[str, int] = {}
    for name in names:
        candidate, number = name, next_numbers.get(name, 2)
        while candidate in used or (candidate != name and candidate in given):
            candidate, number = f"{name}_{number}", number + 1
        next_numbers[name] = number
        used.add(candidate)
        unique.append(candidate)
    return unique


def parameters_as_text(values: Sequence[JsonValue], types: Sequence[Type]) -> list[str | None]:
    """Return JSON values as the text that PostgreSQL reads for the types it expects.

    Raises:
        InvalidArguments: their number is wrong, or one has a form that its type can't be read from; it is named.
    """
    if len(values) != len(types):
        expected = f"$1 to ${len(types)}" if types else "no parameters"
        raise InvalidArguments.of("params", f"the query has {expected}, but {len(values)} values were given")
    return [_as_text(value, of, f"params.{index}") for index, (value, of) in enumerate(zip(values, types, strict=True))]


def _as_text(value: JsonValue, of: Type, field: str) -> str | None:
    if value is None:
        return None
    if of.name in ("json", "jsonb"):
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    elif isinstance(value, list):
        if of.name in _VECTORS:
            return _vector(value, of.name, field)
        if of.kind == "composite" or not of.name.endswith("[]"):
            raise InvalidArguments.of(field, f"a list was given where the query expects {of.name}")
        text = _array(value, of.name.removesuffix("[]"), field)
    elif isinstance(value, dict):
        raise InvalidArguments.of(field, f"an object was given where the query expects {of.name}")
    else:
        text = _scalar(value, of.name, field)
    if "\0" in text:
        raise InvalidArguments.of(field, "holds a NUL character, which PostgreSQL can't store")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArguments.of(field, "holds half a surrogate pair, which is no character") from None
    return text


def _vector(items: list[JsonValue], type_name: str, field: str) -> str:
    """Return pgvector's own form, which is JSON's for numbers."""
    for index, item in enumerate(items):
        if isinstance(item, bool) or not isinstance(item, int | float):
            raise InvalidArguments.of(f"{field}.{index}", f"the query expects {type_name}: send a list of numbers")
    return json.dumps(items)


def _scalar(value: str | float | bool, type_name: str, field: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        if type_name == "bytea" and not value.startswith("\\x"):
            try:
                return "\\x" + base64.b64decode(value, validate=True).hex()
            except (binascii.Error, ValueError):
                raise InvalidArguments.of(field, "the query expects bytea: send it in base64") from None
        return value
    return repr(value)


def _array(items: list[JsonValue], element: str, field: str) -> str:
    return "{" + ",".join(_element(item, element, f"{field}.{index}") for index, item in enumerate(items)) + "}"


def _element(value: JsonValue, element: str, field: str) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, list) and element not in ("json", "jsonb"):
        return _array(value, element, field)
    if isinstance(value, dict) and element not in ("json", "jsonb"):
        raise InvalidArguments.of(field, f"an object was given where the query expects {element}")
    # In an array of JSON a string is a value like the others, since no list could be told from a nested array.
    text = (
        json.dumps(value, ensure_ascii=False)
        if element in ("json", "jsonb")
        else _scalar(cast("str | float | bool", value), element, field)
    )
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
