"""Who calls: what the gateway has verified, never what a client says of itself."""

import hashlib
from dataclasses import dataclass

_OWNED = "owned:"
"""How idempotency keys begin that are somebody's own."""


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

    @property
    def owner(self) -> str:
        """Whose things are its own beside its right to them: its tenant's and bound customer's; "" for everybody's."""
        if self.tenant is None and self.customer is None:
            return ""
        return hashlib.sha256(repr((self.tenant, self.customer)).encode()).hexdigest()

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
