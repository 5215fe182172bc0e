"""Sessions of browsers: who has shown a key once shows this for an hour, and the key never again.

A session holds the key's id and no secret, and is signed, so that each process with the same `SWITCHBOARD_SECRET` knows
it. It says only who once showed the key: whether that one is still good is asked of the keyring each time.
"""

import asyncio
import hmac
import itertools
import re
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from app.errors import GatewayError, Unauthenticated
from app.guard.secret import Secret

LASTS = 3600.0
"""Seconds from showing the key to the end of the session."""
_MOST_ENDED = 10_000
"""Sessions that were ended before their time and are remembered as such, until that is over."""
_TOKEN = re.compile(r"([a-z0-9]{12})\.([0-9]{10,12})\.([A-Za-z0-9_-]{16})\.([A-Za-z0-9_-]{43})")

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Session:
    """What a browser has shown in place of a key."""

    key_id: str
    ends_at: float
    """In seconds since 1970."""
    number: str
    """Tells it apart from others of the same key."""


class Sessions:
    """Begins sessions, and knows them again.

    Args:
        secret: of the installation.
        clock: the time in seconds since 1970.
    """

    def __init__(self, secret: Secret, clock: Callable[[], float] = time.time) -> None:
        self._keys = secret.keys("sessions of the console")
        self._clock = clock
        self._ended: dict[str, float] = {}
        """When those would have ended that were ended before, by their numbers."""
        self._held: dict[str, dict[int, Callable[[GatewayError], object]]] = {}
        """What ends the things that a session has opened, by its number."""

    def begin(self, key_id: str) -> str:
        """Return what a browser shows from now on, for whoever has shown the key of this id."""
        content = f"{key_id}.{int(self._clock() + LASTS)}.{secrets.token_urlsafe(12)}"
        return f"{content}.{_signature(self._keys[0], content)}"

    def recall(self, token: str) -> Session | None:
        """Return the session that was shown; None if it is over, or none of ours."""
        found = _TOKEN.fullmatch(token)
        if found is None:
            return None
        key_id, ends_at, number, signature = found.groups()
        content = token.rpartition(".")[0]
        if not any(hmac.compare_digest(_signature(key, content), signature) for key in self._keys):
            return None
        if int(ends_at) <= self._clock() or number in self._ended:
            return None
        return Session(key_id, float(ends_at), number)

    @contextmanager
    def holding(self, session: Session, end: Callable[[GatewayError], object]) -> Generator[None]:
        """Have something ended that lasts, once a session is over.

        Args:
            session: by which it was opened.
            end: called once with the reason, from the event loop.
        """
        held = self._held.setdefault(session.number, {})
        number = next(_numbers)
        held[number] = end
        over = Unauthenticated("This session is over. Sign in again with a key.")
        timer = asyncio.get_running_loop().call_later(session.ends_at - self._clock(), end, over)
        try:
            yield
        finally:
            timer.cancel()
            del held[number]
            if not held:
                self._held.pop(session.number, None)

    def end(self, session: Session) -> None:
        """End a session before its time. Other processes do not hear of it, and rely on the browser's forgetting it."""
        for end in list(self._held.get(session.number, {}).values()):
            end(Unauthenticated("This session was ended. Sign in again with a key."))
        now = self._clock()
        if len(self._ended) >= _MOST_ENDED:
            self._ended = {number: ends_at for number, ends_at in self._ended.items() if ends_at > now}
        while len(self._ended) >= _MOST_ENDED:
            del self._ended[next(iter(self._ended))]
        self._ended[session.number] = session.ends_at


def _signature(key: bytes, content: str) -> str:
    return urlsafe_b64encode(hmac.digest(key, content.encode(), "sha256")).rstrip(b"=").decode()
