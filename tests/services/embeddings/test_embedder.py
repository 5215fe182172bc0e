"""Which embedder the settings ask for."""

import pytest

from app.services.embeddings.embedder import create_embedder
from app.services.embeddings.settings import EmbeddingSettings


def test_without_the_setting_nothing_is_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMBEDDINGS", raising=False)
    assert create_embedder(EmbeddingSettings()) is None
