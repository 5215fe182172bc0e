"""Forget the words that no article has any more one by one.

They were looked for among all words of the articles that changed, for each anew where the planner took both for few: a
statement that changed 16,000 articles took hours. Counting tells which words they are.

Revision ID: 0011
Revises: 0010
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

COUNT = """
            INSERT INTO search_words AS known (language, word, articles, titles)
        SELECT language, lexeme AS word, count(*) AS articles, count(*) FILTER (WHERE 'A' = ANY (weights)) AS titles
        FROM changed, unnest(content) WHERE lexeme !~ '^[@#=]' GROUP BY 1, 2
        UNION ALL
        SELECT language, '', count(*), count(*) FROM changed GROUP BY 1
        -- Always in the same order, so that two writers can't wait for each other.
        ORDER BY 1, 2

            ON CONFLICT (language, word) DO UPDATE
            SET articles = known.articles - excluded.articles, titles = known.titles - excluded.titles"""

REMOVED = f"""
        CREATE OR REPLACE FUNCTION count_removed_words() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE
            languages text[];
            words text[];
        BEGIN
            WITH counted AS ({COUNT}
            RETURNING known.language, known.word, known.articles)
            SELECT array_agg(language), array_agg(word) INTO languages, words
            FROM counted WHERE articles <= 0 AND word <> '';
            -- An unknown word must look unknown, or nobody would look for what was meant by it.
            DELETE FROM search_words AS known USING unnest(languages, words) AS gone (language, word)
            WHERE known.language = gone.language AND known.word = gone.word AND known.articles <= 0;
            RETURN NULL;
        END $$
"""  # noqa: S608 - our own words

BEFORE = f"""
        CREATE OR REPLACE FUNCTION count_removed_words() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            {COUNT.lstrip()};
            -- An unknown word must look unknown, or nobody would look for what was meant by it.
            DELETE FROM search_words AS known USING changed, unnest(content)
            WHERE known.language = changed.language AND known.word = lexeme AND known.articles <= 0;
            RETURN NULL;
        END $$
"""  # noqa: S608 - our own words


def upgrade() -> None:
    op.execute(REMOVED)


def downgrade() -> None:
    op.execute(BEFORE)
