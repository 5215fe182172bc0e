"""What the search by meaning needs of whatever turns text into vectors."""

from collections.abc import Sequence
from typing import Protocol


class Embedder(Protocol):
    """Turns text into unit vectors of one model. What it can't do it says by `EmbeddingUnavailable`."""

    @property
    def name(self) -> str:
        """Of the model, in [a-z0-9_-]{1,40}: vectors of equal names may be compared, others not."""
        ...

    @property
    def dimension(self) -> int:
        """Numbers of a vector; known once it has started."""
        ...

    @property
    def spread(self) -> float | None:
        """Standard deviation of the cosines between titles of articles; None where it is to be estimated."""
        ...

    @property
    def question_timeout(self) -> float:
        """Seconds that a question may take."""
        ...

    async def start(self) -> None:
        """Make it ready; again after a failure, or to no effect."""
        ...

    async def embed_question(self, question: str) -> Sequence[float]:
        """Return the vector of what somebody asks, of unit length."""
        ...

    async def embed_passages(self, passages: Sequence[str]) -> list[Sequence[float]]:
        """Return the vectors of what is searched, in their order, of unit length."""
        ...

    async def close(self) -> None:
        """Let go of what it holds."""
        ...
