"""The support desk: customers, tickets, knowledge articles, interactions.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NOW = sa.text("now()")
TIME = sa.DateTime(timezone=True)


def one_of(column: str, *values: str) -> sa.CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return sa.CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


def channel_known() -> sa.CheckConstraint:
    return one_of("channel", "email", "chat", "phone", "web", "social", "api")


def metadata_column() -> sa.Column[object]:
    return sa.Column("metadata", JSONB, server_default=sa.text("'{}'"), nullable=False)


def upgrade() -> None:
    create_customers()
    create_tickets()
    create_knowledge_articles()
    create_interactions()
    create_notices()


def create_customers() -> None:
    op.create_table(
        "customers",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("company", sa.Text),
        sa.Column("plan", sa.Text, server_default="free", nullable=False),
        sa.Column("status", sa.Text, server_default="active", nullable=False),
        sa.Column("language", sa.Text, server_default="en", nullable=False),
        sa.Column("country", sa.Text),
        metadata_column(),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_customers"),
        sa.UniqueConstraint("email", name="uq_customers_email"),
        sa.CheckConstraint("length(id) BETWEEN 1 AND 64", name="id_length"),
        sa.CheckConstraint("position('@' IN email) > 1", name="email_form"),
        sa.CheckConstraint("jsonb_typeof(metadata) = 'object'", name="metadata_object"),
        one_of("plan", "free", "pro", "business", "enterprise"),
        one_of("status", "active", "trial", "suspended", "closed"),
    )
    op.create_index("ix_customers_created_at", "customers", ["created_at"])


def create_tickets() -> None:
    op.create_table(
        "tickets",
        sa.Column("id", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("customer_id", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("description", sa.Text, server_default="", nullable=False),
        sa.Column("status", sa.Text, server_default="open", nullable=False),
        sa.Column("priority", sa.Text, server_default="normal", nullable=False),
        sa.Column("channel", sa.Text, server_default="email", nullable=False),
        sa.Column("assigned_agent", sa.Text),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("updated_at", TIME, server_default=NOW, nullable=False),
        sa.Column("first_response_at", TIME),
        sa.Column("resolved_at", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_tickets"),
        sa.UniqueConstraint("id", "customer_id", name="uq_tickets_id_customer_id"),
        sa.ForeignKeyConstraint(
            ["customer_id"], ["customers.id"], name="fk_tickets_customer_id_customers", ondelete="CASCADE"
        ),
        one_of("status", "open", "pending", "escalated", "resolved", "closed"),
        one_of("priority", "low", "normal", "high", "urgent"),
        channel_known(),
        sa.CheckConstraint("(status IN ('resolved', 'closed')) = (resolved_at IS NOT NULL)", name="resolved_has_time"),
        sa.CheckConstraint("first_response_at >= created_at", name="response_after_creation"),
        sa.CheckConstraint("resolved_at >= created_at", name="resolution_after_creation"),
        sa.CheckConstraint("subject <> ''", name="subject_given"),
    )
    op.create_index("ix_tickets_created_at", "tickets", ["created_at"])
    op.create_index("ix_tickets_resolved_at", "tickets", ["resolved_at"])
    op.create_index(
        "ix_tickets_customer_id_created_at", "tickets", ["customer_id", sa.text("created_at DESC"), sa.text("id DESC")]
    )


def create_knowledge_articles() -> None:
    op.create_table(
        "knowledge_articles",
        sa.Column("id", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("slug", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("tags", sa.ARRAY(sa.Text), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("language", sa.Text, server_default="en", nullable=False),
        sa.Column("status", sa.Text, server_default="draft", nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("updated_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_knowledge_articles"),
        sa.UniqueConstraint("slug", name="uq_knowledge_articles_slug"),
        one_of("status", "draft", "published", "archived"),
    )


def create_interactions() -> None:
    op.create_table(
        "interactions",
        sa.Column("id", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("customer_id", sa.Text, nullable=False),
        sa.Column("ticket_id", sa.BigInteger),
        sa.Column("channel", sa.Text, server_default="chat", nullable=False),
        sa.Column("direction", sa.Text, server_default="inbound", nullable=False),
        sa.Column("internal", sa.Boolean, server_default=sa.text("false"), nullable=False),
        sa.Column("agent_id", sa.Text),
        sa.Column("query_text", sa.Text),
        sa.Column("agent_response", sa.Text),
        sa.Column("satisfaction", sa.SmallInteger),
        metadata_column(),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_interactions"),
        sa.UniqueConstraint("idempotency_key", name="uq_interactions_idempotency_key"),
        sa.ForeignKeyConstraint(
            ["customer_id"], ["customers.id"], name="fk_interactions_customer_id_customers", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["ticket_id", "customer_id"],
            ["tickets.id", "tickets.customer_id"],
            name="fk_interactions_ticket_id_tickets",
            ondelete="SET NULL (ticket_id)",
        ),
        channel_known(),
        one_of("direction", "inbound", "outbound"),
        sa.CheckConstraint("satisfaction BETWEEN 1 AND 5", name="satisfaction_range"),
        sa.CheckConstraint("num_nonnulls(query_text, agent_response) > 0", name="says_something"),
        sa.CheckConstraint("jsonb_typeof(metadata) = 'object'", name="metadata_object"),
        sa.CheckConstraint("length(idempotency_key) BETWEEN 1 AND 200", name="idempotency_key_length"),
    )
    newest_first = ["customer_id", sa.text("created_at DESC"), sa.text("id DESC")]
    op.create_index("ix_interactions_created_at", "interactions", ["created_at"])
    op.create_index(
        "ix_interactions_customer_id_created_at",
        "interactions",
        newest_first,
        postgresql_include=["internal", "satisfaction"],
    )
    op.create_index("ix_interactions_notes", "interactions", newest_first, postgresql_where=sa.text("internal"))
    op.create_index(
        "ix_interactions_ticket_id", "interactions", ["ticket_id"], postgresql_where=sa.text("ticket_id IS NOT NULL")
    )


def create_notices() -> None:
    """Keep `updated_at`, and tell listeners on `switchboard_tickets` the ids of tickets that changed.

    One statement sends at most 1,000 ids; a load of more sends `*`, which means that any may have changed.
    """
    op.execute(
        """
        CREATE FUNCTION touch_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            NEW.updated_at = now();
            RETURN NEW;
        END $$
        """
    )
    for table in ("tickets", "knowledge_articles"):
        op.execute(
            f"""
            CREATE TRIGGER touch_updated_at BEFORE UPDATE ON {table}
            FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION touch_updated_at()
            """
        )
    op.execute(
        """
        CREATE FUNCTION notify_tickets() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE
            changed text[];
        BEGIN
            IF TG_TABLE_NAME = 'tickets' THEN
                changed := ARRAY(SELECT id::text FROM changed_rows LIMIT 1001);
            ELSE
                changed := ARRAY(
                    SELECT DISTINCT ticket_id::text FROM changed_rows WHERE ticket_id IS NOT NULL LIMIT 1001
                );
            END IF;
            IF cardinality(changed) > 1000 THEN
                changed := '{*}';
            END IF;
            PERFORM pg_notify('switchboard_tickets', ticket) FROM unnest(changed) AS ticket;
            RETURN NULL;
        END $$
        """
    )
    # PostgreSQL allows one event a trigger with a transition table.
    for table in ("tickets", "interactions"):
        for event, rows in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")):
            op.execute(
                f"""
                CREATE TRIGGER notify_tickets_{event.lower()} AFTER {event} ON {table}
                REFERENCING {rows} TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION notify_tickets()
                """
            )


def downgrade() -> None:
    for table in ("interactions", "knowledge_articles", "tickets", "customers"):
        op.drop_table(table)
    op.execute("DROP FUNCTION notify_tickets()")
    op.execute("DROP FUNCTION touch_updated_at()")
