"""Who calls: what the gateway has verified, never what a client says of itself."""

import hashlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from app.errors import GatewayError, InvalidArguments

_OWNED = "owned:"
"""How idempotency keys and cursors begin that are somebody's own."""
_NOT_OWN = "is no cursor of this caller; leave it out to begin again"


End = Callable[[GatewayError], object]
"""Ends what is done for a principal, for a reason."""


class Revocable(Protocol):
    """By what somebody is known, and what may be good for nothing from one second to the next."""

    def hold(self, end: End) -> Callable[[], None]:
        """Have `end` called once it is good for nothing, at once if it is that already; return what calls that off."""
        ...


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody for whom calls are made. It enters with the request, or with the connection, and holds for all of it."""

    id: str
    """Names it in the log."""
    roles: frozenset[str] = frozenset()
    tenant: str | None = None
    customer: str | None = None
    """The one customer to which it is bound; None where it is bound to none."""
    expires_at: float | None = None
    """When its credential ends, in seconds since 1970; None where it does not."""
    credential: Revocable | None = field(default=None, compare=False, repr=False)
    """By what it is known; None where that can't end."""

    @property
    def owner(self) -> str:
        """Whose things are its own beside its right to them: its tenant's and bound customer's; "" for everybody's."""
        if self.tenant is None and self.customer is None:
            return ""
        return hashlib.sha256(repr((self.tenant, self.customer)).encode()).hexdigest()

    @contextmanager
    def holding(self, end: End) -> Generator[None]:
        """Have something ended that lasts, within two seconds after the principal's credential has ended.

        Args:
            end: called once with the reason, from the event loop.
        """
        release = self.credential.hold(end) if self.credential is not None else None
        try:
            yield
        finally:
            if release is not None:
                release()

    def own_cursor(self, cursor: str | None) -> str | None:
        """Return a page's cursor in a form that `read_cursor` takes from the same owner alone."""
        return f"{self._mark}{cursor}" if cursor else cursor

    def read_cursor(self, cursor: str | None, name: str = "cursor") -> str | None:
        """Return a cursor as it was before `own_cursor`.

        Args:
            cursor: as the caller gives it.
            name: of the argument.

        Raises:
            InvalidArguments: it is another owner's.
        """
        if cursor is None:
            return None
        mark = self._mark
        if not cursor.startswith(mark) or (not mark and cursor.startswith(_OWNED)):
            raise InvalidArguments.of(name, _NOT_OWN)
        return cursor.removeprefix(mark)

    @property
    def _mark(self) -> str:
        """How its cursors begin. It tells owners apart, and is no secret."""
        return f"{_OWNED}{self.owner[:16]}:" if self.owner else ""

    def own_key(self, key: str) -> str:
        """Return an idempotency key that is equal to no other owner's: neither learns that the other has used it."""
        owner = self.owner
        if not owner and not key.startswith(_OWNED):
            return key
        return _OWNED + hashlib.sha256(f"{owner} {key}".encode()).hexdigest()


ANONYMOUS = Principal("anonymous")
"""Whoever shows no credential."""

DEVELOPER = "developer"
"""The role that there is without a file, too: it may do everything."""
EVERYBODY = Principal(ANONYMOUS.id, frozenset({DEVELOPER}))
"""Whoever shows no credential where none is asked for."""
