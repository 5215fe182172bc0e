"""Looks at what turns text into vectors as an operator would who asks why articles are found by words alone."""

import time

from app.findings import Finding, checked
from app.services.embeddings.embedder import create_embedder
from app.services.embeddings.settings import EmbeddingSettings

_SUBJECT = "embeddings"


async def examine(settings: EmbeddingSettings) -> Finding:
    """Return whether a question gets its vector, and how quickly.

    Args:
        settings: what is asked for its vector; it is started for this, and closed.
    """
    embedder = create_embedder(settings)
    if embedder is None:
        return Finding("off", f"{_SUBJECT}: none, so articles are found by words alone; EMBEDDINGS names a model")

    async def answers() -> str:
        await embedder.start()
        await embedder.embed_passages(["what articles hold"])
        await embedder.embed_question("does this work?")
        begun = time.perf_counter()
        await embedder.embed_question("and how long does it take?")
        took = (time.perf_counter() - begun) * 1000
        return f"{embedder.name} answers a question in {took:.0f} ms, with {embedder.dimension} numbers"

    try:
        return await checked(answers(), subject=_SUBJECT)
    finally:
        await embedder.close()
