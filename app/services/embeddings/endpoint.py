"""A model behind OpenAI's embeddings API: Ollama, vLLM, llama.cpp, a cloud."""

import asyncio
import binascii
import hashlib
import logging
import math
import random
import re
import ssl
import sys
from array import array
from base64 import b64decode
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec

from app.errors import EmbeddingUnavailable
from app.services.embeddings.questions import Questions, Vector
from app.services.embeddings.settings import MOST_NUMBERS, EmbeddingSettings
from app.single_flight import SingleFlight

_log = logging.getLogger(__name__)

_PASSAGES_WITHIN = 60.0
"""Seconds that one request for passages, or the first one of all, may take."""
_MOST_ATTEMPTS = 4
"""At one request for passages, where trying again may help."""
_LONGEST_PAUSE = 8.0
"""Seconds between two attempts, also where the endpoint asks for more."""
_MOST_ANSWERED = 8 * 1024 * 1024
"""Bytes of an answer: 64 vectors of 4000 numbers each, written out, are 6 MB."""
_MOST_CHARACTERS = 16_384
"""Characters of a text that are sent: some 4000 tokens. What a model can't read of them it leaves out, or refuses."""
_MOST_REQUESTS = 16
"""At a time."""
_KEPT = 120.0
"""Seconds that a connection is kept for the next question, which has no time for TLS."""
_IN_A_THREAD = 64 * 1024
"""Bytes of an answer from which on it is read in a thread."""
_FAILURES = 3
"""Questions one after the other without an answer, after which none is asked for a while."""
_NEARLY_ALL = 0.8
"""Of a question's time, after which one that is given up counts as unanswered."""
_REST = 5.0
"""Seconds of that while: each search would else wait for its limit before it goes by words alone."""

_pause = asyncio.sleep
_NO_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""How an answer shows that it can't be read; the last where it is nested a thousand deep."""
_WORD = re.compile(r"[A-Za-z0-9_.-]{1,60}")


class _Embedding(msgspec.Struct):
    embedding: list[float] | str
    index: int | None = None


class _Answer(msgspec.Struct):
    data: list[_Embedding]


class _Failure(msgspec.Struct):
    error: Any = None


class _Passing(EmbeddingUnavailable):
    """It may go by.

    Args:
        pause: seconds that the endpoint wants to be left alone.
    """

    def __init__(self, detail: str, pause: float | None = None) -> None:
        super().__init__(detail)
        self.pause = pause


class _Dropped(_Passing):
    """The endpoint closed a connection that was kept, as it may at any time."""


class _NotUnderstood(EmbeddingUnavailable):
    """The endpoint takes the request for a wrong one."""


class EndpointEmbedder:
    """Embeds by asking an endpoint. Its key goes into the header of requests and nowhere else.

    Args:
        settings: its address, model, key and all else.
    """

    spread: float | None = None

    def __init__(self, settings: EmbeddingSettings) -> None:
        self._settings = settings
        self._model = settings.embeddings_model or ""
        self.question_timeout = settings.embeddings_timeout
        self._http: httpx.AsyncClient | None = None
        self._name = ""
        self._dimension = 0
        self._as_base64 = True
        self._starting = SingleFlight[None]()
        self._questions = Questions(self._question)
        self._failures = 0
        self._why = ""
        """The last question was left unanswered; empty if it was not."""
        self._rests_until = 0.0

    @property
    def dimension(self) -> int:
        """Numbers of a vector.

        Raises:
            EmbeddingUnavailable: the endpoint has not answered yet.
        """
        self._require_start()
        return self._dimension

    @property
    def name(self) -> str:
        """The model's, made plain, with all that its vectors depend on.

        Raises:
            EmbeddingUnavailable: the endpoint has not answered yet.
        """
        self._require_start()
        return self._name

    async def start(self) -> None:
        """Ask the endpoint for a vector, to know how many numbers it has; to no effect once that is known.

        Raises:
            EmbeddingUnavailable: it gives none.
        """
        if not self._dimension:
            await self._starting.run(self._ask_for_dimension)

    async def embed_question(self, question: str) -> Vector:
        """Return the vector of a question, from memory if it was asked lately.

        Raises:
            EmbeddingUnavailable: there is none in time; of several such in a row the next ones are told at once.
        """
        self._require_start()
        return await self._questions.vector(question)

    async def embed_passages(self, passages: Sequence[str]) -> list[Vector]:
        """Return the vectors of passages, so many a request as the settings say.

        Raises:
            EmbeddingUnavailable: there are none, after as many attempts as may help.
        """
        await self.start()
        prefix, size = self._settings.embeddings_passage_prefix, self._settings.embeddings_batch_size
        vectors: list[Vector] = []
        for first in range(0, len(passages), size):
            texts = [prefix + passage for passage in passages[first : first + size]]
            vectors += await self._patiently(texts)
        return vectors

    async def close(self) -> None:
        """Close the connections."""
        self._dimension = 0
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    def _client(self) -> httpx.AsyncClient:
        """Return what holds the connections.

        Raises:
            EmbeddingUnavailable: what the environment says of certificates or proxies can't be used.
        """
        if self._http is None:
            key = self._settings.embeddings_key
            try:
                self._http = httpx.AsyncClient(
                    headers={"Authorization": f"Bearer {key.get_secret_value()}"} if key else {},
                    timeout=_PASSAGES_WITHIN,
                    limits=httpx.Limits(max_connections=_MOST_REQUESTS, keepalive_expiry=_KEPT),
                    follow_redirects=False,
                )
            except (OSError, ValueError):
                raise self._mistaken(
                    "can't be asked: SSL_CERT_FILE, SSL_CERT_DIR or a variable for proxies, such as HTTPS_PROXY,"
                    " can't be used"
                ) from None
        return self._http

    @property
    def _where(self) -> str:
        return f"the endpoint of EMBEDDINGS at {urlsplit(self._settings.embeddings).netloc}"

    def _require_start(self) -> None:
        if not self._dimension:
            raise EmbeddingUnavailable(f"{self._where} has not answered yet")

    async def _ask_for_dimension(self) -> None:
        try:
            (vector,) = await self._vectors(["dimension"])
        except _NotUnderstood:
            if not self._as_base64:
                raise
            # Some know no other form than numbers in full.
            self._as_base64 = False
            (vector,) = await self._vectors(["dimension"])
        wanted = self._settings.embeddings_dimension
        if wanted is not None and len(vector) != wanted:
            raise self._mistaken(
                f"answers vectors of {len(vector)} numbers where EMBEDDINGS_DIMENSION wants {wanted}:"
                " leave it out for a model whose vectors can't be cut"
            )
        if len(vector) > MOST_NUMBERS:
            raise self._mistaken(
                f"answers vectors of {len(vector)} numbers, and {MOST_NUMBERS} are the most that can be stored:"
                " set EMBEDDINGS_DIMENSION, or another EMBEDDINGS_MODEL"
            )
        plain = re.sub(r"[^a-z0-9]+", "-", self._model.rpartition("/")[2].lower())[:26].strip("-") or "model"
        depends = msgspec.json.encode([self._model, self._settings.embeddings_passage_prefix])
        self._name = f"{plain}-{len(vector)}-{hashlib.sha256(depends).hexdigest()[:6]}"
        self._dimension = len(vector)

    async def _question(self, question: str) -> Vector:
        now = asyncio.get_running_loop().time()
        if now < self._rests_until:
            raise EmbeddingUnavailable(f"{self._why}; it is asked again in a moment")
        if self._failures >= _FAILURES:
            self._rests_until = now + _REST  # for all but this one, which tells whether it is back
        texts = [self._settings.embeddings_question_prefix + question]
        try:
            async with asyncio.timeout(self.question_timeout):
                try:
                    (vector,) = await self._vectors(texts)
                except _Dropped:
                    (vector,) = await self._vectors(texts)
        except asyncio.CancelledError:
            # Whoever waits may have a limit of its own, as long as ours.
            if asyncio.get_running_loop().time() - now > _NEARLY_ALL * self.question_timeout:
                self._note(self._late)
            raise
        except TimeoutError:
            self._note(self._late)
            raise EmbeddingUnavailable(self._late) from None
        except _NotUnderstood:
            self._note(None)  # It does answer; another question may be one that it takes.
            raise
        except EmbeddingUnavailable as failure:
            self._note(failure.detail)
            raise
        self._note(None)
        return vector

    @property
    def _late(self) -> str:
        limit = f"{self.question_timeout * 1000:g} ms (EMBEDDINGS_TIMEOUT)"
        return f"{self._where} did not answer a question within {limit}"

    def _note(self, failure: str | None) -> None:
        """Note why a question got no answer; None if it got one."""
        self._failures = 0 if failure is None else self._failures + 1
        self._why = failure or ""
        resting = self._failures >= _FAILURES
        self._rests_until = asyncio.get_running_loop().time() + _REST if resting else 0.0

    async def _patiently(self, texts: Sequence[str]) -> list[Vector]:
        for attempt in range(1, _MOST_ATTEMPTS):
            try:
                return await self._vectors(texts)
            except _Passing as failure:
                pause = failure.pause if failure.pause is not None else 2.0 ** (attempt - 1) * random.uniform(0.5, 1)  # noqa: S311 - no secret
                _log.debug("%s; attempt %d of %d", failure.detail, attempt, _MOST_ATTEMPTS)
                await _pause(min(pause, _LONGEST_PAUSE))
        return await self._vectors(texts)

    async def _vectors(self, texts: Sequence[str]) -> list[Vector]:
        """Ask once.

        Raises:
            _Passing: there is no answer now.
            EmbeddingUnavailable: there is none of use.
        """
        body: dict[str, Any] = {
            "model": self._model,
            "input": [text[:_MOST_CHARACTERS].encode("utf-8", "replace").decode() for text in texts],
            "encoding_format": "base64" if self._as_base64 else "float",
        }
        if self._settings.embeddings_dimension is not None:
            body["dimensions"] = self._settings.embeddings_dimension
        several = f"{len(texts)} texts: lower EMBEDDINGS_BATCH_SIZE"
        asked_for = "one text, which is no vector: is this its address?" if len(texts) == 1 else several
        status, pause, answer = await self._post(msgspec.json.encode(body), asked_for)
        if status != HTTPStatus.OK:
            raise self._refused(status, pause, answer)
        if len(answer) < _IN_A_THREAD:
            return self._read(answer, len(texts))
        return await asyncio.to_thread(self._read, answer, len(texts))

    async def _post(self, body: bytes, asked_for: str) -> tuple[int, float | None, bytes]:
        """Return the status, for how many seconds the endpoint wants to be left alone, and the body.

        Args:
            body: of the request.
            asked_for: what, and the remedy if the answer is too long.
        """
        answer = bytearray()
        # As they are: what is packed has no bound before it is unpacked.
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        client = self._client()
        try:
            async with asyncio.timeout(_PASSAGES_WITHIN):
                url = f"{self._settings.embeddings}/embeddings"
                async with client.stream("POST", url, content=body, headers=headers) as response:
                    async for chunk in response.aiter_raw():
                        answer += chunk
                        if len(answer) > _MOST_ANSWERED:
                            raise self._mistaken(f"answers more than {_MOST_ANSWERED} bytes for {asked_for}")
                    return response.status_code, _seconds(response.headers.get("Retry-After")), bytes(answer)
        except (TimeoutError, httpx.TimeoutException):
            raise _Passing(f"{self._where} did not answer within {_PASSAGES_WITHIN:g} s") from None
        except (httpx.RemoteProtocolError, httpx.ReadError):
            raise _Dropped(f"{self._where} closed the connection") from None
        except (httpx.InvalidURL, UnicodeError):
            raise self._mistaken("has an address that no host can have") from None
        except httpx.HTTPError as error:
            if _is_of_tls(error):
                raise self._mistaken(
                    "shows a certificate that is not trusted, or speaks no TLS:"
                    " SSL_CERT_FILE names the authorities that are"
                ) from None
            raise _Passing(f"{self._where} can't be reached ({type(error).__name__})") from None

    def _refused(self, status: int, pause: float | None, answer: bytes) -> EmbeddingUnavailable:
        """Return what a status means. Of the body only a code is told: it may repeat what was sent."""
        said = f"{status}{_code(answer)}"
        if (
            status in {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
            or status >= HTTPStatus.INTERNAL_SERVER_ERROR
        ):
            return _Passing(f"{self._where} answers {said}", pause)
        match status:
            case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
                given = "refuses EMBEDDINGS_KEY" if self._settings.embeddings_key else "wants a key: set EMBEDDINGS_KEY"
                return self._mistaken(f"{given} ({said})")
            case HTTPStatus.NOT_FOUND:
                return self._mistaken(
                    f"knows no {self._model!r}, or has another address ({said}): see EMBEDDINGS_MODEL"
                )
            case HTTPStatus.BAD_REQUEST | HTTPStatus.UNPROCESSABLE_ENTITY:
                wrong = "EMBEDDINGS_MODEL, EMBEDDINGS_DIMENSION, or a text that is too long for the model"
                return _NotUnderstood(f"{self._where} refuses the request ({said}): {wrong}", misconfigured=True)
            case _ if 300 <= status < 400:
                return self._mistaken(f"leads elsewhere ({said}), which is not followed: set the address itself")
            case _:
                return self._mistaken(f"answers {said}")

    def _read(self, answer: bytes, wanted: int) -> list[Vector]:
        """Return the vectors in the order of the texts.

        Raises:
            EmbeddingUnavailable: these are no vectors, or none of this model.
        """
        try:
            data = msgspec.json.decode(answer, type=_Answer).data
        except _NO_JSON:
            # As a proxy does while what is behind it starts.
            raise _Passing(f"{self._where} answers what is no embeddings API's JSON: is this its address?") from None
        if len(data) != wanted:
            raise self._mistaken(f"answers {len(data)} vectors for {wanted} texts")
        places = [place if given.index is None else given.index for place, given in enumerate(data)]
        if sorted(places) != list(range(wanted)):
            raise self._mistaken("answers vectors whose `index` is wrong")
        ordered = sorted(zip(places, data, strict=True), key=lambda pair: pair[0])
        vectors = [self._unit(given.embedding) for _, given in ordered]
        for length in {len(vector) for vector in vectors} - {self._dimension or len(vectors[0])}:
            was = f"where it had {self._dimension or len(vectors[0])}: it has another model now"
            raise self._mistaken(f"answers vectors of {length} numbers {was}. Start the gateway anew")
        return vectors

    def _unit(self, embedding: list[float] | str) -> Vector:
        try:
            numbers = _from_base64(embedding) if isinstance(embedding, str) else embedding
        except (binascii.Error, ValueError):
            raise self._mistaken("answers base64 that holds no vector") from None
        length = math.hypot(*numbers)
        if not (math.isfinite(length) and length > 0):
            raise self._mistaken("answers a vector that is zero, or holds what is no number")
        return array("f", [number / length for number in numbers])

    def _mistaken(self, what: str) -> EmbeddingUnavailable:
        return EmbeddingUnavailable(f"{self._where} {what}", misconfigured=True)


def _from_base64(text: str) -> Sequence[float]:
    """Return the little-endian floats of 4 bytes that a text holds."""
    numbers = array("f", b64decode(text, validate=True))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _seconds(retry_after: str | None) -> float | None:
    return float(retry_after) if retry_after and retry_after.isdecimal() else None


def _code(answer: bytes) -> str:
    """Return the code of a failure, where it is a word."""
    try:
        error = msgspec.json.decode(answer, type=_Failure).error
    except _NO_JSON:
        return ""
    code: Any = error.get("code") if isinstance(error, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return f" {code}" if isinstance(code, str) and _WORD.fullmatch(code) else ""


def _is_of_tls(error: BaseException | None) -> bool:
    """Tell whether a failure began with TLS. httpx keeps of it only the chain of causes."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False
