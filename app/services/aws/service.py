"""AWS as the gateway uses it: objects, functions and parameters over one set of clients."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from app.errors import BackendNotConfigured, Forbidden
from app.outages import Outages
from app.services.aws.clients import Connection, open_connection
from app.services.aws.failures import aws_failures
from app.services.aws.functions import Functions
from app.services.aws.parameters import Parameters
from app.services.aws.s3.buckets import Buckets
from app.services.aws.s3.objects import ObjectStore
from app.services.aws.s3.streams import ObjectStreams
from app.services.aws.settings import AwsSettings


class AwsService:
    """S3, Lambda and SSM under the limits of the settings.

    Args:
        connection: where the clients come from.
        settings: allowlists and limits.
    """

    def __init__(self, connection: Connection, settings: AwsSettings) -> None:
        self._connection = connection
        self.buckets = Buckets(connection, settings)
        self.objects = ObjectStore(connection, settings, self.buckets)
        self.streams = ObjectStreams(connection, settings, self.buckets)
        self.functions = Functions(connection, settings)
        self.parameters = Parameters(connection, settings)

    def unconfigured(self) -> BackendNotConfigured | None:
        """Return what is missing, be it credentials or the region; None if nothing is."""
        return self._connection.unconfigured()

    async def ping(self) -> None:
        """Return if AWS answers and knows the credentials, whatever they may do.

        Raises:
            BackendUnavailable: it does not answer, refuses the credentials, or there are none.
        """
        clients = await self._connection.clients()
        try:
            with aws_failures("s3:ListAllMyBuckets"):
                await clients.s3_once.list_buckets(MaxBuckets=1)
        except Forbidden:
            # The credentials are known; that they may not list buckets is as it should be.
            return


@asynccontextmanager
async def open_aws(settings: AwsSettings, outages: Outages | None = None) -> AsyncGenerator[AwsService]:
    """Make the service ready and release it at the end. Neither AWS nor credentials need be there.

    Args:
        settings: where AWS is, under which login, and the limits.
        outages: hears of it when it can't be reached.
    """
    async with open_connection(settings, outages) as connection:
        service = AwsService(connection, settings)
        try:
            yield service
        finally:
            await service.streams.settle()
