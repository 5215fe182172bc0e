"""A broker that is down, comes back, or never was: the right failure in time, and no restart of ours."""

import asyncio
import signal
import socket
import time
from pathlib import Path

import pytest

from app.errors import BackendNotConfigured, BackendUnavailable
from app.local.process import free_port
from app.services.kafka import KafkaService
from tests.fixtures.kafka import RunBroker, settings_for_kafka
from tests.services.kafka.conftest import browse, values, work

WITHIN = 60.0


async def test_without_a_setting_the_failure_names_it() -> None:
    async with KafkaService.open(settings_for_kafka(None)) as kafka:
        for attempt in (kafka.ping(), kafka.topics(), kafka.publish("t", "x"), browse(kafka, "t")):
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
            kafka.topics(),
            kafka.groups(),
        ):
            began = time.monotonic()
            with pytest.raises(BackendUnavailable) as failed:
                await attempt
            assert time.monotonic() - began < 2
            assert failed.value.status == 503


async def test_somebody_listens_who_never_answers() -> None:
    # The kernel takes the connection; nobody ever reads from it.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = settings_for_kafka(f"127.0.0.1:{silent.getsockname()[1]}", request_timeout_ms=700)
        async with KafkaService.open(settings) as kafka:
            began = time.monotonic()
            with pytest.raises(BackendUnavailable):
                await kafka.ping()
            assert time.monotonic() - began < 1.5


async def test_a_broker_is_killed_and_comes_back_in_mid_call(
    run_broker: RunBroker, sudden_end: signal.Signals, tmp_path: Path, topic_name: str, group_id: str
) -> None:
    port = free_port()
    async with KafkaService.open(settings_for_kafka(f"127.0.0.1:{port}", request_timeout_ms=3000)) as kafka:
        async with run_broker(tmp_path, port=port) as broker:
            await kafka.create_topic(topic_name, num_partitions=1)
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
                kafka.topic(topic_name),
            ):
                began = time.monotonic()
                with pytest.raises(BackendUnavailable):
                    await attempt
                assert time.monotonic() - began < 4
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
