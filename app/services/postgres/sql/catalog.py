"""What the guard has to know of a database: its functions, operators, types, and the relations that may be read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import asyncpg

from app.services.postgres.sql.functions import VOLATILE

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
_HARMFUL_TYPES = (
    *("regclass", "regcollation", "regnamespace", "regoper", "regoperator", "regproc", "regprocedure", "regrole"),
    *("regtype", "aclitem"),
)
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
    WITH RECURSIVE trusted AS ({_TRUSTED}), parts(oid, part) AS (
        SELECT oid, oid FROM pg_type
        UNION
        SELECT p.oid, inner_type FROM parts p JOIN pg_type y ON y.oid = p.part
        LEFT JOIN pg_range r ON y.typtype = 'r' AND r.rngtypid = y.oid
        LEFT JOIN pg_range m ON y.typtype = 'm' AND m.rngmultitypid = y.oid
        CROSS JOIN LATERAL (VALUES (y.typelem), (y.typbasetype), (r.rngsubtype), (m.rngtypid)) AS i(inner_type)
        WHERE inner_type <> 0
    )
    SELECT p.oid, y.typname::text AS name, format_type(p.oid, -1) AS words,
        y.typnamespace = 'pg_catalog'::regnamespace AS builtin,
        has_schema_privilege(y.typnamespace, 'USAGE')
            AND bool_and(c.oid IS NULL OR has_any_column_privilege(c.oid, 'SELECT')) AS visible, bool_and(
        part.typtype IN ('e', 'd') OR part.typelem <> 0 AND part.typlen = -1 OR part.typtype IN ('b', 'r', 'm')
        AND part.typname <> ALL($2)
        AND EXISTS (SELECT FROM trusted t WHERE t.classid = 'pg_type'::regclass AND t.objid = part.oid)
    ) AS safe
    FROM parts p JOIN pg_type y ON y.oid = p.oid JOIN pg_type part ON part.oid = p.part
    LEFT JOIN pg_class c ON c.oid = part.typrelid AND c.relkind <> 'c'
    GROUP BY p.oid, y.typname, y.typnamespace
"""  # noqa: S608 - made of constants
"""A type is as safe as what it is made of: an array's element, a domain's base, a range's bounds."""

_COLUMNS = """
    SELECT n.nspname::text AS schema, c.relname::text AS relation, a.attname::text AS name,
        a.attlen > 0 OR y.typname = 'numeric' AS is_number,
        CASE WHEN y.typname IN ('varchar', 'bpchar') AND a.atttypmod > 4 THEN (a.atttypmod - 4) * 4 END AS longest
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type y ON y.oid = a.atttypid
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
        AND has_schema_privilege(n.oid, 'USAGE') AND has_column_privilege(c.oid, a.attnum, 'SELECT')
    ORDER BY c.relname, c.oid, a.attnum
"""
"""The columns that the login may read, in their tables' order."""

_HAS_CHECKS = """
    SELECT has_schema_privilege(n.oid, 'USAGE') AND to_regclass('switchboard_sql.schemata') IS NOT NULL
        AND to_regprocedure('switchboard_sql.few_keys(anyelement)') IS NOT NULL
    FROM pg_namespace n WHERE n.nspname = 'switchboard_sql'
"""

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
    SELECT 'view ' || oid::regclass AS name, pg_get_viewdef(oid) AS sql,
        (SELECT relname::text FROM pg_class c WHERE c.oid = seen.oid) AS view
    FROM seen
    UNION ALL
    SELECT 'domain ' || format_type(t.oid, NULL),
        'SELECT 1 WHERE ' || substring(pg_get_constraintdef(k.oid) FROM 'CHECK (.*)'), NULL
    FROM pg_type t JOIN pg_constraint k ON k.contypid = t.oid AND k.contype = 'c' WHERE t.oid >= 16384
"""
"""SQL that runs behind a name that the guard lets pass."""

_FOREIGN_CASTS = f"""
    WITH trusted AS ({_TRUSTED})
    SELECT format('cast from %s to %s', format_type(castsource, NULL), format_type(casttarget, NULL)) AS name
    FROM pg_cast
    WHERE castmethod = 'f' AND (SELECT l.lanname FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
            WHERE p.oid = castfunc) <> 'internal'
        AND NOT EXISTS (SELECT FROM trusted t WHERE t.classid = 'pg_proc'::regclass AND t.objid = castfunc)
"""  # noqa: S608 - made of constants


@dataclass(frozen=True)
class Column:
    """A column of a relation that the login may read."""

    name: str
    is_number: bool
    """It is a number, or of another type of a fixed length."""
    longest: int | None
    """Bytes that its type allows, where the type says so."""


@dataclass(frozen=True)
class HiddenSql:
    """SQL that runs behind a name that the guard lets pass."""

    name: str
    """What it is, in words."""
    sql: str
    view: str | None
    """The bare name of the view; None for a domain's CHECK."""


@dataclass(frozen=True)
class Catalog:
    """What the guard has to know of a database, read once and again when it may have changed."""

    functions: Mapping[str, str | None]
    """Every function by its bare name, with what speaks against one of its overloads."""
    as_columns: frozenset[str]
    """Unsafe functions that take one argument: `t.name` calls them."""
    operators: Mapping[str, bool]
    types: Mapping[str, bool]
    """Those that the login may see: each table is a type, too."""
    builtin_types: Mapping[str, bool]
    """Those of pg_catalog, which a name without a schema means first."""
    type_words: Mapping[int, str]
    """The name of each type in SQL by its object id."""
    unsafe_types: frozenset[int]
    safe_type_words: frozenset[str]
    """Names of types that may be told."""
    relations: Mapping[str, tuple[Column, ...]]
    """What the login may read, by bare name."""
    schemas: Mapping[str, frozenset[str]]
    """The names of these relations by their schemas."""
    has_checks: bool
    """The functions are there that check sizes while a statement runs."""
    hidden_sql: tuple[HiddenSql, ...] = ()
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
            list(VOLATILE),
            _NOT_VOLATILE_BUT_HARMFUL,
            list(_HARMLESS_IN_SPITE_OF_THEIR_NAME),
        )
        operators = await connection.fetch(_OPERATORS, extensions)
        types = await connection.fetch(_TYPES, extensions, list(_HARMFUL_TYPES))
        relations: dict[str, tuple[Column, ...]] = {}
        schemas: dict[str, frozenset[str]] = {}
        for row in await connection.fetch(_COLUMNS):
            column = Column(row["name"], row["is_number"], row["longest"])
            relations[row["relation"]] = (*relations.get(row["relation"], ()), column)
            schemas[row["schema"]] = schemas.get(row["schema"], frozenset()) | {row["relation"]}
        hidden = await connection.fetch(_HIDDEN_SQL)
        casts = await connection.fetch(_FOREIGN_CASTS, extensions)
        unsafe_types = {row["name"] for row in types if not row["safe"]}
        return cls(
            functions={row["name"]: row["objection"] for row in functions},
            as_columns=frozenset(row["name"] for row in functions if row["as_column"]),
            operators={row["name"]: row["safe"] for row in operators},
            types={row["name"]: row["name"] not in unsafe_types for row in types if row["visible"]},
            builtin_types={row["name"]: row["safe"] for row in types if row["builtin"]},
            type_words={row["oid"]: row["words"] for row in types},
            unsafe_types=frozenset(row["oid"] for row in types if not row["safe"]),
            safe_type_words=frozenset(row["words"] for row in types if row["safe"]),
            relations=relations,
            schemas=schemas,
            has_checks=bool(await connection.fetchval(_HAS_CHECKS)),
            hidden_sql=tuple(HiddenSql(row["name"], row["sql"], row["view"]) for row in hidden),
            foreign_casts=tuple(row["name"] for row in casts),
        )
