"""What is a tenant's and a bound customer's own: idempotency keys, and acknowledgements of messages."""

from collections.abc import AsyncGenerator

import httpx
import pytest

from app.catalogue import Catalogue
from app.errors import InvalidArguments
from app.guard.guard import Guard
from app.guard.policy import Policy, vocabulary_of
from app.guard.principal import Principal
from app.local.postgres import LocalPostgres
from app.main import create_app
from app.routers.database import DatabaseMCPServer
from app.services.kafka.acks import Ack, AckSigner
from app.settings import Settings
from tests.faces.raw import client_of
from tests.fixtures.gateway import serve
from tests.fixtures.postgres import cloned_database
from tests.guard.callers import known_by_name

ROLES = frozenset({"developer"})
OWNERS = [
    Principal("everybody", ROLES),
    Principal("acme", ROLES, tenant="acme"),
    Principal("one", ROLES, customer="12345"),
    Principal("two", ROLES, customer="12346"),
    Principal("one of acme", ROLES, tenant="acme", customer="12345"),
    Principal("like both", ROLES, tenant="acme', '12345"),
]


@pytest.fixture(scope="module")
async def http(postgres_server: LocalPostgres, demo_template: str) -> AsyncGenerator[httpx.AsyncClient]:
    guard = Guard(Policy.without_file(vocabulary_of(Catalogue([DatabaseMCPServer]))))
    async with cloned_database(postgres_server, demo_template) as desk:
        app = known_by_name(create_app([DatabaseMCPServer], Settings(), [desk.settings], guard=guard), *OWNERS)
        async with serve(app) as served, client_of(served) as client:
            yield client


async def save(http: httpx.AsyncClient, caller: str, customer: str, key: str, text: str = "hello") -> httpx.Response:
    arguments = {"customer_id": customer, "channel": "chat", "query_text": text, "idempotency_key": key}
    return await http.post("/mcp/database/tools/save_interaction", json=arguments, headers={"x-test-caller": caller})


async def test_two_customers_use_one_key_and_neither_learns_of_the_other(http: httpx.AsyncClient) -> None:
    first, second = await save(http, "one", "12345", "k1"), await save(http, "two", "12346", "k1")
    ids = [answer.json()["interaction"]["id"] for answer in (first, second)]
    assert (first.status_code, second.status_code, len(set(ids))) == (200, 200, 2)
    for answer, caller, customer in ((first, "one", "12345"), (second, "two", "12346")):
        again = await save(http, caller, customer, "k1")
        assert again.json() == answer.json()
        # Its own key, used for something else, is a mistake that it is told of.
        assert (await save(http, caller, customer, "k1", "other")).status_code == 409
    assert (await save(http, "everybody", "12345", "k1")).json()["interaction"]["id"] not in ids


async def test_tenants_have_keys_of_their_own(http: httpx.AsyncClient) -> None:
    ids = {
        (await save(http, caller, "12345", "k2")).json()["interaction"]["id"]
        for caller in ("everybody", "acme", "one", "one of acme")
    }
    assert len(ids) == 4


def test_no_owner_can_name_the_key_of_another() -> None:
    keys = {owner.own_key("k") for owner in OWNERS}
    assert len(keys) == len(OWNERS)
    for owner in OWNERS:
        assert not keys & {owner.own_key(key) for key in keys if key != "k"}
    assert max(map(len, keys)) <= 200  # what the narrowest backend takes


def test_an_acknowledgement_is_of_no_use_to_others() -> None:
    signer = AckSigner([b"key"])
    token = signer.write(Ack(g="g", t="t", m="m", n=1, i="i", x=2e9, o={0: 1}, p=OWNERS[1].owner))
    assert signer.read(token, group_id="g", topic="t", owner=OWNERS[1].owner).offsets == {0: 1}
    for other in (OWNERS[0], OWNERS[2], OWNERS[4]):
        with pytest.raises(InvalidArguments, match="was not signed by this gateway"):
            signer.read(token, group_id="g", topic="t", owner=other.owner)
