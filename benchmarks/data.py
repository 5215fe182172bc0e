"""A support database of the size of a busy company's, generated where it lies."""
# ruff: noqa: E501 - SQL reads best in its own lines

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg

from app.services.postgres.migrations import migrate
from app.services.postgres.sql.login import ensure_reader_login

CUSTOMERS, TICKETS, INTERACTIONS = 100_000, 500_000, 2_000_000

_LOAD = f"""
INSERT INTO customers (id, name, email, company, plan, created_at)
SELECT n::text, 'Customer ' || n, 'customer' || n || '@example.com', 'Company ' || n % 5000,
       (ARRAY['free', 'pro', 'business', 'enterprise'])[1 + n % 4], now() - n % 700 * interval '1 day'
FROM generate_series(1, {CUSTOMERS}) n;

INSERT INTO tickets (customer_id, subject, description, status, priority, channel, created_at, first_response_at, resolved_at)
SELECT (1 + n % {CUSTOMERS})::text, 'Ticket ' || n || ' about an order that has not arrived',
       'The parcel was due on Monday. Tracking has not moved since it left the warehouse. Please have a look.',
       s.status, (ARRAY['low', 'normal', 'normal', 'high', 'urgent'])[1 + n % 5], (ARRAY['email', 'chat', 'phone', 'web'])[1 + n % 4],
       c.at, c.at + interval '2 hours', CASE WHEN s.status IN ('resolved', 'closed') THEN c.at + interval '2 days' END
FROM generate_series(1, {TICKETS}) n,
     LATERAL (SELECT now() - (3 + n % 400) * interval '1 day' + n % 1440 * interval '1 minute' AS at) c,
     LATERAL (SELECT (ARRAY['open', 'pending', 'resolved', 'closed', 'closed', 'escalated'])[1 + n % 6] AS status) s;

INSERT INTO interactions (customer_id, ticket_id, channel, direction, internal, agent_id, query_text, agent_response, satisfaction, created_at)
SELECT (1 + n % {CUSTOMERS})::text, NULL, (ARRAY['email', 'chat', 'phone', 'web'])[1 + n % 4], 'inbound', n % 10 = 0,
       'agent-' || n % 40, 'Where is my order ' || n || '?', 'It left our warehouse yesterday and arrives on Thursday.',
       CASE WHEN n % 3 = 0 THEN 1 + n % 5 END, now() - n % 400 * interval '1 day' - n % 1440 * interval '1 minute'
FROM generate_series(1, {INTERACTIONS}) n;
"""

_ARTICLES = """
INSERT INTO knowledge_articles (slug, title, body, tags, status)
SELECT 'article-' || n, initcap(pg_temp.words(n, 6)), pg_temp.words(n * 7, 120), ARRAY['tag' || n % 50], 'published'
FROM generate_series($1::int, $2::int) n
"""

_WORDS = """
CREATE OR REPLACE FUNCTION pg_temp.words(seed int, count int) RETURNS text LANGUAGE sql AS $$
    -- A Zipf-like vocabulary: few words are everywhere, most are rare. Real ones come first, so that queries meet them.
    SELECT string_agg(coalesce(real[rank], 'w' || rank), ' ')
    FROM (SELECT ARRAY['password', 'reset', 'account', 'order', 'refund', 'invoice', 'email', 'login', 'payment', 'shipping',
                       'delivery', 'cancel', 'subscription', 'api', 'key', 'error', 'webhook', 'export', 'team', 'security'] AS real,
                 floor(exp((((seed::bigint * 7919 + i * 104729) % 99991) / 99991.0) * ln(50000)))::int AS rank
          FROM generate_series(1, count) i) w
$$
"""


async def load_desk(url: str) -> None:
    """Migrate a database and fill it with customers, tickets and interactions, unless it is full already."""
    await migrate(url)
    await ensure_reader_login(url, "bench")
    async with _connected(url) as connection:
        if await connection.fetchval("SELECT count(*) FROM interactions") == INTERACTIONS:
            return
        await connection.execute("TRUNCATE customers, tickets, interactions RESTART IDENTITY CASCADE")
        # The triggers tell watchers of changes, and nobody watches.
        await connection.execute("SET session_replication_role = replica")
        await connection.execute(_LOAD)
        for table in ("customers", "tickets", "interactions"):
            await connection.execute(f"VACUUM ANALYZE {table}")


async def load_articles(url: str, count: int) -> None:
    """Migrate a database and fill its knowledge base, unless it is full already."""
    await migrate(url)
    async with _connected(url) as connection:
        await connection.execute(_WORDS)
        first = 1 + await connection.fetchval("SELECT count(*) FROM knowledge_articles")
        for start in range(first, count + 1, 10_000):
            await connection.execute(_ARTICLES, start, min(start + 9_999, count))
        if first <= count:
            await connection.execute("VACUUM ANALYZE")


@asynccontextmanager
async def _connected(url: str) -> AsyncGenerator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()
