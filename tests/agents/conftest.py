"""What the agents' tests share: the whole gateway on a database and a broker of the tests."""

import itertools
import os
from collections.abc import AsyncGenerator

import pytest

from app.local.kafka import LocalKafka
from app.local.process import free_port
from app.main import create_app
from app.routers.database import DatabaseMCPServer
from app.routers.kafka import KafkaMCPServer
from app.settings import Settings
from tests.fixtures.gateway import Served, serve
from tests.fixtures.kafka import settings_for_kafka
from tests.fixtures.postgres import TestDatabase

_numbers = itertools.count(1)


@pytest.fixture
def unused_port() -> int:
    """A port of loopback on which nobody listened a moment ago."""
    return free_port()


@pytest.fixture
async def support_gateway(demo_database: TestDatabase, kafka_broker: LocalKafka) -> AsyncGenerator[Served]:
    """A gateway with the demo data and a broker."""
    service_settings = [demo_database.settings, settings_for_kafka(kafka_broker)]
    async with serve(create_app([DatabaseMCPServer, KafkaMCPServer], Settings(), service_settings)) as served:
        yield served


@pytest.fixture
async def gateway_without_kafka(demo_database: TestDatabase, unused_port: int) -> AsyncGenerator[Served]:
    """A gateway whose broker is down."""
    down = settings_for_kafka(f"127.0.0.1:{unused_port}", request_timeout_ms=500, delivery_timeout_ms=1000)
    service_settings = [demo_database.settings, down]
    async with serve(create_app([DatabaseMCPServer, KafkaMCPServer], Settings(), service_settings)) as served:
        yield served


@pytest.fixture
def unused_topic() -> str:
    """The name of a topic that no other test has; it does not exist."""
    return f"agents.test-{os.getpid()}-{next(_numbers)}"
