"""`switchboard embed`: the vectors of articles, all at once."""

import sys
import time

import click

from app.cli.running import UnusableSettings, read_settings, run, say
from app.errors import BackendNotConfigured, EmbeddingUnavailable
from app.services.embeddings.embedder import create_embedder
from app.services.embeddings.installed import LOCAL_MODELS
from app.services.embeddings.settings import EmbeddingSettings
from app.services.postgres.connections.address import Address
from app.services.postgres.connections.connecting import Connector
from app.services.postgres.connections.settings import PostgresSettings
from app.services.postgres.knowledge.keeping import fill
from app.services.postgres.knowledge.vectors import NAME, Filling, VectorStore

_TELL_EVERY = 2.0
"""Seconds between two lines of progress."""


@click.command
@click.option("--forget", metavar="MODEL", default=None, help="Drop the vectors of a model that is not used any more.")
def embed(forget: str | None) -> None:
    """Make the vectors of all articles that lack them, by the model that EMBEDDINGS names.

    The gateway does the same while it serves; this is for the first time, and for a login of DATABASE_URL that may not
    make tables. It may be stopped and started again, and run beside gateways: nothing is made twice.
    """
    settings = read_settings(PostgresSettings)
    embedder = create_embedder(read_settings(EmbeddingSettings))
    if forget is not None and not NAME.fullmatch(forget):
        raise click.UsageError("--forget takes a model's name, as EMBEDDINGS or `embedding_models` has it")
    if embedder is None and forget is None:
        raise UnusableSettings("EMBEDDINGS is none, so there is nothing to make; set it to a model.")

    async def make() -> None:
        url = settings.administration_url
        connector = Connector(lambda: Address.read(url), connect_timeout=settings.connect_timeout)
        connection = await connector.open()
        try:
            if forget is not None:
                name = LOCAL_MODELS[forget].name if forget in LOCAL_MODELS else forget
                had = await VectorStore(name, 0).forget(connection)
                say(f"The vectors of {forget} are gone." if had else f"There are no vectors of {forget}.")
                return
            assert embedder is not None
            await embedder.start()
            told = -_TELL_EVERY

            def tell(filling: Filling) -> None:
                nonlocal told
                if time.monotonic() - told >= _TELL_EVERY and filling.left:
                    told = time.monotonic()
                    say(f"{filling.articles - filling.left} of {filling.articles} articles")

            filling = await fill(connection, embedder, tell)
            say(f"The vectors of {embedder.name} are complete: {filling.articles - filling.failed} articles.")
            if filling.failed:
                say(f"Warning: {filling.failed} can't be embedded, and are found by words alone.", err=True)
        except (EmbeddingUnavailable, BackendNotConfigured) as error:
            say(f"Error: {error.detail}", err=True)
            sys.exit(2)
        finally:
            connection.terminate()
            if embedder is not None:
                await embedder.close()

    run(make)
