"""How answers are written, by passages and by a model."""

import json
from collections.abc import Generator

import httpx
import pytest
import respx

from agents.answers import (
    GOOD_FIT,
    Answer,
    AnswerFailed,
    Article,
    ArticleWriter,
    Asked,
    ModelWriter,
    configured_writer,
    fitting_passage,
    phrases_for,
)
from agents.base import Degradation
from agents.knowledge import sources_of, write_answer

BODY = """Introduction.

## Ask for it

1. Open the invoice.
2. Press the button.

## How long it takes

Cards take 5 days.
"""
ARTICLE = Article(id=1, slug="refund", title="Refunds", score=2.0, snippet="Press the **button**", body=BODY)
OTHER = Article(id=2, slug="other", title="Other", score=1.0)


@pytest.fixture
def model() -> Generator[respx.Route]:
    with respx.mock() as router:
        yield router.post("http://model/v1/chat/completions")


def completion(text: str | None) -> dict[str, object]:
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


def test_the_section_that_fits_the_question_is_taken() -> None:
    assert fitting_passage(BODY, "how long do i have to wait?") == (
        "Introduction.\n\n**How long it takes**\n\nCards take 5 days."
    )
    assert "Open the invoice" in fitting_passage(BODY, "asking for money")
    assert fitting_passage("Only this.", "what else?") == "Only this."


def test_where_the_question_tells_no_section_from_the_others_the_first_one_is_taken() -> None:
    body = (
        "Look at the page.\n\n## It is late\n\nWait.\n\n## It is lost\n\nThe parcel is in our hands until it arrived."
    )
    assert "Wait." in fitting_passage(body, "my parcel has not arrived", "My parcel is late, lost or has not arrived")
    assert "in our hands" in fitting_passage(body, "my parcel is lost", "My parcel is late, lost or has not arrived")


async def test_an_answer_greets_a_customer_who_is_known() -> None:
    writer = ArticleWriter()
    answer = await writer.write([Asked("button", [ARTICLE, OTHER])], {"name": "Ada Lovelace"})
    assert answer.text.startswith("Hello Ada,\n\nIntroduction.")
    assert [article.slug for article in answer.used] == ["refund"], "what was found but not used is no source"
    snippet_only = ARTICLE.model_copy(update={"body": ""})
    assert (await writer.write([Asked("button", [snippet_only])], None)).text == "Press the button"
    german = ARTICLE.model_copy(update={"language": "de-AT"})
    assert (await writer.write([Asked("Knopf", [german])], {"name": "Ada"})).text.startswith("Guten Tag Ada,")


async def test_each_question_gets_its_passage_and_one_that_nothing_answers_a_person() -> None:
    delivery = Article(id=3, slug="delivery", title="Delivery", score=1.0, body="Parcels take two days.")
    unfit = OTHER.model_copy(update={"fit": GOOD_FIT - 0.01})
    asked = [Asked("how long?", [ARTICLE]), Asked("and the parcel?", [delivery]), Asked("and pizza?", [unfit])]
    answer = await write_answer(ArticleWriter(), asked, {"name": "Ada"}, [])
    assert answer.text == (
        "Hello Ada,\n\n> how long?\n\nIntroduction.\n\n**How long it takes**\n\nCards take 5 days.\n\n"
        "> and the parcel?\n\nParcels take two days.\n\n"
        "About “and pizza?” I found no article that surely answers it.\n\n"
        "From our help pages: Refunds, Delivery"
    )
    assert answer.needs_person
    assert not (await write_answer(ArticleWriter(), asked[:2], None, [])).needs_person


async def test_a_model_is_shown_the_articles_and_only_what_it_needs_of_the_customer(model: respx.Route) -> None:
    model.respond(json=completion(" Press it. "))
    writer = ModelWriter("small", "http://model/v1/", "secret")
    customer = {"name": "Ada", "plan": "pro", "language": "en", "email": "ada@example.com"}
    answer = await writer.write([Asked("Where?", [ARTICLE, OTHER])], customer)
    assert (answer.text, answer.written_by, len(answer.used)) == ("Press it.", "small", 2)
    request = model.calls.last.request
    assert request.headers["authorization"] == "Bearer secret"
    sent = json.loads(request.content)
    assert sent["model"] == "small"
    assert "Cards take 5 days." in sent["messages"][0]["content"]
    assert "Where?" in sent["messages"][1]["content"]
    assert "ada@example.com" not in request.content.decode()


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(500),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json={"choices": []}),
        httpx.Response(200, json=completion(None)),
        httpx.Response(200, json=completion("  ")),
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
    ],
)
async def test_where_a_model_fails_the_articles_speak(
    model: respx.Route, answer: httpx.Response | httpx.HTTPError
) -> None:
    model.mock(side_effect=[answer, answer])
    writer = ModelWriter("small", "http://model/v1")
    with pytest.raises(AnswerFailed):
        await writer.write([Asked("Where?", [ARTICLE])], None)
    degraded: list[Degradation] = []
    written = await write_answer(writer, [Asked("how long?", [ARTICLE])], None, degraded)
    assert (written.written_by, "Cards take 5 days." in written.text) == ("articles", True)
    assert [entry.code for entry in degraded] == ["answer_failed"]


@pytest.mark.parametrize("language", ["en", "de", "nl", None])
async def test_where_no_article_fits_no_model_is_asked_and_a_person_has_to_answer(language: str | None) -> None:
    unfit = ARTICLE.model_copy(update={"fit": 0.3})
    for articles in ([], [unfit]):
        writer = ModelWriter("small", "http://model")
        answer = await write_answer(writer, [Asked("?", articles)], {"language": language}, [])
        assert answer == Answer(
            phrases_for(language or "en").nothing_found, "articles", needs_person=True, language=language or ""
        )


def test_the_writer_is_configured_by_the_environment() -> None:
    assert isinstance(configured_writer({}), ArticleWriter)
    assert isinstance(configured_writer({"ANSWER_MODEL": "small", "ANSWER_MODEL_URL": "http://model/v1"}), ModelWriter)
    with pytest.raises(ValueError, match="ANSWER_MODEL_URL"):
        configured_writer({"ANSWER_MODEL": "small"})


def test_only_what_fits_is_shown_beside_an_answer() -> None:
    poor = Article(id=3, slug="poor", title="Poor", score=0.1, fit=GOOD_FIT - 0.01)
    asked = [Asked("refund?", [ARTICLE, OTHER, poor])]
    assert sources_of(Answer("…", "articles", used=[ARTICLE]), asked) == ([ARTICLE.source], [OTHER.source])
    assert sources_of(Answer("…", "articles", needs_person=True), [Asked("?", [poor])]) == ([], [])
