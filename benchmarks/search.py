"""`python -m benchmarks.search`: the whole search by meaning over many articles, beside the same by words alone.

The articles' vectors are made up in PostgreSQL, around a few hundred topics as texts are, since a model would take an
hour for them; the questions' are the model's own.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import asyncpg

from app.local.postgres import run_postgres
from app.services.embeddings.embedder import TextEmbedder, create_embedder
from app.services.embeddings.settings import EmbeddingSettings
from app.services.postgres.connections.pools import open_database
from app.services.postgres.connections.settings import PostgresSettings
from app.services.postgres.knowledge.meaning import Meaning
from app.services.postgres.knowledge.search import KnowledgeSearch
from app.services.postgres.knowledge.vectors import VectorStore
from benchmarks.data import load_articles

_SERVER = (
    "shared_buffers=2GB",
    "maintenance_work_mem=1GB",
    "max_wal_size=4GB",
    "shared_preload_libraries=pg_stat_statements",
)
_QUESTIONS = (
    *("how do i reset my pasword", "refund", "where is my order and why is the delivery so late again this week"),
    *("password account order email", "api key", "cancel subscription refund payment", "webhok eror export secrity"),
)
_REPEATS = 40
_PASSAGE = "The device shows a message when it does not start, and has to be turned off and on again. " * 6

_VECTORS = """
CREATE TEMPORARY TABLE topics AS
SELECT topic, (
    SELECT array_agg(random() - 0.5 + 0 * (topic + place)) FROM generate_series(1, {dimension}) AS place
) AS centre
FROM generate_series(1, 300) AS topic;
INSERT INTO "vectors_{name}" (article_id, passage, vector)
SELECT article_id, passage, l2_normalize(made::halfvec({dimension}))
FROM article_search CROSS JOIN generate_series(1, 2) AS passage CROSS JOIN LATERAL (
    SELECT array_agg(number + 0.4 * (random() - 0.5) + 0 * (article_id + passage))::real[] AS made
    FROM topics, unnest(centre) AS number WHERE topic = 1 + article_id % 300
) AS mixed
ON CONFLICT DO NOTHING;
DELETE FROM embedding_queue WHERE model = '{name}';
"""


async def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--articles", type=int, default=100_000)
    parser.add_argument("--model", default="bge-small-en", help="as EMBEDDINGS has it")
    parser.add_argument("--data", type=Path, help="keep the database here, for the next run")
    options = parser.parse_args()
    embedder = create_embedder(EmbeddingSettings(embeddings=options.model, embeddings_timeout=5))
    assert embedder is not None
    await embedder.start()
    with tempfile.TemporaryDirectory(prefix="switchboard-bench-") as scratch:
        async with run_postgres(options.data or Path(scratch), durable=False, settings=_SERVER) as server:
            await _measure(server.url(), embedder, options.articles)
    await embedder.close()


async def _measure(url: str, embedder: TextEmbedder, articles: int) -> None:
    await load_articles(url, articles)
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    store = VectorStore(embedder.name, embedder.dimension)
    await store.prepare(connection)
    vectors = await store.ready(connection)
    if vectors is None:
        await connection.execute(_VECTORS.format(name=embedder.name, dimension=embedder.dimension))
        await store.measure(connection, embedder)
        await connection.execute("VACUUM ANALYZE")
        vectors = await store.ready(connection)
    meaning = Meaning(embedder)
    meaning.vectors = vectors
    print(f"Search of {articles} articles, ms            p50      p99   PostgreSQL, mean")
    async with open_database(PostgresSettings.model_validate({"url": url})) as database:
        for name, search in (
            ("by words alone", KnowledgeSearch(database.reads)),
            (f"by meaning, too ({embedder.name})", KnowledgeSearch(database.reads, meaning)),
        ):
            await _times(search, 3)
            await connection.execute("SELECT pg_stat_statements_reset()")
            took = await _times(search, _REPEATS)
            spent = await connection.fetchval(
                "SELECT sum(total_exec_time) FROM pg_stat_statements WHERE query LIKE '%article_search%'"
                " OR query LIKE '%search_words%'"
            )
            print(f"  {name:<36} {_of(took, 50):>7.1f} {_of(took, 99):>8.1f} {spent / len(took):>10.1f}")
    late = await _lateness(embedder)
    print(f"The loop's lag while passages are embedded, ms: p50 {_of(late, 50):.2f}, p99 {_of(late, 99):.2f}")
    await connection.close()


async def _times(search: KnowledgeSearch, repeats: int) -> list[float]:
    """Return how long searches took, in milliseconds; no question is asked twice, since its vector is remembered."""
    took: list[float] = []
    for repeat in range(repeats):
        for question in _QUESTIONS:
            began = time.perf_counter()
            await search.search(f"{question} {'again ' * (repeat % 7)}{chr(97 + repeat % 26)}{repeat}{repeats}")
            took.append((time.perf_counter() - began) * 1000)
    return took


async def _lateness(embedder: TextEmbedder) -> list[float]:
    """Return how late the event loop came, in milliseconds, while passages were embedded."""
    busy = asyncio.create_task(embedder.embed_passages([f"{number} {_PASSAGE}" for number in range(64)]))
    late: list[float] = []
    while not busy.done():
        began = time.perf_counter()
        await asyncio.sleep(0.002)
        late.append((time.perf_counter() - began - 0.002) * 1000)
    await busy
    return late


def _of(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


if __name__ == "__main__":
    asyncio.run(main())
