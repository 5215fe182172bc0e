"""Who calls: read from what a request carries, and held against the keys, before anything is done for it."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import Forbidden, GatewayError, MalformedRequest, Unauthenticated
from app.faces.http import send_refusal
from app.guard.credentials import NO_KEY, Keyring
from app.guard.keys import Administer
from app.guard.principal import ANONYMOUS, EVERYBODY, Principal
from app.guard.secret import Secret, SecretSettings
from app.guard.sessions import Sessions

_log = logging.getLogger("MCP")
_REMINDED_EVERY = 60.0

_SCHEME = b"Bearer "
LONGEST_CREDENTIAL = 4096
"""Bytes of an `Authorization` header that are looked at."""
OPEN = ("/health",)
"""Paths that are served to everybody."""
ONE_WORD = "/ready"
"""The path that is answered with one word to who shows no key."""
_PAGES = ("/", "/docs", "/redoc", "/openapi.json", "/favicon.ico")
_BELOW = ("/redoc/", "/guides/")
CONSOLE = "/console/"
"""Below it sessions count for keys, and nowhere else."""
SIGN_IN = "/console/session"
COOKIE = "switchboard_session"
_LOOPBACK = re.compile(rb"(localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
"""Hosts to which browsers give cookies back over http; to others over https alone."""
NOBODY = Principal(ANONYMOUS.id)
"""Whoever has shown no key where one is asked for, and gets what leads to showing one."""
_OF_PROXIES = frozenset(
    {
        b"forwarded",
        b"via",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-forwarded-port",
        b"x-forwarded-prefix",
        b"x-forwarded-server",
        b"x-forwarded-client-cert",
        b"x-forwarded-user",
        b"x-forwarded-email",
        b"x-original-forwarded-for",
        b"x-envoy-external-address",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"x-real-ip",
        b"true-client-ip",
        b"cf-connecting-ip",
        b"cf-ray",
        b"fastly-client-ip",
        b"fly-client-ip",
        b"x-azure-clientip",
        b"tailscale-user-login",
    }
)
"""Headers that tell that a request came through a proxy, and so from anywhere."""
_IN_ADDRESS = (b"access_token=", b"sb_")


class Identity:
    """The rule by which callers of a gateway are told apart.

    Args:
        keyring: knows the keys; None where there are none, and so nobody but `anonymous`.
        anonymous: whom a caller without a key is taken for; None refuses them.
        through_proxies: whether callers without a key may come through a proxy, behind which anybody may be. Operators
            are reminded of it every minute.
        public_pages: whether the pages and `/openapi.json` are shown to those without a key.
        public_url: where callers reach the gateway, if somebody has said so; it ends without a slash.
        administer: opens where keys can be made and revoked; None where they can't be.
    """

    def __init__(
        self,
        keyring: Keyring | None,
        *,
        anonymous: Principal | None = None,
        through_proxies: bool = False,
        public_pages: bool = False,
        public_url: str | None = None,
        administer: Administer | None = None,
    ) -> None:
        self.keyring = keyring
        self.administer = administer
        self.anonymous = anonymous
        self.through_proxies = through_proxies
        self.public_pages = public_pages
        self.public_url = public_url
        self.sessions = Sessions(Secret.of(SecretSettings()))

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Keep an eye on the keys, or remind the operator that there are none, for as long as the block runs."""
        async with AsyncExitStack() as stack:
            if self.keyring is not None:
                await stack.enter_async_context(self.keyring.open())
                telling = asyncio.create_task(self._tell_objection(), name="first look at the keys")
                stack.callback(telling.cancel)
            elif not self.through_proxies:
                _log.info(
                    "nobody is asked for a key: who reaches this address may do everything, except through a proxy;"
                    " [auth] in switchboard.toml asks for keys"
                )
            if self.through_proxies:
                reminding = asyncio.create_task(_remind(), name="reminder that everybody may call")
                stack.callback(reminding.cancel)
            yield

    @property
    def asks_for_keys(self) -> bool:
        """Whether there are keys that callers can show."""
        return self.keyring is not None

    @property
    def public_origin(self) -> str | None:
        """What browsers say that the pages at `public_url` are of."""
        return None if self.public_url is None else "/".join(self.public_url.split("/")[:3])

    @property
    def needs_key(self) -> bool:
        """Whether nobody can call without a key."""
        return self.anonymous is None

    async def objection(self) -> GatewayError | None:
        """Return why keys let nobody in, where they are asked for; None if all is well."""
        return None if self.keyring is None else await self.keyring.objection()

    @property
    def lets_somebody_in(self) -> bool:
        """Whether somebody can call even if the keys can't be looked up."""
        return self.anonymous is not None or self.keyring is None or self.keyring.knows_somebody

    async def _tell_objection(self) -> None:
        if (objection := await self.objection()) is not None:
            _log.warning("keys: %s", objection.detail)


async def _remind() -> None:
    while True:
        _log.warning(
            "Everybody who reaches this gateway may call it, without a key (SWITCHBOARD_ALLOW_ANONYMOUS)."
            " [auth] in switchboard.toml asks for keys."
        )
        await asyncio.sleep(_REMINDED_EVERY)


class Identified:
    """ASGI middleware that finds out who calls, and refuses who may not.

    What is known already is found at once, and the coroutine handed on; only what the store has to be asked is awaited.

    Args:
        app: sees only requests of those who may call, with `state["principal"]`.
        identity: the rule.
    """

    def __init__(self, app: ASGIApp, identity: Identity) -> None:
        self._app = app
        self._identity = identity
        self._keyring = identity.keyring

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        state = scope["state"]
        given: bytes | None = state["headers"].get(b"authorization")
        if given is not None and self._keyring is not None:
            if given[:7] == _SCHEME and (credential := self._keyring.recall(given[7:])) is not None:
                state["principal"] = credential.principal
                return self._app(scope, receive, send)
            if not _is_at(scope, OPEN):
                return self._ask(given, scope, receive, send)
        elif (cookies := state["headers"].get(b"cookie")) is not None and scope["path"].startswith(CONSOLE):
            return self._resume(cookies, scope, receive, send)
        refusal = self._without_a_key(scope)
        return self._app(scope, receive, send) if refusal is None else send_refusal(scope, send, refusal)

    async def _ask(self, given: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._keyring is not None
        state = scope["state"]
        try:
            credential = await self._keyring.accept(_key_in(given), state["address"])
        except GatewayError as error:
            await send_refusal(scope, send, error)
            return
        state["principal"] = credential.principal
        await self._app(scope, receive, send)

    async def _resume(self, cookies: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """Take a session of the console for the key that it stands for."""
        state, keyring, token = scope["state"], self._keyring, session_in(cookies)
        if keyring is not None and token is not None:
            try:
                session = state["session"] = self._identity.sessions.recall(token)
                if session is None:
                    raise Unauthenticated("This session is over. Sign in again with a key.")
                state["principal"] = (await keyring.resume(session.key_id)).principal
            except GatewayError as error:
                state["session_refused"] = error
            else:
                await self._app(scope, receive, send)
                return
        refusal = self._without_a_key(scope)
        if refusal is None:  # what leads to signing in is for who is not signed in any more, too
            await self._app(scope, receive, send)
        else:
            over: GatewayError | None = state.get("session_refused")
            await send_refusal(scope, send, over or refusal, forgetting(scope, over) if over is not None else None)

    def _without_a_key(self, scope: Scope) -> GatewayError | None:
        """Return why a request without a key is refused; None if it is not."""
        state, identity = scope["state"], self._identity
        if _is_at(scope, OPEN):
            return None
        if identity.anonymous is not None:
            headers: Mapping[bytes, bytes] = state["headers"]
            if identity.through_proxies or _OF_PROXIES.isdisjoint(headers):
                state["principal"] = identity.anonymous
                return None
            if self._keyring is not None:
                if _leads_to_signing_in(scope):
                    state["principal"] = NOBODY
                    return None
                return Unauthenticated(f"This came through a proxy, where a key is wanted. {NO_KEY}")
            return Forbidden(
                "This came through a proxy (Forwarded, X-Forwarded-For), and so from anywhere, and this gateway asks"
                " nobody for a key. Operators add [auth] to switchboard.toml, or let everybody call who can reach the"
                " proxy: SWITCHBOARD_ALLOW_ANONYMOUS=true."
            )
        if _is_at(scope, (ONE_WORD,)):
            state["one_word"] = True
            return None
        if identity.public_pages and _is_page(scope):
            state["principal"] = EVERYBODY  # who calls nothing here: pages show what there is
            return None
        if _leads_to_signing_in(scope):
            state["principal"] = NOBODY
            return None
        query: bytes = scope.get("query_string", b"")
        if any(sign in query for sign in _IN_ADDRESS):
            return Unauthenticated(f"A key in the address is not read, since logs keep it: make a new one. {NO_KEY}")
        return Unauthenticated(NO_KEY)


def _key_in(header: bytes) -> bytes:
    """Return what stands in an `Authorization` header as a key.

    Raises:
        MalformedRequest: it is too long for one.
        Unauthenticated: it is of another scheme.
    """
    if len(header) > LONGEST_CREDENTIAL:
        raise MalformedRequest(f"Authorization: at most {LONGEST_CREDENTIAL} bytes are read. {NO_KEY}")
    scheme, _, key = header.strip().partition(b" ")
    if scheme.lower() != b"bearer":
        raise Unauthenticated(f"Authorization is of another scheme than Bearer. {NO_KEY}")
    return key.strip()


def _path(scope: Scope) -> str:
    """Return a request's path, by which a slash at its end means nothing."""
    path: str = scope["path"]
    return path[:-1] or "/" if path[-1:] == "/" else path


def _is_at(scope: Scope, paths: tuple[str, ...]) -> bool:
    return scope["path"].removesuffix("/") in paths and _only_reads(scope)


def _is_page(scope: Scope) -> bool:
    if not _only_reads(scope):
        return False
    path = _path(scope)
    return path in _PAGES or any(path.startswith(folder) for folder in _BELOW)


def _leads_to_signing_in(scope: Scope) -> bool:
    """Tell whether a request is for the console's shell, which holds nothing of this gateway, or shows a key."""
    if scope["type"] != "http":
        return False
    path = _path(scope)
    if path.startswith(CONSOLE):
        return scope["method"] in ("GET", "HEAD") or (path == SIGN_IN and scope["method"] in ("POST", "DELETE"))
    return path == "/" and _only_reads(scope) and b"text/html" in scope["state"]["headers"].get(b"accept", b"")


def session_in(cookies: bytes) -> str | None:
    """Return the session in a `Cookie` header; None where there is none. The first of that name is taken."""
    for cookie in cookies[:LONGEST_CREDENTIAL].decode("latin-1").split(";"):
        name, _, value = cookie.strip().partition("=")
        if name == COOKIE:
            return value
    return None


def cookie(scope: Scope, token: str, lasts: float) -> dict[str, str]:
    """Return the header by which a browser keeps a session.

    Args:
        scope: of the request that is answered.
        token: the session; nothing ends it.
        lasts: seconds.
    """
    plain = scope["scheme"] == "http" and _LOOPBACK.fullmatch(scope["state"]["headers"].get(b"host", b""))
    fields = [
        f"{COOKIE}={token}",
        f"Path={scope.get('root_path', '')}{CONSOLE[:-1]}",
        f"Max-Age={int(lasts)}",
        "HttpOnly",
        "SameSite=Strict",
        *([] if plain else ["Secure"]),
    ]
    return {"set-cookie": "; ".join(fields)}


def forgetting(scope: Scope, refusal: GatewayError) -> dict[str, str]:
    """Return the header by which a browser forgets a session that is over; nothing where that is not sure."""
    return cookie(scope, "", 0) if isinstance(refusal, Unauthenticated) else {}


def _only_reads(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
