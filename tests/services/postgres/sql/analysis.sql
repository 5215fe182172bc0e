-- Statements as analysts and models write them. Each stands under the first version of PostgreSQL that has what it
-- uses, and the values of its parameters.

-- 15 ["the"]
SELECT regexp_count(body, $1), regexp_instr(body, 'e'), regexp_like(title, '^[A-Z]'), regexp_substr(body, '\w+')
FROM knowledge_articles
LIMIT 5;

-- 15 []
SELECT date_trunc('week', created_at) AS week, count(*) FILTER (WHERE status = 'open') AS open, count(*) AS all_of_them
FROM tickets
GROUP BY 1
ORDER BY 1 DESC
LIMIT 12;

-- 15 []
WITH monthly AS (SELECT date_trunc('month', created_at) AS month, count(*) AS n
FROM tickets
GROUP BY 1), growth AS (SELECT month, n, lag(n) OVER (ORDER BY month) AS before
FROM monthly) SELECT to_char(month, 'YYYY-MM') AS month, n, round(100.0 * (n - before) / nullif(before, 0), 1) AS percent
FROM growth
ORDER BY month;

-- 15 []
SELECT c.id, c.name, string_agg(DISTINCT t.channel, ', '
ORDER BY t.channel) AS channels
FROM customers c
JOIN tickets t ON t.customer_id = c.id
GROUP BY c.id
HAVING count(DISTINCT t.channel) > 1
LIMIT 10;

-- 15 []
SELECT percentile_cont(ARRAY[0.5, 0.9, 0.99]) WITHIN GROUP (ORDER BY extract(epoch
FROM resolved_at - created_at))
FROM tickets
WHERE resolved_at IS NOT NULL;

-- 15 []
SELECT priority, avg(first_response_at - created_at) AS wait, justify_hours(max(first_response_at - created_at))
FROM tickets
GROUP BY priority
ORDER BY wait DESC NULLS LAST;

-- 15 []
SELECT t.id FROM tickets t WHERE NOT EXISTS (SELECT 1 FROM interactions i WHERE i.ticket_id = t.id) LIMIT 5;

-- 15 []
SELECT c.country, count(*) AS n, rank() OVER (ORDER BY count(*) DESC) AS place
FROM customers c
GROUP BY c.country
ORDER BY place
LIMIT 10;

-- 15 []
SELECT width_bucket(satisfaction, 1, 6, 5) AS bucket, count(*), repeat('█', (count(*) * 20 / sum(count(*)) OVER ())::int) AS bar
FROM interactions
WHERE satisfaction IS NOT NULL
GROUP BY 1
ORDER BY 1;

-- 15 []
SELECT status, priority, count(*), grouping(status, priority)
FROM tickets
GROUP BY CUBE (status, priority)
ORDER BY 4, 1, 2;

-- 15 []
SELECT DISTINCT ON (customer_id) customer_id, id, created_at
FROM tickets
ORDER BY customer_id, created_at DESC
LIMIT 20;

-- 15 ["invoice or payment"]
SELECT id, subject, ts_rank(to_tsvector('english', subject), websearch_to_tsquery('english', $1)) AS rank
FROM tickets
WHERE to_tsvector('english', subject) @@ websearch_to_tsquery('english', $1)
ORDER BY rank DESC
LIMIT 5;

-- 15 ["password"]
SELECT ts_headline('english', body, q, 'MaxWords=20, MinWords=5')
FROM knowledge_articles, plainto_tsquery('english', $1) q
WHERE to_tsvector('english', title || ' ' || body) @@ q
LIMIT 3;

-- 15 []
SELECT c.name, t.subject FROM customers c JOIN tickets t ON t.subject ILIKE '%' || c.name || '%' LIMIT 3;

-- 15 []
SELECT a.slug, b.slug
FROM knowledge_articles a
JOIN knowledge_articles b ON a.tags && b.tags AND a.id < b.id
LIMIT 5;

-- 15 []
SELECT slug, array_length(tags, 1), tags[1], 'billing' = ANY (tags), tags @> ARRAY['billing']
FROM knowledge_articles
LIMIT 5;

-- 15 []
SELECT tag, count(*) FROM knowledge_articles, unnest(tags) AS tag GROUP BY tag ORDER BY 2 DESC, 1 LIMIT 10;

-- 15 []
SELECT metadata ->> 'source' AS source, count(*), jsonb_object_agg(status, id)
FROM (SELECT c.metadata, c.status, max(c.id) AS id
FROM customers c
GROUP BY 1, 2) s
GROUP BY 1
LIMIT 10;

-- 15 []
SELECT key, count(*)
FROM customers, jsonb_each_text(metadata) AS m(key, value)
GROUP BY key
ORDER BY 2 DESC
LIMIT 10;

-- 15 []
SELECT jsonb_path_query_array(metadata, '$.*')
FROM customers
WHERE jsonb_path_exists(metadata, '$.* ? (@ != null)')
LIMIT 5;

-- 15 [{"vip": true}]
SELECT id FROM customers WHERE metadata @> $1 OR metadata ? 'vip' LIMIT 5;

-- 15 []
WITH RECURSIVE days AS (SELECT date '2026-01-01' AS day
UNION ALL SELECT day + 1
FROM days
WHERE day < date '2026-01-31') SELECT day, count(t.id)
FROM days
LEFT JOIN tickets t ON t.created_at::date = day
GROUP BY day
ORDER BY day;

-- 15 []
WITH RECURSIVE walk AS (SELECT id, ARRAY[id] AS path, id::text AS way
FROM tickets
WHERE id < 3
UNION ALL SELECT t.id, walk.path || t.id, walk.way || ' > ' || t.id
FROM walk
JOIN tickets t ON t.id = walk.id + 1
WHERE NOT t.id = ANY (walk.path) AND cardinality(walk.path) < 5) SELECT way, array_to_string(path, '/')
FROM walk;

-- 15 []
SELECT g.hour, count(t.id)
FROM generate_series(date_trunc('day', now()) - interval '1 day', now(), '1 hour') AS g(hour)
LEFT JOIN tickets t ON date_trunc('hour', t.created_at) = g.hour
GROUP BY 1
ORDER BY 1;

-- 15 []
SELECT c.id, latest.*
FROM customers c
CROSS JOIN LATERAL (SELECT t.id AS ticket, t.subject
FROM tickets t
WHERE t.customer_id = c.id
ORDER BY t.created_at DESC
LIMIT 2) latest
LIMIT 10;

-- 15 []
SELECT channel, count(*) * 100.0 / sum(count(*)) OVER () AS percent, cume_dist() OVER (ORDER BY count(*)), ntile(4) OVER (ORDER BY channel)
FROM tickets
GROUP BY channel;

-- 15 []
SELECT assigned_agent, sum(count(*)) OVER (ORDER BY count(*) DESC ROWS UNBOUNDED PRECEDING) AS running, first_value(assigned_agent) OVER w, nth_value(assigned_agent, 2) OVER w
FROM tickets
GROUP BY assigned_agent
WINDOW w AS (ORDER BY count(*) DESC RANGE BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING);

-- 15 []
SELECT corr(satisfaction, length(agent_response)), regr_slope(satisfaction, length(agent_response)), stddev_samp(satisfaction)
FROM interactions;

-- 15 []
SELECT upper(string_agg(name, '; '
ORDER BY name)) LIKE '%A%', md5(string_agg(id, ','
ORDER BY id))
FROM customers;

-- 15 []
SELECT language, jsonb_pretty(jsonb_agg(jsonb_build_object('slug', slug, 'title', title)
ORDER BY slug))
FROM knowledge_articles
GROUP BY language;

-- 15 []
SELECT split_part(email, '@', 2) AS domain, count(*) FROM customers GROUP BY 1 ORDER BY 2 DESC LIMIT 10;

-- 15 []
SELECT lpad(id::text, 8, '0') || '-' || initcap(priority), rpad(status, 10, '.'), translate(subject, 'äöü', 'aou'), trim(both ' .' from subject), overlay(subject placing '***' from 1 for 3)
FROM tickets
LIMIT 5;

-- 15 []
SELECT (metadata ->> 'seats')::numeric * 1.19, (metadata ->> 'seats')::numeric / nullif((metadata ->> 'users')::numeric, 0)
FROM customers
LIMIT 5;

-- 15 ["Maria"]
SELECT name, similarity(name, $1), levenshtein(lower(left(name, 100)), lower($1)), soundex(name), name <-> $1
FROM customers
ORDER BY name <-> $1
LIMIT 5;

-- 15 []
SELECT id, CASE WHEN age(now(), created_at) > interval '30 days' THEN 'old' WHEN status IN ('resolved', 'closed') THEN 'done' ELSE 'fresh' END AS state
FROM tickets
ORDER BY id
LIMIT 5;

-- 15 []
SELECT date_bin('15 minutes', created_at, timestamptz '2026-01-01') AS slot, count(*)
FROM interactions
GROUP BY 1
ORDER BY 2 DESC, 1
LIMIT 5;

-- 15 []
SELECT extract(isodow
FROM created_at) AS weekday, extract(hour
FROM created_at AT TIME ZONE 'Europe/Berlin') AS hour, count(*)
FROM tickets
GROUP BY 1, 2
ORDER BY 3 DESC
LIMIT 5;

-- 15 []
SELECT customer_id
FROM tickets EXCEPT SELECT customer_id
FROM interactions UNION SELECT id
FROM customers
WHERE plan = 'pro'
ORDER BY 1
LIMIT 5;

-- 15 []
SELECT table_name, column_name, data_type
FROM information_schema.columns
WHERE table_schema = current_schema()
ORDER BY table_name, ordinal_position;

-- 15 []
SELECT schema_name FROM information_schema.schemata ORDER BY 1;

-- 15 []
SELECT s.schema_name FROM information_schema.schemata AS s WHERE s.schema_name = 'public';

-- 15 []
EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) SELECT count(*) FROM tickets WHERE status = 'open';

-- 15 []
SELECT pg_typeof(metadata), pg_typeof(id)::text, pg_column_size(metadata) FROM customers LIMIT 1;

-- 15 []
SELECT hashtext(id) % 10 AS sample, count(*) FROM customers GROUP BY 1 ORDER BY 1;

-- 15 []
SELECT json_build_object('customer', to_jsonb(c) - 'metadata', 'tickets', (SELECT json_agg(row_to_json(t))
FROM (SELECT id, subject
FROM tickets
WHERE customer_id = c.id
LIMIT 3) t))
FROM customers c
LIMIT 2;

-- 15 []
SELECT regexp_replace(body, '\s+', ' ', 'g'), regexp_split_to_array(title, '\s+'), string_to_array(slug, '-')
FROM knowledge_articles
LIMIT 2;

-- 15 []
SELECT normalize(name), unaccent(name), ascii(name), reverse(name), strpos(name, ' '), position('a' IN name)
FROM customers
LIMIT 5;

-- 15 ["12345"]
SELECT range_agg(tstzrange(created_at, coalesce(resolved_at, now()))) FROM tickets WHERE customer_id = $1;

-- 16 []
SELECT any_value(name), json_arrayagg(id ORDER BY id) FROM customers WHERE id < '5';

-- 16 []
SELECT json_objectagg(slug: length(body) RETURNING jsonb) FROM knowledge_articles;

-- 16 []
SELECT json_object('id': id, 'name': name ABSENT ON NULL), json_array(id, name) FROM customers LIMIT 2;

-- 16 []
SELECT '[1]' IS JSON ARRAY, '{' IS JSON, pg_input_is_valid('12', 'integer'), pg_input_is_valid('x', 'numeric(10,2)');

-- 16 []
SELECT 0x1F + 1_000, array_length(tags, 1) FROM knowledge_articles LIMIT 1;

-- 16 []
SELECT date_add(now(), '1 month'::interval, 'Europe/Berlin') > now(), random_normal(0, 1) IS NOT NULL;

-- 17 []
SELECT j.*
FROM customers c, JSON_TABLE(c.metadata, '$' COLUMNS (n FOR ORDINALITY, whole jsonb PATH '$')) AS j
LIMIT 3;

-- 17 []
SELECT JSON_VALUE(metadata, '$.seats' RETURNING int DEFAULT 0 ON EMPTY), JSON_QUERY(metadata, '$.tags' WITH WRAPPER), JSON_EXISTS(metadata, '$.vip')
FROM customers
LIMIT 3;

-- 17 []
SELECT random(1, 6) BETWEEN 1 AND 6, to_bin(5), to_oct(8), unicode_assigned(name) FROM customers LIMIT 2;

-- 17 []
SELECT jsonb_path_query(metadata, '$.*.string()') FROM customers WHERE metadata <> '{}' LIMIT 3;

-- 17 []
SELECT extract(epoch FROM interval 'infinity'), JSON_SCALAR(1), JSON_SERIALIZE('{}'), JSON('{}');

-- 18 []
SELECT array_sort(tags), array_reverse(tags) FROM knowledge_articles LIMIT 2;

-- 18 []
SELECT casefold(name), uuid_extract_version(uuidv7()), crc32(name::bytea) FROM customers LIMIT 2;

-- 18 []
SELECT gamma(5), lgamma(5), to_number('MCMXC', 'RN'), reverse('ab'::bytea);

-- 18 []
SELECT json_strip_nulls('{"a": null, "b": [null]}', true), jsonb_strip_nulls(metadata, true)
FROM customers
LIMIT 2;

-- 18 []
SELECT max(ROW(priority, id)), min(ARRAY[id]) FROM tickets;
