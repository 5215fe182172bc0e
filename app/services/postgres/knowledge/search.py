"""Search of the knowledge base: a question as people type it, the best published articles.

Two short statements: the first asks the index how rare the question's words are (and what was meant by those it
does not know), the second fetches a bounded set of candidates by the rarest words and ranks only these.
`docs/search.md` shows the way of one question.
"""

import asyncio
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Literal

import msgspec
from pydantic import AfterValidator, BaseModel, Field, StringConstraints

from app.errors import InvalidArguments, NotFound
from app.results import Result
from app.services.postgres.connections.pools import ReadPool
from app.services.postgres.knowledge.codes import codes_in
from app.services.postgres.knowledge.languages import language_code
from app.services.postgres.knowledge.meaning import NEAREST, Meaning, Mode, Question
from app.services.postgres.knowledge.plan import Variant, plan_for, respelled, tag_marker, variants_of
from app.services.postgres.knowledge.statements import ANALYSE, OFFERED, RANK, TITLE, Analysis, Offered

SearchTerm = Annotated[str, StringConstraints(min_length=1, max_length=500)]

_SCANNED = 4000
"""The newest articles that are looked through where each word of the question is too common for the index."""
_AGREEMENT = 0.05
_IN_THE_TITLE = 0.6079
"""`ts_rank` of an article that has the word once, in its title."""
_WEIGHTS = [0.25, 0.45, 0.5, 1.0]
"""Body, headings, tags, title: PostgreSQL's order {D, C, B, A}."""
_RARE = 5
"""Articles that hold a code at most, for it to lead to them."""
_OF_THE_CODE = 0.75
"""What an article fits at least that holds such a code: it was asked for."""
_OF_ANOTHER = 0.4
"""What is left of the fit of an article that holds a code like one of the question's and none of its own."""
_COMPARED_PASSAGES = 8
"""The first passages of an article, by which others like it are found."""
_LONGEST = 500
"""Characters of a search term."""
_HYPHENS = re.compile("[\u2010\u2011\u2212]")
_JOINERS = "\u200c\u200d"
_UNSEEN = re.compile(f"[\u034f\ufe00-\ufe0f]|(?<![\u0600-\u0fff])[{_JOINERS}]")
"""What is not to be seen, beside format and control characters; in the scripts of Arabic and India joiners spell."""
_MOST_TAGS_TOLD = 30
"""Tags that are named to somebody who asked for one that there is not."""

OneLine = Annotated[str, AfterValidator(lambda text: " ".join(text.split()))]


MatchedBy = Literal["words", "meaning", "both", "code"]


class ArticleHit(BaseModel):
    """A published article that fits the question."""

    id: int
    slug: str = Field(description="Its stable name.")
    title: str
    score: float = Field(description="Comparable within one answer only.")
    fit: float = Field(description="How much of the question it speaks of, 0 to 1; below 0.5 it hardly answers it.")
    matched_by: MatchedBy = Field(description="`code`: it holds a rare code of the question, such as E-4711.")
    snippet: OneLine = Field(description="The best passage; words that were found in **…**.")
    passage: int | None = Field(description="The nearest in meaning.")
    tags: list[str]
    language: str
    updated_at: datetime


class SearchResults(Result):
    """The published articles that fit a question, best first."""

    mode: Mode = Field(description="By words alone, or by meaning, too.")
    articles: list[ArticleHit]
    total: int = Field(description="A lower bound: at most about a thousand are ranked.")
    limit: int
    offset: int


class SimilarArticle(BaseModel):
    """An article about much the same."""

    id: int
    slug: str
    title: str
    similarity: float = Field(description="At most 1; comparable within one answer only.")
    tags: list[str]
    language: str
    updated_at: datetime


class SimilarArticles(Result):
    """The articles most like one."""

    mode: Mode = Field(description="By the title's words, or by meaning.")
    articles: list[SimilarArticle]


@dataclass(frozen=True)
class KnowledgeSearch:
    """Finds published articles."""

    _reads: ReadPool
    _meaning: Meaning | None = None
    """None to search by words alone."""

    @property
    def mode(self) -> Mode:
        """How the next question will be answered, if nothing happens."""
        return "lexical" if self._meaning is None else self._meaning.mode

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
            search_term: words or a whole sentence, at most 500 characters; typing errors are forgiven, and in whatever
                form of Unicode it comes.
            limit: 1 to 50 articles.
            tags: only articles that carry all of these, in capitals or not; blank ones are none.
            language: only articles in this language, by its code or name: `en`, `en-US`, `English`; any if it is blank.
            offset: how many of the best to leave out, for the next page.

        Raises:
            InvalidArguments: the search term is blank or too long; there is no article in the language, or with a tag.
            GatewayError: PostgreSQL is down or too slow.
        """
        if len(search_term) > _LONGEST:
            raise InvalidArguments.of("search_term", f"has more than {_LONGEST} characters; ask in fewer words")
        search_term = _in_one_form(search_term)
        if not search_term:
            raise InvalidArguments.of("search_term", "is blank; say what you look for")
        language = _in_one_form(language or "") or None
        places = [place for place, tag in enumerate(tags or ()) if tag.strip()]
        tags = [tag.strip() for tag in tags or () if tag.strip()]
        if strange := [place for place, tag in zip(places, tags, strict=True) if "\0" in tag]:
            raise InvalidArguments.at((("tags", place), "holds the NUL character, as no tag does") for place in strange)
        variants = variants_of(search_term)
        analysis, question = await self._understand(search_term, variants, language)
        if language and not analysis.totals:
            await self._explain_nothing(tags, places, language)
        plan = plan_for(variants, analysis, tags)
        codes = list(codes_in(search_term))
        spelled = [(number, code, spelling) for number, code in enumerate(codes) for spelling in code.spellings]
        alike = [code.likeness for code in codes if code.likeness]
        if not plan.languages and not codes and question is None:
            await self._explain_nothing(tags, places, language)
            return SearchResults(mode="lexical", articles=[], total=0, limit=limit, offset=offset)
        wanted = list(analysis.totals) if language else None
        ranked = await self._reads.fetch_json(
            RANK if question is None else question.vectors.ranking,
            **({} if question is None else question.asked(tags, wanted)),
            mode="lexical" if question is None else "semantic",
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
            ideal=plan.ideal,
            code_numbers=[number for number, _, _ in spelled],
            codes=[f"={spelling}" for _, _, spelling in spelled],
            code_names=[spelling in code.names for _, code, spelling in spelled],
            alike_letters=[letters for letters, _ in alike],
            alike_codes=[code for _, code in alike],
            rare=_RARE,
            of_the_code=_OF_THE_CODE,
            of_another=_OF_ANOTHER,
            weights=_WEIGHTS,
            in_the_title=_IN_THE_TITLE,
            agreement=_AGREEMENT,
            tags=tags or None,
            wanted=wanted,
            candidates=plan.candidates,
            unpacked=plan.unpacked,
            scanned=_SCANNED,
            limit=limit,
            offset=offset,
        )
        assert ranked is not None
        results = SearchResults.model_validate_json(ranked)
        if not results.total:
            await self._explain_nothing(tags, places, language)
        return results

    async def similar(self, article_id: int, limit: int = 5) -> SimilarArticles:
        """Return the published articles that are most like a published one.

        Args:
            article_id: whose.
            limit: 1 to 20 articles.

        Raises:
            NotFound: there is no such article, or it is not published.
            GatewayError: PostgreSQL is down or too slow.
        """
        if self._meaning is not None and (vectors := self._meaning.vectors) is not None:
            found = await self._reads.fetch_json(
                vectors.similar, article=article_id, passages=_COMPARED_PASSAGES, nearest=NEAREST, limit=limit
            )
            if found is None:
                raise NotFound(f"There is no knowledge article {article_id}; check the id")
            likest = json.loads(found)
            if likest["articles"] is not None:
                return SimilarArticles.model_validate(likest)
        titled = await self._reads.fetch_json(TITLE, article=article_id)
        if titled is None:
            raise NotFound(f"There is no knowledge article {article_id}; check the id")
        title = _in_one_form(str(json.loads(titled)))
        by_words = replace(self, _meaning=None)
        hits = (await by_words.search(title, limit + 1)).articles if title else []
        others = [
            SimilarArticle.model_validate({**hit.model_dump(), "similarity": hit.fit})
            for hit in hits
            if hit.id != article_id
        ]
        return SimilarArticles(mode="lexical", articles=others[:limit])

    async def _understand(
        self, search_term: str, variants: Sequence[Variant], language: str | None
    ) -> tuple[Analysis, Question | None]:
        """Ask the index for the words and, beside that, an embedder for the meaning; None where it can't tell."""
        # A model makes something of everything, be it `!!!`.
        means_something = any(map(str.isalnum, search_term))
        if self._meaning is None or self._meaning.vectors is None or not means_something:
            return await self._analyse(variants, language), None
        until = asyncio.get_running_loop().time() + self._meaning.embedder.question_timeout
        meant = asyncio.create_task(self._meaning.of(search_term))
        try:
            analysis, question = await self._analyse(variants, language), await meant
        finally:
            meant.cancel()
        if question is not None and (correct := respelled(search_term, variants, analysis)) != search_term:
            question = await self._meaning.corrected(question, correct, until)
        return analysis, question

    async def _analyse(self, variants: Sequence[Variant], language: str | None) -> Analysis:
        if not variants and not language:
            return Analysis(totals={}, lexemes=[], known={})
        analysed = await self._reads.fetch_json(
            ANALYSE,
            texts=[variant.words for variant in variants],
            typed=[variant.typed for variant in variants],
            language=language and language_code(language),
        )
        assert analysed is not None
        return msgspec.json.decode(analysed, type=Analysis)

    async def _explain_nothing(self, tags: Sequence[str], places: Sequence[int], language: str | None) -> None:
        """Return if nothing was found though there are articles of that kind, or of any kind that was asked for.

        Args:
            tags: that were asked for.
            places: of each of them among the argument's items.
            language: that was asked for.

        Raises:
            InvalidArguments: there are none in that language, or none with one of the tags.
        """
        if not tags and not language:
            return
        found = await self._reads.fetch_json(
            OFFERED, markers=[tag_marker(tag) for tag in tags], scanned=_SCANNED, limit=_MOST_TAGS_TOLD
        )
        assert found is not None
        offered = msgspec.json.decode(found, type=Offered)
        if language and offered.languages and language_code(language) not in map(language_code, offered.languages):
            raise InvalidArguments.of("language", f"there are articles in {', '.join(offered.languages)} only")
        if offered.unknown and offered.tags:
            why = f"no article has this tag; there are: {', '.join(offered.tags)}"
            raise InvalidArguments.at((("tags", places[position]), why) for position in offered.unknown)


def _in_one_form(text: str) -> str:
    """Return a text as articles are written, if not longer than a search term: composed, and without what is not seen.

    What NFKC makes longer than that is cut.
    """
    seen = "".join(" " if character.isspace() else character for character in text if _is_seen(character))
    composed = unicodedata.normalize("NFKC", _UNSEEN.sub("", seen))
    return _HYPHENS.sub("-", composed)[:_LONGEST].strip()


def _is_seen(character: str) -> bool:
    return character.isspace() or character in _JOINERS or unicodedata.category(character) not in {"Cc", "Cf"}
