"""What every HTTP face shares: who calls, the body, the caller who goes away, failures on the wire."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from math import ceil
from types import TracebackType
from typing import Self

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.catalogue import quoted
from app.errors import (
    CallerGone,
    GatewayError,
    InsufficientScope,
    ProcessFull,
    RequestTooLarge,
    TooManyRequests,
    UnsupportedMediaType,
)
from app.gateway import Gateway
from app.lookout import Interruptible, Lookout
from app.servers.calls import CallContext, Face
from app.servers.origins import Origin, origin_of_headers

_log = logging.getLogger(__name__)
refused: Counter[str] = Counter()
"""Requests of this process that came to no call, by the code of the failure. Like the log, it is the process's."""
PROBLEM_JSON = "application/problem+json"
JSON = "application/json"


class Exchange:
    """A request and its answer on a socket of ours, which can be handed over whole.

    ASGI's messages cost a quick call more than all checks together: dictionaries, coroutines and a look at each header
    for what is there already and what is not. So where `receive` and `send` are an exchange's own, and nobody has put
    something of his in front of them, what is whole passes as it is.
    """

    def take_body(self) -> bytes | None:
        """Return the whole body, as `receive` would; None where it has to be received."""
        raise NotImplementedError

    def answer(self, status: int, fields: bytes, body: bytes) -> bool:
        """Answer as `send` would; False, and nothing is done, where it has to be sent.

        Args:
            status: of HTTP.
            fields: of the head, a line each, `Content-Length` among them; none says how the connection goes on.
            body: all of it.
        """
        raise NotImplementedError


def call_context(
    scope: Scope,
    face: Face,
    receive: Receive | None = None,
    *,
    client: str | None = None,
    origin: Origin | None = None,
) -> CallContext:
    """Return the context of a request that came through the `Perimeter`.

    Args:
        scope: of the request.
        face: how it came in.
        receive: of the request, whose body must be read before the call; the call is cancelled when the caller
            closes the connection. A FastAPI route and the MCP SDK's JSON mode run a tool to its end for nobody.
        client: who the client says it is, if it says more than by its `User-Agent`.
        origin: where the call comes from, if that is not said by the headers alone.
    """
    state = scope["state"]
    return CallContext(
        state["request_id"],
        face,
        state["principal"],
        client or state["client"],
        state["address"],
        origin_of_headers(state["headers"]) if origin is None else origin,
        gone=None if receive is None else partial(_closed, receive),
    )


async def _closed(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def read_json(scope: Scope, receive: Receive, gateway: Gateway, *, stated: bool = False) -> bytes:
    """Return a request's whole body, which is said to be JSON; whether it is, nobody has looked.

    Args:
        scope: of a request that came through the `Perimeter`.
        receive: of the request.
        gateway: says how many bytes one body may have, and all that are unfinished together.
        stated: refuse a body that does not say what it is, too.

    Raises:
        UnsupportedMediaType: it says it is something else, as forms do, which browsers send without asking first;
            or it is compressed.
        RequestTooLarge: it is, or says it is, larger than the limit.
        ProcessFull: all callers' unfinished bodies are.
        CallerGone: the caller left before its end.
    """
    body = take_json(scope, receive, gateway, stated=stated)
    return await receive_json(scope, receive, gateway) if body is None else body


def take_json(scope: Scope, receive: Receive, gateway: Gateway, *, stated: bool = False) -> bytes | None:
    """Return what `read_json` would, if it is there already; None where it has to be received (`receive_json`).

    For calls, of which each await of what need not be waited for is a measurable part.
    """
    headers: dict[bytes, bytes] = scope["state"]["headers"]
    if (content_type := headers.get(b"content-type", b"")) != b"application/json":
        media_type = _media_type(content_type)
        if not (media_type == b"application/json" or media_type.endswith(b"+json") or not (media_type or stated)):
            raise UnsupportedMediaType("Send JSON, and say so: -H 'content-type: application/json'.")
    coding = headers.get(b"content-encoding")
    if coding is not None and coding.strip().lower() != b"identity":
        raise UnsupportedMediaType("Send the body as it is, without Content-Encoding: it is not decompressed here.")
    if b"transfer-encoding" in headers:
        refuse_transfer_codings(headers)
    if not isinstance(exchange := getattr(receive, "__self__", None), Exchange):
        return None
    body = exchange.take_body()
    if body is not None and len(body) > (limit := gateway.settings.max_request_bytes):
        raise _too_large(limit)
    return body


async def receive_json(scope: Scope, receive: Receive, gateway: Gateway) -> bytes:
    """Receive the body that `take_json` has found nothing wrong with, and has not found whole."""
    limit = gateway.settings.max_request_bytes
    length = scope["state"]["headers"].get(b"content-length", b"")
    if length.isdigit() and int(length) > limit:
        raise _too_large(limit)
    message = await receive()
    body: bytes | bytearray = message.get("body", b"")
    if message.get("more_body") and len(body) <= limit:
        with gateway.unfinished.share() as share:
            body = bytearray(body)
            while message.get("more_body") and len(body) <= limit:
                share.hold(len(body))
                message = await receive()
                body += message.get("body", b"")
    if message["type"] == "http.disconnect":
        raise CallerGone
    if len(body) > limit:
        raise _too_large(limit)
    return bytes(body)


def refuse_transfer_codings(headers: Mapping[bytes, bytes]) -> None:
    """Refuse a body in a coding that nobody here undoes, as `gzip, chunked` is.

    Raises:
        UnsupportedMediaType: it is in one.
    """
    if headers.get(b"transfer-encoding", b"chunked").strip().lower() != b"chunked":
        raise UnsupportedMediaType("Send the body in chunks or whole: no Transfer-Encoding but chunked is undone here.")


@lru_cache(64)
def _media_type(content_type: bytes) -> bytes:
    return content_type.partition(b";")[0].strip().lower()


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"The request body is larger than {limit} bytes (MAX_REQUEST_BYTES).")


class CancelWhenCallerGoes(Interruptible):
    """Interrupt the block with `CallerGone` when the HTTP caller closes the connection.

    For what is more than one call, or less; a call alone is cancelled by the gateway.

    Args:
        receive: of the connection, whose body must have been read.
        lookout: starts the watch if the task takes a while.
    """

    __slots__ = ("_receive",)

    def __init__(self, receive: Receive, lookout: Lookout) -> None:
        self._receive = receive
        self._lookout = lookout

    def __enter__(self) -> Self:
        self.begin(self._lookout)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if (reason := self.end(error)) is not None:
            raise reason from error

    def overdue(self) -> None:
        """Start to watch."""
        self.interrupt_after(partial(_closed, self._receive), CallerGone())


async def run_cancellably(
    app: ASGIApp, scope: Scope, receive: Receive, send: Send, *, body: bytes, lookout: Lookout
) -> None:
    """Run an ASGI app on a body that was read already; cancel it when the caller goes away."""

    async def never() -> Message:
        # The watch below owns the connection's own messages; the app is cancelled rather than told.
        return await asyncio.get_running_loop().create_future()

    with suppress(CallerGone), CancelWhenCallerGoes(receive, lookout):
        await app(scope, replay(body, never), send)


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body once more and then goes on with the connection's own messages."""
    unread = [body]

    async def receive_again() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        return await receive()

    return receive_again


_FOR_ITS_CALLER = [(b"cache-control", b"private"), (b"vary", b"authorization")]
"""That what was read is for nobody but who has read it: what there is to see depends on the caller's roles."""


class Naming:
    """ASGI middleware that writes into the responses of applications which do not know it whose they are.

    `X-Request-ID` names the request. What was read may be kept for its caller alone, unless the application says more.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        request_id: str = scope["state"]["request_id"]
        header = (b"x-request-id", request_id.encode())
        reads = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")

        def send_named(message: Message) -> Awaitable[None]:
            if message["type"] in ("http.response.start", "websocket.accept"):
                headers = message.get("headers", ())
                if header not in headers:
                    message["headers"] = [*headers, header]
                if reads:
                    _keep_private(message)
            return send(message)

        return self._app(scope, receive, send_named)


def _keep_private(start: Message) -> None:
    headers: list[tuple[bytes, bytes]] = [*start["headers"]]
    given = dict(headers)
    added = [field for field in _FOR_ITS_CALLER if field[0] not in given]
    if (vary := given.get(b"vary")) is not None and b"authorization" not in vary.lower():
        headers.remove((b"vary", vary))
        added.append((b"vary", vary + b", authorization"))
    start["headers"] = [*headers, *added]


def answer_at_once(send: Send, status: int, media_type: str, body: bytes, request_id: str) -> bool:
    """Answer as `send_bytes` does; False, and nothing is done, where somebody has to be waited for."""
    if not isinstance(exchange := getattr(send, "__self__", None), Exchange):
        return False
    fields = f"content-type: {media_type}\r\ncontent-length: {len(body)}\r\nx-request-id: {request_id}\r\n"
    return exchange.answer(status, fields.encode(), body)


async def send_bytes(
    send: Send,
    status: int,
    media_type: str,
    body: bytes,
    request_id: str,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Answer with a whole body, under the request's id."""
    if headers is None and answer_at_once(send, status, media_type, body, request_id):
        return
    await start_answer(send, status, media_type, len(body), request_id, headers)
    await send({"type": "http.response.body", "body": body})


async def send_result(
    send: Send, gateway: Gateway, body: bytes, request_id: str, headers: Mapping[str, str] | None = None
) -> None:
    """Answer with a large result, which counts until its connection has it."""
    with gateway.results.share() as share:
        share.take(len(body))
        await send_bytes(send, 200, JSON, body, request_id, headers)


def start_answer(
    send: Send, status: int, media_type: str, size: int, request_id: str, headers: Mapping[str, str] | None = None
) -> Awaitable[None]:
    """Begin an answer, under the request's id, whose body has `size` bytes."""
    fields = [
        (b"content-type", media_type.encode()),
        (b"content-length", b"%d" % size),
        (b"x-request-id", request_id.encode()),
    ]
    if headers:
        fields += [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return send({"type": "http.response.start", "status": status, "headers": fields})


async def send_problem(
    send: Send, error: GatewayError, request_id: str, headers: Mapping[str, str] | None = None
) -> None:
    """Answer with a failure, as RFC 9457 wants it."""
    body = error.problem(request_id).model_dump_json(exclude_none=True).encode()
    await send_bytes(send, error.status, PROBLEM_JSON, body, request_id, {**problem_headers(error), **(headers or {})})


async def send_refusal(scope: Scope, send: Send, error: GatewayError, headers: Mapping[str, str] | None = None) -> None:
    """Answer what comes to no call, a WebSocket's handshake too, and write the line that its call would have had."""
    note_refusal(scope, error)
    answer = send if scope["type"] == "http" else _before_the_handshake(send)
    await send_problem(answer, error, scope["state"]["request_id"], headers)


def note_refusal(scope: Scope, error: GatewayError) -> None:
    """Write the line of a request that comes to no call. What its query says may be about customers, or a secret."""
    state = scope["state"]
    origin = origin_of_headers(state["headers"])
    refused[error.code] += 1
    _log.info(
        "refused: method=%s path=%s status=%d code=%s client=%s address=%s"
        " conversation=%s traceparent=%s request_id=%s",
        scope.get("method", "WEBSOCKET"),
        quoted(scope["path"]),
        error.status,
        error.code,
        state["client"],
        state["address"],
        origin.conversation,
        origin.traceparent,
        state["request_id"],
    )


def _before_the_handshake(send: Send) -> Send:
    """Return a `send` that answers a WebSocket's handshake by HTTP."""
    return lambda message: send({**message, "type": f"websocket.{message['type']}"})


def problem_headers(error: GatewayError) -> dict[str, str]:
    """Return the headers that belong to a failure."""
    headers = {"cache-control": "no-store"}
    if error.retry_after is not None or isinstance(error, TooManyRequests):
        headers["retry-after"] = str(max(1, ceil(error.retry_after or 1)))
    if isinstance(error, ProcessFull):
        # The rest of what was sent is not read.
        headers["connection"] = "close"
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, InsufficientScope):
        scope = f', scope="{" ".join(error.scopes)}"' if error.scopes else ""
        headers["www-authenticate"] = f'Bearer error="{error.code}"{scope}'
    return headers
