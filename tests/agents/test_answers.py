"""How answers are written, by passages and by a model."""

import json
from collections.abc import Generator

import httpx
import pytest
import respx

from agents.answers import (
    NOTHING_FOUND,
    AnswerFailed,
    Article,
    ArticleWriter,
    ModelWriter,
    configured_writer,
    fitting_passage,
)
from agents.base import Degradation
from agents.knowledge import write_answer

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
        "Introduction.\n\nHow long it takes:\n\nCards take 5 days."
    )
    assert "Open the invoice" in fitting_passage(BODY, "asking for money")
    assert "Open the invoice" in fitting_passage(BODY, "???", "Press the **button**")
    assert fitting_passage("Only this.", "what else?") == "Only this."


async def test_an_answer_greets_a_customer_who_is_known() -> None:
    writer = ArticleWriter()
    answer = await writer.write("button", [ARTICLE, OTHER], {"name": "Ada Lovelace"})
    assert answer.text.startswith("Hello Ada,\n\nIntroduction.")
    assert [article.slug for article in answer.used] == ["refund"], "what was found but not used is no source"
    snippet_only = ARTICLE.model_copy(update={"body": ""})
    assert (await writer.write("button", [snippet_only], None)).text == "Press the button"


async def test_a_model_is_shown_the_articles_and_only_what_it_needs_of_the_customer(model: respx.Route) -> None:
    model.respond(json=completion(" Press it. "))
    writer = ModelWriter("small", "http://model/v1/", "secret")
    customer = {"name": "Ada", "plan": "pro", "language": "en", "email": "ada@example.com"}
    answer = await writer.write("Where?", [ARTICLE, OTHER], customer)
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
        await writer.write("Where?", [ARTICLE], None)
    degraded: list[Degradation] = []
    answer = await write_answer(writer, "how long?", [ARTICLE], None, degraded)
    assert (answer.written_by, "Cards take 5 days." in answer.text) == ("articles", True)
    assert [entry.code for entry in degraded] == ["answer_failed"]


async def test_no_article_no_answer() -> None:
    assert (await write_answer(ModelWriter("small", "http://model"), "?", [], None, [])).text == NOTHING_FOUND


def test_the_writer_is_configured_by_the_environment() -> None:
    assert isinstance(configured_writer({}), ArticleWriter)
    assert isinstance(configured_writer({"ANSWER_MODEL": "small", "ANSWER_MODEL_URL": "http://model/v1"}), ModelWriter)
    with pytest.raises(ValueError, match="ANSWER_MODEL_URL"):
        configured_writer({"ANSWER_MODEL": "small"})
