"""`switchboard seed`: something to try the tools on."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

import click

from app.cli.running import UnusableSettings, read_settings, run, say
from app.services.aws.demo.seeding import seed as seed_aws
from app.services.aws.settings import AwsSettings
from app.services.kafka.demo import seed as seed_kafka
from app.services.kafka.settings import KafkaSettings
from app.services.postgres.connections.settings import PostgresSettings
from app.services.postgres.demo.world import seed as seed_database


def _database() -> Callable[[], Awaitable[str]]:
    settings = read_settings(PostgresSettings)

    async def load() -> str:
        summary = await seed_database(settings.administration_url)
        if summary is None:
            return "The database holds data already; nothing was loaded."
        return (
            f"Loaded {summary.customers} customers, {summary.tickets} tickets, {summary.interactions} interactions "
            f"and {summary.articles} articles."
        )

    return load


def _kafka() -> Callable[[], Awaitable[str]]:
    settings = read_settings(KafkaSettings)

    async def create() -> str:
        await seed_kafka(settings)
        return "Kafka has the topics and the group of the agents."

    return create


def _aws() -> Callable[[], Awaitable[str]]:
    settings = read_settings(AwsSettings)
    if not settings.endpoint_url:
        raise UnusableSettings("The demo is nothing for AWS itself: set AWS_ENDPOINT_URL to an emulator's address.")

    async def create() -> str:
        await seed_aws(settings)
        return "The emulator has the demo's bucket, function and parameters."

    return create


_SEEDS: Mapping[str, Callable[[], Callable[[], Awaitable[str]]]] = {"database": _database, "kafka": _kafka, "aws": _aws}


@click.command
@click.argument("servers", nargs=-1, type=click.Choice(list(_SEEDS)))
def seed(servers: Sequence[str]) -> None:
    """Load the demo data into the database of DATABASE_URL, if it is empty, or into what is named.

    kafka creates the agents' topics; aws a bucket, a function and parameters, in an emulator only.
    """
    seeds = [_SEEDS[server]() for server in servers or ("database",)]

    async def load() -> None:
        for each in seeds:
            say(await each())

    run(load)
