"""The Kafka server as its callers meet it: every tool through REST, MCP and WebSocket, subscriptions and streams."""

import asyncio
import base64
import json
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka.admin import AIOKafkaAdminClient

from app.local.kafka import LocalKafka
from app.local.process import child_process, free_port
from app.main import create_app
from app.routers.kafka import KafkaMCPServer
from app.services.kafka import KafkaService
from app.settings import Settings
from tests.faces.raw import ERAS, headers, request, websocket
from tests.fixtures.gateway import Call, Served, mcp_client, serve
from tests.fixtures.kafka import settings_for_kafka

WITHIN = 30.0
"""Seconds in which everything that a test waits for happens, or the test fails."""


@pytest.fixture
async def gateway(kafka_broker: LocalKafka) -> AsyncGenerator[Served]:
    app = create_app([KafkaMCPServer], Settings(), [settings_for_kafka(kafka_broker)])
    async with serve(app) as served:
        yield served


async def test_the_whole_life_of_a_topic(call: Call, topic_name: str) -> None:
    forever = {"retention.ms": "-1"}
    created = await call("kafka", "create_topic", {"topic": topic_name, "num_partitions": 2, "config": forever})
    assert (created["created"], created["partition_count"]) == (True, 2)
    assert (await call("kafka", "create_topic", {"topic": topic_name}))["code"] == "conflict"
    stored = await call(
        "kafka",
        "publish_message",
        {
            "topic": topic_name,
            "message": {"ticket": 42},
            "key": "customer-7",
            "headers": {"source": "chat"},
            "timestamp": "2026-03-01T12:00:00+01:00",
        },
    )
    assert stored["offset"] == 0
    assert stored["timestamp"] == "2026-03-01T11:00:00Z"
    read = await call("kafka", "consume_messages", {"topic": topic_name, "timeout_ms": 0})
    assert read["messages"] == [
        {
            "topic": topic_name,
            "partition": stored["partition"],
            "offset": 0,
            "timestamp": "2026-03-01T11:00:00Z",
            "key": "customer-7",
            "key_encoding": "text",
            "value": {"ticket": 42},
            "encoding": "json",
            "headers": {"source": "chat"},
        }
    ]
    assert (read["reached_end"], read["truncated"]) == (True, False)
    found = await call("kafka", "get_topic_metadata", {"topic": topic_name})
    assert (found["message_count"], found["config"]) == (1, forever)
    [listed] = (await call("kafka", "list_topics", {"pattern": topic_name}))["topics"]
    assert listed == {"name": topic_name, "partitions": 2, "replication_factor": 1, "internal": False}


async def test_work_in_a_group(call: Call, topic: str, group_id: str) -> None:
    for number in range(4):
        await call("kafka", "publish_message", {"topic": topic, "message": number})
    arguments = {"topic": topic, "group_id": group_id, "max_messages": 3, "timeout_ms": 10_000}
    first = await call("kafka", "consume_messages", arguments)
    assert [message["value"] for message in first["messages"]] == [0, 1, 2]
    second = await call("kafka", "consume_messages", {**arguments, "ack": first["ack"]})
    assert [message["value"] for message in second["messages"]] == [3]
    done = await call("kafka", "consume_messages", {**arguments, "ack": second["ack"], "max_messages": 0})
    assert done["messages"] == []
    lag = await call("kafka", "get_consumer_group_lag", {"group_id": group_id})
    assert (lag["total_lag"], lag["partitions"][0]["committed_offset"]) == (0, 4)


BAD_INPUT: list[tuple[str, dict[str, Any], int, str | None]] = [
    ("publish_message", {"topic": "a b", "message": 1}, 422, "topic"),
    ("publish_message", {"topic": "..", "message": 1}, 422, "topic"),
    ("publish_message", {"topic": "x" * 250, "message": 1}, 422, "topic"),
    ("publish_message", {"message": 1}, 422, "topic"),
    ("publish_message", {"topic": "t"}, 422, "message"),
    ("publish_message", {"topic": "t", "message": 1, "headers": {"n": 5}}, 422, "headers.n"),
    ("publish_message", {"topic": "t", "message": 1, "headers": {"n": None}}, 422, "headers.n"),
    ("publish_message", {"topic": "t", "message": 1, "partition": -1}, 422, "partition"),
    ("publish_message", {"topic": "t", "message": 1, "key": 5}, 422, "key"),
    ("publish_message", {"topic": "t", "message": 1, "mesage": 2}, 422, "mesage"),
    ("publish_message", {"topic": "no-such-topic", "message": 1}, 404, None),
    ("consume_messages", {"topic": "no-such-topic"}, 404, None),
    ("consume_messages", {"topic": "t", "max_messages": 1001}, 422, "max_messages"),
    ("consume_messages", {"topic": "t", "max_messages": 0}, 422, "max_messages"),
    ("consume_messages", {"topic": "t", "timeout_ms": 60_001}, 422, "timeout_ms"),
    ("consume_messages", {"topic": "t", "group_id": "g", "start": "latest"}, 422, "start"),
    ("consume_messages", {"topic": "t", "group_id": "g", "cursor": "x"}, 422, "cursor"),
    ("consume_messages", {"topic": "t", "group_id": "g", "partition": 0}, 422, "partition"),
    ("consume_messages", {"topic": "t", "group_id": "g", "max_messages": 0}, 422, "max_messages"),
    ("consume_messages", {"topic": "t", "ack": "x"}, 422, "ack"),
    ("consume_messages", {"topic": "t", "start": "latest", "cursor": "x"}, 422, "start"),
    ("get_topic_metadata", {"topic": "no-such-topic"}, 404, None),
    ("create_topic", {"topic": "t", "num_partitions": 0}, 422, "num_partitions"),
    ("create_topic", {"topic": "t", "config": {"a": 1}}, 422, "config.a"),
    ("get_consumer_group_lag", {"group_id": "no-such-group"}, 404, None),
    ("get_consumer_group_lag", {"group_id": ""}, 422, "group_id"),
]


async def test_bad_input_is_told_by_name(call: Call) -> None:
    for tool, arguments, status, field in BAD_INPUT:
        problem = await call("kafka", tool, arguments)
        assert (problem["success"], problem["status"]) == (False, status), arguments
        if field is not None:
            assert [error["field"] for error in problem["errors"]] == [field], arguments


async def test_every_form_of_start(call: Call, topic: str) -> None:
    await call("kafka", "publish_message", {"topic": topic, "message": "x"})
    for start in (
        "earliest",
        {"offset": 0},
        {"offset": "0"},
        {"timestamp": "2020-01-01T00:00:00Z"},
        {"timestamp": 0},
        {"tail": 1},
    ):
        page = await call("kafka", "consume_messages", {"topic": topic, "start": start})
        assert [message["value"] for message in page["messages"]] == ["x"], start
    for start, field in (
        ("first", "start"),
        (5, "start"),
        ({}, "start"),
        ({"offset": -1}, "start.offset"),
        ({"offset": "soon"}, "start.offset"),
        ({"tail": 0}, "start.tail"),
        ({"timestamp": "noon"}, "start.timestamp"),
        ({"timestamp": "2020-01-01T00:00:00"}, "start.timestamp"),
        ({"timestamp": True}, "start.timestamp"),
        ({"offset": 1, "tail": 2}, "start"),
        ({"offset": 1, "x": 2}, "start.x"),
    ):
        problem = await call("kafka", "consume_messages", {"topic": topic, "start": start})
        assert problem["code"] == "invalid_arguments", start
        [error] = problem["errors"]
        assert error["field"] == field, start
        assert "Value error" not in error["message"], start


async def test_other_spellings_are_understood(call: Call, topic: str) -> None:
    await call("kafka", "publish_message", {"topic": topic, "value": "x"})
    page = await call("kafka", "consume_messages", {"topic": topic, "limit": 1})
    assert [message["value"] for message in page["messages"]] == ["x"]


async def test_an_expired_acknowledgement_is_a_conflict_of_its_own(call: Call, topic: str, group_id: str) -> None:
    await call("kafka", "publish_message", {"topic": topic, "message": "x"})
    arguments = {"topic": topic, "group_id": group_id, "timeout_ms": 10_000, "lease_ms": 1_000}
    late = await call("kafka", "consume_messages", arguments)
    again = await call("kafka", "consume_messages", arguments)
    assert again["messages"] == late["messages"]
    problem = await call("kafka", "consume_messages", {**arguments, "ack": late["ack"]})
    assert (problem["status"], problem["code"]) == (409, "ack_expired")


async def test_a_cluster_that_is_down_leaves_the_server_listed(face: str) -> None:
    app = create_app([KafkaMCPServer], Settings(), [settings_for_kafka(f"127.0.0.1:{free_port()}")])
    async with serve(app) as served, httpx.AsyncClient(base_url=served.url, timeout=30) as http:
        assert "kafka" in (await http.get("/mcp")).text
        problem = (await http.post("/mcp/kafka/tools/list_topics", json={})).json()
        assert (problem["status"], problem["code"]) == (503, "backend_unavailable")


async def test_resources_and_templates(gateway: Served, topic: str, kafka: KafkaService) -> None:
    await kafka.publish(topic, "x")
    async with mcp_client(gateway, "mcp-2026-07-28", "kafka") as client:
        listed = {str(resource.uri) for resource in (await client.list_resources()).resources}
        assert listed == {"kafka://topics", "kafka://consumer-groups", "kafka://brokers"}
        templates = {t.uri_template for t in (await client.list_resource_templates()).resource_templates}
        assert templates == {"kafka://topics/{topic}", "kafka://consumer-groups/{group_id}"}

        async def read(uri: str) -> dict[str, Any]:
            [content] = (await client.read_resource(uri)).contents
            answer: dict[str, Any] = json.loads(content.text)  # type: ignore[union-attr]
            return answer

        assert topic in {listed["name"] for listed in (await read("kafka://topics"))["topics"]}
        assert (await read(f"kafka://topics/{topic}"))["message_count"] == 1
        assert (await read("kafka://brokers"))["brokers"][0]["is_controller"] is True
        await kafka.consume(topic, "readers", max_messages=1, timeout_ms=10_000, max_bytes=1000, lease_ms=60_000)
        groups = {group["group_id"]: group for group in (await read("kafka://consumer-groups"))["groups"]}
        assert groups["readers"]["members"] == 1
        assert (await read("kafka://consumer-groups/readers"))["state"] == "Stable"


def listen(uri: str) -> dict[str, Any]:
    return request(ERAS[1], "subscriptions/listen", {"notifications": {"resourceSubscriptions": [uri]}})


@asynccontextmanager
async def subscribed_by_http(gateway: Served, uri: str) -> AsyncGenerator[AsyncIterator[dict[str, Any]]]:
    message = listen(uri)
    async with (
        httpx.AsyncClient(base_url=gateway.url, timeout=WITHIN) as http,
        http.stream("POST", "/mcp/kafka", json=message, headers=headers(ERAS[1], message)) as response,
    ):
        yield (json.loads(event["data"]) async for event in server_sent(response))


@asynccontextmanager
async def subscribed_by_websocket(gateway: Served, uri: str) -> AsyncGenerator[AsyncIterator[dict[str, Any]]]:
    async with websocket(gateway, ERAS[1], path="/mcp/kafka/ws") as socket:
        await socket.send(listen(uri))

        async def messages() -> AsyncIterator[dict[str, Any]]:
            while True:
                yield await socket.receive()

        yield messages()


@asynccontextmanager
async def subscribed_as_in_2025(gateway: Served, uri: str) -> AsyncGenerator[AsyncIterator[dict[str, Any]]]:
    async with websocket(gateway, ERAS[0], path="/mcp/kafka/ws") as socket:
        await socket.send(request(ERAS[0], "resources/subscribe", {"uri": uri}))

        async def messages() -> AsyncIterator[dict[str, Any]]:
            while True:
                yield await socket.receive()

        yield messages()


@pytest.mark.parametrize("subscribed", [subscribed_by_http, subscribed_by_websocket, subscribed_as_in_2025])
async def test_a_subscriber_reads_what_a_notice_points_to(
    gateway: Served, kafka: KafkaService, topic: str, subscribed: Any
) -> None:
    uri = f"kafka://topics/{topic}"
    await kafka.publish(topic, "old")
    async with subscribed(gateway, uri) as messages, asyncio.timeout(WITHIN):
        await anext(messages)  # the acknowledgement or the answer
        await kafka.publish(topic, "new")
        notice = await anext(messages)
        assert notice["method"] == "notifications/resources/updated"
        assert notice["params"]["uri"] == uri
        cursor = notice["params"]["_meta"]["cursor"]
        async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as http:
            page = await http.post("/mcp/kafka/tools/consume_messages", json={"topic": topic, "cursor": cursor})
        assert [message["value"] for message in page.json()["messages"]] == ["new"]


async def server_sent(response: httpx.Response) -> AsyncIterator[dict[str, str]]:
    """Parse server-sent events as a browser does."""
    event: dict[str, str] = {}
    async for line in response.aiter_lines():
        if not line and "data" in event:
            yield event
            event = {}
        elif not line:
            event = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            event[name] = value


async def test_a_browser_streams_a_topic_and_connects_again_without_a_gap(
    gateway: Served, kafka: KafkaService, topic: str
) -> None:
    path = f"/mcp/kafka/topics/{topic}/stream"
    for number in range(3):
        await kafka.publish(topic, number)
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as http, asyncio.timeout(WITHIN):
        async with http.stream("GET", path, params={"start": "earliest"}) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            events = server_sent(response)
            first = [await anext(events) for _ in range(2)]
        assert [json.loads(event["data"])["value"] for event in first] == [0, 1]
        async with http.stream("GET", path, headers={"Last-Event-ID": first[-1]["id"]}) as response:
            events = server_sent(response)
            assert json.loads((await anext(events))["data"])["value"] == 2
            await kafka.publish(topic, "live")
            live = await anext(events)
            assert (live["event"], json.loads(live["data"])["value"]) == ("message", "live")


VALUES: list[tuple[bytes, str]] = [
    (b'{"e":1e400,"amt":0.1234567890123456789012}', "text"),
    (b'{"a":[{"b":1,"b":2}]}', "text"),
    (b'{"a":"\\ud800"}', "text"),
    (b"[1.10]", "text"),
    (b'{"big":1267650600228229401496703205376,"small":[1e-7,2.5]}', "json"),
    (b"[" * 100 + b"]" * 100, "json"),
    (b"[" * 101 + b"]" * 101, "text"),
    (b"\0\0\0\0\x07payload", "schema_registry"),
    (b"\xff\xfe", "base64"),
    ("ends of lines \x85 \u2028 \u2029 \r\n, to some".encode(), "text"),
]


def check_values(messages: list[dict[str, Any]]) -> None:
    for message, (raw, encoding) in zip(messages, VALUES, strict=True):
        assert message["encoding"] == encoding, raw
        if encoding == "json":
            assert message["value"] == json.loads(raw)
        elif encoding == "text":
            assert message["value"] == raw.decode()
        else:
            assert base64.b64decode(message["value"]) == raw
        assert message.get("schema_id") == (7 if encoding == "schema_registry" else None)


async def test_values_lose_nothing_on_any_face(call: Call, topic: str) -> None:
    for raw, _ in VALUES:
        value = base64.b64encode(raw).decode()
        await call("kafka", "publish_message", {"topic": topic, "message": value, "encoding": "base64"})
    check_values((await call("kafka", "consume_messages", {"topic": topic}))["messages"])


async def test_values_lose_nothing_on_the_stream(gateway: Served, kafka: KafkaService, topic: str) -> None:
    for raw, _ in VALUES:
        await kafka.publish(topic, base64.b64encode(raw).decode(), encoding="base64")
    async with (
        httpx.AsyncClient(base_url=gateway.url, timeout=30) as http,
        asyncio.timeout(WITHIN),
        http.stream("GET", f"/mcp/kafka/topics/{topic}/stream", params={"start": "earliest"}) as response,
    ):
        events = server_sent(response)
        check_values([json.loads((await anext(events))["data"]) for _ in VALUES])


async def test_a_stream_of_a_topic_that_is_deleted_says_so(
    gateway: Served, kafka: KafkaService, kafka_broker: LocalKafka, topic: str
) -> None:
    await kafka.publish(topic, "x")
    async with (
        httpx.AsyncClient(base_url=gateway.url, timeout=30) as http,
        asyncio.timeout(WITHIN),
        http.stream("GET", f"/mcp/kafka/topics/{topic}/stream", params={"start": "earliest"}) as response,
    ):
        events = server_sent(response)
        assert (await anext(events))["event"] == "message"
        admin: Any = AIOKafkaAdminClient(bootstrap_servers=kafka_broker.bootstrap_servers)
        await admin.start()
        try:
            await admin.delete_topics([topic])
        finally:
            await admin.close()
        end = await anext(events)
        assert (end["event"], json.loads(end["data"])["code"]) == ("failure", "not_found")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("no-such-topic/stream", 404),
        ("a%20b/stream", 422),
        ("{topic}/stream?start=middle", 422),
        ("{topic}/stream?cursor=nonsense", 422),
    ],
)
async def test_a_stream_that_can_not_begin_is_a_plain_failure(
    gateway: Served, topic: str, path: str, status: int
) -> None:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as http:
        response = await http.get(f"/mcp/kafka/topics/{path.format(topic=topic)}")
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"


async def test_an_answered_message_survives_the_death_of_the_gateway(
    kafka_broker: LocalKafka, kafka: KafkaService, wide_topic: str, tmp_path: Path
) -> None:
    """SIGKILL in the middle of the load: whatever was answered with an offset is there."""
    port = free_port()
    program = Path(__file__).parent / "kafka_gateway.py"

    async def is_ready() -> bool:
        async with httpx.AsyncClient(timeout=30) as http:
            try:
                return (await http.get(f"http://127.0.0.1:{port}/health")).status_code == 200
            except httpx.TransportError:
                return False

    answered: list[tuple[int, int, str]] = []
    command = [sys.executable, str(program), str(port), kafka_broker.bootstrap_servers]
    async with (
        child_process(command, log=tmp_path / "gateway.log", is_ready=is_ready) as process,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=WITHIN) as http,
    ):

        async def publish(publisher: int) -> None:
            for number in range(1_000_000):
                message = f"{publisher}-{number}"
                try:
                    arguments = {"topic": wide_topic, "message": message}
                    response = await http.post("/mcp/kafka/tools/publish_message", json=arguments)
                except httpx.TransportError:
                    return
                place = response.json()
                answered.append((place["partition"], place["offset"], message))
                if len(answered) == 500:
                    process.send_signal(signal.SIGKILL)

        async with asyncio.timeout(WITHIN):
            await asyncio.gather(*(publish(publisher) for publisher in range(20)))
    assert len(answered) >= 500
    stored: set[tuple[int, int, object]] = set()
    cursor = None
    while True:
        page = await kafka.browse(
            wide_topic,
            start="earliest",
            cursor=cursor,
            partition=None,
            max_messages=1000,
            timeout_ms=0,
            max_bytes=8_388_608,
        )
        stored |= {(message.partition, message.offset, message.value) for message in page.messages}
        cursor = page.next_cursor
        if page.reached_end:
            break
    assert set(answered) <= stored
