"""The outermost layer: names each request, refuses hosts and origins that are not ours, and finds out who calls."""

import re
from collections.abc import Awaitable, Sequence
from functools import lru_cache
from typing import Any

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import GatewayError, MalformedRequest, MisdirectedRequest, OriginRefused
from app.faces.http import Naming, send_refusal
from app.faces.identity import Identified, Identity
from app.faces.proxies import Proxies
from app.guard.principal import ANONYMOUS
from app.servers.calls import new_request_id

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:+/=-]{1,128}")
_SANE_CLIENT = re.compile(r"[!-~]{1,64}")
_ANY_HOST = ("/health", "/ready")
"""Probes ask by address, which no operator lists."""
_REMEMBERED = 256
"""Hosts and clients whose check is remembered, since nearly every request names the same few."""


class Perimeter:
    """ASGI middleware in front of every face.

    - Gives each request an id: the caller's `X-Request-ID` if it is sane, or a new one. Responses repeat it, since
      `send_bytes` and `Naming` write it.
    - Answers 421 to a Host that is not ours (DNS rebinding), 403 to an Origin that is not allowed and 400 to two of
      either, on WebSockets too, to which browsers apply no CORS.
    - Lets nobody pass of whom `identity` does not say who it is, preflights of browsers apart.
    - Undoes what proxies in front of the gateway did to a request.

    It hands coroutines on instead of awaiting them, so that a call pays for no frame of ours in between.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        allowed_hosts: Sequence[str],
        allowed_origins: Sequence[str],
        proxies: Proxies | None = None,
        identity: Identity | None = None,
    ) -> None:
        app = app if identity is None else Identified(app, identity)
        self._app = app
        self._proxies = proxies
        # Only pages of browsers send an Origin, so only they pay for CORS.
        self._app_for_browsers = Naming(
            CORSMiddleware(
                app,
                allow_origin_regex=".*",  # the perimeter has checked it
                allow_methods=["GET", "HEAD", "POST"],
                allow_headers=["*"],
                expose_headers=["x-request-id", "retry-after", "www-authenticate"],
            )
        )
        # A name is ours on whatever port callers reach it: which one that is, a container or a proxy decides.
        hosts = _Patterns([*allowed_hosts, *(f"{host.strip()}:*" for host in allowed_hosts if _has_no_port(host))])

        @lru_cache(_REMEMBERED)
        def is_our_host(host: bytes) -> bool:
            return hosts.match(_lowered(host))

        self._is_our_host = is_our_host
        self._origins = _Patterns(allowed_origins)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] not in ("http", "websocket"):
            return self._app(scope, receive, send)
        headers: dict[bytes, bytes] = dict(scope["headers"])
        repeated = _repeated(scope, headers) if len(headers) < len(scope["headers"]) else None
        if self._proxies is not None:
            self._proxies.restore(scope, headers)
        given = headers.get(b"x-request-id")
        request_id = (_sane_request_id(given) if given else None) or new_request_id()
        state: dict[str, Any] = scope.setdefault("state", {})
        state["headers"] = headers
        state["request_id"] = request_id
        state["principal"] = ANONYMOUS
        state["client"] = _client(headers.get(b"user-agent", b""))
        client = scope.get("client")
        state["address"] = client[0] if client else "-"
        host, origin = headers.get(b"host", b""), headers.get(b"origin")
        if not origin and self._is_our_host(host) and not repeated:
            return self._app(scope, receive, send)
        refusal = repeated or self._refusal(scope, host, origin)
        if refusal is None:
            app = self._app_for_browsers if origin else self._app
            return app(scope, receive, send)
        return send_refusal(scope, send, refusal)

    def _refusal(self, scope: Scope, host: bytes, origin: bytes | None) -> GatewayError | None:
        if not self._is_our_host(host) and scope["path"].removesuffix("/") not in _ANY_HOST:
            return MisdirectedRequest("This gateway does not answer for that Host. Operators list it in ALLOWED_HOSTS.")
        if origin:
            name = _lowered(origin)
            same_origin = name.partition("://")[2] == _lowered(host)
            if not same_origin and not self._origins.match(name):
                return OriginRefused("Pages of that origin may not call. Operators list it in ALLOWED_ORIGINS.")
        return None


def _repeated(scope: Scope, headers: dict[bytes, bytes]) -> GatewayError | None:
    """Join the values of repeated headers, as HTTP has it; return a refusal if one of them can have only one."""
    headers.clear()
    for name, value in scope["headers"]:
        headers[name] = headers[name] + b", " + value if name in headers else value
    for name in (b"host", b"origin", b"authorization"):
        if sum(name == field for field, _ in scope["headers"]) > 1:
            return MalformedRequest(
                f"{name.decode().capitalize()}: given twice, and one of them may be believed. Send one."
            )
    return None


def _sane_request_id(value: bytes) -> str | None:
    name = value.decode("latin-1").strip()
    return name if _SANE_REQUEST_ID.fullmatch(name) else None


def _has_no_port(host: str) -> bool:
    return ":" not in host.rpartition("]")[2]


def _lowered(value: bytes) -> str:
    return value.decode("latin-1").strip().lower()


@lru_cache(_REMEMBERED)
def _client(user_agent: bytes) -> str:
    """Return the product that a client says it is, fit for a line of the log."""
    name = user_agent.decode("latin-1").strip().partition(" ")[0]
    return name if _SANE_CLIENT.fullmatch(name) else "-"


class _Patterns:
    """Names with an optional port; `name:*` stands for every port and for none, `*` for everything."""

    def __init__(self, patterns: Sequence[str]) -> None:
        lowered = [pattern.strip().lower() for pattern in patterns]
        self._all = "*" in lowered
        self._exact = {pattern for pattern in lowered if not pattern.endswith(":*")}
        self._any_port = {pattern[:-2] for pattern in lowered if pattern.endswith(":*")}

    def match(self, value: str) -> bool:
        if self._all or value in self._exact or value in self._any_port:
            return True
        name, colon, port = value.rpartition(":")
        return bool(colon) and port.isdigit() and name in self._any_port
