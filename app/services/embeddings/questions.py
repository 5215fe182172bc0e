"""Vectors of questions: those that are asked again are remembered, and those that are asked at once are made once."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

from app.single_flight import SingleFlights

MOST_REMEMBERED = 1024
"""Questions whose vector is remembered: some 2 to 16 kB each."""

Vector = Sequence[float]


class Questions:
    """The vectors of the latest questions.

    Args:
        embed: makes the vector of one.
    """

    def __init__(self, embed: Callable[[str], Awaitable[Vector]]) -> None:
        self._embed = embed
        self._known: OrderedDict[str, Vector] = OrderedDict()
        self._flights = SingleFlights[Vector]()

    async def vector(self, question: str) -> Vector:
        """Return the vector of a question. Failures are not remembered."""
        question = " ".join(question.split())
        if (known := self._known.get(question)) is not None:
            self._known.move_to_end(question)
            return known
        vector = await self._flights.run(question, lambda: self._embed(question))
        self.remember(question, vector)
        return vector

    def remember(self, question: str, vector: Vector) -> None:
        """Keep a vector for who asks again, also where nobody has waited for it."""
        self._known[question] = vector
        if len(self._known) > MOST_REMEMBERED:
            self._known.popitem(last=False)
