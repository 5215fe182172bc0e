"""Writes into a statement's text the checks that it needs while it runs.

What is written is parsed again and compared with what was judged: apart from the checks it is the same tree. So
nothing depends on how well this reads SQL.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, cast

from app.services.postgres.sql.bounds import Needed, Reading
from app.services.postgres.sql.functions import SORTED_ROWS

_LONGEST = 256 * 1024
"""Bytes of the longest text that may become of a statement: what is written twice within itself gets long."""

GUARD_SCHEMA = "switchboard_sql"
"""Our migration's schema of what statements are given in place of PostgreSQL's own."""

_Fields = dict[str, Any]

_WORD = re.compile(
    r"""
    (?P<gap> (?: \s+ | --[^\n\r]* | /\*(?:[^*/]|\*(?!/)|/(?!\*))*\*/ )+ )
    | (?P<text> [eE]'(?:[^'\\]|''|\\.)*' | (?:[bBxXnN]|[uU]&)?'(?:[^']|'')*'
        | \$(?P<tag>[a-zA-Z_\x80-\xff][\w\x80-\xff]*)?\$.*?\$(?(tag)(?P=tag))\$ )
    | (?P<name> (?:[uU]&)?"(?:[^"]|"")*" | [a-zA-Z_\x80-\xff][\w$\x80-\xff]* )
    | (?P<sign> \$\d+ | \d[\w.]* | . )
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)


_LOOKS = frozenset(
    """
    bounded bounded_numbers few_keys few_ranges few_zones few_zones_of_dates lone_ranges plain_json plain_numbers
    """.split()  # noqa: SIM905 - as the tables of functions
)
"""Functions of ours that return their first argument."""


class _Reader:
    """Goes through the words of a text from one place on."""

    def __init__(self, text: str, start: int) -> None:
        self._text = text
        self.end = start

    def next(self) -> tuple[str, str]:
        """Return kind and text of the next word; `end` is behind it."""
        while match := _WORD.match(self._text, self.end):
            self.end = match.end()
            for kind in ("text", "name", "sign"):
                if match[kind] is not None:
                    return kind, match[kind]
        raise ValueError

    def peek(self) -> str:
        """Return the next word without going on."""
        end = self.end
        try:
            return self.next()[1]
        except ValueError:
            return ""
        finally:
            self.end = end

    def gap(self) -> str:
        """Return what stands before the next word."""
        match = _WORD.match(self._text, self.end)
        return (match["gap"] if match else None) or ""

    def name(self) -> None:
        """Go over `a.b.c`."""
        self.next()
        while self.peek() == ".":
            self.next()
            self.next()

    def parenthesis(self) -> None:
        """Go over `( … )`."""
        depth = 0
        while True:
            kind, word = self.next()
            if kind == "sign":
                depth += (word in "([") - (word in ")]")
                if not depth:
                    return

    def until(self, words: Collection[str]) -> int:
        """Go to the first of some words, or to the end of the parenthesis, and return where what is before it ends."""
        depth = 0
        while True:
            before = self.end
            kind, word = self.next()
            if word == ":" and self.peek() == ":":
                self.next()
                continue
            if not depth and (word.upper() in words or (kind == "sign" and word in ")]")):
                self.end = before
                return before
            if kind == "sign":
                depth += (word in "([") - (word in ")]")

    def clause(self, words: int) -> None:
        """Go over a clause of some words and what stands in its parentheses."""
        for _ in range(words):
            self.next()
        if self.peek() == "(":
            self.parenthesis()
        else:
            self.next()


def with_checks(text: str, needed: Needed, schemata: set[int], offset: int) -> str:
    """Return a statement's text with its checks.

    Args:
        text: of the statement.
        needed: with places in the text that was parsed.
        schemata: where `information_schema.schemata` stands in the text that was parsed.
        offset: of the statement in the text that was parsed, in bytes.

    Raises:
        ValueError: a part could not be found.
    """
    # A character a byte, as the parser counts.
    text = text.encode().decode("latin-1")
    edits: list[tuple[tuple[int, ...], int, str]] = []

    def wrap(start: int, end: int, function: str, more: str, depth: int) -> None:
        # At one place what ends comes before what starts, the inner one ends first and the outer one starts first.
        edits.append(((start, 1, -end, depth), start, f"{GUARD_SCHEMA}.{function}("))
        edits.append(((end, 0, -start, -depth), end, f"{more})"))

    bounded = "bounded_numbers" if needed.long_numbers else "bounded"
    for place, operand in needed.operands.items():
        start = place - offset
        wrap(start, _end(text, start, operand.kind, operand.fields), bounded, f", {operand.limit}", 2)
    for place, function in needed.readings:
        wrap(*_part(text, place - offset, needed.readings[place, function], offset), function, "", 1)
    for place in needed.counted:
        reader = _Reader(text, place - offset)
        reader.name()
        called = text[place - offset : reader.end].rpartition(".")[2].strip().strip('"').lower()
        edits.append(((place - offset, 2), reader.end, f"{GUARD_SCHEMA}.bounded_{called}"))
    for place in schemata:
        reader = _Reader(text, place - offset)
        reader.name()
        edits.append(((place - offset, 2), reader.end, f"{GUARD_SCHEMA}.schemata"))
    edits.extend(((place - offset, 3), place - offset, "") for place in needed.ordered)
    for key, end, written in sorted(edits, reverse=True):
        # What stands in a call has been written when its turn comes.
        text = text[: key[0]] + written + text[end:] if written else _with_order(text, key[0])
        if len(text) > _LONGEST:
            raise ValueError
    return text.encode("latin-1").decode()


def _part(text: str, place: int, reading: Reading, offset: int) -> tuple[int, int]:
    """Return where the part starts and ends that is to be looked at: a cast's operand, or a call's argument."""
    reader = _Reader(text, place)
    kind, word = reader.next()
    if word.upper() == "AT":
        reader.next()
        reader.next()
        return _operand(reader)
    if kind == "name" and word.upper() == "CAST" and reading.argument is None:
        reader.next()
        return reader.end, reader.until({"AS"})
    if reading.argument is None:
        return _before(text, place, reading.node, offset)
    reader = _Reader(text, place)
    reader.name()
    reader.next()
    start = reader.end
    if reader.peek().upper() in ("DISTINCT", "ALL"):
        reader.next()
        start = reader.end + len(reader.gap())
    for _ in range(reading.argument):
        start = reader.until({","})
        reader.next()
        start = reader.end
    return start, reader.until(reading.ends)


def _with_order(text: str, start: int) -> str:
    """Return a text in which an aggregate gets its rows in the order in which it sorts them."""
    reader = _Reader(text, start)
    reader.name()
    name = text[start : reader.end].rpartition(".")[2].strip().strip('"').lower()
    reader.next()
    begin = reader.end
    first = text[begin : reader.until({",", "ORDER"})].strip()
    order = first
    if name != "range_agg":
        order = f'pg_catalog.octet_length(pg_catalog.concat({first})), pg_catalog.concat({first}) COLLATE "C"'
        reader.next()
        reader.until({"ORDER"})
    place = reader.end
    if reader.peek().upper() != "ORDER":
        return f"{text[:place]} ORDER BY {order}{text[place:]}"
    reader.next()
    reader.next()
    return f"{text[: reader.end]} {order},{text[reader.end :]}"


def _operand(reader: _Reader) -> tuple[int, int]:
    """Return where the next parenthesis, call or name starts and ends, subscripts included."""
    kind, word = reader.next()
    start = reader.end = reader.end - len(word)
    if word != "(":
        if kind != "name":
            raise ValueError
        reader.name()
    while reader.peek() in ("(", "["):
        reader.parenthesis()
    return start, reader.end


def _before(text: str, place: int, node: _Fields, offset: int) -> tuple[int, int]:
    """Return where the operand of a cast starts that `::` at the place ends."""
    [(kind, fields)] = node.items()
    if kind in ("ColumnRef", "FuncCall", "SubLink") and fields.get("funcformat") != "COERCE_SQL_SYNTAX":
        start = fields["location"] - offset
        return start, _end(text, start, kind, fields)
    opened: list[int] = []
    start, last = -1, ""
    reader = _Reader(text, 0)
    while reader.end < place:
        word_kind, last = reader.next()
        if word_kind == "sign" and last in "([":
            opened.append(reader.end - 1)
        elif word_kind == "sign" and last in ")]":
            start = opened.pop()
    if last != ")":
        raise ValueError
    return start, place


def _end(text: str, start: int, kind: str, fields: _Fields) -> int:
    reader = _Reader(text, start)
    if kind == "SubLink":
        if reader.peek() != "(":
            reader.next()
        reader.parenthesis()
        return reader.end
    reader.name()
    if kind == "FuncCall":
        reader.parenthesis()
        if fields.get("agg_within_group"):
            reader.clause(2)
        if "agg_filter" in fields:
            reader.clause(1)
        if "over" in fields:
            reader.clause(1)
    return reader.end


def _order_of(name: str, key: _Fields) -> list[_Fields]:
    """Return the order of rows that `_with_order` writes, without places."""
    if name == "range_agg":
        parts = [key]
    else:
        text = _call("concat", key)
        parts = [_call("octet_length", text), {"CollateClause": {"arg": text, "collname": [{"String": {"sval": "C"}}]}}]
    usual = {"sortby_dir": "SORTBY_DEFAULT", "sortby_nulls": "SORTBY_NULLS_DEFAULT"}
    return [{"SortBy": {"node": part, **usual}} for part in parts]


def _call(name: str, argument: _Fields) -> _Fields:
    fields = {"funcname": [{"String": {"sval": name}}], "args": [argument], "funcformat": "COERCE_EXPLICIT_CALL"}
    return {"FuncCall": fields}


def without_checks(value: Any) -> Any:
    """Return a tree without checks and places, for a comparison."""
    if isinstance(value, list):
        return [without_checks(item) for item in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    node = cast("_Fields", value)
    if "FuncCall" in node:
        call = cast("Mapping[str, Any]", node["FuncCall"])
        names = [part["String"]["sval"] for part in call["funcname"]]
        if names[0] == GUARD_SCHEMA and names[1] in _LOOKS:
            return without_checks(call["args"][0])
        if names[-1] in SORTED_ROWS and call.get("agg_order"):
            made = without_checks(call)
            ours = _order_of(names[-1], made["args"][0])
            order = made.pop("agg_order")
            if order[: len(ours)] == ours:
                order = order[len(ours) :]
            if order:
                made["agg_order"] = order
            return {"FuncCall": {**made, "funcname": call["funcname"][-1:]}}
        if names[0] == GUARD_SCHEMA:
            restored = {"String": {"sval": names[1].removeprefix("bounded_")}}
            return {"FuncCall": without_checks({**call, "funcname": [restored]})}
        return {"FuncCall": without_checks({**call, "funcname": call["funcname"][-1:]})}
    if node.get("schemaname") == GUARD_SCHEMA:
        node = {**node, "schemaname": "information_schema"}
    return {
        key: without_checks(item) for key, item in node.items() if key not in ("location", "list_start", "list_end")
    }
