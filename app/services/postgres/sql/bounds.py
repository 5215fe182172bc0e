"""How large the values of a statement may get, and how long PostgreSQL may be deaf to a cancellation because of it.

PostgreSQL ends a statement between two rows. Within one row it evaluates everything that the row needs, and neither
`statement_timeout` nor `pg_terminate_backend` is heard before that is done. So a bound on the size of every value is
worked out from the tree, level by level of its subqueries, and from the sizes the work within a row; `functions` says
what each call adds. A call that would be dearer than its share has its operands checked while it runs: their text
becomes `switchboard_sql.bounded(operand, bytes)` (`checks`). What even then is beyond the budget is refused.

Bounds are upper bounds: a name that can't be resolved stands for the largest value that it could mean.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast

from app.services.postgres.sql.functions import (
    AGGREGATES,
    ARITHMETIC,
    COUNTED,
    FILLING,
    FRACTIONS_SORTED,
    FUNCTIONS,
    GIGABYTE,
    GROWING_AGGREGATES,
    HASHED,
    KEY_SORTED,
    KEYED,
    LONGER,
    LONGER_ARRAY,
    MAKES_LONG_NUMBERS,
    MOST_DIGITS,
    NUMBER_DIGITS,
    NUMERIC,
    OF_FRACTIONS,
    OPERATORS,
    PAIRS_OF_A_PATH,
    PATHS,
    ROUNDED,
    SLOW_TO_READ,
    SORTED,
    SORTED_ROWS,
    TEMPLATES,
    UNIQUE_KEYS,
    VOLATILE,
    XML_READ,
    Cost,
    headline_in_fragments,
    of_each,
    ranking,
)

STORED = 2**20
"""Bytes of the largest row that a table is assumed to hold. A larger one takes longer in proportion."""

MAX_SECONDS = 3.0
"""Most time that a row of a statement may take without PostgreSQL looking for a cancellation."""

MAX_MEMORY = 2 * 2**30
"""Most bytes that the calls of one row may fill, apart from aggregates."""

MAX_GATHERED = 2**30
"""Most bytes that aggregates may gather, as far as that can be known: PostgreSQL has no limit for them."""

MAX_GROWN = 16 * 2**20
"""Bytes of the largest text that `repeat`, `lpad` and `rpad` may make."""

MAX_SHOWN = 256 * 1024
"""Most bytes of constants in a statement of which a plan is shown, since the plan repeats them."""

MAX_STEPS = 10_000
"""Most expressions that are appraised for a statement: it holds the event loop, about 3 µs for each."""

_SHARES = (1.0, 0.3, 0.06)
"""Seconds that one call may take unchecked; the smaller ones are for statements of many calls."""

_CAPS = tuple(float(kilobytes * 1024) for kilobytes in (65_536, 16_384, 4096, 1024, 256, 64, 30, 8, 2))
"""Bytes that an operand may be held to; the largest that the call can bear is taken."""

_UNCHECKED_RESULT = 128.0 * 2**20
"""Bytes that the result of a call may have before its operands are checked."""

_SHORT = 2048.0
"""The same for a pattern, a needle or a set of characters."""

_NODE = 12_000.0
"""Nanoseconds of planning that a node of the tree takes, each time that it is copied: into an outer query, or by
BETWEEN. It takes a quarter of that and a kilobyte, so that the budget is one of memory too."""

_READING = 25.0
"""Nanoseconds for a byte of a parameter to be read, at each place that names it."""

_FROM_TEXT = 8.0
"""What a text may grow by as it becomes an array, JSON or a shape: `1,` is an element of eight bytes or more."""

_RECURSION = 2e11
"""Bytes that PostgreSQL copies in the longest time that a statement may have."""

_FIELDS = 32
"""Fields of a composite, as far as `(x).*` counts them."""

_SORTED_ROW = 6.0
"""Bytes of the shortest text of a key or a range among others, which is what the cost of sorting goes by."""

_WRITTEN_TWICE = 60.0
"""Nanoseconds for a byte of a key that is written as text, twice, to be compared."""

_COUNTED_ROWS = 9e8
"""Nanoseconds for as many rows as `switchboard_sql.few_keys` and `few_ranges` let through to be sorted."""

_HARMLESS = 256.0
"""Bytes up to which no type of an operand matters."""

_CLAUSES = (
    *("whereClause", "groupClause", "havingClause", "windowClause", "distinctClause", "sortClause"),
    *("limitCount", "limitOffset"),
)
_OF_ITS_OWN = frozenset((*_CLAUSES[1:], "withClause"))
"""A subquery with one of these is run by itself. Any other becomes a part of the query around it: its expressions
are evaluated wherever its columns are named there."""

_NO_VALUES = frozenset({"TypeName", "Alias", "String", "Integer", "JsonFormat", "A_Star"})
_SHORT_TYPES = frozenset(
    """
    bool int2 int4 int8 oid float4 float8 date time timetz timestamp timestamptz interval uuid inet cidr macaddr
    macaddr8 money name point line lseg box circle pg_lsn tid xid xid8 cid regconfig regdictionary regtype
    """.split()  # noqa: SIM905 - as the tables of functions
)

TIMES = frozenset({"date", "time", "timetz", "timestamp", "timestamptz", "tstzrange", "tstzmultirange"})
"""Types whose text may hold a time zone."""

_ZONES: Mapping[str, int] = {
    "date_add": 2,
    "date_subtract": 2,
    "date_trunc": 2,
    "generate_series": 3,
    "make_timestamptz": 6,
    "timezone": 0,
    **dict.fromkeys(TIMES, 0),
}
"""Functions with the place of the argument that is, or may hold, a time zone."""

_FILLS_RECORDS: Mapping[str, int] = {
    **dict.fromkeys(("json_to_record", "json_to_recordset", "jsonb_to_record", "jsonb_to_recordset"), 0),
    **dict.fromkeys(("json_populate_record", "json_populate_recordset", "populate_record"), 1),
    **dict.fromkeys(("jsonb_populate_record", "jsonb_populate_record_valid", "jsonb_populate_recordset"), 1),
}
"""Functions that read texts as the types of a record's columns, with the place of the argument that holds them."""

_NO_ZONES = (_SHORT_TYPES - TIMES) | {
    "text",
    "varchar",
    "bpchar",
    "citext",
    "numeric",
    "json",
    "jsonb",
    "bytea",
    "hstore",
}
"""Types whose text holds no time zone. What is not among them may be a record with times in it."""

_NO_TEXT = frozenset(
    """
    + - * / % ^ age clock_timestamp count date date_add date_bin date_part date_subtract date_trunc extract
    generate_series make_date make_interval make_time make_timestamp make_timestamptz now statement_timestamp time
    timestamp timestamptz timetz timezone to_date to_timestamp transaction_timestamp
    """.split()  # noqa: SIM905 - as the tables of functions
)
"""What returns no text, as far as its result is cast to times."""

_QUERIES = frozenset({"phraseto_tsquery", "plainto_tsquery", "to_tsquery", "websearch_to_tsquery"})
_WORD = re.compile(r"\w+")
_WIDTH = re.compile(r"[0-9]{4}|\\*")
"""A place of a format that may be wider than what stands in it, by more than is allowed for."""

_ARGUMENT_ENDS = frozenset({",", "ORDER"})
_DOCUMENT_ENDS = frozenset({",", "FORMAT", "WITH", "WITHOUT", "RETURNING", "PASSING"})
"""What ends the first argument of JSON_VALUE and its like."""
_KEY_ENDS = frozenset({"VALUE", ":", ","})
"""The same of JSON_OBJECTAGG."""

_Fields = dict[str, Any]


class Bound(NamedTuple):
    """What is known of an expression."""

    size: float
    """Bytes at most."""
    work: float = _NODE
    """Nanoseconds at most, where it is evaluated."""
    is_number: bool = False
    """It is a number or a time, so that arithmetic on it is arithmetic."""
    may_be_text: bool = True
    """Unlike `is_number`, this is certain of what is short, too."""
    is_gathered: bool = False
    """Its parts stand in an order that the statement chose."""
    may_be_constant: bool = False
    """PostgreSQL may work it out while it plans."""


class Argument(NamedTuple):
    """What is known of a parameter's value."""

    size: int
    """Bytes as text."""
    value: int | None = None
    """If it is an integer."""
    text: str | None = None
    """If it is a text of a few kilobytes at most."""
    keys: int = 0
    """Most keys that an object in it may have."""
    is_huge: bool = False
    """It holds a number that no double has."""


_NOTHING = Bound(0.0, 0.0, True, False)
_TRUTH = Bound(16.0, _NODE, True, False)


def _run(bound: Bound) -> Bound:
    """Return what a column is that has been evaluated already."""
    return bound._replace(work=_NODE, may_be_constant=False)


def _largest(bounds: Sequence[Bound]) -> Bound:
    if not bounds:
        return _NOTHING
    return Bound(
        max(b.size for b in bounds),
        max(b.work for b in bounds),
        all(b.is_number for b in bounds),
        any(b.may_be_text for b in bounds),
        any(b.is_gathered for b in bounds),
        any(b.may_be_constant for b in bounds),
    )


@dataclass(frozen=True, slots=True)
class Source:
    """What an item of FROM offers.

    Either all of its columns in their order, or what any of them may be.
    """

    columns: tuple[Bound, ...] = ()
    names: tuple[str | None, ...] = ()
    """Of the columns; None where the name is PostgreSQL's choice."""
    others: Bound | None = None
    """What any column may be that has none of the names; None if all have names."""
    width: int = 0
    """Most columns, if they are not listed."""
    is_stored: bool = False
    """It is a table, of which a whole row is no larger than its largest column may be."""
    rows: float = 1.0
    """Rows that `generate_series` alone makes of it; those of tables are not known."""
    most: float = math.inf
    """Most rows that it may have."""
    is_ordered: bool = False
    """Its rows come in an order that callers may rely on."""
    _named: dict[str, Bound] = field(default_factory=dict[str, Bound], compare=False)

    @classmethod
    def of(cls, names: Sequence[str | None], columns: Sequence[Bound], *, is_stored: bool = False) -> "Source":
        """Return what offers these columns."""
        named: dict[str, Bound] = {}
        others: list[Bound] = []
        for name, bound in zip(names, columns, strict=True):
            if name is None or name in named:
                others.append(bound)
            else:
                named[name] = bound
        rest = _largest(others) if others else None
        return cls(tuple(columns), tuple(names), rest, len(columns), is_stored, _named=named)

    @classmethod
    def of_any(cls, bound: Bound, width: int) -> "Source":
        """Return what offers columns of which only the largest is known."""
        return cls(others=bound, width=width)

    def column(self, name: str) -> Bound:
        """Return what a column may be; nothing if there is none of that name."""
        found = self._named.get(name)
        return found if found is not None else self.others or _NOTHING

    @property
    def any_column(self) -> Bound:
        """What each of the columns may be."""
        return _largest(self.columns) if self.columns else self.others or _NOTHING

    def renamed(self, names: Sequence[_Fields] | None) -> "Source":
        """Return the same under the names of `AS t (a, b)`."""
        if not names or not self.columns:
            return self
        given = [name["String"]["sval"] for name in names][: len(self.columns)]
        return self._with(Source.of([*given, *self.names[len(given) :]], self.columns))

    def run_alone(self) -> "Source":
        """Return the same with its columns evaluated already."""
        if not self.columns:
            return self._with(Source.of_any(_run(self.any_column), self.width))
        return self._with(Source.of(self.names, [_run(bound) for bound in self.columns]))

    def _with(self, other: "Source") -> "Source":
        """Return another with the rows of this one."""
        return replace(other, rows=self.rows, most=self.most, is_ordered=self.is_ordered)

    def knows(self, name: str) -> bool:
        """Tell whether a column has the name for certain."""
        return name in self._named


@dataclass(slots=True)
class _CommonTable:
    """A query of WITH."""

    source: Source
    always_inlined: bool = False
    references: set[int] = field(default_factory=set[int])

    def referred_to(self, location: int) -> Source:
        """Return what a reference sees: what is named once becomes a part of the query that names it."""
        self.references.add(location)
        return self.source if self.always_inlined or len(self.references) == 1 else self.source.run_alone()


@dataclass(slots=True)
class _Scope:
    """The names that an expression sees."""

    outer: "_Scope | None" = None
    sources: dict[str, Source] = field(default_factory=dict[str, Source])
    tables: dict[str, _CommonTable] = field(default_factory=dict[str, _CommonTable])
    most: float = 1.0
    """Most rows that FROM makes, once it has been read."""

    def levels(self) -> "Iterator[_Scope]":
        level: _Scope | None = self
        while level is not None:
            yield level
            level = level.outer


@dataclass(frozen=True, slots=True)
class Operand:
    """A part of a statement that has to be checked while it runs."""

    kind: str
    """ColumnRef, FuncCall or SubLink."""
    fields: _Fields
    limit: int
    """Bytes that it may have."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A part of a statement whose text PostgreSQL reads as numbers, JSON or times, so that it is looked at before."""

    function: str
    """Of `switchboard_sql`: what looks at it."""
    node: _Fields
    """The part."""
    argument: int | None = None
    """Which argument of the call it is; None for the operand of a cast."""
    ends: frozenset[str] = _ARGUMENT_ENDS
    """What ends the argument."""


@dataclass(frozen=True, slots=True)
class Needed:
    """The checks that a statement needs, by where its parts start in the text that was parsed."""

    operands: Mapping[int, Operand]
    counted: frozenset[int]
    """Calls of `repeat` and its like."""
    readings: Mapping[tuple[int, str], Reading]
    """By where the cast or call stands, and the function."""
    ordered: frozenset[int] = frozenset()
    """Calls of aggregates that are given their rows in the order in which they sort them."""
    long_numbers: bool = False
    """There may be numbers that are short in memory and long as text."""

    def __bool__(self) -> bool:
        return bool(self.operands or self.counted or self.readings or self.ordered or self.long_numbers)


class TooMuch(Exception):
    """No check keeps a statement within its budget.

    Args:
        dearest: name of the function or operator that takes the most.
    """

    def __init__(self, dearest: str) -> None:
        super().__init__(dearest)
        self.dearest = dearest


class TooMuchGathered(Exception):
    """An aggregate would keep more than there is memory for.

    Args:
        aggregate: its name.
    """

    def __init__(self, aggregate: str) -> None:
        super().__init__(aggregate)
        self.aggregate = aggregate


class TooMuchShown(Exception):
    """The plan of a statement would repeat more of its constants than an answer may have."""


class UnknownRelation(Exception):
    """A statement names a relation that does not exist, or that the login may not read.

    Args:
        name: as it is written.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class TooComplex(Exception):
    """A statement takes too many steps to appraise, such as recursion within recursion."""


@dataclass(frozen=True)
class Relations:
    """What is known of the relations that a statement may read, by their bare name."""

    tables: Mapping[str, Source]
    schemas: Mapping[str, frozenset[str]]
    """Their names by their schemas."""
    views: Mapping[str, _Fields] = field(default_factory=dict[str, _Fields])
    """The SELECT of each view."""


def needed_checks(
    select: _Fields,
    relations: Relations,
    arguments: Sequence[Argument],
    *,
    pairs: bool = False,
    huge: bool = False,
    makes_numbers: bool = False,
    of_view: bool = False,
    is_shown: bool = False,
) -> Needed:
    """Return the checks that keep a statement within its budget.

    Args:
        select: fields of a SelectStmt that the guard has judged already.
        relations: what it may read.
        arguments: of `$1`, `$2` …
        pairs: a jsonpath in it compares paths with each other.
        huge: a literal or a parameter holds a number that no double has.
        makes_numbers: a jsonpath in it may find numbers that are longer than what it looks at.
        is_shown: its plan is the answer.
        of_view: it is what stands behind a view, which may read what callers may not.

    Raises:
        TooMuch: there are none.
        TooMuchGathered: an aggregate would hold too much.
        TooMuchShown: its plan would be too long.
        TooComplex: that can't be told in time.
        UnknownRelation: it reads what is not there, or not for it.
    """
    asked = {"pairs": pairs, "huge": huge, "makes_numbers": makes_numbers, "of_view": of_view}
    dearest = ""
    steps = 0
    if is_shown:
        shown = _Appraisal(relations, arguments, _SHARES[0] * 1e9, steps, is_shown=True, **asked)
        shown.query(select, None)
        if shown.memory > MAX_SHOWN:
            raise TooMuchShown
    for share in _SHARES:
        appraisal = _Appraisal(relations, arguments, share * 1e9, steps, **asked)
        appraisal.query(select, None)
        if appraisal.work <= MAX_SECONDS * 1e9 and appraisal.memory <= MAX_MEMORY:
            return Needed(
                appraisal.operands,
                frozenset(appraisal.counted),
                appraisal.readings,
                frozenset(appraisal.ordered),
                appraisal.has_long_numbers,
            )
        dearest, steps = appraisal.dearest, appraisal.steps
    raise TooMuch(dearest)


class _Appraisal:
    """One pass over a statement, with one share."""

    def __init__(
        self,
        relations: Relations,
        arguments: Sequence[Argument],
        share: float,
        steps: int,
        *,
        pairs: bool = False,
        huge: bool = False,
        makes_numbers: bool = False,
        of_view: bool = False,
        is_shown: bool = False,
    ) -> None:
        self.steps = steps
        self._huge = huge
        self._is_shown = is_shown
        self._makes_numbers = makes_numbers
        self.has_long_numbers = makes_numbers
        self._of_view = of_view
        self._relations = relations
        self._arguments = arguments
        self._given = float(sum(argument.size for argument in arguments))
        self._keys = max((argument.keys for argument in arguments), default=0)
        self._of_pairs = PAIRS_OF_A_PATH if pairs else 0.0
        self._share = share
        self._cap: float | None = None
        self._aggregates = False
        self._rows = 1.0
        self._bounds: dict[tuple[int, float | None], Bound] = {}
        self._offers: dict[int, Source] = {}
        self._views: dict[str, Source] = {}
        self._highest = 0.0
        self.work = 0.0
        self.memory = 0.0
        self.dearest = ""
        self.operands: dict[int, Operand] = {}
        self.counted: set[int] = set()
        self.readings: dict[tuple[int, str], Reading] = {}
        self.ordered: set[int] = set()
        self._columns: dict[int, Any] = {}
        """The columns that FROM gives to a function's record."""

    # Queries

    def query(self, select: _Fields, outer: _Scope | None) -> Source:
        """Return what a SELECT, VALUES or set operation offers, and add the work of its rows."""
        if (known := self._offers.get(id(select))) is not None:
            return known
        self._step()
        scope = _Scope(outer)
        before = self._cap, self._aggregates, self._rows
        self._cap, self._aggregates, self._rows = None, False, 1.0
        if with_clause := select.get("withClause"):
            self._with(with_clause, scope)
        if select.get("op", "SETOP_NONE") != "SETOP_NONE":
            offered = _united(self.query(select["larg"], scope), self.query(select["rarg"], scope))
        elif "valuesLists" in select:
            offered = self._values(select, scope)
        else:
            offered = self._plain(select, scope)
        for clause in _CLAUSES:
            if clause in select:
                self.work += self._parts(select[clause], scope).work
        if self._aggregates or not _OF_ITS_OWN.isdisjoint(select):
            offered = offered.run_alone()
        limit = self._integer(select["limitCount"]) if "limitCount" in select else None
        rows = 1.0 if self._aggregates and "groupClause" not in select else self._rows
        most = offered.most if "valuesLists" in select else math.inf
        is_limited = limit is not None and select.get("limitOption") != "LIMIT_OPTION_WITH_TIES"
        offered = replace(
            offered,
            rows=rows if limit is None else min(rows, max(limit, 1)),
            most=min(most, max(limit or 0, 1)) if is_limited else most,
            is_ordered="sortClause" in select or any(source.is_ordered for source in scope.sources.values()),
        )
        self._cap, self._aggregates, self._rows = before
        self._offers[id(select)] = offered
        return offered

    def _values(self, select: _Fields, scope: _Scope) -> Source:
        rows = [[self.expression(item, scope) for item in row["List"]["items"]] for row in select["valuesLists"]]
        self.work += sum(bound.work for row in rows for bound in row)
        columns = tuple(_largest(column) for column in zip(*rows, strict=False))
        made = Source.of([f"column{number}" for number in range(1, len(columns) + 1)], columns)
        return replace(made, most=float(len(rows)))

    def _plain(self, select: _Fields, scope: _Scope) -> Source:
        for item in select.get("fromClause", ()):
            self._from(item, scope)
        for source in scope.sources.values():
            self._rows *= source.rows
            # An outer join adds the rows that nothing fits.
            scope.most *= source.most + 1
        names: list[str | None] = []
        columns: list[Bound] = []
        starred: list[Source] = []
        for target in select.get("targetList", ()):
            fields = target["ResTarget"]
            [(kind, content)] = fields["val"].items()
            is_column = kind == "ColumnRef"
            if is_column and "A_Star" in content["fields"][-1]:
                starred.extend(self._starred(content, scope))
                continue
            columns.append(self.expression(fields["val"], scope))
            names.append(fields.get("name") or (content["fields"][-1]["String"].get("sval") if is_column else None))
        self.work += sum(bound.work for bound in columns)
        if not starred:
            return Source.of(names, columns)
        if not columns and len(starred) == 1:
            return starred[0]
        width = len(columns) + sum(source.width for source in starred)
        return Source.of_any(_largest([*columns, *(source.any_column for source in starred)]), width)

    def _with(self, with_clause: _Fields, scope: _Scope) -> None:
        if with_clause.get("recursive"):
            # One query may read another that stands behind it.
            for item in with_clause["ctes"]:
                name = item["CommonTableExpr"]["ctename"]
                scope.tables[name] = _CommonTable(Source.of_any(Bound(GIGABYTE), 100))
        for item in with_clause["ctes"]:
            table = item["CommonTableExpr"]
            name, inner = table["ctename"], table["ctequery"]["SelectStmt"]
            if with_clause.get("recursive") and inner.get("op", "SETOP_NONE") != "SETOP_NONE":
                found = self._recursive(name, inner, table, scope)
            else:
                found = self.query(inner, scope).renamed(table.get("aliascolnames"))
            if table.get("ctematerialized") == "CTEMaterializeAlways":
                found = found.run_alone()
            scope.tables[name] = _CommonTable(found, table.get("ctematerialized") == "CTEMaterializeNever")

    def _recursive(self, name: str, select: _Fields, table: _Fields, scope: _Scope) -> Source:
        """Return what a recursive query may grow to.

        What a round adds to the largest value tells how far it gets in the time that there is, since each round copies
        what it grew to; what multiplies it gets as far as PostgreSQL allows.
        """
        inner = _Scope(scope)
        if with_clause := select.get("withClause"):
            self._with(with_clause, inner)
        start = self.query(select["larg"], inner).renamed(table.get("aliascolnames"))
        size = max(start.any_column.size, 64.0)
        before = self.work, self.memory, dict(self.operands), set(self.counted)
        probe = 1e6 + size
        # A number that is multiplied by itself gets as long as numbers get.
        for digits in (_HARMLESS, NUMBER_DIGITS):
            once, numbers = self._round(name, select["rarg"], inner, _grown(start, probe, digits))
            if numbers <= 1.5 * digits:
                break
        twice, _ = self._round(name, select["rarg"], inner, _grown(start, 2 * probe, digits))
        self.work, self.memory, self.operands, self.counted = before
        added = once - probe
        if numbers > 1.5 * digits or twice - once > 1.25 * probe:
            found = Source.of_any(Bound(GIGABYTE), start.width)
        elif self.has_long_numbers:
            # What is copied is short, and what it comes to as text is not.
            found = _grown(start, GIGABYTE, digits)
        else:
            found = _grown(start, min(GIGABYTE, max(size + added, (_RECURSION * max(added, 0.0)) ** 0.5)), digits)
        self._round(name, select["rarg"], inner, found)
        if "search_clause" in table or "cycle_clause" in table:
            # They add columns that hold the way from the start.
            return Source.of_any(Bound(GIGABYTE), start.width + 3)
        return found

    def _round(self, name: str, select: _Fields, scope: _Scope, given: Source) -> tuple[float, float]:
        """Return the bytes of a round's largest value that is no number, and of its largest number.

        Args:
            name: of the recursive query.
            select: what it does with the rows of the round before.
            scope: of that.
            given: the rows of the round before.
        """
        self._bounds.clear()
        self._offers.clear()
        scope.tables[name] = _CommonTable(given)
        made = self.query(select, scope)
        if not given.columns or len(made.columns) != len(given.columns):
            return max(made.any_column.size, 64.0), GIGABYTE if given.columns else 0.0
        pairs = list(zip(given.columns, made.columns, strict=True))
        numbers = [after.size if after.is_number else GIGABYTE for before, after in pairs if before.is_number]
        others = [after.size for before, after in pairs if not before.is_number]
        return max(others, default=64.0), max(numbers, default=0.0)

    # Items of FROM

    def _from(self, item: _Fields, scope: _Scope) -> None:
        [(kind, fields)] = item.items()
        alias: _Fields = fields.get("alias") or fields.get("join_using_alias") or {}
        name: str | None = None
        if kind == "JoinExpr":
            self._from(fields["larg"], scope)
            self._from(fields["rarg"], scope)
            self.work += self._parts(fields.get("quals"), scope).work
            if not alias:
                return
            source = Source.of_any(_largest([known.any_column for known in scope.sources.values()]), 1600)
        elif kind == "RangeTableSample":
            self._from(fields["relation"], scope)
            self.work += self._parts([fields.get("args"), fields.get("repeatable")], scope).work
            return
        elif kind == "RangeVar":
            source, name = self._relation(fields, scope), fields["relname"]
        elif kind == "RangeSubselect":
            source = self.query(fields["subquery"]["SelectStmt"], scope)
        else:
            for function in fields.get("functions", ()):
                called, *of_its_own = function["List"]["items"]
                if columns := fields.get("coldeflist") or [column for column in of_its_own if column]:
                    self._columns[id(called.get("FuncCall"))] = columns
            made = self._parts({key: value for key, value in fields.items() if key != "alias"}, scope)
            self._read_context(fields, scope)
            self.work += made.work + (self._of_pairs * made.size**2 if kind == "JsonTable" else 0.0)
            if kind == "RangeFunction" and "coldeflist" not in fields:
                # A row of what a function returns is a part of it.
                source = Source.of_any(Bound(made.size + 64, _NODE, made.is_number, made.may_be_text), 1)
                rows = self._series(fields)
                source = replace(source, rows=rows or 1.0, most=math.inf if rows is None else rows, is_ordered=True)
            else:
                source = replace(Source.of_any(Bound(min(GIGABYTE, _FROM_TEXT * made.size + 64)), 100), is_ordered=True)
            name = _name_of_call(fields)
        scope.sources[alias.get("aliasname") or name or f"?{len(scope.sources)}"] = source.renamed(
            alias.get("colnames")
        )

    def _series(self, fields: _Fields) -> float | None:
        """Return how many rows `generate_series(1, 1000)` makes, if that is known."""
        if _name_of_call(fields) != "generate_series" or len(fields["functions"]) > 1:
            return None
        arguments = fields["functions"][0]["List"]["items"][0]["FuncCall"]["args"]
        start, end, step = [*(self._integer(argument, exactly=True) for argument in arguments), 1][:3]
        if start is None or end is None or step is None:
            return None
        return max(1.0, (end - start) / (step or 1) + 1)

    def _relation(self, relation: _Fields, scope: _Scope) -> Source:
        name = relation["relname"]
        if "schemaname" not in relation:
            for level in scope.levels():
                if name in level.tables:
                    return level.tables[name].referred_to(relation.get("location", 0))
        schema: str | None = relation.get("schemaname")
        if schema == "information_schema":
            return Source.of_any(Bound(4096.0), 100)
        # PostgreSQL would tell apart what does not exist and what may not be read.
        if not self._of_view and name not in (self._relations.tables if schema is None else self._of_schema(schema)):
            raise UnknownRelation(name if schema is None else f"{schema}.{name}")
        if name in self._relations.views:
            return self._view(name)
        return self._relations.tables.get(name) or Source.of_any(Bound(STORED), 100)

    def _of_schema(self, schema: str) -> frozenset[str]:
        return self._relations.schemas.get(schema, frozenset())

    def _view(self, name: str) -> Source:
        if name not in self._views:
            self._views[name] = Source.of_any(Bound(STORED), 100)
            # Its text can't be given checks: what it does with its tables is the operator's word.
            inner = _Appraisal(self._relations, (), self._share, self.steps, of_view=True)
            inner._views = self._views
            self._views[name] = inner.query(self._relations.views[name], None)
            self.work += inner.work
            self.steps = inner.steps
        return self._views[name]

    def _starred(self, column: _Fields, scope: _Scope) -> list[Source]:
        names = _strings(column["fields"])
        if not names:
            return list(scope.sources.values())
        for level in scope.levels():
            if names[-1] in level.sources:
                return [level.sources[names[-1]]]
        return [Source.of_any(Bound(STORED), 100)]

    # Expressions

    def expression(self, node: _Fields, scope: _Scope) -> Bound:
        """Return the bound of an expression."""
        [(kind, fields)] = node.items()
        key = (id(fields), self._cap)
        bound = self._bounds.get(key)
        if bound is None:
            self._step()
            appraise = _APPRAISALS.get(kind)
            bound = appraise(self, fields, scope) if appraise else self._parts(fields, scope)
            self._bounds[key] = bound
        return bound

    def _step(self) -> None:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise TooComplex

    def _parts(self, value: Any, scope: _Scope) -> Bound:
        """Return the bound of what is made of expressions: no larger than all of them together."""
        size, work, is_number, may_be_text, is_gathered, may_be_constant = 32.0, _NODE, True, False, False, False
        stack = [value]
        while stack:
            part = stack.pop()
            if isinstance(part, list):
                stack.extend(cast("list[Any]", part))
            elif isinstance(part, dict) and part:
                node = cast("_Fields", part)
                first = next(iter(node))
                if not first[0].isupper():
                    stack.extend(node.values())
                elif first not in _NO_VALUES:
                    bound = self.expression(node, scope)
                    size, work, is_number = size + bound.size, work + bound.work, is_number and bound.is_number
                    may_be_text = may_be_text or bound.may_be_text
                    is_gathered = is_gathered or bound.is_gathered
                    may_be_constant = may_be_constant or bound.may_be_constant
        return Bound(min(size, GIGABYTE), work, is_number, may_be_text, is_gathered, may_be_constant)

    def constant(self, fields: _Fields, scope: _Scope) -> Bound:
        """A literal."""
        del scope
        if "sval" in fields:
            self.memory += len(fields["sval"].get("sval", "")) if self._is_shown else 0
            return Bound(len(fields["sval"].get("sval", "").encode()) + 1.0, may_be_constant=True)
        if "bsval" in fields:
            return Bound(len(fields["bsval"].get("bsval", "")) + 8.0, may_be_constant=True)
        if "fval" in fields:
            mantissa, _, exponent = fields["fval"]["fval"].lower().partition("e")
            size = len(mantissa) + 16.0 + abs(int(exponent or "0"))
            return Bound(size, is_number=True, may_be_text=False, may_be_constant=True)
        return _TRUTH._replace(may_be_constant=True)

    def parameter(self, fields: _Fields, scope: _Scope) -> Bound:
        """A `$n`."""
        del scope
        number: int = fields.get("number", 0)
        if not 0 < number <= len(self._arguments):
            return _NOTHING  # PostgreSQL refuses the call for it.
        argument = self._arguments[number - 1]
        self.memory += argument.size if self._is_shown else 0
        return Bound(argument.size + 1.0, _NODE + _READING * argument.size, argument.value is not None)

    def column(self, fields: _Fields, scope: _Scope) -> Bound:
        """A column, a whole row, a field of a composite, or a function: `t.f` may be `f(t)`."""
        bound = self._resolved(fields, scope)
        if self._is_shown and self._is_stored(fields, scope):
            bound = _TRUTH  # A plan has its name.
        names = _strings(fields["fields"])
        cost = FUNCTIONS.get(names[-1]) if len(names) > 1 else None
        if cost is not None:
            sources = [level.sources[names[-2]] for level in scope.levels() if names[-2] in level.sources]
            if not (sources and sources[0].knows(names[-1])):
                work, size = _price(cost, [_row_of(sources[:1]) if sources else bound])
                self.memory += size
                bound = Bound(max(bound.size, size), bound.work + work)
        return self._held(bound, "ColumnRef", fields)

    def indirection(self, fields: _Fields, scope: _Scope) -> Bound:
        """A part of an array or a composite, all fields of one, or a function: `(x).f` may be `f(x)`."""
        made = self._parts(fields, scope)
        work = made.work + 3 * made.size
        size = made.size
        for name in _strings(fields["indirection"]):
            if (cost := FUNCTIONS.get(name)) is not None:
                more, grown = _price(cost, [Bound(size)])
                work, size = work + more, max(size, grown)
                self.memory += grown
        if any("A_Star" in part for part in fields["indirection"]):
            # It is evaluated for each of the fields.
            work *= _FIELDS
        return Bound(size, work, made.is_number)

    def gathered(self, fields: _Fields, scope: _Scope) -> Bound:
        """An array or a row of values that are written out."""
        made = self._parts(fields, scope)
        self.memory += made.size
        return made._replace(work=made.work + 2 * made.size)

    def read_as_json(self, fields: _Fields, scope: _Scope) -> Bound:
        """IS JSON."""
        made = self._parts(fields, scope)
        return _TRUTH._replace(work=made.work + 100 * made.size + self._unique_keys(fields, scope))

    def _unique_keys(self, fields: _Fields, scope: _Scope) -> float:
        """Return the work of WITH UNIQUE KEYS."""
        if not fields.get("unique_keys"):
            return 0.0
        text = fields["expr"].get("raw_expr", fields["expr"])
        return self._priced("WITH UNIQUE KEYS", lambda _: UNIQUE_KEYS, [text], scope).work

    def _resolved(self, fields: _Fields, scope: _Scope) -> Bound:
        names = _strings(fields["fields"])
        if "A_Star" in fields["fields"][-1]:
            return _row_of(self._starred(fields, scope))
        found: list[Bound] = []
        for level in scope.levels():
            if len(names) > 1 and names[-2] in level.sources:
                return level.sources[names[-2]].column(names[-1])
            if len(names) == 1:
                if names[0] in level.sources:
                    found.append(_row_of([level.sources[names[0]]]))
                found.extend(source.column(names[0]) for source in level.sources.values())
            else:
                found.extend(source.any_column for source in level.sources.values())
        return _largest(found) if found else Bound(STORED)

    def _is_stored(self, fields: _Fields, scope: _Scope) -> bool:
        """Tell whether a name is that of a table's column for certain."""
        *of, name = _strings(fields["fields"]) or [""]
        for level in scope.levels():
            if of:
                if of[-1] in level.sources:
                    return level.sources[of[-1]].is_stored
            elif found := [source for source in level.sources.values() if source.others or source.knows(name)]:
                return all(source.is_stored for source in found)
        return False

    def _read(
        self,
        function: str,
        node: _Fields,
        place: int,
        argument: int | None = None,
        ends: frozenset[str] = _ARGUMENT_ENDS,
    ) -> None:
        """Have a part looked at before it is read, unless it is written out, and so has been looked at."""
        core, at = node, place
        while "TypeCast" in core:
            core, at = core["TypeCast"]["arg"], core["TypeCast"]["location"]
        if not _is_written_out(core):
            place = at if argument is None else place
            self.readings[place, function] = Reading(function, core, argument, ends)

    def _held(self, bound: Bound, kind: str, fields: _Fields) -> Bound:
        """Hold a part of a dear call's operand to what the call can bear."""
        if self._cap is None or bound.size <= self._cap:
            return bound
        start = fields["location"]
        known = self.operands.get(start)
        self.operands[start] = Operand(kind, fields, min(int(self._cap), known.limit if known else int(GIGABYTE)))
        return bound._replace(size=self._cap)

    def call(self, fields: _Fields, scope: _Scope) -> Bound:
        """A function, an aggregate or a window function."""
        name, arguments = fields["funcname"][-1]["String"]["sval"], fields.get("args", [])
        self._read_zone(name, fields, arguments, scope)
        if name in GROWING_AGGREGATES or name in AGGREGATES:
            return self._aggregate(name, fields, scope)
        if name in COUNTED:
            return self._counted(name, fields, scope)
        if name in FILLING and len(arguments) > 1:
            return self._filled(name, arguments, scope)
        if name in TEMPLATES and (name == "format" or "func_variadic" in fields):
            return self._template(fields, scope)
        cost = self._cost_of_call(name, arguments)
        if cost is None:
            return self._parts(arguments, scope)
        limit = self._most_characters(name, arguments)
        if limit is not None:
            made = self._parts(arguments, scope)
            return Bound(min(made.size, limit), made.work + _NODE + 3 * limit)
        return self._priced(name, lambda bounds: self._with_sorts(name, cost, bounds), arguments, scope)

    def _read_zone(self, name: str, fields: _Fields, arguments: Sequence[_Fields], scope: _Scope) -> None:
        """Have an argument looked at that is, or may hold, a time zone. AT LOCAL has none."""
        filled = _FILLS_RECORDS.get(name, len(arguments))
        if filled < len(arguments) and self._may_have_zones(fields, arguments[filled], scope):
            self._read("few_zones_of_dates", arguments[filled], fields["location"], filled)
        place = _ZONES.get(name, len(arguments))
        if place >= len(arguments) or (name == "timezone" and len(arguments) == 1):
            return
        if self.expression(arguments[place], scope).may_be_text:
            function = "few_zones_of_dates" if name in TIMES else "few_zones"
            self._read(function, arguments[place], fields["location"], place)

    def _may_have_zones(self, fields: _Fields, texts: _Fields, scope: _Scope) -> bool:
        """Tell whether a function may read texts of dates that the statement makes."""
        if "ColumnRef" in texts and self._is_stored(texts["ColumnRef"], scope):
            return False
        columns = self._columns.get(id(fields))
        return columns is None or _have_zones(columns)

    def _cost_of_call(self, name: str, arguments: Sequence[_Fields]) -> Cost | None:
        """Return what a function costs, given what is known of its arguments' texts and of the parameters."""
        cost = FUNCTIONS.get(name)
        if name in ("round", "trunc") and len(arguments) > 1:
            places = self._integer(arguments[1])
            cost = cost if places is not None and places <= MOST_DIGITS / 2 else ROUNDED
        elif name in PATHS and self._makes_numbers:
            cost = LONGER_ARRAY if name.startswith("jsonb_path_query_array") else LONGER
        if name == "ts_rank":
            cost = ranking(next((words for node in arguments if (words := self._words(node)) is not None), None))
        elif name == "ts_headline" and self._chooses_fragments(arguments):
            cost = replace(FUNCTIONS[name], work=headline_in_fragments)
        return cost

    def _with_sorts(self, name: str, cost: Cost, operands: Sequence[Bound]) -> Cost:
        """Add what a function or operator takes if it sorts, or goes through pairs."""
        each = SORTED.get(name, 0.0)
        is_gathered = any(operand.is_gathered for operand in operands)
        more = each * self._given**2
        pairs = self._of_pairs if name in PATHS or name in ("@?", "@@") else 0.0
        if not more and not pairs and not (each and is_gathered):
            return cost

        def work(sizes: Sequence[float]) -> float:
            made = each * max(sizes) ** 2 if is_gathered else 0.0
            return cost.work(sizes) + max(more, made) + pairs * sizes[0] ** 2

        return replace(cost, work=work)

    def _text(self, node: _Fields) -> str | None:
        """Return the text of a literal or a parameter, if it is known."""
        [(kind, fields)] = node.items()
        if kind == "A_Const" and "sval" in fields:
            return fields["sval"].get("sval", "")
        if kind == "ParamRef" and 0 < fields.get("number", 0) <= len(self._arguments):
            return self._arguments[cast("int", fields["number"]) - 1].text
        return self._text(fields["arg"]) if kind == "TypeCast" else None

    def _words(self, node: _Fields) -> float | None:
        """Return how many words a query of text search has, if its text is known."""
        [(kind, fields)] = node.items()
        is_query = kind == "FuncCall" and fields["funcname"][-1]["String"]["sval"] in _QUERIES
        text = self._text(fields["args"][-1]) if is_query and fields.get("args") else None
        return None if text is None else float(len(set(_WORD.findall(text.lower()))))

    def _chooses_fragments(self, arguments: Sequence[_Fields]) -> bool:
        """Tell whether a headline may be asked for `MaxFragments`."""
        texts = [self._text(argument) for argument in arguments[2:]]
        is_told = all(text is not None for text in texts) or (len(texts) == 1 and self._is_query(arguments[2]))
        return any("fragment" in (text or "").lower() for text in texts) or not is_told

    def _is_query(self, node: _Fields) -> bool:
        [(kind, fields)] = node.items()
        if kind == "TypeCast":
            return fields["typeName"]["names"][-1]["String"]["sval"] == "tsquery"
        return kind == "FuncCall" and fields["funcname"][-1]["String"]["sval"] in _QUERIES

    def _counted(self, name: str, fields: _Fields, scope: _Scope) -> Bound:
        made = [self.expression(argument, scope) for argument in fields.get("args", [])]
        place = COUNTED[name]
        count = self._integer(fields["args"][place]) if len(made) > place else None
        size = (
            GIGABYTE if count is None else max(count, 0) * (max(made[0].size - 1, 1) if name == "repeat" else 4.0) + 64
        )
        if size > MAX_GROWN:
            size = float(MAX_GROWN)
            self.counted.add(fields["location"])
        self.memory += size
        return Bound(size, sum(bound.work for bound in made) + _NODE + 3 * size)

    def _template(self, fields: _Fields, scope: _Scope) -> Bound:
        """What a format makes: each of its places may take all of the arguments."""
        made = self._parts(fields.get("args"), scope)
        text: str | None = fields.get("args", [{}])[0].get("A_Const", {}).get("sval", {}).get("sval")
        size = GIGABYTE
        if text is not None and "func_variadic" not in fields and not _WIDTH.search(text):
            size = min(size, len(text) * 4.0 + text.count("%") * (2 * made.size + 1000))
        self.memory += size
        return Bound(size, made.work + 0.5 * size + 20 * made.size)

    def _filled(self, name: str, arguments: Sequence[_Fields], scope: _Scope) -> Bound:
        made = self._parts(arguments, scope)
        count = self._product(arguments[FILLING[name]])
        size = GIGABYTE if count is None else min(GIGABYTE, max(count, 0) * (made.size + 16) + 64)
        self.memory += size
        return Bound(size, made.work + 10 * size)

    def _product(self, node: _Fields) -> int | None:
        """Return the product of the integers in an array that is written out."""
        product = 1
        for element in node.get("A_ArrayExpr", {}).get("elements", [node]):
            count = self._integer(element)
            if count is None:
                return None
            product *= max(count, 1)
        return product

    def _most_characters(self, name: str, arguments: Sequence[_Fields]) -> float | None:
        """Return the bytes of `left(x, 10)` and its like, which read no more than they return."""
        place = {"left": 1, "substr": 2, "substring": 2}.get(name)
        count = None if place is None or len(arguments) <= place else self._integer(arguments[place])
        return None if count is None or count < 0 else 4.0 * count + 16

    def _integer(self, node: _Fields, *, exactly: bool = False) -> int | None:
        """Return the largest integer that an expression can be, or which one it is, if that can be told."""
        [(kind, fields)] = node.items()
        if kind == "A_Const" and "ival" in fields:
            return fields["ival"].get("ival", 0)
        if kind == "ParamRef" and 0 < fields.get("number", 0) <= len(self._arguments):
            return self._arguments[cast("int", fields["number"]) - 1].value
        if kind == "TypeCast":
            return self._integer(fields["arg"], exactly=exactly)
        if kind == "MinMaxExpr" and fields.get("op") == "IS_LEAST" and not exactly:
            return min((known for known in map(self._integer, fields["args"]) if known is not None), default=None)
        return None

    def _is_dear(self, cost: Cost, operands: Sequence[Bound]) -> bool:
        """Tell whether a call has to have its operands held to a size."""
        work, size = _price(cost, operands)
        if cost.may_be_huge:
            # PostgreSQL gives up where the result gets too large, but not before it has written a long number.
            size = max(operand.size for operand in operands) if self.has_long_numbers else 0.0
        return work > self._share or size > _UNCHECKED_RESULT

    def _priced(
        self,
        name: str,
        cost_of: Callable[[Sequence[Bound]], Cost],
        arguments: Sequence[_Fields],
        scope: _Scope,
    ) -> Bound:
        """Return the bound of a call; its operands are held to a size if it would be too dear without."""
        bounds = [self.expression(argument, scope) for argument in arguments]
        cost = cost_of(bounds)
        work, size = _price(cost, bounds)
        if self._cap is None and self._is_dear(cost, bounds):
            for cap in _CAPS:
                bounds: list[Bound] = []
                for place, argument in enumerate(arguments):
                    self._cap = min(cap, _SHORT) if cost.short_second and place == 1 else cap
                    bounds.append(self.expression(argument, scope))
                cost = cost_of(bounds)
                work, size = _price(cost, bounds)
                if not self._is_dear(cost, bounds):
                    break
            self._cap = None
        if work > self._highest:
            self._highest, self.dearest = work, name
        self.memory += size
        is_number = size <= _HARMLESS or all(bound.is_number for bound in bounds)
        if name in MAKES_LONG_NUMBERS or (is_number and size > MOST_DIGITS):
            self.has_long_numbers = True
        work += sum(bound.work for bound in bounds) + _NODE
        is_gathered, may_be_constant = (any(b.is_gathered for b in bounds), all(b.may_be_constant for b in bounds))
        return Bound(size, work, is_number, name not in _NO_TEXT, is_gathered, may_be_constant)

    def _aggregate(self, name: str, fields: _Fields, scope: _Scope) -> Bound:
        cap, self._cap = self._cap, None if name in GROWING_AGGREGATES else self._cap
        given = self._parts([fields.get(key) for key in ("args", "agg_order", "agg_filter", "over")], scope)
        self._cap, self._aggregates = cap, True
        given = given._replace(may_be_constant=False)
        if self._is_shown:
            return _TRUTH
        if name in OF_FRACTIONS and "agg_within_group" in fields:
            fractions = self._priced(name, lambda _: FRACTIONS_SORTED, fields.get("args", ()), scope)
            return Bound(fractions.size + given.size, fractions.work + given.work, given.is_number)
        if name not in GROWING_AGGREGATES:
            may_be_text = given.may_be_text and name != "count"
            return Bound(
                given.size + 64, given.work, given.is_number or name == "count", may_be_text, given.is_gathered
            )
        if name in SORTED_ROWS:
            more = self._sorted_rows(name, fields, fields.get("args", ()), _ARGUMENT_ENDS, scope)
            given = given._replace(work=given.work + more)
        if self._rows * given.size > MAX_GATHERED:
            raise TooMuchGathered(name)
        if fields.get("funcformat") != "COERCE_EXPLICIT_CALL":
            return Bound(GIGABYTE, given.work, is_gathered=True)
        return self._held(Bound(GIGABYTE, given.work, is_gathered=True), "FuncCall", fields)

    def _sorted_rows(
        self, name: str, fields: _Fields, arguments: Sequence[_Fields], ends: frozenset[str], scope: _Scope
    ) -> float:
        """Return the work of an aggregate that sorts its rows at its end, and have it kept short.

        Few rows are sorted as they come. Others are given to it in the order that it would make, which it notices, or,
        where that could alter the answer or can't be written, counted while the statement runs.
        """
        if not arguments or _is_written_out(arguments[0]):
            return 0.0  # All rows are equal.
        first = self.expression(arguments[0], scope)
        # It may be an aggregate of a query around this one.
        rows = max(level.most for level in scope.levels()) * max(first.size / _HARMLESS, 1.0)
        if rows <= SORTED_ROWS[name]:
            return SORTED[name] * max(self._given, _SORTED_ROW * rows) ** 2
        is_of_ranges = name == "range_agg"
        is_plain = fields.get("funcformat") == "COERCE_EXPLICIT_CALL" and not fields.keys() & {"over", "agg_distinct"}
        is_free = "agg_order" in fields or not any(
            source.is_ordered for level in scope.levels() for source in level.sources.values()
        )
        again = 0.0 if is_of_ranges else _WRITTEN_TWICE * first.size
        is_ordered = is_plain and (is_of_ranges or (is_free and again < self._share and not _is_volatile(arguments[0])))
        if is_ordered:
            self.ordered.add(fields["location"])
        if is_of_ranges or not is_ordered:
            function = ("lone_ranges" if is_ordered else "few_ranges") if is_of_ranges else "few_keys"
            place = fields["location"]
            self.readings[place, function] = Reading(function, arguments[0], 0, ends)
        return again + first.work if is_ordered else _COUNTED_ROWS

    def choice(self, fields: _Fields, scope: _Scope) -> Bound:
        """CASE x WHEN, GREATEST or LEAST: values that are compared with each other."""
        made = self._parts(list(fields.values()), scope)
        if "arg" not in fields and "op" not in fields:
            return made
        # CASE asks for equality only, which texts of other lengths do not have.
        each = 3 if "arg" in fields else 35
        return made._replace(work=made.work + each * made.size * len(fields.get("args", ())))

    def json_aggregate(self, fields: _Fields, scope: _Scope) -> Bound:
        """JSON_ARRAYAGG and JSON_OBJECTAGG."""
        cap, self._cap = self._cap, None
        given = self._parts(fields, scope)
        if self._rows * given.size > MAX_GATHERED:
            raise TooMuchGathered("JSON_ARRAYAGG or JSON_OBJECTAGG")
        work = given.work
        constructor = fields["constructor"]
        returned = constructor.get("output", {}).get("typeName", {}).get("names", ())
        if "key" in fields.get("arg", ()) and _strings(returned)[-1:] == ["jsonb"]:
            work += self._sorted_rows("jsonb_object_agg", constructor, [fields["arg"]["key"]], _KEY_ENDS, scope)
        self._cap, self._aggregates = cap, True
        if self._is_shown:
            return _TRUTH
        return self._held(Bound(GIGABYTE, work, is_gathered=True), "FuncCall", constructor)

    def operation(self, fields: _Fields, scope: _Scope) -> Bound:
        """An operator. A chain of them goes deep on its left side, so that is appraised from its end."""
        chain: list[_Fields] = []
        while "A_Expr" in fields.get("lexpr", ()) and (id(fields), self._cap) not in self._bounds:
            chain.append(fields)
            fields = fields["lexpr"]["A_Expr"]
        for link in reversed(chain):
            inner = link["lexpr"]["A_Expr"]
            self._bounds[id(inner), self._cap] = self._operation(inner, scope)
        return self._operation(chain[0] if chain else fields, scope)

    def _operation(self, fields: _Fields, scope: _Scope) -> Bound:
        if (known := self._bounds.get((id(fields), self._cap))) is not None:
            return known
        name = _strings(fields.get("name", []))[-1:] or ["="]
        operands = [fields[side] for side in ("lexpr", "rexpr") if side in fields]
        kind = fields.get("kind")
        if kind in ("AEXPR_OP_ANY", "AEXPR_OP_ALL"):
            return self._priced(
                name[0], lambda bounds: _hashed(of_each(name[0]), name[0], bounds), operands, scope
            )._replace(size=16.0, is_number=True)
        if "List" in fields.get("rexpr", ()):
            # PostgreSQL writes the operands anew for each comparison: x >= a AND x <= b, x = a OR x = b.
            left = self.expression(fields["lexpr"], scope)
            items = [self.expression(item, scope) for item in fields["rexpr"]["List"]["items"]]
            each = 2 if "SYM" in str(kind) else 1
            work = each * sum(_price(OPERATORS["="], [left, item])[0] + left.work + item.work for item in items)
            return _TRUTH._replace(work=work)
        if kind == "AEXPR_NULLIF":
            return self._parts(operands, scope)
        return self._priced(
            name[0], lambda bounds: self._with_sorts(name[0], _operator(name[0], bounds), bounds), operands, scope
        )

    def cast(self, fields: _Fields, scope: _Scope) -> Bound:
        """A cast."""
        inner, of = self.expression(fields["arg"], scope), fields["typeName"]
        name = of["names"][-1]["String"]["sval"].removeprefix("_")
        is_many = "arrayBounds" in of or of["names"][-1]["String"]["sval"] != name
        if name in ("json", "jsonb"):
            self._read("plain_json", fields["arg"], fields["location"])
        elif name in NUMERIC and inner.may_be_text and (is_many or name != "numeric"):
            self._read("plain_numbers", fields["arg"], fields["location"])
        elif name in TIMES and inner.may_be_text:
            self._read("few_zones_of_dates", fields["arg"], fields["location"])
        elif name == "numeric":
            return self._as_number(inner, fields["arg"], of)
        return self._as_type(inner, of)._replace(is_gathered=inner.is_gathered)

    def _as_number(self, inner: Bound, arg: _Fields, type_name: _Fields) -> Bound:
        bound = self._as_type(inner, type_name)
        modifiers = [part.get("A_Const", {}).get("ival", {}).get("ival", 0) for part in type_name.get("typmods", ())]
        if modifiers and max(modifiers) <= MOST_DIGITS / 2 and all("A_Const" in part for part in type_name["typmods"]):
            return bound._replace(size=MOST_DIGITS)
        if "A_Const" in arg or "ParamRef" in arg:
            return bound._replace(size=inner.size + MOST_DIGITS / 2)
        self.has_long_numbers = True
        return bound

    def _as_type(self, inner: Bound, type_name: _Fields) -> Bound:
        name, size, work = type_name["names"][-1]["String"]["sval"], inner.size, inner.work + _NODE
        if self._huge and name.removeprefix("_") in NUMERIC:
            raise TooMuch(f"a cast to {name} of a number with an exponent of 400 or more")
        slow = SLOW_TO_READ.get(name.removeprefix("_"))
        if slow is not None:
            return Bound(min(GIGABYTE, 16 * size + 64), work + 300 * size + slow * size**2)
        if name.removeprefix("_") in KEYED:
            work += KEY_SORTED * self._most_keys(inner) ** 2
        if "arrayBounds" in type_name:
            return Bound(min(GIGABYTE, _FROM_TEXT * size + 64), work + 60 * size)
        if name in _SHORT_TYPES:
            return Bound(64.0, work + 3 * size, True, name == "name")
        declared = _declared_length(type_name)
        if name == "numeric":
            return Bound(4096.0 if declared else max(size, NUMBER_DIGITS), work + 5 * size, True, False)
        if name in ("varchar", "bpchar", "bit", "varbit"):
            longest = size if declared is None else 4.0 * declared
            self.memory += longest
            return Bound(2 * longest + 64, work + 5 * (size + longest))
        if name in ("text", "citext"):
            return Bound(size * (1 if inner.is_number else 2) + 64, work + 5 * size)
        return Bound(min(GIGABYTE, _FROM_TEXT * size + 64), work + 60 * size)

    def subquery(self, fields: _Fields, scope: _Scope) -> Bound:
        """A query within an expression. PostgreSQL looks for a cancellation at each of its rows."""
        inner = self.query(fields["subselect"]["SelectStmt"], scope).any_column
        kind, work = fields.get("subLinkType"), _NODE
        if "testexpr" in fields:
            left = self._parts(fields["testexpr"], scope)
            name = _strings(fields.get("operName", []))[-1:] or ["="]
            pair = [left, inner]
            work += left.work + _price(_operator(name[0], pair), pair)[0]
        if self._is_shown:
            return _TRUTH
        if kind == "ARRAY_SUBLINK":
            return self._held(Bound(GIGABYTE, work, is_gathered=True), "SubLink", fields)
        if kind in ("EXPR_SUBLINK", "MULTIEXPR_SUBLINK"):
            return self._held(inner._replace(work=work), "SubLink", fields)
        return _TRUTH._replace(work=work)

    def rows(self, fields: _Fields, scope: _Scope) -> Bound:
        """A query whose rows become one value: JSON_ARRAY(SELECT …)."""
        self.query(fields, scope)
        return Bound(GIGABYTE, is_gathered=True)

    def converted(self, fields: _Fields, scope: _Scope) -> Bound:
        """What JSON and XML constructs make of their parts."""
        made = self._parts(fields, scope)
        self._read_context(fields, scope)
        longer = GIGABYTE if self._makes_numbers and "pathspec" in fields else 64
        size = min(GIGABYTE, _FROM_TEXT * made.size + longer)
        self.memory += size
        pairs = self._of_pairs * made.size**2 if "pathspec" in fields else 0.0
        if fields.get("op") in ("IS_XMLPARSE", "IS_DOCUMENT") or "indent" in fields:
            pairs = XML_READ * made.size**2
        if "expr" in fields:
            pairs += self._unique_keys(fields, scope)
        work = made.work + 60 * made.size + KEY_SORTED * self._most_keys(made) ** 2 + pairs
        return Bound(size, work, is_gathered=made.is_gathered)

    def _most_keys(self, text: Bound) -> float:
        """Return how many keys the largest object in a text of JSON or hstore may have."""
        return text.size / 10 if text.is_gathered else min(text.size / 8, self._keys)

    def _read_context(self, fields: _Fields, scope: _Scope) -> None:
        """Have a text looked at that JSON_VALUE(x, …) or JSON_TABLE(x, …) reads as JSON."""
        item = fields.get("context_item") or fields.get("expr")
        if not isinstance(item, dict) or "raw_expr" not in item:
            return
        context = cast("_Fields", item["raw_expr"])
        [(kind, value)] = context.items()
        is_json = kind in ("JsonFuncExpr", "JsonParseExpr", "JsonObjectConstructor", "JsonArrayConstructor") or (
            (kind == "A_Expr" and _strings(value.get("name", []))[-1:] in (["->"], ["#>"]))
            or (kind == "TypeCast" and _strings(value["typeName"]["names"])[-1:] in (["json"], ["jsonb"]))
        )
        if kind == "ColumnRef" and self._is_stored(value, scope):
            return
        if not is_json:
            self._read("plain_json", context, fields["location"], 0, _DOCUMENT_ENDS)
        if _have_zones([fields.get("columns"), fields.get("output")]):
            self._read("few_zones_of_dates", context, fields["location"], 0, _DOCUMENT_ENDS)


_APPRAISALS: Mapping[str, Callable[[_Appraisal, _Fields, _Scope], Bound]] = {
    "A_ArrayExpr": _Appraisal.gathered,
    "A_Const": _Appraisal.constant,
    "A_Expr": _Appraisal.operation,
    "A_Indirection": _Appraisal.indirection,
    "CaseExpr": _Appraisal.choice,
    "ColumnRef": _Appraisal.column,
    "FuncCall": _Appraisal.call,
    "JsonArrayAgg": _Appraisal.json_aggregate,
    "JsonArrayConstructor": _Appraisal.converted,
    "JsonArrayQueryConstructor": _Appraisal.converted,
    "JsonFuncExpr": _Appraisal.converted,
    "JsonIsPredicate": _Appraisal.read_as_json,
    "JsonObjectAgg": _Appraisal.json_aggregate,
    "JsonObjectConstructor": _Appraisal.converted,
    "JsonParseExpr": _Appraisal.converted,
    "JsonScalarExpr": _Appraisal.converted,
    "JsonSerializeExpr": _Appraisal.converted,
    "MinMaxExpr": _Appraisal.choice,
    "ParamRef": _Appraisal.parameter,
    "RowExpr": _Appraisal.gathered,
    "SelectStmt": _Appraisal.rows,
    "SubLink": _Appraisal.subquery,
    "TypeCast": _Appraisal.cast,
    "XmlExpr": _Appraisal.converted,
    "XmlSerialize": _Appraisal.converted,
}


def _price(cost: Cost, bounds: Sequence[Bound]) -> tuple[float, float]:
    sizes = [bound.size for bound in bounds] or [0.0]
    return cost.work(sizes), min(cost.size(sizes), GIGABYTE)


def _operator(name: str, operands: Sequence[Bound]) -> Cost:
    if name in ARITHMETIC and (len(operands) == 1 or any(operand.is_number for operand in operands)):
        return ARITHMETIC[name]
    return OPERATORS.get(name, OPERATORS["="])


def _hashed(cost: Cost, name: str, operands: Sequence[Bound]) -> Cost:
    """Add what it takes to make a table of an array's elements, which may all have the same hash."""
    if name not in ("=", "<>") or not operands[-1].may_be_constant:
        return cost

    def work(sizes: Sequence[float]) -> float:
        return cost.work(sizes) + HASHED * sizes[-1] ** 2

    return replace(cost, work=work)


def _is_volatile(node: Any) -> bool:
    """Tell whether an expression may differ when it is evaluated twice."""
    stack: list[Any] = [node]
    while stack:
        part = stack.pop()
        if isinstance(part, list):
            stack.extend(cast("list[Any]", part))
        elif isinstance(part, dict):
            fields = cast("_Fields", part)
            if VOLATILE.intersection(_strings(fields.get("funcname", ()))):
                return True
            stack.extend(fields.values())
    return False


def _grown(start: Source, size: float, digits: float) -> Source:
    """Return what a recursive query offers: numbers of some digits, and anything else of a size."""
    if not start.columns:
        return Source.of_any(Bound(size, is_gathered=True), start.width)
    is_number = [bound.is_number and bound.size <= _HARMLESS for bound in start.columns]
    made = [Bound(digits, is_number=True) if number else Bound(size, is_gathered=True) for number in is_number]
    return Source.of(start.names, made)


def _united(left: Source, right: Source) -> Source:
    if not left.columns or len(left.columns) != len(right.columns):
        return Source.of_any(_largest([left.any_column, right.any_column]), max(left.width, right.width))
    return Source.of(left.names, [_largest(pair) for pair in zip(left.columns, right.columns, strict=True)])


def _is_written_out(node: _Fields) -> bool:
    """Tell whether a value is a literal or a parameter, or an array of them."""
    [(kind, fields)] = node.items()
    if kind == "TypeCast":
        return _is_written_out(fields["arg"])
    return kind in ("A_Const", "ParamRef") or (
        kind == "A_ArrayExpr" and all(_is_written_out(element) for element in fields.get("elements", ()))
    )


def _have_zones(columns: Any) -> bool:
    """Tell whether the definitions of columns name a type of which a text may hold a time zone."""
    if isinstance(columns, list):
        return any(_have_zones(column) for column in cast("list[Any]", columns))
    if not isinstance(columns, dict):
        return False
    node = cast("_Fields", columns)
    if "typeName" in node and node["typeName"]["names"][-1]["String"]["sval"].removeprefix("_") not in _NO_ZONES:
        return True
    return any(_have_zones(part) for name, part in node.items() if name != "typeName")


def _row_of(sources: Sequence[Source]) -> Bound:
    """Return what a whole row may be, with the names that JSON gives it."""
    size = sum(
        64.0 * source.width + source.any_column.size * (1 if source.is_stored else source.width) for source in sources
    )
    work = sum(source.any_column.work * source.width for source in sources) + _NODE
    return Bound(min(GIGABYTE, size), work, may_be_text=any(source.any_column.may_be_text for source in sources))


def _name_of_call(fields: _Fields) -> str | None:
    """Return the name that a function in FROM has without an alias."""
    for function in fields.get("functions", [])[:1]:
        call = function["List"]["items"][0]
        if "FuncCall" in call:
            return call["FuncCall"]["funcname"][-1]["String"]["sval"]
    return None


def _strings(parts: Sequence[_Fields]) -> list[str]:
    return [part["String"].get("sval", "") for part in parts if "String" in part]


def _declared_length(type_name: _Fields) -> int | None:
    for modifier in type_name.get("typmods", [])[:1]:
        return modifier.get("A_Const", {}).get("ival", {}).get("ival", 0)
    return None
