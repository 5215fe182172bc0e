"""Search by meaning: what is found though no word is shared, and how the vectors for it are kept."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, cast

import asyncpg
import pytest
from pydantic import SecretStr

from app.errors import BackendNotConfigured, NotFound
from app.local.postgres import LocalPostgres, run_postgres
from app.services.postgres.connections.address import Address
from app.services.postgres.connections.connecting import Connection, Connector
from app.services.postgres.connections.pools import ReadPool, Statement, open_database
from app.services.postgres.connections.settings import PostgresSettings
from app.services.postgres.knowledge import keeping, vectors
from app.services.postgres.knowledge.keeping import fill, vectors_kept
from app.services.postgres.knowledge.meaning import Meaning
from app.services.postgres.knowledge.search import KnowledgeSearch
from app.services.postgres.knowledge.vectors import Filling, VectorStore
from app.services.postgres.migrations import downgrade, migrate
from tests.fixtures.pgbouncer import run_pgbouncer
from tests.fixtures.postgres import TestDatabase, cluster_directory
from tests.services.postgres.connections.test_connecting import follow
from tests.services.postgres.knowledge.test_search import add_article, slugs
from tests.services.postgres.knowledge.tiny import TinyEmbedder

if TYPE_CHECKING:
    from asyncpg.prepared_stmt import PreparedStatement

WITHIN = 30.0
"""Seconds that a busy machine gets for what takes a fraction of one."""


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[Connection]:
    connection = await Connector(lambda: Address.read(url), connect_timeout=30).open()
    try:
        yield connection
    finally:
        connection.terminate()


async def filled(url: str, embedder: TinyEmbedder) -> Filling:
    async with connected(url) as connection:
        return await fill(connection, embedder, lambda _: None, again=0.01)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return once something is so."""
    async with asyncio.timeout(WITHIN):
        while not await condition():  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.02)


@dataclass
class Searching:
    """A search by meaning over a database whose vectors nobody keeps unless the test does."""

    database: TestDatabase
    embedder: TinyEmbedder
    meaning: Meaning
    search: KnowledgeSearch
    by_words: KnowledgeSearch

    async def fill(self) -> Filling:
        filling = await filled(self.database.url, self.embedder)
        async with connected(self.database.url) as connection:
            self.meaning.vectors = await VectorStore(self.embedder.name, self.embedder.dimension).ready(connection)
        return filling

    async def found(self, question: str, **options: object) -> list[str]:
        return slugs(await self.search.search(question, **options))  # type: ignore[arg-type]


@asynccontextmanager
async def searching(
    database: TestDatabase, embedder: TinyEmbedder | None = None, settings: PostgresSettings | None = None
) -> AsyncGenerator[Searching]:
    embedder = embedder or TinyEmbedder()
    meaning = Meaning(embedder)
    async with open_database(settings or database.settings) as opened:
        yield Searching(
            database, embedder, meaning, KnowledgeSearch(opened.reads, meaning), KnowledgeSearch(opened.reads)
        )


@asynccontextmanager
async def kept(database: TestDatabase, **settings: object) -> AsyncGenerator[Searching]:
    """A search whose vectors a gateway's task keeps."""
    where = database.settings.model_copy(update=settings)
    async with searching(database, settings=where) as each, vectors_kept(where, each.meaning):
        yield each


@pytest.fixture
async def tiny(database: TestDatabase) -> AsyncGenerator[Searching]:
    async with searching(database) as each:
        yield each


async def add_toys(database: TestDatabase) -> None:
    await add_article(database, "kites", "Fly a kite", "Hold the string, and run against the wind.", tags=["toys"])
    await add_article(database, "boats", "Sail around the lake", "Wait for wind.", tags=["lake"])
    await add_article(database, "segeln", "Sail", "Warte auf Wind.", language="de", tags=["lake"])
    await add_article(database, "bread", "Bake bread", "Flour, water and salt.", tags=["kitchen"])


async def test_an_article_is_found_that_shares_no_word_with_the_question(tiny: Searching) -> None:
    await add_toys(tiny.database)
    await tiny.fill()
    results = await tiny.search.search("dragon")
    best = results.articles[0]
    assert (results.mode, best.slug, best.matched_by) == ("semantic", "kites", "meaning")
    assert best.snippet == "Hold the string, and run against the wind."
    assert best.passage == 1
    assert slugs(await tiny.by_words.search("dragon")) == []


@pytest.mark.parametrize("typed", [".", "!!!", "?", "\U0001f600", "-- // --"])
async def test_what_has_neither_letter_nor_digit_means_nothing(tiny: Searching, typed: str) -> None:
    await add_toys(tiny.database)
    await tiny.fill()
    assert (await tiny.search.search(typed)).articles == []
    assert tiny.embedder.asked == []


async def test_a_question_is_embedded_in_one_form_of_unicode(tiny: Searching) -> None:
    await add_toys(tiny.database)
    await tiny.fill()
    assert (await tiny.found("\uff44\uff52\uff41\u200bgon"))[0] == "kites"
    assert tiny.embedder.asked == ["dragon"]


async def test_an_article_is_embedded_in_one_form_of_unicode(tiny: Searching) -> None:
    await add_article(tiny.database, "wide", "\uff2b\uff29\uff34\uff25", "Fly a ki\u00adte\u2011tail.")
    await tiny.fill()
    assert tiny.embedder.embedded[:2] == ["KITE", "Fly a kite-tail."]


async def test_a_hit_says_by_what_it_was_found(tiny: Searching) -> None:
    await add_toys(tiny.database)
    await add_article(tiny.database, "code", "Trouble in the kitchen", "The oven shows E-4711.")
    await tiny.fill()
    by = {hit.slug: hit.matched_by for hit in (await tiny.search.search("vessel on the lake E-4711")).articles}
    assert by["boats"] == "both"
    assert by["code"] == "code"
    assert (await tiny.search.search("wind")).articles[-1].matched_by in ("words", "both")


async def test_what_has_no_letter_and_no_digit_gets_no_vector(tiny: Searching) -> None:
    tiny.embedder.spread = None  # so that titles are measured, too
    await add_toys(tiny.database)
    for number, (title, body) in enumerate([("", ""), (" ", "\n\n"), ("…", "--- !!! ---"), ("🎉", "")]):
        await add_article(tiny.database, f"nothing{number}", title, body)
    await add_article(tiny.database, "untitled", "", "Fly a dragon.")
    await add_article(tiny.database, "bare", "Sail", "---")
    assert (await tiny.fill()).left == 0
    assert not [text for text in tiny.embedder.embedded if not any(map(str.isalnum, text))]
    async with tiny.database.connect() as connection:
        kept_ones = await connection.fetch(
            "SELECT slug, vector::text FROM vectors_tiny JOIN knowledge_articles ON id = article_id"
        )
    vectors_of = {row["slug"]: [float(number) for number in row["vector"][1:-1].split(",")] for row in kept_ones}
    assert set(vectors_of) == {"kites", "boats", "segeln", "bread", "untitled", "bare"}
    assert vectors_of["untitled"] == pytest.approx(tiny.embedder.vector("Fly a dragon."), abs=0.002)
    assert vectors_of["bare"] == pytest.approx(tiny.embedder.vector("Sail"), abs=0.002)
    assert (await tiny.found("vessel"))[0] in {"boats", "segeln", "bare"}


async def test_an_article_that_becomes_empty_loses_its_vectors(tiny: Searching) -> None:
    await add_toys(tiny.database)
    await tiny.fill()
    async with tiny.database.connect() as connection:
        await connection.execute("UPDATE knowledge_articles SET title = '', body = '---' WHERE slug = 'kites'")
        await tiny.fill()
        kept = "SELECT count(*) FROM vectors_tiny JOIN knowledge_articles ON id = article_id WHERE slug = 'kites'"
        assert await connection.fetchval(kept) == 0
    assert "kites" not in await tiny.found("dragon")


async def test_strangers_questions_find_nothing_by_meaning(tiny: Searching) -> None:
    await add_toys(tiny.database)
    await tiny.fill()
    assert await tiny.found("xylophone quartet") == []
    assert (await tiny.search.search("???")).mode == "lexical"


async def test_an_article_whose_vectors_are_not_made_yet_is_found_by_its_words(tiny: Searching) -> None:
    await add_toys(tiny.database)
    await tiny.fill()
    await add_article(tiny.database, "new", "Polish brass", "Rub it with vinegar.")
    assert (await tiny.found("polish brass"))[0] == "new"
    assert await tiny.found("dragon") == ["kites"]


async def test_what_is_archived_is_gone_at_once(tiny: Searching) -> None:
    await add_toys(tiny.database)
    await tiny.fill()
    async with tiny.database.connect() as connection:
        await connection.execute("UPDATE knowledge_articles SET status = 'archived' WHERE slug = 'kites'")
        assert await tiny.found("dragon") == []
        assert await connection.fetchval("SELECT count(*) FROM vectors_tiny WHERE article_id = 1") == 1
        await tiny.fill()
        assert await connection.fetchval("SELECT count(*) FROM vectors_tiny WHERE article_id = 1") == 0
        await connection.execute("UPDATE knowledge_articles SET status = 'published' WHERE slug = 'kites'")
        await tiny.fill()
        assert await tiny.found("dragon") == ["kites"]
        await connection.execute("DELETE FROM knowledge_articles WHERE slug = 'kites'")
        assert await connection.fetchval("SELECT count(*) FROM vectors_tiny WHERE article_id = 1") == 0


async def test_language_and_tags_narrow_what_is_found_by_meaning(tiny: Searching) -> None:
    await add_toys(tiny.database)
    await tiny.fill()
    assert set(await tiny.found("vessel")) == {"boats", "segeln"}
    assert await tiny.found("vessel", language="de") == ["segeln"]
    assert await tiny.found("vessel", language="German", tags=["LAKE"]) == ["segeln"]
    assert await tiny.found("vessel", tags=["kitchen"]) == []


@pytest.mark.parametrize("of_that_kind", [3, 700])
async def test_what_is_near_is_found_among_many_nearer_ones_of_another_kind(
    tiny: Searching, of_that_kind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "_BODY", vectors._BODY.replace(str(vectors._MOST_OF_A_KIND), "500"))
    async with tiny.database.connect() as connection:
        await connection.execute(
            "INSERT INTO knowledge_articles (slug, title, body, status, language, tags)"
            " SELECT 'kite' || n, 'Kite', 'Kite.', 'published', 'en', '{}'::text[] FROM generate_series(1, 90) n"
            " UNION ALL SELECT 'other' || n, md5('a' || n), md5('b' || n), 'published', 'en', '{}'"
            " FROM generate_series(1, 400) n"
            " UNION ALL SELECT 'rare' || n, md5('c' || n), md5('d' || n), 'published', 'da', '{rare}'"
            " FROM generate_series(1, $1::integer) n",
            of_that_kind,
        )
    await add_article(tiny.database, "drage", "Kite in Denmark", "Flyv.", language="da", tags=["rare"])
    await tiny.fill()
    assert (await tiny.found("dragon", language="da"))[0] == "drage"
    assert (await tiny.found("dragon", tags=["rare"]))[0] == "drage"


async def test_pages_join_without_gap_or_overlap(tiny: Searching) -> None:
    async with tiny.database.connect() as connection:
        await connection.execute(
            "INSERT INTO knowledge_articles (slug, title, body, status)"
            " SELECT 'a' || n, 'Wind ' || n, repeat('Kite. ', n % 7), 'published' FROM generate_series(1, 150) n"
        )
    await tiny.fill()
    whole = await tiny.found("wind for a dragon", limit=50)
    pages = [await tiny.found("wind for a dragon", limit=10, offset=offset) for offset in range(0, 50, 10)]
    assert list(chain.from_iterable(pages)) == whole
    assert len(set(whole)) == 50


async def test_a_question_without_a_vector_is_answered_by_words_and_says_so(tiny: Searching) -> None:
    await add_toys(tiny.database)
    await tiny.fill()
    tiny.embedder.down = True
    results = await tiny.search.search("kite")
    assert (results.mode, slugs(results)) == ("lexical", ["kites"])
    await eventually(lambda: _is(lambda: tiny.search.mode == "lexical"))
    assert "the tiny model is down" in str(tiny.meaning.objection)
    tiny.embedder.down = False
    await tiny.meaning.look_again()
    assert (tiny.search.mode, tiny.meaning.out_of_order) == ("semantic", None)


async def test_a_question_whose_vector_does_not_come_is_answered_by_words_in_time(tiny: Searching) -> None:
    await add_toys(tiny.database)
    await tiny.fill()
    tiny.embedder.question_timeout = 0.05
    tiny.embedder.may_answer.clear()
    async with asyncio.timeout(WITHIN):
        results = await tiny.search.search("kite")
    assert (results.mode, slugs(results)) == ("lexical", ["kites"])
    await eventually(lambda: _is(lambda: "0.05 s" in str(tiny.meaning.objection)))
    tiny.embedder.question_timeout = WITHIN
    tiny.embedder.may_answer.set()
    assert (await tiny.search.search("kite")).mode == "semantic"
    await eventually(lambda: _is(lambda: tiny.meaning.out_of_order is None))


@pytest.mark.parametrize("trouble", ["unthinkable", "unspeakable"])
async def test_questions_that_alone_get_no_vector_change_nothing_for_others(tiny: Searching, trouble: str) -> None:
    await add_toys(tiny.database)
    await tiny.fill()
    tiny.embedder.question_timeout = 0.3
    for number in range(5):
        assert (await tiny.search.search(f"kite {trouble} {number}")).mode == "lexical"
        looking = tiny.meaning._looking
        assert looking is not None
        await asyncio.wait_for(looking, WITHIN)
        assert (tiny.search.mode, tiny.meaning.out_of_order) == ("semantic", None)


async def test_a_vector_that_is_remembered_does_not_hide_that_there_are_no_others(
    tiny: Searching, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_toys(tiny.database)
    await tiny.fill()
    embed = tiny.embedder.embed_question

    async def remembered(question: str) -> Sequence[float]:
        return tiny.embedder.vector(question) if question == "kite" else await embed(question)

    monkeypatch.setattr(tiny.embedder, "embed_question", remembered)
    tiny.embedder.down = True
    await tiny.search.search("dragon")
    await eventually(lambda: _is(lambda: tiny.search.mode == "lexical"))
    assert (await tiny.search.search("kite")).mode == "semantic"
    looking = tiny.meaning._looking
    assert looking is not None
    await asyncio.wait_for(looking, WITHIN)
    assert "the tiny model is down" in str(tiny.meaning.objection)


async def test_a_misspelled_question_is_understood_as_it_was_meant(tiny: Searching) -> None:
    await add_toys(tiny.database)
    await add_article(tiny.database, "words", "A vessel and a dragon", "Words that somebody may misspell.")
    await tiny.fill()
    hits = (await tiny.search.search("whree is the vesesl?")).articles
    assert ("boats", "meaning") in [(hit.slug, hit.matched_by) for hit in hits]


MEANT = [
    ("how do I reset my pasword?", "how do I reset my password?"),
    ("RESET my passwword", "RESET my password"),
    ("reset, whihc invitaiton...", "reset, which invitation..."),
    ("whree is the delivry", "where is the delivery"),
    *[(same, None) for same in ("reset my password", "in the hole", "unauthorized", "certified", "größer ist besser")],
    *[(same, None) for same in ("order 4711a", "und die Sendung", "xylophone")],
]


@pytest.mark.parametrize(("typed", "meant"), MEANT)
async def test_words_are_corrected_for_a_model_where_it_is_sure_what_was_meant(
    tiny: Searching, typed: str, meant: str | None
) -> None:
    body = "Delivery, password, invitations, hold, authorized, certificate, order 4711b, besser, sending."
    await add_article(tiny.database, "english", "Reset", body)
    await add_article(tiny.database, "german", "Sendungen", "Große Sendungen sind besser.", language="de")
    await tiny.fill()
    await tiny.search.search(typed)
    assert tiny.embedder.asked == [typed, *([meant] if meant else [])]


async def test_a_correction_that_gets_no_vector_in_time_is_done_without(tiny: Searching) -> None:
    await add_toys(tiny.database)
    await tiny.fill()
    tiny.embedder.question_timeout = 0.5
    tiny.embedder.hangs_at = "kitchen"
    async with asyncio.timeout(WITHIN):
        results = await tiny.search.search("the dragon in the kithcen")
    assert (results.mode, tiny.meaning.out_of_order) == ("semantic", None)
    assert {"kites", "bread"} <= set(slugs(results))


async def test_one_inner_product_is_the_mean_of_the_cosines_with_title_and_passage(tiny: Searching) -> None:
    await add_article(tiny.database, "a", "Fly a kite", " ".join(f"word{number}" for number in range(250)))
    await tiny.fill()
    async with tiny.database.connect() as connection:
        kept_ones = await connection.fetch("SELECT passage, vector::text FROM vectors_tiny ORDER BY passage")
        storage = await connection.fetchval(
            "SELECT attstorage FROM pg_attribute WHERE attrelid = 'vectors_tiny'::regclass AND attname = 'vector'"
        )
    assert [row["passage"] for row in kept_ones] == [1, 2, 3]
    assert storage == b"p"
    question, title = tiny.embedder.vector("kite"), tiny.embedder.vector("Fly a kite")
    passage = tiny.embedder.vector(" ".join(f"word{number}" for number in range(160, 250)))
    vector = [float(number) for number in kept_ones[2]["vector"][1:-1].split(",")]
    mean = sum(q * (t + p) / 2 for q, t, p in zip(question, title, passage, strict=True))
    assert sum(q * v for q, v in zip(question, vector, strict=True)) == pytest.approx(mean, abs=0.002)


async def test_only_what_changed_is_embedded_again(tiny: Searching) -> None:
    await add_toys(tiny.database)
    await tiny.fill()
    tiny.embedder.embedded.clear()
    async with tiny.database.connect() as connection:
        await connection.execute("UPDATE knowledge_articles SET tags = '{other}', updated_at = now()")
        await connection.execute("UPDATE knowledge_articles SET body = 'Yeast.' WHERE slug = 'bread'")
        await add_article(tiny.database, "draft", "Draft", "Nothing.", status="draft")
    await tiny.fill()
    assert [text for text in tiny.embedder.embedded if "bread" in text or "Yeast" in text] == ["Bake bread", "Yeast."]
    assert not any("kite" in text for text in tiny.embedder.embedded)


async def test_a_text_that_is_refused_keeps_no_other_from_being_found(tiny: Searching) -> None:
    await add_toys(tiny.database)
    await add_article(tiny.database, "bad", "An unspeakable kite", "Nothing.")
    async with connected(tiny.database.url) as connection:
        store = VectorStore("tiny", 256)
        await store.prepare(connection)
        claims = await store.claim(connection, 9)
        bad = [claim for claim in claims if "unspeakable" in claim.texts[0]]
        for _ in range(4):
            await store.release(connection, bad, failed=True)
        await store.release(connection, [claim for claim in claims if claim not in bad], failed=False)
        await connection.execute("UPDATE embedding_queue SET claimed_until = NULL")
    assert (await tiny.fill()).failed == 1
    assert await tiny.found("dragon") == ["kites"]
    assert (await tiny.found("unspeakable"))[0] == "bad"


async def test_no_more_are_claimed_than_are_wanted_whatever_the_planner_thinks(tiny: Searching) -> None:
    await tiny.fill()
    many = (
        "INSERT INTO knowledge_articles (slug, title, body, status)"
        " SELECT $1 || n, 'Title', 'Body', 'published' FROM generate_series(1, 90) n"
    )
    async with connected(tiny.database.url) as connection:
        await connection.execute(many, "a")
        await tiny.fill()
        # That the queue is empty, as it mostly is.
        await connection.execute("VACUUM ANALYZE embedding_queue")
        await connection.execute(many, "b")
        assert len(await VectorStore("tiny", 256).claim(connection, 4)) == 4


async def test_a_change_during_the_embedding_is_not_lost(tiny: Searching) -> None:
    await add_toys(tiny.database)
    async with connected(tiny.database.url) as connection:
        store = VectorStore("tiny", 256)
        await store.prepare(connection)
        claim = next(claim for claim in await store.claim(connection, 9) if claim.article_id == 4)
        await connection.execute("UPDATE knowledge_articles SET title = 'Build a dragon' WHERE id = 4")
        await store.store(connection, claim, claim.mixed(await tiny.embedder.embed_passages(claim.texts)))
        assert await connection.fetchval("SELECT count(*) FROM vectors_tiny WHERE article_id = 4") == 0
        await connection.execute("UPDATE embedding_queue SET claimed_until = NULL")
    await tiny.fill()
    assert set(await tiny.found("kite")) == {"kites", "bread"}


async def test_nobody_who_writes_an_article_waits_for_a_model(tiny: Searching) -> None:
    await add_toys(tiny.database)
    tiny.embedder.may_answer.clear()
    filling = asyncio.create_task(tiny.fill())

    async def claimed() -> bool:
        async with tiny.database.connect() as connection:
            if not await connection.fetchval("SELECT to_regclass('vectors_tiny') IS NOT NULL"):
                return False
            return await connection.fetchval("SELECT bool_or(claimed_until IS NOT NULL) FROM embedding_queue")

    await eventually(claimed)
    async with tiny.database.connect() as connection:
        await connection.execute("SET lock_timeout = '20s'")
        await connection.execute("UPDATE knowledge_articles SET body = 'Changed.'")
    tiny.embedder.may_answer.set()
    await filling
    assert "Changed." in tiny.embedder.embedded


async def test_vectors_of_another_dimension_are_made_anew(tiny: Searching) -> None:
    await add_toys(tiny.database)
    await tiny.fill()
    async with searching(tiny.database, TinyEmbedder(dimension=96)) as wider:
        async with connected(tiny.database.url) as connection:
            assert await VectorStore("tiny", 96).ready(connection) is None
        await wider.fill()
        assert await wider.found("dragon") == ["kites"]


async def test_what_another_version_has_made_to_find_neighbours_is_replaced(
    tiny: Searching, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_toys(tiny.database)
    with monkeypatch.context() as before:
        before.setattr(vectors, "_BODY", "BEGIN END")
        await tiny.fill()
    assert await tiny.found("dragon") == []
    await tiny.fill()
    assert await tiny.found("dragon") == ["kites"]


async def test_models_stand_side_by_side_and_one_can_be_forgotten(tiny: Searching) -> None:
    await add_toys(tiny.database)
    await tiny.fill()
    async with searching(tiny.database, TinyEmbedder(name="other_model-2")) as other:
        await other.fill()
        await add_article(tiny.database, "more", "Mend a kite", "Glue.")
        assert (await other.fill()).left == 0
        assert set(await other.found("dragon")) == {"kites", "more"}
        assert await tiny.found("dragon") == ["kites"]
        async with connected(tiny.database.url) as connection:
            assert await VectorStore("other_model-2", 256).forget(connection)
            assert not await VectorStore("other_model-2", 256).forget(connection)
    assert set(await tiny.found("kite")) == {"kites", "more"}


@pytest.mark.parametrize("spread", [0.1, None])
async def test_the_measure_of_a_model_is_found_where_nobody_knows_it(
    database: TestDatabase, spread: float | None
) -> None:
    async with searching(database, TinyEmbedder(spread=spread)) as each:
        await each.fill()
        assert each.meaning.vectors is not None
        assert each.meaning.vectors.spread == 0.1 if spread else 0.01 < each.meaning.vectors.spread < 0.5
        await add_toys(database)
        await each.fill()
        assert (await each.found("dragon"))[0] == "kites"


async def test_a_gateway_finds_an_article_by_meaning_soon_after_its_commit(database: TestDatabase) -> None:
    await add_toys(database)
    async with kept(database) as each:

        async def finds(question: str, slug: str) -> bool:
            results = await each.search.search(question)
            return results.mode == "semantic" and slug in slugs(results)

        await eventually(lambda: finds("dragon", "kites"))
        await eventually(lambda: _is(lambda: each.meaning.objection is None))
        async with asyncio.timeout(12):  # less than until the next look without a notice
            await add_article(database, "new", "Get a refund", "Ask us.")
            await eventually(lambda: finds("reimbursement", "new"))


async def _is(condition: Callable[[], bool]) -> bool:
    return condition()


async def test_two_gateways_embed_each_article_once(database: TestDatabase) -> None:
    async with database.connect() as connection:
        await connection.execute(
            "INSERT INTO knowledge_articles (slug, title, body, status)"
            " SELECT 'a' || n, 'Title ' || n, 'Body number ' || n, 'published' FROM generate_series(1, 60) n"
        )
    async with kept(database) as one, kept(database) as other:
        await eventually(lambda: _is(lambda: one.meaning.mode == other.meaning.mode == "semantic"))
        embedded = [text for each in (one, other) for text in each.embedder.embedded if text.startswith("Body number")]
    assert sorted(embedded) == sorted(f"Body number {number}" for number in range(1, 61))


async def test_what_a_gateway_has_claimed_that_died_is_embedded_by_another_as_soon_as_the_claim_ends(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_toys(database)
    await filled(database.url, TinyEmbedder())
    # So that nothing but the end of the claim wakes the other.
    for pause in ("_LOOK_AFTER", "_LOOK_SOON"):
        monkeypatch.setattr(keeping, pause, 1000.0)
    async with kept(database) as each, connected(database.url) as of_the_dead:

        async def finds() -> bool:
            return "new" in await each.found("reimbursement")

        await eventually(lambda: _is(lambda: each.meaning.objection is None))
        async with of_the_dead.transaction():
            await of_the_dead.execute(
                "INSERT INTO knowledge_articles (slug, title, body, status)"
                " VALUES ('new', 'Get a refund', 'Ask us.', 'published')"
            )
            assert len(await VectorStore("tiny", 256).claim(of_the_dead, 9)) == 1
        await eventually(finds)


def test_an_article_is_found_by_meaning_within_five_seconds_though_who_had_claimed_it_died() -> None:
    # Also where a pooler lets no notice through, so that the queue is looked at from time to time.
    assert keeping._LOOK_SOON + vectors._LONGEST_CLAIM < 5
    assert keeping._RENEW_AFTER * 4 < vectors._LONGEST_CLAIM


async def test_claims_are_renewed_while_a_model_works(tiny: Searching) -> None:
    await add_toys(tiny.database)
    tiny.embedder.may_answer.clear()
    filling = asyncio.create_task(tiny.fill())
    claims = set[object]()

    async def renewed() -> bool:
        async with tiny.database.connect() as connection:
            if await connection.fetchval("SELECT to_regclass('vectors_tiny') IS NOT NULL"):
                claims.add(await connection.fetchval("SELECT max(claimed_until) FROM embedding_queue"))
        return len(claims - {None}) >= 3

    await eventually(renewed)
    tiny.embedder.may_answer.set()
    await filling
    assert await tiny.found("dragon") == ["kites"]


async def test_vectors_are_kept_after_the_connection_was_lost(database: TestDatabase) -> None:
    await add_toys(database)
    async with kept(database) as each:
        await eventually(lambda: _is(lambda: each.meaning.objection is None))
        async with database.connect() as connection:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        await add_article(database, "new", "Get a refund", "Ask us.")

        async def finds() -> bool:
            return "new" in await each.found("reimbursement")

        await eventually(finds)


async def test_a_model_that_is_down_is_tried_again_and_told_of(database: TestDatabase) -> None:
    await add_toys(database)
    embedder = TinyEmbedder(down=True)
    async with searching(database, embedder) as each, vectors_kept(database.settings, each.meaning):
        await eventually(lambda: _is(lambda: "the tiny model is down" in str(each.meaning.objection)))
        assert (await each.search.search("kite")).mode == "lexical"
        embedder.down = False
        await eventually(lambda: _is(lambda: each.meaning.objection is None))


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    lines = [record for record in caplog.records if record.name == "app.services.postgres.knowledge.meaning"]
    return [(line.levelname, line.getMessage()) for line in lines]


@pytest.mark.parametrize("of", ["questions", "articles", "both"])
async def test_the_log_tells_once_that_an_embedder_fails_and_once_that_it_works_again(
    database: TestDatabase, caplog: pytest.LogCaptureFixture, of: str
) -> None:
    caplog.set_level("INFO")
    await add_toys(database)
    async with kept(database) as each:
        await eventually(lambda: _is(lambda: each.meaning.objection is None))
        assert told(caplog) == []
        each.embedder.down = True
        if of != "articles":
            for number in range(5):
                await each.search.search(f"kite {number}")
            await eventually(lambda: _is(lambda: each.meaning.out_of_order is not None))
        if of != "questions":
            await add_article(database, "new", "Get a refund", "Ask us.")
            await eventually(lambda: _is(lambda: "is down" in str(each.meaning.why_not_kept)))
        await eventually(lambda: _is(lambda: told(caplog) != []))
        each.embedder.down = False
        await each.search.search("dragon")
        await eventually(lambda: _is(lambda: each.meaning.objection is None))
    (level, first), *between, (last_level, last) = told(caplog)
    assert (level, last_level) == ("WARNING", "INFO")
    assert first.startswith("The model of EMBEDDINGS is down: the tiny model is down")
    assert last.startswith("The model of EMBEDDINGS answers again, after ")
    assert all("still down, for another reason" in line for _, line in between)
    assert len(between) <= 1
    assert not [line for _, line in told(caplog) if "kite" in line or "refund" in line]


async def test_the_log_tells_of_an_embedder_that_does_not_start(
    database: TestDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    embedder = TinyEmbedder(down=True)
    async with searching(database, embedder) as each, vectors_kept(database.settings, each.meaning):
        await eventually(lambda: _is(lambda: told(caplog) != []))
        embedder.down = False
        await eventually(lambda: _is(lambda: each.meaning.objection is None))
    assert [level for level, _ in told(caplog)] == ["WARNING", "INFO"]


async def test_a_failure_of_the_task_that_nobody_foresaw_is_told_of(database: TestDatabase) -> None:
    embedder = TinyEmbedder()

    async def broken() -> None:
        raise ZeroDivisionError

    embedder.start = broken
    async with searching(database, embedder) as each, vectors_kept(database.settings, each.meaning):
        await eventually(lambda: _is(lambda: "restart the gateway" in str(each.meaning.objection)))


@asynccontextmanager
async def login(server: LocalPostgres, database: TestDatabase, *statements: str) -> AsyncGenerator[TestDatabase]:
    """A login that is no superuser, with the rights that the statements give it."""
    name = f"clerk_{database.url.rpartition('_')[2]}"
    async with database.connect() as connection:
        await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'clerk'")
        for statement in statements:
            await connection.execute(statement.format(name=name))
        try:
            url = server.url(database.url.rpartition("/")[2], name, "clerk")
            yield TestDatabase(url, database.reader_url)
        finally:
            await connection.execute(f"DROP OWNED BY {name}")
            await connection.execute(f"DROP ROLE {name}")


async def test_without_pgvector_articles_are_found_by_words_and_the_reason_is_told(
    postgres_server: LocalPostgres, database: TestDatabase
) -> None:
    await add_toys(database)
    grants = "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {name}"
    async with login(postgres_server, database, grants) as clerk, kept(clerk) as each:
        await eventually(lambda: _is(lambda: "CREATE EXTENSION vector" in str(each.meaning.objection)))
        assert (await each.search.search("kite")).mode == "lexical"
        assert await each.found("kite") == ["kites"]


async def test_a_login_that_may_not_make_tables_keeps_the_vectors_once_they_are_made(
    postgres_server: LocalPostgres, database: TestDatabase
) -> None:
    await add_toys(database)
    grants = ("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {name}",)
    async with database.connect() as connection:
        await connection.execute("CREATE EXTENSION vector")
    async with login(postgres_server, database, *grants) as clerk, kept(clerk) as each:
        await eventually(lambda: _is(lambda: "switchboard embed" in str(each.meaning.objection)))
        await filled(database.url, TinyEmbedder())
        await eventually(lambda: _is(lambda: each.meaning.objection is None))
        await add_article(database, "new", "Get a refund", "Ask us.")

        async def finds() -> bool:
            return await each.found("reimbursement") == ["new"]

        await eventually(finds)


async def test_a_login_that_only_reads_searches_by_what_others_have_made(
    postgres_server: LocalPostgres, database: TestDatabase
) -> None:
    await add_toys(database)
    grants = (
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}",
        "ALTER ROLE {name} SET default_transaction_read_only = on",
    )
    async with database.connect() as connection:
        await connection.execute("CREATE EXTENSION vector")
    async with login(postgres_server, database, *grants) as clerk:
        await filled(database.url, TinyEmbedder())
        async with kept(clerk) as each:
            await eventually(lambda: _is(lambda: each.meaning.objection is None))
            assert await each.found("dragon") == ["kites"]


async def test_a_standby_finds_what_its_primary_has_made_and_makes_vectors_once_it_is_promoted() -> None:
    with cluster_directory() as first, cluster_directory() as second:
        async with run_postgres(first, durable=False) as server:
            await migrate(server.url())
            primary = TestDatabase(server.url(), server.url())
            async with primary.connect() as connection:
                await connection.execute("CREATE EXTENSION vector")
            await asyncio.to_thread(follow, server, first, second)
            async with run_postgres(second, durable=False) as copy:
                standby = TestDatabase(copy.url(), copy.url())
                async with kept(standby) as each:

                    async def finds(question: str, slug: str) -> bool:
                        return slug in await each.found(question)

                    await eventually(lambda: _is(lambda: "can't be written to" in str(each.meaning.objection)))
                    await add_toys(primary)
                    await filled(primary.url, TinyEmbedder())
                    await eventually(lambda: finds("dragon", "kites"))
                    async with standby.connect() as connection:
                        await connection.execute("SELECT pg_promote()")
                    await add_article(standby, "new", "Get a refund", "Ask us.")
                    await eventually(lambda: finds("reimbursement", "new"))


async def test_a_pgvector_that_is_too_old_is_told(tiny: Searching) -> None:
    async with tiny.database.connect() as connection:
        await connection.execute("CREATE EXTENSION vector")
        await connection.execute("UPDATE pg_extension SET extversion = '0.7.4' WHERE extname = 'vector'")
    with pytest.raises(BackendNotConfigured, match=r"0\.7\.4; install 0\.8 or newer"):
        await tiny.fill()
    assert await tiny.found("kite") == []


@pytest.mark.parametrize("direct", [True, False])
async def test_behind_a_pooler_vectors_are_kept_with_and_without_a_way_past_it(
    database: TestDatabase, direct: bool
) -> None:
    await add_toys(database)
    async with run_pgbouncer(database.url, mode="transaction") as (url,):
        pooled = TestDatabase(url, database.reader_url)
        async with kept(pooled, direct_url=SecretStr(database.url) if direct else None) as each:
            await eventually(lambda: _is(lambda: each.meaning.objection is None))
            await add_article(database, "new", "Get a refund", "Ask us.")

            async def finds() -> bool:
                return await each.found("reimbursement") == ["new"]

            await eventually(finds)


async def test_a_writer_of_articles_needs_no_right_to_the_queue(
    postgres_server: LocalPostgres, database: TestDatabase
) -> None:
    await filled(database.url, TinyEmbedder())
    grants = (
        "GRANT SELECT, INSERT, UPDATE ON knowledge_articles TO {name}",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON article_search, search_words TO {name}",
    )
    async with login(postgres_server, database, *grants) as clerk:
        await add_article(clerk, "kites", "Fly a kite", "Run.")
    async with database.connect() as connection:
        assert await connection.fetchval("SELECT count(*) FROM embedding_queue") == 1


@dataclass
class OneConnection:
    """Reads over one connection, whose prepared statements can be looked at."""

    connection: Connection
    prepared: "dict[str, PreparedStatement[asyncpg.Record]]" = field(
        default_factory=dict[str, "PreparedStatement[asyncpg.Record]"]
    )

    async def fetch_json(self, statement: Statement, **values: object) -> str | None:
        if statement.sql not in self.prepared:
            name = f"statement_{len(self.prepared)}"
            self.prepared[statement.sql] = await self.connection.prepare(statement.sql, name=name)
        return await self.prepared[statement.sql].fetchval(*statement.arguments(values))


@pytest.mark.parametrize("by_meaning", [False, True])
async def test_the_ranking_is_planned_once_for_whatever_is_asked(tiny: Searching, by_meaning: bool) -> None:
    await add_toys(tiny.database)
    await tiny.fill()
    async with connected(tiny.database.url) as connection:
        reads = cast("ReadPool", OneConnection(connection))
        search = KnowledgeSearch(reads, tiny.meaning if by_meaning else None)
        for question in (
            "wind",
            "dragon on the lake",
            "sail",
            "bread and salt",
            "kite",
            "run against the wind",
            "flour",
        ):
            for options in ({}, {"language": "de"}, {"tags": ["lake"]}, {"limit": 20, "offset": 1}):
                await search.search(question, **options)  # type: ignore[arg-type]
        # PostgreSQL plans the first five times for what is asked, and looks then whether that was worth it.
        assert (
            await connection.fetchval(
                "SELECT max(custom_plans) FROM pg_prepared_statements WHERE statement LIKE '%scored%'"
            )
            == 5
        )


async def test_similar_articles_are_found_by_meaning_or_by_the_words_of_the_title(tiny: Searching) -> None:
    await add_toys(tiny.database)
    await add_article(tiny.database, "dragons", "Build a dragon", "Paper.")
    await add_article(tiny.database, "draft", "Fly a kite again", "Paper.", status="draft")
    by_words = await tiny.search.similar(1)
    assert by_words.mode == "lexical"
    await tiny.fill()
    likest = await tiny.search.similar(1, limit=1)
    assert (likest.mode, [article.slug for article in likest.articles]) == ("semantic", ["dragons"])
    assert 0 < likest.articles[0].similarity <= 1
    assert 1 not in [article.id for article in (await tiny.search.similar(1, limit=20)).articles]
    words = await tiny.by_words.similar(2)
    assert (words.mode, [article.slug for article in words.articles]) == ("lexical", ["segeln"])


@pytest.mark.parametrize("article", ["draft", "archived", "missing"])
async def test_nothing_is_similar_to_what_nobody_may_see(tiny: Searching, article: str) -> None:
    await add_toys(tiny.database)
    await add_article(tiny.database, "unseen", "Fly a secret kite", "Paper.", status="published")
    await tiny.fill()
    status = {"draft": "draft", "archived": "archived"}.get(article, "draft")
    async with tiny.database.connect() as connection:
        await connection.execute("UPDATE knowledge_articles SET status = $1 WHERE slug = 'unseen'", status)
        unseen = await connection.fetchval("SELECT id FROM knowledge_articles WHERE slug = 'unseen'")
    for search in (tiny.search, tiny.by_words):
        with pytest.raises(NotFound):
            await search.similar(unseen if article != "missing" else 10**9)
    assert "unseen" not in [hit.slug for hit in (await tiny.search.similar(1, limit=20)).articles]


async def test_the_migration_and_the_way_back_leave_nothing(tiny: Searching) -> None:
    await add_toys(tiny.database)
    await add_article(tiny.database, "code", "Error E-4711", "Nothing.")
    await tiny.fill()
    await downgrade(tiny.database.url, "0009")
    left = "SELECT array_agg(relname::text) FROM pg_class WHERE relname ~ '^(vectors_|embedding_)' AND relkind = 'r'"
    async with tiny.database.connect() as connection:
        assert await connection.fetchval(left) is None
        assert not await connection.fetchval("SELECT bool_or(content::text ~ '=e4711') FROM article_search")
        await connection.execute("UPDATE knowledge_articles SET body = 'Not one.' WHERE slug = 'code'")
    await migrate(tiny.database.url)
    await tiny.fill()
    assert await tiny.found("dragon") == ["kites"]
    assert (await tiny.found("e4711"))[0] == "code"


async def test_the_reader_sees_nothing_of_vectors_and_queue(tiny: Searching) -> None:
    await tiny.fill()
    reader = await asyncpg.connect(tiny.database.reader_url)
    try:
        for table in ("embedding_models", "embedding_queue", "vectors_tiny"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await reader.execute(f"SELECT FROM {table}")
    finally:
        await reader.close()
