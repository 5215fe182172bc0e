"""Find articles by their tags in capitals or not: the index has each tag as it is and in small letters.

Revision ID: 0005
Revises: 0004
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

AS_THEY_ARE = "SELECT ''@'' || language UNION SELECT ''#'' || left(tag, 100) FROM unnest(tags) AS tag"
FOLDED_TOO = " UNION ".join((AS_THEY_ARE, "SELECT ''#'' || lower(left(tag, 100)) FROM unnest(tags) AS tag"))


def index_by(markers: str, instead_of: str) -> None:
    """Change the one line of `index_articles` that says by which markers an article is found."""
    op.execute(
        f"""
        DO $do$ BEGIN
            EXECUTE replace(pg_get_functiondef('index_articles()'::regprocedure), '{instead_of}', '{markers}');
        END $do$
        """
    )


def upgrade() -> None:
    index_by(FOLDED_TOO, instead_of=AS_THEY_ARE)
    op.execute(
        """
        UPDATE article_search AS entry SET title = title || folded.markers, content = content || folded.markers
        FROM (
            SELECT article_id, array_to_tsvector(array_agg('#' || lower(left(tag, 100)))) AS markers
            FROM article_search, unnest(tags) AS tag WHERE tag <> lower(tag) GROUP BY article_id
        ) AS folded
        WHERE folded.article_id = entry.article_id
        """
    )


def downgrade() -> None:
    # The markers that are there already hurt nobody: what they find is held against the tags themselves.
    index_by(AS_THEY_ARE, instead_of=FOLDED_TOO)
