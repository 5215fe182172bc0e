"""Count the rows of aggregates that sort them at their end, without a look at the time limit.

`jsonb_object_agg` and `range_agg` sort all that they were given in one go. Where `query_database` can't hand them
their rows in order, these functions let a limited number of rows through, in each transaction.

Revision ID: 0009
Revises: 0007
"""

from alembic import op

revision = "0009"
down_revision = "0007"
branch_labels = None
depends_on = None

COUNTED = """
    CREATE FUNCTION switchboard_sql.{name}(value {kind}) RETURNS {kind}
    LANGUAGE plpgsql STABLE STRICT PARALLEL RESTRICTED COST 10 AS $$
    DECLARE
        seen pg_catalog.text := pg_catalog.current_setting('switchboard_sql.rows', true);
        rows pg_catalog.int8 := coalesce(nullif(seen, ''), '0')::pg_catalog.int8 + {rows};
    BEGIN
        IF rows > {most} THEN
            RAISE EXCEPTION USING ERRCODE = 'SB006', MESSAGE = 'rows';
        END IF;
        PERFORM pg_catalog.set_config('switchboard_sql.rows', rows::pg_catalog.text, true);
        RETURN value;
    END $$
"""
ONE = "1"
EACH_RANGE = "(SELECT pg_catalog.count(*) FROM pg_catalog.unnest(value))"

# In a call that is given its rows in the order of ranges, a range is what it is; a multirange may hold any.
RANGES = """
    CREATE FUNCTION switchboard_sql.lone_ranges(value anyrange) RETURNS anyrange
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT value'
"""


def upgrade() -> None:
    op.execute(COUNTED.format(name="few_keys", kind="anyelement", rows=ONE, most=40_000))
    op.execute(COUNTED.format(name="few_ranges", kind="anyrange", rows=ONE, most=15_000))
    for name in ("few_ranges", "lone_ranges"):
        op.execute(COUNTED.format(name=name, kind="anymultirange", rows=EACH_RANGE, most=15_000))
    op.execute(RANGES)


def downgrade() -> None:
    op.execute("DROP FUNCTION switchboard_sql.few_keys(anyelement)")
    for name in ("few_ranges", "lone_ranges"):
        for kind in ("anyrange", "anymultirange"):
            op.execute(f"DROP FUNCTION switchboard_sql.{name}({kind})")
