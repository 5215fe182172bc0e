"""The knowledge agent: answers from the help articles, without knowing who asks."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from pydantic import BaseModel, ValidationError

from agents.answers import (
    FROM_ARTICLES,
    GOOD_FIT,
    Answer,
    AnswerFailed,
    AnswerWriter,
    Article,
    ArticleWriter,
    Asked,
    Source,
    configured_writer,
    phrases_for,
)
from agents.base import A2AAgent, AgentReply, AgentRequest, Degradation, McpConfig, Report, Skill, no_report
from agents.client import MCPClient
from agents.errors import CallFailed, MalformedAnswer
from agents.questions import questions_in
from agents.transports import JsonObject

NO_QUESTION = "What is the question? Please send it as text."
_LONGEST_SEARCH = 500
"""Characters that the search takes; what a question is about mostly stands at its beginning."""
_LEEWAY = 0.1
"""How much less an article may fit a part of a question, or the whole of it, and still be its answer."""
_READ_WHOLE = 2
"""How many of the best articles are read beyond their snippet."""


class KnowledgeResult(BaseModel):
    """An answer from the articles."""

    success: bool = True
    answer: str
    answered_by: str
    """`articles`, or the name of the language model that wrote the answer."""
    needs_person: bool
    """A person has to answer what the articles do not. Nobody has been told: this agent keeps no record."""
    sources: list[Source]
    """The articles that the answer rests on."""
    related: list[Source] = []
    """Other articles that were found."""
    degraded: list[Degradation] = []
    """What was missing; empty if all went well."""


class KnowledgeBase:
    """The help articles behind a gateway."""

    def __init__(self, client: MCPClient) -> None:
        self._client = client

    async def look_up(self, text: str, *, language: str | None = None, tags: Sequence[str] = ()) -> list[Asked]:
        """Return the questions of a text, each with its articles; together where together they are answered.

        Args:
            text: as the customer typed it.
            language: only articles in this language, such as "en".
            tags: only articles with all of these tags.

        Raises:
            CallFailed: as `MCPClient.call_tool`.
        """
        text = text.strip()
        questions = questions_in(text)
        texts = dict.fromkeys([text, *(one.text for one in questions), *(one.asked for one in questions)])
        answers = await asyncio.gather(*(self.find(one, language=language, tags=tags) for one in texts))
        found = dict(zip(texts, answers, strict=True))
        parts: list[Asked] = []
        for one in questions:
            told, alone = Asked(one.text, found[one.text]), Asked(one.asked, found[one.asked])
            parts.append(alone if alone.fitting and not told.fitting else told)
        whole = Asked(text, found[text])
        return [whole] if len(parts) > 1 and _is_one(whole, parts) else parts

    async def find(
        self, question: str, *, limit: int = 3, language: str | None = None, tags: Sequence[str] = ()
    ) -> list[Article]:
        """Return the articles that fit a question, best first; the best of them with their whole text.

        Args:
            question: as it was typed; of a long one the beginning is searched for.
            limit: how many at most.
            language: only articles in this language, such as "en".
            tags: only articles with all of these tags.

        Raises:
            CallFailed: as `MCPClient.call_tool`.
        """
        arguments = {"search_term": _shortened(question), "limit": limit}
        optional = {"language": language, "tags": list(tags)}
        result = await self._client.call_tool(
            "database", "search_knowledge_base", {**arguments, **{k: v for k, v in optional.items() if v}}
        )
        try:
            articles = [Article.model_validate(hit) for hit in result["articles"]]
        except (KeyError, TypeError, ValidationError) as error:
            raise MalformedAnswer("The search answered what are no articles.") from error
        bodies = await asyncio.gather(*(self._body(article.id) for article in articles[:_READ_WHOLE]))
        for article, body in zip(articles, bodies, strict=False):
            article.body = body
        return articles

    async def _body(self, article_id: int) -> str:
        try:
            row = await self._client.get_resource("database", f"db://knowledge_articles/{article_id}")
            return str(row["knowledge_article"]["body"])
        except (CallFailed, KeyError, TypeError):
            # Withdrawn since it was found, or out of reach for a moment: the snippet has to do.
            return ""


def _is_one(whole: Asked, parts: Sequence[Asked]) -> bool:
    """Tell whether questions are answered together: by one article, and none of them asks for something else."""
    if not whole.fitting:
        return not any(part.fitting for part in parts)
    best = whole.fitting[0]
    fits = [next((article.fit for article in part.articles if article.id == best.id), 0.0) for part in parts]
    others = any(part.fitting for part, fit in zip(parts, fits, strict=True) if fit < GOOD_FIT - _LEEWAY)
    return not others and best.fit >= max(fits) - _LEEWAY


def _shortened(question: str) -> str:
    """Return what the search takes of a question, cut between two words."""
    text = question.strip()
    if len(text) <= _LONGEST_SEARCH:
        return text
    start, space, _ = text[: _LONGEST_SEARCH + 1].rpartition(" ")
    return start if space else text[:_LONGEST_SEARCH]


async def write_answer(
    writer: AnswerWriter,
    asked: Sequence[Asked],
    customer: Mapping[str, object] | None,
    degraded: list[Degradation],
) -> Answer:
    """Return the answer to questions; of what no article answers it says so.

    Args:
        writer: the articles themselves speak where it fails, which `degraded` then tells.
        asked: one question or several, each with what was found for it.
        customer: as the database knows them, if it is known who asks.
        degraded: what was missing.
    """
    answered = [one for one in asked if one.fitting]
    if not answered:
        language = str((customer or {}).get("language") or "")
        return Answer(phrases_for(language).nothing_found, FROM_ARTICLES, needs_person=True, language=language)
    try:
        answer = await writer.write(answered, customer)
    except AnswerFailed as failure:
        degraded.append(Degradation(step="answer", code="answer_failed", message=str(failure)))
        answer = await ArticleWriter().write(answered, customer)
    language = answered[0].fitting[0].language
    phrases = phrases_for(language)
    left = [phrases.not_all_found.format(question=one.question) for one in asked if not one.fitting]
    sources = f"{phrases.source} {', '.join(article.title for article in answer.used)}"
    text = "\n\n".join([answer.text, *left, sources])
    return replace(answer, text=text, needs_person=bool(left), language=language)


def sources_of(answer: Answer, asked: Sequence[Asked]) -> tuple[list[Source], list[Source]]:
    """Return the articles that an answer rests on, and the others that fit as well as it takes."""
    used = [article.id for article in answer.used]
    found = {article.id: article.source for one in asked for article in one.articles}
    fitting = {article.id for one in asked for article in one.fitting}
    return (
        [found[number] for number in used if number in found],
        [source for number, source in found.items() if number in fitting and number not in used],
    )


def written(answer: Answer) -> str:
    """Return how an answer came about, for a step's text."""
    titles = " and ".join(repr(article.title) for article in answer.used)
    if not titles:
        return "Nothing fits well: a person has to answer"
    rest = ", the rest is for a person" if answer.needs_person else ""
    return f"Written {f'by {answer.written_by} ' if answer.written_by != FROM_ARTICLES else ''}from {titles}{rest}"


def outcome_of(asked: Sequence[Asked]) -> tuple[str, JsonObject]:
    """Return what a search found, for a step's text and data."""
    found = list({article.id: article for one in asked for article in one.articles}.values())
    fitting = {article.id for one in asked for article in one.fitting}
    questions = f"{len(asked)} questions; " if len(asked) > 1 else ""
    text = f"{questions}articles found: {len(found)}, that fit well: {len(fitting)}"
    return text, {"articles": [{**article.source.model_dump(), "fit": article.fit} for article in found]}


class KnowledgeAgent(A2AAgent):
    """Answers questions from the help articles.

    Args:
        writer: who writes the answers; the configured one if left out.
    """

    kind = "knowledge"
    description: ClassVar[str] = "Answers questions from the knowledge base and names its sources."
    servers: ClassVar[tuple[str, ...]] = ("database",)

    def __init__(
        self,
        agent_id: str,
        agent_type: str | McpConfig | None = None,
        mcp_config: McpConfig | None = None,
        *,
        writer: AnswerWriter | None = None,
        client: MCPClient | None = None,
    ) -> None:
        super().__init__(agent_id, agent_type, mcp_config, client=client)
        self.knowledge = KnowledgeBase(self.client)
        self.writer = writer or configured_writer()
        self.add_handler(
            Skill(
                "answer_question",
                "Answer a question",
                "Finds the help articles that fit a question and answers from them.",
                tags=("support", "knowledge"),
                examples=("How do I reset my password?", "Where is my parcel?"),
            ),
            self._answer_question,
        )

    async def answer(
        self, question: str, *, language: str | None = None, tags: Sequence[str] = (), report: Report = no_report
    ) -> KnowledgeResult:
        """Answer a question from the articles.

        Args:
            question: as the customer typed it.
            language: only articles in this language, such as "en".
            tags: only articles with all of these tags.
            report: is told of each step.

        Raises:
            CallFailed: the articles can't be reached.
        """
        degraded: list[Degradation] = []
        async with self.step(report, "articles", "Searching the knowledge base") as outcome:
            asked = await self.knowledge.look_up(question, language=language, tags=tags)
            outcome.text, outcome.data = outcome_of(asked)
        async with self.step(report, "answer", "Writing the answer") as outcome:
            answer = await write_answer(self.writer, asked, None, degraded)
            outcome.text = written(answer)
        sources, related = sources_of(answer, asked)
        whom_to_ask = [phrases_for(answer.language).nobody_told] if answer.needs_person else []
        return KnowledgeResult(
            answer="\n\n".join([answer.text, *whom_to_ask]),
            answered_by=answer.written_by,
            needs_person=answer.needs_person,
            sources=sources,
            related=related,
            degraded=degraded,
        )

    async def _answer_question(self, request: AgentRequest) -> AgentReply:
        if not request.text.strip():
            return AgentReply(NO_QUESTION, state="input_required")
        language = request.data.get("language")
        result = await self.answer(request.text, language=str(language) if language else None, report=request.report)
        return AgentReply(result.answer, result.model_dump(mode="json"))
