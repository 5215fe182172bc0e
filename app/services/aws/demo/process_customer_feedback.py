"""The demo function `process-customer-feedback`, as it runs in the local stack's Lambda.

It scores how a customer feels about us with a lexicon of weighted words. The file is deployed alone, so
it imports nothing but the standard library.
"""

import re
from typing import Any

# Weights from -3 (furious) to 3 (delighted).
_LEXICON = {
    # praise
    "amazing": 3.0, "awesome": 3.0, "brilliant": 3.0, "excellent": 3.0, "fantastic": 3.0, "outstanding": 3.0,
    "perfect": 3.0, "perfectly": 3.0, "superb": 3.0, "wonderful": 3.0, "love": 3.0, "loved": 3.0, "loves": 3.0,
    "best": 3.0, "delighted": 3.0, "impressed": 2.5, "impressive": 2.5, "great": 2.5, "thrilled": 3.0,
    "happy": 2.0, "glad": 2.0, "pleased": 2.0, "satisfied": 2.0, "helpful": 2.0, "friendly": 2.0, "kind": 1.5,
    "polite": 1.5, "patient": 1.5, "professional": 1.5, "recommend": 2.0, "recommended": 2.0, "reliable": 2.0,
    "thank": 1.5, "thanks": 1.5, "grateful": 2.0, "appreciate": 2.0, "appreciated": 2.0, "good": 1.5, "nice": 1.5,
    "easy": 1.5, "easily": 1.5, "fast": 1.5, "quick": 1.5, "quickly": 1.5, "smooth": 1.5, "smoothly": 1.5,
    "simple": 1.0, "clear": 1.0, "works": 1.0, "worked": 1.0, "solved": 1.5, "resolved": 1.5, "fixed": 1.5,
    "useful": 1.5, "improved": 1.5, "intuitive": 2.0, "well": 1.0, "enjoy": 2.0, "like": 1.0, "fair": 1.0,
    # complaint
    "awful": -3.0, "terrible": -3.0, "horrible": -3.0, "worst": -3.0, "hate": -3.0, "hated": -3.0, "furious": -3.0,
    "scam": -3.0, "fraud": -3.0, "useless": -2.5, "unacceptable": -3.0, "disgusting": -3.0, "outrageous": -3.0,
    "ridiculous": -2.5, "pathetic": -3.0, "angry": -2.5, "unusable": -2.5, "disappointed": -2.0,
    "disappointing": -2.0, "frustrated": -2.0, "frustrating": -2.0, "annoyed": -2.0, "annoying": -2.0, "rude": -2.5,
    "unhappy": -2.0, "upset": -2.0, "poor": -2.0, "poorly": -2.0, "bad": -2.0, "worse": -2.5, "badly": -2.0,
    "broken": -2.0, "broke": -1.5, "breaks": -1.5, "bug": -1.5, "bugs": -1.5, "buggy": -2.0, "crash": -2.0,
    "crashes": -2.0, "crashed": -2.0, "error": -1.5, "errors": -1.5, "fail": -2.0, "fails": -2.0, "failed": -2.0,
    "failure": -2.0, "slow": -1.5, "slowly": -1.5, "late": -1.5, "delay": -1.5, "delayed": -1.5, "waiting": -1.0,
    "waited": -1.0, "confusing": -1.5, "confused": -1.0, "difficult": -1.5, "hard": -1.0, "expensive": -1.5,
    "overcharged": -2.5, "overpriced": -2.0, "refund": -1.0, "cancel": -1.5, "cancelled": -1.0, "complaint": -1.5,
    "lost": -1.5, "missing": -1.5, "wrong": -1.5, "problem": -1.0, "problems": -1.5, "issue": -1.0, "issues": -1.0,
    "ignored": -2.0, "unhelpful": -2.0, "waste": -2.0, "wasted": -2.0, "damaged": -2.0, "unreliable": -2.0,
    "stuck": -1.5, "down": -1.0, "outage": -2.0, "spam": -2.0, "regret": -2.0, "sorry": -0.5,
}  # fmt: skip
_STRENGTHENED = {"very": 1.3, "really": 1.3, "so": 1.2, "extremely": 1.5, "absolutely": 1.5, "totally": 1.3, "too": 1.2}
_WEAKENED = {"slightly": 0.6, "somewhat": 0.7, "bit": 0.7, "little": 0.7, "fairly": 0.8, "quite": 0.9}
_DEGREES = _STRENGTHENED | _WEAKENED
_NEGATIONS = frozenset({"not", "no", "never", "without", "hardly", "nothing", "cannot", "neither", "nor"})
_CLAUSE_ENDS = frozenset(".,;:!?")
_TOKEN = re.compile(r"[a-z']+|[.,;:!?]")
_NEUTRAL_WITHIN = 0.1
_MIDDLING_WEIGHT = 1.5
"""Added to the sum of weights so that one mild word does not count as certainty."""


def score(text: str) -> float:
    """Return how a text sounds, from -1 (bad) to 1 (good).

    A degree word (`very`) scales the word after it. A negation turns the next weighted word of its clause
    round at half strength: "not good" is milder than "bad".
    """
    total = strength = 0.0
    degree, negated = 1.0, False
    for token in _TOKEN.findall(text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")):
        if token in _CLAUSE_ENDS:
            degree, negated = 1.0, False
        elif token in _NEGATIONS or token.endswith("n't"):
            negated = True
        elif (weight := _LEXICON.get(token)) is not None:
            weight *= degree * (-0.5 if negated else 1.0)
            total += weight
            strength += abs(weight)
            degree, negated = 1.0, False
        else:
            degree = _DEGREES.get(token, 1.0)
    return round(total / (strength + _MIDDLING_WEIGHT), 3)


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Answer `{sentiment, score, customer_id}` for an event with `feedback` and perhaps `customer_id`.

    Raises:
        ValueError: `feedback` is missing or no text; Lambda hands it to the caller as the function's error.
    """
    feedback = event.get("feedback")
    if not isinstance(feedback, str) or not feedback.strip():
        raise ValueError("feedback must be a text that is not empty")
    value = score(feedback)
    sentiment = "neutral" if abs(value) < _NEUTRAL_WITHIN else "positive" if value > 0 else "negative"
    print(f"customer {event.get('customer_id')}: {sentiment} ({value})")  # Lambda logs standard output
    return {"sentiment": sentiment, "score": value, "customer_id": event.get("customer_id")}
