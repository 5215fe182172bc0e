"""A model that runs in this process, in threads of its own."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from importlib import import_module
from typing import Protocol, TypeVar

from app.errors import EmbeddingUnavailable
from app.services.embeddings.installed import LocalModel
from app.services.embeddings.questions import Questions, Vector
from app.single_flight import SingleFlight

T = TypeVar("T")

_NICE = 10
"""How far passages stand back for questions and for calls, where the system weighs threads: on Linux."""


class Model(Protocol):
    """A model in memory."""

    def embed(self, text: str, *, question: bool) -> Sequence[float]:
        """Return the vector of a text, of unit length. It computes for milliseconds, and any thread may call it."""
        ...


class LocalEmbedder:
    """Embeds with a model in this process.

    Questions have a thread and passages have one, since a passage takes up to half a second in which no question could
    be served. Both leave the interpreter to others while the model computes.

    Args:
        known: what is known of the model.
        question_timeout: seconds that a question may take.
    """

    def __init__(self, known: LocalModel, question_timeout: float) -> None:
        self._known = known
        self.name = known.name
        self.dimension = known.dimension
        self.spread: float | None = known.spread
        self.question_timeout = question_timeout
        self._model: Model | None = None
        self._loading = SingleFlight[Model]()
        self._questions = Questions(self._embedded)
        self._for_questions = ThreadPoolExecutor(1, "embed-questions")
        self._for_passages = ThreadPoolExecutor(1, "embed-passages", initializer=_stand_back)

    async def start(self) -> None:
        """Load the model, some 0.3 s in a thread; to no effect if it is loaded.

        Raises:
            EmbeddingUnavailable: it can't be loaded.
        """
        await self._loaded()

    async def embed_question(self, question: str) -> Vector:
        """Return the vector of a question, from memory if it was asked lately.

        Raises:
            EmbeddingUnavailable: the model is not loaded, or too much is asked to answer this in time.
        """
        if self._model is None:
            raise EmbeddingUnavailable(f"{self.name} is not loaded yet")
        return await self._questions.vector(question)

    async def embed_passages(self, passages: Sequence[str]) -> list[Vector]:
        """Return the vectors of passages, made one after the other; who gives up leaves with the one under way.

        Raises:
            EmbeddingUnavailable: the model can't be loaded.
        """
        model = await self._loaded()
        return [await self._run(self._for_passages, partial(model.embed, text, question=False)) for text in passages]

    async def close(self) -> None:
        """End the threads, after what they are about to compute."""
        for executor in (self._for_questions, self._for_passages):
            await asyncio.to_thread(executor.shutdown, cancel_futures=True)

    async def _embedded(self, question: str) -> Vector:
        model, loop = await self._loaded(), asyncio.get_running_loop()

        def work() -> Vector:
            vector = model.embed(question, question=True)
            # Who asked may have given up by now, and asks again.
            loop.call_soon_threadsafe(self._questions.remember, question, vector)
            return vector

        try:
            async with asyncio.timeout(self.question_timeout):
                return await self._run(self._for_questions, work)
        except TimeoutError:
            limit = f"{self.question_timeout * 1000:g} ms for a question (EMBEDDINGS_TIMEOUT)"
            raise EmbeddingUnavailable(f"{self.name} took longer than {limit}") from None

    async def _loaded(self) -> Model:
        if self._model is None:
            self._model = await self._loading.run(lambda: self._run(self._for_questions, self._load))
        return self._model

    def _load(self) -> Model:
        kind: Callable[[], Model] = getattr(import_module(self._known.module), self._known.kind)
        return kind()

    async def _run(self, executor: Executor, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, work)
        except (ImportError, OSError, RuntimeError) as error:
            # What the libraries of models raise; their text may hold paths, and is nothing to act upon.
            reason = f"{self.name} can't be used ({type(error).__name__}): install the extra `semantic` anew"
            raise EmbeddingUnavailable(reason, misconfigured=True) from error


def _stand_back() -> None:
    """Let other threads of this process go first."""
    if sys.platform == "linux":  # elsewhere it is the process that has a weight
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(os.getpriority(os.PRIO_PROCESS, 0) + _NICE, 19))
