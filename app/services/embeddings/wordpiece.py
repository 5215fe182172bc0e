"""WordPiece, the tokenizer of BERT's family: text to the numbers that a model of it was trained on.

As `BertNormalizer`, `BertPreTokenizer` and `WordPiece` of the library `tokenizers` do it for models that know small
letters alone, but for one thing: what looks like a special token (`[SEP]`) is text here. That library would bring the
packages of a model hub along.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain

_LONGEST_WORD = 100
"""Characters of a word that is split; a longer one is unknown."""
_MOST_CHARACTERS = 16_384
"""Characters of a text that are looked at: far more than 512 tokens of any language."""
_MOST_WORDS = 20_000
"""Words whose pieces are remembered."""
_MOST_SIGNS = 20_000
"""Characters for which it is remembered what becomes of them."""

_IDEOGRAPHS = (
    *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F)),
    *((0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
)
"""Blocks of Chinese characters, each of which is a word; as BERT's authors wrote them down, mistakes included."""
_LEFT_OUT = frozenset({"Cc", "Cf", "Co", "Cs", "Mn"})
_ASCII_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


class _Signs(dict[int, str]):
    """What becomes of each character, for `str.translate`: a small letter, a word of its own, white space, nothing."""

    def __missing__(self, code: int) -> str:
        sign = chr(code)
        category = unicodedata.category(sign)
        if sign in "\t\n\r" or (sign.isspace() and category != "Cc"):
            becomes = " "
        elif category in _LEFT_OUT or sign == "\ufffd":
            becomes = ""
        elif sign in _ASCII_PUNCTUATION or category[0] == "P" or any(a <= code <= b for a, b in _IDEOGRAPHS):
            becomes = f" {sign} "
        else:
            becomes = sign.lower()
        if len(self) < _MOST_SIGNS:
            self[code] = becomes
        return becomes


class WordPiece:
    """The tokenizer of one vocabulary.

    Args:
        vocabulary: its tokens, in the order of their numbers.
    """

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self._numbers: Mapping[str, int] = {token: number for number, token in enumerate(vocabulary)}
        self._longest = max(map(len, vocabulary))
        self._unknown, self._begin, self._end = (self._numbers[token] for token in ("[UNK]", "[CLS]", "[SEP]"))
        self._signs = _Signs()
        self._pieces = lru_cache(_MOST_WORDS)(self._split)

    def numbers(self, text: str, most: int) -> list[int]:
        """Return the first tokens of a text between those for beginning and end, at most so many with these."""
        words = unicodedata.normalize("NFD", text[:_MOST_CHARACTERS]).translate(self._signs).split()
        pieces = chain.from_iterable(map(self._pieces, words[:most]))
        return [self._begin, *list(pieces)[: most - 2], self._end]

    def _split(self, word: str) -> Sequence[int]:
        """Return the longest tokens that a word is made of, from left to right."""
        if len(word) > _LONGEST_WORD:
            return (self._unknown,)
        pieces: list[int] = []
        start = 0
        while start < len(word):
            before = "##" if start else ""
            for end in range(min(len(word), start + self._longest), start, -1):
                if (number := self._numbers.get(before + word[start:end])) is not None:
                    pieces.append(number)
                    start = end
                    break
            else:
                return (self._unknown,)
        return tuple(pieces)
