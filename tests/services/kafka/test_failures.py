"""A broker that is down, comes back, or never was: the right failure in time, and no restart of ours."""

import asyncio
import signal
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiokafka import errors

from app.errors import BackendNotConfigured, BackendUnavailable, NotFound
from app.local.kafka import LocalKafka
from app.local.process import free_port
from app.services.kafka import KafkaService
from app.services.kafka.connections import Connections
from tests.fixtures.kafka import RunBroker, settings_for_kafka
from tests.services.kafka.conftest import Requests, browse, values, work

WITHIN = 60.0
SOON = 15.0
"""Seconds: less than a publish waits for its acknowledgement by default."""


async def test_without_a_setting_the_failure_names_it() -> None:
    async with KafkaService.open(settings_for_kafka(None)) as kafka:
        for attempt in (kafka.ping(), kafka.topics.find(), kafka.publish("t", "x"), browse(kafka, "t")):
            with pytest.raises(BackendNotConfigured, match="KAFKA_BOOTSTRAP_SERVERS"):
                await attempt


@pytest.mark.parametrize("servers", ["nonsense", "host:", ":9092", "host:99999", "host:x"])
async def test_servers_that_are_no_addresses_are_told(servers: str) -> None:
    async with KafkaService.open(settings_for_kafka(servers)) as kafka:
        with pytest.raises(BackendNotConfigured, match="KAFKA_BOOTSTRAP_SERVERS"):
            await kafka.ping()


async def test_missing_credentials_are_told_by_name() -> None:
    async with KafkaService.open(settings_for_kafka("127.0.0.1:1", security_protocol="SASL_SSL")) as kafka:
        with pytest.raises(BackendNotConfigured, match="KAFKA_SASL_USERNAME"):
            await kafka.ping()


@pytest.mark.parametrize(
    ("setting", "variable"),
    [("ssl_ca_location", "KAFKA_SSL_CA_LOCATION"), ("ssl_certificate_location", "KAFKA_SSL_CERTIFICATE_LOCATION")],
)
async def test_an_unreadable_tls_file_is_told_by_name(tmp_path: Path, setting: str, variable: str) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    settings = settings_for_kafka("127.0.0.1:1", security_protocol="SSL", **{setting: broken})
    async with KafkaService.open(settings) as kafka:
        with pytest.raises(BackendNotConfigured, match=variable):
            await kafka.ping()


async def test_nobody_listens(group_id: str) -> None:
    async with KafkaService.open(settings_for_kafka(f"127.0.0.1:{free_port()}")) as kafka:
        for attempt in (
            kafka.ping(),
            kafka.publish("t", "x"),
            browse(kafka, "t", timeout_ms=5000),
            work(kafka, "t", group_id),
            kafka.topics.find(),
            kafka.groups.find(),
        ):
            with pytest.raises(BackendUnavailable) as failed:
                async with asyncio.timeout(SOON):
                    await attempt
            assert failed.value.status == 503


async def test_somebody_listens_who_never_answers() -> None:
    # The kernel takes the connection; nobody ever reads from it.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = settings_for_kafka(f"127.0.0.1:{silent.getsockname()[1]}", request_timeout_ms=700)
        async with KafkaService.open(settings) as kafka:
            with pytest.raises(BackendUnavailable):
                async with asyncio.timeout(SOON):
                    await kafka.ping()


async def test_a_broker_is_killed_and_comes_back_in_mid_call(
    run_broker: RunBroker, sudden_end: signal.Signals, tmp_path: Path, topic_name: str, group_id: str
) -> None:
    port = free_port()
    async with KafkaService.open(settings_for_kafka(f"127.0.0.1:{port}", request_timeout_ms=3000)) as kafka:
        async with run_broker(tmp_path, port=port) as broker:
            await kafka.topics.create(topic_name, num_partitions=1)
            for number in range(10):
                await kafka.publish(topic_name, number)
            page = await work(kafka, topic_name, group_id, max_messages=5)
            await work(kafka, topic_name, group_id, max_messages=0, ack=page.ack)
            waiting = asyncio.create_task(browse(kafka, topic_name, start="latest", timeout_ms=50_000))
            await asyncio.wait([waiting], timeout=0.5)
            broker.process.send_signal(sudden_end)
            await broker.process.wait()
            for attempt in (
                kafka.publish(topic_name, "while it is down"),
                browse(kafka, topic_name),
                work(kafka, topic_name, group_id),
                kafka.topics.describe(topic_name),
            ):
                with pytest.raises(BackendUnavailable):
                    async with asyncio.timeout(SOON):
                        await attempt
        async with run_broker(tmp_path, port=port), asyncio.timeout(WITHIN):
            while True:
                try:
                    stored = values(await browse(kafka, topic_name, max_messages=100))
                    break
                except BackendUnavailable:
                    await asyncio.wait([waiting], timeout=0.1)
            assert stored[:10] == list(range(10))
            await kafka.publish(topic_name, "back again")
            assert "back again" in values(await waiting)
            assert values(await work(kafka, topic_name, group_id, max_messages=5, timeout_ms=30_000)) == [5, 6, 7, 8, 9]


async def test_watchers_hear_when_nothing_can_be_heard_and_miss_nothing(
    run_broker: RunBroker, sudden_end: signal.Signals, tmp_path: Path, topic_name: str
) -> None:
    port = free_port()
    settings = settings_for_kafka(f"127.0.0.1:{port}", request_timeout_ms=3000)
    async with KafkaService.open(settings) as kafka, AsyncExitStack() as stack:
        async with run_broker(tmp_path, port=port) as broker:
            await kafka.topics.create(topic_name, num_partitions=1)
            watching = [await stack.enter_async_context(kafka.changes(topic_name)) for _ in range(2)]
            waiting = asyncio.create_task(browse(kafka, topic_name, start="latest", timeout_ms=4000))
            broker.process.send_signal(sudden_end)
            await broker.process.wait()
            async with asyncio.timeout(WITHIN):
                for notices in watching:
                    told = await anext(notices)
                    assert (told["interrupted"]["code"], told["interrupted"]["status"]) == ("backend_unavailable", 503)
                with pytest.raises(BackendUnavailable):
                    await waiting
        async with run_broker(tmp_path, port=port), asyncio.timeout(WITHIN):
            over = [await anext(notices) for notices in watching]
            await kafka.publish(topic_name, "back again")
            for notices, notice in zip(watching, over, strict=True):
                assert list(notice) == ["cursor"]
                while "back again" not in values(await browse(kafka, topic_name, cursor=notice["cursor"])):
                    notice = await anext(notices)  # noqa: PLW2901


async def test_a_broker_that_does_not_know_its_topics_yet_is_asked_again(
    kafka: KafkaService, monkeypatch: pytest.MonkeyPatch, topic: str
) -> None:
    """As one does in the moments after a restart: for all who ask, by metadata and by offsets."""
    send = Connections.send
    unknown = errors.UnknownTopicOrPartitionError.errno
    forgotten: dict[str, int] = dict.fromkeys(("MetadataRequest", "OffsetRequest"), 2)

    async def send_to_a_beginner(self: Connections, request: Any, **options: Any) -> Any:
        answer = await send(self, request, **options)
        kind = type(request).__name__
        if forgotten.get(kind) and answer.topics:
            forgotten[kind] -= 1
            if kind == "MetadataRequest":
                answer.topics = [(unknown, name, False, []) for _, name, *_ in answer.topics]
            else:
                answer.topics = [(name, [(p, unknown, -1, -1) for p, *_ in rows]) for name, rows in answer.topics]
        return answer

    monkeypatch.setattr(Connections, "send", send_to_a_beginner)
    assert (await kafka.publish(topic, "x")).offset == 0
    assert values(await browse(kafka, topic)) == ["x"]
    assert not any(forgotten.values())
    with pytest.raises(NotFound):
        await kafka.publish(f"{topic}.not-there", "x")


async def test_all_who_find_the_metadata_old_ask_once(kafka_broker: LocalKafka, topic: str, requests: Requests) -> None:
    async with KafkaService.open(settings_for_kafka(kafka_broker, metadata_max_age_ms=60_000)) as kafka:
        await asyncio.gather(*(kafka.publish(topic, number) for number in range(200)))
        assert len(requests.of("MetadataRequest")) == 1
    requests.clear()
    async with KafkaService.open(settings_for_kafka(kafka_broker)) as kafka:
        await asyncio.gather(*(browse(kafka, topic) for _ in range(50)))
        assert len(requests.of("MetadataRequest")) == 1
