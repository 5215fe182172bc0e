"""The vectors of one model in the database: their table, which is filled before it is searched, and who makes them.

What has to be made stands in `embedding_queue`, which triggers of the articles write. Whoever makes it claims a few
articles at a time, so that each is done once however many gateways there are; a claim ends by itself unless it is
renewed, so that nothing is lost with a gateway that dies. No transaction is open while a model works, and no writer of
articles waits for one.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import asyncpg

from app.errors import BackendNotConfigured
from app.services.postgres.knowledge.embedder import Embedder
from app.services.postgres.knowledge.meaning import VectorsOfModel, written

CHANNEL = "switchboard_articles"
"""Where the triggers of migration 0010 say that the queue has grown, and we that there is more to search."""
MOST_FAILURES = 5
"""After so many an article is left to the search by words, until it changes."""
_OLDEST_PGVECTOR = (0, 8)
"""The first that goes on scanning an index where filters leave too little."""
_LONGEST_CLAIM = 2.5
"""Seconds after which others may embed what was claimed, unless the claim is renewed: then who claimed it has died."""
_MEASURED = 150
"""Articles that are compared with each other, to know what is near."""
_MOST_OF_A_KIND = 3000
"""Articles of the tags and the language that are asked for, up to which all of them are compared: that takes 4 µs for
each, and a scan of the neighbours 0.1 s where 2 of 100 are of that kind."""
_LEAST_SPREAD = 0.005
"""Of a model that tells hardly anything apart; nothing is divided by less."""
_STEP_WITHIN = 60.0
"""Seconds that PostgreSQL gets for one step."""
NAME = re.compile(r"[a-z0-9_-]{1,40}")

# Topics of a support desk that have nothing to do with each other: what a model makes of them is its measure where
# there are few articles yet.
_STRANGERS = """
Reset your password
Track a parcel
Request a refund
Change the language of the app
Connect a printer
Invite a colleague
Download an invoice
Opening hours of our offices
Delete your account
Report a security problem
Upload a photo
Cancel a subscription
Repair a broken screen
Export data to a spreadsheet
Taxes on orders from abroad
Use a discount code
""".strip().splitlines()

_CONDITION = """
SELECT to_regclass('embedding_models') IS NOT NULL AS migrated, to_regtype('halfvec') IS NOT NULL AS usable,
       (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS version,
       EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector') AS available
"""

_TABLE = """
CREATE TABLE IF NOT EXISTS "vectors_{name}" (
    article_id bigint NOT NULL REFERENCES knowledge_articles (id) ON DELETE CASCADE,
    passage integer NOT NULL,
    vector halfvec({dimension}) NOT NULL,
    PRIMARY KEY (article_id, passage)
);
-- In the row: a vector elsewhere costs an access each.
ALTER TABLE "vectors_{name}" ALTER COLUMN vector SET STORAGE PLAIN;
"""

_NEAREST = """
CREATE OR REPLACE FUNCTION "nearest_{name}"(question halfvec, most integer, within tsquery)
RETURNS TABLE (article_id bigint, passage integer, cosine double precision)
LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 80
SET hnsw.ef_search = 120 SET hnsw.iterative_scan = relaxed_order
SET enable_seqscan = off SET enable_sort = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $${body}$$
"""
_BODY = f"""
DECLARE
    few bigint[];
BEGIN
    IF within IS NULL THEN
        RETURN QUERY SELECT kept.article_id, kept.passage, -(kept.vector <#> question)
        FROM "vectors_{{name}}" AS kept ORDER BY kept.vector <#> question LIMIT most;
        RETURN;
    END IF;
    -- A scan of the neighbours would meet hardly any of a rare kind.
    few := ARRAY(
        SELECT entry.article_id FROM article_search AS entry WHERE entry.title @@ within LIMIT {_MOST_OF_A_KIND} + 1
    );
    IF cardinality(few) <= {_MOST_OF_A_KIND} THEN
        RETURN QUERY SELECT kept.article_id, kept.passage, -(kept.vector <#> question) AS near
        FROM "vectors_{{name}}" AS kept WHERE kept.article_id = ANY (few) ORDER BY near DESC LIMIT most;
    ELSE
        RETURN QUERY SELECT kept.article_id, kept.passage, -(kept.vector <#> question)
        FROM "vectors_{{name}}" AS kept
        WHERE EXISTS (
            SELECT FROM article_search AS entry WHERE entry.article_id = kept.article_id AND entry.title @@ within
        )
        ORDER BY kept.vector <#> question LIMIT most;
    END IF;
END """  # noqa: S608 - our own words

_OUTDATED = """
SELECT EXISTS (
    SELECT FROM pg_proc WHERE oid = to_regprocedure($1) AND prosrc <> $2 AND pg_has_role(proowner, 'USAGE')
)
"""

_GRANTS = """
SELECT DISTINCT grantee::regrole::text AS role, has_table_privilege(grantee, 'interactions', 'INSERT') AS writes
FROM pg_class, aclexplode(relacl)
WHERE oid = 'article_search'::regclass AND privilege_type = 'SELECT' AND grantee NOT IN (0, relowner)
"""

# First which are free, once: a subquery may be run for each article of the queue, and would find others each time.
_CLAIM = f"""
WITH free AS MATERIALIZED (
    SELECT article_id FROM embedding_queue
    WHERE model = $1 AND failures < {MOST_FAILURES} AND (claimed_until IS NULL OR claimed_until < now())
    ORDER BY failures, article_id LIMIT $2 FOR UPDATE SKIP LOCKED
)
UPDATE embedding_queue AS queue SET claimed_until = now() + interval '{_LONGEST_CLAIM} s'
FROM free WHERE queue.model = $1 AND queue.article_id = free.article_id
RETURNING queue.article_id, queue.version
"""  # noqa: S608 - our own words

_RENEW = f"""
UPDATE embedding_queue AS queue SET claimed_until = now() + interval '{_LONGEST_CLAIM} s'
FROM unnest($2::bigint[], $3::bigint[]) AS mine (article_id, version)
WHERE queue.model = $1 AND queue.article_id = mine.article_id AND queue.version = mine.version
"""  # noqa: S608 - our own words

_TEXTS = """
SELECT article.id, article_form(article.title) AS title, number, article_form(passage) AS passage
FROM knowledge_articles AS article JOIN article_search ON article_id = article.id
LEFT JOIN LATERAL article_passages(article.body) ON true
WHERE article.id = ANY ($1) ORDER BY 1, number
"""

_DELETE = 'DELETE FROM "vectors_{name}" WHERE article_id = $1'

# The article may have been archived or deleted in the meantime.
_STORE = """
INSERT INTO "vectors_{name}" (article_id, passage, vector)
SELECT article_id, passage, vector::halfvec
FROM article_search, unnest($2::integer[], $3::text[]) AS made (passage, vector) WHERE article_id = $1
"""

_MEASURE = """
WITH sample AS MATERIALIZED (
    SELECT -row_number() OVER () AS number, vector::halfvec FROM unnest($1::text[]) AS strange (vector)
    UNION ALL
    (SELECT article_id, vector FROM "vectors_{name}" WHERE passage = 1 ORDER BY md5(article_id::text) LIMIT $2)
)
SELECT avg(-(one.vector <#> other.vector)) AS mean, stddev(-(one.vector <#> other.vector)) AS deviation
FROM sample AS one JOIN sample AS other ON one.number < other.number
"""

_FILLING = """
SELECT (SELECT coalesce(sum(articles), 0)::bigint FROM search_words WHERE word = '') AS articles,
       count(*) FILTER (WHERE failures < $2) AS left, count(*) FILTER (WHERE failures >= $2) AS failed,
       coalesce(
           extract(epoch FROM min(claimed_until) FILTER (WHERE failures < $2 AND claimed_until > now()) - now()), 'inf'
       )::float8 AS next_free
FROM embedding_queue WHERE model = $1
"""

_COUNTED = '(SELECT count(*) FROM (SELECT FROM "vectors_{name}" WHERE passage = 1 LIMIT %s) AS kept)'
_NOTE = f"""
UPDATE embedding_models SET spread = $2, mean = $3, deviation = $4, measured = {_COUNTED % "$5"},
    filled_at = coalesce(filled_at, now())
WHERE name = $1
"""  # noqa: S608 - our own words
_OUTGROWN = f"""
SELECT {_COUNTED % "$2"} >= 2 * greatest(measured, 5) FROM embedding_models WHERE name = $1
"""  # noqa: S608 - our own words

_SPREAD = """
WITH sample AS MATERIALIZED (
    SELECT number, vector::halfvec FROM unnest($1::text[]) WITH ORDINALITY AS title (vector, number)
)
SELECT stddev(-(one.vector <#> other.vector)) FROM sample AS one JOIN sample AS other ON one.number < other.number
"""


@dataclass(frozen=True)
class Claim:
    """An article that is ours to embed: its texts, the title first; none if it is not published any more, or has no
    letter and no digit."""

    article_id: int
    version: int
    texts: Sequence[str]
    passages: Sequence[int]
    """Numbers of the passages, which follow the title; 1 alone if the article has a title only."""

    def mixed(self, vectors: Sequence[Sequence[float]]) -> list[str]:
        """Return what is kept: half the title, half the passage, so that one inner product is the mean of both cosines.

        Args:
            vectors: of `texts`.
        """
        title, *passages = vectors
        return [written([(a + b) / 2 for a, b in zip(title, passage, strict=True)]) for passage in passages or [title]]


@dataclass(frozen=True)
class Filling:
    """How far the vectors are."""

    articles: int
    """That are published."""
    left: int
    """That are to be embedded."""
    failed: int
    """That could not be embedded."""
    next_free: float
    """Seconds until the first claim ends, unless it is renewed; infinite where nothing is claimed."""


@asynccontextmanager
async def _step(connection: "asyncpg.Connection[Any]") -> AsyncGenerator[None]:
    """Run a short transaction; a network that has died without a word ends it."""
    async with asyncio.timeout(_STEP_WITHIN), connection.transaction():
        yield


class VectorStore:
    """The vectors of one model.

    Args:
        name: the model's.
        dimension: numbers of a vector.
    """

    def __init__(self, name: str, dimension: int) -> None:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a model: small letters, digits, - and _, at most 40")
        self.name = name
        self.dimension = dimension

    async def ready(self, connection: "asyncpg.Connection[Any]") -> VectorsOfModel | None:
        """Return what can be searched; None if the vectors are not complete yet.

        Raises:
            BackendNotConfigured: there can be none here; the message says what is missing.
            asyncpg.PostgresError: the login may not read them.
        """
        async with _step(connection):
            await demand_pgvector(connection)
            found = await connection.fetchrow(
                "SELECT spread, mean, deviation FROM embedding_models"
                " WHERE name = $1 AND dimension = $2 AND filled_at IS NOT NULL AND to_regclass($3) IS NOT NULL",
                self.name,
                self.dimension,
                f'"vectors_{self.name}"',
            )
            if found is None:
                return None
            await connection.execute(f'SELECT FROM "vectors_{self.name}" LIMIT 0')
        return VectorsOfModel(self.name, found["spread"], found["mean"], found["deviation"])

    async def prepare(self, connection: "asyncpg.Connection[Any]") -> None:
        """Make the table if it is not there, and queue all articles then.

        Raises:
            BackendNotConfigured: pgvector is missing, and we may not bring it.
            asyncpg.PostgresError: the login may not make tables.
        """
        async with _step(connection):
            await demand_pgvector(connection, bring=True)
            table = f'"vectors_{self.name}"'
            await self._lock(connection)
            known = await connection.fetchval(
                "SELECT dimension = $2 AND to_regclass($3) IS NOT NULL FROM embedding_models WHERE name = $1",
                self.name,
                self.dimension,
                table,
            )
            if known:
                await self._bring_up_to_date(connection)
                return
            if known is not None:
                # The same name and another dimension: it was another model's.
                await connection.execute(f"DROP TABLE IF EXISTS {table} CASCADE")
                await connection.execute("DELETE FROM embedding_models WHERE name = $1", self.name)
            # pgvector's settings are known once it has been used.
            await connection.execute("SELECT '[0]'::vector")
            await connection.execute(_TABLE.format(name=self.name, dimension=self.dimension))
            await connection.execute(self._nearest)
            await connection.execute(
                "INSERT INTO embedding_models (name, dimension) VALUES ($1, $2)", self.name, self.dimension
            )
            await connection.execute(
                "INSERT INTO embedding_queue (model, article_id) SELECT $1, article_id FROM article_search", self.name
            )
            for role, writes in await connection.fetch(_GRANTS):
                rights = "SELECT, INSERT, UPDATE, DELETE" if writes else "SELECT"
                await connection.execute(f"GRANT {rights} ON {table}, embedding_models, embedding_queue TO {role}")

    async def claim(self, connection: "asyncpg.Connection[Any]", most: int) -> list[Claim]:
        """Return articles that nobody else embeds for now."""
        async with _step(connection):
            claimed: Mapping[int, int] = dict(await connection.fetch(_CLAIM, self.name, most))
            rows = await connection.fetch(_TEXTS, list(claimed)) if claimed else []
        claims = {article: Claim(article, version, (), ()) for article, version in claimed.items()}
        for article, of_article in groupby(rows, key=lambda row: row["id"]):
            parts = list(of_article)
            telling = [part for part in parts if _tells(part["passage"])]
            passages = [part["passage"] for part in telling]
            # Without a title the beginning stands for it: half of a vector of nothing would be near to anything.
            title = next(filter(_tells, [parts[0]["title"], *passages]), None)
            if title is not None:
                numbers = [part["number"] for part in telling]
                claims[article] = Claim(article, claimed[article], [title, *passages], numbers or [1])
        return list(claims.values())

    async def renew(self, connection: "asyncpg.Connection[Any]", claims: Sequence[Claim]) -> None:
        """Go on holding what was claimed and is not stored yet; to be called well within `_LONGEST_CLAIM`."""
        async with _step(connection):
            await connection.execute(
                _RENEW, self.name, [claim.article_id for claim in claims], [claim.version for claim in claims]
            )

    async def store(self, connection: "asyncpg.Connection[Any]", claim: Claim, mixed: Sequence[str]) -> None:
        """Put vectors in place of an article's old ones, unless it has changed since it was claimed.

        Args:
            connection: to the database.
            claim: the article.
            mixed: the vectors as they are kept, a passage each; none if the article is not published.
        """
        async with _step(connection):
            done = await connection.execute(
                "DELETE FROM embedding_queue WHERE model = $1 AND article_id = $2 AND version = $3",
                self.name,
                claim.article_id,
                claim.version,
            )
            if done == "DELETE 0":
                return
            await connection.execute(_DELETE.format(name=self.name), claim.article_id)
            if mixed:
                statement = _STORE.format(name=self.name)
                await connection.execute(statement, claim.article_id, list(claim.passages), list(mixed))

    async def release(self, connection: "asyncpg.Connection[Any]", claims: Sequence[Claim], *, failed: bool) -> None:
        """Give articles back that were not embedded.

        Args:
            connection: to the database.
            claims: the articles.
            failed: others could be embedded at the same time, so it is because of these: they come later, or not at
                all after `MOST_FAILURES`.
        """
        async with _step(connection):
            await connection.execute(
                "UPDATE embedding_queue AS queue SET failures = failures + $4::integer,"
                " claimed_until = CASE WHEN $4 > 0 THEN now() + interval '2 s' * power(3, failures) END"
                " FROM unnest($2::bigint[], $3::bigint[]) AS mine (article_id, version)"
                " WHERE queue.model = $1 AND queue.article_id = mine.article_id AND queue.version = mine.version",
                self.name,
                [claim.article_id for claim in claims],
                [claim.version for claim in claims],
                int(failed),
            )

    async def filling(self, connection: "asyncpg.Connection[Any]") -> Filling:
        """Return how far the vectors are."""
        async with _step(connection):
            found = await connection.fetchrow(_FILLING, self.name, MOST_FAILURES)
        assert found is not None
        return Filling(*found)

    async def measure(self, connection: "asyncpg.Connection[Any]", embedder: Embedder) -> None:
        """Find out what cosines come to among these articles, and let the vectors be searched.

        Args:
            connection: to the database.
            embedder: of the model.

        Raises:
            EmbeddingUnavailable: it makes no vectors now.
        """
        spread = embedder.spread
        strange = [written(vector) for vector in await embedder.embed_passages(_STRANGERS)]
        if spread is None:
            async with _step(connection):
                titles = await connection.fetch(
                    "SELECT left(title, 500) FROM knowledge_articles WHERE status = 'published'"
                    " ORDER BY md5(id::text) LIMIT $1",
                    _MEASURED,
                )
            telling = [title for (title,) in titles if _tells(title)]
            vectors = await embedder.embed_passages(telling) if telling else []
            async with _step(connection):
                spread = await connection.fetchval(_SPREAD, [*strange, *map(written, vectors)])
        async with connection.transaction():
            await connection.execute("SET LOCAL statement_timeout = 0")
            await connection.execute("SET LOCAL maintenance_work_mem = '256MB'")
            await self._lock(connection)
            await connection.execute(
                f'CREATE INDEX IF NOT EXISTS "vectors_{self.name}_hnsw" ON "vectors_{self.name}"'
                " USING hnsw (vector halfvec_ip_ops)"
            )
            found = await connection.fetchrow(_MEASURE.format(name=self.name), strange, _MEASURED)
            assert found is not None
            await connection.execute(
                _NOTE.format(name=self.name),
                self.name,
                max(float(spread), _LEAST_SPREAD),
                found["mean"],
                found["deviation"],
                _MEASURED,
            )
            await connection.execute(f"NOTIFY {CHANNEL}")

    async def is_outgrown(self, connection: "asyncpg.Connection[Any]") -> bool:
        """Tell whether there are twice as many articles as when cosines were measured last, and that matters."""
        async with _step(connection):
            return await connection.fetchval(_OUTGROWN.format(name=self.name), self.name, _MEASURED)

    async def forget(self, connection: "asyncpg.Connection[Any]") -> bool:
        """Drop all that there is of the model; tell whether there was anything."""
        async with _step(connection):
            await self._lock(connection)
            await connection.execute(f'DROP TABLE IF EXISTS "vectors_{self.name}" CASCADE')
            if await connection.fetchval("SELECT to_regtype('halfvec') IS NOT NULL"):
                await connection.execute(f'DROP FUNCTION IF EXISTS "nearest_{self.name}"(halfvec, integer, tsquery)')
            done = await connection.execute("DELETE FROM embedding_models WHERE name = $1", self.name)
        return done != "DELETE 0"

    @property
    def _body(self) -> str:
        return _BODY.format(name=self.name)

    @property
    def _nearest(self) -> str:
        return _NEAREST.format(name=self.name, body=self._body)

    async def _bring_up_to_date(self, connection: "asyncpg.Connection[Any]") -> None:
        """Replace the function that another version of ours has made, if we may."""
        function = f'"nearest_{self.name}"(halfvec, integer, tsquery)'
        if await connection.fetchval(_OUTDATED, function, self._body):
            await connection.execute(self._nearest)

    async def _lock(self, connection: "asyncpg.Connection[Any]") -> None:
        """Let one at a time make or change the model's tables, until the transaction ends."""
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"vectors_{self.name}")


def _tells(text: str | None) -> bool:
    """Tell whether a text means anything: a model makes a vector of any."""
    return text is not None and any(map(str.isalnum, text))


async def demand_pgvector(connection: "asyncpg.Connection[Any]", *, bring: bool = False) -> None:
    """Return if vectors can be kept.

    Args:
        connection: to the database, in a transaction.
        bring: create the extension if it is installed on the server alone, and we may.

    Raises:
        BackendNotConfigured: they can't; the message says what is missing.
    """
    found = await connection.fetchrow(_CONDITION)
    assert found is not None
    if not found["migrated"]:
        raise BackendNotConfigured("the database lacks the queue of articles; run `switchboard migrate`")
    version, usable = found["version"], found["usable"]
    if version is None:
        if not found["available"]:
            raise BackendNotConfigured(
                "PostgreSQL has no pgvector; install it on the server (package postgresql-NN-pgvector, or an image"
                " such as pgvector/pgvector), and let a superuser run CREATE EXTENSION vector in this database"
            )
        if not bring or not await _bring_pgvector(connection):
            raise BackendNotConfigured(
                "pgvector is not in this database; let a superuser run CREATE EXTENSION vector in it"
            )
        return
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < _OLDEST_PGVECTOR:
        raise BackendNotConfigured(
            f"pgvector is of version {version}; install 0.8 or newer, and run ALTER EXTENSION vector UPDATE"
        )
    if not usable:
        raise BackendNotConfigured("pgvector is in a schema that is not on the search_path of the gateway's login")


async def _bring_pgvector(connection: "asyncpg.Connection[Any]") -> bool:
    """Create the extension; tell whether we may."""
    try:
        async with connection.transaction():
            await connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except asyncpg.InsufficientPrivilegeError:
        return False
    return True
