"""The search by meaning as a search sees it: whether there are vectors to search, and what a question means."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Literal

from app.errors import EmbeddingUnavailable
from app.outages import Outages
from app.services.postgres.connections.pools import Statement
from app.services.postgres.knowledge.embedder import Embedder
from app.services.postgres.knowledge.plan import language_marker, tag_marker
from app.services.postgres.knowledge.statements import ranking, similar

_log = logging.getLogger(__name__)

Mode = Literal["lexical", "semantic"]
"""Whether a question is answered by words alone, or by meaning, too."""

NEAREST = 80
"""Passages that are fetched by meaning."""
_COMPARED = 60
"""Articles that are compared in meaning, of those that were found by words."""
_ABOVE_THE_MEAN = 0.5
"""Standard deviations by which an article has to be closer to a question than two articles are to each other as a
rule. Without it each question, be it a stranger's, would find something."""
_NEAR = 1.4
"""Standard deviations above the mean from which on the meaning adds to how well an article fits."""
_SURENESS = 0.2
"""What each more of them adds. More would let bge-small-en take questions of strangers for its own, which come as near
as 3; with e5-small they come no nearer than 1.7, but its right articles in other languages neither than 0.7 to 3."""
_PLACE = "The model of EMBEDDINGS"
"""As the log calls it."""
_LOOKS = 3
"""Short questions of our own, one after the other without a vector, after which it is the embedder that has none."""


@dataclass(frozen=True)
class VectorsOfModel:
    """Vectors that can be searched, and what their cosines come to."""

    name: str
    spread: float
    mean: float
    deviation: float
    ranking: Statement = field(init=False, repr=False)
    similar: Statement = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ranking", ranking(self.name))
        object.__setattr__(self, "similar", similar(self.name))

    @property
    def floor(self) -> float:
        """The least cosine of a hit by meaning alone."""
        return self.mean + _ABOVE_THE_MEAN * self.deviation


@dataclass(frozen=True)
class Question:
    """What a question means, beside the vectors that it can be compared with."""

    vector: Sequence[float]
    vectors: VectorsOfModel

    def asked(self, tags: Sequence[str], languages: Sequence[str] | None) -> dict[str, object]:
        """Return what the ranking statement wants to know of it.

        Args:
            tags: that a hit carries.
            languages: one of which a hit is in; None for any.
        """
        within = [tag_marker(tag) for tag in tags]
        if languages is not None:
            within.append(f"({' | '.join(map(language_marker, languages))})")
        return {
            "question": written(self.vector),
            "nearest": NEAREST,
            "compared": _COMPARED,
            "within": " & ".join(within) or None,
            "spread": self.vectors.spread,
            "floor": self.vectors.floor,
            "near": self.vectors.mean + _NEAR * self.vectors.deviation,
            "sureness": _SURENESS / self.vectors.deviation,
        }


class Meaning:
    """What a question means, by an embedder, and the vectors that it can be compared with.

    Args:
        embedder: makes the vectors.
        outages: hears of the embedder when it fails. Not the database's, which is up all the same.
    """

    def __init__(self, embedder: Embedder, outages: Outages | None = None) -> None:
        self.embedder = embedder
        self._outages = outages or Outages(_log)
        self.vectors: VectorsOfModel | None = None
        """None while nothing can be searched by meaning."""
        self.why_not_kept: str | None = "the model is being started"
        """Why vectors are not brought up to date now, in words for an operator; None if they are."""
        self.out_of_order: str | None = None
        """Why no question gets a vector, as questions of our own found it; None if they get one."""
        self._articles_fail: str | None = None
        """Why the embedder makes no vectors of articles; None if it does."""
        self._looking: asyncio.Task[None] | None = None
        self._numbers = count(1)

    @property
    def mode(self) -> Mode:
        """How the next question will be answered, if nothing happens."""
        return "semantic" if self.vectors is not None and self.out_of_order is None else "lexical"

    @property
    def objection(self) -> EmbeddingUnavailable | None:
        """What is wrong with the search by meaning; None if nothing is."""
        if self.vectors is None:
            return EmbeddingUnavailable(f"articles are found by words alone: {self.why_not_kept}")
        if self.out_of_order is not None:
            return EmbeddingUnavailable(f"questions are answered by words alone: {self.out_of_order}")
        if self.why_not_kept is not None:
            return EmbeddingUnavailable(f"changed articles are found by words alone: {self.why_not_kept}")
        return None

    async def of(self, question: str) -> Question | None:
        """Return what a question means; None if nobody can tell in time."""
        if (vectors := self.vectors) is None:
            return None
        try:
            async with asyncio.timeout(self.embedder.question_timeout):
                vector = await self.embedder.embed_question(question)
        except (EmbeddingUnavailable, TimeoutError):
            if self.out_of_order is None:
                self._look()  # It may be this question alone, which is no matter of anybody else's.
            return None
        if self.out_of_order is not None:
            self._look()  # It may have been remembered.
        return Question(vector, vectors)

    async def corrected(self, question: Question, correct: str, until: float) -> Question:
        """Return what a question means that was misspelled; as it was typed, if that can't be told in time.

        Args:
            question: what it means as it was typed.
            correct: its right spelling.
            until: when the search has to go on, in the event loop's time.
        """
        try:
            async with asyncio.timeout_at(until):
                return replace(question, vector=await self.embedder.embed_question(correct))
        except (EmbeddingUnavailable, TimeoutError):
            return question

    def note_articles(self, failure: str | None) -> None:
        """Note why the embedder makes no vectors of articles; None if it makes them."""
        self._articles_fail = failure
        self._tell()

    async def look_again(self) -> None:
        """If no question got a vector lately, look whether one would get one now."""
        if self.out_of_order is not None:
            await asyncio.wait([self._look()])

    async def close(self) -> None:
        """Let go of the embedder."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        await self.embedder.close()

    def _look(self) -> "asyncio.Task[None]":
        """Begin to look whether questions get vectors, unless that is under way."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._ask(), name="a look at the embedder")
        return self._looking

    async def _ask(self) -> None:
        reason: str | None = None
        for _ in range(_LOOKS):
            try:
                async with asyncio.timeout(self.embedder.question_timeout):
                    # Each another one, since vectors are remembered.
                    await self.embedder.embed_question(f"help {next(self._numbers)}")
            except (EmbeddingUnavailable, TimeoutError) as error:
                within = f"a question got no vector within {self.embedder.question_timeout:g} s"
                reason = reason or str(error) or within
            else:
                reason = None
                break
        self.out_of_order = reason
        self._tell()

    def _tell(self) -> None:
        """Let the log know if the embedder begins to fail, or works again."""
        if (failure := self.out_of_order or self._articles_fail) is None:
            self._outages.up(_PLACE)
        else:
            self._outages.down(_PLACE, failure)


def written(vector: Sequence[float]) -> str:
    """Return a vector as pgvector reads it."""
    return f"[{','.join(['%.6g'] * len(vector))}]" % tuple(vector)
