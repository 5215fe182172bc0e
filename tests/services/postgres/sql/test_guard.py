"""Statements that must not run, statements that must, and what the guard costs."""

import subprocess
import sys
import time
from collections.abc import AsyncGenerator

import asyncpg
import pytest

from app.errors import BackendUnavailable, Forbidden, InvalidArguments
from app.local.postgres import LocalPostgres
from app.services.postgres.sql.bounds import Argument
from app.services.postgres.sql.catalog import Catalog
from app.services.postgres.sql.guard import MAX_BYTES, SqlGuard
from tests.fixtures.postgres import TestDatabase, cloned_database

_OBJECTS_OF_OTHERS = """
    CREATE EXTENSION IF NOT EXISTS dblink;
    CREATE EXTENSION IF NOT EXISTS tablefunc;
    CREATE EXTENSION IF NOT EXISTS pg_trgm;
    CREATE EXTENSION IF NOT EXISTS unaccent;
    CREATE EXTENSION IF NOT EXISTS vector;
    CREATE SCHEMA other;
    GRANT USAGE ON SCHEMA other TO switchboard_reader;
    CREATE FUNCTION wipe() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'DELETE FROM customers; SELECT 1';
    CREATE FUNCTION full_name(customers) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1.name';
    CREATE FUNCTION other.initcap(varchar) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1::text';
    CREATE FUNCTION other.equal(point, text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true';
    CREATE OPERATOR other.=% (LEFTARG = point, RIGHTARG = text, FUNCTION = other.equal);
    CREATE TYPE other.mood AS ENUM ('calm', 'angry');
    CREATE TYPE other.pair AS (a int, b int);
    CREATE TABLE other.readings (value int);
    CREATE VIEW other.hidden AS SELECT 1 AS a WHERE pg_sleep(1) IS NULL;
"""


@pytest.fixture(scope="session")
async def guard(postgres_server: LocalPostgres, postgres_template: str) -> AsyncGenerator[SqlGuard]:
    """A guard over a database in which others have left functions, operators and types."""
    async with cloned_database(postgres_server, postgres_template) as database:
        async with database.connect() as administrator:
            await administrator.execute(_OBJECTS_OF_OTHERS)
        reader = await asyncpg.connect(database.reader_url)
        try:
            yield SqlGuard(await Catalog.load(reader))
        finally:
            await reader.close()


REFUSED = {
    # what the refusal names: statements
    "a query of 2 statements": [
        "SELECT 1; DROP TABLE customers",
        "SELECT 1; SELECT 2",
        "SELECT ';' ; DELETE FROM customers --",
        "SELECT $$;$$; SELECT 2",
        "SELECT 1 /* ; */ ; COMMIT",
    ],
    "INSERT": [
        "INSERT INTO customers (id) VALUES ('1')",
        "WITH added AS (INSERT INTO customers (id) VALUES ('1') RETURNING id) SELECT * FROM added",
        "SELECT * FROM (WITH a AS (INSERT INTO customers (id) VALUES ('1') RETURNING 1) SELECT * FROM a) b",
        "EXPLAIN ANALYZE INSERT INTO customers (id) VALUES ('1')",
    ],
    "UPDATE": [
        "UPDATE customers SET name = ''",
        "WITH a AS (UPDATE customers SET name = '' RETURNING *) SELECT count(*) FROM a",
        "WITH a AS (WITH b AS (UPDATE customers SET name = '' RETURNING 1) SELECT 1) SELECT * FROM a",
        "EXPLAIN (ANALYZE, VERBOSE) UPDATE customers SET name = ''",
    ],
    "DELETE": [
        "DELETE FROM customers",
        "WITH gone AS (DELETE FROM customers RETURNING *) SELECT * FROM gone",
        "EXPLAIN ANALYZE DELETE FROM customers",
        "EXPLAIN DELETE FROM customers",
        "SELECT 1 WHERE EXISTS (WITH a AS (DELETE FROM customers RETURNING 1) SELECT 1 FROM a)",
    ],
    "MERGE": [
        "MERGE INTO customers c USING tickets t ON c.id = t.customer_id WHEN MATCHED THEN DELETE",
        (
            "WITH m AS (MERGE INTO customers c USING tickets t ON c.id = t.customer_id WHEN MATCHED THEN DELETE "
            "RETURNING 1) SELECT * FROM m"
        ),
    ],
    "SELECT INTO": [
        "SELECT * INTO copy FROM customers",
        "SELECT * INTO TEMP copy FROM customers",
        "EXPLAIN ANALYZE SELECT * INTO copy FROM customers",
        "SELECT 1 INTO copy UNION SELECT 2",
    ],
    "FOR UPDATE and FOR SHARE": [
        "SELECT * FROM customers FOR UPDATE",
        "SELECT * FROM customers FOR NO KEY UPDATE SKIP LOCKED",
        "SELECT * FROM customers FOR SHARE",
        "SELECT * FROM customers FOR KEY SHARE",
        "SELECT * FROM (SELECT * FROM customers FOR UPDATE) c",
        "WITH c AS (SELECT * FROM customers FOR UPDATE) SELECT * FROM c",
    ],
    "COPY": [
        "COPY customers TO STDOUT",
        "COPY customers FROM STDIN",
        "COPY (SELECT 1) TO PROGRAM 'id'",
        "COPY customers TO '/tmp/out'",
    ],
    "DO": ["DO $$ BEGIN PERFORM pg_sleep(1); END $$"],
    "CALL": ["CALL other.wipe()"],
    "SET": ["SET statement_timeout = 0", "SET ROLE postgres", "SET SESSION AUTHORIZATION postgres", "RESET ALL"],
    "SHOW": ["SHOW server_version"],
    "LISTEN": ["LISTEN tickets"],
    "NOTIFY": ["NOTIFY tickets"],
    "transaction control": ["COMMIT", "ROLLBACK", "BEGIN READ WRITE", "SAVEPOINT a", "PREPARE TRANSACTION 'a'"],
    "PREPARE": ["PREPARE p AS SELECT 1"],
    "EXECUTE": ["EXECUTE p", "EXPLAIN ANALYZE EXECUTE p"],
    "DEALLOCATE": ["DEALLOCATE ALL"],
    "DISCARD": ["DISCARD ALL"],
    "LOCK": ["LOCK TABLE customers"],
    "TRUNCATE": ["TRUNCATE customers"],
    "DROP": ["DROP TABLE customers"],
    "GRANT": ["GRANT ALL ON customers TO PUBLIC"],
    "VACUUM": ["VACUUM customers", "ANALYZE customers"],
    "REFRESH MAT VIEW": ["REFRESH MATERIALIZED VIEW m"],
    "CREATE TABLE": ["CREATE TABLE t (a int)", "CREATE TEMP TABLE t (a int)"],
    "CREATE TABLE AS": ["CREATE TABLE t AS SELECT 1", "EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1"],
    "CREATE FUNCTION": ["CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'"],
    "DECLARE CURSOR": ["DECLARE c CURSOR FOR SELECT 1"],
    "FETCH": ["FETCH ALL FROM c"],
    "LOAD": ["LOAD 'auto_explain'"],
    "function setval": ["SELECT setval('tickets_id_seq', 1)"],
    "function nextval": ["SELECT nextval('tickets_id_seq')"],
    "function pg_read_file": [
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_catalog.pg_read_file('/etc/passwd')",
        "SELECT PG_READ_FILE('/etc/passwd')",
        "SELECT \"pg_read_file\"('/etc/passwd')",
        "SELECT U&\"pg\\005Fread_file\"('/etc/passwd')",
        "SELECT U&\"pg!005Fread!005Ffile\" UESCAPE '!' ('/etc/passwd')",
        "SELECT pg_read_file/**/($$/etc/passwd$$)",
        "SELECT pg_read_file\n-- (\n('/etc/passwd')",
        "SELECT * FROM pg_read_file('/etc/passwd')",
        "SELECT * FROM ROWS FROM (generate_series(1, 2), pg_read_file('/etc/passwd')) AS f",
        "SELECT 'a\\'||pg_read_file('/etc/passwd')--'",
        "SELECT E'a\\'' || pg_read_file('/etc/passwd')",
        "SELECT json_object('a': pg_read_file('/etc/passwd'))",
        "SELECT JSON_VALUE('{}', '$.a' DEFAULT pg_read_file('/etc/passwd') ON EMPTY)",
        "SELECT xmlelement(name a, pg_read_file('/etc/passwd'))",
        "SELECT * FROM JSON_TABLE(pg_read_file('/a')::jsonb, '$' COLUMNS (a int PATH '$'))",
        "EXPLAIN (ANALYZE) SELECT pg_read_file('/etc/passwd')",
    ],
    "XMLTABLE": ["SELECT * FROM XMLTABLE('/a' PASSING '<a/>' COLUMNS a text)"],
    "function xpath": ["SELECT xpath('//*[count(//*[count(//*) > 1]) > 1]', '<a/>')"],
    "function pg_ls_dir": ["SELECT pg_ls_dir('.')"],
    "function pg_stat_file": ["SELECT pg_stat_file('PG_VERSION')"],
    "function lo_import": ["SELECT lo_import('/etc/passwd')"],
    "function lo_export": ["SELECT lo_export(1, '/tmp/x')"],
    "function lo_get": ["SELECT lo_get(1)"],
    "function lo_from_bytea": ["SELECT lo_from_bytea(0, 'x')"],
    "function dblink": [
        "SELECT * FROM dblink('dbname=postgres', 'DELETE FROM customers') AS t(a int)",
    ],
    "function public.dblink": ["SELECT * FROM public.dblink('dbname=postgres', 'SELECT 1') AS t(a int)"],
    "function dblink_exec": ["SELECT dblink_exec('dbname=postgres', 'DROP TABLE customers')"],
    "function pg_terminate_backend": ["SELECT pg_terminate_backend(1)"],
    "function pg_cancel_backend": ["SELECT pg_cancel_backend(1)"],
    "function pg_advisory_lock": ["SELECT pg_advisory_lock(1)"],
    "function pg_try_advisory_xact_lock": ["SELECT pg_try_advisory_xact_lock(1)"],
    "function pg_notify": ["SELECT pg_notify('a', 'b')"],
    "function pg_reload_conf": ["SELECT pg_reload_conf()"],
    "function pg_logical_emit_message": ["SELECT pg_logical_emit_message(false, 'a', 'b')"],
    "function pg_export_snapshot": ["SELECT pg_export_snapshot()"],
    "function pg_get_viewdef": ["SELECT pg_get_viewdef(1)"],
    "function pg_stat_get_activity": ["SELECT * FROM pg_stat_get_activity(NULL)"],
    "function pg_sleep": [
        "SELECT pg_sleep(10)",
        "SELECT 1 WHERE pg_sleep(10) IS NULL",
        "SELECT 1 ORDER BY pg_sleep(10)",
        "SELECT 1 LIMIT length(pg_sleep(10)::text)",
        "SELECT 1 OFFSET length(pg_sleep(10)::text)",
        "SELECT 1 FETCH FIRST (length(pg_sleep(10)::text)) ROWS ONLY",
        "SELECT count(*) FILTER (WHERE pg_sleep(10) IS NULL) FROM customers",
        "SELECT count(*) FROM customers GROUP BY pg_sleep(10)",
        "SELECT count(*) FROM customers GROUP BY GROUPING SETS ((id, pg_sleep(10)), ())",
        "SELECT count(*) FROM customers HAVING pg_sleep(10) IS NULL",
        "SELECT sum(1) OVER (ORDER BY pg_sleep(10)) FROM customers",
        "SELECT sum(1) OVER w FROM customers WINDOW w AS (PARTITION BY pg_sleep(10))",
        "SELECT sum(1) OVER (ROWS length(pg_sleep(1)::text) PRECEDING) FROM customers",
        "VALUES (pg_sleep(10))",
        "SELECT (SELECT pg_sleep(10))",
        "SELECT ARRAY(SELECT pg_sleep(10))",
        "SELECT ARRAY[pg_sleep(10)::text]",
        "SELECT (ARRAY[1])[length(pg_sleep(10)::text)]",
        "SELECT CASE WHEN true THEN pg_sleep(10) END",
        "SELECT CASE pg_sleep(10)::text WHEN '' THEN 1 END",
        "SELECT coalesce(pg_sleep(10)::text, '')",
        "SELECT * FROM customers c, LATERAL (SELECT pg_sleep(10)) s",
        "SELECT * FROM customers c JOIN tickets t ON pg_sleep(10) IS NULL",
        "SELECT * FROM customers TABLESAMPLE bernoulli (length(pg_sleep(10)::text))",
        "SELECT * FROM customers TABLESAMPLE bernoulli (1) REPEATABLE (length(pg_sleep(10)::text))",
        "SELECT 1 UNION SELECT length(pg_sleep(10)::text)",
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY length(pg_sleep(1)::text)) FROM customers",
        "SELECT string_agg('a', 'b' ORDER BY pg_sleep(10)) FROM customers",
        "SELECT DISTINCT ON (pg_sleep(10)) 1",
        "SELECT row(pg_sleep(10))",
        "SELECT make_interval(secs => length(pg_sleep(10)::text))",
        "SELECT concat(VARIADIC ARRAY[pg_sleep(10)::text])",
        "WITH RECURSIVE a AS (SELECT 1 UNION ALL SELECT length(pg_sleep(10)::text) FROM a) SELECT * FROM a",
        "TABLE customers ORDER BY pg_sleep(10)",
        "SELECT * FROM pg_sleep(10)",
        "SELECT 1 WHERE 1 = ANY (SELECT length(pg_sleep(10)::text))",
    ],
    "function set_config": ["SELECT set_config('role', 'postgres', false)"],
    "function current_setting": ["SELECT current_setting('data_directory')"],
    "function setseed": ["SELECT setseed(0.5)"],
    "function query_to_xml": [
        "SELECT query_to_xml('DELETE FROM customers RETURNING 1', true, true, '')",
        "SELECT * FROM query_to_xml('SELECT 1', true, true, '')",
    ],
    "function table_to_xml": ["SELECT table_to_xml('pg_authid', true, true, '')"],
    "function cursor_to_xml": ["SELECT cursor_to_xml('c', 1, true, true, '')"],
    "function database_to_xml": ["SELECT database_to_xml(true, true, '')"],
    "function schema_to_xml_and_xmlschema": ["SELECT schema_to_xml_and_xmlschema('pg_catalog', true, true, '')"],
    "function ts_stat": ["SELECT * FROM ts_stat('SELECT body FROM knowledge_articles')"],
    "function ts_rewrite": ["SELECT ts_rewrite('a'::tsquery, 'SELECT 1')"],
    "function crosstab": ["SELECT * FROM crosstab('SELECT 1, 2, 3') AS t(a int, b int)"],
    "function connectby": ["SELECT * FROM connectby('customers', 'id', 'name', '1', 0) AS t(a text, b text, c int)"],
    "function txid_current": ["SELECT txid_current()"],
    "function pg_current_xact_id": ["SELECT pg_current_xact_id()"],
    "function has_table_privilege": ["SELECT has_table_privilege('customers', 'SELECT')"],
    "function inet_server_addr": ["SELECT inet_server_addr()"],
    "function to_regclass": ["SELECT to_regclass('pg_authid')"],
    "function regclass": ["SELECT regclass('pg_authid')"],
    "function row_security_active": ["SELECT row_security_active('customers')"],
    "function shobj_description": ["SELECT shobj_description(1, 'pg_database')"],
    "function wipe": ["SELECT wipe()", "SELECT * FROM wipe()"],
    "function public.wipe": ["SELECT public.wipe()"],
    "function full_name": ["SELECT full_name(c) FROM customers c"],
    "function initcap": ["SELECT initcap('a'::varchar)"],
    "function other.initcap": ["SELECT other.initcap('a')"],
    "function other.equal": ["SELECT other.equal(point '(1,2)', 'a')"],
    "the name pg_sleep": [
        "SELECT t.pg_sleep FROM abs(2::float8) t",
        "SELECT (t).pg_sleep FROM abs(2::float8) t",
        "SELECT ((t)).pg_sleep FROM abs(2::float8) AS t",
        "SELECT (SELECT t.pg_sleep) FROM abs(2::float8) t",
        "SELECT 1 FROM abs(2::float8) t ORDER BY t.pg_sleep",
        "SELECT (abs(2::float8)).pg_sleep",
        "SELECT ((ARRAY[2::float8])[1]).pg_sleep",
        'SELECT t."pg_sleep" FROM abs(2::float8) t',
    ],
    "the name pg_read_file": [
        "SELECT t.pg_read_file FROM lower('/etc/passwd') t",
        "SELECT (t.t).pg_read_file FROM lower('/etc/passwd') t",
        "SELECT ('/etc/passwd'::text).pg_read_file",
        "SELECT ($1::text).pg_read_file",
    ],
    "the name full_name": ["SELECT c.full_name FROM customers c", "SELECT (c).full_name FROM customers c"],
    "operator =%": [
        "SELECT point '(1,2)' OPERATOR(other.=%) 'a'",
        "SELECT 1 WHERE point '(1,2)' OPERATOR(other.=%) ANY (SELECT 'a')",
    ],
    "type regclass": [
        "SELECT 'pg_authid'::regclass",
        "SELECT CAST('pg_authid' AS pg_catalog.regclass)",
        "SELECT regclass 'pg_authid'",
        "SELECT ARRAY['pg_authid']::regclass[]",
        "SELECT * FROM json_to_record('{}') AS t(a regclass)",
        "SELECT * FROM JSON_TABLE('[]'::jsonb, '$' COLUMNS (a regclass PATH '$'))",
        "SELECT JSON_VALUE('{}', '$.a' RETURNING regclass)",
        "SELECT xmlserialize(content '<a/>' AS regclass)",
    ],
    "type regproc": ["SELECT 'pg_sleep'::regproc"],
    "type regrole": ["SELECT 10::oid::regrole"],
    "type other.pair": ["SELECT '(1,2)'::other.pair"],
    "type customers": ["SELECT jsonb_populate_record(NULL::customers, '{}')"],
    "relation pg_authid": [
        "TABLE pg_authid",
        "SELECT * FROM pg_authid",
        "SELECT 1 WHERE EXISTS (SELECT FROM pg_authid)",
        'SELECT * FROM "pg_authid"',
        'SELECT * FROM U&"pg\\005Fauthid"',
    ],
    "relation pg_catalog.pg_authid": ["SELECT * FROM pg_catalog.pg_authid", "TABLE ONLY pg_catalog.pg_authid"],
    "relation pg_shadow": ["SELECT passwd FROM pg_shadow"],
    "relation pg_user_mappings": ["SELECT * FROM pg_user_mappings"],
    "relation pg_stat_activity": ["SELECT query FROM pg_stat_activity", "SELECT * FROM customers, pg_stat_activity"],
    "relation pg_stat_statements": ["SELECT * FROM pg_stat_statements"],
    "relation public.pg_stat_statements": ["SELECT * FROM public.pg_stat_statements"],
    "relation pg_settings": ["SELECT * FROM pg_settings"],
    "relation pg_toast.pg_toast_1": ["SELECT * FROM pg_toast.pg_toast_1"],
    "relation information_schema.user_mapping_options": ["SELECT * FROM information_schema.user_mapping_options"],
    "relation postgres.public.customers": ["SELECT * FROM postgres.public.customers"],
    "sample method system_rows": ["SELECT * FROM customers TABLESAMPLE system_rows (1)"],
}

UNREADABLE = {
    "syntax error": ["SELEC 1", "SELECT FROM WHERE", "SELECT (1", "\\dt", "SELECT ?"],
    "unterminated": ["SELECT 'a", "SELECT $$a", 'SELECT "a', "SELECT /* a"],
    "holds no statement": ["", " ", ";", "-- nothing", "/* nothing */"],
    "NUL": ["SELECT 1\0", "SELECT 'a\0b'"],
    "surrogate": ["SELECT '\ud800'"],
    "does not exist": ["SELECT lenght('a')", "SELECT 1 <=>? 2", "SELECT 'a'::strnig"],
    "longer than": [
        "SELECT 1" + " + 1" * 200_000,
        "SELECT 1" + "-1" * 65_000,
        "SELECT '" + "x" * MAX_BYTES + "'",
        "SELECT '" + "é" * (MAX_BYTES // 2) + "'",
    ],
    "words and signs": ["SELECT " + "1," * 16_000 + "1", "SELECT 1;" * 3_000],
    "too deep": [
        "SELECT 1" + "-1" * 3_900,
        "SELECT 1" + "-1" * 400,
        "SELECT " + "(1," * 1_500 + "1" + ")" * 1_500,
        "SELECT " + "ARRAY[" * 2_000 + "1" + "]" * 2_000,
        "SELECT " + "CASE WHEN " * 1_200 + "true" + " THEN 1 END" * 1_200,
        "SELECT " + "NOT " * 6_000 + "true",
        "SELECT " + "abs(" * 2_000 + "1" + ")" * 2_000,
        "SELECT " * 1 + "(SELECT " * 2_000 + "1" + ")" * 2_000,
        "SELECT 1" + " UNION SELECT 1" * 1_500,
        "SELECT FROM a" + " CROSS JOIN a" * 1_500,
        "SELECT 1" + "::int" * 2_500,
    ],
    "comments": ["/*" * 16_000, "SELECT 1" + "/**/" * 8_000, "SELECT " + "+" * 32_000 + "1"],
}

PASSING = [
    "SELECT 1",
    "SELECT 1;",
    "TABLE customers",
    "VALUES (1, 'a'), (2, 'b')",
    "SELECT * FROM customers WHERE name ILIKE '%' || $1 || '%' ESCAPE '!'",
    "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY satisfaction) FROM interactions",
    "SELECT mode() WITHIN GROUP (ORDER BY channel), every(true), any_value(id) FROM interactions",
    (
        "SELECT avg(satisfaction) OVER (PARTITION BY channel ORDER BY id ROWS BETWEEN 6 PRECEDING AND CURRENT ROW)"
        " FROM interactions"
    ),
    "SELECT sum(1) OVER w FROM tickets WINDOW w AS (ORDER BY created_at RANGE '1 day' PRECEDING EXCLUDE TIES)",
    "SELECT row_number() OVER (), lag(id) OVER (ORDER BY id), first_value(id) OVER (ORDER BY id) FROM tickets",
    "SELECT count(*) FILTER (WHERE status = 'open') FROM tickets",
    "SELECT status, count(*), grouping(status) FROM tickets GROUP BY GROUPING SETS ((status), (priority), ())",
    "SELECT status, count(*) FROM tickets GROUP BY ROLLUP (status), CUBE (priority) HAVING count(*) > 1",
    "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 9) SELECT * FROM n",
    (
        "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 9) "
        "SEARCH DEPTH FIRST BY i SET o CYCLE i SET c USING p SELECT * FROM n"
    ),
    "WITH a AS MATERIALIZED (SELECT 1) SELECT * FROM a",
    "SELECT * FROM customers c, LATERAL (SELECT * FROM tickets t WHERE t.customer_id = c.id LIMIT 3) t",
    "SELECT * FROM customers c LEFT JOIN tickets t USING (id) NATURAL JOIN interactions FULL JOIN tickets u ON true",
    "SELECT * FROM knowledge_articles WHERE to_tsvector('english', body) @@ websearch_to_tsquery('english', $1)",
    "SELECT ts_rank_cd(to_tsvector(body), q), ts_headline(body, q) FROM knowledge_articles, plainto_tsquery('a') q",
    "SELECT to_tsvector('english'::regconfig, 'a') || to_tsvector('b'), 'a & b'::tsquery && !!'c'::tsquery",
    (
        "SELECT metadata -> 'a' ->> 'b', metadata #>> '{a,b}', metadata @> '{}', metadata ? 'a', metadata ?| '{a}', "
        "metadata - 'a', metadata #- '{a}', metadata @? '$.a', metadata @@ '$.a > 1' FROM customers"
    ),
    "SELECT jsonb_path_query(metadata, '$.**'), jsonb_each(metadata), jsonb_array_elements('[]') FROM customers",
    "SELECT (metadata['a'])['b'] FROM customers",
    "SELECT JSON_VALUE(metadata, '$.a' RETURNING int DEFAULT 0 ON EMPTY), JSON_EXISTS(metadata, '$.a') FROM customers",
    "SELECT * FROM JSON_TABLE('[]'::jsonb, '$[*]' COLUMNS (n FOR ORDINALITY, NESTED '$.b' COLUMNS (c int)))",
    "SELECT json_object('a': 1), json_array(1), json_objectagg(id: id), json_arrayagg(id), '' IS JSON FROM customers",
    "SELECT jsonb_build_object('a', 1), to_jsonb(c), row_to_json(c), jsonb_agg(c) FROM customers c GROUP BY c.id",
    "SELECT * FROM jsonb_to_recordset('[]') AS t(a int, b text)",
    "SELECT * FROM generate_series(now() - interval '1 day', now(), '1 hour') AS hour",
    "SELECT date_trunc('month', created_at), extract(epoch FROM now() - created_at), age(created_at) FROM tickets",
    "SELECT created_at AT TIME ZONE 'Europe/Berlin', created_at + interval '1 month', current_date - 7 FROM tickets",
    "SELECT to_char(now(), 'YYYY-MM'), make_date(2026, 1, 1), date_bin('5 min', now(), now()), now()::date",
    "SELECT (now(), now()) OVERLAPS (now(), now()), CURRENT_TIMESTAMP, LOCALTIME, clock_timestamp()",
    "SELECT * FROM unnest(ARRAY[1, 2], ARRAY['a', 'b']) WITH ORDINALITY AS t(a, b, n)",
    "SELECT * FROM ROWS FROM (generate_series(1, 2), unnest(ARRAY[1])) WITH ORDINALITY",
    "SELECT 'a' ~ '^a', 'a' ~* 'A', 'a' !~ 'b', regexp_replace('a', 'a', 'b', 'g'), 'a' SIMILAR TO 'a%'",
    "SELECT regexp_matches(name, '(a)(b)'), regexp_split_to_table(name, ',') FROM customers",
    "SELECT substring('abc' FROM 1 FOR 2), trim(BOTH FROM 'a'), position('a' IN 'b'), overlay('a' PLACING '' FROM 1)",
    "SELECT upper(name), format('%s', name), string_agg(name, ', ' ORDER BY id) FROM customers GROUP BY 1, 2",
    "SELECT CASE status WHEN 'open' THEN 1 ELSE 0 END, coalesce(a, b), nullif(1, 2), greatest(1, 2) FROM tickets",
    "SELECT * FROM tickets WHERE (customer_id, id) IN (SELECT customer_id, id FROM tickets) AND id <> ALL ($1)",
    "SELECT * FROM tickets WHERE id BETWEEN SYMMETRIC 1 AND 2 AND id NOT BETWEEN 3 AND 4 AND id IS DISTINCT FROM 5",
    "SELECT DISTINCT ON (customer_id) * FROM tickets ORDER BY customer_id, created_at DESC NULLS LAST OFFSET 1 LIMIT 5",
    "SELECT 1 UNION ALL SELECT 2 INTERSECT SELECT 3 EXCEPT SELECT 4 ORDER BY 1 FETCH FIRST 2 ROWS WITH TIES",
    "SELECT ARRAY[1, 2] || 3, (ARRAY[1, 2])[1:2], ARRAY(SELECT 1), 1 = ANY (ARRAY[1]), cardinality(ARRAY[1])",
    "SELECT '[1,5)'::int4range @> 3, lower('[1,5)'::int4range), '2026-01-01'::date <@ daterange(NULL, NULL)",
    "SELECT similarity(name, 'a'), name % 'a', name <-> 'a', word_similarity('a', name), unaccent(name) FROM customers",
    "SELECT '[1,2]'::vector <=> '[1,3]'::vector, l2_distance('[1]'::vector, '[2]'::vector)",
    "SELECT 'calm'::other.mood, 1::numeric(10, 2), '1'::text COLLATE \"C\", CAST('1' AS double precision)",
    "SELECT random(), gen_random_uuid(), pg_typeof(1), pg_size_pretty(1.0), pg_column_size(1), pg_collation_for('a')",
    "SELECT current_user, session_user, current_database(), current_schema()",
    "SELECT * FROM tickets TABLESAMPLE bernoulli (10) REPEATABLE (1)",
    "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = 'public'",
    "SELECT t.subject, (t).subject, t.*, (c.metadata).a FROM tickets t, customers c",
    "SELECT ';' || 'DROP TABLE customers; --' || $$DELETE$$ || E'\\'' /* ; */",
    'SELECT count(*) AS "update", \'x\' AS "delete" FROM customers',
    (
        "SELECT corr(a, b), stddev(a), width_bucket(a, 0, 10, 5), round(a, 2), ln(2), 2 ^ 3, |/ 4, 5 % 2, 1 << 2"
        " FROM (VALUES (1, 2)) t(a, b)"
    ),
    "SELECT xmlelement(name a, 'b')",
    "EXPLAIN SELECT * FROM customers",
    "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM customers",
    "EXPLAIN ANALYZE VERBOSE WITH a AS (SELECT 1) SELECT * FROM a",
    "SELECT 1" + " + 1" * 150,
    "SELECT * FROM tickets WHERE " + " OR ".join(f"id = {n}" for n in range(1000)),
    "SELECT * FROM tickets WHERE id IN (" + ", ".join(str(n) for n in range(3000)) + ")",
]


@pytest.mark.parametrize(("named", "sql"), [(name, sql) for name, statements in REFUSED.items() for sql in statements])
async def test_what_is_not_allowed_is_refused_by_name(guard: SqlGuard, named: str, sql: str) -> None:
    with pytest.raises(Forbidden) as refusal:
        guard.check(sql)
    assert refusal.value.detail.startswith((f"{named} is not allowed: ", f"{named} are not allowed: "))


@pytest.mark.parametrize(
    ("reason", "sql"),
    [(reason, sql) for reason, statements in UNREADABLE.items() for sql in statements],
    ids=lambda text: text[:30].encode(errors="replace").decode(),
)
async def test_what_cannot_be_read_is_invalid(guard: SqlGuard, reason: str, sql: str) -> None:
    with pytest.raises(InvalidArguments) as refusal:
        guard.check(sql)
    assert reason in refusal.value.detail
    assert [error.field for error in refusal.value.errors] == ["query"]


@pytest.mark.parametrize("sql", PASSING, ids=lambda sql: sql[:60])
async def test_what_analysts_write_passes(guard: SqlGuard, sql: str) -> None:
    assert guard.check(sql).sql.strip() == sql.rstrip("; ")


async def test_parameters_are_found_where_they_stand(guard: SqlGuard) -> None:
    statement = guard.check("SELECT 'é$1', \"$1\", $1 + $02, $$ $1 $$ /* $1 */ -- $1")
    written = statement.with_parameters({1: "<one>", 2: "<two>"})
    assert written == "SELECT 'é$1', \"$1\", <one> + <two>, $$ $1 $$ /* $1 */ -- $1"


async def test_a_refusal_takes_milliseconds_even_at_the_limits(guard: SqlGuard) -> None:
    hostile = [sql for statements in UNREADABLE.values() for sql in statements]
    started = time.process_time()
    for sql in hostile:
        with pytest.raises(InvalidArguments):
            guard.check(sql)
    assert (time.process_time() - started) / len(hostile) < 0.05


@pytest.mark.parametrize(
    "sql",
    [
        "'SELECT 1' + '-1' * 16000",
        "'SELECT ' + '(' * 16000 + '1' + ')' * 16000",
        "'SELECT ' + 'CASE WHEN ' * 1400 + 'true' + ' THEN 1 END' * 1400",
        "'SELECT ' + 'NOT ' * 8000 + 'true'",
        "'SELECT ' + 'ARRAY[' * 4500 + '1' + ']' * 4500",
        "'SELECT FROM ' + '(' * 2000 + 'a' + ' CROSS JOIN a)' * 2000",
        "'EXPLAIN ' * 4000 + 'SELECT 1'",
        "'WITH a AS (' * 2900 + 'SELECT 1' + ')' * 2900",
    ],
)
def test_the_parser_survives_whatever_the_size_limit_lets_through(sql: str) -> None:
    program = f"""
import pgparse
try:
    pgparse.parse(({sql})[:{MAX_BYTES}])
except (pgparse.PGQueryError, RecursionError):
    pass
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr


async def _guard_after(database: TestDatabase, *statements: str) -> SqlGuard:
    async with database.connect() as administrator:
        for statement in statements:
            await administrator.execute(statement)
    reader = await asyncpg.connect(database.reader_url)
    try:
        return SqlGuard(await Catalog.load(reader))
    finally:
        await reader.close()


HIDDEN = {
    "view sleepy": [
        "CREATE VIEW sleepy AS SELECT 1 AS a WHERE pg_sleep(1) IS NULL",
        "GRANT SELECT ON sleepy TO switchboard_reader",
    ],
    "view inner_view": [
        "CREATE VIEW inner_view AS SELECT pg_read_file('/etc/passwd') AS a",
        "CREATE VIEW outer_view AS SELECT * FROM inner_view",
        "GRANT SELECT ON outer_view TO switchboard_reader",
    ],
    "domain checked": [
        "CREATE FUNCTION is_fine(int) RETURNS bool LANGUAGE sql AS 'SELECT true'",
        "CREATE DOMAIN checked AS int CHECK (is_fine(VALUE))",
    ],
    "cast from text to point": [
        "CREATE FUNCTION to_point(text) RETURNS point LANGUAGE sql AS 'SELECT point(1, 2)'",
        "CREATE CAST (text AS point) WITH FUNCTION to_point(text) AS IMPLICIT",
    ],
    "operator =": [
        "CREATE FUNCTION equal(point, text) RETURNS bool LANGUAGE sql AS 'SELECT true'",
        "CREATE OPERATOR = (LEFTARG = point, RIGHTARG = text, FUNCTION = equal)",
    ],
}


@pytest.mark.parametrize("named", HIDDEN)
async def test_sql_that_hides_behind_a_name_turns_the_tool_off(database: TestDatabase, named: str) -> None:
    guard = await _guard_after(database, *HIDDEN[named])
    with pytest.raises(BackendUnavailable, match=named):
        guard.check("SELECT 1")
    with pytest.raises(Forbidden):
        guard.check("DELETE FROM customers")


async def test_harmless_views_and_domains_are_let_through(database: TestDatabase) -> None:
    guard = await _guard_after(
        database,
        "CREATE VIEW open_tickets AS SELECT id, lower(subject) AS subject FROM tickets WHERE status = 'open'",
        "GRANT SELECT ON open_tickets TO switchboard_reader",
        "CREATE VIEW not_granted AS SELECT 1 AS a WHERE pg_sleep(1) IS NULL",
        "CREATE DOMAIN rating AS int CHECK (VALUE BETWEEN 1 AND 5)",
    )
    assert guard.check("SELECT subject, 3::rating FROM open_tickets").is_select


async def test_a_check_takes_far_less_than_a_round_trip(guard: SqlGuard) -> None:
    sql = (
        "SELECT c.id, c.name, count(t.id) FILTER (WHERE t.status = $1) AS open FROM customers c "
        "LEFT JOIN tickets t ON t.customer_id = c.id WHERE c.name ILIKE '%' || $2 || '%' "
        "GROUP BY c.id ORDER BY open DESC LIMIT 10"
    )
    started = time.process_time()
    for _ in range(100):
        guard.check(sql)
    assert (time.process_time() - started) / 100 < 0.002


ARRAYS_OF_NAMES = [
    *(
        "_regclass",
        "_regcollation",
        "_regnamespace",
        "_regoper",
        "_regoperator",
        "_regproc",
        "_regprocedure",
        "_regrole",
    ),
    *("_regtype", "_aclitem", "regrole[]", "aclitem[]"),
]


@pytest.mark.parametrize("name", ARRAYS_OF_NAMES)
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT unnest((SELECT array_agg(i::oid) FROM generate_series(1, 60000) i)::{})",
        "SELECT * FROM JSON_TABLE('[]'::jsonb, '$' COLUMNS (a {} PATH '$'))",
        "SELECT JSON_QUERY('[10]', '$' RETURNING {})",
        "SELECT $1::{}",
        "SELECT '10'::oidvector::{}",
        "SELECT * FROM jsonb_to_recordset('[]') AS t(a {})",
        "SELECT * FROM XMLTABLE('/a' PASSING '<a/>' COLUMNS a {})",
        "SELECT CAST(ARRAY[10] AS pg_catalog.{})",
    ],
)
async def test_an_array_is_judged_by_its_elements(guard: SqlGuard, sql: str, name: str) -> None:
    with pytest.raises(Forbidden, match="is not allowed"):
        guard.check(sql.format(name))


@pytest.mark.parametrize("name", ["regconfig", "regdictionary"])
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT i::{} FROM generate_series(3740, 3770) AS i",
        "SELECT i::text::{}::text FROM generate_series(3740, 3770) AS i",
        "SELECT '3748'::{}",
        "SELECT CAST(3748 AS pg_catalog.{})",
        "SELECT unnest(ARRAY[3748]::{}[])",
        "SELECT $1::_{}",
        "SELECT CASE WHEN i < 0 THEN 'simple'::{} ELSE i::oid END FROM generate_series(3740, 3770) AS i",
        "SELECT 'simple'::{} UNION ALL SELECT i::oid FROM generate_series(3740, 3770) AS i",
        "SELECT unnest(ARRAY['simple'::{}, 3748::oid])",
        "SELECT coalesce(NULLIF('simple'::{}, 'simple'), 3748::oid)",
        "VALUES ('simple'::{}), (3748::oid)",
        "SELECT array_append(ARRAY[]::oid[], 'simple'::{})",
        "SELECT a FROM (SELECT 'simple'::{} AS a) AS t",
        "SELECT * FROM JSON_TABLE('[3748]', '$[*]' COLUMNS (a {} PATH '$'))",
        "SELECT * FROM json_to_recordset('[]') AS t(a {})",
        "SELECT JSON_VALUE('3748', '$' RETURNING {})",
    ],
)
async def test_numbers_do_not_tell_what_text_search_is_configured_with(guard: SqlGuard, sql: str, name: str) -> None:
    with pytest.raises(Forbidden, match="is not allowed"):
        guard.check(sql.format(name))


async def test_text_search_takes_any_configuration(guard: SqlGuard) -> None:
    for sql in (
        "SELECT to_tsvector('english'::regconfig, body), to_tsquery($1::regconfig, 'a') FROM knowledge_articles",
        "SELECT ts_headline(CAST(left(title, 9) AS regconfig), body, 'a') FROM knowledge_articles",
        "SELECT ts_lexize('simple'::regdictionary, 'a'), 'english'::regconfig, 'english'::regconfig::text",
    ):
        guard.check(sql, [Argument(7)])
    for sql in ("SELECT get_current_ts_config()", "SELECT dictionaries FROM ts_debug('a')"):
        with pytest.raises(Forbidden, match="not known to this tool"):
            guard.check(sql)


async def test_a_domain_and_a_range_are_judged_by_what_they_are_made_of(database: TestDatabase) -> None:
    guard = await _guard_after(
        database,
        "CREATE DOMAIN role_name AS regrole",
        "CREATE DOMAIN role_names AS regrole[]",
        "CREATE TYPE oids AS RANGE (subtype = oid)",
        "CREATE TYPE mood AS ENUM ('calm')",
    )
    for name in (
        "role_name",
        "role_names",
        "_role_name",
        "role_name[]",
        "oids",
        "oids_multirange",
        "_mood",
        "_customers",
    ):
        allowed = name == "_mood"
        if allowed:
            assert guard.check(f"SELECT '{{}}'::{name}")
            continue
        with pytest.raises(Forbidden, match=name.removesuffix("[]")):
            guard.check(f"SELECT '10'::{name}")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT pg_input_is_valid('postgres', 'regrole')",
        "SELECT pg_input_is_valid('postgres', 'reg' || 'role')",
        "SELECT pg_input_is_valid('postgres', $1)",
        "SELECT pg_input_is_valid('1', 'int4) FROM pg_authid, (SELECT 1')",
        "SELECT makeaclitem(10, 10, 'SELECT', true)",
        "SELECT acldefault('r', 10)",
        "SELECT id::oid::regtype FROM tickets",
        "SELECT 'pg_authid'::regtype",
        "SELECT pg_typeof(1) = 'pg_authid'",
        "SELECT pg_typeof(1) UNION SELECT 'pg_authid'",
        "SELECT CASE WHEN true THEN pg_typeof(1) ELSE 'pg_authid' END",
        "SELECT t = 'pg_authid' FROM (SELECT pg_typeof(1) AS t) s",
        "SELECT format_type(2249, -1)",
        "SELECT version()",
        "SELECT oidvectortypes('10'::oidvector)",
        "SELECT numeric_mod(5, 3), textlike('a', 'b')",
    ],
)
async def test_what_tells_names_by_other_ways_is_refused(guard: SqlGuard, sql: str) -> None:
    with pytest.raises(Forbidden, match="not allowed"):
        guard.check(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT pg_typeof(id), pg_typeof(name)::text FROM customers",
        "SELECT pg_typeof(id)::text = 'text', 'integer'::regtype FROM customers",
        "SELECT pg_input_is_valid('x', 'numeric(10,2)'), pg_input_is_valid('x', 'timestamp with time zone')",
        "SELECT '{1,2}'::_int4, ARRAY['calm']::other.mood[], '{[1,2)}'::int4multirange, '{}'::daterange[]",
    ],
)
async def test_what_names_nothing_hidden_passes(guard: SqlGuard, sql: str) -> None:
    assert guard.check(sql)


async def test_no_plan_of_a_view_tells_what_is_behind_it(database: TestDatabase) -> None:
    guard = await _guard_after(
        database, "CREATE VIEW shown AS SELECT id FROM tickets", "GRANT SELECT ON shown TO switchboard_reader"
    )
    assert guard.check("SELECT * FROM shown")
    with pytest.raises(Forbidden, match="EXPLAIN of the view shown"):
        guard.check("EXPLAIN SELECT * FROM shown")
