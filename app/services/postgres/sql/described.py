"""Has PostgreSQL parse a caller's statement and tell its types, also those that the driver can't read.

Results come as text that PostgreSQL has written, so nothing is ever decoded by its type. The driver looks for a way to
decode each type all the same, and gives up on a row or range that holds a type of which it knows the text form only.
"""

import secrets
from typing import TYPE_CHECKING

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

if TYPE_CHECKING:
    from app.services.postgres.sql.sessions import Lent

_FIRST_OF_EXTENSIONS = 16384
_TYPES = f"""
SELECT n.nspname, t.typname
FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
WHERE t.typtype = 'b' AND t.typcategory <> 'A'
      AND (t.oid >= {_FIRST_OF_EXTENSIONS} OR n.nspname = 'pg_catalog' AND t.typname = ANY ($1::text[]))
"""  # noqa: S608 - our own number
_TEXT_IN_THE_DRIVER = (
    "aclitem", "gtsvector", "money", "pg_brin_bloom_summary", "pg_brin_minmax_multi_summary", "pg_dependencies",
    "pg_lsn", "pg_mcv_list", "pg_ndistinct", "pg_node_tree", "pg_snapshot", "txid_snapshot",
)  # fmt: skip
"""PostgreSQL's own types of which asyncpg knows the text form only."""


async def describe(connection: "Lent", sql: str) -> "PreparedStatement[asyncpg.Record]":
    """Prepare a statement alone; its attributes and parameters tell the types.

    Raises:
        asyncpg.PostgresError: PostgreSQL refuses it.
    """
    try:
        return await connection.prepare(sql, name="")
    except asyncpg.UnsupportedClientFeatureError:
        # Once a connection, since it remembers.
        for schema, name in await connection.fetch(_TYPES, list(_TEXT_IN_THE_DRIVER)):
            await connection.set_type_codec(name, schema=schema, encoder=bytes, decoder=bytes, format="binary")
        return await connection.prepare(sql, name="")


async def explain_generically(connection: "Lent", sql: str, *, as_json: bool) -> str:
    """Run `EXPLAIN (GENERIC_PLAN)` of a statement with `$n` in it; return the SQL that answers its rows.

    Over the protocol of prepared statements each `$n` wants a value, and PostgreSQL plans for that value. Within a
    function's EXECUTE there are no values at all, so the plan is the one for any.

    Args:
        connection: in a transaction, which keeps the plan until its end.
        sql: the EXPLAIN, which PostgreSQL has parsed alone already.
        as_json: whether its rows are JSON, not text.
    """
    tag = f"$sw{secrets.token_hex(8)}$"
    await connection.execute(f"""DO {tag}
        DECLARE line pg_catalog.record; plan pg_catalog.jsonb := '[]';
        BEGIN
            FOR line IN EXECUTE pg_catalog.convert_from('\\x{sql.encode().hex()}'::pg_catalog.bytea, 'UTF8') LOOP
                plan := plan || pg_catalog.jsonb_build_array(line."QUERY PLAN"::pg_catalog.text);
            END LOOP;
            PERFORM pg_catalog.set_config('switchboard.plan', plan::pg_catalog.text, true);
        END {tag}""")
    line = "(value #>> '{}')::pg_catalog.json" if as_json else "value #>> '{}'"
    return (
        f'SELECT {line} AS "QUERY PLAN"'  # noqa: S608 - our own words
        " FROM pg_catalog.jsonb_array_elements(pg_catalog.current_setting('switchboard.plan')::pg_catalog.jsonb)"
    )
