"""Keys are known by memory where that is certain, else by the store, whose word holds for two seconds."""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from app.errors import BackendUnavailable, GatewayError, IdentityUnavailable, RateLimited, Unauthenticated
from app.guard import credentials
from app.guard.credentials import MOST_ASKED, MOST_REMEMBERED, Keyring
from app.guard.key_file import KeyFile, as_first_key, read_first_key
from app.guard.keys import FirstOf, KeyAdministration, KeyStore, KnownKeys, StoredKey, hash_of, id_of, mint
from app.guard.limits import Rate
from app.services.postgres.identity import open_keys
from tests.fixtures.pgbouncer import run_pgbouncer
from tests.fixtures.postgres import TestDatabase, settings_for

WITHIN = 30.0
PATIENT = Rate(per_second=1000, burst=1000)
AGENT = frozenset({"support_agent"})


class Shelf(KnownKeys):
    """A store that a test can take away, and that counts how often it is asked."""

    def __init__(self, *keys: StoredKey) -> None:
        super().__init__(keys)
        self.kept = {key.id: key for key in keys}
        self.asked: list[Sequence[str]] = []
        self.away = False

    async def find(self, ids: Sequence[str]) -> Mapping[str, StoredKey]:
        self.asked.append(list(ids))
        if self.away:
            raise BackendUnavailable("it is away")
        return {key_id: self.kept[key_id] for key_id in ids if key_id in self.kept}


@asynccontextmanager
async def ring(store: KeyStore, rate: Rate = PATIENT) -> AsyncGenerator[Keyring]:
    @asynccontextmanager
    async def opened() -> AsyncGenerator[KeyStore]:
        yield store

    async with Keyring(opened, rate).open() as keyring:
        yield keyring


async def accepted(keyring: Keyring, token: str) -> str:
    return (await keyring.accept(token.encode(), "10.0.0.1")).principal.id


def test_a_key_is_256_random_bits_and_is_kept_as_its_hash() -> None:
    token, key = mint(AGENT, customer="12345")
    assert id_of(token.encode()) == key.id
    assert key.hash == hash_of(token.encode())
    assert token.split("_", 2)[2] not in str(key)
    assert len({mint(AGENT)[0] for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "bad",
    ["", "sb_", "sb_short_x", "sb_" + "A" * 12 + "_" + "x" * 43, "x" * 5000, "sb_é", "sb_" + "a" * 12 + "_" + "x" * 44],
)
async def test_what_is_no_key_is_refused_without_asking_the_store(bad: str) -> None:
    shelf = Shelf()
    async with ring(shelf) as keyring:
        with pytest.raises(Unauthenticated) as refused:
            await keyring.accept(bad.encode(), "10.0.0.1")
    assert shelf.asked == []
    assert len(bad) < 4 or bad not in str(refused.value)


async def test_the_store_is_asked_once_for_many_calls_with_one_key() -> None:
    token, key = mint(AGENT)
    shelf = Shelf(key)
    async with ring(shelf) as keyring:
        assert set(await asyncio.gather(*(accepted(keyring, token) for _ in range(50)))) == {key.id}
        assert keyring.recall(token.encode()) is not None
        assert len(shelf.asked) == 1


async def test_the_right_id_with_another_secret_is_refused() -> None:
    _, key = mint(AGENT)
    forged = f"sb_{key.id}_{'x' * 43}"
    async with ring(Shelf(key)) as keyring:
        with pytest.raises(Unauthenticated):
            await accepted(keyring, forged)
        assert keyring.recall(forged.encode()) is None


async def test_what_was_used_is_looked_at_in_one_query_and_what_was_not_is_not() -> None:
    pairs = [mint(AGENT) for _ in range(3)]
    shelf = Shelf(*(key for _, key in pairs))
    async with ring(shelf) as keyring:
        for token, _ in pairs:
            await accepted(keyring, token)
        shelf.asked.clear()
        await keyring.look()
        assert [sorted(ids) for ids in shelf.asked] == [sorted(key.id for _, key in pairs)]
        await keyring.look()
        assert len(shelf.asked) == 1


@pytest.mark.parametrize("how", ["revoked", "expired", "deleted", "changed"])
async def test_what_a_key_holds_open_ends_with_it(how: str) -> None:
    token, key = mint(AGENT)
    shelf = Shelf(key)
    ended: list[GatewayError] = []
    async with ring(shelf) as keyring:
        credential = await keyring.accept(token.encode(), "10.0.0.1")
        with credential.principal.holding(ended.append):
            await keyring.look()
            await keyring.look()
            assert ended == []
            match how:
                case "deleted":
                    shelf.kept.clear()
                case "changed":
                    shelf.kept[key.id] = StoredKey(key.id, key.hash, frozenset({"other"}))
                case "revoked":
                    shelf.kept[key.id] = StoredKey(key.id, key.hash, AGENT, revoked_at=time.time())
                case _:
                    shelf.kept[key.id] = StoredKey(key.id, key.hash, AGENT, expires_at=time.time() - 1)
            await keyring.look()
            [reason] = ended
        assert isinstance(reason, Unauthenticated)
        if how == "changed":
            renewed = await keyring.accept(token.encode(), "10.0.0.1")
            assert renewed.principal.roles == {"other"}
        else:
            assert keyring.recall(token.encode()) is None
            with pytest.raises(Unauthenticated):
                await accepted(keyring, token)


async def test_a_key_is_good_until_the_second_it_expires() -> None:
    token, key = mint(AGENT, expires_at=time.time() + 1)
    async with ring(Shelf(key)) as keyring:
        credential = await keyring.accept(token.encode(), "10.0.0.1")
        assert credential.good_until - time.monotonic() < 1.01
        ended = asyncio.get_running_loop().create_future()
        async with asyncio.timeout(WITHIN):
            with credential.principal.holding(ended.set_result):
                assert isinstance(await ended, Unauthenticated)


async def test_keys_go_on_for_a_minute_without_the_store_and_are_never_called_bad() -> None:
    (token, key), (unseen, other) = mint(AGENT), mint(AGENT)
    shelf = Shelf(key, other)
    async with ring(shelf) as keyring:
        credential = await keyring.accept(token.encode(), "10.0.0.1")
        shelf.away = True
        await keyring.look()
        assert keyring.recall(token.encode()) is credential
        with pytest.raises(IdentityUnavailable):
            await accepted(keyring, unseen)
        asked = len(shelf.asked)
        with pytest.raises(IdentityUnavailable):
            await accepted(keyring, unseen)
        assert len(shelf.asked) == asked, "a store that is known to be away is asked by the look alone"
        ended: list[GatewayError] = []
        with credential.principal.holding(ended.append):
            credential.confirmed_at -= 61
            await keyring.look()
        assert isinstance(ended[0], IdentityUnavailable)
        with pytest.raises(IdentityUnavailable):
            await accepted(keyring, token)
        shelf.away = False
        await keyring.look()
        assert await accepted(keyring, token) == key.id


async def test_a_key_that_expires_during_an_outage_ends() -> None:
    token, key = mint(AGENT, expires_at=time.time() + 3600)
    shelf = Shelf(key)
    ended: list[GatewayError] = []
    async with ring(shelf) as keyring:
        credential = await keyring.accept(token.encode(), "10.0.0.1")
        shelf.away = True
        with credential.principal.holding(ended.append):
            credential.principal = StoredKey(key.id, key.hash, AGENT, expires_at=time.time() - 1).principal
            await keyring.look()
    assert isinstance(ended[0], Unauthenticated)


async def test_whoever_shows_too_many_bad_keys_is_refused_before_the_store_is_asked() -> None:
    token, key = mint(AGENT)
    shelf = Shelf(key)
    async with ring(shelf, Rate(per_second=0.001, burst=3)) as keyring:
        assert await accepted(keyring, token) == key.id
        for _ in range(3):
            with pytest.raises(Unauthenticated):
                await accepted(keyring, mint(AGENT)[0])
        asked = len(shelf.asked)
        with pytest.raises(RateLimited) as refused:
            await accepted(keyring, mint(AGENT)[0])
        assert refused.value.retry_after
        assert len(shelf.asked) == asked
        assert await accepted(keyring, token) == key.id, "who has shown a good one is no guesser"
        with pytest.raises(Unauthenticated):  # another address has a share of its own
            await keyring.accept(mint(AGENT)[0].encode(), "2001:db8::1")
    same_network = Shelf()
    async with ring(same_network, Rate(per_second=0.001, burst=1)) as keyring:
        with pytest.raises(Unauthenticated):
            await keyring.accept(mint(AGENT)[0].encode(), "2001:db8::1")
        with pytest.raises(RateLimited):
            await keyring.accept(mint(AGENT)[0].encode(), "2001:db8::2")


async def test_a_bad_key_that_is_shown_again_and_again_is_nothing_to_others_behind_the_same_address() -> None:
    token, key = mint(AGENT)
    old, revoked = mint(AGENT)
    shelf = Shelf(key, replace(revoked, revoked_at=1.0))
    async with ring(shelf, Rate(per_second=0.001, burst=2)) as keyring:
        for bad in (old, "garbage"):
            told: list[str] = []
            for _ in range(9):
                with pytest.raises(GatewayError) as refused:
                    await accepted(keyring, bad)
                told.append(refused.value.code)
            assert told[:2] == ["unauthenticated"] * 2
            assert told[3:] == ["rate_limited"] * 6, "it is told so by and by, too"
        assert shelf.asked == [[revoked.id]]
        assert await accepted(keyring, token) == key.id


async def test_what_the_store_has_refused_it_is_asked_again_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    token, key = mint(AGENT)
    shelf = Shelf()
    monkeypatch.setattr(credentials, "_REFUSED_FOR", 0.0)
    async with ring(shelf) as keyring:
        with pytest.raises(Unauthenticated):
            await accepted(keyring, token)
        shelf.kept[key.id] = key
        assert await accepted(keyring, token) == key.id


async def test_bad_keys_without_end_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "MOST_REMEMBERED", 5)
    async with ring(Shelf()) as keyring:
        for _ in range(20):
            with pytest.raises(Unauthenticated):
                await accepted(keyring, mint(AGENT)[0])
        assert len(keyring._refused) == 5


@pytest.mark.usefixtures("patience")
async def test_of_ten_thousand_keys_the_oldest_are_asked_for_anew_and_those_that_hold_something_stay() -> None:
    assert MOST_REMEMBERED == 10_000
    pairs = [mint(AGENT) for _ in range(MOST_REMEMBERED + 10)]
    shelf = Shelf(*(key for _, key in pairs))
    tokens = [token.encode() for token, _ in pairs]
    ended: list[GatewayError] = []
    async with ring(shelf, Rate(per_second=1e6, burst=10**6)) as keyring:
        first = await keyring.accept(tokens[0], "10.0.0.1")
        with first.principal.holding(ended.append):
            for token in tokens[1:]:
                await keyring.accept(token, "10.0.0.1")
            kept = [hashlib.sha256(token).digest() in keyring._remembered for token in tokens]
            assert kept == [True, *[False] * 10, *[True] * (MOST_REMEMBERED - 1)]
            shelf.kept[first.principal.id] = replace(shelf.kept[first.principal.id], revoked_at=1.0)
            await keyring.look()
        assert len(ended) == 1
        assert (await keyring.accept(tokens[1], "10.0.0.1")).principal.id == pairs[1][1].id


# A store that does not answer


class Swallowing(Shelf):
    """A store whose answers a test holds back."""

    def __init__(self, *keys: StoredKey) -> None:
        super().__init__(*keys)
        self.answers = asyncio.Event()
        self.answers.set()
        self.is_asked = asyncio.Event()

    async def find(self, ids: Sequence[str]) -> Mapping[str, StoredKey]:
        found = await super().find(ids)
        self.is_asked.set()
        await self.answers.wait()
        return found

    async def is_asked_for(self, keyring: Keyring, tokens: Sequence[str]) -> list[asyncio.Future[str]]:
        """Have keys shown, of which the store is asked for the first and does not answer; return who waits."""
        self.answers.clear()
        self.is_asked.clear()
        first = asyncio.ensure_future(accepted(keyring, tokens[0]))
        await self.is_asked.wait()
        others = [asyncio.ensure_future(accepted(keyring, token)) for token in tokens[1:]]
        await turns()
        return [first, *others]


async def turns() -> None:
    """Let every task do what it can do without waiting."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.usefixtures("patience")
async def test_whoever_comes_while_the_store_is_asked_is_asked_for_together() -> None:
    pairs = [mint(AGENT) for _ in range(300)]
    store = Swallowing(*(key for _, key in pairs[:150]))
    async with ring(store) as keyring:
        asking = await store.is_asked_for(keyring, [token for token, _ in pairs])
        assert store.asked == [[pairs[0][1].id]]
        store.answers.set()
        found = await asyncio.gather(*asking, return_exceptions=True)
    assert found[:150] == [key.id for _, key in pairs[:150]]
    assert {type(each) for each in found[150:]} == {Unauthenticated}
    assert [len(ids) for ids in store.asked[:2]] == [1, 299]


@pytest.mark.usefixtures("patience")
async def test_beyond_those_who_wait_for_the_store_others_are_told_to_come_back() -> None:
    token, known = mint(AGENT)
    store = Swallowing(known)
    async with ring(store, Rate(per_second=1e6, burst=10**6)) as keyring:
        credential = await keyring.accept(token.encode(), "10.0.0.1")
        asking = await store.is_asked_for(keyring, [mint(AGENT)[0] for _ in range(MOST_ASKED + 1)])
        with pytest.raises(IdentityUnavailable):
            await accepted(keyring, mint(AGENT)[0])
        credential.good_until = 0.0
        again = asyncio.ensure_future(accepted(keyring, token))
        await turns()
        store.answers.set()
        assert await again == known.id, "who was known before is asked for, however many strangers wait"
        await asyncio.gather(*asking, return_exceptions=True)


async def test_a_store_that_never_answers_holds_up_nobody() -> None:
    (token, key), (unseen, other) = mint(AGENT), mint(AGENT)
    store = Swallowing(key, other)
    async with ring(store) as keyring, asyncio.timeout(WITHIN):
        await accepted(keyring, token)
        store.answers.clear()
        waiting = asyncio.ensure_future(accepted(keyring, unseen))
        while not waiting.done():
            assert keyring.recall(token.encode()) is not None, "a known key never waits for the store"
            await asyncio.sleep(0.01)
        assert isinstance(waiting.exception(), IdentityUnavailable)
        with pytest.raises(IdentityUnavailable):
            await accepted(keyring, unseen)
        assert await accepted(keyring, token) == key.id
        store.answers.set()
        await keyring.look()
        assert keyring.away is None
        assert await accepted(keyring, unseen) == other.id


async def test_a_store_that_fails_as_nobody_foresaw_is_an_outage_for_those_who_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    token, key = mint(AGENT)
    shelf = Shelf(key)
    async with ring(shelf) as keyring:
        find, shelf.find = shelf.find, lambda ids: _fail()
        with pytest.raises(IdentityUnavailable):
            await accepted(keyring, token)
        shelf.find = find
        assert await accepted(keyring, token) == key.id
    assert "begins anew" in caplog.text


async def _fail() -> Mapping[str, StoredKey]:
    raise ArithmeticError


async def test_many_who_come_at_once_from_one_address_are_let_in_by_good_keys_and_wait_after_bad_ones() -> None:
    pairs = [mint(AGENT) for _ in range(200)]
    shelf = Shelf(*(key for _, key in pairs))
    async with ring(shelf, Rate(per_second=0.001, burst=2)) as keyring:
        found = await asyncio.gather(*(accepted(keyring, token) for token, _ in pairs))
        assert found == [key.id for _, key in pairs]
        bad = [accepted(keyring, mint(AGENT)[0]) for _ in range(50)]
        assert {type(each) for each in await asyncio.gather(*bad, return_exceptions=True)} == {Unauthenticated}
        with pytest.raises(RateLimited) as refused:
            await accepted(keyring, mint(AGENT)[0])
        assert refused.value.retry_after is not None
        assert refused.value.retry_after > 2000


async def test_good_keys_take_nothing_from_what_may_fail() -> None:
    pairs = [mint(AGENT) for _ in range(5)]
    async with ring(Shelf(*(key for _, key in pairs)), Rate(per_second=0.001, burst=1)) as keyring:
        for token, key in pairs:
            assert await accepted(keyring, token) == key.id


# Where keys are kept


async def lifecycle(store: KeyAdministration) -> None:
    """A store keeps all of a key, ends it, and knows no other."""
    now = time.time()
    token, key = mint(AGENT, tenant="acme", customer="12345", expires_at=now + 60)
    await store.add(key)
    await store.add(mint(AGENT)[1])
    found = (await store.find([key.id, "a" * 12]))[key.id]
    assert (found.hash, found.roles, found.tenant, found.customer) == (key.hash, AGENT, "acme", "12345")
    assert found.expires_at == pytest.approx(key.expires_at, abs=0.001)
    assert len(await store.find([key.id, "a" * 12])) == 1
    assert (await store.all())[0].id == key.id
    async with ring(store) as keyring:
        assert await accepted(keyring, token) == key.id
    await store.end(key.id, now + 30)
    await store.end(key.id, now - 1)
    await store.end(key.id, now + 50)
    assert (await store.find([key.id]))[key.id].revoked_at == pytest.approx(now - 1, abs=0.001)
    async with ring(store) as keyring:
        with pytest.raises(Unauthenticated, match="revoked"):
            await accepted(keyring, token)


async def test_keys_in_postgresql(database: TestDatabase) -> None:
    async with open_keys(database.settings) as keys:
        await lifecycle(keys)
    async with database.connect() as connection:
        row = await connection.fetchrow("SELECT * FROM api_keys LIMIT 1")
        assert row is not None
        assert not any("sb_" in str(value) for value in row.values())
        readable = "SELECT has_table_privilege('switchboard_reader', 'api_keys', 'SELECT')"
        assert not await connection.fetchval(readable)


async def test_keys_through_a_pooler_that_lends_connections_by_the_transaction(database: TestDatabase) -> None:
    async with (
        run_pgbouncer(database.url, mode="transaction", pool_size=2) as (url,),
        open_keys(settings_for(url)) as keys,
    ):
        await lifecycle(keys)


async def test_a_changed_file_is_still_its_readers(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    store = KeyFile(path)
    await store.add(mint(frozenset({"developer"}))[1])
    assert path.stat().st_mode & 0o777 == 0o600
    owner = 65_534 if os.geteuid() == 0 else os.geteuid()
    os.chown(path, owner, -1)
    for given, kept in ((0o640, 0o640), (0o666, 0o644)):
        path.chmod(given)
        await store.add(mint(frozenset({"developer"}))[1])
        assert (path.stat().st_mode & 0o777, path.stat().st_uid) == (kept, owner)


async def test_keys_in_a_file_that_another_process_changes(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    await lifecycle(KeyFile(path))
    assert path.stat().st_mode & 0o777 == 0o600
    here, there = KeyFile(path), KeyFile(path)
    token, key = mint(AGENT)
    assert token not in path.read_text()
    await there.add(key)
    assert key.id in await here.find([key.id])
    await here.end(key.id, 1.0)
    assert (await there.find([key.id]))[key.id].revoked_at == 1.0


@pytest.mark.parametrize("content", [None, "{", '{"keys": [{"id": "nonsense"}]}', "[]"])
async def test_a_file_that_has_gone_or_is_damaged_is_an_outage_and_no_bad_key(
    tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "keys.json"
    store = KeyFile(path)
    token, key = mint(AGENT)
    await store.add(key)
    assert await store.find([key.id])
    path.unlink()
    if content is not None:
        path.write_text(content)
    async with ring(store) as keyring:
        with pytest.raises(IdentityUnavailable):
            await accepted(keyring, token)


async def test_the_first_key_of_a_variable_works_without_any_store() -> None:
    token, key = mint(AGENT)
    assert read_first_key(as_first_key(key)).principal == key.principal
    assert read_first_key(f"{key.id}:{key.hash}").roles == {"developer"}
    shelf = Shelf()
    shelf.away = True
    async with ring(FirstOf([KnownKeys([read_first_key(as_first_key(key))]), shelf])) as keyring:
        assert await accepted(keyring, token) == key.id
        assert shelf.asked == []
    with pytest.raises(ValueError, match="as-variable"):
        read_first_key(token)


async def test_a_database_that_is_gone_is_no_reason_to_call_a_key_a_bad_one(database: TestDatabase) -> None:
    token, key = mint(AGENT)
    async with open_keys(database.settings) as keys:
        await keys.add(key)
        async with ring(keys) as keyring, database.connect() as administrator:
            assert await accepted(keyring, token) == key.id
            name = await administrator.fetchval("SELECT current_database()")
            async with refusing(database, str(name)):
                await keyring.look()
                assert await accepted(keyring, token) == key.id
                with pytest.raises(IdentityUnavailable):
                    await accepted(keyring, mint(AGENT)[0])
            await keyring.look()
            with pytest.raises(Unauthenticated):
                await accepted(keyring, mint(AGENT)[0])


@asynccontextmanager
async def refusing(database: TestDatabase, name: str) -> AsyncGenerator[None]:
    """Let nobody into a database any more, and end who is in."""
    administrator = await asyncpg.connect(database.url.rpartition("/")[0] + "/postgres")
    try:
        await administrator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await administrator.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        yield
        await administrator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    finally:
        await administrator.close()
