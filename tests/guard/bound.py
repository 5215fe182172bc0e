"""Callers that are bound to a customer, as if their keys had been looked up."""

from collections.abc import Awaitable

from starlette.types import ASGIApp, Receive, Scope, Send

from app.guard.principal import Principal
from app.main import GatewayApp
from app.settings import Settings

CALLER = b"x-test-customer"
"""The header by which a test says to whom a caller is bound; without it the caller is bound to whom `bound` says."""


ROLES = frozenset({"customer_bot"})


class _Known:
    def __init__(self, app: ASGIApp, customer: str | None) -> None:
        self._app = app
        self._customer = customer

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        named = scope["state"]["headers"].get(CALLER)
        customer = named.decode() if named is not None else self._customer
        scope["state"]["principal"] = Principal(f"bot-{customer}", ROLES, customer=customer)
        return self._app(scope, receive, send)


def bound(app: GatewayApp, customer: str | None, settings: Settings | None = None) -> GatewayApp:
    """Let everybody who calls be bound to a customer."""
    app.put_in_front(_Known(app.front._app, customer), settings or Settings())
    return app
