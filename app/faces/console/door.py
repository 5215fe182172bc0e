"""Who may look at the console, and act there: asked before anything of it is answered."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, TypeVar

import msgspec
from starlette.types import Receive, Scope, Send

from app.errors import (
    CallerGone,
    Conflict,
    Forbidden,
    GatewayError,
    InvalidArguments,
    OriginRefused,
    RequestTooLarge,
    Unauthenticated,
)
from app.faces.http import JSON, note_refusal, read_json, send_bytes, send_problem
from app.faces.identity import LONGEST_CREDENTIAL, NOBODY, Identity, cookie, forgetting
from app.gateway import Gateway
from app.guard.principal import Principal
from app.guard.sessions import LASTS, Session

MARK = b"x-switchboard-console"
"""The header that each changing request carries: forms can't send it, and pages of other origins have to ask first."""
READ, ACT, KEYS, SETTINGS = "console:read", "console:act", "console:keys", "console:settings"
_LARGEST_SIGN_IN = 8192
"""Bytes of the request that shows a key."""
_OWN = (b"same-origin", b"none")
"""Whence a browser says that a request of our own pages comes, or of the person at it."""


@dataclass(frozen=True, slots=True)
class Viewer:
    """Somebody who may look at the console."""

    principal: Principal
    may_act: bool
    session: Session | None = None
    url: str | None = None
    """Where callers reach the gateway, if somebody has said so."""

    def shown(self, gateway: Gateway) -> dict[str, object]:
        """Return what the pages are told of who looks at them."""
        who = self.principal
        return {
            "viewer": {"principal": who.id, "roles": sorted(who.roles), "customer": who.customer},
            "may": {
                "act": self.may_act,
                **{
                    name: gateway.refuses_operator(scope, who) is None
                    for name, scope in (("metrics", "metrics:read"), ("keys", KEYS), ("settings", SETTINGS))
                },
            },
            "session": None if self.session is None else {"ends": self.session.ends_at},
            "url": self.url,
        }


GivenT = TypeVar("GivenT")
Answer = Callable[[Scope, Receive, Send, Viewer], Awaitable[None]]
"""Answers a request of a viewer."""


class _SignIn(msgspec.Struct, forbid_unknown_fields=True):
    key: Annotated[str, msgspec.Meta(max_length=LONGEST_CREDENTIAL)]


class Door:
    """Lets those in who may look at the console.

    Args:
        gateway: whose console it is.
        identity: tells callers apart; None where everybody may call.
    """

    def __init__(self, gateway: Gateway, identity: Identity | None) -> None:
        self._gateway = gateway
        self._identity = identity
        self._url = identity.public_url if identity is not None else None
        origin = identity.public_origin if identity is not None else None
        self._own_origin = origin.encode() if origin is not None else None

    def viewer(self, scope: Scope) -> Viewer:
        """Return who looks at the console by a request.

        Raises:
            Unauthenticated: nobody has signed in, or a session is over.
            NotConfined: who is bound to a customer sees nothing of it.
            InsufficientScope: no role allows `console:read`.
            OriginRefused: a page of another origin asks.
        """
        state = scope["state"]
        self._refuse_other_pages(state["headers"])
        if (refused := state.get("session_refused")) is not None:
            raise refused
        principal: Principal = state["principal"]
        if principal is NOBODY:
            raise Unauthenticated("Sign in with a key first. Operators make one with `switchboard keys create`.")
        self.require(principal, READ)
        may_act = self._gateway.refuses_operator(ACT, principal) is None
        return Viewer(principal, may_act, state.get("session"), self._url)

    def require(self, principal: Principal, scope: str) -> None:
        """Refuse a principal that lacks a scope of the console.

        Raises:
            NotConfined: it is bound to a customer.
            InsufficientScope: no role allows it.
        """
        if (refusal := self._gateway.refuses_operator(scope, principal)) is not None:
            raise refusal

    # Signing in and out

    async def sign_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Begin a session for who shows a key, in place of the session before."""
        async with answering(scope, send):
            await self._sign_in(scope, receive, send)

    async def _sign_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        identity = self._identity
        self._refuse_other_pages(scope["state"]["headers"])
        _require_mark(scope)
        if identity is None or identity.keyring is None:
            raise Conflict("Nobody is asked for a key here: look without one.")
        _refuse_long(scope["state"]["headers"].get(b"content-length", b""))
        try:
            given = await read_as(_SignIn, scope, receive, self._gateway)
        except InvalidArguments:
            raise InvalidArguments.of("key", 'expected {"key": "sb_…"}') from None
        credential = await identity.keyring.accept(given.key.strip().encode(), scope["state"]["address"])
        self.require(credential.principal, READ)
        token = identity.sessions.begin(credential.principal.id)
        await send_nothing(scope, send, cookie(scope, token, LASTS))

    async def sign_out(self, scope: Scope, receive: Receive, send: Send) -> None:
        """End the session, if there is one."""
        async with answering(scope, send):
            self._refuse_other_pages(scope["state"]["headers"])
            _require_mark(scope)
            session: Session | None = scope["state"].get("session")
            if self._identity is not None and session is not None:
                self._identity.sessions.end(session)
            await send_nothing(scope, send, cookie(scope, "", 0))

    def _refuse_other_pages(self, headers: Mapping[bytes, bytes]) -> None:
        """Refuse what pages of other origins ask: also of those that may call the gateway, who have no session here.

        Raises:
            OriginRefused: it is such a page.
        """
        origin, host = headers.get(b"origin"), headers.get(b"host", b"")
        if origin is not None and origin != self._own_origin and origin.partition(b"://")[2].lower() != host.lower():
            raise OriginRefused(
                "The console answers its own pages alone. A proxy in front has to hand Host on, or to be one of"
                " TRUSTED_PROXIES; or public_url in [auth] says where it is reached."
            )
        if headers.get(b"sec-fetch-site", b"none") not in _OWN:
            raise OriginRefused("The console answers its own pages alone, and a page of another site asks.")


class Endpoint:
    """An address of the console, as an ASGI application that only viewers reach.

    Args:
        door: says who may look.
        answer: answers them.
        scopes: what it takes beside `console:read`: `console:act` where it changes something of others.
        recorded: what it answers passes the gateway, which writes down how it ends.
    """

    def __init__(self, door: Door, answer: Answer, *, scopes: tuple[str, ...] = (), recorded: bool = False) -> None:
        self._door = door
        self._answer = answer
        self._scopes = scopes
        self._recorded = recorded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        noted = True
        async with answering(scope, send, lambda: noted):
            viewer = self._door.viewer(scope)
            if scope["method"] != "GET":
                _require_mark(scope)
            for wanted in self._scopes:
                self._door.require(viewer.principal, wanted)
            noted = not self._recorded
            await self._answer(scope, receive, send, viewer)


@asynccontextmanager
async def answering(scope: Scope, send: Send, noted: Callable[[], bool] = lambda: True) -> AsyncGenerator[None]:
    """Answer with why not where the block fails, and write that into the log where nobody else has."""
    try:
        yield
    except CallerGone:
        return
    except GatewayError as error:
        if noted():
            note_refusal(scope, error)
        headers = forgetting(scope, error) if "session_refused" in scope["state"] else {}
        await send_problem(send, error, scope["state"]["request_id"], headers)


async def read_as(kind: type[GivenT], scope: Scope, receive: Receive, gateway: Gateway) -> GivenT:
    """Return what a request's body says, as JSON of a kind.

    Raises:
        InvalidArguments: it is something else, or goes deeper than can be read.
        GatewayError: as for `read_json`.
    """
    body = await read_json(scope, receive, gateway, stated=True)
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        told = str(error) if isinstance(error, msgspec.ValidationError) else "expected an object as JSON"
        raise InvalidArguments.of("body", told) from None


async def send_json(scope: Scope, send: Send, content: object) -> None:
    """Answer with JSON that no browser keeps, or takes for anything else."""
    body = msgspec.json.encode(content)
    await send_bytes(send, 200, JSON, body, scope["state"]["request_id"], UNKEPT)


async def send_nothing(scope: Scope, send: Send, headers: Mapping[str, str] | None = None) -> None:
    """Answer that it is done."""
    fields = {"x-request-id": scope["state"]["request_id"], **UNKEPT, **(headers or {})}
    raw = [(name.encode(), value.encode("latin-1")) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": 204, "headers": raw})
    await send({"type": "http.response.body", "body": b""})


UNKEPT = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


def _refuse_long(length: bytes) -> None:
    """Refuse a body before it is read, which strangers may send here: it would take room from those who have a key.

    Raises:
        RequestTooLarge: it is longer than a key needs, or does not say how long it is.
    """
    if not length.isdigit() or len(length) > len(str(_LARGEST_SIGN_IN)) or int(length) > _LARGEST_SIGN_IN:
        raise RequestTooLarge(f"Send at most {_LARGEST_SIGN_IN} bytes, and say how many (Content-Length).")


def _require_mark(scope: Scope) -> None:
    """Refuse a changing request that a form of another site could have sent.

    Raises:
        Forbidden: it lacks the header.
    """
    if scope["state"]["headers"].get(MARK) != b"1":
        raise Forbidden("Send the header `X-Switchboard-Console: 1` with what changes something here.")
