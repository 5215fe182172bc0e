"""What every embedder does, and which one the settings ask for."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Protocol

from app.services.embeddings.installed import LOCAL_MODELS
from app.services.embeddings.local import LocalEmbedder
from app.services.embeddings.settings import EmbeddingSettings

_ENDPOINT = "app.services.embeddings.endpoint"
"""Imported where it is asked for: its HTTP client takes a tenth of the start of `switchboard stdio`."""


class TextEmbedder(Protocol):
    """Turns text into unit vectors of one model."""

    @property
    def name(self) -> str:
        """Of the model, in [a-z0-9_-]{1,40}: vectors of equal names may be compared, others not. Of an endpoint it is
        known once it is started."""
        ...

    @property
    def dimension(self) -> int:
        """Numbers of a vector. Of an endpoint it is known once it is started."""
        ...

    @property
    def spread(self) -> float | None:
        """Standard deviation of the cosines between titles of articles; None where nobody has measured it."""
        ...

    @property
    def question_timeout(self) -> float:
        """Seconds that a question may take."""
        ...

    async def start(self) -> None:
        """Make it ready; again after a failure, to no effect if it is ready.

        Raises:
            EmbeddingUnavailable: it can't be made ready, for the reason in words for an operator.
        """
        ...

    async def embed_question(self, question: str) -> Sequence[float]:
        """Return the vector of what somebody asks, of unit length.

        Raises:
            EmbeddingUnavailable: there is none within `question_timeout`.
        """
        ...

    async def embed_passages(self, passages: Sequence[str]) -> list[Sequence[float]]:
        """Return the vectors of what is searched, in their order, of unit length.

        Raises:
            EmbeddingUnavailable: there are none.
        """
        ...

    async def close(self) -> None:
        """Let go of what it holds."""
        ...


def create_embedder(settings: EmbeddingSettings) -> TextEmbedder | None:
    """Return what the settings ask for, not started; None for `none`."""
    if settings.is_endpoint:
        make: Callable[[EmbeddingSettings], TextEmbedder] = import_module(_ENDPOINT).EndpointEmbedder
        return make(settings)
    known = LOCAL_MODELS.get(settings.embeddings)
    return None if known is None else LocalEmbedder(known, settings.embeddings_timeout)
