"""The index of the knowledge search; `docs/search.md` shows how it is used.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TSVECTOR

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
    op.create_table(
        "search_words",
        sa.Column("language", sa.Text, nullable=False),
        sa.Column("word", sa.Text, nullable=False),
        sa.Column("articles", sa.Integer, nullable=False),
        sa.Column("titles", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("language", "word", name="pk_search_words"),
    )
    op.create_index(
        "ix_search_words_word",
        "search_words",
        ["word"],
        postgresql_using="gin",
        postgresql_ops={"word": "gin_trgm_ops"},
    )


def create_triggers() -> None:
    """Triggers a statement, not a row, so that a load of 100,000 articles counts its words once."""
    op.execute(
        """
        CREATE FUNCTION index_articles() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'UPDATE' THEN
                DELETE FROM article_search USING old_rows WHERE article_id = old_rows.id;
            END IF;
            INSERT INTO article_search (article_id, language, tags, title, content)
            SELECT id, language, tags, vector_of_title || markers,
                   markers || setweight(vector_of_title, 'A')
                   || setweight(to_tsvector(config, array_to_string(tags, ' ')), 'B')
                   || setweight(to_tsvector(config, coalesce(headings, '')), 'C')
                   -- A tsvector holds at most a megabyte.
                   || to_tsvector(config, left(body, 200000))
            FROM new_rows,
                 LATERAL (SELECT search_config(language) AS config) AS configured,
                 LATERAL (SELECT to_tsvector(config, left(title, 2000)) AS vector_of_title) AS titled,
                 -- "@en" and "#billing": no word of a text begins like that. They let one index look for all at once.
                 LATERAL (
                    SELECT array_to_tsvector(array_agg(marker)) AS markers
                    FROM (
                        SELECT '@' || language UNION SELECT '#' || left(tag, 100) FROM unnest(tags) AS tag
                    ) AS both_kinds (marker)
                    WHERE marker IS NOT NULL
                 ) AS marked,
                 LATERAL (
                    SELECT left(string_agg(line[1], ' '), 20000) AS headings
                    FROM regexp_matches(left(body, 200000), '^#+ +(.+)$', 'gn') AS line
                 ) AS headed
            WHERE status = 'published';
            -- Pending changes make a load quick and each search slow, so they are merged when the statement is done.
            PERFORM gin_clean_pending_list(oid) FROM pg_class
            WHERE oid IN (
                'ix_article_search_title'::regclass, 'ix_article_search_content'::regclass,
                'ix_search_words_word'::regclass
            ) AND pg_has_role(relowner, 'USAGE');
            RETURN NULL;
        END $$
        """
    )
    for added, event in ((True, "INSERT"), (False, "DELETE")):
        op.execute(count_words(added))
        op.execute(
            f"CREATE TRIGGER count_words_on_{event.lower()} AFTER {event} ON article_search "
            f"REFERENCING {'NEW' if added else 'OLD'} TABLE AS changed "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {'count_added_words' if added else 'count_removed_words'}()"
        )
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
