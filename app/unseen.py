"""Signs that no reader sees, or that change what a reader sees: they are written as escapes, as JSON has them."""

import json
import re

_UNSEEN = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ud800-\udfff\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Control characters but tabs and line breaks, Unicode's format characters and other ignorable ones, half pairs."""


def escaped(text: str) -> str:
    r"""Return a text in which nothing moves a terminal's cursor, turns its neighbours round or is there unseen.

    Args:
        text: from whomever; its tabs and line breaks stay.

    Returns:
        The text itself, or with escapes such as `\u202e`.
    """
    return text if text.isprintable() else _UNSEEN.sub(lambda sign: json.dumps(sign[0])[1:-1], text)
