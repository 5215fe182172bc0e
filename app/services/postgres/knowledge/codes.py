"""Codes such as `E-4711`: words with a digit, of which one that looks alike is another thing's."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

_TOKEN = re.compile(r"[^\W_]+(?:[-_./:]+[^\W_]+)*")
_PIECES = re.compile(r"[-_./:]+")
_NOT_BETWEEN_DIGITS = re.compile(r"(?<!\d)-|-(?!\d)")
_MOST_CODES = 6
"""Words of a question that are looked up as codes."""
_SHORT = 4
"""Letters of a word before a number, or joined to it, that may be a part of its code: `PX 200`, `E-4711`."""
_NAME = re.compile(r"(?![1-9]\d*x\d+$)[\d-]*[^\W\d_]+(?=.*\d)")
"""A code with a letter before a digit, up to its last leading letter; `30days`, `2nd` and `10x15` are amounts."""
_NO_NAMES = frozenset(("I", "A", "EUR", "USD", "GBP", "CHF", "CAD", "AUD", "JPY"))
"""Words in capitals before a number that is an amount all the same."""
_AMOUNT = re.compile(
    r"\d{1,3}(?:-\d{1,3})?|(?:19|20)\d\d|\d+00|(?:19|20)\d\d-\d\d?(?:-\d\d?)?|\d\d?-\d\d?-(?:\d\d){1,2}"
)
"""A number that says how much or when rather than which."""


@dataclass(frozen=True)
class Code:
    """What a word with a digit may be a code of."""

    spellings: Sequence[str]
    """The likeliest first, as the index spells them; 3 to 40 characters."""
    names: frozenset[str]
    """Those of them that are surely a name, and no amount, year or part of a sentence."""
    likeness: tuple[str, str] | None
    """The leading letters and the whole of a code, which those of other things may be like; None of a number."""


def codes_in(question: str) -> Iterator[Code]:
    """Yield for each word with a digit the codes that it may be.

    `E-4711-Fehler` is `e4711fehler` if an article has that, else `e4711`; it is never `4711`, which may be another's.
    `article_codes` in migration 0010 spells those of articles.
    """
    tokens = [token.group() for token in _TOKEN.finditer(question)]
    found = [(before, token) for before, token in pairwise(["", *tokens]) if re.search(r"\d", token)]
    for before, token in found[:_MOST_CODES]:
        pieces = _PIECES.split(token.lower())
        is_part = before.isalpha() and len(before) <= _SHORT
        is_name = is_part and before.isupper() and before not in _NO_NAMES and not question.isupper()
        spellings = [*([[before.lower(), *pieces]] if is_part else []), pieces]
        while len(pieces) > 1 and _is_long_word(pieces[-1]):
            pieces = pieces[:-1]
            spellings.append(pieces)
        while len(pieces) > 1 and _is_long_word(pieces[0]):
            pieces = pieces[1:]
            spellings.append(pieces)
        codes = [_NOT_BETWEEN_DIGITS.sub("", "-".join(spelling)) for spelling in spellings]
        own = codes[is_part:]
        names = {code for code in own if _NAME.match(code) or re.fullmatch(r"[\d-]+", code)}
        names = {code for code in names if not _AMOUNT.fullmatch(code)}
        if is_name or names:
            names.add(codes[0])
        letters = [(found.group(), code) for code in own if (found := _NAME.match(code))]
        if is_name and not letters:
            letters = [(before.lower(), codes[0])]
        spelled = [code for code in dict.fromkeys(codes) if 3 <= len(code) <= 40]
        yield Code(spelled, frozenset(names), letters[-1] if letters and letters[-1][1] in spelled else None)


def _is_long_word(piece: str) -> bool:
    return piece.isalpha() and len(piece) > _SHORT
