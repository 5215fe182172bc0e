"""Codes: the one that was asked for, never one that looks alike."""

import re
from collections.abc import AsyncGenerator

import pytest

from app.local.postgres import LocalPostgres
from app.services.postgres.connections.pools import open_database
from app.services.postgres.knowledge.codes import codes_in
from app.services.postgres.knowledge.search import KnowledgeSearch
from tests.fixtures.postgres import TestDatabase, cloned_database
from tests.services.postgres.knowledge.test_search import add_article, slugs

FAMILIES = (
    *(("E-4711", "E-4712"), ("E-4117", "F-4711"), ("ERR_1001", "ERR_1010"), ("0x80070057", "0x80070075")),
    *(("PX-200", "PX-2000"), ("PX-200i", "PY-200"), ("v2.3.1", "v2.31"), ("v2.1.3", "v23.1")),
    *(("INV-2024-001", "INV-2024-010"), ("INV-2023-001", "INV-2024-100"), ("SKU 88431", "SKU 88413")),
    *(("ABC123", "ABC132"), ("ABD123", "ABC1234"), ("TX-9F3A", "TX-9F3B"), ("K8S-77", "K8S-78")),
)
CODES = [code for family in FAMILIES for code in family]
"""Each beside others that look like it."""
QUESTIONS = ("what does {} mean", "{}", "i keep getting {} when i start the machine, please help")


def slug(code: str) -> str:
    return "".join(character if character.isalnum() else "-" for character in code.lower())


@pytest.fixture(scope="module", params=["title", "body"])
async def manual(
    request: pytest.FixtureRequest, postgres_server: LocalPostgres, postgres_template: str
) -> AsyncGenerator[KnowledgeSearch]:
    """Search over articles that differ in nothing but the code, which the title or the text alone holds."""
    async with cloned_database(postgres_server, postgres_template) as database:
        await add_manual(database, in_title=request.param == "title")
        async with open_database(database.settings) as opened:
            yield KnowledgeSearch(opened.reads)


async def add_manual(database: TestDatabase, *, in_title: bool) -> None:
    """Write an article for each code."""
    for code in CODES:
        title = f"What {code} means" if in_title else "What the machine shows when it does not start"
        body = f"The machine shows {code} when it does not start. Turn it off and on again, and call us if it stays."
        await add_article(database, slug(code), title, body)


@pytest.mark.parametrize("question", QUESTIONS)
async def test_the_article_with_the_code_comes_first(manual: KnowledgeSearch, question: str) -> None:
    wrong = [code for code in CODES if slugs(await manual.search(question.format(code)))[0] != slug(code)]
    assert wrong == []


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        ("e4711", "E-4711"),
        ("E 4711", "E-4711"),
        ("E-4711-Fehler", "E-4711"),
        ("error E_4711!", "E-4711"),
        ("px200", "PX-200"),
        ("PX 200", "PX-200"),
        ("err1001", "ERR_1001"),
        ("sku88431", "SKU 88431"),
        ("inv2024-001", "INV-2024-001"),
        ("INV2024001", "INV-2024-001"),
        ("inv 2024-010", "INV-2024-010"),
        ("0X80070057.", "0x80070057"),
        ("\uff25\uff0d\uff14\uff17\uff11\uff11", "E-4711"),
        ("E\u20114711", "E-4711"),
        ("E-\u200b4711", "E-4711"),
    ],
)
async def test_a_code_may_be_spelled_in_other_ways(manual: KnowledgeSearch, typed: str, code: str) -> None:
    best = (await manual.search(f"my machine says {typed}")).articles[0]
    assert (best.slug, best.matched_by) == (slug(code), "code")
    assert code in best.snippet.replace("**", "") or code in best.title


@pytest.mark.parametrize("typed", ["E-4713", "PX-201", "v2.3.2", "ABC12", "4713"])
async def test_a_code_that_no_article_holds_leads_to_none_that_looks_like_it(
    manual: KnowledgeSearch, typed: str
) -> None:
    assert not [hit for hit in (await manual.search(f"my machine says {typed}")).articles if hit.matched_by == "code"]


@pytest.mark.parametrize("question", ["{}", "What does error {} mean?", "my machine says {}, is that bad?"])
async def test_the_article_with_the_code_fits_however_it_is_spelled(manual: KnowledgeSearch, question: str) -> None:
    for code in CODES:
        for typed in (code, code.lower()):
            best = (await manual.search(question.format(typed))).articles[0]
            assert (best.slug, best.fit >= 0.75) == (slug(code), True), (typed, best.fit)


@pytest.mark.parametrize("typed", ["px 200", "tx 9f3a", "sku 88431", "PX 200"])
async def test_a_code_after_letters_that_are_no_word_is_a_name_in_small_letters_too(
    manual: KnowledgeSearch, typed: str
) -> None:
    best = (await manual.search(f"how long does my {typed} last")).articles[0]
    assert (best.slug, best.fit >= 0.75) == (typed.lower().replace(" ", "-"), True)


@pytest.mark.parametrize(
    "typed",
    [
        "error 404",
        "Error code: 404",
        "i get a 404 error",
        "fehler 404 was tun",
        "ERROR 404",
        "http 404",
        "Fehler Nr. 404",
        "error #404",
    ],
)
async def test_a_short_number_is_a_code_beside_a_word_that_announces_one(database: TestDatabase, typed: str) -> None:
    await add_article(database, "missing", "A page is missing", "The browser shows 404 for what has moved.")
    await add_article(database, "error", "Report an error", "Tell us which error code you see.")
    async with open_database(database.settings) as opened:
        best = (await KnowledgeSearch(opened.reads).search(typed)).articles[0]
    assert (best.slug, best.matched_by, best.fit >= 0.75) == ("missing", "code", True)


@pytest.mark.parametrize(("held", "typed"), [("INV-2024-001", "inv2024001"), ("INV2024001", "INV-2024-001")])
async def test_many_digits_are_a_code_with_hyphens_or_without(database: TestDatabase, held: str, typed: str) -> None:
    await add_article(database, "right", "An invoice", f"It is about {held}.")
    await add_article(database, "wrong", "An invoice", "It is about INV-2024-0011, and INV2024002.")
    await add_article(database, "short", "A version", "It is about v2.3.1.")
    async with open_database(database.settings) as opened:
        search = KnowledgeSearch(opened.reads)
        best = (await search.search(f"where is {typed}")).articles[0]
        assert (best.slug, best.matched_by, best.fit >= 0.75) == ("right", "code", True)
        assert "code" not in {hit.matched_by for hit in (await search.search("version v231")).articles}


@pytest.mark.parametrize("typed", ["ZQ-9982", "zq9982", "ZQ-9982-Fehler", "ZR-9981", "ZQ-99811", "ZQ 9982", "zq 9982"])
@pytest.mark.parametrize("question", ["{}", "{} pump failure", "Pump failure: error code {} shows when the pump stops"])
async def test_an_article_about_a_code_that_looks_alike_does_not_fit(
    pumps: KnowledgeSearch, question: str, typed: str
) -> None:
    articles = {hit.slug: hit for hit in (await pumps.search(question.format(typed))).articles}
    assert "zq-9981" not in articles or articles["zq-9981"].fit <= 0.4


@pytest.mark.parametrize("typed", ["ZQ-9981", "zq9981", "ZQ_9981", "error zq-9981", "is ZQ-9982 the same as ZQ-9981"])
async def test_what_is_said_of_another_code_takes_nothing_from_the_article_of_this_one(
    pumps: KnowledgeSearch, typed: str
) -> None:
    best = (await pumps.search(typed)).articles[0]
    assert best.slug == "zq-9981"
    assert best.fit >= 0.75


@pytest.mark.parametrize(
    "said",
    [
        *(
            "within 30 days",
            "within 300 days",
            "for 2 users",
            "in 2024",
            "a 1000 euros",
            "EUR 250",
            "in 24h",
            "2nd time",
            "rs 300",
            "100 errors",
            "v 2024",
        ),
        *(
            "order 4712",
            "order INV-2024-077",
            "my iphone15",
            "10x15",
            "3.5 kg",
            "on 2024-11-26",
            "24/7",
            "0800-123 457",
        ),
    ],
)
async def test_amounts_years_and_strange_codes_ruin_no_question(pumps: KnowledgeSearch, said: str) -> None:
    without = re.sub(r"\S*\d\S*", "", said)
    plain = {hit.slug: hit.fit for hit in (await pumps.search(f"return a rented pump {without}")).articles}
    found = {hit.slug: hit.fit for hit in (await pumps.search(f"return a rented pump {said}")).articles}
    assert found["rented"] >= 0.5 * plain["rented"]
    assert found["zq-9981"] <= plain["zq-9981"]


@pytest.fixture(scope="module")
async def pumps(postgres_server: LocalPostgres, postgres_template: str) -> AsyncGenerator[KnowledgeSearch]:
    """Search over an article about a code, one about none, and one with numbers."""
    async with cloned_database(postgres_server, postgres_template) as database:
        await add_article(database, "zq-9981", "Pump failure", "Error code ZQ-9981 shows when the pump stops.")
        await add_article(database, "filter", "Clean the filter", "It is in the pump, and fails if it is dirty.")
        await add_article(
            database,
            "rented",
            "Return a rented pump",
            "Within 14 days, 2 pumps at most, in 2023 a 1500 euros, EUR 100, call 0800-123 456 before 10:30.",
        )
        async with open_database(database.settings) as opened:
            yield KnowledgeSearch(opened.reads)


async def test_what_many_articles_hold_is_no_code(database: TestDatabase) -> None:
    for number in range(6):
        await add_article(database, f"a{number}", f"Guide {number}", "Within 300 days.")
    await add_article(database, "rare", "Another guide", "Within 301 days.")
    async with open_database(database.settings) as opened:
        search = KnowledgeSearch(opened.reads)
        assert "code" not in {hit.matched_by for hit in (await search.search("300 days")).articles}
        assert (await search.search("301 days")).articles[0].matched_by == "code"


async def test_questions_and_articles_spell_codes_alike(database: TestDatabase) -> None:
    texts = [*CODES, "E-4711-Fehler", "PX 200", "v2.3.1!", "(INV-2024/001)", "0800-123 456", "é-12", "12.30-ÄB"]
    async with database.connect() as connection:
        for text in texts:
            held = await connection.fetchval("SELECT article_codes($1)", text)
            asked = [f"={spelling}" for code in codes_in(text) for spelling in code.spellings]
            assert set(asked) & set(held) or not asked, (text, asked, held)
            assert all(len(code.spellings) <= 7 for code in codes_in(text))


@pytest.mark.parametrize(
    ("text", "passages"),
    [
        ("", []),
        ("  \n ", []),
        ("one two", ["one two"]),
        (" ".join(f"w{number}" for number in range(110)), [(0, 110)]),
        (" ".join(f"w{number}" for number in range(111)), [(0, 110), (80, 111)]),
        (" ".join(f"w{number}" for number in range(190)), [(0, 110), (80, 190)]),
    ],
)
async def test_passages_overlap_and_the_last_one_says_something_new(
    database: TestDatabase, text: str, passages: list[str | tuple[int, int]]
) -> None:
    words = text.split()
    expected = [passage if isinstance(passage, str) else " ".join(words[slice(*passage)]) for passage in passages]
    async with database.connect() as connection:
        rows = await connection.fetch("SELECT number, passage FROM article_passages($1)", text)
    assert [row["passage"] for row in rows] == expected
    assert [row["number"] for row in rows] == list(range(1, len(expected) + 1))


@pytest.mark.parametrize("text", ["密码重置" * 500, "x" * 30_000, "ภาษาไทย" * 900, "Wort" * 5000])
async def test_no_passage_is_longer_than_a_model_reads(database: TestDatabase, text: str) -> None:
    async with database.connect() as connection:
        rows = await connection.fetch("SELECT passage FROM article_passages($1)", text)
    assert rows[0]["passage"] == text[: len(rows[0]["passage"])]
    assert max(len(row["passage"]) for row in rows) <= 110 * 24
    assert len(rows) <= 200
