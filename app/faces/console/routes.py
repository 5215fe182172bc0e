"""The addresses of the console: its pages, which everybody may load, and what they show, which `Door` guards."""

from collections.abc import Mapping
from functools import partial

from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app.client_configs import LaunchedByClients
from app.faces.console.access import Access
from app.faces.console.calls import Calls
from app.faces.console.door import ACT, KEYS, SETTINGS, Door, Endpoint, Viewer, send_json
from app.faces.console.feed import Feed
from app.faces.console.pages import Pages
from app.faces.console.prompts import Prompts
from app.faces.console.settings import SettingsShown
from app.faces.console.sight import Sights
from app.faces.console.tails import Tails
from app.faces.console.tools import Tools
from app.faces.identity import Identity
from app.faces.streamable_http import StreamableHTTP
from app.gateway import Gateway
from app.telemetry.activity import Activity


def console_routes(
    gateway: Gateway,
    activity: Activity,
    identity: Identity | None,
    launched: LaunchedByClients | None,
    protocol: Mapping[str, StreamableHTTP],
) -> list[BaseRoute]:
    """Return the addresses of the console.

    Args:
        gateway: what is shown.
        activity: keeps account of its calls.
        identity: tells callers apart; None where everybody may call.
        launched: what the pages tell clients that launch a process; a placeholder where we don't know.
        protocol: where each server speaks MCP, by its id.
    """
    door, sights = Door(gateway, identity), Sights(gateway)
    sessions = identity.sessions if identity is not None else None
    feed, tails = Feed(gateway, activity, sights, sessions), Tails(gateway, sessions)
    calls, tools, pages = Calls(gateway, activity, sights), Tools(gateway), Pages(gateway, launched, identity)
    access, prompts = Access(gateway, identity), Prompts(gateway, protocol)

    async def show_viewer(scope: Scope, receive: Receive, send: Send, viewer: Viewer) -> None:
        await send_json(scope, send, viewer.shown(gateway))

    viewed, called = partial(Endpoint, door), partial(Endpoint, door, recorded=True)
    addresses: list[tuple[str, str, ASGIApp]] = [
        ("POST", "/console/session", _Application(door.sign_in)),
        ("DELETE", "/console/session", _Application(door.sign_out)),
        ("GET", "/console/session", viewed(show_viewer)),
        ("GET", "/console/events", called(feed)),
        ("GET", "/console/calls/{id}", viewed(calls.show)),
        ("POST", "/console/calls/{id}/cancel", viewed(calls.cancel, scopes=(ACT,))),
        ("GET", "/console/tools", called(tools.show)),
        ("POST", "/console/tools/{server}/{tool}", called(tools.call)),
        ("GET", "/console/resources/read", called(tools.read)),
        ("GET", "/console/prompts/{server}", called(prompts.show)),
        ("POST", "/console/prompts/{server}", called(prompts.fill_in)),
        ("GET", "/console/access", called(access.show, scopes=(KEYS,))),
        ("POST", "/console/keys", called(access.make, scopes=(KEYS, ACT))),
        ("POST", "/console/keys/{id}/revoke", called(access.revoke, scopes=(KEYS, ACT))),
        ("POST", "/console/explain", called(access.explain, scopes=(KEYS,))),
        ("GET", "/console/settings", called(SettingsShown(gateway).show, scopes=(SETTINGS,))),
        *(("GET", path, called(answer)) for path, answer in tails.addresses()),
        ("GET", "/console/connect", called(pages.connect)),
        ("GET", "/console/guides/{name:path}", viewed(pages.guide)),
    ]
    routes = [Route(path, endpoint, methods=[method]) for method, path, endpoint in addresses]
    return [*pages.signs(), *routes, *pages.routes()]


class _Application:
    """A method as an ASGI application: Starlette takes a bare one for a function of a request."""

    def __init__(self, answer: ASGIApp) -> None:
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answer(scope, receive, send)
