"""The query agent: a customer's question in, an answer with its sources out, all of it on record."""

from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import uuid4

from pydantic import BaseModel

from agents.answers import (
    FROM_ARTICLES,
    NOTHING_REACHED,
    Answer,
    AnswerWriter,
    Asked,
    Source,
    configured_writer,
    phrases_for,
)
from agents.base import (
    A2AAgent,
    AgentReply,
    AgentRequest,
    Degradation,
    McpConfig,
    Report,
    Skill,
    no_report,
    side_by_side,
    unless_down,
)
from agents.client import MCPClient
from agents.knowledge import NO_QUESTION, KnowledgeBase, outcome_of, sources_of, write_answer, written
from agents.transports import JsonObject

CUSTOMER_QUERIES = "customer-queries"
"""The topic that every question is published to."""
_PUBLISH_SECONDS = 8.0
"""How long an answer waits for Kafka at most: the customer needs the answer, not the message."""
_LONGEST_RECORD = 20_000
"""Characters of a question, or an answer, that are kept on record."""


class Published(BaseModel):
    """Where a message is stored."""

    topic: str
    partition: int
    offset: int


class QueryResult(BaseModel):
    """The answer to a customer's question, and what is on record of it."""

    success: bool = True
    query_id: str
    customer_id: str
    answer: str
    answered_by: str
    """`articles`, or the name of the language model that wrote the answer."""
    needs_person: bool
    """A person has to answer what the articles do not."""
    handed_over: bool
    """The message or the interaction, whichever there is, says so to the person."""
    sources: list[Source]
    """The articles that the answer rests on."""
    related: list[Source] = []
    """Other articles that were found."""
    customer: dict[str, Any] | None
    """The customer as the database knows them; None if it could not be asked."""
    published: Published | None
    interaction_id: int | None
    degraded: list[Degradation] = []
    """What failed and without which this was answered; empty if all went well."""


class QueryAgent(A2AAgent):
    """Answers customers' questions.

    Args:
        writer: who writes the answers; the configured one if left out.
    """

    kind = "query"
    description: ClassVar[str] = (
        "Answers a customer's question from the knowledge base, with sources, and keeps it on record."
    )
    servers: ClassVar[tuple[str, ...]] = ("database", "kafka")

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
                "process_query",
                "Answer a customer",
                "Answers a known customer's question. Give `customer_id` in a data part; it is asked for if missing.",
                tags=("support", "customers"),
                examples=("How do I reset my password?",),
            ),
            self._process_query,
        )

    async def process_query(self, query: str, customer_id: str, *, report: Report = no_report) -> QueryResult:
        """Answer a customer's question and record both.

        The customer's context and the articles are fetched side by side; then the question is published to
        `customer-queries` while the answer is written; then the interaction is saved. What is out of order on
        the way is left out and told in `degraded`.

        Args:
            query: the question as the customer typed it.
            customer_id: who asks.
            report: is told of each step.

        Raises:
            NotFound: there is no such customer.
            CallFailed: the gateway refuses the agent.
        """
        query_id = uuid4().hex
        degraded: list[Degradation] = []
        context, asked = await side_by_side(
            unless_down(self._context(customer_id, report), "context", degraded),
            unless_down(self._search(query, report), "articles", degraded),
        )
        customer = context["customer"] if context else None
        message = {
            "query_id": query_id,
            "customer_id": customer_id,
            "query": query,
            "agent_id": self.agent_id,
            "asked_at": datetime.now(UTC).isoformat(),
            "articles": [article.slug for one in asked or () for article in one.fitting],
            "needs_person": not asked or not all(one.fitting for one in asked),
        }
        answer, published = await side_by_side(
            self._answer(asked, customer, report, degraded),
            unless_down(self._publish(message, customer_id, query_id, report), "publish", degraded),
        )
        sources, related = sources_of(answer, asked or ())
        phrases = phrases_for(answer.language)
        interaction = {
            "customer_id": customer_id,
            "query_text": query[:_LONGEST_RECORD],
            "agent_response": _ending(answer, phrases.handed_over)[:_LONGEST_RECORD],
            "agent_id": self.agent_id,
            "metadata": {
                "query_id": query_id,
                "sources": [source.slug for source in sources],
                "handed_over": answer.needs_person,
            },
            "idempotency_key": query_id,
        }
        interaction_id = await unless_down(self._save(interaction, report), "save", degraded)
        on_record = published is not None or interaction_id is not None
        return QueryResult(
            query_id=query_id,
            customer_id=customer_id,
            answer=_ending(answer, phrases.handed_over if on_record else phrases.not_handed_over),
            answered_by=answer.written_by,
            needs_person=answer.needs_person,
            handed_over=answer.needs_person and on_record,
            sources=sources,
            related=related,
            customer=customer,
            published=published,
            interaction_id=interaction_id,
            degraded=degraded,
        )

    async def _context(self, customer_id: str, report: Report) -> JsonObject:
        async with self.step(report, "context", f"Looking up customer {customer_id}") as outcome:
            arguments = {"customer_id": customer_id, "ticket_limit": 5, "interaction_limit": 5}
            context = await self.call_mcp_tool("mcp_database", "get_customer_context", arguments)
            customer, tickets = context["customer"], context["figures"]["tickets_by_status"]
            unsolved = sum(tickets[status] for status in ("open", "pending", "escalated"))
            outcome.text = f"{customer['name']}, {customer['plan']} plan, unsolved tickets: {unsolved}"
            outcome.data = {"customer": customer, "figures": context["figures"]}
        return context

    async def _search(self, query: str, report: Report) -> list[Asked]:
        async with self.step(report, "articles", "Searching the knowledge base") as outcome:
            asked = await self.knowledge.look_up(query)
            outcome.text, outcome.data = outcome_of(asked)
        return asked

    async def _publish(self, message: dict[str, Any], customer_id: str, query_id: str, report: Report) -> Published:
        async with self.step(report, "publish", f"Publishing the question to {CUSTOMER_QUERIES}") as outcome:
            stored = await self.publish(
                CUSTOMER_QUERIES, message, key=customer_id, idempotency_key=query_id, timeout=_PUBLISH_SECONDS
            )
            published = Published.model_validate(stored)
            outcome.text = f"{published.topic}, partition {published.partition}, offset {published.offset}"
            outcome.data = published.model_dump()
        return published

    async def _answer(
        self,
        asked: list[Asked] | None,
        customer: JsonObject | None,
        report: Report,
        degraded: list[Degradation],
    ) -> Answer:
        async with self.step(report, "answer", "Writing the answer") as outcome:
            if asked is None:
                outcome.text = "No article can be reached: a person has to answer"
                language = str((customer or {}).get("language") or "en")
                return Answer(NOTHING_REACHED, FROM_ARTICLES, needs_person=True, language=language)
            answer = await write_answer(self.writer, asked, customer, degraded)
            outcome.text = written(answer)
            outcome.data = {"answer": answer.text, "written_by": answer.written_by}
        return answer

    async def _save(self, interaction: JsonObject, report: Report) -> int:
        async with self.step(report, "save", "Saving the interaction") as outcome:
            saved = (await self.call_mcp_tool("mcp_database", "save_interaction", interaction))["interaction"]
            outcome.text = f"Interaction {saved['id']} saved"
            outcome.data = {"interaction": saved}
        return int(saved["id"])

    async def _process_query(self, request: AgentRequest) -> AgentReply:
        texts = [text for text in (*request.earlier, request.text) if text.strip()]
        if not texts:
            return AgentReply(NO_QUESTION, state="input_required")
        # The question comes first; a second text is the answer to ours.
        customer_id = request.data.get("customer_id") or (texts[-1].strip() if len(texts) > 1 else None)
        if not customer_id:
            return AgentReply("Which customer asks? Please send the customer's id.", state="input_required")
        result = await self.process_query(texts[0], str(customer_id), report=request.report)
        return AgentReply(result.answer, result.model_dump(mode="json"))


def _ending(answer: Answer, whom: str) -> str:
    """Return an answer's text with what becomes of the rest, where a person has to answer some of it."""
    return f"{answer.text}\n\n{whom}" if answer.needs_person else answer.text
