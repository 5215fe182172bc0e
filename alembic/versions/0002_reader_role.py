"""The role of `query_database`: it may read the four tables and nothing else.

Roles belong to the whole cluster and may serve several databases, so the role is made only if it is missing and is
never dropped. It can't log in; `ensure_reader_login` in `app/services/postgres/migrations.py` makes a login of it and
shows the SQL that an operator runs instead.

Revision ID: 0002
Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = "customers, tickets, knowledge_articles, interactions"


def upgrade() -> None:
    op.execute(
        """
        DO $$
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'switchboard_reader') THEN
                CREATE ROLE switchboard_reader NOLOGIN;
            END IF;
        EXCEPTION
            -- Another database of the cluster was migrated at the same moment.
            WHEN duplicate_object OR unique_violation THEN NULL;
        END $$
        """
    )
    on_current_schema("GRANT USAGE ON SCHEMA %I TO switchboard_reader")
    op.execute(f"GRANT SELECT ON {TABLES} TO switchboard_reader")


def downgrade() -> None:
    op.execute(f"REVOKE ALL ON {TABLES} FROM switchboard_reader")
    on_current_schema("REVOKE ALL ON SCHEMA %I FROM switchboard_reader")


def on_current_schema(statement: str) -> None:
    op.execute(f"DO $$ BEGIN EXECUTE format('{statement}', current_schema()); END $$")
