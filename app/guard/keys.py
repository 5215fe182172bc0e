"""Keys: what is kept of one, and where.

A key is `sb_<id>_<secret>`. The id names it to people; the secret is 256 random bits, so that its SHA-256 is safe to
keep and takes a microsecond to compare: what slows guessers of passwords down would slow down every caller here.
"""

import base64
import hashlib
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Annotated, Protocol

from pydantic import Field, TypeAdapter

from app.guard.principal import Principal

_ID = r"^[a-z0-9]{12}$"
_TOKEN = re.compile(rb"sb_([a-z0-9]{12})_[A-Za-z0-9_-]{43}")
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


@dataclass(frozen=True, slots=True)
class StoredKey:
    """What is kept of a key. Times are in seconds since 1970."""

    id: Annotated[str, Field(pattern=_ID)]
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the whole key, in hexadecimal digits."""
    roles: frozenset[str]
    tenant: str | None = None
    customer: str | None = None
    created_at: float = 0.0
    expires_at: float | None = None
    revoked_at: float | None = None

    @property
    def principal(self) -> Principal:
        """Whom its bearer is taken for."""
        return Principal(self.id, self.roles, self.tenant, self.customer, self.expires_at)

    def complaint(self, now: float) -> str | None:
        """Return why it is good for nothing at a time; None if it is good."""
        if self.revoked_at is not None and self.revoked_at <= now:
            return "This key was revoked. Use the one that took its place, or ask the operators."
        if self.expires_at is not None and self.expires_at <= now:
            return "This key has expired. Operators replace it with `switchboard keys rotate`."
        return None


STORED_KEYS = TypeAdapter(list[StoredKey])
"""Reads keys from JSON, and writes them."""


class KeyStore(Protocol):
    """Where keys are kept."""

    async def find(self, ids: Sequence[str]) -> Mapping[str, StoredKey]:
        """Return the keys of these ids that there are, those that are good for nothing included.

        Raises:
            GatewayError: nobody can tell.
        """
        ...

    async def has_good_ones(self) -> bool:
        """Tell whether there is a key now that anybody could be let in by.

        Raises:
            GatewayError: nobody can tell.
        """
        ...


class KeyAdministration(KeyStore, Protocol):
    """Where keys can be made and revoked."""

    async def all(self) -> Sequence[StoredKey]:
        """Return every key, the oldest first."""
        ...

    async def add(self, key: StoredKey) -> None:
        """Keep a key."""
        ...

    async def end(self, key_id: str, at: float) -> None:
        """Make a key good for nothing from a time on, unless it is so earlier."""
        ...


Administer = Callable[[], AbstractAsyncContextManager[KeyAdministration]]
"""Opens where keys can be made and revoked."""


def mint(
    roles: frozenset[str],
    *,
    tenant: str | None = None,
    customer: str | None = None,
    expires_at: float | None = None,
) -> tuple[str, StoredKey]:
    """Return a new key, which is never to be had again, and what is kept of it."""
    key_id = "".join(secrets.choice(_LETTERS) for _ in range(12))
    token = f"sb_{key_id}_{secrets.token_urlsafe(32)}"
    return token, StoredKey(key_id, hash_of(token.encode()), roles, tenant, customer, time.time(), expires_at)


def token_of(key_id: str, secret: bytes) -> str:
    """Return the key of an id and of 32 bytes that are known already."""
    return f"sb_{key_id}_{base64.urlsafe_b64encode(secret).rstrip(b'=').decode()}"


def hash_of(token: bytes) -> str:
    """Return what is kept in place of a key."""
    return hashlib.sha256(token).hexdigest()


def id_of(token: bytes) -> str | None:
    """Return the id in a key; None for what is no key."""
    found = _TOKEN.fullmatch(token)
    return found[1].decode() if found else None


class FirstOf:
    """Several stores as one: each is asked for the keys that those before it don't have."""

    def __init__(self, stores: Sequence[KeyStore]) -> None:
        self._stores = stores

    async def find(self, ids: Sequence[str]) -> Mapping[str, StoredKey]:
        """Return the keys of these ids that there are."""
        found: dict[str, StoredKey] = {}
        for store in self._stores:
            if missing := [key_id for key_id in ids if key_id not in found]:
                found.update(await store.find(missing))
        return found

    async def has_good_ones(self) -> bool:
        """Tell whether one of them has, once all were asked: the others may be away."""
        return any([await store.has_good_ones() for store in self._stores])


class KnownKeys:
    """Keys that are given when the process starts, and hold until its end."""

    def __init__(self, keys: Sequence[StoredKey]) -> None:
        self._keys = {key.id: key for key in keys}

    async def find(self, ids: Sequence[str]) -> Mapping[str, StoredKey]:
        """Return the keys of these ids that there are."""
        return {key_id: self._keys[key_id] for key_id in ids if key_id in self._keys}

    async def has_good_ones(self) -> bool:
        """Tell whether there is one that has not ended."""
        return has_good(self._keys.values())


def has_good(keys: Iterable[StoredKey]) -> bool:
    """Tell whether one of these keys is good now."""
    now = time.time()
    return any(key.complaint(now) is None for key in keys)
