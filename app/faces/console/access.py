"""Who may do what: roles, keys made and revoked, and what the policy decides for a caller and a call."""

import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

import msgspec
from starlette.types import Receive, Scope, Send

from app.errors import (
    BackendNotConfigured,
    Conflict,
    Forbidden,
    GatewayError,
    InvalidArguments,
    NotFound,
    RateLimited,
    Unauthenticated,
)
from app.explaining import explain
from app.faces.console.door import KEYS, Viewer, read_as, send_json, send_nothing
from app.faces.http import call_context
from app.faces.identity import Identity
from app.gateway import Gateway
from app.guard.keys import KeyAdministration, StoredKey, mint
from app.guard.limits import Rate, RateLimiter
from app.guard.principal import Principal
from app.guard.rules import is_name

T = TypeVar("T")
_log = logging.getLogger("MCP")
MOST_KEYS = 500
"""Keys that are listed, the newest."""
MOST_MADE = 30
"""Keys that are made in a minute, whoever makes them: they are kept for ever, and each could make more."""
_MAKING = Rate.read(f"{MOST_MADE}/min burst {MOST_MADE}")
_NO_STORE = "Nothing says where keys are kept: set DATABASE_URL, or SWITCHBOARD_KEY_FILE to a file."

_Name = Annotated[str, msgspec.Meta(max_length=64)]


class _NewKey(msgspec.Struct, forbid_unknown_fields=True):
    roles: Annotated[list[_Name], msgspec.Meta(min_length=1, max_length=20)]
    customer: _Name | None = None
    tenant: _Name | None = None
    days: Annotated[float, msgspec.Meta(gt=0, le=3650)] | None = None


class _Question(msgspec.Struct, forbid_unknown_fields=True):
    what: Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]
    roles: Annotated[list[_Name], msgspec.Meta(max_length=20)] = []
    customer: _Name | None = None
    key: _Name | None = None
    arguments: msgspec.Raw = msgspec.Raw(b"null")


class Access:
    """Shows roles and keys, makes and revokes keys, and explains the policy: all through the gateway's pipeline.

    Nobody makes a key that may more than its maker: else the scope for it would be leave to do everything.

    Args:
        gateway: whose policy it is.
        identity: knows where keys are kept; None where there are none.
    """

    def __init__(self, gateway: Gateway, identity: Identity | None) -> None:
        self._gateway = gateway
        self._identity = identity
        self._made = RateLimiter()

    async def show(self, scope: Scope, receive: Receive, send: Send, viewer: Viewer) -> None:
        """Answer with the roles that there are, and the keys without their secrets."""

        async def list_keys() -> dict[str, Any]:
            try:
                async with self._store() as store:
                    keys = [key for key in await store.all() if _is_shown(key, viewer)]
            except GatewayError as error:
                return {"keys": None, "total": None, "reason": error.detail}
            now, newest = time.time(), list(reversed(keys))[:MOST_KEYS]
            return {"keys": [_shown(key, now) for key in newest], "total": len(keys), "reason": None}

        listed = await self._operate("console/access", scope, receive, list_keys)
        asked = self._identity is not None and self._identity.anonymous is None
        await send_json(scope, send, {"asked": asked, "may_change": viewer.may_act, "roles": self._roles(), **listed})

    async def make(self, scope: Scope, receive: Receive, send: Send, viewer: Viewer) -> None:
        """Make a key and answer with it, this once."""
        given = await read_as(_NewKey, scope, receive, self._gateway)
        self._check(given)
        roles = frozenset(given.roles)
        self._require_within(viewer.principal, roles, given.customer, given.tenant)
        expires_at = None if given.days is None else time.time() + given.days * 86_400
        token, key = mint(roles, tenant=given.tenant, customer=given.customer, expires_at=expires_at)

        async def add() -> None:
            if wait := self._made.take("keys", _MAKING):
                raise RateLimited(f"Keys are made at {_MAKING} here. Repeat in {wait:.3g} s.", retry_after=wait)
            async with self._store() as store:
                await store.add(key)

        await self._operate("console/keys/make", scope, receive, add, changes=True)
        _note("made", key, viewer, scope)
        await send_json(scope, send, {"token": token, "key": _shown(key, time.time())})

    async def revoke(self, scope: Scope, receive: Receive, send: Send, viewer: Viewer) -> None:
        """Revoke a key: every process refuses it within two seconds, and ends what it holds open."""
        key_id: str = scope["path_params"]["id"]

        async def end() -> StoredKey:
            async with self._store() as store:
                key = await _found(store, key_id, viewer)
                self._require_within(viewer.principal, key.roles, key.customer, key.tenant)
                await store.end(key.id, time.time())
                return key

        key = await self._operate("console/keys/revoke", scope, receive, end, changes=True)
        _note("revoked", key, viewer, scope)
        await send_nothing(scope, send)

    async def explain(self, scope: Scope, receive: Receive, send: Send, viewer: Viewer) -> None:
        """Answer with what the policy decides for a caller and a call, and which lines do."""
        asked = await read_as(_Question, scope, receive, self._gateway)
        if (asked.key is None) == (not asked.roles) or (asked.key is not None and asked.customer is not None):
            raise InvalidArguments.of("roles", "say who calls: a key, or roles with or without a customer")

        async def find_out() -> dict[str, Any]:
            ended, principal = None, Principal("-", frozenset(asked.roles), customer=asked.customer)
            if asked.key is not None:
                async with self._store() as store:
                    key = await _found(store, asked.key, viewer)
                ended, principal = key.complaint(time.time()), key.principal
            arguments = bytes(asked.arguments)
            found = explain(self._gateway, principal, asked.what, None if arguments == b"null" else arguments)
            refusal = found.refusal if ended is None else Unauthenticated(ended)
            return {
                "allowed": refusal is None,
                "refusal": refusal and {"status": refusal.status, "code": refusal.code, "detail": refusal.detail},
                "roles": sorted(principal.roles),
                "customer": principal.customer,
                "lines": [line.strip() for line in found.lines],
            }

        await send_json(scope, send, await self._operate("console/explain", scope, receive, find_out))

    async def _operate(
        self, name: str, scope: Scope, receive: Receive, work: Callable[[], Awaitable[T]], *, changes: bool = False
    ) -> T:
        # Whoever has begun to change something goes on to its end, and the log says what came of it.
        context = call_context(scope, "rest", None if changes else receive)
        return await self._gateway.operate(name, KEYS, context, work, changes=changes)

    @asynccontextmanager
    async def _store(self) -> AsyncGenerator[KeyAdministration]:
        if self._identity is None or self._identity.administer is None:
            raise BackendNotConfigured(_NO_STORE)
        async with self._identity.administer() as store:
            yield store

    def _roles(self) -> list[dict[str, Any]]:
        guard = self._gateway.guard
        return [] if guard is None else list(guard.policy.described())

    def _check(self, given: _NewKey) -> None:
        """Refuse what no key can be of.

        Raises:
            InvalidArguments: each names its field.
        """
        guard = self._gateway.guard
        if guard is None:
            raise Conflict("Nobody is held to a policy here: every key may do everything.")
        known = guard.policy.roles
        for name in given.roles:
            if name not in known:
                raise InvalidArguments.of("roles", f"there is no such role; roles: {', '.join(sorted(known))}")
            if known[name].bound and given.customer is None:
                raise InvalidArguments.of("customer", f"the role {name} is for one customer: say which")
        for field, value in (("customer", given.customer), ("tenant", given.tenant)):
            if value is not None and not is_name(value):
                raise InvalidArguments.of(
                    field, "expected 1 to 64 characters; no spaces, slashes, hidden or unusual characters"
                )

    def _require_within(
        self, principal: Principal, roles: frozenset[str], customer: str | None, tenant: str | None
    ) -> None:
        """Refuse to deal with a key that may more than a principal.

        Raises:
            Forbidden: it may something that the principal may not.
        """
        guard = self._gateway.guard
        beyond = None if guard is None else guard.beyond(principal, roles, bound=customer is not None)
        if beyond is not None:
            raise Forbidden(f"Such a key may do what you may not: {beyond}. Use `switchboard keys` beside the gateway.")
        if principal.tenant is not None and tenant != principal.tenant:
            raise Forbidden(f"Your key is of the tenant {principal.tenant}, and so are those that you deal with.")


def _shown(key: StoredKey, now: float) -> dict[str, Any]:
    """Return what is shown of a key: nothing that it could be guessed or recognized by."""
    complaint = key.complaint(now)
    revoked = key.revoked_at is not None and key.revoked_at <= now
    return {
        "id": key.id,
        "roles": sorted(key.roles),
        "tenant": key.tenant,
        "customer": key.customer,
        "created": key.created_at,
        "ends": min((at for at in (key.expires_at, key.revoked_at) if at is not None), default=None),
        "state": "good" if complaint is None else "revoked" if revoked else "expired",
    }


def _is_shown(key: StoredKey, viewer: Viewer) -> bool:
    """Tell whether somebody is told of a key: who is of a tenant, of those of the tenant."""
    return viewer.principal.tenant is None or key.tenant == viewer.principal.tenant


async def _found(store: KeyAdministration, key_id: str, viewer: Viewer) -> StoredKey:
    found = (await store.find([key_id])).get(key_id)
    if found is None or not _is_shown(found, viewer):
        raise NotFound("There is no key of that id where keys are kept.")
    return found


def _note(what: str, key: StoredKey, viewer: Viewer, scope: Scope) -> None:
    _log.warning(
        "key %s: id=%s roles=%s customer=%s tenant=%s by=%s address=%s request_id=%s",
        what,
        key.id,
        ",".join(sorted(key.roles)) or "-",
        key.customer or "-",
        key.tenant or "-",
        viewer.principal.id,
        scope["state"]["address"],
        scope["state"]["request_id"],
    )
