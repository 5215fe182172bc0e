"""What callers are told of PostgreSQL's objections to their statements.

While a statement is parsed, PostgreSQL has read nothing but the statement, so what it says may be handed on. Once it
runs, its words may hold data (`invalid input syntax for type integer: "ada@example.com"`): then ours stand for them.
"""

import re
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from typing import cast

import asyncpg

from app.errors import (
    BackendNotConfigured,
    BackendTimeout,
    BackendUnavailable,
    Forbidden,
    GatewayError,
    InvalidArguments,
)
from app.services.postgres.sql.catalog import Catalog

OVER_TIME = "the query ran into its time limit and was ended; narrow it, or allow more by timeout_ms"
TOO_LARGE = "SB001"
"""State of an operand that `switchboard_sql.bounded` refuses; its message is the limit."""
TOO_LONG = "SB002"
"""State of a text that our `repeat` and its like refuse to make; its message is the function's name."""

_OUR_REFUSALS: Mapping[str, str] = {
    TOO_LONG: "repeat, lpad or rpad would make a text of more than 16 MB",
    "SB003": "a record is too large to be written in a query that may make numbers of many digits; select its columns",
    "SB004": "a text that is read as numbers or JSON holds a number with an exponent of 400 or more",
    "SB005": "makes up too many time zones; use those that PostgreSQL knows by name",
    "SB006": "hands too many rows to an aggregate that sorts them at its end (jsonb_object_agg, range_agg); give it an"
    " ORDER BY of its own and neither DISTINCT nor OVER, or fewer rows: with a LIMIT in a subquery",
}
"""What functions of ours in the database refuse (`alembic/versions`), by state."""

_SHOWN = 300

_WHILE_IT_RUNS: Mapping[str, str] = {
    # exact states first, then their classes
    "0A000": "it asks for something that PostgreSQL does not support",
    "21000": "a subquery that stands for one value returned more than one row",
    "22001": "a value is too long for its type",
    "22003": "a number is out of range",
    "22004": "NULL was given where a value is needed",
    "22005": "a value can't be assigned to its type",
    "22007": "a value can't be read as a date or a time",
    "22008": "a date or time is out of range",
    "22009": "a time zone's displacement is out of range",
    "22011": "a part of a text was asked for by a negative length",
    "22012": "division by zero",
    "22013": "a window's frame has a wrong offset",
    "22021": "a text holds a character that the encoding does not have",
    "22023": "an argument is outside of what its function takes",
    "22025": "a pattern has a wrong escape",
    "2201B": "a regular expression can't be read",
    "2201E": "a logarithm of a number that has none",
    "2201F": "a power that is no real number",
    "2201W": "LIMIT is negative",
    "2201X": "OFFSET is negative",
    "2202E": "an array's subscript is wrong",
    "22030": "JSON holds a key twice",
    "22032": "a text can't be read as JSON",
    "22P02": "a value can't be read as the type that it is cast to",
    "22P03": "a value can't be read as the type that it is cast to",
    "22P05": "a character can't be converted",
    "22": "a value is outside of what a function, an operator or a cast takes",
    "23": "a value breaks a rule of the type that it is cast to",
    "2200": "a value can't be read as JSON or XML",
    "2203": "JSON does not have the form that is asked of it",
    "2B": "it depends on something else",
    "38": "a function failed",
    "39": "a function failed",
    "3F": "it names a schema that does not exist",
    "42": "its types, names or functions do not fit",
    "53400": "it needs more temporary space than is allowed",
    "53200": "it needs more memory than PostgreSQL may take",
    "54001": "it is nested deeper than PostgreSQL's stack allows",
    "54": "a value, an array or a list is larger than PostgreSQL can make it",
    "P0": "a function failed",
    "XX000": "a value is larger, or of another form, than PostgreSQL can work with",
}

_TYPE = re.compile(r"\A(?:invalid input syntax for type|invalid input value for enum) ([\w ]+)(?:: |\Z)")

_PLAIN_HINTS = re.compile(
    r"""
    \A(?: No\ (?:operator|function|procedure|aggregate)[\w ,()]*matches\ the\ given\ name\ and\ argument\ types?.*
        | .*You\ (?:might|will)\ need\ to\ (?:add\ explicit\ type\ casts|rewrite\ or\ cast\ the\ expression).*
        | Could\ not\ choose\ a\ best\ candidate\ [\w ]+\..*
        | To\ call\ a\ function.* | Use\ the\ COLLATE\ clause.* | Use\ an\ explicit\ ordering\ operator.*
        | There\ is\ an\ entry\ for\ table.* | There\ is\ a\ WITH\ item.* | To\ reference\ that.*
    )\Z
    """,
    re.VERBOSE,
)
"""Hints that say nothing of what is in the database."""
_WORD = re.compile(r"\w+")
_QUOTED = re.compile(r'"((?:[^"]|"")+)"')


@contextmanager
def while_it_is_parsed(sql: str, catalog: Catalog) -> Generator[None]:
    """Hand on what PostgreSQL says of a statement that it only parses, with place and hint.

    Args:
        sql: the statement as the caller wrote it.
        catalog: what the caller may know of.
    """
    try:
        yield
    except asyncpg.PostgresError as error:
        state = error.sqlstate or ""
        if state in ("3F000", "42501"):
            # Only schemas are looked at so early, and which there are is not the caller's.
            raise InvalidArguments.of(
                "query", "names a schema that does not exist, or that switchboard_reader may not use"
            ) from error
        if state[:2] not in ("0A", "22", "23", "2B", "39", "3F", "42", "54"):
            raise
        words = [_shortened(str(error.args[0]) if error.args else "")]
        if place := cast("str | None", getattr(error, "position", None)):
            words.append(f" (at character {place})")
        if hint := _safe_hint(cast("str | None", getattr(error, "hint", None)), sql, catalog):
            words.append(f"; {hint}")
        raise InvalidArguments.of("query", "".join(words)) from error


@contextmanager
def while_it_runs(types: Callable[[], Collection[str]] = tuple) -> Generator[None]:
    """Translate what PostgreSQL says of a statement that runs.

    Args:
        types: returns the names of types that may be told.

    Raises:
        BackendTimeout: it took too long.
        Forbidden: it reads what the login may not read.
        InvalidArguments: it can't be done, or goes beyond a limit.
        BackendNotConfigured: the login is refused.
    """
    try:
        yield
    except TimeoutError as error:
        raise BackendTimeout(OVER_TIME) from error
    except asyncpg.PostgresError as error:
        failure = _failure(error, types())
        if failure is None:
            raise
        raise failure from error


def _failure(error: asyncpg.PostgresError, types: Collection[str]) -> GatewayError | None:
    state = error.sqlstate or ""
    message = str(error.args[0]) if error.args else ""
    if state == "57014":
        return BackendTimeout(OVER_TIME)
    if state == "40001" and "recovery" in message:
        return BackendUnavailable("the standby that answers reads had to end the query; try again")
    if state == "25006":
        return Forbidden("query_database runs in a read-only transaction")
    if state == "42501":
        return Forbidden("permission denied: the query names what switchboard_reader may not read or do")
    if state == TOO_LARGE and message.isdecimal():
        return InvalidArguments.of(
            "query",
            f"a value is larger than {int(message):,} bytes, which is too much for what the query does with it in one "
            "go; take less of it: left(column, 1000)",
        )
    if state in _OUR_REFUSALS:
        return InvalidArguments.of("query", _OUR_REFUSALS[state])
    if state[:2] in ("28", "3D"):
        return BackendNotConfigured("PostgreSQL refuses the login or database of DATABASE_READER_URL; check it")
    words = next((_WHILE_IT_RUNS[key] for key in (state, state[:4], state[:2]) if key in _WHILE_IT_RUNS), None)
    if words is None:
        return None
    named = _TYPE.match(message)
    if named and named[1] in types:
        words += f": invalid input syntax for type {named[1]}"
    return InvalidArguments.of("query", words)


def _safe_hint(hint: str | None, sql: str, catalog: Catalog) -> str:
    """Return a hint if all that it names is the caller's own or may be read."""
    if not hint:
        return ""
    known = {column.name for columns in catalog.relations.values() for column in columns} | catalog.relations.keys()
    known |= set(_WORD.findall(sql))
    if not all(part in known for quoted in _QUOTED.findall(hint) for part in cast("str", quoted).split(".")):
        return ""
    return _shortened(hint) if _PLAIN_HINTS.match(hint) or hint.startswith("Perhaps you meant to reference") else ""


def _shortened(message: str) -> str:
    return message if len(message) <= _SHOWN else f"{message[:_SHOWN]}…"
