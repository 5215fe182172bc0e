"""The local stack's broker: keeps its data, and leaves no process behind."""

from pathlib import Path

import pytest

from app.local.kafka import run_kafka
from app.local.process import StartFailed, accepts_connections
from app.services.kafka import KafkaService
from tests.fixtures.kafka import settings_for_kafka
from tests.services.kafka.conftest import browse, values


async def test_a_later_run_finds_the_data_again(tmp_path: Path) -> None:
    async with run_kafka(tmp_path) as broker, KafkaService.open(settings_for_kafka(broker)) as kafka:
        await kafka.topics.create("kept", num_partitions=1)
        await kafka.publish("kept", {"a": 1})
    async with run_kafka(tmp_path) as broker, KafkaService.open(settings_for_kafka(broker)) as kafka:
        assert values(await browse(kafka, "kept")) == [{"a": 1}]


async def test_nothing_is_left_when_it_has_stopped(tmp_path: Path) -> None:
    async with run_kafka(tmp_path) as broker:
        assert await accepts_connections(broker.port)
        # The process is the broker itself and no wrapper around it.
        program = Path(f"/proc/{broker.process.pid}/exe").readlink()  # noqa: ASYNC240 - it is no real file
        assert program.name == "noida-db"
    assert broker.process.returncode is not None
    assert not await accepts_connections(broker.port)


async def test_a_start_that_fails_shows_the_log(tmp_path: Path) -> None:
    async with run_kafka(tmp_path / "one") as broker:
        with pytest.raises(StartFailed):
            async with run_kafka(tmp_path / "two", port=broker.port):
                raise AssertionError
