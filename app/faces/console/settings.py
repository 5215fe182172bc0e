"""The settings that are in effect, with where each comes from; secrets are not shown."""

from typing import Any

from pydantic_settings import BaseSettings
from starlette.types import Receive, Scope, Send

from app.faces.console.door import SETTINGS, Viewer, send_json
from app.faces.http import call_context
from app.gateway import Gateway
from app.guard.secret import SecretSettings
from app.guard.settings import IdentitySettings
from app.variables import told


class SettingsShown:
    """Shows the settings of the process and of its servers.

    Args:
        gateway: whose they are.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def show(self, scope: Scope, receive: Receive, send: Send, viewer: Viewer) -> None:
        """Answer with all of them."""
        context = call_context(scope, "rest", receive)
        groups = await self._gateway.operate("console/settings", SETTINGS, context, self._groups)
        await send_json(scope, send, {"groups": groups})

    async def _groups(self) -> list[dict[str, Any]]:
        gateway = self._gateway
        found: list[tuple[str, BaseSettings]] = [
            ("The process", gateway.settings),
            ("Keys", IdentitySettings()),
            ("The installation's secret", SecretSettings()),
        ]
        for server in gateway.servers.values():
            own = (getattr(server, name, None) for name in type(server).all_settings())
            found += [(server.name, settings) for settings in own if isinstance(settings, BaseSettings)]
        return [{"title": title, "settings": list(told(settings))} for title, settings in found]
