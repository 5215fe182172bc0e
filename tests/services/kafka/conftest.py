"""Short words for what these tests do with the service."""

import os
from typing import Any

import pytest

from app.services.kafka import KafkaService
from app.services.kafka.connections import Connections
from app.services.kafka.messages import ConsumedMessages

# Only Apache Kafka has logins and TLS.
collect_ignore = [] if os.environ.get("KAFKA_BROKER") == "apache" else ["test_secured_cluster.py"]


async def browse(kafka: KafkaService, topic: str, **changes: Any) -> ConsumedMessages:
    """Browse with the defaults of the tool, but without waiting."""
    arguments: dict[str, Any] = {
        "start": "earliest",
        "cursor": None,
        "partition": None,
        "max_messages": 10,
        "timeout_ms": 0,
        "max_bytes": 1_048_576,
    }
    return await kafka.browse(topic, **{**arguments, **changes})


async def work(kafka: KafkaService, topic: str, group_id: str, **changes: Any) -> ConsumedMessages:
    """Consume in a group, waiting long enough for it to form."""
    arguments: dict[str, Any] = {
        "max_messages": 10,
        "timeout_ms": 10_000,
        "max_bytes": 1_048_576,
        "lease_ms": 60_000,
    }
    return await kafka.consume(topic, group_id, **{**arguments, **changes})


class Requests(list[Any]):
    """What was asked of the brokers, in order."""

    def of(self, kind: str) -> list[Any]:
        return [request for request in self if type(request).__name__ == kind]

    def waiting(self) -> list[Any]:
        """Requests that a broker keeps until there is something to answer, or some time has passed."""
        return [request for request in self.of("FetchRequest") if request._max_wait_ms]


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Requests:
    """Every request of this test's gateways, but for those of the producer's own."""
    asked = Requests()
    send = Connections.send

    async def send_and_note(self: Connections, request: Any, **options: Any) -> Any:
        asked.append(request)
        return await send(self, request, **options)

    monkeypatch.setattr(Connections, "send", send_and_note)
    return asked


def values(page: ConsumedMessages) -> list[Any]:
    return [message.value for message in page.messages]


@pytest.fixture
async def numbered(kafka: KafkaService, topic: str) -> str:
    """A topic with one partition that holds 0 to 19."""
    for number in range(20):
        await kafka.publish(topic, number)
    return topic
