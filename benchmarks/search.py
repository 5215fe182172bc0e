"""The search of a large knowledge base: how long a question takes, and what the event loop feels of a model.

The articles' vectors are made up in PostgreSQL, around a few hundred topics as those of texts are, since a model would
take an hour for them; the questions' are the model's own. What is found is therefore of no worth, and how long it
takes is what it would take.
"""

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, permutations

import asyncpg

from app.services.embeddings.embedder import TextEmbedder
from app.services.postgres.connections.pools import open_database
from app.services.postgres.connections.settings import PostgresSettings
from app.services.postgres.knowledge.meaning import Meaning
from app.services.postgres.knowledge.search import KnowledgeSearch
from app.services.postgres.knowledge.vectors import VectorStore

_QUESTIONS = (
    "how do i reset my pasword", "refund", "where is my order and why is the delivery so late this week",
    "password account order email", "w4711 w12", "webhok eror export secrity", "api key",
    "cancel subscription refund payment", "order",
    "pasword acount ordr emial delivry refnd webhok eror exprt secrity paymnt cancl",
    "order email account password delivery refund payment security export webhook cancel subscription",
)  # fmt: skip
_REPEATS = 20
# The words of a question stay as they are, and its vector is none that is remembered.
_CHATTER = [" ".join(words) for words in islice(permutations(("hello", "dear", "please", "thanks"), 3), _REPEATS + 1)]
_EMBEDDED = 64
"""Passages, and twice as many questions, while the loop is watched."""
_PASSAGE = "The device shows a message when it does not start, and has to be turned off and on again. " * 6
_TICK = 0.002

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


@dataclass(frozen=True)
class SearchTimes:
    """Milliseconds of searches: the whole of them, and PostgreSQL's own with its planning."""

    p50: float
    p99: float
    mean_in_postgres: float
    slowest_in_postgres: float
    """The mean of the slowest question."""


async def load_vectors(url: str, embedder: TextEmbedder) -> None:
    """Make up the vectors of all articles, unless they are there."""
    connection = await asyncpg.connect(url)
    try:
        store = VectorStore(embedder.name, embedder.dimension)
        await store.prepare(connection)
        if await store.ready(connection) is None:
            await connection.execute(_VECTORS.format(name=embedder.name, dimension=embedder.dimension))
            await store.measure(connection, embedder)
            await connection.execute("VACUUM ANALYZE")
    finally:
        await connection.close()


async def search_times(url: str, embedder: TextEmbedder | None) -> SearchTimes:
    """Return how long searches take, by words alone or by meaning, too."""
    took: list[float] = []
    spent: list[float] = []
    meaning = None if embedder is None else Meaning(embedder)
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        if meaning is not None:
            meaning.vectors = await VectorStore(meaning.embedder.name, meaning.embedder.dimension).ready(connection)
        async with open_database(PostgresSettings.model_validate({"url": url})) as database:
            search = KnowledgeSearch(database.reads, meaning)
            for question in _QUESTIONS:
                await search.search(f"{question} {_CHATTER[-1]}")
                await connection.execute("SELECT pg_stat_statements_reset()")
                for chatter in _CHATTER[:_REPEATS]:
                    began = time.perf_counter()
                    found = await search.search(f"{question} {chatter}")
                    took.append((time.perf_counter() - began) * 1000)
                    if (found.mode == "semantic") != (meaning is not None):
                        raise RuntimeError(f"a search was {found.mode}")
                in_postgres = await connection.fetchval(
                    "SELECT sum(total_plan_time + total_exec_time) FROM pg_stat_statements"
                    " WHERE query !~ 'pg_stat_statements'"
                )
                spent.append(in_postgres / _REPEATS)
    finally:
        await connection.close()
    return SearchTimes(*_percentiles(took), statistics.mean(spent), max(spent))


async def lateness(embedder: TextEmbedder) -> tuple[float, float]:
    """Return how late the event loop came while passages and questions were embedded, in milliseconds: p50, p99."""

    async def ask() -> None:
        for number in range(2 * _EMBEDDED):
            await embedder.embed_question(f"how do i reset password {number}")

    busy = asyncio.gather(embedder.embed_passages([f"{number} {_PASSAGE}" for number in range(_EMBEDDED)]), ask())
    late: list[float] = []
    while not busy.done():
        began = time.perf_counter()
        await asyncio.sleep(_TICK)
        late.append((time.perf_counter() - began - _TICK) * 1000)
    await busy
    return _percentiles(late)


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    quantiles = statistics.quantiles(values, n=100)
    return quantiles[49], quantiles[98]
