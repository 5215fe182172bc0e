"""Connections to the brokers: opened when they are needed, and again after a failure."""

import asyncio
import logging
from collections import defaultdict
from contextlib import suppress
from typing import Any

from aiokafka.errors import KafkaConnectionError, KafkaError, RequestTimedOutError

from app.outages import Outages, at, cause_of
from app.services.kafka.driver import Connection, create_connection
from app.services.kafka.failures import UNREACHABLE
from app.services.kafka.settings import KafkaSettings
from app.stages import waiting_for

_log = logging.getLogger(__name__)


class Connections:
    """At most one connection for each broker and lane.

    A broker answers the requests of one connection in order, so a request that waits holds up those behind
    it. Requests that wait (long polls, group joins) therefore have lanes of their own.

    Args:
        settings: where the brokers are, and how they are talked to.
        outages: hears of each broker that can't be reached.
    """

    def __init__(self, settings: KafkaSettings, outages: Outages | None = None) -> None:
        self._settings = settings
        self._outages = outages or Outages(_log)
        self._addresses: dict[int, tuple[str, int]] = {}
        self._open: dict[tuple[int | None, str], Connection] = {}
        self._opening: defaultdict[tuple[int | None, str], asyncio.Lock] = defaultdict(asyncio.Lock)

    def learn(self, addresses: dict[int, tuple[str, int]]) -> None:
        """Remember where the brokers are; connections to brokers that moved are closed."""
        moved = {node for node, address in self._addresses.items() if addresses.get(node) != address}
        self._addresses = addresses
        for key in [key for key in self._open if key[0] in moved]:
            self._open.pop(key).close()

    @property
    def alive(self) -> bool:
        """Whether the cluster could be talked to a moment ago."""
        connection = self._open.get((None, ""))
        return connection is not None and connection.connected()

    async def send(self, request: Any, *, broker: int | None = None, lane: str = "", again: bool = True) -> Any:
        """Send a request and return the broker's answer.

        Args:
            request: one of aiokafka's protocol requests.
            broker: its node id; any broker if left out.
            lane: requests of one lane wait for each other.
            again: repeat it once on a new connection if the old one turns out to be broken.

        Raises:
            KafkaError: no connection, or no answer in time. Codes in the answer are the caller's to read.
        """
        key = (broker, lane)
        reused = key in self._open
        connection = await waiting_for("a connection", self._connection(key))
        try:
            return await connection.send(request)
        except TimeoutError as error:
            # Answers come in order: whatever is behind the lost one would be misread as it.
            self._drop(key, connection)
            raise RequestTimedOutError from error
        except UNREACHABLE:
            self._drop(key, connection)
            if not (again and reused):
                raise
        connection = await self._connection(key)
        try:
            return await connection.send(request)
        except TimeoutError as error:
            self._drop(key, connection)
            raise RequestTimedOutError from error

    async def close_lane(self, lane: str) -> None:
        """Close the connections of a lane that is no longer needed."""
        await self._close([key for key in self._open if key[1] == lane])
        for key in [key for key in self._opening if key[1] == lane]:
            del self._opening[key]

    async def close(self) -> None:
        """Close all connections."""
        await self._close(list(self._open))

    async def _close(self, keys: list[tuple[int | None, str]]) -> None:
        closing = [closed for key in keys if (closed := self._open.pop(key).close()) is not None]
        with suppress(TimeoutError):
            async with asyncio.timeout(2):
                await asyncio.gather(*closing, return_exceptions=True)

    def _drop(self, key: tuple[int | None, str], connection: Connection) -> None:
        if self._open.get(key) is connection:
            del self._open[key]
        connection.close()

    async def _connection(self, key: tuple[int | None, str]) -> Connection:
        async with self._opening[key]:
            connection = self._open.get(key)
            if connection is not None and connection.connected():
                return connection
            if connection is not None:
                self._drop(key, connection)
            connection = await self._connect(key[0])
            self._open[key] = connection
            return connection

    async def _connect(self, broker: int | None) -> Connection:
        if broker is None:
            candidates = [*self._settings.require_bootstrap_servers(), *self._addresses.values()]
        elif broker in self._addresses:
            candidates = [self._addresses[broker]]
        else:
            raise KafkaConnectionError(f"broker {broker} is unknown")
        options = self._settings.connection_options()
        failure: Exception = KafkaConnectionError("no broker")
        for host, port in dict.fromkeys(candidates):
            place = at("Kafka", host, port)
            try:
                connection = await create_connection(host, port, **options)
            except TimeoutError:
                failure = KafkaConnectionError("a broker did not answer in time")
                self._outages.down(place, f"no answer within {self._settings.request_timeout_ms / 1000:g} s")
            except (KafkaError, OSError) as error:
                failure = error
                self._outages.down(place, cause_of(error))
            else:
                self._outages.up(place)
                return connection
        raise failure
