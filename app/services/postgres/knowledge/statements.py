"""The three statements of a search, and what the first and the last of them answer."""

import re
from dataclasses import dataclass

import msgspec
from sqlalchemy import text

from app.services.postgres.connections.pools import Statement


class Lexeme(msgspec.Struct, frozen=True):
    """What the index knows of a word of a variant, or of one that was meant by it."""

    number: int
    """Of the variant, from 1 on."""
    language: str
    word: str
    articles: int
    titles: int
    corrected: bool
    closeness: float
    spelling: str | None = None
    """What was typed with two letters back in their places, where this is of it."""


class Analysis(msgspec.Struct, frozen=True):
    """What the index knows of a question."""

    totals: dict[str, int]
    lexemes: list[Lexeme]
    known: dict[str, int]


class Offered(msgspec.Struct, frozen=True):
    """What there is in place of what was asked for."""

    languages: list[str]
    tags: list[str]
    unknown: list[int]
    """Positions of the tags that no article has."""


ANALYSE = Statement(
    text(
        """
        WITH totals AS (
            SELECT language, articles FROM search_words
            WHERE word = '' AND articles > 0
              AND (CAST(:language AS text) IS NULL OR split_part(lower(language), '-', 1) = CAST(:language AS text))
        ), asked AS MATERIALIZED (
            SELECT totals.language, number, words, typed, parsed.lexeme, known.articles, known.titles
            FROM totals
            CROSS JOIN unnest(CAST(:texts AS text[]), CAST(:typed AS boolean[]))
                WITH ORDINALITY AS variant (words, typed, number)
            LEFT JOIN LATERAL unnest(to_tsvector(search_config(totals.language), words)) AS parsed ON true
            LEFT JOIN search_words AS known ON known.language = totals.language AND known.word = parsed.lexeme
        ), unknown AS (
            SELECT number, language, words, lexeme
            FROM (SELECT *, bool_or(articles IS NOT NULL) OVER (PARTITION BY number) AS is_known FROM asked) AS word
            -- What has a digit in it is a number or a name, and a similar one is another's.
            WHERE typed AND NOT is_known AND length(lexeme) BETWEEN 4 AND 24 AND lexeme !~ '[0-9]'
            ORDER BY length(lexeme) DESC LIMIT 6
        ), meant AS (
            SELECT unknown.number, unknown.language, guess.*
            FROM unknown CROSS JOIN LATERAL (
                -- Two letters that changed places, which trigrams hardly recognize; before the ending is taken off, as
                -- they may be a part of it. One by one, for the planner believes that a series has a thousand rows,
                -- and would read all words instead of these few.
                SELECT stem.word, articles, titles, 1 AS distance, 1.0 AS likeness, swapped AS spelling
                FROM generate_series(1, least(length(words), 24) - 1) AS place
                CROSS JOIN LATERAL overlay(words PLACING reverse(substr(words, place, 2)) FROM place FOR 2) AS swapped
                CROSS JOIN LATERAL unnest(to_tsvector(search_config(unknown.language), swapped)) AS stem (word)
                CROSS JOIN LATERAL (
                    SELECT articles, titles FROM search_words
                    WHERE language = unknown.language AND word = stem.word LIMIT 1
                ) AS known
                UNION ALL
                SELECT word, articles, titles, levenshtein(word, unknown.lexeme),
                       similarity(word, unknown.lexeme), NULL
                FROM search_words
                WHERE word % unknown.lexeme AND language = unknown.language
                  AND abs(length(word) - length(unknown.lexeme)) <= 2 AND length(word) <= 60
                  AND levenshtein(word, unknown.lexeme) <= CASE WHEN length(unknown.lexeme) > 6 THEN 3 ELSE 2 END
                ORDER BY 4, 5 DESC, articles DESC, word
                LIMIT 2
            ) AS guess
        )
        SELECT CAST(json_build_object(
            'totals', (SELECT coalesce(json_object_agg(language, articles), '{}') FROM totals),
            'known', (
                SELECT coalesce(json_object_agg(language, share), '{}')
                FROM (
                    SELECT language, count(*) FILTER (WHERE lexeme IS NULL OR articles IS NOT NULL) AS share
                    FROM asked WHERE typed GROUP BY language
                ) AS familiar
            ),
            'lexemes', (
                SELECT coalesce(json_agg(found), '[]') FROM (
                    SELECT number, language, lexeme AS word, articles, titles, false AS corrected, 1.0 AS closeness,
                           CAST(NULL AS text) AS spelling
                    FROM (
                        SELECT number, language, lexeme, coalesce(articles, 0) AS articles,
                               coalesce(titles, 0) AS titles
                          FROM asked WHERE lexeme IS NOT NULL) AS parsed
                    UNION ALL
                    SELECT number, language, word, articles, titles, true, 1.0 / (1 + 0.15 * distance), spelling
                    FROM meant
                ) AS found
            )
        ) AS text)
        """
    )
)

OFFERED = Statement(
    text(
        """
        SELECT CAST(json_build_object(
            'languages', (
                SELECT coalesce(json_agg(language ORDER BY articles DESC, language), '[]')
                FROM search_words WHERE word = '' AND articles > 0
            ),
            'unknown', (
                SELECT coalesce(json_agg(number - 1 ORDER BY number), '[]')
                FROM unnest(CAST(:markers AS text[])) WITH ORDINALITY AS asked (marker, number)
                WHERE NOT EXISTS (SELECT FROM article_search WHERE content @@ CAST(marker AS tsquery))
            ),
            'tags', (
                SELECT coalesce(json_agg(tag ORDER BY articles DESC, tag), '[]') FROM (
                    SELECT tag, count(*) AS articles FROM (
                        SELECT tags FROM article_search ORDER BY article_id DESC LIMIT :scanned
                    ) AS newest, unnest(tags) AS tag
                    GROUP BY tag ORDER BY 2 DESC, 1 LIMIT :limit
                ) AS common
            )
        ) AS text)
        """
    )
)
"""What there is in place of what was asked for; only searches that find nothing ask for it."""

_CARRIES_THE_TAGS = """(CAST(:tags AS text[]) IS NULL OR CAST(lower(CAST(entry.tags AS text)) AS text[])
                    @> CAST(lower(CAST(CAST(:tags AS text[]) AS text)) AS text[]))"""
"""In capitals or not; by PostgreSQL's own idea of them on both sides."""

_WANTED = f"""{_CARRIES_THE_TAGS}
              AND (CAST(:wanted AS text[]) IS NULL OR array_position(CAST(:wanted AS text[]), entry.language) > 0)"""
"""What was asked for: the tags, and one of the spellings of the language."""

_MARKS = "|".join(
    (
        r"(?<![\w*])\*+([^\s*/.]|[^\s*/.][^*]*[^\s*])\*+(?![\w*])",  # emphasis, whose text stays
        "`",
        r"^ *#+ +",
        r"^ *[-*+] +",
        r"^[ |:-]*---+[ |:-]*$",
        r"^ *\||\| *$",
        r"</?(?=[a-z])[biau]>|</?(?=em>|strong>|span[ >]|code>|a )[a-z]+[^<>]*>",
    )
)
_BLOCKS = r"</?(?=(p|br|hr|h[1-6]|div|[uo]l|li|table|t[rdh]|pre|img|script|style)[ />])[a-z][^<>]*>"


def plain_text(text: str) -> str:
    """Return SQL of a text without the marks of Markdown and HTML.

    Nothing else is left out: a figure at the beginning of a line, `C#` or `a < b` are what the article says.

    Args:
        text: SQL of the text.
    """
    return f"regexp_replace(regexp_replace({text}, '{_MARKS}', '\\1', 'gni'), '{_BLOCKS}', ' ', 'gni')"


_PARAMETER = re.compile(r"CAST\(:\w+ AS [\w\[\]]+\)")

_OF_ANOTHER_CODE = """(
                                   cardinality(CAST(:alike_codes AS text[])) > 0
                                   AND NOT tsvector_to_array(entry.content) && CAST(:codes AS text[])
                                   AND EXISTS (
                                       SELECT FROM unnest(tsvector_to_array(entry.content)) AS held,
                                           unnest(CAST(:alike_letters AS text[]), CAST(:alike_codes AS text[]))
                                               AS asked_for (letters, code)
                                       -- Of no other word: the distance of long ones is an error.
                                       WHERE CASE WHEN held LIKE '=%' AND length(held) <= 41 THEN
                                           (starts_with(held, '=' || letters)
                                               AND substr(held, length(letters) + 2) ~ '^[0-9]'
                                               AND abs(length(held) - length(code) - 1) <= length(letters))
                                           OR levenshtein_less_equal(substr(held, 2), code, 2)
                                               <= CASE WHEN length(code) < 6 THEN 1 ELSE 2 END
                                       END
                                   )
                               )"""
"""Whether an article holds none of the question's codes, but one that looks like one of them."""

_NEWEST = "(SELECT * FROM article_search ORDER BY article_id DESC LIMIT CAST(:scanned AS integer))"

_SOURCES = {
    "content": ("article_search", "content"),
    "title": ("article_search", "title"),
    "common": ("article_search", "title"),
    "scan": (_NEWEST, "content"),
}
"""What fetches candidates by words: the column of `sources` that asks, of what, and the index that answers."""

_BY_WORDS = " UNION ".join(
    f"""
            SELECT found.article_id FROM sources CROSS JOIN LATERAL (
                SELECT article_id FROM {articles} AS entry
                WHERE sources.{source} IS NOT NULL AND entry.{index} @@ sources.{source}
                  AND entry.language = sources.language AND {_CARRIES_THE_TAGS}
                LIMIT CAST(:candidates AS integer)
            ) AS found"""  # noqa: S608 - our own words
    for source, (articles, index) in _SOURCES.items()
)


@dataclass(frozen=True)
class _Meaning:
    """What the ranking statement says of meaning: nothing, or what follows from a model's vectors."""

    nearest: str = ""
    """CTEs before the candidates."""
    candidates: str = ""
    """One more source of them."""
    cosines: str = ""
    """CTEs after they are scored by words."""
    joined: str = "CROSS JOIN (SELECT CAST(NULL AS float8) AS cosine, CAST(NULL AS integer) AS passage) AS unknown"
    """What brings an article's `cosine`, and the number of the `passage` that it is of."""
    score: str = "lexical + 2 * CAST(:ideal AS float8) * CAST(coded AS integer)"
    by_meaning: str = "false"
    """Whether an article is found by meaning."""
    fit: str = "0"
    """What its meaning adds to how well it fits."""


def _by_meaning(model: str) -> _Meaning:
    return _Meaning(
        nearest=f"""
        , asked AS MATERIALIZED (
            SELECT CAST(CAST(:question AS text) AS halfvec) AS vector
        ), nearest AS MATERIALIZED (
            SELECT DISTINCT article_id
            FROM asked, "nearest_{model}"(vector, CAST(:nearest AS integer), CAST(:within AS tsquery))
        )""",  # noqa: S608 - a name that has been checked
        candidates=f"""
            UNION
            SELECT article_id FROM nearest JOIN article_search AS entry USING (article_id) WHERE {_WANTED}""",  # noqa: S608
        cosines=f"""
        , compared AS MATERIALIZED (
            SELECT article_id FROM nearest
            UNION
            (
                SELECT article_id FROM scored WHERE lexical > 0
                ORDER BY lexical DESC, article_id LIMIT CAST(:compared AS integer)
            )
            UNION
            SELECT article_id FROM scored WHERE coded
        ), cosines AS MATERIALIZED (
            SELECT compared.article_id, closest.cosine, closest.passage
            FROM asked, compared LEFT JOIN LATERAL (
                SELECT -(kept.vector <#> asked.vector) AS cosine, kept.passage FROM "vectors_{model}" AS kept
                WHERE kept.article_id = compared.article_id ORDER BY 1 DESC LIMIT 1
            ) AS closest ON true
        ), known AS MATERIALIZED (
            SELECT greatest(max(cosine), CAST(:floor AS float8)) AS most,
                   least(min(cosine), CAST(:floor AS float8)) AS least,
                   (SELECT max(lexical) FROM scored) AS best
            FROM cosines
        )""",  # noqa: S608
        joined="LEFT JOIN cosines USING (article_id) CROSS JOIN known",
        # The meaning of an article whose vectors are not made yet is taken for what its words say; who is far down by
        # words was not compared, and comes last.
        score="""coalesce(cosine, CASE
                       WHEN cosines.article_id IS NULL THEN least
                       ELSE CAST(:floor AS float8) + (most - CAST(:floor AS float8)) * lexical / nullif(best, 0)
                   END, CAST(:floor AS float8)) / CAST(:spread AS float8)
                   + coalesce(1.5 * lexical / nullif(CAST(:ideal AS float8), 0), 0) + 3 * CAST(coded AS integer)""",
        by_meaning="coalesce(cosine >= CAST(:floor AS float8), false)",
        fit="coalesce(greatest(0, (cosine - CAST(:near AS float8)) * CAST(:sureness AS float8)), 0)",
    )


def _planned_once(sql: str) -> str:
    """Return a statement whose parameters the planner doesn't see.

    Planning the ranking takes 1.5 to 3 ms, a third of its time, and PostgreSQL plans a statement for each call anew as
    long as it thinks that the parameters matter. These don't: the plan is the same, whatever is asked. So all plans
    look equally costly, and from the sixth call of a connection on it plans no more.
    """
    return _PARAMETER.sub(r"(SELECT \g<0>)", sql)


def ranking(model: str | None = None) -> Statement:
    """Return the statement that fetches candidates, ranks them and writes a page of them.

    Args:
        model: of whose vectors it makes use, too.
    """
    meaning = _by_meaning(model) if model else _Meaning()
    return Statement(
        text(
            _planned_once(
                f"""
        WITH sources AS (
            SELECT * FROM unnest(
                CAST(:languages AS text[]), CAST(CAST(:contents AS text[]) AS tsquery[]),
                CAST(CAST(:titles AS text[]) AS tsquery[]),
                CAST(CAST(:commons AS text[]) AS tsquery[]), CAST(CAST(:scans AS text[]) AS tsquery[])
            ) AS source (language, content, title, common, scan)
        ), terms AS MATERIALIZED (
            SELECT * FROM unnest(
                CAST(:term_languages AS text[]), CAST(:term_groups AS integer[]),
                CAST(CAST(:term_queries AS text[]) AS tsquery[]), CAST(:term_weights AS float8[]),
                CAST(:term_sureties AS float8[]), CAST(:term_shares AS float8[])
            ) AS term (language, notion, query, weight, surety, share)
        ), codes AS MATERIALIZED (
            SELECT DISTINCT ON (number) articles, marker, is_name
            FROM unnest(CAST(:code_numbers AS integer[]), CAST(:codes AS text[]), CAST(:code_names AS boolean[]))
                     WITH ORDINALITY AS code (number, marker, is_name, place)
            CROSS JOIN LATERAL (
                SELECT ARRAY(
                    SELECT article_id FROM article_search
                    WHERE content @@ CAST(quote_literal(marker) AS tsquery) LIMIT CAST(:rare AS integer) + 1
                ) AS articles
            ) AS held
            WHERE cardinality(articles) > 0
            ORDER BY number, place
        ), coded AS MATERIALIZED (
            SELECT article_id, bool_or(is_name) AS by_name FROM codes, unnest(articles) AS article_id
            WHERE cardinality(articles) <= CAST(:rare AS integer) GROUP BY 1
        ){meaning.nearest}, candidates AS ({_BY_WORDS}
            UNION
            SELECT article_id FROM coded JOIN article_search AS entry USING (article_id) WHERE {_WANTED}
            {meaning.candidates}
        ), scored AS MATERIALIZED (
            SELECT entry.article_id, coalesce(rated.lexical, 0) AS lexical,
                   entry.article_id IN (SELECT article_id FROM coded) AS coded
            FROM (
                SELECT article_id, language,
                       CASE WHEN CAST(:unpacked AS boolean) THEN content || '' ELSE content END AS content
                FROM candidates JOIN article_search USING (article_id)
                OFFSET 0
            ) AS entry CROSS JOIN LATERAL (
                SELECT sum(best) * (1 + CAST(:agreement AS float8) * (count(*) FILTER (WHERE best > 0) - 1)) AS lexical
                FROM (
                    SELECT max(weight * ts_rank(CAST(:weights AS float4[]), entry.content, query)) AS best
                    FROM terms WHERE language = entry.language GROUP BY notion
                ) AS notions
            ) AS rated
        ){meaning.cosines}, rated AS (
            SELECT article_id, lexical, coded, cosine, passage, {meaning.by_meaning} AS by_meaning,
                   {meaning.score} AS score
            FROM scored {meaning.joined}
        ), hits AS MATERIALIZED (
            SELECT * FROM rated WHERE lexical > 0 OR coded OR by_meaning
        ), page AS (
            SELECT * FROM hits ORDER BY score DESC, article_id
            LIMIT CAST(:limit AS integer) OFFSET CAST(:offset AS integer)
        )
        SELECT CAST(json_build_object(
            'success', true,
            'mode', CAST(:mode AS text),
            'total', (SELECT count(*) FROM hits),
            'limit', CAST(:limit AS integer),
            'offset', CAST(:offset AS integer),
            'articles', (
                SELECT coalesce(json_agg(hit), '[]') FROM (
                    SELECT id, slug, article.title, round(CAST(score AS numeric), 4) AS score,
                           round(CAST(CASE
                               WHEN by_name
                                   THEN CAST(:of_the_code AS float8) + (1 - CAST(:of_the_code AS float8)) * said.fit
                               WHEN {_OF_ANOTHER_CODE} THEN CAST(:of_another AS float8) * said.fit
                               ELSE said.fit
                           END AS numeric), 2) AS fit,
                           CASE WHEN coded THEN 'code' WHEN by_meaning AND lexical > 0 THEN 'both'
                                WHEN by_meaning THEN 'meaning' ELSE 'words' END AS matched_by,
                           coalesce(
                               ts_headline(
                                   search_config(article.language), {plain_text("shown.text")}, wanted.query,
                                   'StartSel=**, StopSel=**, MaxWords=40, MinWords=18, MaxFragments=1'
                               ),
                               {plain_text("left(shown.text, 500)")}
                           ) AS snippet,
                           page.passage,
                           article.tags, article.language, article.updated_at
                    FROM page JOIN knowledge_articles AS article ON article.id = page.article_id
                    JOIN article_search AS entry USING (article_id)
                    LEFT JOIN coded AS code USING (article_id)
                    CROSS JOIN LATERAL (
                        SELECT least(1, coalesce(sum(best), 0) + {meaning.fit}) AS fit FROM (
                            SELECT max(share * surety * least(
                                1, sqrt(
                                    ts_rank(CAST(:weights AS float4[]), entry.content, query)
                                    / CAST(:in_the_title AS float8)
                                )
                            )) AS best
                            FROM terms WHERE terms.language = article.language GROUP BY notion
                        ) AS notions
                    ) AS said
                    CROSS JOIN LATERAL (
                        SELECT CAST(string_agg(CAST(query AS text), ' | ') AS tsquery) AS query
                        FROM terms WHERE terms.language = article.language AND lexical > 0
                    ) AS wanted
                    CROSS JOIN LATERAL (
                        SELECT coalesce(
                            CASE WHEN coded THEN (
                                SELECT read.passage FROM article_passages(article.body) AS read
                                WHERE article_codes(read.passage) && ARRAY(SELECT marker FROM codes)
                                ORDER BY number LIMIT 1
                            ) WHEN lexical = 0 THEN (
                                SELECT read.passage FROM article_passages(article.body) AS read
                                WHERE number = page.passage
                            ) END,
                            -- The more are asked for, the less of each is read: a headline is costly.
                            left(article.body, 800 + 21000 / CAST(:limit AS integer))
                        ) AS text
                    ) AS shown
                    ORDER BY page.score DESC, page.article_id
                ) AS hit
            )
        ) AS text)
        """  # noqa: S608 - our own words
            )
        )
    )


RANK = ranking()
"""By words alone."""


def similar(model: str) -> Statement:
    """Return the statement that compares an article with all others, by the vectors of a model.

    It answers no row if the article is not published, and nothing in `articles` if its vectors are not made yet.
    """
    return Statement(
        text(
            f"""
        WITH passages AS MATERIALIZED (
            SELECT vector FROM "vectors_{model}" WHERE article_id = :article ORDER BY passage LIMIT :passages
        ), found AS (
            SELECT near.article_id, max(near.cosine) AS similarity
            FROM passages CROSS JOIN LATERAL "nearest_{model}"(vector, :nearest, CAST(NULL AS tsquery)) AS near
            WHERE near.article_id <> :article GROUP BY 1
        ), page AS (
            SELECT article_id, similarity FROM found JOIN article_search USING (article_id)
            ORDER BY similarity DESC, article_id LIMIT :limit
        )
        SELECT CAST(json_build_object(
            'success', true,
            'mode', 'semantic',
            'articles', CASE WHEN EXISTS (SELECT FROM passages) THEN (
                SELECT coalesce(json_agg(hit), '[]') FROM (
                    SELECT id, slug, title, round(CAST(similarity AS numeric), 4) AS similarity,
                           tags, language, updated_at
                    FROM page JOIN knowledge_articles ON id = article_id ORDER BY page.similarity DESC, id
                ) AS hit
            ) END
        ) AS text)
        FROM article_search WHERE article_id = :article
        """  # noqa: S608 - our own words
        )
    )


TITLE = Statement(
    text(
        """
        SELECT CAST(to_json(article.title) AS text) FROM knowledge_articles AS article
        JOIN article_search ON article_id = id WHERE id = :article
        """
    )
)
"""What a published article is called; no row for others."""
