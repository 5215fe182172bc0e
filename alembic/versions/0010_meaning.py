"""Prepare the search by meaning: passages, codes, and a queue of articles whose vectors have to be made.

pgvector is not needed here, and may come later or never: what needs it is made for one model at a time, by the gateway
or by `switchboard embed`. Codes such as `E-4711` are found by the search for words as well.

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# A word is at most 24 characters, and three of a script that puts no space between words: so that a passage fits into
# a model in any language. Joined, the pieces are the text again.
WORDS = r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]{1,3}\s*|[^\s\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]{1,24}\s*"

PASSAGES = rf"""
    CREATE FUNCTION article_passages(body text) RETURNS TABLE (number integer, passage text)
    IMMUTABLE PARALLEL SAFE LANGUAGE sql ROWS 5 AS $$
        SELECT CAST(first / 80 + 1 AS integer), rtrim(array_to_string(words[first + 1 : first + 110], ''), E' \n\r\t')
        FROM (
            SELECT array_agg(word[1] ORDER BY place) AS words
            FROM regexp_matches(left(body, 200000), '{WORDS}', 'g') WITH ORDINALITY AS found (word, place)
        ) AS split, generate_series(0, greatest(cardinality(words) - 31, 0), 80) AS first
        WHERE words IS NOT NULL
        LIMIT 200
    $$
"""  # noqa: S608 - our own words

# Words with a digit in one spelling: small letters, and a hyphen between digits only. `E-4711-Fehler` is also `e4711`
# and `4711`; `PX 200` is also `px200`. `codes.py` writes those of a question in the same way.
TOKENS = r"(?:\m([[:alpha:]]{1,4}) )?([[:alnum:]_./:-]*[0-9][[:alnum:]_./:-]*)"
CODES = rf"""
    CREATE FUNCTION article_codes(body text) RETURNS text[] IMMUTABLE PARALLEL SAFE LANGUAGE sql AS $$
        SELECT coalesce(array_agg('=' || code), '{{}}') FROM (
            SELECT DISTINCT regexp_replace(joined, '(?<![0-9])-|-(?![0-9])', '', 'g') AS code
            FROM regexp_matches(lower(left(body, 200000)), '{TOKENS}', 'g') AS found (token)
            CROSS JOIN LATERAL regexp_split_to_array(btrim(token[2], '_./:-'), '[-_./:]+') AS pieces
            CROSS JOIN LATERAL (
                SELECT array_to_string(pieces[first:last], '-') AS joined
                FROM generate_series(1, least(cardinality(pieces), 6)) AS first,
                     generate_series(first, least(cardinality(pieces), first + 5)) AS last
                UNION ALL
                SELECT token[1] || '-' || array_to_string(pieces, '-') WHERE token[1] IS NOT NULL
            ) AS spellings
        ) AS spelled
        WHERE code ~ '[0-9]' AND length(code) BETWEEN 3 AND 40
        LIMIT 2000
    $$
"""  # noqa: S608 - our own words

OF_WORDS_ALONE = "markers || setweight"
OF_CODES_TOO = (
    "markers || array_to_tsvector(article_codes("
    "concat_ws('' '', title, array_to_string(tags, '' ''), body))) || setweight"
)

# Always in the same order, so that two writers can't wait for each other.
QUEUE_CHANGED = """
        IF TG_OP = 'INSERT' THEN
            INSERT INTO embedding_queue AS queue (model, article_id)
            SELECT model.name, now.id FROM embedding_models AS model, new_rows AS now
            WHERE now.status = 'published' ORDER BY 1, 2
            ON CONFLICT (model, article_id) DO UPDATE
            SET version = queue.version + 1, failures = 0, claimed_until = NULL;
        ELSE
            INSERT INTO embedding_queue AS queue (model, article_id)
            SELECT model.name, now.id FROM embedding_models AS model, new_rows AS now JOIN old_rows AS before USING (id)
            WHERE 'published' IN (now.status, before.status)
              AND (now.title, now.body, now.status) IS DISTINCT FROM (before.title, before.body, before.status)
            ORDER BY 1, 2
            ON CONFLICT (model, article_id) DO UPDATE
            SET version = queue.version + 1, failures = 0, claimed_until = NULL;
        END IF;
"""


def upgrade() -> None:
    op.execute(PASSAGES)
    op.execute(CODES.replace(":", r"\:"))  # none of them is a parameter
    change("index_articles()", OF_WORDS_ALONE, OF_CODES_TOO)
    for function in ("count_added_words()", "count_removed_words()"):
        change(function, "^[@#]", "^[@#=]")
    op.execute(
        """
        UPDATE article_search AS entry SET content = content || array_to_tsvector(codes)
        FROM knowledge_articles AS article,
             LATERAL article_codes(
                 concat_ws(' ', article.title, array_to_string(article.tags, ' '), article.body)
             ) AS codes
        WHERE article.id = entry.article_id AND codes <> '{}'
        """
    )
    create_tables()
    create_triggers()


def downgrade() -> None:
    op.execute(
        """
        DO $do$ DECLARE model text; BEGIN
            FOR model IN SELECT name FROM embedding_models LOOP
                EXECUTE format('DROP TABLE IF EXISTS %I CASCADE', 'vectors_' || model);
            END LOOP;
        END $do$
        """
    )
    op.execute("DROP TRIGGER queue_inserted_articles ON knowledge_articles")
    op.execute("DROP TRIGGER queue_updated_articles ON knowledge_articles")
    op.execute("DROP FUNCTION queue_articles()")
    op.drop_table("embedding_queue")
    op.drop_table("embedding_models")
    op.execute(
        "UPDATE article_search SET content = ts_delete("
        "content, ARRAY(SELECT lexeme FROM unnest(content) WHERE lexeme LIKE '=%')) WHERE content IS NOT NULL"
    )
    change("index_articles()", OF_CODES_TOO, OF_WORDS_ALONE)
    for function in ("count_added_words()", "count_removed_words()"):
        change(function, "^[@#=]", "^[@#]")
    op.execute("DROP FUNCTION article_codes(text), article_passages(text)")


def change(function: str, before: str, after: str) -> None:
    """Put one piece of a function's text in place of another; both as they stand between quotes."""
    op.execute(
        f"""
        DO $do$ BEGIN
            EXECUTE replace(pg_get_functiondef('{function}'::regprocedure), '{before}', '{after}');
        END $do$
        """
    )


def create_tables() -> None:
    op.create_table(
        "embedding_models",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("dimension", sa.Integer, nullable=False),
        sa.Column("filled_at", sa.DateTime(timezone=True)),
        sa.Column("spread", sa.Double),
        sa.Column("mean", sa.Double),
        sa.Column("deviation", sa.Double),
        sa.Column("measured", sa.Integer, server_default="0", nullable=False),
        sa.CheckConstraint("name ~ '^[a-z0-9_-]{1,40}$'", name=op.f("ck_embedding_models_name_form")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_embedding_models")),
    )
    op.create_table(
        "embedding_queue",
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("article_id", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, server_default="0", nullable=False),
        sa.Column("failures", sa.Integer, server_default="0", nullable=False),
        sa.Column("claimed_until", sa.DateTime(timezone=True)),
        sa.ForeignKeyConstraint(
            ["model"],
            ["embedding_models.name"],
            ondelete="CASCADE",
            name=op.f("fk_embedding_queue_model_embedding_models"),
        ),
        sa.PrimaryKeyConstraint("model", "article_id", name=op.f("pk_embedding_queue")),
    )


def create_triggers() -> None:
    """Let each writer of articles queue them, with the rights of who made the tables."""
    op.execute(
        f"""
        CREATE FUNCTION queue_articles() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
        BEGIN
            {QUEUE_CHANGED}
            IF FOUND THEN
                NOTIFY switchboard_articles;
            END IF;
            RETURN NULL;
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER queue_inserted_articles AFTER INSERT ON knowledge_articles REFERENCING NEW TABLE AS new_rows "
        "FOR EACH STATEMENT EXECUTE FUNCTION queue_articles()"
    )
    op.execute(
        "CREATE TRIGGER queue_updated_articles AFTER UPDATE ON knowledge_articles "
        "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows "
        "FOR EACH STATEMENT EXECUTE FUNCTION queue_articles()"
    )
