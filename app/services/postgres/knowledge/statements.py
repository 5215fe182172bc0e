"""The three statements of a search, and what the first and the last of them answer."""

from pydantic import BaseModel
from sqlalchemy import text

from app.services.postgres.connections.pools import Statement


class Lexeme(BaseModel):
    number: int
    language: str
    word: str
    articles: int
    titles: int
    corrected: bool
    closeness: float


class Analysis(BaseModel):
    totals: dict[str, int]
    lexemes: list[Lexeme]
    known: dict[str, int]


class Offered(BaseModel):
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
            SELECT totals.language, number, typed, parsed.lexeme, known.articles, known.titles
            FROM totals
            CROSS JOIN unnest(CAST(:texts AS text[]), CAST(:typed AS boolean[]))
                WITH ORDINALITY AS variant (words, typed, number)
            LEFT JOIN LATERAL unnest(to_tsvector(search_config(totals.language), words)) AS parsed ON true
            LEFT JOIN search_words AS known ON known.language = totals.language AND known.word = parsed.lexeme
        ), unknown AS (
            SELECT number, language, lexeme
            FROM (SELECT *, bool_or(articles IS NOT NULL) OVER (PARTITION BY number) AS is_known FROM asked) AS word
            -- What has a digit in it is a number or a name, and a similar one is another's.
            WHERE typed AND NOT is_known AND length(lexeme) BETWEEN 4 AND 24 AND lexeme !~ '[0-9]'
            ORDER BY length(lexeme) DESC LIMIT 6
        ), meant AS (
            SELECT unknown.number, unknown.language, guess.*
            FROM unknown CROSS JOIN LATERAL (
                SELECT word, articles, titles, 1 AS distance, 1.0 AS likeness
                FROM search_words
                WHERE language = unknown.language AND word = ANY (ARRAY(
                    -- Two letters that changed places, which trigrams hardly recognize. An array, for the planner
                    -- believes that a series has a thousand rows, and would read all words instead of these few.
                    SELECT overlay(lexeme PLACING reverse(substr(lexeme, place, 2)) FROM place FOR 2)
                    FROM generate_series(1, length(lexeme) - 1) AS place
                ))
                UNION ALL
                SELECT word, articles, titles, levenshtein(word, unknown.lexeme),
                       similarity(word, unknown.lexeme)
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
                    SELECT number, language, lexeme AS word, articles, titles, false AS corrected, 1.0 AS closeness
    FROM (
                        SELECT number, language, lexeme, coalesce(articles, 0) AS articles,
                               coalesce(titles, 0) AS titles
                          FROM asked WHERE lexeme IS NOT NULL) AS parsed
                    UNION ALL
                    SELECT number, language, word, articles, titles, true, 1.0 / (1 + 0.15 * distance) FROM meant
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

RANK = Statement(
    text(
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
        ), candidates AS (
            SELECT found.article_id FROM sources CROSS JOIN LATERAL (
                SELECT article_id FROM article_search AS entry
                WHERE entry.content @@ sources.content AND entry.language = sources.language
                  AND {_CARRIES_THE_TAGS}
                LIMIT :candidates
            ) AS found
            UNION
            SELECT found.article_id FROM sources CROSS JOIN LATERAL (
                SELECT article_id FROM article_search AS entry
                WHERE entry.title @@ sources.title AND entry.language = sources.language
                  AND {_CARRIES_THE_TAGS}
                LIMIT :candidates
            ) AS found
            UNION
            SELECT found.article_id FROM sources CROSS JOIN LATERAL (
                SELECT article_id FROM article_search AS entry
                WHERE entry.title @@ sources.common AND entry.language = sources.language
                  AND {_CARRIES_THE_TAGS}
                LIMIT :candidates
            ) AS found
            UNION
            SELECT found.article_id FROM sources CROSS JOIN LATERAL (
                SELECT article_id FROM (
                    SELECT * FROM article_search ORDER BY article_id DESC LIMIT :scanned
                ) AS entry
                WHERE sources.scan IS NOT NULL AND entry.content @@ sources.scan
                  AND entry.language = sources.language
                  AND {_CARRIES_THE_TAGS}
                LIMIT :candidates
            ) AS found
        ), scored AS (
            SELECT entry.article_id, rated.score
            FROM (
                SELECT article_id, language,
                       CASE WHEN CAST(:unpacked AS boolean) THEN content || '' ELSE content END AS content
                FROM candidates JOIN article_search USING (article_id)
                OFFSET 0
            ) AS entry CROSS JOIN LATERAL (
                SELECT sum(best) * (1 + CAST(:agreement AS float8) * (count(*) FILTER (WHERE best > 0) - 1)) AS score
                FROM (
                    SELECT max(weight * ts_rank(CAST(:weights AS float4[]), entry.content, query)) AS best
                    FROM terms WHERE language = entry.language GROUP BY notion
                ) AS notions
            ) AS rated
        ), page AS (
            SELECT article_id, score FROM scored WHERE score > 0
            ORDER BY score DESC, article_id LIMIT :limit OFFSET :offset
        )
        SELECT CAST(json_build_object(
            'success', true,
            'total', (SELECT count(*) FROM scored WHERE score > 0),
            'limit', CAST(:limit AS integer),
            'offset', CAST(:offset AS integer),
            'articles', (
                SELECT coalesce(json_agg(hit ORDER BY score DESC, id), '[]') FROM (
                    SELECT id, slug, article.title, round(CAST(score AS numeric), 4) AS score,
                           round(CAST(covered.fit AS numeric), 2) AS fit,
                           ts_headline(
                               search_config(article.language),
                               regexp_replace(
                                   -- The more are asked for, the less of each is read: a headline is costly.
                                   left(article.body, 800 + 21000 / CAST(:limit AS integer)),
                                   '[*`|#<>]+|^ *[-0-9]+[.]? ', '', 'gn'
                               ),
                               wanted.query,
                               'StartSel=**, StopSel=**, MaxWords=40, MinWords=18, MaxFragments=1'
                           ) AS snippet,
                           article.tags, article.language, article.updated_at
                    FROM page JOIN knowledge_articles AS article ON article.id = page.article_id
                    JOIN article_search AS entry USING (article_id)
                    CROSS JOIN LATERAL (
                        SELECT sum(best) AS fit FROM (
                            SELECT max(share * surety * least(
                                1, sqrt(ts_rank(CAST(:weights AS float4[]), entry.content, query) / :in_the_title)
                            )) AS best
                            FROM terms WHERE terms.language = article.language GROUP BY notion
                        ) AS notions
                    ) AS covered
                    CROSS JOIN LATERAL (
                        SELECT CAST(string_agg(CAST(query AS text), ' | ') AS tsquery) AS query
                        FROM terms WHERE terms.language = article.language
                    ) AS wanted
                ) AS hit
            )
        ) AS text)
        """  # noqa: S608 - our own words
    )
)
