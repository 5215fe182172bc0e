"""Keeps the vectors of a model up to date while the gateway runs: one task, which never fails without a word."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg

from app.errors import BackendNotConfigured, EmbeddingUnavailable, GatewayError
from app.outages import Outages
from app.services.postgres.connections.connecting import Connection, Connector
from app.services.postgres.connections.errors import postgres_errors
from app.services.postgres.connections.pools import connect_to_listen
from app.services.postgres.connections.settings import PostgresSettings
from app.services.postgres.knowledge.embedder import Embedder
from app.services.postgres.knowledge.meaning import Meaning
from app.services.postgres.knowledge.vectors import CHANNEL, Claim, Filling, VectorStore

_log = logging.getLogger(__name__)

_AT_A_TIME = 4
"""Articles that are claimed at a time."""
_LOOK_AFTER = 15.0
"""Seconds after which the queue is looked at though nobody said that it has grown: a notice may be lost."""
_LOOK_SOON = 2.0
"""So, where nothing can be heard, or somebody has what is left, and may give it back."""
_RENEW_AFTER = 0.5
"""Seconds after which claims are renewed while a model works."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
"""Seconds between two attempts after a failure."""
_PAUSE_FOR_A_SETTING = 10.0
"""So, where a setting, the installation or the endpoint has to change first."""
_READ_ONLY = (
    "DATABASE_URL leads to a database that can't be written to; another gateway, or `switchboard embed`, has to make"
    " the vectors"
)
_NO_RIGHT = (
    "the login of DATABASE_URL may not make or keep vectors; run `switchboard embed` with the one that owns the tables"
)
_LET_GO_WITHIN = 1.0
"""Seconds in which articles that are claimed are given back when the gateway stops."""


class Embedding:
    """Embeds what is queued, over one connection.

    Args:
        connection: to the database, writable.
        store: the vectors of the model.
        embedder: the model.
    """

    def __init__(self, connection: "asyncpg.Connection[Any]", store: VectorStore, embedder: Embedder) -> None:
        self._connection = connection
        self._store = store
        self._embedder = embedder
        self._one_at_a_time = asyncio.Lock()
        """Who uses the connection."""

    async def step(self) -> int:
        """Embed a few articles that nobody else embeds; return how many were taken from the queue.

        Raises:
            EmbeddingUnavailable: nothing can be embedded now. The articles are given back.
            asyncpg.PostgresError: the database refuses it.
        """
        claims = await self._store.claim(self._connection, _AT_A_TIME)
        try:
            async with self._held(claims):
                failed = await self._embed(claims)
        except (EmbeddingUnavailable, asyncio.CancelledError):
            with suppress(TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                async with asyncio.timeout(_LET_GO_WITHIN):
                    await self._store.release(self._connection, claims, failed=False)
            raise
        if failed:
            await self._store.release(self._connection, failed, failed=True)
        return len(claims)

    @asynccontextmanager
    async def _held(self, claims: Sequence[Claim]) -> AsyncGenerator[None]:
        """Renew claims while the block runs, however long a model takes."""
        done = asyncio.Event()

        async def renew() -> None:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_RENEW_AFTER):
                        await done.wait()
                        return
                async with self._one_at_a_time:
                    await self._store.renew(self._connection, claims)

        renewing = asyncio.create_task(renew(), name="claims of articles")
        try:
            yield
        except BaseException:
            renewing.cancel()
            raise
        finally:
            done.set()
            await asyncio.wait([renewing])
        renewing.result()

    async def _embed(self, claims: Sequence[Claim]) -> list[Claim]:
        """Embed articles together or, where that fails, one by one; return those that alone are refused."""
        try:
            await self._embed_together(claims)
        except EmbeddingUnavailable:
            # Whether it is one of these or all is told by a text that nobody refuses.
            await self._embedder.embed_passages(["help"])
            if len(claims) == 1:
                return list(claims)
        else:
            return []
        failed: list[Claim] = []
        for claim in claims:
            try:
                await self._embed_together([claim])
            except EmbeddingUnavailable:
                failed.append(claim)
        return failed

    async def _embed_together(self, claims: Sequence[Claim]) -> None:
        texts = [text for claim in claims for text in claim.texts]
        vectors = iter(await self._embedder.embed_passages(texts) if texts else [])
        for claim in claims:
            own = [next(vectors) for _ in claim.texts]
            async with self._one_at_a_time:
                await self._store.store(self._connection, claim, claim.mixed(own) if own else [])


class VectorKeeper:
    """Keeps the vectors of the configured model.

    Args:
        settings: where the database is.
        meaning: is told what can be searched.
        outages: hears of the database when it can't be reached.
    """

    def __init__(self, settings: PostgresSettings, meaning: Meaning, outages: Outages | None = None) -> None:
        self._settings = settings
        self._meaning = meaning
        self._outages = outages
        self._grown = asyncio.Event()

    async def run(self) -> None:
        """Keep them for ever; whatever fails is tried again."""
        pause = _FIRST_PAUSE
        while True:
            try:
                assert self._settings.address  # no model is loaded for a database that nobody names
                await self._meaning.embedder.start()
                connection, hears = await self._connect()
                try:
                    await self._keep(connection, hears)
                finally:
                    connection.terminate()
            except EmbeddingUnavailable as error:
                self._meaning.why_not_kept = error.detail
                self._meaning.note_articles(error.detail)
                pause = _PAUSE_FOR_A_SETTING if error.misconfigured else min(2 * pause, _LONGEST_PAUSE)
            except (GatewayError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                self._meaning.why_not_kept = _in_words(error)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                pause = _FIRST_PAUSE
            await asyncio.sleep(pause)

    async def _connect(self) -> tuple[Connection, bool]:
        """Open a connection; tell whether it hears of changes."""
        with postgres_errors():
            try:
                connection = await connect_to_listen(self._settings, self._outages)
            except BackendNotConfigured:
                # A pooler is in the way: then we look from time to time.
                connector = Connector(
                    lambda: self._settings.address,
                    connect_timeout=self._settings.connect_timeout,
                    pooler=self._settings.pooler,
                    outages=self._outages,
                )
                return await connector.open(), False
            if connection.in_recovery:
                return connection, False
            try:
                await connection.add_listener(CHANNEL, self._hear)
            except BaseException:
                connection.terminate()
                raise
        return connection, True

    def _hear(self, *_: object) -> None:
        self._grown.set()

    async def _keep(self, connection: Connection, hears: bool) -> None:
        """Embed what is queued, and wait for more, until the connection is lost."""
        connection.add_termination_listener(self._hear)
        store = VectorStore(self._meaning.embedder.name, self._meaning.embedder.dimension)
        while not connection.is_closed():
            self._grown.clear()
            pause = _LOOK_AFTER
            if connection.in_recovery and not await connection.fetchval(
                "SELECT pg_is_in_recovery()", timeout=self._settings.connect_timeout
            ):
                return  # The standby has become the primary: a new connection writes, and hears of changes.
            try:
                if not connection.reads_only:
                    await store.prepare(connection)
                self._meaning.vectors = await store.ready(connection)
                if not connection.reads_only:
                    pause = await self._embed(connection, store)
                else:
                    self._meaning.why_not_kept = None if self._meaning.vectors else _READ_ONLY
                    self._meaning.note_articles(None)  # It has started, and has none to make.
            except asyncpg.InsufficientPrivilegeError:
                self._meaning.why_not_kept = _NO_RIGHT
                self._meaning.note_articles(None)
            await self._meaning.look_again()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause if hears else min(pause, _LOOK_SOON)):
                    await self._grown.wait()

    async def _embed(self, connection: Connection, store: VectorStore) -> float:
        """Embed what nobody else embeds; return after how many seconds to look for more if nobody says that there is.

        What others have claimed is free when they renew their claims no longer.
        """
        embedding = Embedding(connection, store, self._meaning.embedder)
        while True:
            filling = await store.filling(connection)
            if self._meaning.vectors is None:
                self._meaning.why_not_kept = f"vectors are being made, {filling.left} of {filling.articles} are left"
            if not await embedding.step():
                break
            self._meaning.note_articles(None)
        is_complete = filling.left == 0
        if is_complete and (self._meaning.vectors is None or await store.is_outgrown(connection)):
            await store.measure(connection, self._meaning.embedder)
            self._meaning.vectors = await store.ready(connection)
        if is_complete:
            self._meaning.note_articles(None)
        if is_complete or self._meaning.vectors is not None:
            self._meaning.why_not_kept = (
                f"{filling.failed} articles can't be embedded, and will be tried again when they change"
                if filling.failed
                else None
            )
        return _LOOK_AFTER if is_complete else min(_LOOK_SOON, filling.next_free)


@asynccontextmanager
async def vectors_kept(
    settings: PostgresSettings, meaning: Meaning | None, outages: Outages | None = None
) -> AsyncGenerator[None]:
    """Keep the vectors of a model while the block runs.

    Args:
        settings: where the database is.
        meaning: is told what can be searched; None if nothing is searched by meaning.
        outages: hears of the database when it can't be reached.
    """
    if meaning is None:
        yield
        return

    def note_end(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("keeping the vectors of articles failed", exc_info=error)
            meaning.why_not_kept = "keeping the vectors failed, and the log says how; restart the gateway"

    keeping = asyncio.create_task(VectorKeeper(settings, meaning, outages).run(), name="vectors of articles")
    keeping.add_done_callback(note_end)
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])
        await meaning.close()


async def fill(
    connection: Connection, embedder: Embedder, tell: Callable[[Filling], None], *, again: float = 1.0
) -> Filling:
    """Make all vectors that are missing, and let them be searched; what was made before is kept.

    Args:
        connection: to the database, with a login that may make tables.
        embedder: the model, which is started.
        tell: is told how far it is, after each step.
        again: seconds after which it is looked whether others have done what they have claimed.

    Raises:
        BackendNotConfigured: pgvector is missing.
        EmbeddingUnavailable: the embedder makes no vectors.
        GatewayError: the database can't be reached, or refuses it.
    """
    with postgres_errors():
        store = VectorStore(embedder.name, embedder.dimension)
        await store.prepare(connection)
        embedding = Embedding(connection, store, embedder)
        while True:
            taken = await embedding.step()
            filling = await store.filling(connection)
            tell(filling)
            if not filling.left:
                break
            if not taken:
                await asyncio.sleep(again)
        if await store.ready(connection) is None or await store.is_outgrown(connection):
            await store.measure(connection, embedder)
    return filling


def _in_words(error: Exception) -> str:
    if isinstance(error, GatewayError):
        return error.detail
    if isinstance(error, asyncpg.PostgresError):
        return "PostgreSQL refuses to keep vectors now; see its log"
    return "PostgreSQL can't be reached; it is tried again"
