"""Codes such as `E-4711`: words with a digit, of which one that looks alike is another thing's."""

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

_TOKEN = re.compile(r"[^\W_]+(?:[-_./:]+[^\W_]+)*")
_PIECES = re.compile(r"[-_./:]+")
_NOT_BETWEEN_DIGITS = re.compile(r"(?<!\d)-|-(?!\d)")
_MOST_CODES = 6
"""Words of a question that are looked up as codes."""
_SHORT = 4
"""Letters of a word before a number, or joined to it, that may be a part of its code: `PX 200`, `E-4711`."""
_NAME = re.compile(r"(?![1-9]\d*x\d+$)[\d-]*[^\W\d_]+(?=.*\d)")
"""A code with a letter before a digit, up to its last leading letter; `30days`, `2nd` and `10x15` are amounts."""
_NO_NAMES = frozenset(
    re.findall(r"\S+", "i a eur usd gbp chf cad aud jpy cny czk pln sgd hkd nzd php thb rs rp kr kc ft vs")
)
"""Short words before a number that is an amount all the same."""
_NO_WORD = re.compile("[b-df-hj-np-tv-xz]{2,4}")
"""Letters that are hardly a word of a sentence: `px 200`. Of one alone nobody knows."""
_ANNOUNCING = frozenset(
    re.findall(
        r"\S+",
        """
        error err errno http code status fault alarm fehler fehlercode fehlernummer fehlermeldung störung erreur errore
        código codigo codice fout foutcode foutmelding erro fel felkod fejl feil virhe błąd hiba hata
        """,
    )
)
"""Words beside which a number is a code, however short: `error 404`."""
_NUMBER = frozenset(re.findall(r"\S+", "no nr num number numero número numéro nummer nº"))
"""Words that say no more of a number than that it is one: `error no. 404`."""
_STATUS = re.compile(r"[1-5]\d\d")
"""A number that stands before such a word rather than counts it: `a 404 error`."""
_MOST_JOINED = re.compile(r"\d{7}")
"""Digits that are hardly another code's where the hyphens between them are left out: `INV2024001`."""
_AMOUNT = re.compile(
    r"\d{1,3}(?:-\d{1,3})?|(?:19|20)\d\d|\d+00|(?:19|20)\d\d-\d\d?(?:-\d\d?)?|\d\d?-\d\d?-(?:\d\d){1,2}"
)
"""A number that says how much or when rather than which."""


@dataclass(frozen=True)
class Code:
    """What a word with a digit may be a code of."""

    spellings: Sequence[str]
    """The likeliest first, as the index spells them; 3 to 40 characters."""
    names: Set[str]
    """Those of them that are surely a name, and no amount, year or part of a sentence."""
    likeness: tuple[str, str] | None
    """The leading letters and the whole of a code, which those of other things may be like; None of a number."""


def codes_in(question: str) -> Iterator[Code]:
    """Yield for each word with a digit the codes that it may be.

    `E-4711-Fehler` is `e4711fehler` if an article has that, else `e4711`; it is never `4711`, which may be another's.
    `article_codes` in migrations 0010 and 0012 spells those of articles.
    """
    words = [token.group() for token in _TOKEN.finditer(question)]
    tokens = ["", *(word for word in words if word.lower() not in _NUMBER), ""]
    found = [around for around in zip(tokens, tokens[1:], tokens[2:], strict=False) if re.search(r"\d", around[1])]
    for before, token, after in found[:_MOST_CODES]:
        pieces = _PIECES.split(token.lower())
        short = before.lower() if before.isalpha() and len(before) <= _SHORT else ""
        is_name = short not in _NO_NAMES and (
            bool(_NO_WORD.fullmatch(short)) or (before.isupper() and not question.isupper() and bool(short))
        )
        is_announced = before.lower() in _ANNOUNCING or (
            after.lower() in _ANNOUNCING and bool(_STATUS.fullmatch(token))
        )
        spellings = [*([[short, *pieces]] if short else []), pieces]
        while len(pieces) > 1 and _is_long_word(pieces[-1]):
            pieces = pieces[:-1]
            spellings.append(pieces)
        while len(pieces) > 1 and _is_long_word(pieces[0]):
            pieces = pieces[1:]
            spellings.append(pieces)
        codes = [_NOT_BETWEEN_DIGITS.sub("", "-".join(spelling)) for spelling in spellings]
        own = codes[bool(short) :]
        names = {code for code in own if _NAME.match(code) or re.fullmatch(r"[\d-]+", code)}
        names = {code for code in names if is_announced or not _AMOUNT.fullmatch(code)}
        if is_name or names:
            names.add(codes[0])
        letters = [(found.group(), code) for code in own if (found := _NAME.match(code))]
        if is_name and not letters:
            letters = [(short, codes[0])]
        joined = {code: code.replace("-", "") for code in codes}
        codes += [whole for code, whole in joined.items() if whole != code and _MOST_JOINED.search(whole)]
        names |= {joined[code] for code in names}
        spelled = [code for code in dict.fromkeys(codes) if 3 <= len(code) <= 40]
        likeness = letters[-1] if letters and letters[-1][1] in spelled else None
        yield Code(spelled, names.intersection(spelled), likeness)


def _is_long_word(piece: str) -> bool:
    return piece.isalpha() and len(piece) > _SHORT
