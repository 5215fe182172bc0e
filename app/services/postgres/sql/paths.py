"""What a jsonpath makes of a document: how often it may repeat a value, and whether it compares many with many.

PostgreSQL keeps all that a path finds in memory, without a limit: `$.**.**.**` of an array that is 400 levels deep
finds 11 million values, and `$[0,0][0,0]…` doubles them at each step. Where both sides of a comparison are paths it
goes through all pairs without a look at the time limit. So a path has to be written out, or to be a parameter.
Its words may be written with escapes, `keyv\\u0061lue()`, and in capitals.
"""

import re
from dataclasses import dataclass

MAX_REPEATS = 64
"""Most times that a path may find a value, as far as its steps tell."""

_TOKEN = re.compile(
    r"""
    \s+ | /\*.*?\*/
    | (?P<word> "(?:[^"\\]|\\.)*" | (?:[0-9]|\.[0-9])[\w.]* | \*\*
        | \$?(?:\w|\\u\{[0-9a-fA-F]{1,6}\}|\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}|\\.)+
        | == | != | <> | <= | >= | . )
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:u\{([0-9a-fA-F]+)\}|u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_COMPARISONS = frozenset({"==", "!=", "<>", "<", "<=", ">", ">="})
_LITERAL = re.compile(r'"|[0-9]|\.[0-9]|(?:true|false|null)\Z', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Path:
    """What is known of a jsonpath."""

    repeats: int
    """How often its lists of subscripts and its `keyvalue()` may repeat a value."""
    descents: int
    """How often it goes through all levels (`**`)."""
    compares_paths: bool
    """A comparison has no literal on either side."""
    makes_numbers: bool = False
    """By arithmetic or out of texts, so that they may be longer than the document."""

    @property
    def is_bounded(self) -> bool:
        """Tell whether it finds no more than the document holds, a few times over."""
        return self.repeats <= MAX_REPEATS and self.descents <= 1


def read_path(text: str) -> Path:
    """Look at a jsonpath. A text that is none has a meaningless outcome, and PostgreSQL refuses it."""
    words = [_unescaped(word) for match in _TOKEN.finditer(text) if (word := match["word"])]
    repeats, descents, compares, makes_numbers = 1, 0, False, False
    opened: list[tuple[str, int]] = []
    for place, word in enumerate(words):
        if word in ("[", "("):
            opened.append((word, 1))
        elif word == "," and opened:
            opened[-1] = (opened[-1][0], opened[-1][1] + 1)
        elif word in ("]", ")") and opened:
            bracket, items = opened.pop()
            repeats *= items if bracket == "[" else 1
        elif word == "**":
            descents += 1
        elif word.lower() == "keyvalue":
            repeats *= 3
        elif (
            word.lower() in ("number", "decimal") or word == "/" or (word == "*" and words[place - 1] not in (".", "["))
        ):
            makes_numbers = True
        elif word in _COMPARISONS:
            compares = compares or not (_ends_in_literal(words[:place]) or _starts_with_literal(words[place + 1 :]))
    return Path(repeats, descents, compares, makes_numbers)


def _unescaped(word: str) -> str:
    if "\\" not in word or word[0] == '"':
        return word
    return _ESCAPE.sub(lambda match: match[4] or chr(min(int(match[1] or match[2] or match[3], 16), 0x10FFFF)), word)


def _ends_in_literal(words: list[str]) -> bool:
    return bool(words) and bool(_LITERAL.match(words[-1])) and words[-2:-1] != ["."]


def _starts_with_literal(words: list[str]) -> bool:
    while words[:1] in (["-"], ["+"]):
        words = words[1:]
    return bool(words) and bool(_LITERAL.match(words[0]))
