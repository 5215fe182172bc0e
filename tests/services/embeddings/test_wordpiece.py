"""The tokenizer of our own, against what the library `tokenizers` 0.23.3 makes of the same texts (`wordpiece.json`)."""

import json
from pathlib import Path

import pytest

from app.services.embeddings.bge import MOST_TOKENS, PACKAGE, VOCABULARY
from app.services.embeddings.weights import weights_of
from app.services.embeddings.wordpiece import WordPiece

CASES: list[tuple[str, list[int]]] = json.loads(Path(__file__).with_name("wordpiece.json").read_text())
BEGIN, END, UNKNOWN = 101, 102, 100


@pytest.fixture(scope="module")
def tokenizer() -> WordPiece:
    return WordPiece(weights_of(PACKAGE, *VOCABULARY).read_text("utf-8").splitlines())


@pytest.mark.parametrize(("text", "numbers"), CASES, ids=[ascii(text[:20]) for text, _ in CASES])
def test_the_tokens_are_those_of_the_reference(tokenizer: WordPiece, text: str, numbers: list[int]) -> None:
    assert tokenizer.numbers(text, MOST_TOKENS) == numbers


def test_what_looks_like_a_special_token_is_text(tokenizer: WordPiece) -> None:
    assert END not in tokenizer.numbers("[SEP] and [CLS]", MOST_TOKENS)[1:-1]
    assert BEGIN not in tokenizer.numbers("[SEP] and [CLS]", MOST_TOKENS)[1:-1]


@pytest.mark.parametrize(
    "text", ["word " * 100_000, "\u4e2d" * 100_000, "x" * 100_000, " " * 100_000, "\u0301" * 100_000]
)
def test_a_text_of_any_length_has_at_most_so_many_tokens(tokenizer: WordPiece, text: str) -> None:
    numbers = tokenizer.numbers(text, MOST_TOKENS)
    assert len(numbers) <= MOST_TOKENS
    assert (numbers[0], numbers[-1]) == (BEGIN, END)


def test_half_a_surrogate_and_what_no_language_has_are_taken(tokenizer: WordPiece) -> None:
    assert tokenizer.numbers("\ud800 \U0010ffff", 8)[-1] == END


def test_what_is_remembered_has_bounds(tokenizer: WordPiece) -> None:
    for first in range(0xA000, 0x10000, 100):
        tokenizer.numbers(" ".join(chr(code) for code in range(first, first + 100)), MOST_TOKENS)
        tokenizer.numbers("".join(chr(code) for code in range(first * 2, first * 2 + 100)), MOST_TOKENS)
    assert len(tokenizer._signs) <= 20_000
    assert tokenizer._pieces.cache_info().currsize <= 20_000
