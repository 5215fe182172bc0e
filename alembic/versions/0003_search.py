"""The index of the knowledge search; `docs/search.md` shows how it is used.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import TSVECTOR

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

LANGUAGES = {
    "de": "german",
    "en": "english",
    "es": "spanish",
    "fr": "french",
    "it": "italian",
    "nl": "dutch",
    "pt": "portuguese",
}


def upgrade() -> None:
    for extension in ("pg_trgm", "unaccent", "fuzzystrmatch"):
        op.execute(f"CREATE EXTENSION IF NOT EXISTS {extension}")
    create_configurations()
    create_tables()
    create_triggers()
    # The articles that exist already, by the way that later ones take.
    op.execute("UPDATE knowledge_articles SET status = status WHERE status = 'published'")


def downgrade() -> None:
    # The extensions stay: something else may have come to use them.
    op.execute("DROP TRIGGER index_inserted_articles ON knowledge_articles")
    op.execute("DROP TRIGGER index_updated_articles ON knowledge_articles")
    op.execute("DROP TRIGGER forget_truncated_articles ON knowledge_articles")
    op.drop_table("article_search")
    op.drop_table("search_words")
    op.execute("DROP FUNCTION index_articles(), count_added_words(), count_removed_words(), forget_articles()")
    op.execute("DROP FUNCTION search_config(text)")
    for language in (*LANGUAGES, "any"):
        op.execute(f"DROP TEXT SEARCH CONFIGURATION search_{language}")


def create_configurations() -> None:
    """One text search configuration a language, each of which ignores accents."""
    for language, base in (*LANGUAGES.items(), ("any", "simple")):
        op.execute(f"CREATE TEXT SEARCH CONFIGURATION search_{language} (COPY = {base})")
        stemmer = "simple" if base == "simple" else f"{base}_stem"
        op.execute(
            f"ALTER TEXT SEARCH CONFIGURATION search_{language} "
            f"ALTER MAPPING FOR hword, hword_part, word WITH unaccent, {stemmer}"
        )
    cases = " ".join(f"WHEN '{language}' THEN 'search_{language}'::regconfig" for language in LANGUAGES)
    op.execute(
        f"""
        CREATE FUNCTION search_config(language text) RETURNS regconfig IMMUTABLE PARALLEL SAFE LANGUAGE sql
        RETURN CASE split_part(lower(language), '-', 1) {cases} ELSE 'search_any'::regconfig END
        """
    )


def create_tables() -> None:
    op.create_table(
        "article_search",
        sa.Column("article_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("language", sa.Text, nullable=False),
        sa.Column("tags", sa.ARRAY(sa.Text), nullable=False),
        sa.Column("title", TSVECTOR, nullable=False),
        sa.Column("content", TSVECTOR, nullable=False),
        sa.ForeignKeyConstraint(
            ["article_id"],
            ["knowledge_articles.id"],
            ondelete="CASCADE",
            name="fk_article_search_article_id_knowledge_articles",
        ),
        sa.PrimaryKeyConstraint("article_id", name="pk_article_search"),
    )
    # Ranking reads whole vectors: in the row and uncompressed they cost a fifth.
    op.execute("ALTER TABLE article_search ALTER COLUMN content SET STORAGE EXTERNAL")
    op.execute("ALTER TABLE article_search SET (toast_tuple_target = 8160)")
    for column in ("title", "content"):
        op.create_index(f"ix_article_search_{column}", "article_search", [column], postgresql_using="gin")
    op.execute(
        "CREATE TRIGGER index_inserted_articles AFTER INSERT ON knowledge_articles REFERENCING NEW TABLE AS new_rows "
        "FOR EACH STATEMENT EXECUTE FUNCTION index_articles()"
    )
    op.execute(
        "CREATE TRIGGER index_updated_articles AFTER UPDATE ON knowledge_articles "
        "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows "
        "FOR EACH STATEMENT EXECUTE FUNCTION index_articles()"
    )
    op.execute(
        """
        CREATE FUNCTION forget_articles() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            DELETE FROM article_search;
            DELETE FROM search_words;
            RETURN NULL;
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER forget_truncated_articles AFTER TRUNCATE ON knowledge_articles "
        "FOR EACH STATEMENT EXECUTE FUNCTION forget_articles()"
    )


def count_words(added: bool) -> str:
    """Return the function that keeps `search_words`; its row with the empty word counts the articles themselves."""
    counted = """
        SELECT language, lexeme AS word, count(*) AS articles, count(*) FILTER (WHERE 'A' = ANY (weights)) AS titles
        FROM changed, unnest(content) WHERE lexeme !~ '^[@#]' GROUP BY 1, 2
        UNION ALL
        SELECT language, '', count(*), count(*) FROM changed GROUP BY 1
        -- Always in the same order, so that two writers can't wait for each other.
        ORDER BY 1, 2
    """
    if added:
        return f"""
            CREATE FUNCTION count_added_words() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                INSERT INTO search_words (language, word, articles, titles) {counted}
                ON CONFLICT (language, word) DO UPDATE
                SET articles = search_words.articles + excluded.articles,
                    titles = search_words.titles + excluded.titles;
                RETURN NULL;
            END $$
        """  # noqa: S608 - our own words
    return f"""
        CREATE FUNCTION count_removed_words() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO search_words AS known (language, word, articles, titles) {counted}
            ON CONFLICT (language, word) DO UPDATE
            SET articles = known.articles - excluded.articles, titles = known.titles - excluded.titles;
            -- An unknown word must look unknown, or nobody would look for what was meant by it.
            DELETE FROM search_words AS known USING changed, unnest(content)
            WHERE known.language = changed.language AND known.word = lexeme AND known.articles <= 0;
            RETURN NULL;
        END $$
    """  # noqa: S608 - our own words
