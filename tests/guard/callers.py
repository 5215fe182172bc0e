"""Callers of whom the gateway is told who they are, as if their keys had been looked up."""

from collections.abc import Awaitable, Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from app.guard.principal import ANONYMOUS, Principal
from app.main import GatewayApp
from app.settings import Settings


class _Known:
    def __init__(self, app: ASGIApp, principals: Mapping[str, Principal]) -> None:
        self._app = app
        self._principals = principals

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        name = scope["state"]["headers"].get(b"x-test-caller", b"").decode()
        scope["state"]["principal"] = self._principals.get(name, ANONYMOUS)
        return self._app(scope, receive, send)


def known_by_name(app: GatewayApp, *principals: Principal) -> GatewayApp:
    """Let the header `X-Test-Caller` say which of some principals calls."""
    behind: ASGIApp = app.front._app
    app.put_in_front(_Known(behind, {each.id: each for each in principals}), Settings())
    return app
