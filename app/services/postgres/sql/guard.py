"""What SQL callers may run: one statement that reads, made only of parts known to be harmless.

The guard judges PostgreSQL's own parse tree. Everything is allowlisted: kinds of nodes, functions, operators,
types, relations. It is one layer of several (`docs/query-database.md`): login and transaction can't write either.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

import asyncpg
import pgparse

from app.errors import BackendUnavailable, Forbidden, InvalidArguments

MAX_BYTES = 32 * 1024
"""Longest statement. The parser ends the whole process on much longer ones."""

MAX_TOKENS = 8_000
"""Most words and signs in a statement: the parse holds the event loop, about 3 µs for each."""

MAX_DEPTH = 500
"""Deepest nesting of the parse tree; an operator costs two levels, a subquery four."""

MAX_COMMENTS = 128
"""Most openings of `/*`: the parser's time grows with their square, and 16,000 of them take it a second."""

# The same for `+++…`, which the parser reads anew from every sign.
_LONG_RUN_OF_SIGNS = re.compile(r"[+-]{256}")
_NO = re.compile(r"'(?:false|off)'|: 0\b|: false\b|'integer': {}")
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
    RangeFunction RangeSubselect RangeTableFunc RangeTableFuncCol RangeTableSample RangeVar ResTarget RowExpr
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
_INFORMATION_SCHEMA = _set(
    """
    check_constraints columns constraint_column_usage key_column_usage referential_constraints schemata
    table_constraints tables
    """
)
"""What tells of the tables' form and nothing of other callers or of secrets."""

_BETWEEN = frozenset({"BETWEEN", "NOT BETWEEN", "BETWEEN SYMMETRIC", "NOT BETWEEN SYMMETRIC"})
_COMPARISONS = ("=", "<>", "<", "<=", ">", ">=")
"""Operators that BETWEEN, CASE, USING and NATURAL JOIN call without naming them."""

EXTENSIONS = (
    "pg_trgm",
    "unaccent",
    "vector",
    "fuzzystrmatch",
    "citext",
    # These share names of operators with what is built in, which would be refused if they were installed.
    "hstore",
    "ltree",
    "intarray",
    "btree_gin",
    "btree_gist",
)
"""Extensions whose functions, operators and types count as built in."""

_VOLATILE_BUT_HARMLESS = (
    "random",
    "random_normal",
    "gen_random_uuid",
    "uuidv4",
    "uuidv7",
    "clock_timestamp",
    "timeofday",
    "array_shuffle",
    "array_sample",
)
_NOT_VOLATILE_BUT_HARMFUL = (
    "^(pg_|txid_|lo_|has_|inet_client_|inet_server_|row_security|to_reg|currtid|dblink|crosstab|connectby)"
    "|^(current_setting|regclass|ts_stat|ts_rewrite|xpath_table|satisfies_hash_partition)$"
    "|_to_xml|_description$|_validator$"
)
"""They run text, read what the guard can't see, take transaction ids or tell of the server."""
_HARMLESS_IN_SPITE_OF_THEIR_NAME = (
    "pg_typeof",
    "pg_size_pretty",
    "pg_size_bytes",
    "pg_column_size",
    "pg_collation_for",
    "pg_input_is_valid",
)
_HARMFUL_TYPES = ("regclass", "regproc", "regprocedure", "regoper", "regoperator", "regrole", "regnamespace", "aclitem")
"""They look names up in the catalogs."""

_TRUSTED = """
    SELECT oid AS classid, objid FROM (
        SELECT 'pg_proc'::regclass AS oid, oid AS objid FROM pg_proc WHERE oid < 16384
        UNION ALL SELECT 'pg_type'::regclass, oid FROM pg_type WHERE oid < 16384
        UNION ALL SELECT d.classid, d.objid
        FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
        WHERE d.deptype = 'e' AND e.extname = ANY($1)
    ) AS known(oid, objid)
"""
"""Objects that came with PostgreSQL (16384 is the first id of anybody else) or with an allowed extension."""

_FUNCTIONS = f"""
    WITH trusted AS ({_TRUSTED}), judged AS (
        SELECT proname, CASE
            WHEN prosecdef THEN 'it runs with the rights of its owner (SECURITY DEFINER)'
            WHEN NOT EXISTS (SELECT FROM trusted t WHERE t.classid = 'pg_proc'::regclass AND t.objid = p.oid)
                THEN 'it, or another function of its name, is neither built in nor of an allowed extension'
            WHEN proname ~ $3 AND proname <> ALL($4)
                THEN 'it runs text as SQL, or tells of the server, other sessions, files or rights'
            WHEN provolatile = 'v' AND proname <> ALL($2) THEN 'it may change something, or wait (it is volatile)'
            WHEN prokind NOT IN ('f', 'a', 'w') THEN 'it is a procedure'
            WHEN ARRAY['internal', 'cstring']::regtype[]::oid[] && proargtypes::oid[]
                OR prorettype IN ('internal'::regtype, 'cstring'::regtype, 'trigger'::regtype, 'event_trigger'::regtype)
                THEN 'it is for PostgreSQL''s own use'
            END AS objection,
            -- No expression has the type internal, so `t.system` stays a column.
            pronargs >= 1 AND pronargs - pronargdefaults <= 1 AND proargtypes[0] <> 'internal'::regtype AS takes_one
        FROM pg_proc p
    )
    SELECT proname::text AS name, min(objection) AS objection,
        coalesce(bool_or(takes_one) FILTER (WHERE objection IS NOT NULL), false) AS as_column
    FROM judged GROUP BY proname
"""  # noqa: S608 - made of constants

_OPERATORS = f"""
    WITH trusted AS ({_TRUSTED})
    SELECT oprname::text AS name,
        bool_and(coalesce(p.provolatile <> 'v' AND NOT p.prosecdef AND t.objid IS NOT NULL, false)) AS safe
    FROM pg_operator o
    LEFT JOIN pg_proc p ON p.oid = o.oprcode
    LEFT JOIN trusted t ON t.classid = 'pg_proc'::regclass AND t.objid = p.oid
    GROUP BY oprname
"""  # noqa: S608 - made of constants

_TYPES = f"""
    WITH trusted AS ({_TRUSTED}), judged AS (
        SELECT y.oid, y.typname, y.typelem, y.typtype, y.typtype IN ('e', 'd')
            OR y.typtype IN ('b', 'r', 'm') AND y.typname <> ALL($2)
            AND EXISTS (SELECT FROM trusted t WHERE t.classid = 'pg_type'::regclass AND t.objid = y.oid) AS safe
        FROM pg_type y
    )
    SELECT j.oid, j.typname::text AS name, j.safe OR j.typtype = 'b' AND coalesce(e.safe, false) AS safe,
        format_type(j.oid, -1) AS words
    FROM judged j LEFT JOIN judged e ON e.oid = j.typelem
"""  # noqa: S608 - made of constants

_HIDDEN_SQL = """
    WITH RECURSIVE seen(oid) AS (
        SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'v' AND c.relname !~ '^pg_' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
            AND has_schema_privilege(n.oid, 'USAGE') AND has_any_column_privilege(c.oid, 'SELECT')
        UNION
        SELECT inner_view.oid FROM seen
        JOIN pg_rewrite r ON r.ev_class = seen.oid
        JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
            AND d.refclassid = 'pg_class'::regclass
        JOIN pg_class inner_view ON inner_view.oid = d.refobjid AND inner_view.relkind = 'v'
        WHERE inner_view.relnamespace <> 'information_schema'::regnamespace
    )
    SELECT 'view ' || oid::regclass AS name, pg_get_viewdef(oid) AS sql FROM seen
    UNION ALL
    SELECT 'domain ' || format_type(t.oid, NULL),
        'SELECT 1 WHERE ' || substring(pg_get_constraintdef(k.oid) FROM 'CHECK (.*)')
    FROM pg_type t JOIN pg_constraint k ON k.contypid = t.oid AND k.contype = 'c' WHERE t.oid >= 16384
"""
"""SQL that runs behind a name that the guard lets pass."""

_FOREIGN_CASTS = f"""
    WITH trusted AS ({_TRUSTED})
    SELECT format('cast from %s to %s', format_type(castsource, NULL), format_type(casttarget, NULL)) AS name
    FROM pg_cast
    WHERE castmethod = 'f'
        AND NOT EXISTS (SELECT FROM trusted t WHERE t.classid = 'pg_proc'::regclass AND t.objid = castfunc)
"""  # noqa: S608 - made of constants


@dataclass(frozen=True)
class Catalog:
    """What the guard has to know of a database, read once and again when it may have changed."""

    functions: Mapping[str, str | None]
    """Every function by its bare name, with what speaks against one of its overloads."""
    as_columns: frozenset[str]
    """Unsafe functions that take one argument: `t.name` calls them."""
    operators: Mapping[str, bool]
    types: Mapping[str, bool]
    type_words: Mapping[int, str]
    """The name of each type in SQL by its object id."""
    hidden_sql: tuple[tuple[str, str], ...] = ()
    """Views and domains that the reader may reach, and the SQL that runs behind them."""
    foreign_casts: tuple[str, ...] = ()

    @classmethod
    async def load(
        cls, connection: "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
    ) -> Self:
        """Read the catalogs with the rights of the login that queries are going to have."""
        extensions = list(EXTENSIONS)
        functions = await connection.fetch(
            _FUNCTIONS,
            extensions,
            list(_VOLATILE_BUT_HARMLESS),
            _NOT_VOLATILE_BUT_HARMFUL,
            list(_HARMLESS_IN_SPITE_OF_THEIR_NAME),
        )
        operators = await connection.fetch(_OPERATORS, extensions)
        types = await connection.fetch(_TYPES, extensions, list(_HARMFUL_TYPES))
        hidden = await connection.fetch(_HIDDEN_SQL)
        casts = await connection.fetch(_FOREIGN_CASTS, extensions)
        unsafe_types = {row["name"] for row in types if not row["safe"]}
        return cls(
            functions={row["name"]: row["objection"] for row in functions},
            as_columns=frozenset(row["name"] for row in functions if row["as_column"]),
            operators={row["name"]: row["safe"] for row in operators},
            types={row["name"]: row["name"] not in unsafe_types for row in types},
            type_words={row["oid"]: row["words"] for row in types},
            hidden_sql=tuple((row["name"], row["sql"]) for row in hidden),
            foreign_casts=tuple(row["name"] for row in casts),
        )


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
    is_generic: bool = False
    """Whether it is EXPLAIN of a plan for any values (`GENERIC_PLAN`)."""

    def with_parameters(self, written: Mapping[int, str]) -> str:
        """Return the text with each `$n` replaced by an expression."""
        text = self.sql.encode()
        for parameter in sorted(self.parameters, key=lambda p: p.start, reverse=True):
            end = parameter.start + 1 + len(str(parameter.number))
            while text[end : end + 1].isdigit():  # $01 is $1
                end += 1
            text = text[: parameter.start] + written[parameter.number].encode() + text[end:]
        return text.decode()


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
        self._objection = self._object_to_hidden_sql()

    def check(self, sql: str) -> ReadingStatement:
        """Return the statement if it may run. Nothing is sent to the database.

        Raises:
            InvalidArguments: it can't be read, is too long or nested too deep.
            Forbidden: it is, or contains, something that is not allowed; the message names it.
            BackendUnavailable: the database holds a view, cast or domain that the guard can't answer for.
        """
        statement = self._judge(sql)
        if self._objection:
            raise BackendUnavailable(self._objection)
        return statement

    def _judge(self, sql: str) -> ReadingStatement:
        kind, fields, text, offset = _parse(sql)
        is_explain = kind == "ExplainStmt"
        is_generic = is_explain and _is_generic(fields)
        if is_explain:
            _check_explain_options(fields)
            [(kind, fields)] = fields["query"].items()
        if kind != "SelectStmt":
            raise _forbidden(_in_words(kind), "only SELECT, VALUES, TABLE, WITH and EXPLAIN of them are")
        parameters: list[Parameter] = []
        for node, content in _walk(kind, fields):
            if check := self._checks.get(node):
                check(content)
            elif node == "ParamRef":
                parameters.append(Parameter(content.get("number", 0), content["location"] - offset))
        return ReadingStatement(text, not is_explain, tuple(parameters), is_generic=is_generic)

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
        for name, sql in self.catalog.hidden_sql:
            try:
                self._judge(sql)
            except (Forbidden, InvalidArguments) as refusal:
                return f"{name} can't be vetted ({refusal.detail}); {advice}"
        return ""

    def _check_function(self, call: _Fields) -> None:
        names = _names(call["funcname"])
        name = names[-1]
        if name not in self.catalog.functions:
            raise InvalidArguments.of("query", f"function {_written(names)} does not exist")
        if objection := self.catalog.functions[name]:
            raise _forbidden(f"function {_written(names)}", objection)

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

    def _check_type(self, type_name: _Fields) -> None:
        names = _names(type_name.get("names", []))
        if not names:
            return
        safe = self.catalog.types.get(names[-1])
        if safe is None:
            raise InvalidArguments.of("query", f"type {_written(names)} does not exist")
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


def _check_explain_options(explain: _Fields) -> None:
    for option in explain.get("options", []):
        name = option["DefElem"]["defname"].lower()
        if name not in _EXPLAIN_OPTIONS:
            raise _forbidden(f"EXPLAIN option {name}", f"the options are {', '.join(sorted(_EXPLAIN_OPTIONS))}")


def _is_generic(explain: _Fields) -> bool:
    """Tell whether EXPLAIN is asked for a plan that no values are needed for; the last of an option's words counts."""
    generic = False
    for option in explain.get("options", []):
        definition = option["DefElem"]
        if definition["defname"].lower() == "generic_plan":
            generic = not _NO.search(str(definition.get("arg", "")).lower())
    return generic


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
