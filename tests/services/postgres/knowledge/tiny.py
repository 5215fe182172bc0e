"""A tiny embedder whose meanings are plain to see: words of one line mean the same, all others are strangers."""

import asyncio
import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.errors import EmbeddingUnavailable

_SAME = """
kite dragon
sail boat vessel
refund reimbursement
"""
_CONCEPTS = {word: line.split()[0] for line in _SAME.strip().splitlines() for word in line.split()}


@dataclass
class TinyEmbedder:
    """Counts what it embeds, and fails or hangs when it is told to."""

    name: str = "tiny"
    dimension: int = 256
    spread: float | None = 0.1
    question_timeout: float = 5.0
    refused: str = "unspeakable"
    """Texts with this word are refused."""
    hangs_at: str = "unthinkable"
    """Questions with this word get no answer."""
    down: bool = False
    embedded: list[str] = field(default_factory=list[str])
    asked: list[str] = field(default_factory=list[str])
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.may_answer.set()

    async def start(self) -> None:
        if self.down:
            raise EmbeddingUnavailable("the tiny model is down")

    async def close(self) -> None:
        pass

    async def embed_question(self, question: str) -> Sequence[float]:
        self.asked.append(question)
        await (asyncio.Event() if self.hangs_at in question else self.may_answer).wait()
        if self.down or self.refused in question:
            raise EmbeddingUnavailable("the tiny model is down" if self.down else "the tiny model refuses a question")
        return self.vector(question)

    async def embed_passages(self, passages: Sequence[str]) -> list[Sequence[float]]:
        await self.may_answer.wait()
        if self.down or any(self.refused in passage for passage in passages):
            raise EmbeddingUnavailable("the tiny model is down, or refuses a text")
        self.embedded.extend(passages)
        return [self.vector(passage) for passage in passages]

    def vector(self, text: str) -> list[float]:
        """Return what a text means, of unit length."""
        vector = [0.001] * self.dimension
        for word in re.findall(r"\w+", text.lower()):
            concept = _CONCEPTS.get(word.rstrip("s")) or word
            digest = hashlib.sha256(concept.encode()).digest()
            for place in range(8):
                vector[(digest[place] + 7 * digest[place + 8]) % self.dimension] += 1 if digest[place + 16] % 2 else -1
        length = math.hypot(*vector)
        return [number / length for number in vector]
