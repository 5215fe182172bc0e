"""What `switchboard dev` takes where nothing is said."""

from pathlib import Path

import pytest
from dotenv import dotenv_values

from app.local import dev
from app.services.embeddings.settings import EmbeddingSettings
from app.settings import Settings


@pytest.fixture(autouse=True)
def nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMBEDDINGS", raising=False)


def test_the_demo_is_searched_by_meaning_in_its_languages() -> None:
    chosen, told = dev._embeddings(EmbeddingSettings(embeddings_timeout=2))
    assert (chosen.embeddings, chosen.embeddings_timeout) == ("e5-small", 2)
    assert "by meaning" in told
    assert "EMBEDDINGS=e5-small" in told


def test_where_the_model_cannot_run_it_says_why_and_goes_by_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev, "objection_to", lambda _: "there is no e5-small for Plan 9")
    chosen, told = dev._embeddings(EmbeddingSettings())
    assert (chosen.embeddings, told) == ("none", "by words alone: there is no e5-small for Plan 9")


@pytest.mark.parametrize("said", ["none", "bge-small-en"])
def test_what_is_said_goes_first(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setattr(dev, "objection_to", lambda _: "not asked")
    monkeypatch.setenv("EMBEDDINGS", said)
    chosen, told = dev._embeddings(EmbeddingSettings())
    assert chosen.embeddings == said
    assert f"EMBEDDINGS={said}" in told


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"EMBEDDINGS": "none"},
        {"EMBEDDINGS": "bge-small-en"},
        {
            "EMBEDDINGS": "http://127.0.0.1:11434/v1",
            "EMBEDDINGS_MODEL": "embeddinggemma",
            "EMBEDDINGS_QUESTION_PREFIX": "task: search result | query: ",
            "EMBEDDINGS_KEY": "sk-very-secret",
        },
    ],
    ids=["nothing", "none", "a model", "an endpoint"],
)
def test_other_programs_search_as_this_one_and_are_told_no_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: dict[str, str]
) -> None:
    monkeypatch.setenv("SWITCHBOARD_SECRET", "s" * 32)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    chosen, _ = dev._embeddings(EmbeddingSettings())
    dev._write_environment(tmp_path / "env", Settings(), [], chosen)
    written = {name: value for name, value in dotenv_values(tmp_path / "env").items() if name.startswith("EMBEDDINGS")}
    shown = {"EMBEDDINGS": "e5-small"} | said
    shown.pop("EMBEDDINGS_KEY", None)
    assert written == shown
