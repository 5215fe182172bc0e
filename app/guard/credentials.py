"""Keys that callers show: whom the gateway takes them for, by memory or by the store, and what ends with them."""

import asyncio
import hashlib
import hmac
import itertools
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from ipaddress import IPv6Address, ip_address
from typing import Any, Self, TypeVar

from pydantic import ValidationError

from app.errors import GatewayError, IdentityUnavailable, RateLimited, Unauthenticated
from app.guard.keys import KeyStore, StoredKey, id_of
from app.guard.limits import Rate, RateLimiter
from app.guard.principal import End, Principal
from app.single_flight import SingleFlight

T = TypeVar("T")
_log = logging.getLogger(__name__)

_INTERVAL = 1.0
"""Seconds between two looks at the keys in use."""
_FRESH = 1.9
"""Seconds for which the store's word is taken: with what a look takes, a key that is revoked is refused in two."""
OUTAGE = 60.0
"""Seconds for which a key goes on to be taken that the store has confirmed before it went away."""
_ANSWER_WITHIN = 0.8
"""Seconds that the store has for an answer: where it has none, that is known before what it said last is too old."""
_OPENED_WITHIN = 2.0
"""Seconds after its opening until which the store has for its first answer: connecting may take long, and nothing was
said before that could grow too old meanwhile."""
_REFUSED_FOR = 10.0
"""Seconds for which a bad key is refused without asking the store again. A key is never shown before it is made."""
MOST_ASKED = 1000
"""Keys that the store is asked for at a time, and that wait for the next time."""
_PROBED_WITHIN = 2.0
"""Seconds that it has when it is asked how it is."""
MOST_REMEMBERED = 10_000
"""Keys that are known without asking the store."""

_numbers = itertools.count()

NO_KEY = "Send a key: `Authorization: Bearer sb_…`. Operators make one with `switchboard keys create`."
_BAD_KEY = "This key is not known here, or is not whole. Operators make one with `switchboard keys create`."
NO_GOOD_KEY = "There is no good key, so nobody can call; make one with `switchboard keys create --role …`"
_AWAY = "Where keys are kept can't be reached, so whose this one is can't be told. Repeat in a moment."


class Credential:
    """A key that somebody has shown, and that was good when the store was asked last."""

    __slots__ = ("_ends", "_ring", "confirmed_at", "digest", "ended", "good_until", "principal")

    def __init__(self, digest: bytes, principal: Principal, ring: "Keyring") -> None:
        self.digest = digest
        self.principal = replace(principal, credential=self)
        self.confirmed_at = self.good_until = 0.0
        """By the monotonic clock."""
        self.ended: GatewayError | None = None
        """Why it is good for nothing any more."""
        self._ring = ring
        self._ends: dict[int, End] = {}

    def hold(self, end: End) -> Callable[[], None]:
        """Have something ended that lasts, within two seconds after the key has ended.

        Args:
            end: called once with the reason, from the event loop; at once if the key has ended already.

        Returns:
            What calls that off.
        """
        if self.ended is not None:
            end(self.ended)
            return _nothing
        kept, number = self._ring.kept(self), next(_numbers)
        kept._ends[number] = end
        self._ring.holders.add(kept)
        return partial(kept._release, number)

    def _release(self, number: int) -> None:
        self._ends.pop(number, None)
        if not self._ends:
            self._ring.holders.discard(self)

    def end(self, reason: GatewayError) -> None:
        """End all that it holds."""
        self.ended = reason
        ends, self._ends = self._ends, {}
        for end in ends.values():
            end(reason)


def _nothing() -> None:
    return


class Keyring:
    """Tells by a key who calls: by memory where it can, by the store where it has to.

    Once a second one look at the store confirms the keys that were used since, and those that hold something open; so
    nearly every call costs a hash and a dictionary, and yet each process knows in two seconds that a key was revoked.

    Args:
        store: opens where keys are kept; called when the keyring is opened.
        failures: how many keys that nobody has shown before and that turn out to be bad an address may show, how
            often it may show each of them again, and how much that is no key at all.
    """

    def __init__(self, store: Callable[[], AbstractAsyncContextManager[KeyStore]], failures: Rate) -> None:
        self._open_store = store
        self._store: KeyStore
        self._rate = failures
        self._failures = RateLimiter()
        self._remembered: dict[bytes, Credential] = {}
        self._digests: dict[str, bytes] = {}
        """By the ids of keys that sessions stand for."""
        self._used: set[Credential] = set()
        # In the clear, which lasts for a second: as long as memory keeps them anyway, with the requests they came with.
        # Nobody learns one by the time that a look-up takes, since it compares hashes first, with a secret of the
        # process in them, and keys only where these are equal.
        self._shown: dict[bytes, Credential] = {}
        """By the very key those that are in `_used`: it saves a hash a call."""
        self.holders: set[Credential] = set()
        """Those that hold something open."""
        self._refused: dict[bytes, tuple[float, Unauthenticated]] = {}
        """Keys that were bad, until when that is not asked again, and why they were."""
        self._asking: dict[bytes, asyncio.Task[Credential]] = {}
        self._wanted: dict[str, asyncio.Future[StoredKey | None]] = {}
        """Who waits for the store to be asked, by the ids of the keys."""
        self._asker: asyncio.Task[None] | None = None
        self._away: GatewayError | None = None
        """Why the store could not be asked the last time."""
        self._looking: asyncio.Task[None] | None = None
        self._probing = SingleFlight[bool]()
        self._open = False
        self._connected_by = 0.0
        """Until when the first answer may take, by the monotonic clock."""

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Self]:
        """Watch the keys that are in use, for as long as the block runs."""
        async with self._open_store() as self._store:
            self._open = True
            self._connected_by = time.monotonic() + _OPENED_WITHIN
            self._watch()
            try:
                yield self
            finally:
                self._open = False
                tasks = [each for each in (self._looking, self._asker, *self._asking.values()) if each is not None]
                for task in tasks:
                    task.cancel()
                if tasks:
                    await asyncio.wait(tasks)

    @property
    def away(self) -> GatewayError | None:
        """Why the store can't be asked now; None if it can."""
        return self._away

    @property
    def knows_somebody(self) -> bool:
        """Whether there is a key that is taken without asking the store."""
        now = time.monotonic()
        return any(credential.good_until > now for credential in self._remembered.values())

    async def objection(self) -> GatewayError | None:
        """Ask the store; return why it lets nobody in, with the remedy, and None if all is well.

        Anybody may make a probe ask: the store is asked once for all of them.
        """
        try:
            async with asyncio.timeout(_PROBED_WITHIN):
                good = await self._probing.run(self._store.has_good_ones)
                return None if good else IdentityUnavailable(NO_GOOD_KEY)
        except GatewayError as error:
            return error
        except (TimeoutError, ValidationError) as error:
            return IdentityUnavailable(
                f"Where keys are kept there is no answer in {_PROBED_WITHIN:g} s"
                if isinstance(error, TimeoutError)
                else "Where keys are kept there is something that is none; see the table api_keys"
            )

    def recall(self, token: bytes) -> Credential | None:
        """Return whose key this is if that is known for certain; None if `accept` has to find out."""
        credential = self._shown.get(token)
        if credential is None or credential.good_until < time.monotonic():
            credential = self._recalled(hashlib.sha256(token).digest())
            if credential is not None:
                self._shown[token] = credential
        return credential

    def _recalled(self, digest: bytes) -> Credential | None:
        credential = self._remembered.get(digest)
        if credential is None or credential.good_until < time.monotonic():
            return None
        self._used.add(credential)
        return credential

    def kept(self, credential: Credential) -> Credential:
        """Return what is remembered of a credential's key; if that was dropped to make room, it is remembered again."""
        return self._remembered.setdefault(credential.digest, credential)

    async def accept(self, token: bytes, address: str) -> Credential:
        """Return whose key this is.

        Args:
            token: what was shown as a key.
            address: of whoever shows it. One that has shown too many bad ones is not listened to for a while.

        Raises:
            Unauthenticated: it is no good key.
            RateLimited: too many bad ones came from the address.
            IdentityUnavailable: the store can't be reached, and has not confirmed the key lately.
        """
        if (credential := self.recall(token)) is not None:
            return credential
        digest = hashlib.sha256(token).digest()
        known = self._remembered.get(digest)
        if known is not None:
            # Whoever has shown it before knows the secret, and guesses nothing.
            return await self._ask(digest, known.principal.id)
        whose = _network_of(address)
        key_id = id_of(token)
        if key_id is None:
            self._limit((whose, None))
            raise Unauthenticated(_BAD_KEY)
        refused = self._refused.get(digest)
        if refused is not None and refused[0] > time.monotonic():
            # One program with an old key is no reason to keep others from behind the same address.
            self._limit((whose, digest))
            raise refused[1]
        # Not paid in advance: many may show good keys at once from one address. What has failed is paid for by waiting.
        self._limit(whose)
        self._failures.take(whose, self._rate, -1)
        try:
            return await self._ask(digest, key_id)
        except Unauthenticated:
            self._failures.overdraw(whose, self._rate)
            raise

    async def resume(self, key_id: str) -> Credential:
        """Return the credential of a key that was shown before, by what we have signed for whoever showed it.

        Args:
            key_id: of the key.

        Raises:
            Unauthenticated: the key is good for nothing any more.
            IdentityUnavailable: as for `accept`.
        """
        digest = self._digests.get(key_id)
        if digest is None:
            # Another process has seen the key, or this one has forgotten it.
            if self._away is not None:
                raise IdentityUnavailable(_AWAY, retry_after=1)
            key = await self._stored(key_id)
            if key is None:
                raise Unauthenticated(_BAD_KEY)
            digest = bytes.fromhex(key.hash)
            if len(self._digests) >= MOST_REMEMBERED:
                self._digests.clear()
            self._digests[key_id] = digest
        try:
            return self._recalled(digest) or await self._ask(digest, key_id)
        except Unauthenticated:
            del self._digests[key_id]
            raise

    def _limit(self, key: object) -> None:
        """Count what is bad.

        Raises:
            RateLimited: there was too much of it.
        """
        if wait := self._failures.take(key, self._rate):
            raise RateLimited(
                "Too many keys that are none came from this address. Wait before you show another.", retry_after=wait
            )

    async def _ask(self, digest: bytes, key_id: str) -> Credential:
        """Ask the store for a key, once for all who show it at the same time."""
        asking = self._asking.get(digest)
        if asking is None:
            asking = self._asking[digest] = asyncio.create_task(self._find(digest, key_id))
            asking.add_done_callback(lambda task: self._asked(digest, task))
        return await asyncio.shield(asking)

    def _asked(self, digest: bytes, task: "asyncio.Task[Credential]") -> None:
        del self._asking[digest]
        if not task.cancelled():
            task.exception()  # nobody may be left to hear of it

    async def _find(self, digest: bytes, key_id: str) -> Credential:
        at = time.monotonic()
        if self._away is None:
            if len(self._wanted) >= MOST_ASKED and digest not in self._remembered:
                raise IdentityUnavailable(_AWAY, retry_after=1)
            try:
                key = await self._stored(key_id)
            except IdentityUnavailable:
                pass  # it may have been confirmed lately
            else:
                self._judge(digest, key, at)
                credential = self._remembered[digest]  # however long the answer took
                self._used.add(credential)
                return credential
        credential = self._remembered.get(digest)
        if credential is None or credential.good_until < time.monotonic():
            raise IdentityUnavailable(_AWAY, retry_after=1)
        self._used.add(credential)
        return credential

    async def _stored(self, key_id: str) -> StoredKey | None:
        """Return what the store has of an id. Whoever comes while it is asked is asked for together, the next time.

        So the store has one question at a time to answer, however many callers show keys that nobody knows.

        Raises:
            IdentityUnavailable: it does not answer.
        """
        answer = self._wanted.get(key_id)
        if answer is None:
            answer = self._wanted[key_id] = asyncio.get_running_loop().create_future()
            if self._asker is None:
                self._ask_for_more()
        return await asyncio.shield(answer)

    def _ask_for_more(self) -> None:
        self._asker = asyncio.create_task(self._ask_for_the_wanted(), name="ask for keys")
        self._asker.add_done_callback(self._asker_ended)

    def _asker_ended(self, asker: "asyncio.Task[None]") -> None:
        """Go on after what nobody foresaw: others wait for their turn."""
        self._asker = None
        if asker.cancelled():
            return
        if (error := asker.exception()) is not None:
            _log.error("looking keys up failed, and begins anew", exc_info=error)
        if self._open and self._wanted:
            self._ask_for_more()

    async def _ask_for_the_wanted(self) -> None:
        while self._wanted:
            wanted, self._wanted = self._wanted, {}
            at = time.monotonic()
            try:
                found = await self._look_up(list(wanted))
                for key_id, answer in wanted.items():
                    answer.set_result(found.get(key_id))
            except IdentityUnavailable:
                self._stretch(at)
            finally:
                for answer in wanted.values():
                    if not answer.done():
                        answer.set_exception(IdentityUnavailable(_AWAY, retry_after=1))

    async def _look_up(self, ids: Sequence[str]) -> Mapping[str, StoredKey]:
        """Ask the store.

        Raises:
            IdentityUnavailable: it does not answer, or with what can't be read; the log says so, once.
        """
        seconds = max(_ANSWER_WITHIN, self._connected_by - time.monotonic())
        try:
            found = await _within(seconds, self._store.find(ids))
        except (GatewayError, TimeoutError, ValidationError) as error:
            if isinstance(error, GatewayError):
                reason = error
            else:
                what = f"no answer in {seconds:.2g} s" if isinstance(error, TimeoutError) else "unreadable keys"
                reason = IdentityUnavailable(what)
            if self._away is None:
                _log.warning(
                    "keys can't be looked up: %s. Those confirmed in the last %d s are taken, others answered 503",
                    reason.detail,
                    OUTAGE,
                )
            self._away = reason
            raise IdentityUnavailable(_AWAY, retry_after=1) from error
        self._connected_by = 0.0
        if self._away is not None:
            _log.info("keys can be looked up again")
            self._away = None
        return found

    def _judge(self, digest: bytes, key: StoredKey | None, at: float) -> None:
        """Take the store's word on what was shown, given at a time by the monotonic clock.

        Raises:
            Unauthenticated: it is no good key. What it held has ended.
        """
        credential = self._remembered.get(digest)
        reason: str | None = _BAD_KEY
        if key is not None and hmac.compare_digest(key.hash, digest.hex()):
            reason = key.complaint(time.time())
        if key is None or reason is not None:
            error = Unauthenticated(reason or _BAD_KEY)
            if len(self._refused) >= MOST_REMEMBERED:
                del self._refused[next(iter(self._refused))]
            self._refused[digest] = time.monotonic() + _REFUSED_FOR, error
            if credential is not None:
                self._forget(credential, error)
            raise error
        if credential is not None and credential.principal != key.principal:
            self._forget(credential, Unauthenticated("What this key stands for has changed. Connect again."))
            credential = None
        if credential is None:
            if len(self._remembered) >= MOST_REMEMBERED:
                # Those that hold something stay: they are to be looked at.
                oldest = next((known for known, its in self._remembered.items() if its not in self.holders), None)
                if oldest is not None:
                    del self._remembered[oldest]
            credential = self._remembered[digest] = Credential(digest, key.principal, self)
        self._confirm(credential, at)

    def _confirm(self, credential: Credential, at: float, seconds: float = _FRESH) -> None:
        credential.confirmed_at = max(credential.confirmed_at, at)
        credential.good_until = credential.confirmed_at + seconds
        if (expires := credential.principal.expires_at) is not None:
            credential.good_until = min(credential.good_until, time.monotonic() + expires - time.time())

    def _forget(self, credential: Credential, reason: GatewayError) -> None:
        if self._remembered.get(credential.digest) is credential:
            del self._remembered[credential.digest]
        self.holders.discard(credential)
        credential.good_until = 0.0
        credential.end(reason)

    def _stretch(self, now: float) -> None:
        """Let the keys that were confirmed lately go on, since the store can't be asked; end what can't."""
        for credential in [*self._remembered.values(), *self.holders]:
            expires = credential.principal.expires_at
            if expires is not None and expires <= time.time():
                self._forget(credential, Unauthenticated("This key has expired."))
            elif credential.confirmed_at + OUTAGE <= now:
                self._forget(credential, IdentityUnavailable(_AWAY, retry_after=1))
            else:
                self._confirm(credential, credential.confirmed_at, OUTAGE)

    # The look at what is in use, once a second

    def _watch(self) -> None:
        self._looking = asyncio.create_task(self._look_for_ever(), name="look at the keys in use")
        self._looking.add_done_callback(self._watch_again)

    def _watch_again(self, looking: "asyncio.Task[None]") -> None:
        """Go on after what nobody foresaw: revoked keys would hold on to what they have."""
        if not self._open or looking.cancelled():
            return
        _log.error("the look at the keys in use failed, and begins anew", exc_info=looking.exception())
        self._watch()

    async def _look_for_ever(self) -> None:
        due = time.monotonic()
        while True:
            due = max(due + _INTERVAL, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
            await self.look()

    async def look(self) -> None:
        """Ask the store about the keys that were used since the last time, and those that hold something open."""
        used, self._used = self._used, set()
        self._shown.clear()
        asked = {credential.digest: credential.principal.id for credential in used | self.holders}
        if not asked and self._away is None:
            return
        at = time.monotonic()
        try:
            found = await self._look_up(list(asked.values()))
        except IdentityUnavailable:
            self._used |= used
            self._stretch(at)
            return
        for digest, key_id in asked.items():
            with suppress(Unauthenticated):
                self._judge(digest, found.get(key_id), at)


async def _within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Return what comes of some work, or give up on it at once, whatever it then takes to end.

    Raises:
        TimeoutError: it took longer.
    """
    working = asyncio.ensure_future(work)
    working.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody may be left to hear of it
    try:
        done, _ = await asyncio.wait([working], timeout=seconds)
    finally:
        working.cancel()  # which does nothing to what is done
    if not done:
        raise TimeoutError
    return working.result()


def _network_of(address: str) -> object:
    """Return what an address has to itself: of IPv6 the half that networks hand out."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return parsed.ipv4_mapped or int(parsed) >> 64
    return parsed
