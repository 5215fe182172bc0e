"""Callers who wait for a connection at the same moment, and which of them one statement can answer.

The line gives out who has waited longest and, with it, whoever in it asks the same fixed read about other rows. Nobody
waits for company: who finds a connection free asks at once, with those of the same turn of the event loop; and what a
statement has begun, nobody joins.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeGuard, TypeVar, cast

from sqlalchemy import BindParameter, Select, bindparam, func, literal_column, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql import visitors

from app.errors import GatewayError, TooManyRequests

MOST_TOGETHER = 16
"""Rows that one statement is asked for. Beyond, a statement saves little more, and the first of them waits longer."""
NO_FREE_CONNECTION = "all connections to PostgreSQL that this tool may use are busy; repeat in a moment"

T = TypeVar("T")


@dataclass(slots=True)
class Question:
    """A fixed read about one row, in words that others may share."""

    sql: str
    arguments: list[Any]
    """How it is asked alone."""
    together: str
    """The statement that answers many: after `others` it takes a list of keys, and gives each with its answer."""
    key: str | int
    others: tuple[Any, ...]
    """The other arguments of `together`, the caller's confinement among them."""

    @property
    def group(self) -> tuple[Any, ...]:
        """Equal for those that one statement can answer."""
        return self.together, self.others


def asked_of_many(statement: Select[*tuple[Any, ...]], shared_by: str) -> Select[*tuple[Any, ...]]:
    """Return the statement that answers many keys, each as a fixed read answers one: the very same, as a subquery.

    Args:
        statement: the read, of one column.
        shared_by: its parameter that says which row it is about.
    """
    kind = next(part.type for part in visitors.iterate(statement) if _is_parameter(part, shared_by))
    asked = func.unnest(bindparam("keys", type_=ARRAY(kind))).table_valued("key").render_derived("asked")
    # As a text: a column would bring its table into every subquery that names it.
    key = literal_column("asked.key", kind)

    def put(element: Any, **_: Any) -> Any:
        return key if _is_parameter(element, shared_by) else None

    one = cast("Select[*tuple[Any, ...]]", visitors.replacement_traverse(statement, {}, put))
    return select(asked.c.key, one.scalar_subquery()).select_from(asked).where(asked.c.key.is_not(None))


def _is_parameter(part: Any, name: str) -> TypeGuard[BindParameter[Any]]:
    return isinstance(part, BindParameter) and cast("BindParameter[Any]", part).key == name


def asked_together(questions: Sequence[Question]) -> tuple[str, list[Any]]:
    """Return the one statement that answers questions of one group, and its arguments.

    There are always as many keys, NULL for those that are wanting: from their number PostgreSQL guesses what a plan
    costs, and for fewer it would plan the statement anew each time that it is run.
    """
    keys: list[str | int | None] = list(dict.fromkeys(question.key for question in questions))
    keys += [None] * (MOST_TOGETHER - len(keys))
    return questions[0].together, [*questions[0].others, keys]


@dataclass(eq=False, slots=True)
class Turn(Generic[T]):
    """Somebody who waits in line."""

    outcome: "asyncio.Future[T]"
    until: float
    """When they are turned away, on the loop's clock."""
    question: Question | None
    """None where nobody can share what they ask."""
    company: "Company | None" = None
    """With whom they are answered, once they are."""


@dataclass(eq=False, slots=True)
class Company:
    """Those whom one statement answers."""

    left: int
    """How many still wait."""
    work: "asyncio.Task[None] | None" = None

    def leave(self) -> None:
        """Take one out, which is nothing to the others; the statement ends with the last of them."""
        self.left -= 1
        if not self.left and self.work is not None:
            self.work.cancel()


def _busy() -> GatewayError:
    return TooManyRequests(NO_FREE_CONNECTION)


@dataclass(eq=False)
class Line(Generic[T]):
    """Callers who wait for a connection, the longest first.

    Args:
        loop: the one that they run on.
        wait: seconds that one waits.
        most: how many wait at a time; None leaves it to the gateway's limits.
        refusal: why somebody is turned away.
    """

    loop: asyncio.AbstractEventLoop
    wait: float
    most: int | None = None
    refusal: Callable[[], GatewayError] = _busy
    _turns: "OrderedDict[Turn[T], None]" = field(default_factory=OrderedDict[Turn[T], None])
    _groups: "dict[tuple[Any, ...], OrderedDict[Turn[T], None]]" = field(
        default_factory=dict[tuple[Any, ...], OrderedDict[Turn[T], None]]
    )
    _clock: asyncio.TimerHandle | None = None
    """Set while somebody waits: one clock for the whole line, since nearly every turn comes long before its end."""

    def __len__(self) -> int:
        return sum(not turn.outcome.done() for turn in self._turns)

    def join(self, question: Question | None = None) -> Turn[T]:
        """Take the last place.

        Raises:
            GatewayError: the line is as long as it may be.
        """
        if self.most is not None and len(self._turns) >= self.most:
            raise self.refusal()
        turn: Turn[T] = Turn(self.loop.create_future(), self.loop.time() + self.wait, question)
        self._turns[turn] = None
        if question is not None:
            self._groups.setdefault(question.group, OrderedDict())[turn] = None
        if self._clock is None:
            self._clock = self.loop.call_at(turn.until, self._turn_away)
        return turn

    def leave(self, turn: Turn[T]) -> None:
        """Give a place up, where it is not given up already."""
        self._turns.pop(turn, None)
        if turn.question is not None and (group := self._groups.get(turn.question.group)) is not None:
            group.pop(turn, None)
            if not group:
                del self._groups[turn.question.group]

    def next(self) -> Turn[T] | None:
        """Take out whoever has waited longest; None if nobody waits."""
        while self._turns:
            turn = next(iter(self._turns))
            self.leave(turn)
            if not turn.outcome.done():
                return turn
        return None

    def company_of(self, first: Turn[T]) -> list[tuple[Turn[T], Question]]:
        """Take out those who can share a statement with somebody who is out already; none if nobody can.

        Args:
            first: is the first of them.
        """
        if first.question is None or (group := self._groups.get(first.question.group)) is None:
            return []
        found = [(first, first.question)]
        keys = {first.question.key}
        for turn in group:
            if turn.question is None or turn.outcome.done():
                continue
            if len(keys) == MOST_TOGETHER and turn.question.key not in keys:
                break
            keys.add(turn.question.key)
            found.append((turn, turn.question))
        for turn, _ in found:
            self.leave(turn)
        return found if len(found) > 1 else []

    def close(self) -> None:
        """Stop the clock."""
        if self._clock is not None:
            self._clock.cancel()

    def _turn_away(self) -> None:
        """Tell those who have waited too long, and set the clock for the next in line."""
        while self._turns:
            turn = next(iter(self._turns))
            if not turn.outcome.done():
                if turn.until > self.loop.time():
                    break
                turn.outcome.set_exception(self.refusal())
            self.leave(turn)
        self._clock = self.loop.call_at(next(iter(self._turns)).until, self._turn_away) if self._turns else None
