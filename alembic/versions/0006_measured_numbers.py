"""Measure what long numbers come to before they are written, and count the time zones that a statement makes up.

A numeric of ten bytes may be 147,000 characters of text, and PostgreSQL writes a whole array, document or multirange
of them in one go. It also keeps each time zone that it has ever read, 24 KB each.

Revision ID: 0006
Revises: 0005
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# Small values are written to be measured; of larger ones part after part, each freed before the next, so that a
# cancellation is heard in between. The fields of a record can't be had one after another.
TEXT_SIZE = """
    CREATE FUNCTION switchboard_sql.text_size(value anyelement, most bigint) RETURNS bigint
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE COST 10 AS $$
    DECLARE
        total bigint := pg_catalog.pg_column_size(value);
        part bigint;
        category "char";
        kind "char";
        base pg_catalog.oid;
    BEGIN
        IF total <= 4096 THEN
            RETURN pg_catalog.octet_length(value::pg_catalog.text);
        END IF;
        SELECT CASE WHEN typbasetype <> 0 THEN typbasetype ELSE oid END, typcategory, typtype INTO base, category, kind
        FROM pg_catalog.pg_type WHERE oid = pg_catalog.pg_typeof(value)::pg_catalog.oid;
        IF kind = 'c' OR base = 'pg_catalog.record'::pg_catalog.regtype THEN
            RAISE EXCEPTION USING ERRCODE = 'SB003', MESSAGE = 'record';
        ELSIF category = 'A' OR kind = 'm' THEN
            FOR part IN SELECT switchboard_sql.text_size(e, most) + 1 FROM pg_catalog.unnest(value) AS u(e) LOOP
                total := total + part;
                EXIT WHEN total > most;
            END LOOP;
        ELSIF base = 'pg_catalog.jsonb'::pg_catalog.regtype THEN
            FOR part IN
                SELECT pg_catalog.octet_length(number::pg_catalog.text)
                FROM pg_catalog.jsonb_path_query(value::pg_catalog.jsonb, 'strict $.** ? (@.type() == "number")')
                    AS u(number)
            LOOP
                total := total + part;
                EXIT WHEN total > most;
            END LOOP;
        ELSE
            RETURN pg_catalog.octet_length(value::pg_catalog.text);
        END IF;
        RETURN total;
    END $$
"""

# As `bounded`, in statements that may make long numbers.
BOUNDED_NUMBERS = """
    CREATE FUNCTION switchboard_sql.bounded_numbers(value anyelement, bytes integer) RETURNS anyelement
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE COST 10 AS $$
    DECLARE
        most bigint := bytes / (CASE
            WHEN pg_catalog.pg_typeof(value)::pg_catalog.text IN ('text', 'character varying', 'character', 'citext')
            THEN 1 ELSE 8 END);
    BEGIN
        IF pg_catalog.pg_column_size(value) > bytes OR switchboard_sql.text_size(value, most) > most THEN
            RAISE EXCEPTION USING ERRCODE = 'SB001', MESSAGE = bytes::pg_catalog.text;
        END IF;
        RETURN value;
    END $$
"""

# What is read as numbers or as JSON must not hold 1e131000: an array of them is a gigabyte as soon as it is written.
PLAIN_NUMBERS = """
    CREATE FUNCTION switchboard_sql.{name}(value anyelement) RETURNS anyelement
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE COST 10 AS $$
    DECLARE
        is_text boolean := (
            SELECT typcategory = 'S' OR typname = 'json' OR typname ~ '^_?(text|varchar|bpchar|citext|json)$'
            FROM pg_catalog.pg_type WHERE oid = pg_catalog.pg_typeof(value)::pg_catalog.oid
        );
    BEGIN
        IF is_text AND {text} ~* '[0-9.]e[-+]?0*([4-9][0-9]{{2}}|[0-9]{{4,}})(?![-A-Za-z0-9_])' THEN
            RAISE EXCEPTION USING ERRCODE = 'SB004', MESSAGE = 'exponent';
        END IF;
        RETURN value;
    END $$
"""
AS_IT_IS = "value::pg_catalog.text"
# What stands in quotes is no number of JSON.
WITHOUT_QUOTED = """pg_catalog.regexp_replace(value::pg_catalog.text, '"([^"\\\\]|\\\\.)*"', '""', 'g')"""

# A zone with a digit may be made up (`X1Y5`); others are PostgreSQL's own, or refused by it. What was seen is kept
# until the transaction ends.
FEW_ZONES = """
    CREATE FUNCTION switchboard_sql.{name}(value anyelement) RETURNS anyelement
    LANGUAGE plpgsql STABLE STRICT PARALLEL RESTRICTED COST 10 AS $$
    DECLARE
        zone pg_catalog.text;
        seen pg_catalog.text;
    BEGIN
        IF pg_catalog.pg_typeof(value)::pg_catalog.text ~ '^(timestamp|time|date|interval|integer|bigint|double)' THEN
            RETURN value;
        END IF;
        FOR zone IN
            SELECT pg_catalog.upper(word[1]) FROM pg_catalog.regexp_matches(
                value::pg_catalog.text, '([A-Za-z<][-+:/._<>A-Za-z0-9]*[0-9][-+:/._<>A-Za-z0-9]*)', 'g'
            ) AS m(word)
        LOOP
            CONTINUE WHEN zone ~ '{no_zone}';
            seen := coalesce(pg_catalog.current_setting('switchboard_sql.zones', true), '');
            IF pg_catalog.strpos(seen, ',' || zone || ',') = 0 THEN
                IF pg_catalog.length(seen) > 1000 THEN
                    RAISE EXCEPTION USING ERRCODE = 'SB005', MESSAGE = 'zones';
                END IF;
                PERFORM pg_catalog.set_config('switchboard_sql.zones', seen || ',' || zone || ',', true);
            END IF;
        END LOOP;
        RETURN value;
    END $$
"""
NEVER = "^$"
# The T and the J of a date, and months next to a day or a year.
OF_DATES = (
    "^(T[0-9:.]+(Z|[-+][0-9:]+)?|[JYMDW][0-9.]+|(JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)[A-Z]{0,6}[-/.0-9]+)$"
)


def upgrade() -> None:
    op.execute(TEXT_SIZE)
    op.execute(BOUNDED_NUMBERS)
    op.execute(PLAIN_NUMBERS.format(name="plain_numbers", text=AS_IT_IS))
    op.execute(PLAIN_NUMBERS.format(name="plain_json", text=WITHOUT_QUOTED))
    op.execute(FEW_ZONES.format(name="few_zones", no_zone=NEVER))
    op.execute(FEW_ZONES.format(name="few_zones_of_dates", no_zone=OF_DATES))


def downgrade() -> None:
    for name in ("few_zones_of_dates", "few_zones", "plain_json", "plain_numbers"):
        op.execute(f"DROP FUNCTION switchboard_sql.{name}(anyelement)")
    op.execute("DROP FUNCTION switchboard_sql.bounded_numbers(anyelement, integer)")
    op.execute("DROP FUNCTION switchboard_sql.text_size(anyelement, bigint)")
