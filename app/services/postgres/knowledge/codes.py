"""Codes such as `E-4711`: words with a digit, of which one that looks alike is another thing's."""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

_TOKEN = re.compile(r"[^\W_]+(?:[-_./:]+[^\W_]+)*")
_PIECES = re.compile(r"[-_./:]+")
_NOT_BETWEEN_DIGITS = re.compile(r"(?<!\d)-|-(?!\d)")
_MOST_CODES = 6
"""Words of a question that are looked up as codes."""
_SHORT = 4
"""Letters of a word before a number, or joined to it, that may be a part of its code: `PX 200`, `E-4711`."""


def codes_in(question: str) -> Iterator[Sequence[str]]:
    """Yield for each word with a digit the codes that it may be, the likeliest first, as the index spells them.

    `E-4711-Fehler` is `e4711fehler` if an article has that, else `e4711`; it is never `4711`, which may be another's.
    `article_codes` in migration 0010 spells those of articles.
    """
    tokens = [token.group() for token in _TOKEN.finditer(question.lower())]
    found = [(before, token) for before, token in pairwise(["", *tokens]) if re.search(r"\d", token)]
    for before, token in found[:_MOST_CODES]:
        pieces = _PIECES.split(token)
        spellings = [*([[before, *pieces]] if before.isalpha() and len(before) <= _SHORT else []), pieces]
        while len(pieces) > 1 and _is_long_word(pieces[-1]):
            pieces = pieces[:-1]
            spellings.append(pieces)
        while len(pieces) > 1 and _is_long_word(pieces[0]):
            pieces = pieces[1:]
            spellings.append(pieces)
        codes = (_NOT_BETWEEN_DIGITS.sub("", "-".join(spelling)) for spelling in spellings)
        yield [code for code in dict.fromkeys(codes) if 3 <= len(code) <= 40]


def _is_long_word(piece: str) -> bool:
    return piece.isalpha() and len(piece) > _SHORT
