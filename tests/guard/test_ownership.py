"""What is a tenant's and a bound customer's own: idempotency keys, acknowledgements of messages, cursors of pages."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from app.catalogue import Catalogue
from app.errors import InvalidArguments
from app.guard.guard import Guard
from app.guard.policy import Policy
from app.guard.principal import Principal
from app.guard.vocabulary import vocabulary_of
from app.local.aws import LocalAws
from app.local.kafka import LocalKafka
from app.local.postgres import LocalPostgres
from app.main import create_app
from app.routers.aws import AWSMCPServer
from app.routers.database import DatabaseMCPServer
from app.routers.kafka import KafkaMCPServer
from app.services.kafka.acks import Ack, AckSigner
from app.settings import Settings
from tests.faces.raw import client_of
from tests.fixtures.aws import AwsBehindTheGateway, settings_for_aws
from tests.fixtures.gateway import serve
from tests.fixtures.kafka import settings_for_kafka
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


async def page(http: httpx.AsyncClient, caller: str, **query: str) -> httpx.Response:
    uri = str(httpx.URL("db://interactions", params={"limit": "1", **query}))
    return await http.get("/mcp/database/resources/read", params={"uri": uri}, headers={"x-test-caller": caller})


async def test_a_page_goes_on_for_whom_it_was_begun(http: httpx.AsyncClient) -> None:
    for number in range(3):
        for caller, customer in (("one of acme", "12345"), ("two", "12346")):
            assert (await save(http, caller, customer, f"page {number}")).status_code == 200
    callers = [owner.id for owner in OWNERS if owner.id != "like both"]
    cursors = {caller: (await page(http, caller)).json()["next_cursor"] for caller in callers}
    for whose, cursor in cursors.items():
        for caller in callers:
            answer = await page(http, caller, cursor=cursor)
            assert answer.status_code == (200 if caller == whose else 422), (whose, caller)
        assert (await page(http, whose, cursor=cursor)).json()["interactions"]


def test_a_cursor_that_a_backend_made_is_its_owners() -> None:
    cursors = {owner.id: owner.own_cursor("c.1") for owner in OWNERS}
    assert len(set(cursors.values())) == len(OWNERS)
    for owner in OWNERS:
        assert owner.read_cursor(cursors[owner.id]) == "c.1"
        assert (owner.own_cursor(None), owner.own_cursor(""), owner.read_cursor(None)) == (None, "", None)
        for other in (name for name in cursors if name != owner.id):
            with pytest.raises(InvalidArguments, match="is no cursor of this caller"):
                owner.read_cursor(cursors[other])


async def test_cursors_of_topics_and_listings_are_their_owners(
    kafka_broker: LocalKafka, aws_stack: LocalAws, behind: AwsBehindTheGateway, bucket: str, topic: str
) -> None:
    kinds, settings = [KafkaMCPServer, AWSMCPServer], [settings_for_kafka(kafka_broker), settings_for_aws(aws_stack)]
    app = known_by_name(create_app(kinds, Settings(), settings), *OWNERS[:2], Principal("globex", ROLES, "globex"))
    for name in "abc":
        await behind.s3.put_object(Bucket=bucket, Key=name, Body=b"x")
    listing = {"bucket": bucket, "max_keys": 1}
    browsing = {"topic": topic, "max_messages": 1, "timeout_ms": 5000}
    async with serve(app) as served, client_of(served) as http:

        async def ask(caller: str, tool: str, arguments: dict[str, Any]) -> httpx.Response:
            return await http.post(f"/mcp/{tool}", json=arguments, headers={"x-test-caller": caller})

        for number in range(3):
            published = {"topic": topic, "message": f"{number}"}
            assert (await ask("acme", "kafka/tools/publish_message", published)).status_code == 200
        for whose in ("everybody", "acme"):
            listed = await ask(whose, "aws/tools/s3_list_objects", listing)
            browsed = await ask(whose, "kafka/tools/consume_messages", browsing | {"start": "earliest"})
            token, cursor = listed.json()["next_continuation_token"], browsed.json()["next_cursor"]
            for caller in ("everybody", "acme", "globex"):
                expected = 200 if caller == whose else 422
                more = await ask(caller, "aws/tools/s3_list_objects", listing | {"continuation_token": token})
                assert more.status_code == expected, (whose, caller, more.text)
                more = await ask(caller, "kafka/tools/consume_messages", browsing | {"cursor": cursor})
                assert more.status_code == expected, (whose, caller, more.text)
                path = f"/mcp/kafka/topics/{topic}/stream?cursor={cursor}"
                async with http.stream("GET", path, headers={"x-test-caller": caller}) as stream:
                    assert stream.status_code == expected
                    events = [line async for line in _until_a_message(stream)] if expected == 200 else []
                if events:
                    assert events[-1].startswith("id: ")
                    assert ("owned:" in events[-1]) is (whose == "acme")


async def test_cursors_of_what_aws_lists_are_their_owners(
    aws_stack: LocalAws, behind: AwsBehindTheGateway, bucket: str
) -> None:
    app = known_by_name(create_app([AWSMCPServer], Settings(), [settings_for_aws(aws_stack)]), *OWNERS[:2])
    for name in "abc":
        await behind.s3.put_object(Bucket=bucket, Key=name, Body=b"x")
        await behind.s3.create_bucket(Bucket=f"{bucket}-{name}")
        for value in "12":
            await behind.ssm.put_parameter(Name=f"/{bucket}/{name}", Type="String", Value=value, Overwrite=True)
    uris = ["aws://s3/buckets", f"aws://s3/buckets/{bucket}", "aws://ssm/parameters"]
    async with serve(app) as served, client_of(served) as http:

        async def read(caller: str, uri: str, cursor: str | None = None) -> httpx.Response:
            uri += "?limit=1" + (f"&cursor={quote(cursor, safe='')}" if cursor else "")
            fields = {"x-test-caller": caller}
            return await http.get("/mcp/aws/resources/read", params={"uri": uri}, headers=fields)

        async def by_path(caller: str, token: str | None = None) -> httpx.Response:
            arguments = {"path": f"/{bucket}/", "max_results": 1} | ({"next_token": token} if token else {})
            fields = {"x-test-caller": caller}
            return await http.post("/mcp/aws/tools/get_parameters_by_path", json=arguments, headers=fields)

        for whose, other in (("everybody", "acme"), ("acme", "everybody")):
            for uri in uris:
                cursor = (await read(whose, uri)).json()["next_cursor"]
                assert cursor, uri
                assert (await read(other, uri, cursor)).json()["code"] == "invalid_arguments", uri
                assert (await read(whose, uri, cursor)).status_code == 200, uri
            token = (await by_path(whose)).json()["next_token"]
            assert (await by_path(other, token)).json()["code"] == "invalid_arguments"
            assert (await by_path(whose, token)).status_code == 200


async def _until_a_message(stream: httpx.Response) -> AsyncIterator[str]:
    async for line in stream.aiter_lines():
        yield line
        if line.startswith("id: "):
            return
