"""The database server: customers, tickets, interactions and the knowledge base in PostgreSQL."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic_settings import BaseSettings

from app.errors import BackendNotConfigured, Conflict, Forbidden, GatewayError, NotFound
from app.findings import Finding
from app.guard.principal import Principal
from app.measures import Measure
from app.outages import Outages
from app.results import RawResult
from app.servers.base import BaseMCPServer
from app.servers.declaring import resource, tool, watch
from app.servers.resources import Update
from app.services.embeddings.embedder import create_embedder
from app.services.embeddings.examination import examine as examine_embeddings
from app.services.embeddings.settings import EmbeddingSettings
from app.services.postgres.connections.capacity import capacity_checked
from app.services.postgres.connections.condition import condition_of
from app.services.postgres.connections.pools import open_database
from app.services.postgres.connections.settings import PostgresSettings
from app.services.postgres.desk.analytics import Analytics, GroupBy, Period, SupportAnalytics
from app.services.postgres.desk.changes import TicketChanges
from app.services.postgres.desk.pages import (
    ARTICLES,
    CUSTOMERS,
    INTERACTIONS,
    TICKETS,
    ArticlePage,
    ArticleRow,
    Cursor,
    CustomerPage,
    CustomerRow,
    InteractionPage,
    InteractionRow,
    PageLimit,
    SupportRecords,
    TicketPage,
    TicketRow,
)
from app.services.postgres.desk.support import (
    CustomerContext,
    CustomerId,
    NewInteraction,
    RowId,
    SavedInteraction,
    SupportDesk,
)
from app.services.postgres.examination import examine, examine_vectors
from app.services.postgres.knowledge.keeping import vectors_kept
from app.services.postgres.knowledge.meaning import Meaning
from app.services.postgres.knowledge.search import KnowledgeSearch, SearchResults, SearchTerm, SimilarArticles
from app.services.postgres.sql.reader import QueryResult, SqlQuery, open_sql_reader

MOST_QUERIES = 96
MOST_REPORTS = 34
MOST_SEARCHES = 128
"""Calls of a slow tool at a time. Those beyond its connections wait for a moment."""

REPORTS_KEPT = 30.0
"""Seconds for which a report is answered from memory: it costs much, and its figures are over days."""

_QUERY_WITHIN = 62.0
"""Seconds: a little more than the longest `timeout_ms`, so that the query's own limit comes first."""

Listed = Annotated[int, Field(ge=0, le=100)]
TimePeriod = Annotated[str, Field(max_length=50)]
Instant = Annotated[str, Field(max_length=40)]


class DatabaseMCPServer(BaseMCPServer):
    """Customer support data in PostgreSQL: customers, tickets, interactions and the knowledge base."""

    settings_class = PostgresSettings
    further_settings: ClassVar[Mapping[str, type[BaseSettings]]] = {"embeddings": EmbeddingSettings}
    capabilities = ("sql", "customers", "knowledge search", "interactions", "analytics")

    def __init__(
        self,
        database_url: str | None = None,
        reader_url: str | None = None,
        *,
        settings: PostgresSettings | None = None,
        embeddings: EmbeddingSettings | None = None,
    ) -> None:
        given = {name: url for name, url in (("url", database_url), ("reader_url", reader_url)) if url}
        super().__init__(settings=settings or PostgresSettings.model_validate(given))
        self.embeddings = embeddings or EmbeddingSettings()

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Hold the pools of connections. The database need not be up."""
        embedder = create_embedder(self.embeddings)
        of_embedder = Outages(logging.getLogger(f"MCP.{self.name}"))
        self.meaning = None if embedder is None else Meaning(embedder, of_embedder)
        async with (
            open_database(self.settings, self.outages) as database,
            open_sql_reader(self.settings, outages=self.outages) as reader,
            capacity_checked(self.settings, self.outages),
            vectors_kept(self.settings, None if self.is_only_examined else self.meaning, self.outages),
        ):
            self.database = database
            self.reader = reader
            self.changes = TicketChanges(self.settings, self.outages)
            self.desk = SupportDesk(database)
            self.knowledge = KnowledgeSearch(database.reads.portion(), self.meaning)
            self.analytics = SupportAnalytics(database)
            self.records = SupportRecords(database)
            yield

    async def warm_up(self) -> None:
        for service in (self.desk, self.records, self.analytics):
            await service.warm_up()

    def unconfigured(self) -> BackendNotConfigured | None:
        return self.settings.unconfigured()

    async def ping(self) -> Mapping[str, GatewayError]:
        condition = await condition_of(self.database.reads)
        off = {
            "save_interaction": condition.writing,
            "query_database": await self.reader.objection(),
            "search_knowledge_base": self.meaning and self.meaning.objection,
        }
        return {tool: reason for tool, reason in off.items() if reason is not None}

    async def measures(self) -> Iterable[Measure]:
        modes = {"mode": self.knowledge.mode, "configured": "lexical" if self.meaning is None else "semantic"}
        mode = Measure("switchboard_search_mode", "How articles are searched.", 1, modes)
        return [*self.database.measures(self.server_id), *self.reader.measures(self.server_id), mode]

    async def examine(self) -> Sequence[Finding]:
        found = await examine(self.settings, self.database, self.reader)
        of_vectors = [] if self.meaning is None else [await examine_vectors(self.settings)]
        return [*found, await examine_embeddings(self.embeddings), *of_vectors]

    @tool(
        read_only=True,
        example={
            "query": "SELECT status, count(*) AS tickets FROM tickets WHERE customer_id = $1 GROUP BY status",
            "params": ["12345"],
        },
        timeout=_QUERY_WITHIN,
        max_in_flight=MOST_QUERIES,
        errors=(Forbidden,),
    )
    async def query_database(self, arguments: SqlQuery) -> RawResult[QueryResult]:
        """Run one reading SQL statement (PostgreSQL) on the support data; for questions that no other tool answers.

        Tables:
        customers (id text, name, email, company, plan, status, language, country, metadata jsonb, created_at);
        tickets (id bigint, customer_id, subject, description, status, priority, channel, assigned_agent, created_at,
        updated_at, first_response_at, resolved_at);
        interactions (id bigint, customer_id, ticket_id, channel, direction, internal, agent_id, query_text,
        agent_response, satisfaction 1-5, metadata jsonb, created_at);
        knowledge_articles (id bigint, slug, title, body, tags text[], language, status, created_at, updated_at).
        Give values in params, as $1, $2 … If `truncated`, aggregate or narrow.
        """
        return await self.reader.query(
            arguments.query, arguments.params, max_rows=arguments.max_rows, timeout_ms=arguments.timeout_ms
        )

    @tool(
        read_only=True,
        confined_by="customer_id",
        example={"customer_id": "12345", "ticket_limit": 5, "interaction_limit": 5},
        errors=(NotFound,),
    )
    async def get_customer_context(
        self,
        principal: Principal,
        customer_id: CustomerId,
        ticket_limit: Listed = 10,
        interaction_limit: Annotated[Listed, Field(description="Of public interactions, and of notes.")] = 20,
    ) -> RawResult[CustomerContext]:
        """Return all worth knowing before you answer a customer; call it first whenever their id is known.

        Who they are, their latest tickets and public interactions, apart from these the staff's internal notes (never
        repeat them to the customer), and figures over their whole history.
        """
        notes = principal.customer is None
        return await self.desk.customer_context(customer_id, ticket_limit, interaction_limit, notes=notes)

    @tool(
        read_only=True,
        public=True,
        max_in_flight=MOST_SEARCHES,
        example={"search_term": "how do i reset my pasword", "limit": 3},
    )
    async def search_knowledge_base(
        self,
        search_term: Annotated[SearchTerm, Field(description="The question in the customer's own words.")],
        limit: Annotated[int, Field(ge=1, le=50)] = 5,
        tags: Annotated[
            list[Annotated[str, Field(max_length=100)]] | None,
            Field(max_length=20, description="Only articles with all of these."),
        ] = None,
        language: Annotated[str | None, Field(max_length=20, description="Only articles in it, such as `en`.")] = None,
        offset: Annotated[int, Field(ge=0, le=1000)] = 0,
    ) -> SearchResults:
        """Find the published help articles that answer a question, best first.

        Whole sentences, typing errors and other words than the article's are fine.
        A whole article is the resource db://knowledge_articles/{id}.
        """
        return await self.knowledge.search(search_term, limit, tags, language, offset)

    @tool(
        read_only=True,
        public=True,
        max_in_flight=MOST_SEARCHES,
        example={"article_id": 1, "limit": 3},
        errors=(NotFound,),
    )
    async def get_similar_articles(
        self,
        article_id: Annotated[RowId, Field(description="An `id` of search_knowledge_base.")],
        limit: Annotated[int, Field(ge=1, le=20)] = 5,
    ) -> SimilarArticles:
        """Find the published help articles about much the same as one, likest first: to read next, or duplicates."""
        return await self.knowledge.similar(article_id, limit)

    @tool(
        confined_by="customer_id",
        staff_only=("internal",),
        example={
            "customer_id": "12345",
            "query_text": "Can I get my invoices in euros?",
            "agent_response": "Yes: choose the currency under Settings, Billing.",
            "channel": "chat",
            "agent_id": "support-bot",
        },
        errors=(NotFound, Conflict),
    )
    async def save_interaction(self, arguments: NewInteraction, principal: Principal) -> SavedInteraction:
        """Write down what a customer asked and what was answered; call it after each exchange.

        Give query_text, agent_response or both. A public reply on a ticket also counts as its first response. All may
        also stand in an object `interaction_data`, and `content` is accepted for query_text.
        """
        return await self.desk.save_interaction(arguments, principal.customer)

    @tool(
        read_only=True,
        max_in_flight=MOST_REPORTS,
        cache_seconds=REPORTS_KEPT,
        example={"time_period": "7 days", "group_by": "channel"},
    )
    async def get_analytics(
        self,
        time_period: Annotated[
            TimePeriod | None,
            Field(description="Back from now: `7 days`, `24 hours`, `30d`, `2 weeks`, `3 months`, `1 year`."),
        ] = None,
        start_date: Annotated[
            Instant | None,
            Field(description="ISO 8601, UTC unless it names an offset. Not with time_period."),
        ] = None,
        end_date: Annotated[
            Instant | None,
            Field(description="Excluded, but a date without a time includes that day; now if left out."),
        ] = None,
        group_by: GroupBy = GroupBy.DAY,
    ) -> RawResult[Analytics]:
        """Return figures of the support desk over a period (the last 30 days if none is given), in total and by group.

        Averages are null where nothing was measured. Days are of UTC; days without events are zeros. Up to 30 s old.
        """
        return await self.analytics.report(Period.read(time_period, start_date, end_date), group_by)

    @resource("db://customers{?cursor,limit}", title="Customers", confined="service")
    async def customers(
        self, principal: Principal, cursor: Cursor | None = None, limit: PageLimit = 50
    ) -> RawResult[CustomerPage]:
        """Customers by id, page by page."""
        return await self.records.page(CUSTOMERS, cursor, limit, principal.customer, principal.owner)

    @resource("db://tickets{?cursor,limit}", title="Tickets", confined="service")
    async def tickets(
        self, principal: Principal, cursor: Cursor | None = None, limit: PageLimit = 50
    ) -> RawResult[TicketPage]:
        """Tickets, the newest first, page by page."""
        return await self.records.page(TICKETS, cursor, limit, principal.customer, principal.owner)

    @resource("db://knowledge_articles{?cursor,limit}", title="Knowledge articles", public=True)
    async def knowledge_articles(self, cursor: Cursor | None = None, limit: PageLimit = 50) -> RawResult[ArticlePage]:
        """Published knowledge articles by id, page by page."""
        return await self.records.page(ARTICLES, cursor, limit)

    @resource("db://interactions{?cursor,limit}", title="Interactions", confined="service")
    async def interactions(
        self, principal: Principal, cursor: Cursor | None = None, limit: PageLimit = 50
    ) -> RawResult[InteractionPage]:
        """Interactions, the newest first, page by page. Where `internal` is true no customer may see it."""
        return await self.records.page(INTERACTIONS, cursor, limit, principal.customer, principal.owner)

    @resource("db://analytics{?time_period,group_by}", title="Analytics", cache_seconds=REPORTS_KEPT)
    async def analytics_report(
        self, time_period: TimePeriod | None = None, group_by: GroupBy = GroupBy.DAY
    ) -> RawResult[Analytics]:
        """Figures of the support desk, over the last 30 days unless `time_period` says otherwise; up to 30 s old."""
        return await self.analytics.report(Period.read(time_period), group_by)

    @resource("db://customers/{customer_id}", title="Customer", confined="service")
    async def customer(self, customer_id: CustomerId, principal: Principal) -> RawResult[CustomerRow]:
        """One customer."""
        return await self.records.row(CUSTOMERS, customer_id, principal.customer)

    @resource("db://tickets/{ticket_id}", title="Ticket", confined="service")
    async def ticket(self, ticket_id: RowId, principal: Principal) -> RawResult[TicketRow]:
        """One ticket. Subscribe to hear of its changes, and of interactions that are saved for it."""
        return await self.records.row(TICKETS, ticket_id, principal.customer)

    @resource("db://knowledge_articles/{article_id}", title="Knowledge article", public=True)
    async def knowledge_article(self, article_id: RowId) -> RawResult[ArticleRow]:
        """One published knowledge article with its whole text, and the passages by which it is found."""
        return await self.records.row(ARTICLES, article_id)

    @resource("db://interactions/{interaction_id}", title="Interaction", confined="service")
    async def interaction(self, interaction_id: RowId, principal: Principal) -> RawResult[InteractionRow]:
        """One interaction."""
        return await self.records.row(INTERACTIONS, interaction_id, principal.customer)

    @watch("db://tickets/{ticket_id}", confined="service")
    @asynccontextmanager
    async def ticket_changes(self, ticket_id: int, principal: Principal) -> AsyncGenerator[AsyncIterator[Update]]:
        # Listening comes first, so that no change falls between the look and the first notice.
        async with self.changes.watch(ticket_id) as notices:
            await self.records.row(TICKETS, ticket_id, principal.customer)
            yield notices
