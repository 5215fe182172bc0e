"""What `/ready` and `switchboard doctor` say of where keys are kept: what is the matter, and what helps."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import httpx
import pytest

from app.errors import IdentityUnavailable
from app.faces.identity import Identity
from app.guard.credentials import Keyring
from app.guard.key_file import KeyFile
from app.guard.keys import KeyAdministration, StoredKey, mint
from app.guard.limits import Rate
from app.guard.principal import EVERYBODY
from app.key_stores import IN_DATABASE
from app.local.process import free_port
from app.main import create_app
from app.services.postgres.connections.pools import Database
from app.services.postgres.identity import PostgresKeys, open_keys
from app.settings import Settings
from tests.clock import ClockMCPServer
from tests.fixtures.gateway import serve
from tests.fixtures.postgres import TestDatabase, settings_for
from tests.guard.test_revocation import Swamp
from tests.test_doctor import doctor

DEVELOPER = frozenset({"developer"})
ENDED = '{"keys": [{"id": "a23456789012", "hash": "%s", "roles": ["developer"], "revoked_at": 5}]}' % ("0" * 64)


@asynccontextmanager
async def in_file(path: Path) -> AsyncGenerator[KeyAdministration]:
    yield KeyFile(path)


@asynccontextmanager
async def probed(identity: Identity) -> AsyncGenerator[httpx.AsyncClient]:
    async with (
        serve(create_app([ClockMCPServer()], Settings(), identity=identity)) as served,
        httpx.AsyncClient(base_url=served.url, timeout=30) as http,
    ):
        yield http


def kept_in(database: TestDatabase) -> Identity:
    def opened() -> AbstractAsyncContextManager[KeyAdministration]:
        return open_keys(database.settings)

    return Identity(Keyring(opened, Rate(100, 100)))


async def said(http: httpx.AsyncClient, token: str | None) -> tuple[int, dict[str, Any]]:
    answer = await http.get("/ready", headers={"authorization": f"Bearer {token}"} if token else {})
    return answer.status_code, answer.json()


async def test_a_good_key_is_ready_and_without_one_a_probe_is_told_one_word(database: TestDatabase) -> None:
    async with open_keys(database.settings) as store, probed(kept_in(database)) as http:
        assert await said(http, None) == (503, {"status": "degraded"})
        token, key = mint(DEVELOPER)
        await store.add(key)
        assert await said(http, None) == (200, {"status": "ready"})
        status, ready = await said(http, token)
        assert (status, ready["keys"]) == (200, {"ready": True, "code": None, "detail": None})


async def test_an_outage_is_degraded_while_somebody_is_let_in_and_names_its_remedy(database: TestDatabase) -> None:
    async with open_keys(database.settings) as store, probed(kept_in(database)) as http:
        token, key = mint(DEVELOPER)
        await store.add(key)
        assert (await said(http, token))[0] == 200
        async with database.connect() as administrator:
            await administrator.execute("ALTER TABLE api_keys RENAME TO away")
            status, ready = await said(http, token)
            assert (status, ready["status"], ready["keys"]["ready"]) == (200, "degraded", False)
            assert "switchboard migrate" in ready["keys"]["detail"]
            assert await said(http, None) == (200, {"status": "degraded"})
            await administrator.execute("ALTER TABLE away RENAME TO api_keys")
        assert await said(http, None) == (200, {"status": "ready"})


class AskedKeys(PostgresKeys):
    """Tells that it is asked for keys."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.asked = asyncio.Event()

    async def find(self, ids: Sequence[str]) -> Mapping[str, StoredKey]:
        self.asked.set()
        return await super().find(ids)


async def test_who_comes_while_a_gateway_connects_to_its_keys_waits_and_is_let_in(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.guard.credentials._ANSWER_WITHIN", 0.05)
    monkeypatch.setattr("app.guard.credentials._OPENED_WITHIN", 30.0)
    monkeypatch.setattr("app.services.postgres.identity._SECONDS", 30.0)
    monkeypatch.setattr("app.services.postgres.identity.PostgresKeys", AskedKeys)
    token, key = mint(DEVELOPER)
    async with open_keys(database.settings) as store:
        await store.add(key)
    stores: list[AskedKeys] = []

    @asynccontextmanager
    async def opened() -> AsyncGenerator[KeyAdministration]:
        async with open_keys(settings_for(str(address.copy_with(port=port)))) as store:
            assert isinstance(store, AskedKeys)
            stores.append(store)
            yield store

    address = httpx.URL(database.url)
    assert address.port is not None
    swamp = Swamp(address.host, address.port)
    async with asyncio.timeout(60), swamp.open() as port:
        with swamp.swallowing():
            async with probed(Identity(Keyring(opened, Rate(100, 100)))) as http:
                await swamp.is_taken.wait()  # by nobody's call
                assert (await http.get("/health")).status_code == 200
                asking = asyncio.create_task(http.get("/mcp", headers={"authorization": f"Bearer {token}"}))
                await stores[0].asked.wait()
                asyncio.get_running_loop().call_later(0.2, swamp.passes.set)
                assert (await asking).status_code == 200


async def test_where_callers_need_no_key_their_store_stops_nobody(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    async with probed(Identity(Keyring(lambda: in_file(path), Rate(100, 100)), anonymous=EVERYBODY)) as http:
        status, ready = await said(http, None)
        assert (status, ready["status"], ready["keys"]["ready"]) == (200, "degraded", False)
        assert "switchboard keys create" in ready["keys"]["detail"]
    async with probed(Identity(None, anonymous=EVERYBODY)) as http:
        assert (await said(http, None))[1]["keys"] is None


def test_where_keys_are_kept_can_be_imported() -> None:
    assert resolve_name(IN_DATABASE) is open_keys


@pytest.mark.parametrize(("content", "what"), [
    (None, "switchboard keys create"),
    (ENDED, "switchboard keys create"),
    ("{", "restore it"),
    ("[]", "restore it"),
    ('{"keys": [{"id": "short"}]}', "restore it"),
    ("directory", "Is a directory; let the user of this process read it"),
])  # fmt: skip
async def test_the_doctor_says_what_is_wrong_with_a_file(tmp_path: Path, content: str | None, what: str) -> None:
    path = tmp_path / "keys.json"
    if content == "directory":
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    _, found = await doctor(SWITCHBOARD_KEY_FILE=str(path))
    [keys] = found["broken", "keys"]
    assert what in keys
    assert "0000" not in keys


async def test_the_doctor_says_what_is_wrong_with_a_table(database: TestDatabase, tmp_path: Path) -> None:
    policy = tmp_path / "switchboard.toml"
    policy.write_text("[auth]\n")
    given = {"SWITCHBOARD_CONFIG": str(policy)}
    _, found = await doctor(**given)
    assert "DATABASE_URL" in found["broken", "keys"][0]
    _, found = await doctor(**given, DATABASE_URL=f"postgresql://u:p@127.0.0.1:{free_port()}/d")
    assert "PostgreSQL" in found["broken", "keys"][0]
    _, found = await doctor(**given, DATABASE_URL=database.url)
    assert "switchboard keys create" in found["broken", "keys"][0]
    async with database.connect() as administrator, open_keys(database.settings) as store:
        await store.add(mint(DEVELOPER)[1])
        _, found = await doctor(**given, DATABASE_URL=database.url)
        assert "one that is good" in found["ok", "keys"][0]
        await administrator.execute("DROP TABLE api_keys")
    _, found = await doctor(**given, DATABASE_URL=database.url)
    assert "switchboard migrate" in found["broken", "keys"][0]


async def test_a_login_without_the_right_is_told_which(database: TestDatabase) -> None:
    async with open_keys(settings_for(database.reader_url)) as store:
        for attempt in (store.has_good_ones(), store.find(["a23456789012"]), store.all()):
            with pytest.raises(IdentityUnavailable, match="GRANT SELECT, INSERT, UPDATE ON api_keys"):
                await attempt


async def test_without_keys_the_doctor_says_so_and_names_mistakes_of_the_policy(tmp_path: Path) -> None:
    _, found = await doctor()
    assert "nobody is asked" in found["off", "keys"][0]
    policy = tmp_path / "switchboard.toml"
    policy.write_text('[role.desk]\nallow = ["databse:read"]\n')
    _, found = await doctor(SWITCHBOARD_CONFIG=str(policy))
    assert "switchboard.toml:2" in found["broken", "policy"][0]
