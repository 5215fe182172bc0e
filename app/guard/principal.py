"""Who calls: what the gateway has verified, never what a client says of itself."""

from dataclasses import dataclass


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


ANONYMOUS = Principal("anonymous")
"""Whoever shows no credential."""

DEVELOPER = "developer"
"""The role that there is without a file, too: it may do everything."""
EVERYBODY = Principal(ANONYMOUS.id, frozenset({DEVELOPER}))
"""Whoever shows no credential where none is asked for."""
