"""Index articles in the form in which questions are asked: composed (NFKC), and without what is not seen.

An article in full-width letters, or with soft hyphens in its words, was found by none of them. Codes are also held
without the hyphens between their digits if these are seven or more, for who types `INV2024001` for `INV-2024-001`.

Revision ID: 0012
Revises: 0011
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# As `_in_one_form` in search.py says it of questions. What has no character of several bytes has nothing of this; other
# encodings than UTF-8 have none of these characters, and PostgreSQL composes none of theirs.
FORM = r"""
    CREATE FUNCTION article_form(body text) RETURNS text IMMUTABLE PARALLEL SAFE LANGUAGE sql AS $$
        SELECT CASE
            WHEN octet_length(body) = char_length(body) OR getdatabaseencoding() <> 'UTF8' THEN body
            ELSE (
                -- To look whether a text is composed takes a quarter of the time of composing it.
                SELECT regexp_replace(
                    CASE WHEN seen IS NFKC NORMALIZED THEN seen ELSE normalize(seen, NFKC) END,
                    '[\u2010\u2011\u2212]', '-', 'g'
                )
                FROM (
                    SELECT regexp_replace(
                        body,
                        '[\u00ad\u034f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]'
                            || '|(?<![\u0600-\u0fff])[\u200c\u200d]',
                        '', 'g'
                    ) OFFSET 0
                ) AS stripped (seen)
            )
        END
    $$
"""

CODES = "article_codes(text)"
LETTERS = "lower(left(body, 200000))", "lower(article_form(left(body, 200000)))"
SPELLINGS = (
    "WHERE token[1] IS NOT NULL",
    """WHERE token[1] IS NOT NULL
                UNION ALL
                SELECT array_to_string(pieces[first:last], '''')
                FROM generate_series(1, least(cardinality(pieces), 6)) AS first,
                     generate_series(first + 1, least(cardinality(pieces), first + 5)) AS last
                WHERE array_to_string(pieces[first:last], '''') ~ ''[0-9]{7}''""",
)
INDEX = "index_articles()"
ROWS = (
    "FROM new_rows,",
    """FROM (
                SELECT id, language, tags, status, article_form(title) AS title,
                       article_form(left(body, 200000)) AS body
                FROM new_rows OFFSET 0
            ) AS formed,""",
)

AFFECTED = """
    SELECT id FROM knowledge_articles
    WHERE status = 'published' AND (article_form(title) <> title OR article_form(body) <> body)
"""


def upgrade() -> None:
    op.execute(FORM.replace(":", r"\:"))
    change(CODES, *LETTERS)
    change(CODES, *SPELLINGS)
    change(INDEX, *ROWS)
    op.execute(
        """
        UPDATE article_search AS entry SET content = content || array_to_tsvector(codes)
        FROM knowledge_articles AS article,
             LATERAL article_codes(
                 concat_ws(' ', article.title, array_to_string(article.tags, ' '), article.body)
             ) AS codes
        WHERE article.id = entry.article_id AND NOT tsvector_to_array(content) @> codes
        """
    )
    op.execute(f"UPDATE knowledge_articles SET status = status WHERE id IN ({AFFECTED})")  # noqa: S608 - our own words
    op.execute(
        f"""
        INSERT INTO embedding_queue AS queue (model, article_id)
        SELECT model.name, affected.id FROM embedding_models AS model, ({AFFECTED}) AS affected ORDER BY 1, 2
        ON CONFLICT (model, article_id) DO UPDATE SET version = queue.version + 1, failures = 0, claimed_until = NULL
        """  # noqa: S608 - our own words
    )


def downgrade() -> None:
    change(INDEX, *reversed(ROWS))
    change(CODES, *reversed(SPELLINGS))
    change(CODES, *reversed(LETTERS))
    op.execute("DROP FUNCTION article_form(text)")


def change(function: str, before: str, after: str) -> None:
    """Put one piece of a function's text in place of another; both as they stand between quotes."""
    definition = f"replace(pg_get_functiondef('{function}'::regprocedure), '{before}', '{after}')"
    op.execute(f"DO $do$ BEGIN EXECUTE {definition}; END $do$".replace("[first:last]", r"[first\:last]"))
