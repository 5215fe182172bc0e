"""What `query_database` gives statements in place of PostgreSQL's own, in a schema of its own.

The functions check sizes while a statement runs, where they can't be known before, and are interrupted between two
calls. `app/services/postgres/sql/checks.py` writes them into statements; no caller may name them.

Revision ID: 0004
Revises: 0003
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# In memory an array or JSON takes up to eight times what its text does.
BOUNDED = """
    CREATE FUNCTION switchboard_sql.bounded(value anyelement, bytes integer) RETURNS anyelement
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE COST 10 AS $$
    BEGIN
        -- What stands in memory has its size, so that nothing huge is written as text to be measured.
        IF pg_catalog.pg_column_size(value) > bytes THEN
            RAISE EXCEPTION USING ERRCODE = 'SB001', MESSAGE = bytes::pg_catalog.text;
        END IF;
        IF pg_catalog.octet_length(value::pg_catalog.text) > bytes / (CASE
            WHEN pg_catalog.pg_typeof(value)::pg_catalog.text IN ('text', 'character varying', 'character', 'citext')
            THEN 1 ELSE 8 END)
        THEN
            RAISE EXCEPTION USING ERRCODE = 'SB001', MESSAGE = bytes::pg_catalog.text;
        END IF;
        RETURN value;
    END $$
"""

GROWN = """
    CREATE FUNCTION switchboard_sql.bounded_{name}({arguments}) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE COST 10 AS $$
    BEGIN
        IF {size} > 16777216 THEN
            RAISE EXCEPTION USING ERRCODE = 'SB002', MESSAGE = '{name}';
        END IF;
        RETURN pg_catalog.{name}({names});
    END $$
"""

SCHEMATA = """
    CREATE VIEW switchboard_sql.schemata AS
    SELECT catalog_name, schema_name, CAST(NULL AS information_schema.sql_identifier) AS schema_owner,
        default_character_set_catalog, default_character_set_schema, default_character_set_name, sql_path
    FROM information_schema.schemata
"""


def upgrade() -> None:
    op.execute("CREATE SCHEMA switchboard_sql")
    op.execute(BOUNDED)
    repeated = "pg_catalog.octet_length(value)::bigint * times"
    op.execute(GROWN.format(name="repeat", arguments="value text, times integer", size=repeated, names="value, times"))
    for name in ("lpad", "rpad"):
        for more, names in (("", "value, length"), (", filling text", "value, length, filling")):
            arguments = f"value text, length integer{more}"
            op.execute(GROWN.format(name=name, arguments=arguments, size="length::bigint * 4", names=names))
    op.execute(SCHEMATA)
    op.execute("GRANT USAGE ON SCHEMA switchboard_sql TO switchboard_reader")
    op.execute("GRANT SELECT ON switchboard_sql.schemata TO switchboard_reader")


def downgrade() -> None:
    op.execute("DROP SCHEMA switchboard_sql CASCADE")
