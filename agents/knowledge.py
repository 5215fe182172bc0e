"""The knowledge agent: answers from the help articles, without knowing who asks."""

import asyncio
from collections.abc import Sequence
from typing import ClassVar

from pydantic import BaseModel, ValidationError

from agents.answers import (
    FROM_ARTICLES,
    NOTHING_FOUND,
    Answer,
    AnswerFailed,
    AnswerWriter,
    Article,
    ArticleWriter,
    Source,
    configured_writer,
)
from agents.base import A2AAgent, AgentReply, AgentRequest, Degradation, McpConfig, Report, Skill, no_report
from agents.client import MCPClient
from agents.errors import CallFailed, MalformedAnswer

NO_QUESTION = "What is the question? Please send it as text."
_LONGEST_SEARCH = 500
"""Characters that the search takes; what a question is about mostly stands at its beginning."""
_READ_WHOLE = 2
"""How many of the best articles are read beyond their snippet."""


class KnowledgeResult(BaseModel):
    """An answer from the articles."""

    success: bool = True
    answer: str
    answered_by: str
    """`articles`, or the name of the language model that wrote the answer."""
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


def _shortened(question: str) -> str:
    """Return what the search takes of a question, cut between two words."""
    text = question.strip()
    if len(text) <= _LONGEST_SEARCH:
        return text
    start, space, _ = text[: _LONGEST_SEARCH + 1].rpartition(" ")
    return start if space else text[:_LONGEST_SEARCH]


async def write_answer(
    writer: AnswerWriter,
    question: str,
    articles: Sequence[Article],
    customer: dict[str, object] | None,
    degraded: list[Degradation],
) -> Answer:
    """Return an answer; the articles themselves speak where the writer fails."""
    if not articles:
        return Answer(NOTHING_FOUND, FROM_ARTICLES)
    try:
        return await writer.write(question, articles, customer)
    except AnswerFailed as failure:
        degraded.append(Degradation(step="answer", code="answer_failed", message=str(failure)))
        return await ArticleWriter().write(question, articles, customer)


def sources_of(answer: Answer, articles: Sequence[Article]) -> tuple[list[Source], list[Source]]:
    """Return the articles that an answer rests on, and the others that were found."""
    used = [article.id for article in answer.used]
    return (
        [article.source for article in articles if article.id in used],
        [article.source for article in articles if article.id not in used],
    )


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
            articles = await self.knowledge.find(question, language=language, tags=tags)
            outcome.text = f"Found {len(articles)} articles"
            outcome.data = {"articles": [article.source.model_dump() for article in articles]}
        async with self.step(report, "answer", "Writing the answer") as outcome:
            answer = await write_answer(self.writer, question, articles, None, degraded)
            outcome.text = f"Written by {answer.written_by}"
        sources, related = sources_of(answer, articles)
        return KnowledgeResult(
            answer=answer.text, answered_by=answer.written_by, sources=sources, related=related, degraded=degraded
        )

    async def _answer_question(self, request: AgentRequest) -> AgentReply:
        if not request.text.strip():
            return AgentReply(NO_QUESTION, state="input_required")
        language = request.data.get("language")
        result = await self.answer(request.text, language=str(language) if language else None, report=request.report)
        return AgentReply(result.answer, result.model_dump(mode="json"))
