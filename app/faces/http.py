"""What every HTTP face shares: who calls, the body, the caller who goes away, failures on the wire."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import CallerGone, GatewayError, RequestTooLarge, TooManyRequests, UnsupportedMediaType
from app.lookout import Lookout
from app.servers import CallContext, Face, new_request_id

PROBLEM_JSON = "application/problem+json"
JSON = "application/json"


def call_context(scope: Scope, face: Face) -> CallContext:
    """Return the context of a request that came through the `Perimeter`."""
    state = scope.get("state", {})
    return CallContext(
        request_id=state.get("request_id") or new_request_id(), face=face, caller=state.get("caller", "anonymous")
    )


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Return a request's whole body.

    Raises:
        RequestTooLarge: it is, or says it is, larger than `limit` bytes.
        CallerGone: the caller left before its end.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit:
            raise _too_large(limit)
    message = await receive()
    body: bytes = message.get("body", b"")
    while message["type"] != "http.disconnect" and message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
    if message["type"] == "http.disconnect":
        raise CallerGone
    if len(body) > limit:
        raise _too_large(limit)
    return body


def require_json(scope: Scope, *, stated: bool = False) -> None:
    """Refuse a body that says it is something else: browsers send forms without asking the gateway first.

    Args:
        scope: of the request.
        stated: refuse a body that does not say what it is, too.

    Raises:
        UnsupportedMediaType: it is not JSON.
    """
    for name, value in scope["headers"]:
        if name == b"content-type":
            media_type = value.partition(b";")[0].strip().lower()
            if media_type == b"application/json" or media_type.endswith(b"+json") or not (media_type or stated):
                return
            break
    else:
        if not stated:
            return
    raise UnsupportedMediaType("Send JSON, and say so: -H 'content-type: application/json'.")


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"The request body is larger than {limit} bytes (MAX_REQUEST_BYTES).")


class CancelWhenCallerGoes:
    """Cancel the task within when the HTTP caller closes the connection.

    Leaving the block swallows that cancellation, and no other, and raises `CallerGone` in its place.
    A FastAPI route and the MCP SDK's JSON mode run a tool to its end for nobody; this is why we don't.

    Args:
        receive: of the connection, whose body must have been read.
        lookout: starts the watch if the task takes a while.
    """

    def __init__(self, receive: Receive, lookout: Lookout) -> None:
        self._receive = receive
        self._lookout = lookout
        self._watcher: asyncio.Task[None] | None = None
        self._gone = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._lookout.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lookout.remove(self)
        if self._watcher is not None:
            self._watcher.cancel()
        if self._gone:
            self._task.uncancel()
            if kind is None or issubclass(kind, asyncio.CancelledError):
                raise CallerGone from error

    def overdue(self) -> None:
        """Start to watch."""
        self._watcher = asyncio.ensure_future(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._task.cancel()


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


async def send_bytes(
    send: Send, status: int, media_type: str, body: bytes, headers: Mapping[str, str] | None = None
) -> None:
    """Answer with a whole body."""
    fields = [(b"content-type", media_type.encode()), (b"content-length", str(len(body)).encode())]
    fields += [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in (headers or {}).items()]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def send_problem(
    send: Send, error: GatewayError, request_id: str | None, headers: Mapping[str, str] | None = None
) -> None:
    """Answer with a failure, as RFC 9457 wants it."""
    body = error.problem(request_id).model_dump_json(exclude_none=True).encode()
    await send_bytes(send, error.status, PROBLEM_JSON, body, {**problem_headers(error), **(headers or {})})


def problem_headers(error: GatewayError) -> dict[str, str]:
    """Return the headers that belong to a failure."""
    headers = {"cache-control": "no-store"}
    if error.retry_after is not None or isinstance(error, TooManyRequests):
        headers["retry-after"] = str(max(1, round(error.retry_after or 1)))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return headers
