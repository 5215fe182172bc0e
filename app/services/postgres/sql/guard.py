"""What SQL callers may run: one statement that reads, made only of parts known to be harmless.

The guard judges PostgreSQL's own parse tree. Everything is allowlisted: kinds of nodes, functions, operators,
types, relations. It is one layer of several (`docs/query-database.md`): login and transaction can't write either.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pgparse

from app.errors import BackendUnavailable, Forbidden, InvalidArguments
from app.services.postgres.sql.bounds import (
    MAX_SECONDS,
    MAX_SHOWN,
    STORED,
    Argument,
    Bound,
    Needed,
    Relations,
    Source,
    TooComplex,
    TooMuch,
    TooMuchGathered,
    TooMuchShown,
    UnknownRelation,
    needed_checks,
)
from app.services.postgres.sql.catalog import Catalog
from app.services.postgres.sql.checks import with_checks, without_checks
from app.services.postgres.sql.functions import (
    AGGREGATES,
    COUNTED,
    FILLING,
    FUNCTIONS,
    GROWING_AGGREGATES,
    OPERATORS,
    PATHS,
    SLOW_TO_READ,
    TEMPLATES,
    has_huge_number,
)
from app.services.postgres.sql.paths import Path, read_path

MAX_BYTES = 32 * 1024
"""Longest statement. The parser ends the whole process on much longer ones."""

MAX_TOKENS = 8_000
"""Most words and signs in a statement: the parse holds the event loop, about 3 µs for each."""

MAX_DEPTH = 500
"""Deepest nesting of the parse tree; an operator costs two levels, a subquery four."""

MAX_RELATIONS = 100
"""Most tables, subqueries and functions in all FROMs: the planner takes memory with the cube of outer joins."""

MAX_COMMENTS = 128
"""Most openings of `/*`: the parser's time grows with their square, and 16,000 of them take it a second."""

# The same for `+++…`, which the parser reads anew from every sign.
_LONG_RUN_OF_SIGNS = re.compile(r"[+-]{256}")
_NO = re.compile(r"'(?:false|off|none)'|: 0\b|: false\b|'integer': {}")
"""How the parser writes an option of EXPLAIN that is turned off."""
_TOKEN = re.compile(r"\w+|[^\w\s]")

_Fields = dict[str, Any]
_parser: Any = pgparse
"""It is compiled and has no types of its own."""


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_NODES = _set(
    """
    A_ArrayExpr A_Const A_Expr A_Indices A_Indirection A_Star Alias BitString BoolExpr Boolean BooleanTest
    CTECycleClause CTESearchClause CaseExpr CaseWhen CoalesceExpr CollateClause ColumnDef ColumnRef CommonTableExpr
    Float FuncCall GroupingFunc GroupingSet Integer JoinExpr JsonAggConstructor JsonArgument JsonArrayAgg
    JsonArrayConstructor JsonArrayQueryConstructor JsonBehavior JsonFormat JsonFuncExpr JsonIsPredicate JsonKeyValue
    JsonObjectAgg JsonObjectConstructor JsonOutput JsonParseExpr JsonReturning JsonScalarExpr JsonSerializeExpr
    JsonTable JsonTableColumn JsonTablePathSpec JsonValueExpr List MinMaxExpr NamedArgExpr NullTest ParamRef
    RangeFunction RangeSubselect RangeTableSample RangeVar ResTarget RowExpr
    SQLValueFunction SelectStmt SortBy String SubLink TypeCast TypeName WindowDef WithClause XmlExpr XmlSerialize
    """
)

_STRUCTS: Mapping[str, str] = {
    "alias": "Alias",
    "boolval": "Boolean",
    "bsval": "BitString",
    "collClause": "CollateClause",
    "constructor": "JsonAggConstructor",
    "context_item": "JsonValueExpr",
    "cycle_clause": "CTECycleClause",
    "format": "JsonFormat",
    "fval": "Float",
    "ival": "Integer",
    "join_using_alias": "Alias",
    "larg": "SelectStmt",
    "on_empty": "JsonBehavior",
    "on_error": "JsonBehavior",
    "output": "JsonOutput",
    "over": "WindowDef",
    "pathspec": "JsonTablePathSpec",
    "rarg": "SelectStmt",
    "returning": "JsonReturning",
    "search_clause": "CTESearchClause",
    "sval": "String",
    "typeName": "TypeName",
    "withClause": "WithClause",
    # Their type depends on the node; each of these JSON structs holds only nodes that are checked themselves.
    "arg": "JsonValueExpr",
    "expr": "JsonValueExpr",
    "val": "JsonValueExpr",
    "value": "JsonValueExpr",
}
"""Fields whose value the parser writes without naming its type. One that is not listed (`intoClause`) is refused."""

_WORDS: Mapping[str, str] = {
    "LockingClause": "FOR UPDATE and FOR SHARE",
    "RangeTableFunc": "XMLTABLE",
    "intoClause": "SELECT INTO",
    "CopyStmt": "COPY",
    "VariableSetStmt": "SET",
    "VariableShowStmt": "SHOW",
    "TransactionStmt": "transaction control",
    "CreateTableAsStmt": "CREATE TABLE AS",
    "CreateStmt": "CREATE TABLE",
    "DeclareCursorStmt": "DECLARE CURSOR",
}

_EXPLAIN_OPTIONS = _set(
    "analyze verbose costs settings generic_plan buffers serialize wal timing summary memory format"
)
_SAMPLE_METHODS = frozenset({"bernoulli", "system"})
_RELATIONS = frozenset({"JsonTable", "RangeFunction", "RangeSubselect", "RangeVar"})
_INFORMATION_SCHEMA = _set(
    """
    check_constraints columns constraint_column_usage key_column_usage referential_constraints schemata
    table_constraints tables
    """
)
"""What tells of the tables' form and nothing of other callers or of secrets."""

_KNOWN_FUNCTIONS = FUNCTIONS.keys() | AGGREGATES | GROWING_AGGREGATES | COUNTED.keys() | FILLING.keys() | TEMPLATES

_BETWEEN = frozenset({"BETWEEN", "NOT BETWEEN", "BETWEEN SYMMETRIC", "NOT BETWEEN SYMMETRIC"})
_OF_TEXT_SEARCH = frozenset({"regconfig", "regdictionary"})
"""Types that tell the name of each configuration or dictionary by its number."""
_TEXT_SEARCH = _set(
    """
    json_to_tsvector jsonb_to_tsvector phraseto_tsquery plainto_tsquery to_tsquery to_tsvector ts_headline ts_lexize
    websearch_to_tsquery
    """
)
"""Functions that search with one, and do not tell which."""
_READ_BY_CASTS = _OF_TEXT_SEARCH | {"jsonpath", "numrange", "nummultirange"}
"""Types of which only the text of a cast or a parameter is looked at before it is read."""

_COMPARISONS = ("=", "<>", "<", "<=", ">", ">=")
"""Operators that BETWEEN, CASE, USING and NATURAL JOIN call without naming them."""


@dataclass(frozen=True)
class Parameter:
    """A `$n` in a statement."""

    number: int
    start: int
    """Offset of the `$` in the statement's UTF-8."""


@dataclass(frozen=True)
class ReadingStatement:
    """A statement that the guard lets pass."""

    sql: str
    """Its text, without a semicolon at the end."""
    is_select: bool
    """False for EXPLAIN, which can't stand in a subquery."""
    parameters: tuple[Parameter, ...]
    """In the text that runs."""
    checked_sql: str = ""
    """The text that runs: with checks of sizes, if it needs some."""
    is_generic: bool = False
    """Whether it is EXPLAIN of a plan for any values (`GENERIC_PLAN`)."""
    has_long_numbers: bool = False
    """There may be numbers in its answer that are short in memory and long as text."""

    @property
    def runs(self) -> str:
        """The text that runs, with `$n` in it."""
        return self.checked_sql or self.sql

    def with_parameters(self, written: Mapping[int, str]) -> str:
        """Return the text with each `$n` replaced by an expression."""
        text = self.runs.encode()
        for parameter in sorted(self.parameters, key=lambda p: p.start, reverse=True):
            end = parameter.start + 1 + len(str(parameter.number))
            while text[end : end + 1].isdigit():  # $01 is $1
                end += 1
            text = text[: parameter.start] + written[parameter.number].encode() + text[end:]
        return text.decode()


@dataclass(slots=True)
class _Judged:
    """A statement whose every part is allowed."""

    select: _Fields
    text: str
    offset: int
    """Of the text in what was parsed, in bytes."""
    is_explain: bool
    is_generic: bool
    parameters: list[Parameter] = field(default_factory=list[Parameter])
    schemata: set[int] = field(default_factory=set[int])
    """Where `information_schema.schemata` stands, which tells of roles."""
    casts: set[int] = field(default_factory=set[int])
    """Ids of the types of casts."""
    excused: set[int] = field(default_factory=set[int])
    """Ids of parts that are harmless where they stand."""
    searched_with: set[int] = field(default_factory=set[int])
    """Ids of the types of casts that are arguments of text search."""
    shown: set[int] = field(default_factory=set[int])
    """Ids of the types of casts that are columns of the answer, or become text."""
    texts: list[str] = field(default_factory=list[str])
    """Its literals."""
    follows_paths: bool = False
    """It goes where a jsonpath leads."""
    relations: int = 0
    """How many items its FROMs have."""
    serializes: bool = False
    """EXPLAIN is to write the rows, too."""


class UnknownName(InvalidArguments):
    """A name of which callers are told no more than that they can't use it, lest they learn what there is."""

    relation: str = ""
    """The bare name, if it is a relation's and no other schema than `public` is named."""


class SqlGuard:
    """Refuses whatever is not one reading statement of harmless parts.

    Args:
        catalog: of the database that the statements are for.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._checks: Mapping[str, Callable[[_Fields], None]] = {
            "FuncCall": self._check_function,
            "ColumnRef": self._check_column,
            "A_Indirection": self._check_indirection,
            "A_Expr": self._check_operator,
            "SubLink": self._check_operator,
            "SortBy": self._check_operator,
            "TypeName": self._check_type,
            "RangeVar": _check_relation,
            "RangeTableSample": _check_sample_method,
        }
        self._views = frozenset(hidden.view for hidden in catalog.hidden_sql if hidden.view)
        tables = {
            name: Source.of(
                [column.name for column in columns],
                [_bound_of(column.is_number, column.longest) for column in columns],
                is_stored=True,
            )
            for name, columns in catalog.relations.items()
        }
        self._relations = Relations(tables, catalog.schemas)
        self._objection = self._object_to_hidden_sql()

    def check(self, sql: str, arguments: Sequence[Argument] = ()) -> ReadingStatement:
        """Return the statement if it may run. Nothing is sent to the database.

        Args:
            sql: the statement.
            arguments: what is known of the values of its parameters.

        Raises:
            InvalidArguments: it can't be read, is too long or nested too deep, or could take PostgreSQL too long.
            Forbidden: it is, or contains, something that is not allowed; the message names it.
            BackendUnavailable: the database holds a view, cast or domain that the guard can't answer for.
        """
        judged = self._judge(sql)
        if self._objection:
            raise BackendUnavailable(self._objection)
        huge = any(argument.is_huge for argument in arguments) or any(map(has_huge_number, judged.texts))
        paths = _paths(judged, arguments)
        needed = self._needed_checks(
            judged.select,
            arguments,
            pairs=any(path.compares_paths for path in paths),
            huge=huge,
            makes_numbers=any(path.makes_numbers for path in paths),
            is_shown=judged.is_explain,
        )
        if needed.long_numbers and judged.serializes:
            raise _forbidden("EXPLAIN option serialize", "the query may make numbers of many digits")
        if not needed and not judged.schemata:
            return ReadingStatement(
                judged.text, not judged.is_explain, tuple(judged.parameters), is_generic=judged.is_generic
            )
        return self._with_checks(judged, needed)

    def _judge(self, sql: str) -> _Judged:
        kind, fields, text, offset = _parse(sql)
        is_explain = kind == "ExplainStmt"
        is_generic = is_explain and _is_on(fields, "generic_plan")
        serializes = is_explain and _is_on(fields, "serialize")
        if is_explain:
            _check_explain_options(fields)
            [(kind, fields)] = fields["query"].items()
        if kind != "SelectStmt":
            raise _forbidden(_in_words(kind), "only SELECT, VALUES, TABLE, WITH and EXPLAIN of them are")
        judged = _Judged(fields, text, offset, is_explain, is_generic, serializes=serializes)
        if fields.get("op") == "SETOP_NONE":
            values = [target["ResTarget"]["val"] for target in fields.get("targetList", ())]
            judged.excused.update(id(value.get("FuncCall")) for value in values)
            judged.shown.update(_types_of_casts(values))
        for node, content in _walk(kind, fields):
            if node == "TypeName" and id(content) in judged.excused:
                continue
            if node == "TypeName" and id(content) not in judged.casts:
                _check_place_of_type(content)
            judged.follows_paths = judged.follows_paths or _follows_path(node, content)
            judged.relations += node in _RELATIONS
            if judged.relations > MAX_RELATIONS:
                raise InvalidArguments.of("query", f"joins more than {MAX_RELATIONS} tables, subqueries and functions")
            if check := self._checks.get(node):
                check(content)
                if node == "RangeVar":
                    self._note_relation(content, judged)
                elif node == "FuncCall":
                    if _names(content["funcname"])[-1] in _TEXT_SEARCH:
                        judged.searched_with.update(_types_of_casts(content.get("args", ())))
                    if id(content) not in judged.excused:
                        _check_result_type(content)
            elif node == "TypeCast":
                self._note_cast(content, judged)
            elif node == "JsonValueExpr" and content.get("format", {}).get("format_type") == "JS_FORMAT_JSON":
                if not _is_written_out(content["raw_expr"]):
                    raise _forbidden("FORMAT JSON of what the query makes", "cast it: (…)::jsonb")
            elif node == "A_Const" and has_huge_number(content.get("fval", {}).get("fval", "")):
                raise InvalidArguments.of("query", "holds a number with an exponent of 400 or more")
            elif node == "A_Const" and "sval" in content:
                judged.texts.append(content["sval"].get("sval", ""))
            elif node == "ParamRef":
                judged.parameters.append(Parameter(content.get("number", 0), content["location"] - offset))
        return judged

    def _note_cast(self, cast: _Fields, judged: _Judged) -> None:
        type_name = cast["typeName"]
        names = _names(type_name.get("names", []))
        judged.casts.add(id(type_name))
        if names[-1:] in (["jsonpath"], ["_jsonpath"]) and not _is_written_out(cast["arg"]):
            raise _forbidden("a jsonpath that is made while the query runs", "write it out, or give it as a parameter")
        if names[-1:] == ["regtype"] and "arrayBounds" not in type_name:
            # pg_typeof(x) = 'integer'::regtype
            self._check_named_type([cast["arg"]])
            judged.excused.add(id(type_name))
        elif names[-1:] == ["text"]:
            judged.excused.add(id(cast["arg"].get("FuncCall")))
            judged.shown.update(_types_of_casts([cast["arg"]]))
        elif names and names[-1].removeprefix("_") in _OF_TEXT_SEARCH:
            _check_search_type(cast, judged)

    def _note_relation(self, relation: _Fields, judged: _Judged) -> None:
        name = relation["relname"]
        if relation.get("schemaname") == "information_schema" and name == "schemata":
            judged.schemata.add(relation["location"])
        if judged.is_explain and name in self._views:
            raise _forbidden(f"EXPLAIN of the view {name}", "the plan would tell what it is made of")

    def _needed_checks(
        self,
        select: _Fields,
        arguments: Sequence[Argument],
        *,
        pairs: bool = False,
        huge: bool = False,
        makes_numbers: bool = False,
        of_view: bool = False,
        is_shown: bool = False,
    ) -> Needed:
        try:
            return needed_checks(
                select,
                self._relations,
                arguments,
                pairs=pairs,
                huge=huge,
                makes_numbers=makes_numbers,
                of_view=of_view,
                is_shown=is_shown,
            )
        except UnknownRelation as unknown:
            message = f'relation "{unknown.name}" does not exist, or may not be read'
            refusal = UnknownName.of("query", message)
            refusal.relation = unknown.name.removeprefix("public.")
            raise refusal from None
        except TooMuch as much:
            mostly = f", mostly in {much.dearest}" if much.dearest else ""
            message = (
                f"could keep PostgreSQL for more than {MAX_SECONDS:g} s on one row without a look at the time limit"
                f"{mostly}; call it less often, or on less: left(column, 1000)"
            )
            raise InvalidArguments.of("query", message) from None
        except TooMuchGathered as much:
            message = f"has {much.aggregate} gather more than a gigabyte; aggregate less, or with a LIMIT in a subquery"
            raise InvalidArguments.of("query", message) from None
        except TooMuchShown:
            message = f"has constants of more than {MAX_SHOWN:,} bytes, which a plan would repeat; explain it with less"
            raise InvalidArguments.of("query", message) from None
        except TooComplex:
            raise InvalidArguments.of("query", "has too many calls and queries within each other") from None
        except RecursionError:
            raise _too_deep() from None

    def _with_checks(self, judged: _Judged, needed: Needed) -> ReadingStatement:
        if not self.catalog.has_checks:
            raise BackendUnavailable("the database lacks functions of ours; run `switchboard migrate`")
        failure = InvalidArguments.of("query", "is written in a way that can't be checked; write it more plainly")
        try:
            text = with_checks(judged.text, needed, judged.schemata, judged.offset)
            [(kind, fields)] = _parser.parse(text)[0]["stmt"].items()
            if judged.is_explain:
                [(kind, fields)] = fields["query"].items()
            if without_checks(fields) != without_checks(judged.select):
                raise failure
        except (ValueError, RecursionError, _parser.PGQueryError):
            raise failure from None
        parameters = [
            Parameter(content.get("number", 0), content["location"])
            for node, content in _walk(kind, fields)
            if node == "ParamRef"
        ]
        return ReadingStatement(
            judged.text, not judged.is_explain, tuple(parameters), text, judged.is_generic, needed.long_numbers
        )

    def _object_to_hidden_sql(self) -> str:
        """Return why no statement at all may run; empty if nothing speaks against it."""
        advice = (
            "an administrator has to remove it, or revoke it from switchboard_reader, before query_database can be used"
        )
        if self.catalog.foreign_casts:
            return f"the {self.catalog.foreign_casts[0]} calls a function that is not built in; {advice}"
        for operator in _COMPARISONS:
            if not self.catalog.operators.get(operator):
                return f"there is an operator {operator} that is not built in; {advice}"
        views: dict[str, _Fields] = {}
        for hidden in self.catalog.hidden_sql:
            try:
                judged = self._judge(hidden.sql)
            except (Forbidden, InvalidArguments) as refusal:
                return f"{hidden.name} can't be vetted ({refusal.detail}); {advice}"
            if hidden.view:
                views[hidden.view] = judged.select
        self._relations = Relations(self._relations.tables, self.catalog.schemas, views)
        for hidden in self.catalog.hidden_sql:
            if hidden.view:
                try:
                    self._needed_checks(views[hidden.view], (), of_view=True)
                except InvalidArguments as refusal:
                    return f"{hidden.name} can't be vetted ({refusal.detail}); {advice}"
        return ""

    def _check_function(self, call: _Fields) -> None:
        names = _names(call["funcname"])
        name = names[-1]
        if name not in self.catalog.functions:
            raise InvalidArguments.of("query", f"function {_written(names)} does not exist")
        if objection := self.catalog.functions[name]:
            raise _forbidden(f"function {_written(names)}", objection)
        if name not in _KNOWN_FUNCTIONS:
            raise _forbidden(f"function {_written(names)}", "it is for PostgreSQL's own use, or not known to this tool")
        if name == "pg_input_is_valid":
            self._check_named_type(call.get("args", [])[1:2])

    def _check_column(self, column: _Fields) -> None:
        # `t.f` means f(t) where t has no column f.
        self._check_attributes(_names(column["fields"])[1:])

    def _check_indirection(self, indirection: _Fields) -> None:
        self._check_attributes(_names(indirection["indirection"]))

    def _check_attributes(self, names: list[str]) -> None:
        for name in names:
            if name in self.catalog.as_columns:
                reason = f"after a dot it calls the function: {self.catalog.functions[name]}"
                raise _forbidden(f"the name {name}", reason)

    def _check_operator(self, expression: _Fields) -> None:
        names = _names(expression.get("name") or expression.get("operName") or expression.get("useOp") or [])
        if not names or (names[-1] in _BETWEEN and str(expression.get("kind")).startswith("AEXPR_")):
            return
        safe = self.catalog.operators.get(names[-1])
        if safe is None:
            raise InvalidArguments.of("query", f"operator {names[-1]} does not exist")
        if not safe:
            raise _forbidden(f"operator {names[-1]}", "one of its name is neither built in nor of an allowed extension")
        if names[-1] not in OPERATORS:
            raise _forbidden(f"operator {names[-1]}", "it is not known to this tool")

    def _check_named_type(self, arguments: Sequence[_Fields]) -> None:
        """Refuse what is not a literal that names an allowed type."""
        for argument in arguments:
            text = argument.get("A_Const", {}).get("sval", {}).get("sval")
            type_name = _parsed_type(text) if isinstance(text, str) else None
            if type_name is None:
                raise _forbidden("the name of a type that is not written out", "give it as text, such as 'integer'")
            self._check_type(type_name)

    def _check_type(self, type_name: _Fields) -> None:
        names = _names(type_name.get("names", []))
        if not names:
            return
        # PostgreSQL looks into pg_catalog first.
        is_builtin = len(names) == 1 or names[-2] == "pg_catalog"
        safe = self.catalog.builtin_types.get(names[-1]) if is_builtin else None
        if safe is None:
            safe = self.catalog.types.get(names[-1])
        if safe is None:
            raise UnknownName.of("query", f"type {_written(names)} does not exist")
        if not safe:
            reason = "it looks up names in the catalogs, or is neither built in nor of an allowed extension"
            raise _forbidden(f"type {_written(names)}", reason)


def _parse(sql: str) -> tuple[str, _Fields, str, int]:
    """Return kind and fields of the only statement, its text and the offset of that text in UTF-8."""
    try:
        encoded = sql.encode()
    except UnicodeEncodeError:
        raise InvalidArguments.of("query", "holds half a surrogate pair, which is no character") from None
    if len(encoded) > MAX_BYTES:
        raise InvalidArguments.of(
            "query", f"is longer than {MAX_BYTES:,} bytes; hand lists over as one parameter: = ANY($1)"
        )
    if "\0" in sql:
        raise InvalidArguments.of("query", "holds a NUL character")
    if sql.count("/*") > MAX_COMMENTS or _LONG_RUN_OF_SIGNS.search(sql):
        raise InvalidArguments.of("query", f"holds more than {MAX_COMMENTS} comments, or 256 signs in a row")
    if len(encoded) > MAX_TOKENS and sum(1 for _ in _TOKEN.finditer(sql)) > MAX_TOKENS:
        message = f"has more than {MAX_TOKENS:,} words and signs; hand lists over as one parameter: = ANY($1)"
        raise InvalidArguments.of("query", message)
    try:
        statements = cast("list[_Fields]", _parser.parse(sql))
    except _parser.PGQueryError as error:
        raise InvalidArguments.of("query", _syntax_message(error)) from None
    except RecursionError:
        raise _too_deep() from None
    if not statements:
        raise InvalidArguments.of("query", "holds no statement")
    if len(statements) > 1:
        raise _forbidden(f"a query of {len(statements)} statements", "send one at a time")
    [raw] = statements
    [(kind, fields)] = raw["stmt"].items()
    offset = raw.get("stmt_location", 0)
    length = raw.get("stmt_len") or len(encoded) - offset
    return kind, fields, encoded[offset : offset + length].decode(), offset


def _syntax_message(error: Exception) -> str:
    message = str(error.args[0])
    if "memory exhausted" in message:
        return f"is nested too deep; at most {MAX_DEPTH} levels"
    return message if len(message) < 200 else f"{message[:200]}…"


def _walk(kind: str, fields: _Fields) -> Iterator[tuple[str, _Fields]]:
    """Yield every node of a tree with its type, and refuse a type that is not allowed.

    A loop with a stack of its own, since a statement decides how deep this goes.
    """
    stack: list[tuple[str, Any, int]] = [(kind, fields, 0)]
    while stack:
        name, value, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise _too_deep()
        if isinstance(value, list):
            stack.extend((name, item, depth + 1) for item in cast("list[Any]", value))
        elif isinstance(value, dict) and value:
            content = cast("_Fields", value)
            first = next(iter(content))
            if not name[0].isupper() and first[0].isupper():
                stack.extend((node, inner, depth + 1) for node, inner in content.items())
                continue
            node = name if name[0].isupper() else _STRUCTS.get(name, name)
            if node not in _NODES:
                raise _forbidden(_in_words(node), "this tool only reads, and knows what it lets pass")
            yield node, content
            stack.extend((key, inner, depth + 1) for key, inner in content.items())


def _parsed_type(text: str) -> _Fields | None:
    """Return the TypeName that a text stands for; None if it is no type, or more than one."""
    try:
        [statement] = _parser.parse(f"SELECT NULL::{text}")
        select = cast("_Fields", statement["stmt"]["SelectStmt"])
        [target] = select["targetList"]
        value = target["ResTarget"]["val"]["TypeCast"]
    except (ValueError, KeyError, _parser.PGQueryError):
        return None
    is_plain = select.keys() <= {"targetList", "limitOption", "op"} and value["arg"].get("A_Const", {}).get("isnull")
    return value["typeName"] if is_plain else None


def _bound_of(is_number: bool, longest: int | None) -> Bound:
    return Bound(
        64.0 if is_number else float(min(longest or STORED, STORED)), is_number=is_number, may_be_text=not is_number
    )


def _check_explain_options(explain: _Fields) -> None:
    for option in explain.get("options", []):
        name = option["DefElem"]["defname"].lower()
        if name not in _EXPLAIN_OPTIONS:
            raise _forbidden(f"EXPLAIN option {name}", f"the options are {', '.join(sorted(_EXPLAIN_OPTIONS))}")
    if _is_on(explain, "generic_plan") and _is_on(explain, "analyze"):
        raise InvalidArguments.of("query", "asks for ANALYZE, which runs the query, and GENERIC_PLAN, which can't")


def _is_on(explain: _Fields, name: str) -> bool:
    """Tell whether an option of EXPLAIN is given and not turned off; the last of its words counts."""
    is_on = False
    for option in explain.get("options", []):
        definition = option["DefElem"]
        if definition["defname"].lower() == name:
            is_on = not _NO.search(str(definition.get("arg", "")).lower())
    return is_on


def _check_relation(relation: _Fields) -> None:
    schema, name = relation.get("schemaname", ""), relation["relname"]
    if "catalogname" in relation:
        raise _forbidden(f"relation {relation['catalogname']}.{schema}.{name}", "name it without a database")
    if schema == "information_schema":
        if name not in _INFORMATION_SCHEMA:
            raise _forbidden(
                f"relation {schema}.{name}", f"of this schema only {', '.join(sorted(_INFORMATION_SCHEMA))} are"
            )
    elif schema.startswith("pg_") or name.startswith("pg_"):
        written = f"{schema}.{name}" if schema else name
        reason = (
            "the system catalogs tell of passwords and other callers; information_schema.columns describes the tables"
        )
        raise _forbidden(f"relation {written}", reason)


def _check_result_type(call: _Fields) -> None:
    if _names(call["funcname"])[-1] == "pg_typeof":
        # Compared with a text it would look that up among all types, those of hidden tables too.
        raise _forbidden("pg_typeof in an expression", "write pg_typeof(…)::text")


def _types_of_casts(values: Sequence[_Fields]) -> set[int]:
    """Return the ids of the types of what is a cast."""
    return {id(value["TypeCast"]["typeName"]) for value in values if "TypeCast" in value}


def _check_search_type(cast: _Fields, judged: _Judged) -> None:
    """Refuse a cast that could tell the names of configurations that there are by their numbers.

    Where a number meets a value of such a type (CASE, UNION, an array), it becomes one too, so there is none but in
    text search, and where it is shown alone.
    """
    type_name = cast["typeName"]
    name = _names(type_name["names"])[-1]
    is_one = name in _OF_TEXT_SEARCH and "arrayBounds" not in type_name
    text = cast["arg"].get("A_Const", {}).get("sval", {}).get("sval", "")
    is_named = "ParamRef" in cast["arg"] or (text and not text.isdigit())
    if not is_one or not (id(type_name) in judged.searched_with or (id(type_name) in judged.shown and is_named)):
        reason = "it looks names up; write to_tsvector('english', …), or search with …::regconfig"
        raise _forbidden(f"type {name} here", reason)


def _check_place_of_type(type_name: _Fields) -> None:
    name = "".join(_names(type_name.get("names", []))[-1:])
    base = name.removeprefix("_")
    is_many = "arrayBounds" in type_name or base != name
    if base in _READ_BY_CASTS or base in SLOW_TO_READ or (base == "numeric" and is_many):
        raise _forbidden(f"type {name} as the type of a column or of JSON", "read text, and cast it")


def _follows_path(node: str, content: _Fields) -> bool:
    if node in ("JsonFuncExpr", "JsonTable"):
        return True
    if node == "TypeName":
        return _names(content.get("names", []))[-1:] in (["jsonpath"], ["_jsonpath"])
    if node == "FuncCall":
        return _names(content["funcname"])[-1] in PATHS
    return node == "A_Expr" and _names(content.get("name", []))[-1:] in (["@?"], ["@@"])


def _is_written_out(value: _Fields) -> bool:
    return "A_Const" in value or "ParamRef" in value


def _paths(judged: _Judged, arguments: Sequence[Argument]) -> list[Path]:
    """Return what may be a jsonpath in a statement that follows one; refuse one that would fill the memory."""
    if not judged.follows_paths:
        return []
    texts = [*judged.texts, *(argument.text for argument in arguments if argument.text is not None)]
    paths = [read_path(text) for text in texts]
    if not all(path.is_bounded for path in paths):
        raise too_many_found()
    return paths


def too_many_found() -> InvalidArguments:
    """Return the refusal of a jsonpath that finds values many times over."""
    return InvalidArguments.of(
        "query",
        "has a jsonpath that may find the same values many times over; use `**` once at most, and few subscripts that"
        " repeat",
    )


def _check_sample_method(sample: _Fields) -> None:
    method = _names(sample["method"])[-1]
    if method not in _SAMPLE_METHODS:
        raise _forbidden(f"sample method {method}", "only bernoulli and system are")


def _names(parts: list[_Fields]) -> list[str]:
    return [part["String"].get("sval", "") for part in parts if "String" in part]


def _written(names: list[str]) -> str:
    return ".".join(name for name in names if name != "pg_catalog")


def _in_words(node: str) -> str:
    """Return a node's type as people write it: `InsertStmt` is INSERT."""
    if node in _WORDS:
        return _WORDS[node]
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", node.removesuffix("Stmt")).upper()


def _forbidden(what: str, why: str) -> Forbidden:
    return Forbidden(f"{what} {'are' if ' and ' in what else 'is'} not allowed: {why}")


def _too_deep() -> InvalidArguments:
    return InvalidArguments.of("query", f"is nested too deep; at most {MAX_DEPTH} levels")
