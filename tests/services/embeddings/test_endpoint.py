"""The endpoint kind against a server of OpenAI's shape that is good, slow, wrong, gone or another one."""

import asyncio
import logging
import math
import re
import socket
import ssl
import subprocess
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from app.errors import EmbeddingUnavailable
from app.services.embeddings import endpoint as module
from app.services.embeddings.endpoint import EndpointEmbedder
from app.services.embeddings.settings import EmbeddingSettings
from tests.fixtures.embedding_endpoint import Answer, Endpoint, answer, run_endpoint, vector_of, written

KEY = "sk-very-secret"
QUESTION = "my password 12345 is gone"


@pytest.fixture
async def endpoint() -> AsyncGenerator[Endpoint]:
    async with run_endpoint() as running:
        yield running


@asynccontextmanager
async def embedding(url: str, *, start: bool = True, **given: Any) -> AsyncGenerator[EndpointEmbedder]:
    """Embed with an endpoint; with the time that a busy machine takes, where a test says nothing else."""
    told = {"model": "acme/Embed-1", "key": KEY, "timeout": 30, **given}
    settings = EmbeddingSettings.model_validate(
        {"embeddings": url, **{f"embeddings_{name}": value for name, value in told.items()}}
    )
    embedder = EndpointEmbedder(settings)
    try:
        if start:
            await embedder.start()
        yield embedder
    finally:
        await embedder.close()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let no pause between attempts last; return how long they would have been."""
    pauses: list[float] = []

    async def pass_over(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(module, "_pause", pass_over)
    return pauses


def unit(text: str, dimension: int = 8) -> list[float]:
    numbers = vector_of(text, dimension)
    return [number / math.hypot(*numbers) for number in numbers]


# A good one


async def test_questions_and_passages_are_embedded_with_their_prefixes_and_the_key(endpoint: Endpoint) -> None:
    async with embedding(endpoint.url, question_prefix="query: ", passage_prefix="passage: ") as embedder:
        assert list(await embedder.embed_question("why")) == pytest.approx(unit("query: why"), abs=1e-6)
        (passage,) = await embedder.embed_passages(["because"])
        assert list(passage) == pytest.approx(unit("passage: because"), abs=1e-6)
    assert [asked["model"] for asked in endpoint.asked] == ["acme/Embed-1"] * 3
    assert all(f"authorization: bearer {KEY}" in head.lower() for head in endpoint.heads)


async def test_without_a_key_none_is_sent(endpoint: Endpoint) -> None:
    async with embedding(endpoint.url, key=None) as embedder:
        await embedder.embed_question("why")
    assert not any("authorization" in head.lower() for head in endpoint.heads)


async def test_passages_go_in_portions_and_come_back_in_their_order(endpoint: Endpoint) -> None:
    texts = [f"passage {n}" for n in range(10)]
    async with embedding(endpoint.url, batch_size=4) as embedder:
        vectors = await embedder.embed_passages(texts)
        assert await embedder.embed_passages([]) == []
    assert [len(asked["input"]) for asked in endpoint.asked] == [1, 4, 4, 2]
    for text, vector in zip(texts, vectors, strict=True):
        assert list(vector) == pytest.approx(unit(text), abs=1e-6)


async def test_answers_of_many_numbers_are_read_in_a_thread_all_the_same(endpoint: Endpoint) -> None:
    texts = [f"passage {n}" for n in range(16)]
    async with embedding(endpoint.url, dimension=1536) as embedder:
        vectors = await embedder.embed_passages(texts)
        assert embedder.dimension == 1536
    assert [asked["dimensions"] for asked in endpoint.asked] == [1536, 1536]
    for text, vector in zip(texts, vectors, strict=True):
        assert list(vector) == pytest.approx(unit(text, 1536), abs=1e-6)


async def test_numbers_in_full_are_taken_where_base64_was_asked_for(endpoint: Endpoint) -> None:
    endpoint.behave = lambda body: endpoint.good({**body, "encoding_format": "float"})
    async with embedding(endpoint.url) as embedder:
        assert list(await embedder.embed_question("why")) == pytest.approx(unit("why"), abs=1e-6)


async def test_an_endpoint_that_knows_no_base64_is_asked_for_numbers(endpoint: Endpoint) -> None:
    endpoint.behave = lambda body: (
        endpoint.good(body) if body["encoding_format"] == "float" else answer({"error": {"code": "bad_format"}}, 400)
    )
    async with embedding(endpoint.url) as embedder:
        assert list(await embedder.embed_question("why")) == pytest.approx(unit("why"), abs=1e-6)
    assert [asked["encoding_format"] for asked in endpoint.asked] == ["base64", "float", "float"]


async def test_vectors_without_an_index_are_those_of_the_texts_in_turn(endpoint: Endpoint) -> None:
    endpoint.behave = lambda body: answer(
        {"data": [{"embedding": written(vector_of(text, 8), "float")} for text in body["input"]]}
    )
    async with embedding(endpoint.url) as embedder:
        first, second = await embedder.embed_passages(["a", "b"])
    assert (list(first), list(second)) == (pytest.approx(unit("a"), abs=1e-6), pytest.approx(unit("b"), abs=1e-6))


async def test_a_question_asked_at_once_and_again_is_sent_once(endpoint: Endpoint) -> None:
    async with embedding(endpoint.url) as embedder:
        await asyncio.gather(*(embedder.embed_question(f" why  {n % 2}") for n in range(20)))
        await embedder.embed_question("why 1")
    assert sorted(asked["input"][0] for asked in endpoint.asked) == ["dimension", "why 0", "why 1"]


async def test_the_questions_that_are_remembered_have_a_bound(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.embeddings.questions.MOST_REMEMBERED", 2)
    async with embedding(endpoint.url) as embedder:
        for question in ("a", "b", "a", "c", "a", "b"):
            await embedder.embed_question(question)
    assert [asked["input"] for asked in endpoint.asked[1:]] == [["a"], ["b"], ["c"], ["b"]]


async def test_half_a_surrogate_can_be_sent(endpoint: Endpoint) -> None:
    async with embedding(endpoint.url) as embedder:
        await embedder.embed_question("\ud83d?")
    assert endpoint.asked[-1]["input"] == ["??"]


# What vectors are called


async def test_the_name_follows_from_model_dimension_and_what_stands_in_front(endpoint: Endpoint) -> None:
    async def name(**given: Any) -> str:
        async with embedding(endpoint.url, **given) as embedder:
            return embedder.name

    names = [
        await name(),
        await name(model="acme/Embed_1"),
        await name(dimension=16),
        await name(passage_prefix="passage: "),
        await name(model="密码"),
        await name(model="m" * 200),
    ]
    assert names[0].startswith("embed-1-8-")
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9_-]{1,40}", each) for each in names)
    assert await name(question_prefix="query: ", timeout=1, key=None) == names[0]


async def test_before_its_start_an_endpoint_has_no_name_and_answers_no_question(endpoint: Endpoint) -> None:
    async with embedding(endpoint.url, start=False) as embedder:
        for unknown in (lambda: embedder.name, lambda: embedder.dimension):
            with pytest.raises(EmbeddingUnavailable, match="has not answered yet"):
                unknown()
        with pytest.raises(EmbeddingUnavailable, match="has not answered yet"):
            await embedder.embed_question("why")
        await asyncio.gather(embedder.start(), embedder.start())
        await embedder.start()
    assert len(endpoint.asked) == 1


# One that hangs, errs or is gone


async def test_a_question_without_an_answer_in_time_is_told_and_taken_back(endpoint: Endpoint) -> None:
    async with embedding(endpoint.url, timeout=0.05) as embedder:
        endpoint.behave = lambda _: None
        with pytest.raises(EmbeddingUnavailable, match="did not answer a question within 50 ms") as told:
            await embedder.embed_question(QUESTION)
        assert not told.value.misconfigured
        await asyncio.wait_for(endpoint.left.wait(), 30)


async def test_after_some_questions_without_an_answer_the_next_are_told_at_once_until_one_is_answered(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with embedding(endpoint.url) as embedder:
        await embedder.embed_question("known")
        endpoint.behave = lambda _: answer({}, 500)
        for n in range(3):
            with pytest.raises(EmbeddingUnavailable, match="answers 500"):
                await embedder.embed_question(f"{n}")
        asked = len(endpoint.asked)
        with pytest.raises(EmbeddingUnavailable, match="answers 500; it is asked again in a moment"):
            await embedder.embed_question("another")
        await embedder.embed_question("known")
        assert len(endpoint.asked) == asked

        embedder._rests_until = 0  # as if the moment were over
        with pytest.raises(EmbeddingUnavailable, match="answers 500"):
            await embedder.embed_question("another")
        with pytest.raises(EmbeddingUnavailable, match="is asked again in a moment"):
            await embedder.embed_question("another")

        embedder._rests_until = 0
        endpoint.behave = None
        await embedder.embed_question("another")
        await embedder.embed_question("one more")


async def test_questions_that_are_given_up_as_late_as_that_count_as_unanswered(endpoint: Endpoint) -> None:
    async with embedding(endpoint.url, timeout=0.05) as embedder:
        endpoint.behave = lambda _: None
        for n in range(6):
            with suppress(TimeoutError, EmbeddingUnavailable):
                async with asyncio.timeout(0.049):
                    await embedder.embed_question(f"{n}")
        with pytest.raises(EmbeddingUnavailable, match="is asked again in a moment"):
            await embedder.embed_question("another")


async def test_questions_that_the_endpoint_refuses_one_by_one_do_not_count(endpoint: Endpoint) -> None:
    async with embedding(endpoint.url) as embedder:
        endpoint.behave = lambda _: answer({}, 400)
        for n in range(4):
            with pytest.raises(EmbeddingUnavailable, match="refuses the request"):
                await embedder.embed_question(f"{n}")
        endpoint.behave = None
        await embedder.embed_question("another")


async def test_questions_whose_callers_have_gone_do_not_count(endpoint: Endpoint) -> None:
    async with embedding(endpoint.url) as embedder:
        endpoint.behave = lambda _: None
        for n in range(4):
            asked = asyncio.create_task(embedder.embed_question(f"{n}"))
            await asyncio.wait_for(endpoint.hanging.wait(), 30)
            endpoint.hanging.clear()
            asked.cancel()
            await asyncio.wait([asked])
        endpoint.behave = None
        await embedder.embed_question("another")


async def test_a_kept_connection_that_was_closed_costs_no_question(endpoint: Endpoint) -> None:
    async with embedding(endpoint.url) as embedder:
        endpoint.drops = 1
        assert list(await embedder.embed_question("why")) == pytest.approx(unit("why"), abs=1e-6)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
async def test_passages_are_sent_again_where_that_may_help(
    endpoint: Endpoint, at_once: list[float], status: int
) -> None:
    failures = [answer({"error": {"code": "overloaded"}}, status)] * 2
    async with embedding(endpoint.url) as embedder:
        endpoint.behave = lambda body: failures.pop() if failures else endpoint.good(body)
        (vector,) = await embedder.embed_passages(["patience"])
    assert list(vector) == pytest.approx(unit("patience"), abs=1e-6)
    assert len(at_once) == 2
    assert 0.5 <= at_once[0] <= 1 <= at_once[1] <= 2


async def test_passages_are_not_sent_for_ever(endpoint: Endpoint, at_once: list[float]) -> None:
    async with embedding(endpoint.url) as embedder:
        endpoint.behave = lambda _: answer({"error": {"code": "overloaded"}}, 503)
        with pytest.raises(EmbeddingUnavailable, match="answers 503 overloaded") as told:
            await embedder.embed_passages(["patience"])
    assert not told.value.misconfigured
    assert len(at_once) == 3
    assert len(endpoint.asked) == 5


@pytest.mark.parametrize(("wanted", "pause"), [("3", 3.0), ("3600", 8.0), ("0", 0.0)])
async def test_an_endpoint_says_how_long_it_wants_to_be_left_alone_within_bounds(
    endpoint: Endpoint, at_once: list[float], wanted: str, pause: float
) -> None:
    failures = [answer({}, 429, Retry_After=wanted)]
    async with embedding(endpoint.url) as embedder:
        endpoint.behave = lambda body: failures.pop() if failures else endpoint.good(body)
        await embedder.embed_passages(["patience"])
    assert at_once == [pause]


async def test_passages_that_hang_are_given_up(
    endpoint: Endpoint, at_once: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with embedding(endpoint.url) as embedder:
        monkeypatch.setattr(module, "_PASSAGES_WITHIN", 0.05)
        endpoint.behave = lambda _: None
        with pytest.raises(EmbeddingUnavailable, match="did not answer within"):
            await embedder.embed_passages(["patience"])
    assert len(endpoint.asked) == 5


async def test_passages_that_nobody_wants_any_more_are_taken_back(endpoint: Endpoint) -> None:
    async with embedding(endpoint.url) as embedder:
        endpoint.behave = lambda _: None
        passages = asyncio.create_task(embedder.embed_passages(["a", "b"]))
        await asyncio.wait_for(endpoint.hanging.wait(), 30)
        passages.cancel()
        await asyncio.wait([passages])
        await asyncio.wait_for(endpoint.left.wait(), 30)


async def test_an_endpoint_that_is_not_there_can_be_started_later(endpoint: Endpoint) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    async with embedding(nowhere, start=False) as embedder:
        with pytest.raises(EmbeddingUnavailable, match="can't be reached") as told:
            await embedder.start()
        assert not told.value.misconfigured
    async with embedding(endpoint.url, start=False) as embedder:
        endpoint.behave = lambda _: answer({}, 503)
        with pytest.raises(EmbeddingUnavailable, match="answers 503"):
            await embedder.start()
        endpoint.behave = None
        await embedder.start()
        assert embedder.dimension == 8


# Mistakes of settings


DEEP = b"[" * 100_000 + b"]" * 100_000
"""JSON that is nested deeper than anybody reads."""


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            answer({"error": {"code": "invalid_api_key", "message": KEY}}, 401),
            "refuses EMBEDDINGS_KEY (401 invalid_api_key)",
        ),
        (answer({}, 403), "refuses EMBEDDINGS_KEY (403)"),
        (answer({"error": {"code": "model_not_found"}}, 404), "knows no 'acme/Embed-1', or has another address"),
        (answer({"error": f"{KEY} {QUESTION}"}, 400), "refuses the request (400): EMBEDDINGS_MODEL"),
        (answer({"detail": [QUESTION]}, 422), "refuses the request (422)"),
        (answer({}, 418), "answers 418"),
        ((302, {"Location": "http://127.0.0.1:9/v1/embeddings"}, b""), "leads elsewhere (302), which is not followed"),
        ((308, {"Location": "/v1/embeddings"}, b""), "leads elsewhere (308)"),
        ((418, {}, b'{"error": ' + DEEP + b"}"), "answers 418"),
        (answer({"data": []}), "answers 0 vectors for 1 texts"),
        (answer({"data": [{"embedding": [1.0]}, {"embedding": [1.0]}]}), "answers 2 vectors for 1 texts"),
        (answer({"data": [{"index": 3, "embedding": [1.0]}]}), "whose `index` is wrong"),
        (answer({"data": [{"embedding": []}]}), "a vector that is zero"),
        (answer({"data": [{"embedding": [0.0] * 8}]}), "a vector that is zero"),
        (answer({"data": [{"embedding": [1e308] * 8}]}), "a vector that is zero, or holds what is no number"),
        (answer({"data": [{"embedding": written([math.nan] * 8, "base64")}]}), "a vector that is zero"),
        (answer({"data": [{"embedding": written([math.inf] * 8, "base64")}]}), "a vector that is zero"),
        (answer({"data": [{"embedding": "???"}]}), "base64 that holds no vector"),
        (answer({"data": [{"embedding": "AAA="}]}), "base64 that holds no vector"),
        (
            answer({"data": [{"embedding": [1.0] * 4001}]}),
            "4000 are the most that can be stored: set EMBEDDINGS_DIMENSION",
        ),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
async def test_a_mistake_is_told_as_one_with_its_setting(endpoint: Endpoint, given: Answer, told: str) -> None:
    endpoint.behave = lambda _: given
    async with embedding(endpoint.url, start=False) as embedder:
        with pytest.raises(EmbeddingUnavailable, match=re.escape(told)) as refused:
            await embedder.start()
    assert refused.value.misconfigured
    assert KEY not in str(refused.value)
    assert QUESTION not in str(refused.value)


@pytest.mark.parametrize(
    "given",
    [
        (200, {"Content-Type": "text/html"}, b"<html>sign in</html>"),
        (200, {}, b'{"data": [{"embedding": [NaN, 1]}]}'),
        (200, {}, b"\xff\xfe"),
        (200, {"Content-Encoding": "gzip"}, b"\x1f\x8b\x08"),
        answer({"data": "none"}),
        (200, {}, b'{"usage": ' + DEEP + b', "data": []}'),
        answer([]),
    ],
    ids=lambda _: "",
)
async def test_what_is_no_answer_of_the_api_is_told_and_tried_again_soon(
    endpoint: Endpoint, given: Answer, at_once: list[float]
) -> None:
    endpoint.behave = lambda _: given
    async with embedding(endpoint.url, start=False) as embedder:
        with pytest.raises(EmbeddingUnavailable, match="no embeddings API's JSON: is this its address") as told:
            await embedder.start()
        assert not told.value.misconfigured
        endpoint.behave = None
        await embedder.start()
        endpoint.behave = lambda body: given if len(endpoint.asked) < 5 else endpoint.good(body)
        assert len(await embedder.embed_passages(["a"])) == 1
    assert 0 < sum(at_once) <= 8


async def test_a_missing_key_is_told_as_such(endpoint: Endpoint) -> None:
    endpoint.behave = lambda _: answer({}, 401)
    async with embedding(endpoint.url, start=False, key=None) as embedder:
        with pytest.raises(EmbeddingUnavailable, match="wants a key: set EMBEDDINGS_KEY"):
            await embedder.start()


async def test_mistakes_are_not_repeated(endpoint: Endpoint, at_once: list[float]) -> None:
    async with embedding(endpoint.url) as embedder:
        endpoint.behave = lambda _: answer({}, 401)
        with pytest.raises(EmbeddingUnavailable):
            await embedder.embed_passages(["a"])
    assert (len(endpoint.asked), at_once) == (2, [])


async def test_another_dimension_than_the_setting_wants_is_refused(endpoint: Endpoint) -> None:
    endpoint.behave = lambda body: endpoint.good({**body, "dimensions": 8})
    async with embedding(endpoint.url, start=False, dimension=16) as embedder:
        with pytest.raises(
            EmbeddingUnavailable, match="vectors of 8 numbers where EMBEDDINGS_DIMENSION wants 16"
        ) as told:
            await embedder.start()
    assert told.value.misconfigured


async def test_an_endpoint_that_has_another_model_now_is_refused(endpoint: Endpoint) -> None:
    async with embedding(endpoint.url) as embedder:
        endpoint.dimension = 12
        with pytest.raises(EmbeddingUnavailable, match="12 numbers where it had 8: it has another model now") as told:
            await embedder.embed_passages(["a"])
        assert told.value.misconfigured
        with pytest.raises(EmbeddingUnavailable, match="another model"):
            await embedder.embed_question("a")


async def test_fewer_vectors_than_passages_are_refused(endpoint: Endpoint) -> None:
    async with embedding(endpoint.url) as embedder:
        endpoint.behave = lambda body: answer({"data": endpoint.embeddings(body)[1:]})
        with pytest.raises(EmbeddingUnavailable, match="answers 2 vectors for 3 texts"):
            await embedder.embed_passages(["a", "b", "c"])


async def test_an_answer_without_end_is_cut_off(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    async with embedding(endpoint.url) as embedder:
        monkeypatch.setattr(module, "_MOST_ANSWERED", 1000)
        endpoint.behave = lambda _: (200, {}, b'{"data": [' + b" " * 5000)
        with pytest.raises(EmbeddingUnavailable, match="more than 1000 bytes for 2 texts: lower EMBEDDINGS_BATCH_SIZE"):
            await embedder.embed_passages(["a", "b"])
        with pytest.raises(EmbeddingUnavailable, match="bytes for one text, which is no vector: is this its address"):
            await embedder.embed_question("a")


async def test_a_redirect_takes_the_key_nowhere(endpoint: Endpoint) -> None:
    async with run_endpoint() as other:
        endpoint.behave = lambda _: (307, {"Location": f"{other.url}/embeddings"}, b"")
        async with embedding(endpoint.url, start=False) as embedder:
            with pytest.raises(EmbeddingUnavailable):
                await embedder.start()
        assert not other.heads


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """What a server of a certificate shows that nobody has signed."""
    directory: Path = tmp_path_factory.mktemp("tls")
    request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-days", "2"]
    files = ["-keyout", str(directory / "key"), "-out", str(directory / "crt")]
    subprocess.run(["openssl", *request, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "crt", directory / "key")
    return context


async def test_a_certificate_that_is_not_trusted_is_told_as_a_mistake(tls: ssl.SSLContext) -> None:
    async with run_endpoint(tls) as secured, embedding(secured.url, start=False) as embedder:
        with pytest.raises(EmbeddingUnavailable, match="certificate that is not trusted") as told:
            await embedder.start()
    assert told.value.misconfigured


async def test_an_endpoint_without_tls_is_told_as_a_mistake(endpoint: Endpoint) -> None:
    async with embedding(endpoint.url.replace("http:", "https:"), start=False) as embedder:
        with pytest.raises(EmbeddingUnavailable, match="speaks no TLS") as told:
            await embedder.start()
    assert told.value.misconfigured


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example"], ids=ascii)
async def test_an_address_that_no_host_can_have_is_told_as_a_mistake(host: str) -> None:
    async with embedding(f"http://{host}/v1", start=False) as embedder:
        with pytest.raises(EmbeddingUnavailable, match=r"no host can have|can't be reached"):
            await embedder.start()


@pytest.mark.parametrize(
    ("variable", "value"), [("SSL_CERT_FILE", "/nowhere/ca.pem"), ("HTTPS_PROXY", "carrier-pigeon://x")]
)
async def test_what_the_environment_says_of_the_way_is_told_as_a_mistake(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    async with embedding(endpoint.url, start=False) as embedder:
        with pytest.raises(EmbeddingUnavailable, match="SSL_CERT_FILE, SSL_CERT_DIR or a variable for proxies") as told:
            await embedder.start()
    assert told.value.misconfigured


async def test_a_closed_endpoint_answers_no_question(endpoint: Endpoint) -> None:
    async with embedding(endpoint.url) as embedder:
        await embedder.close()
        with pytest.raises(EmbeddingUnavailable, match="has not answered yet"):
            await embedder.embed_question("late")


async def test_neither_key_nor_text_reaches_a_log(
    endpoint: Endpoint, caplog: pytest.LogCaptureFixture, at_once: list[float]
) -> None:
    caplog.set_level(logging.DEBUG)
    answers: list[Callable[[dict[str, Any]], Answer]] = [
        lambda _: answer({"error": {"code": KEY + " " + QUESTION}}, 503),
        lambda _: answer({"error": {"code": QUESTION}}, 401),
        endpoint.good,
    ]
    async with embedding(endpoint.url) as embedder:
        for endpoint.behave in answers:
            for work in (lambda: embedder.embed_question(QUESTION), lambda: embedder.embed_passages([QUESTION])):
                try:
                    await work()
                except EmbeddingUnavailable as failure:
                    caplog.handler.emit(logging.makeLogRecord({"msg": str(failure)}))
    assert caplog.text
    assert KEY not in caplog.text
    assert QUESTION not in caplog.text
