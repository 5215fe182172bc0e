"""A session of one customer in Kafka, S3 and Lambda: what the policy has a rule for, and of that the customer's own."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from app.catalogue import Catalogue
from app.guard.guard import Guard
from app.guard.policy import Policy
from app.guard.vocabulary import vocabulary_of
from app.local.aws import LocalAws
from app.local.kafka import LocalKafka
from app.main import create_app
from app.routers.aws import AWSMCPServer
from app.routers.kafka import KafkaMCPServer
from app.servers.calls import JsonObject
from app.services.aws.demo.seeding import DEMO_FUNCTION
from app.services.kafka import KafkaService
from app.settings import Settings
from tests.faces.raw import client_of
from tests.fixtures.aws import AwsBehindTheGateway, settings_for_aws
from tests.fixtures.gateway import Call, Served, serve
from tests.fixtures.kafka import settings_for_kafka
from tests.guard.bound import CALLER, bound

CUSTOMER, OTHER = "12345", "123456"
POLICY = """\
[role.customer_bot]
bound = "customer"
allow = ["kafka:write", "aws:write"]

[role.customer_bot.tool."kafka:publish_message"]
topic = { prefix = "test." }

[role.customer_bot.tool."aws:s3_download_file"]
key = { prefix = "customers/{customer}/" }
[role.customer_bot.tool."aws:s3_upload_file"]
key = { prefix = "customers/{customer}/" }
[role.customer_bot.tool."aws:s3_presign_url"]
key = { prefix = "customers/{customer}/" }
[role.customer_bot.tool."aws:s3_list_objects"]
prefix = { prefix = "customers/{customer}/" }
[role.customer_bot.tool."aws:s3_delete_object"]
key = { prefix = "customers/" }
"""
KINDS = [KafkaMCPServer, AWSMCPServer]


def guard(directory: Path, text: str = POLICY) -> Guard:
    file = directory / "switchboard.toml"
    file.write_text(text)
    return Guard(Policy.load(file, vocabulary_of(Catalogue(KINDS))))


@pytest.fixture
async def gateway(kafka_broker: LocalKafka, aws_stack: LocalAws, tmp_path: Path) -> AsyncGenerator[Served]:
    settings = [settings_for_kafka(kafka_broker), settings_for_aws(aws_stack, s3_max_inline_bytes=64)]
    async with serve(bound(create_app(KINDS, Settings(), settings, guard=guard(tmp_path)), CUSTOMER)) as served:
        yield served


async def test_only_what_a_rule_confines_is_listed(gateway: Served) -> None:
    async with client_of(gateway) as http:
        listed = {
            tool["name"]
            for server in ("kafka", "aws")
            for tool in (await http.get(f"/mcp/{server}/tools")).json()["tools"]
        }
    assert listed == {
        "publish_message",
        "s3_upload_file",
        "s3_download_file",
        "s3_list_objects",
        "s3_presign_url",
        "lambda_invoke",
    }


async def test_without_a_policy_nothing_that_needs_a_rule_is_offered(aws_stack: LocalAws) -> None:
    app = create_app([AWSMCPServer], Settings(), [settings_for_aws(aws_stack)])
    async with serve(bound(app, CUSTOMER)) as served, client_of(served) as http:
        assert [tool["name"] for tool in (await http.get("/mcp/aws/tools")).json()["tools"]] == ["lambda_invoke"]
        own = await http.get(f"/mcp/aws/s3/switchboard-demo/customers/{CUSTOMER}/contract.md")
    assert (own.status_code, own.json()["code"]) == (403, "not_confined")


@pytest.mark.parametrize(
    ("server", "tool", "arguments"),
    [
        ("kafka", "consume_messages", {"topic": "test.any"}),
        ("kafka", "consume_messages", {"topic": "test.any", "group_id": "any"}),
        ("kafka", "list_topics", {}),
        ("kafka", "create_topic", {"topic": "test.any"}),
        ("kafka", "get_consumer_group_lag", {"group_id": "any"}),
        ("aws", "s3_delete_object", {"bucket": "switchboard-demo", "key": f"customers/{CUSTOMER}/x"}),
        ("aws", "get_parameter_store_value", {"parameter_name": "/switchboard/support/email"}),
        ("aws", "get_parameters_by_path", {"path": "/"}),
    ],
)
async def test_what_cant_be_confined_or_has_a_rule_that_confines_nobody_is_refused(
    call: Call, server: str, tool: str, arguments: JsonObject
) -> None:
    assert (await call(server, tool, arguments))["code"] == "not_confined"


async def test_streams_and_resources_of_everybody_are_refused(gateway: Served, topic: str) -> None:
    async with client_of(gateway) as http:
        live = await http.get(f"/mcp/kafka/topics/{topic}/stream")
        assert (live.status_code, live.json()["code"]) == (403, "not_confined")
        for uri in (f"kafka://topics/{topic}", "kafka://consumer-groups", "aws://s3/buckets", "aws://ssm/parameters"):
            server = uri.partition(":")[0]
            read = await http.get(f"/mcp/{server}/resources/read", params={"uri": uri})
            assert (read.status_code, read.json()["code"]) == (403, "not_confined")


# Kafka


async def published(kafka: KafkaService, topic: str) -> list[Any]:
    found = await kafka.browse(
        topic, start="earliest", cursor=None, partition=None, max_messages=20, timeout_ms=0, max_bytes=100_000
    )
    return found.messages


async def test_a_message_has_the_customers_key_and_says_whose_session_sent_it(
    call: Call, kafka: KafkaService, topic: str
) -> None:
    given: list[JsonObject] = [
        {"message": {"text": "hello"}},
        {"value": "hello", "key": f"customer-{OTHER}"},
        {"message": "hello", "key": "Y3VzdG9tZXItMTIzNDU2", "key_encoding": "base64"},
        {"message": None, "key": f"customer-{OTHER}"},
    ]
    for each in given:
        assert (await call("kafka", "publish_message", {"topic": topic, **each}))["success"]
    for message in await published(kafka, topic):
        assert message.key == f"customer-{CUSTOMER}"
        assert message.headers["switchboard-customer"] == CUSTOMER


@pytest.mark.parametrize(
    "name",
    [
        "switchboard-customer",
        "Switchboard-Customer",
        " switchboard-customer",
        "switchboard_customer",
        "switchboard-customer\0",
        "switchboard\u2010customer",
        "\uff53witchboard-customer",
        "\u0455witchboard-customer",
        "switchboard-cust\u043emer",
        "switchboard-customer\u200b",
        "x-switchboard-customer",
        "switchboard-customer2",
        "sw1tchb0ard-cu5tomer",
        "switchboard-custorner",
        "svvitchboard-customer",
        "sw\u0131tchboard-customer",
    ],
)
async def test_who_is_bound_cant_say_that_another_sent_it(
    call: Call, kafka: KafkaService, topic: str, name: str
) -> None:
    for pretence in ({"headers": {name: OTHER}}, {"partition": 0}):
        answer = await call("kafka", "publish_message", {"topic": topic, "message": "hello", **pretence})
        assert (answer["status"], answer["code"]) == (403, "argument_refused")
    assert await published(kafka, topic) == []


async def test_other_topics_are_refused(call: Call) -> None:
    answer = await call("kafka", "publish_message", {"topic": "customer-queries", "message": "hello"})
    assert (answer["status"], answer["code"]) == (403, "argument_refused")


async def test_two_customers_may_use_the_same_idempotency_key(gateway: Served, kafka: KafkaService, topic: str) -> None:
    async with client_of(gateway) as http:
        for customer in (CUSTOMER, OTHER, CUSTOMER):
            answer = await http.post(
                "/mcp/kafka/tools/publish_message",
                json={"topic": topic, "message": "hello", "idempotency_key": "same"},
                headers={CALLER.decode(): customer},
            )
            assert answer.json()["success"]
    assert [message.key for message in await published(kafka, topic)] == [f"customer-{CUSTOMER}", f"customer-{OTHER}"]


# S3


@pytest.fixture
async def objects(bucket: str, behind: AwsBehindTheGateway) -> str:
    """A bucket in which both customers have an object."""
    for customer in (CUSTOMER, OTHER):
        await behind.s3.put_object(Bucket=bucket, Key=f"customers/{customer}/a.txt", Body=customer.encode())
    return bucket


OUTSIDE = [
    f"customers/{OTHER}/a.txt",
    "customers/",
    f"customers/{CUSTOMER}",
    f"/customers/{CUSTOMER}/a.txt",
    f"customers/{CUSTOMER}/../{OTHER}/a.txt",
    f"customers/{CUSTOMER}/%2e%2e/{OTHER}/a.txt",
    f"customers/{CUSTOMER}/%252e%252e/{OTHER}/a.txt",
    f"customers/{CUSTOMER}/\uff0e\uff0e/{OTHER}/a.txt",
    f"CUSTOMERS/{CUSTOMER}/a.txt",
]


async def test_ones_own_objects_are_written_read_and_listed(call: Call, objects: str) -> None:
    key = f"customers/{CUSTOMER}/new.txt"
    written = await call("aws", "s3_upload_file", {"bucket": objects, "key": key, "content": "hello"})
    assert written["success"]
    assert (await call("aws", "s3_download_file", {"bucket": objects, "key": key}))["content"] == "hello"
    listed = await call("aws", "s3_list_objects", {"bucket": objects, "prefix": f"customers/{CUSTOMER}/"})
    assert {found["key"] for found in listed["objects"]} == {key, f"customers/{CUSTOMER}/a.txt"}


@pytest.mark.parametrize("key", OUTSIDE)
async def test_no_form_of_a_key_leads_to_anothers_object(
    call: Call, objects: str, behind: AwsBehindTheGateway, key: str
) -> None:
    before = await behind.keys(objects)
    calls: dict[str, JsonObject] = {
        "s3_download_file": {"key": key},
        "s3_upload_file": {"key": key, "content": "mine"},
        "s3_presign_url": {"key": key},
        "s3_list_objects": {"prefix": key},
    }
    for tool, arguments in calls.items():
        answer = await call("aws", tool, {"bucket": objects, **arguments})
        assert answer["success"] is False, (tool, key)
        assert answer["code"] in ("argument_refused", "invalid_arguments")
    assert (await call("aws", "s3_list_objects", {"bucket": objects}))["code"] == "argument_refused"
    assert await behind.keys(objects) == before


async def test_streams_keep_to_ones_own_objects(gateway: Served, objects: str, behind: AwsBehindTheGateway) -> None:
    before = await behind.keys(objects)
    async with client_of(gateway) as http:
        own = await http.get(f"/mcp/aws/s3/{objects}/customers/{CUSTOMER}/a.txt")
        assert (own.status_code, own.text) == (200, CUSTOMER)
        for key in (*OUTSIDE, f"customers%2F{OTHER}%2Fa.txt", f"customers/{CUSTOMER}%2F..%2F{OTHER}/a.txt"):
            for method in ("GET", "HEAD", "POST"):
                # httpx would resolve dots by itself.
                path = f"/mcp/aws/s3/{objects}/{key}".replace("/../", "/%2E%2E/")
                answer = await http.request(method, path, content=b"mine" if method == "POST" else None)
                assert answer.status_code in (403, 404, 422), (method, key)
    assert await behind.keys(objects) == before


async def test_an_address_is_good_for_five_minutes_at_most(
    call: Call, objects: str, behind: AwsBehindTheGateway
) -> None:
    where: JsonObject = {"bucket": objects, "key": f"customers/{CUSTOMER}/a.txt"}
    assert (await call("aws", "s3_presign_url", where))["expires_in"] == 300
    longer = await call("aws", "s3_presign_url", {**where, "expires_in": 301})
    told = "expires_in: at most 300 seconds here (this session is one customer's)"
    assert (longer["code"], longer["detail"]) == ("invalid_arguments", told)
    large = f"customers/{CUSTOMER}/large.txt"
    await behind.s3.put_object(Bucket=objects, Key=large, Body=b"x" * 100)
    url = (await call("aws", "s3_download_file", {"bucket": objects, "key": large}))["url"]
    query = parse_qs(urlsplit(url).query)
    assert query.get("X-Amz-Expires", ["300"]) == ["300"]


# Lambda


@pytest.mark.parametrize("said", [{}, {"customer_id": OTHER}, {"customer_id": None}])
async def test_a_function_is_told_whose_session_it_is(call: Call, said: JsonObject) -> None:
    answer = await call(
        "aws", "lambda_invoke", {"function_name": DEMO_FUNCTION, "payload": {"feedback": "Great", **said}}
    )
    assert answer["payload"]["customer_id"] == CUSTOMER


@pytest.mark.parametrize("payload", [[{"customer_id": OTHER}], "text", 5, None, '[{"customer_id": "123456"}]'])
async def test_a_payload_that_could_not_say_so_is_refused(call: Call, payload: object) -> None:
    answer = await call("aws", "lambda_invoke", {"function_name": DEMO_FUNCTION, "payload": payload})
    assert (answer["status"], answer["code"]) == (403, "argument_refused")


@pytest.mark.parametrize(
    "rule", ['key = { prefix = "customers/{customer}" }', 'bucket = { in = ["switchboard-demo"] }']
)
async def test_a_rule_that_lets_others_pass_is_none(aws_stack: LocalAws, tmp_path: Path, rule: str) -> None:
    text = POLICY.partition("[role.customer_bot.tool")[0] + f'[role.customer_bot.tool."aws:s3_download_file"]\n{rule}\n'
    app = create_app(KINDS, Settings(), [settings_for_aws(aws_stack)], guard=guard(tmp_path, text))
    async with serve(bound(app, CUSTOMER)) as served, client_of(served) as http:
        arguments = {"bucket": "switchboard-demo", "key": f"customers/{CUSTOMER}/contract.md"}
        answer = await http.post("/mcp/aws/tools/s3_download_file", json=arguments)
    assert answer.json()["code"] == "not_confined"
