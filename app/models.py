"""The support database's tables. Alembic reads `Base.metadata`; a change here needs a migration."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    MetaData,
    SmallInteger,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Plan(StrEnum):
    FREE = "free"
    PRO = "pro"
    BUSINESS = "business"
    ENTERPRISE = "enterprise"


class CustomerStatus(StrEnum):
    ACTIVE = "active"
    TRIAL = "trial"
    SUSPENDED = "suspended"
    CLOSED = "closed"


class TicketStatus(StrEnum):
    OPEN = "open"
    PENDING = "pending"
    """Waiting for the customer."""
    ESCALATED = "escalated"
    RESOLVED = "resolved"
    CLOSED = "closed"


class Priority(StrEnum):
    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    URGENT = "urgent"


class Channel(StrEnum):
    EMAIL = "email"
    CHAT = "chat"
    PHONE = "phone"
    WEB = "web"
    SOCIAL = "social"
    API = "api"


class Direction(StrEnum):
    INBOUND = "inbound"
    """From the customer to us."""
    OUTBOUND = "outbound"


class ArticleStatus(StrEnum):
    DRAFT = "draft"
    PUBLISHED = "published"
    ARCHIVED = "archived"


def _one_of(column: str, values: type[StrEnum]) -> CheckConstraint:
    """Keep a text column to an enumeration: PostgreSQL's own enum types can't drop a value."""
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - read by SQLAlchemy, never changed
        str: Text,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[str]: ARRAY(Text),
    }


class Customer(Base):
    """A person or company that we support."""

    __tablename__ = "customers"
    __table_args__ = (
        CheckConstraint("length(id) BETWEEN 1 AND 64", name="id_length"),
        CheckConstraint("position('@' IN email) > 1", name="email_form"),
        CheckConstraint("jsonb_typeof(metadata) = 'object'", name="metadata_object"),
        _one_of("plan", Plan),
        _one_of("status", CustomerStatus),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    email: Mapped[str] = mapped_column(unique=True)
    company: Mapped[str | None]
    plan: Mapped[str] = mapped_column(server_default=Plan.FREE)
    status: Mapped[str] = mapped_column(server_default=CustomerStatus.ACTIVE)
    language: Mapped[str] = mapped_column(server_default="en")
    country: Mapped[str | None]
    # "metadata" is SQLAlchemy's own word on a declarative class, hence the attribute's other name.
    details: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)


class Ticket(Base):
    """A problem that a customer reported, until it is solved."""

    __tablename__ = "tickets"
    __table_args__ = (
        _one_of("status", TicketStatus),
        _one_of("priority", Priority),
        _one_of("channel", Channel),
        CheckConstraint("(status IN ('resolved', 'closed')) = (resolved_at IS NOT NULL)", name="resolved_has_time"),
        CheckConstraint("first_response_at >= created_at", name="response_after_creation"),
        CheckConstraint("resolved_at >= created_at", name="resolution_after_creation"),
        CheckConstraint("subject <> ''", name="subject_given"),
        # What an interaction's foreign key refers to, so that it can't name another customer's ticket.
        UniqueConstraint("id", "customer_id"),
        Index("ix_tickets_customer_id_created_at", "customer_id", text("created_at DESC"), text("id DESC")),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    customer_id: Mapped[str] = mapped_column(ForeignKey("customers.id", ondelete="CASCADE"))
    subject: Mapped[str]
    description: Mapped[str] = mapped_column(server_default="")
    status: Mapped[str] = mapped_column(server_default=TicketStatus.OPEN)
    priority: Mapped[str] = mapped_column(server_default=Priority.NORMAL)
    channel: Mapped[str] = mapped_column(server_default=Channel.EMAIL)
    assigned_agent: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    first_response_at: Mapped[datetime | None]
    resolved_at: Mapped[datetime | None] = mapped_column(index=True)


class Article(Base):
    """A page of the knowledge base. Only published ones may be found by search."""

    __tablename__ = "knowledge_articles"
    __table_args__ = (_one_of("status", ArticleStatus),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    slug: Mapped[str] = mapped_column(unique=True)
    title: Mapped[str]
    body: Mapped[str]
    tags: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    language: Mapped[str] = mapped_column(server_default="en")
    status: Mapped[str] = mapped_column(server_default=ArticleStatus.DRAFT)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ArticleSearch(Base):
    """What search knows of a published article. Triggers keep it; nothing else writes here."""

    __tablename__ = "article_search"
    __table_args__ = (
        Index("ix_article_search_title", "title", postgresql_using="gin"),
        Index("ix_article_search_content", "content", postgresql_using="gin"),
    )

    article_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("knowledge_articles.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    language: Mapped[str]
    tags: Mapped[list[str]]
    title: Mapped[str] = mapped_column(TSVECTOR)
    content: Mapped[str] = mapped_column(TSVECTOR)


class SearchWord(Base):
    """How many published articles, and how many of their titles, hold a stemmed word. Triggers keep it."""

    __tablename__ = "search_words"
    __table_args__ = (
        Index("ix_search_words_word", "word", postgresql_using="gin", postgresql_ops={"word": "gin_trgm_ops"}),
    )

    language: Mapped[str] = mapped_column(primary_key=True)
    word: Mapped[str] = mapped_column(primary_key=True)
    articles: Mapped[int]
    titles: Mapped[int]


class EmbeddingModel(Base):
    """A model whose vectors are kept, in a table `vectors_<name>` of its own, which is made where pgvector is."""

    __tablename__ = "embedding_models"
    __table_args__ = (CheckConstraint("name ~ '^[a-z0-9_-]{1,40}$'", name="name_form"),)

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    dimension: Mapped[int]
    filled_at: Mapped[datetime | None]
    """When every article had its vectors; before that nothing is searched by them."""
    spread: Mapped[float | None] = mapped_column(Double)
    mean: Mapped[float | None] = mapped_column(Double)
    deviation: Mapped[float | None] = mapped_column(Double)
    """Of the cosines of two articles, most of which have nothing to do with each other."""
    measured: Mapped[int] = mapped_column(server_default="0")
    """Articles of which that was found, up to some number that is enough."""


class QueuedArticle(Base):
    """A published, changed or archived article whose vectors of one model have to be brought up to date."""

    __tablename__ = "embedding_queue"

    model: Mapped[str] = mapped_column(ForeignKey("embedding_models.name", ondelete="CASCADE"), primary_key=True)
    article_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    version: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """Counts the changes, so that what was made of an older text is not taken for this one's."""
    failures: Mapped[int] = mapped_column(server_default="0")
    claimed_until: Mapped[datetime | None]


class Interaction(Base):
    """One exchange with a customer: what was asked, what was answered. Internal ones are notes of the staff."""

    __tablename__ = "interactions"
    __table_args__ = (
        _one_of("channel", Channel),
        _one_of("direction", Direction),
        CheckConstraint("satisfaction BETWEEN 1 AND 5", name="satisfaction_range"),
        CheckConstraint("num_nonnulls(query_text, agent_response) > 0", name="says_something"),
        CheckConstraint("jsonb_typeof(metadata) = 'object'", name="metadata_object"),
        CheckConstraint("length(idempotency_key) BETWEEN 1 AND 200", name="idempotency_key_length"),
        ForeignKeyConstraint(
            ["ticket_id", "customer_id"],
            ["tickets.id", "tickets.customer_id"],
            ondelete="SET NULL (ticket_id)",
        ),
        # One customer's figures come from this index alone, without a look at the rows.
        Index(
            "ix_interactions_customer_id_created_at",
            "customer_id",
            text("created_at DESC"),
            text("id DESC"),
            postgresql_include=["internal", "satisfaction"],
        ),
        # Notes are rare among replies: without an index of their own, the latest ten may lie anywhere.
        Index(
            "ix_interactions_notes",
            "customer_id",
            text("created_at DESC"),
            text("id DESC"),
            postgresql_where=text("internal"),
        ),
        Index("ix_interactions_ticket_id", "ticket_id", postgresql_where=text("ticket_id IS NOT NULL")),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    customer_id: Mapped[str] = mapped_column(ForeignKey("customers.id", ondelete="CASCADE"))
    ticket_id: Mapped[int | None] = mapped_column(BigInteger)
    channel: Mapped[str] = mapped_column(server_default=Channel.CHAT)
    direction: Mapped[str] = mapped_column(server_default=Direction.INBOUND)
    internal: Mapped[bool] = mapped_column(server_default=text("false"))
    agent_id: Mapped[str | None]
    query_text: Mapped[str | None]
    agent_response: Mapped[str | None]
    satisfaction: Mapped[int | None] = mapped_column(SmallInteger)
    details: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'"))
    idempotency_key: Mapped[str | None] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)


class ApiKey(Base):
    """A key by which somebody calls: its hash, and what it stands for."""

    __tablename__ = "api_keys"
    __table_args__ = (
        CheckConstraint("id ~ '^[a-z0-9]{12}$'", name="id_form"),
        CheckConstraint("hash ~ '^[0-9a-f]{64}$'", name="hash_form"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    hash: Mapped[str]
    roles: Mapped[list[str]]
    tenant: Mapped[str | None]
    customer: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
