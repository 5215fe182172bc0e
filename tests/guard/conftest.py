"""What several of these tests stand on: a gateway of notes, and all backends behind a gateway."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from pydantic_settings import BaseSettings

from app.local.aws import LocalAws
from app.local.kafka import LocalKafka
from app.local.postgres import LocalPostgres
from tests.faces.raw import client_of
from tests.fixtures.aws import AwsBehindTheGateway, settings_for_aws
from tests.fixtures.gateway import Served, serve
from tests.fixtures.kafka import settings_for_kafka
from tests.fixtures.postgres import TestDatabase, cloned_database
from tests.guard.notes import guarded
from tests.guard.processes import variables_of


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncGenerator[Served]:
    """A gateway that keeps notes, under the policy of `notes.py`."""
    async with serve(guarded(tmp_path)) as served:
        yield served


@pytest.fixture
async def http(gateway: Served) -> AsyncGenerator[httpx.AsyncClient]:
    async with client_of(gateway) as client:
        yield client


@dataclass(frozen=True)
class Backends:
    """A database of a module's own, and the brokers and AWS that all share."""

    database: TestDatabase
    kafka: LocalKafka
    aws: LocalAws
    behind: AwsBehindTheGateway

    @property
    def settings(self) -> Sequence[BaseSettings]:
        """Of the services of a gateway in this process."""
        return [self.database.settings, settings_for_kafka(self.kafka), settings_for_aws(self.aws)]

    def variables(self, **others: str) -> dict[str, str]:
        """Return the variables of a gateway in a process of its own."""
        return variables_of(self.database, self.kafka, self.aws, **others)


@pytest.fixture(scope="module")
async def backends(
    postgres_server: LocalPostgres,
    postgres_template: str,
    kafka_broker: LocalKafka,
    aws_stack: LocalAws,
    behind: AwsBehindTheGateway,
) -> AsyncGenerator[Backends]:
    async with cloned_database(postgres_server, postgres_template) as database:
        yield Backends(database, kafka_broker, aws_stack, behind)
