"""How many questions a customer's text asks. Each is looked up by itself, for together they would be a third one."""

import re
from dataclasses import dataclass

MOST_QUESTIONS = 3

_OPENERS = (
    "how where when why who what which can could do does did is are will would should may "
    "wie wo wann warum wer was welche kann können muss gibt "
    "cómo como dónde donde cuándo cuando cuánto puedo qué"
)
_OPENER = rf"(?:{'|'.join(_OPENERS.split())})\b"
_ASKS = re.compile(rf"(?:(?:and|also|und|auch|y|también)\s+)*{_OPENER}", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_AND_ASKS = re.compile(rf",?\s+(?:and|und|y)\s+(?:also\s+|auch\s+|también\s+)?(?={_OPENER})", re.IGNORECASE)
_TELLING = re.compile(rf"\b(?!{_OPENER}|you\b|the\b|das\b|los\b)\w{{3,}}", re.IGNORECASE)
"""Without such a word ("what can I do?") it is no question of its own."""


@dataclass(frozen=True)
class Question:
    """A question of a text."""

    text: str
    """With what is told around it."""
    asked: str
    """Alone."""


def questions_in(text: str) -> list[Question]:
    """Return the questions of a text, one at least; what is told around a question stays with it.

    Args:
        text: as the customer typed it. With more than `MOST_QUESTIONS` it is taken as one.
    """
    questions: list[Question] = []
    told: list[str] = []
    for sentence in _SENTENCE_END.split(text.strip()):
        for number, part in enumerate(_AND_ASKS.split(sentence)):
            asks = number > 0 or part.endswith("?") or _ASKS.match(part) is not None
            if asks and _TELLING.search(part):
                questions.append(Question(" ".join([*told, part]), part))
                told = []
            elif questions:
                last = questions[-1]
                questions[-1] = Question(f"{last.text} {part}", last.asked)
            else:
                told.append(part)
    if len(questions) == 1:
        return [Question(text.strip(), questions[0].asked)]
    return questions if 1 < len(questions) <= MOST_QUESTIONS else [Question(text.strip(), text.strip())]
