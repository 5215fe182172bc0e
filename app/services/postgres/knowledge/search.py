"""Search of the knowledge base: a question as people type it, the best published articles.

Two short statements: the first asks the index how rare the question's words are (and what was meant by those it
does not know), the second fetches a bounded set of candidates by the rarest words and ranks only these.
`docs/search.md` shows the way of one question.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, StringConstraints
from sqlalchemy import text

from app.errors import InvalidArguments
from app.results import Result
from app.services.postgres.connections.pools import ReadPool, Statement
from app.services.postgres.knowledge.languages import language_code
from app.services.postgres.knowledge.synonyms import MAX_PHRASE, SYNONYMS, key_of

SearchTerm = Annotated[str, StringConstraints(min_length=1, max_length=500)]

_CANDIDATES = 400
"""Articles that are fetched at most for one source of candidates."""
_RANKS = 5600
"""Ranks that are computed at most for one source, one for each article and term: they bound the time of a search."""
_UNPACKED = 9
"""Ranks that take the time of unpacking an article's vector, which is stored compressed."""
_FEW_TERMS = 4
"""So few terms are ranked quicker without unpacking the vector for all of them at once."""
_SCANNED = 4000
"""The newest articles that are looked through where each word of the question is too common for the index."""
_MARKER_LENGTH = 100
_MOST_TAGS_TOLD = 30
"""Tags that are named to somebody who asked for one that there is not."""
_MAX_GROUPS = 12
_MAX_VARIANTS = 18
_SYNONYM = 0.62
_SYNONYM_OF_PHRASE = 0.9
_PART = 0.3
_CORRECTION = 0.85
_MAJORITY = 1.0
_AGREEMENT = 0.05
_DISTANCE = 0.15
"""What a wrong letter takes off the closeness; `_ANALYSE` says so, too."""
_LETTERS_FOR_ONE = 6
"""Letters of a word that make up for a wrong one."""
_RAREST = 3.0
"""What a word tells at most; one that no article has tells as much."""
_NUMBER = 0.5
"""What a number tells that no article has: it is an order's, or an amount."""
_IN_THE_TITLE = 0.6079
"""`ts_rank` of an article that has the word once, in its title."""

# Words that say nothing of what a question is about, beyond PostgreSQL's own stop words.
_CHATTER = frozenset(
    re.findall(
        r"\S+",
        """
        a an the hi hello hey dear please pls plz thanks thank thx help helping need needs want wants wanted would
        could should can cant can't cannot won't wont don't dont doesn't doesnt didn't didnt isn't isnt hasn't hasnt
        i'm im i've ive how what when where why which who whose do does did is are was were be been am my me i we our
        us you your it its to of in on at for from with by and or if so this that these those there here just really
        very still again anymore any some something anything thing things way tell know like got get gets getting keep
        keeps goes going go say great awesome cool good morning afternoon evening much bye goodbye say says said put
        come comes comes let lets ok okay u ur thru via see look find able possible wie was wo wann warum kann ich
        mein meine meinen ist nicht bitte habe como cómo qué que cuando dónde donde mi quiero por favor
        """,
    )
)


OneLine = Annotated[str, AfterValidator(lambda text: " ".join(text.split()))]


class ArticleHit(BaseModel):
    """A published article that fits the question."""

    id: int
    slug: str = Field(description="Its stable name.")
    title: str
    score: float = Field(description="Comparable within one answer only.")
    fit: float = Field(description="How much of the question it speaks of, 0 to 1; below 0.5 it hardly answers it.")
    snippet: OneLine = Field(description="The best passage; words that were found in **…**.")
    tags: list[str]
    language: str
    updated_at: datetime


class SearchResults(Result):
    """The published articles that fit a question, best first."""

    articles: list[ArticleHit]
    total: int = Field(description="A lower bound: at most about a thousand are ranked.")
    limit: int
    offset: int


@dataclass(frozen=True)
class _Variant:
    """One way to say one notion of the question."""

    group: int
    words: str
    weight: float
    typed: bool
    """The customer's own word: it may be misspelled, and be corrected."""


@dataclass
class _Term:
    """A variant in the words of the index, for one language."""

    group: int
    query: str
    weight: float
    articles: int
    titles: int
    surety: float = 1.0
    """That what was meant is what the customer said: 1 for their own word, less for a synonym or a correction."""


@dataclass
class _Plan:
    """What the second statement is asked."""

    candidates: int
    unpacked: bool
    languages: list[str] = field(default_factory=list[str])
    contents: list[str | None] = field(default_factory=list[str | None])
    titles: list[str | None] = field(default_factory=list[str | None])
    commons: list[str | None] = field(default_factory=list[str | None])
    scans: list[str | None] = field(default_factory=list[str | None])
    term_languages: list[str] = field(default_factory=list[str])
    term_groups: list[int] = field(default_factory=list[int])
    term_queries: list[str] = field(default_factory=list[str])
    term_weights: list[float] = field(default_factory=list[float])
    term_sureties: list[float] = field(default_factory=list[float])
    term_shares: list[float] = field(default_factory=list[float])
    """Of the whole question, what the term's notion says in its language."""


class _Lexeme(BaseModel):
    number: int
    language: str
    word: str
    articles: int
    titles: int
    corrected: bool
    closeness: float


class _Analysis(BaseModel):
    totals: dict[str, int]
    lexemes: list[_Lexeme]
    known: dict[str, int]


class _Offered(BaseModel):
    languages: list[str]
    tags: list[str]
    unknown: list[int]
    """Positions of the tags that no article has."""


_ANALYSE = Statement(
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

_OFFERED = Statement(
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

_RANK = Statement(
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

_WEIGHTS = [0.25, 0.45, 0.5, 1.0]
"""Body, headings, tags, title: PostgreSQL's order {D, C, B, A}."""


@dataclass(frozen=True)
class KnowledgeSearch:
    """Finds published articles."""

    _reads: ReadPool

    async def search(
        self,
        search_term: str,
        limit: int = 5,
        tags: Sequence[str] | None = None,
        language: str | None = None,
        offset: int = 0,
    ) -> SearchResults:
        """Return the published articles that fit a question best.

        Args:
            search_term: words or a whole sentence, at most 500 characters; typing errors are forgiven.
            limit: 1 to 50 articles.
            tags: only articles that carry all of these, in capitals or not.
            language: only articles in this language, by its code or name: `en`, `en-US`, `English`.
            offset: how many of the best to leave out, for the next page.

        Raises:
            InvalidArguments: the search term is blank or too long; there is no article in the language, or with a tag.
            GatewayError: PostgreSQL is down or too slow.
        """
        if not search_term.strip():
            raise InvalidArguments.of("search_term", "is blank; say what you look for")
        if len(search_term) > 500:
            raise InvalidArguments.of("search_term", "has more than 500 characters; ask in fewer words")
        nothing = SearchResults(articles=[], total=0, limit=limit, offset=offset)
        variants = list(_variants(search_term))
        if not variants:
            await self._explain_nothing(tags or (), language)
            return nothing
        analysed = await self._reads.fetch_json(
            _ANALYSE,
            texts=[variant.words for variant in variants],
            typed=[variant.typed for variant in variants],
            language=language and language_code(language),
        )
        assert analysed is not None
        analysis = _Analysis.model_validate_json(analysed)
        if language and not analysis.totals:
            await self._explain_nothing(tags or (), language)
        plan = _plan(variants, analysis, tags or ())
        if not plan.languages:
            await self._explain_nothing(tags or (), language)
            return nothing
        ranked = await self._reads.fetch_json(
            _RANK,
            languages=plan.languages,
            contents=plan.contents,
            titles=plan.titles,
            commons=plan.commons,
            scans=plan.scans,
            term_languages=plan.term_languages,
            term_groups=plan.term_groups,
            term_queries=plan.term_queries,
            term_weights=plan.term_weights,
            term_sureties=plan.term_sureties,
            term_shares=plan.term_shares,
            weights=_WEIGHTS,
            in_the_title=_IN_THE_TITLE,
            agreement=_AGREEMENT,
            tags=list(tags) if tags else None,
            candidates=plan.candidates,
            unpacked=plan.unpacked,
            scanned=_SCANNED,
            limit=limit,
            offset=offset,
        )
        assert ranked is not None
        results = SearchResults.model_validate_json(ranked)
        if not results.total:
            await self._explain_nothing(tags or (), language)
        return results

    async def _explain_nothing(self, tags: Sequence[str], language: str | None) -> None:
        """Return if nothing was found though there are articles of that kind, or of any kind that was asked for.

        Raises:
            InvalidArguments: there are none in that language, or none with one of the tags.
        """
        if not tags and not language:
            return
        found = await self._reads.fetch_json(
            _OFFERED, markers=[_tag_marker(tag) for tag in tags], scanned=_SCANNED, limit=_MOST_TAGS_TOLD
        )
        assert found is not None
        offered = _Offered.model_validate_json(found)
        if language and offered.languages and language_code(language) not in map(language_code, offered.languages):
            raise InvalidArguments.of("language", f"there are articles in {', '.join(offered.languages)} only")
        if offered.unknown and offered.tags:
            why = f"no article has this tag; there are: {', '.join(offered.tags)}"
            raise InvalidArguments.at((("tags", position), why) for position in offered.unknown)


def _variants(search_term: str) -> Iterator[_Variant]:
    """Yield what the question may mean: its telling words, and other words for them.

    Words that make up a known phrase ("money back") are one notion together.
    """
    words = [word.replace("\u2019", "'") for word in re.findall(r"\w+(?:['\u2019]\w+)?", search_term.lower())]
    group = 0
    position = 0
    variants: list[_Variant] = []
    while position < len(words) and group < _MAX_GROUPS:
        length = _phrase_length(words, position)
        phrase = words[position : position + length]
        telling = [word for word in phrase if word not in _CHATTER]
        position += length
        if length > 1:
            group += 1
            if len(telling) > 1:
                variants.append(_Variant(group, " ".join(telling), 1.0, False))
            variants.extend(_Variant(group, word, _PART, True) for word in telling)
        elif telling:
            group += 1
            variants.append(_Variant(group, phrase[0].replace("'", " "), 1.0, True))
        else:
            continue
        # A phrase has one meaning, a word several: its synonyms are surer.
        weight = _SYNONYM_OF_PHRASE if length > 1 else _SYNONYM
        synonyms = SYNONYMS.get(key_of(" ".join(phrase)), ())
        variants.extend(_Variant(group, other.replace("-", " "), weight, False) for other in synonyms)
    if not variants:
        # Nothing but chatter ("how to get there"): then chatter is all that can be looked for.
        variants = [_Variant(number, word, _PART, True) for number, word in enumerate(words[:_MAX_GROUPS])]
    typed = [variant for variant in variants if variant.typed]
    others = [variant for variant in variants if not variant.typed]
    return iter((typed + others)[: _MAX_VARIANTS * 2])


def _phrase_length(words: Sequence[str], position: int) -> int:
    """Return how many words from here on are an entry of the synonyms, the longest entry first; else 1."""
    for length in range(min(MAX_PHRASE, len(words) - position), 1, -1):
        if key_of(" ".join(words[position : position + length])) in SYNONYMS:
            return length
    return 1


def _plan(variants: Sequence[_Variant], analysis: _Analysis, tags: Sequence[str]) -> _Plan:
    """Weigh the terms by rarity and decide which of them fetch the candidates."""
    terms: dict[str, list[_Term]] = defaultdict(list)
    everything = sum(analysis.totals.values())
    typed = sum(variant.typed for variant in variants)
    found: dict[tuple[str, int], list[_Lexeme]] = defaultdict(list)
    for lexeme in analysis.lexemes:
        found[lexeme.language, lexeme.number].append(lexeme)
    for (language, number), lexemes in found.items():
        variant = variants[number - 1]
        # A language whose words the question does not use is not the customer's.
        familiarity = (analysis.known.get(language, 0) + 0.5) / (typed + 0.5)
        share = analysis.totals[language] / everything
        for term in _terms(variant, lexemes):
            term.weight *= variant.weight * familiarity**2 * (1 + _MAJORITY * share)
            term.surety *= variant.weight
            terms[language].append(term)
    shares = {language: _shares(language, variants, found, analysis.totals[language]) for language in terms}
    for language, known in terms.items():
        _weigh_by_rarity(known, analysis.totals[language])
    rarest = {
        language: sorted(known, key=lambda term: term.articles)[:_MAX_VARIANTS] for language, known in terms.items()
    }
    most = max(map(len, rarest.values()), default=0)
    plan = _Plan(candidates=min(_CANDIDATES, _RANKS // (_UNPACKED + most)), unpacked=most > _FEW_TERMS)
    for language, known in rarest.items():
        plan.languages.append(language)
        sources = _sources(known, plan.candidates)
        # What the index looks for as well, so that it does not fetch other languages' articles to throw them away.
        markers = [_tag_marker(tag) for tag in tags]
        if analysis.totals[language] * 2 < everything:
            markers.append(_quoted(f"@{language}"))
        for queries, wanted in zip((plan.contents, plan.titles, plan.commons, plan.scans), sources, strict=True):
            queries.append(" & ".join([f"({wanted})", *markers]) if wanted else None)
        for term in known:
            plan.term_languages.append(language)
            plan.term_groups.append(term.group)
            plan.term_queries.append(term.query)
            plan.term_weights.append(term.weight)
            plan.term_sureties.append(term.surety)
            plan.term_shares.append(shares[language].get(term.group, 0.0))
    return plan


def _shares(
    language: str, variants: Sequence[_Variant], found: Mapping[tuple[str, int], Sequence[_Lexeme]], total: int
) -> dict[int, float]:
    """Return what part of the question each notion is in a language: the rarer the more, and unknown ones the most."""
    telling: dict[int, float] = {}
    for number, variant in enumerate(variants, 1):
        lexemes = found.get((language, number), ())
        if not lexemes:
            continue  # the language's grammar, which says nothing
        articles = max((lexeme.articles for lexeme in lexemes if not lexeme.corrected), default=0)
        rarity = min(_RAREST, _rarity(articles, total)) if articles else _RAREST
        if not articles and any(character.isdigit() for character in variant.words):
            rarity = _NUMBER
        if variant.typed or variant.group not in telling:
            telling[variant.group] = min(rarity, telling.get(variant.group, rarity))
    everything = sum(telling.values())
    return {group: rarity / everything for group, rarity in telling.items()} if everything else {}


def _rarity(articles: float, total: int) -> float:
    """Return how much a word tells that so many of all articles have, as BM25 weighs it."""
    return math.log(1 + (total - articles + 0.5) / (articles + 0.5))


def _weigh_by_rarity(terms: Sequence[_Term], total: int) -> None:
    """Weigh terms by how few articles hold them, as BM25 does, but count a notion as one word in part.

    Otherwise a rare synonym of a common word ("package" where articles say "parcel") would outweigh all else.
    """
    notions: dict[int, int] = defaultdict(int)
    for term in terms:
        notions[term.group] = max(notions[term.group], term.articles)
    for term in terms:
        articles = math.sqrt(term.articles * notions[term.group])
        term.weight *= _rarity(articles, total)


def _terms(variant: _Variant, lexemes: Sequence[_Lexeme]) -> Iterator[_Term]:
    parsed = [lexeme for lexeme in lexemes if not lexeme.corrected]
    if parsed and all(lexeme.articles for lexeme in parsed):
        yield _Term(
            variant.group,
            " & ".join(_quoted(lexeme.word) for lexeme in parsed),
            1.0,
            min(lexeme.articles for lexeme in parsed),
            min(lexeme.titles for lexeme in parsed),
        )
    for lexeme in lexemes:
        if lexeme.corrected and lexeme.articles:
            yield _Term(
                variant.group,
                _quoted(lexeme.word),
                _CORRECTION * lexeme.closeness,
                lexeme.articles,
                lexeme.titles,
                _surety(variant.words, lexeme),
            )


def _surety(typed: str, meant: _Lexeme) -> float:
    """Return how sure it is that a misspelled word was meant: the more letters for each that is wrong, the surer."""
    wrong = (1 / meant.closeness - 1) / _DISTANCE
    return _CORRECTION * min(1.0, len(typed) / (_LETTERS_FOR_ONE * wrong)) ** 2


def _quoted(lexeme: str) -> str:
    """Return a lexeme as tsquery's input takes it, whatever characters it has."""
    escaped = lexeme.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"


def _tag_marker(tag: str) -> str:
    """Return what the index looks for: the tag in the ways in which it may be written."""
    spellings = dict.fromkeys((tag, tag.lower(), tag.upper(), tag.capitalize(), tag.title()))
    return f"({' | '.join(_quoted(f'#{spelling[:_MARKER_LENGTH]}') for spelling in spellings)})"


def _sources(terms: Sequence[_Term], candidates: int) -> tuple[str | None, str | None, str | None, str | None]:
    """Return what fetches candidates: rare words in the content, rare and common words in the title, a last resort.

    Args:
        terms: the rarest first.
        candidates: articles that a source may bring.
    """
    by_title = sorted(terms, key=lambda term: term.titles)
    content = list(_affordable(((term.query, term.articles) for term in terms), candidates))
    title = list(_affordable(((term.query, term.titles) for term in by_title), candidates))
    common: dict[int, list[_Term]] = defaultdict(list)
    for term in sorted(terms, key=lambda term: -term.weight):
        if term.titles > candidates:
            common[term.group].append(term)
    # Several common notions together are rare again.
    notions = sorted(common.values(), key=lambda said: said[0].titles)[:3]
    rarest = [f"({_any_of([term.query for term in said[:2]])})" for said in notions]
    together = [" & ".join(pair) for pair in combinations(rarest, 2)] or rarest
    scan = [] if content or title else [term.query for term in terms]
    return _any_of(content), _any_of(title), _any_of(together), _any_of(scan)


def _affordable(queries: Iterable[tuple[str, int]], candidates: int) -> Iterator[str]:
    left = candidates
    for query, matches in queries:
        if 0 < matches <= left:
            left -= matches
            yield query


def _any_of(queries: Sequence[str]) -> str | None:
    return " | ".join(f"({query})" for query in queries) or None
