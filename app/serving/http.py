"""HTTP/1.1 on a socket: uvicorn's protocol, with what it leaves open to callers closed."""

# uvicorn declares `cycle` and `scope`, which are None at first, as what they are later.
# pyright: reportUnnecessaryComparison=false

import asyncio
import logging
from functools import partial
from typing import Any, NamedTuple, cast
from urllib.parse import unquote

import httptools
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHeader
from websockets.http11 import MAX_LINE_LENGTH, MAX_NUM_HEADERS, Request
from websockets.server import ServerProtocol

from app.budget import LARGE, Budget
from app.errors import GatewayError, HeadTooLarge, MalformedRequest, MethodNotAllowed, ProcessFull
from app.faces.http import Exchange, send_problem
from app.main import GatewayApp
from app.servers.calls import new_request_id
from app.serving.connections import Awaited, Connection, Connections, Wait
from app.serving.heads import END_OF_HEAD, RepeatedHead

_log = logging.getLogger(__name__)
MAX_HEAD_BYTES = 64 * 1024
"""Largest head of a request; a chunked body's trailers, and a chunk's extension, have as much."""
MAX_FIELDS = 256
"""Fields of a head: each is an object or four, so short ones would hold twenty times the bytes of the head."""
MAX_PIPELINED = 16
"""Requests that wait on one connection for the one before. Until all are gone, nothing more is read."""

_PIECE = 16 * 1024
"""Bytes that the parser gets at a time, since it tells nothing of what it has not read to an end."""
_REMEMBERS_EVERY = 16
"""Of so many requests whose heads are not those before, one is remembered: who never repeats himself pays for few."""
_SHORTEST_REQUEST = len(b"GET /\r\n\r\n")
_HOP_BY_HOP = frozenset({b"upgrade", b"http2-settings"})


class _Nowhere(list[tuple[bytes, bytes]]):
    """Where the trailers of a chunked body go: identity, for one, is read from headers."""

    def append(self, item: tuple[bytes, bytes], /) -> None:
        pass


_NOWHERE = _Nowhere()


class _Target(NamedTuple):
    """What a request asks for."""

    url: bytes
    """As its first line says it."""
    parts: tuple[str, bytes, bytes]
    """The path, the same as it came, and the query."""


class _Refused(Exception):
    """Stops the parser, whose input is refused."""


class _Flow(FlowControl):
    """Reads on only when there is room for it, though whoever waits for a caller to go away asks it to."""

    full = False

    def resume_reading(self) -> None:
        if self.read_paused and not self.full:
            super().resume_reading()


async def _has_returned(*_: object) -> None:
    """Stand for an application that has come to its end."""


async def _raise(error: BaseException, *_: object) -> None:
    """Stand for an application that has failed."""
    raise error


def _nothing() -> None:
    pass


class _LateEvent:
    """An `asyncio.Event` that is made when somebody waits for it, as for nearly no request anybody does."""

    __slots__ = ("_event", "_is_set")

    def __init__(self) -> None:
        self._event: asyncio.Event | None = None
        self._is_set = False

    def set(self) -> None:
        self._is_set = True
        if self._event is not None:
            self._event.set()

    def clear(self) -> None:
        self._is_set = False
        if self._event is not None:
            self._event.clear()

    async def wait(self) -> None:
        if not self._is_set:
            if self._event is None:
                self._event = asyncio.Event()
            await self._event.wait()


class Cycle(RequestResponseCycle, Exchange):
    """A request and its answer, by ASGI's messages or, where nothing stands between, whole."""

    task: "asyncio.Task[None]"
    """In which it is answered."""

    async def run(self, app: Any, tasks: "set[asyncio.Task[None]]") -> None:
        """Answer the request, as `run_asgi` does; what goes wrong is left to that.

        That might do all of it, for 0.3 µs more of some 13 a call. At the end the task is taken from the others here,
        since a callback takes longer.
        """
        try:
            await app(self.scope, self.receive, self.send)
            if not self.response_complete:
                await self.run_asgi(_has_returned)
            self.on_response = _nothing
        except BaseException as error:
            await self.run_asgi(partial(_raise, error))
        finally:
            tasks.discard(self.task)

    def take_body(self) -> bytes | None:
        if self.more_body or self.disconnected or self.response_complete or self.waiting_for_100_continue:
            return None
        if self.flow.read_paused:
            self.flow.resume_reading()
        self.message_event.clear()
        body, self.body = bytes(self.body), bytearray()
        return body

    def answer(self, status: int, fields: bytes, body: bytes) -> bool:
        if self.flow.write_paused or self.response_started or self.scope["method"] == "HEAD":
            return False
        if self.disconnected:
            return True
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        head = STATUS_LINE[status]
        for name, value in self.default_headers:
            head += name + b": " + value + b"\r\n"
        head += fields + (b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        if len(body) <= LARGE:
            self.transport.write(head + body)
        else:  # which is not copied for the sake of its head
            self.transport.write(head)
            self.transport.write(body)
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
        return True


class HttpProtocol(HttpToolsProtocol):
    """One connection.

    - An `Upgrade` to anything but a WebSocket is ignored, as RFC 9110 has it: uvicorn stops reading there, and takes
      the body for the next request (uvicorn#2722).
    - Trailers are dropped. Heads, trailers and requests that wait for others are bounded.
    - A refusal is an answer like all others: in its turn, under a request id, as problem+json.
    - A head that comes again, but for the length of its body, is not parsed again.
    - There is no timer a request: the clock of `Connections` looks at every connection once a second.

    Args:
        connections: all of them.
        unfinished: budget of the process for what was received and can't be worked on yet.
    """

    def __init__(self, connections: Connections, unfinished: Budget, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        if isinstance(self.app, GatewayApp):
            self.app = self.app.front
        self._connections = connections
        self._connection: Connection
        self._flow: _Flow
        self._share = unfinished.share()
        self._running: RequestResponseCycle | None = None
        self._received = 0
        """Times that bytes came."""
        self._begun = self._answered = 0
        """Requests whose heads were read, and those that were answered."""
        self._unread = b""
        """What was received while the pipeline was full, from `_read` on."""
        self._read = 0
        self._without_progress = 0
        """Bytes of the message that is under way which became neither a request nor a body."""
        self._target = _Target(b"", ("", b"", b""))
        """What the latest request asked for."""
        self._head: RepeatedHead | None = None
        """That of a request before, if the next may have the same."""
        self._upgrade = ""
        """What the head that was just read would make of the connection, if anything: `websocket` or `ignored`."""
        self._deaf = False
        """Whether what the caller still sends is dropped."""

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._connection = Connection(transport, self, self._connections)
        super().connection_made(cast("asyncio.Transport", self._connection))
        self.flow = self._flow = _Flow(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.lost()
        self._share.release()
        self._unread = b""
        if self._running is not None and not self._running.response_complete:
            # uvicorn tells the last request of the pipeline only, which does not run yet.
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._connection.pause_writing()

    def awaited(self) -> Wait | None:
        """Return what we wait for the caller to do."""
        cycle = self.cycle
        if self._connection.said_farewell:
            return Wait(Awaited.FAREWELL, 0)
        if self.flow.read_paused or self._deaf:
            return None
        if self._in_head:
            return Wait(Awaited.HEAD, self._answered)
        if cycle is None or (cycle.response_complete and not cycle.more_body):
            return Wait(Awaited.NEXT_REQUEST, self._answered)
        if cycle.response_complete:
            return Wait(Awaited.DISCARDED_BODY, self._answered)
        if cycle.more_body and not cycle.waiting_for_100_continue:
            streams = cast("dict[str, Any]", cycle.scope).get("state", {}).get("streams")
            return Wait(Awaited.BODY, self._received, None if streams else self._begun)
        return None

    @property
    def _in_head(self) -> bool:
        """Whether a request has begun whose head is not complete."""
        return self.scope is not None and (self.cycle is None or self.cycle.scope is not self.scope)

    @property
    def _is_between_requests(self) -> bool:
        """Whether all that has come was a whole request, or more than one, whatever has become of them."""
        return self.cycle is not None and self.cycle.scope is self.scope and not self.cycle.more_body

    def hang_up(self) -> bool:
        """Drop what comes from now on; tell whether the caller may still be sending."""
        sends = self._deaf or self._in_head or (self.cycle is not None and self.cycle.more_body)
        if sends:
            self._stop_listening()
        return sends

    # What comes

    def data_received(self, data: bytes) -> None:
        self._received += 1
        if self._deaf:
            return
        if self._unread:
            self._unread = self._unread[self._read :] + data
            self._read = 0
            self._weigh()
        elif not self.pipeline and self._repeats(data):
            pass
        elif not self.pipeline and (
            len(data) <= _SHORTEST_REQUEST * MAX_PIPELINED or (len(data) <= _PIECE and data.count(END_OF_HEAD) < 2)
        ):
            between, begun = self._is_between_requests, self._begun
            self._feed(data)
            if between and self._begun > begun:
                self._remember_head(data)
        else:
            self._unread, self._read = data, 0
            self._feed_unread()

    def _repeats(self, data: bytes) -> bool:
        """Begin the one request that was received, if its head is the one that we remember; tell whether it is.

        The parser, which is between two requests then, learns nothing of it.
        """
        head = self._head
        # For the sake of a large body reading stops, which is for `on_body` to say.
        if head is None or len(data) > HIGH_WATER_LIMIT:
            return False
        if not (self._is_between_requests and self.cycle.response_complete):
            return False
        if (request := head.request_in(data)) is None:
            return False
        self.scope, body = cast("Any", request[0]), request[1]
        self.scope["state"] = self.app_state.copy()
        self.headers, self.expect_100_continue = _NOWHERE, False
        self._begun += 1
        self.cycle = self._running = self._cycle(cast("Any", self.scope), keep_alive=True, access_log=self.access_log)
        self.cycle.body = cast("bytearray", body)  # to which nothing is added any more
        self.cycle.more_body = False
        self.cycle.message_event.set()
        self._start_asgi_task(self.cycle, cast("Any", self.app))
        return True

    def _remember_head(self, data: bytes) -> None:
        """Remember the head of what was received, now and then; none where that was more, or less, than a request."""
        if self._begun % _REMEMBERS_EVERY == 2 and self.cycle.keep_alive:
            self._head = RepeatedHead.of(data, self.cycle.scope) if self._is_between_requests else None

    def _feed_unread(self) -> None:
        """Feed one request after the other, as long as there is room for them."""
        data, start = self._unread, self._read
        while start < len(data) and not self._deaf:
            if self._flow.full or len(self.pipeline) >= MAX_PIPELINED:
                self._flow.full = True
                self.flow.pause_reading()
                break
            end = data.find(END_OF_HEAD, start, start + _PIECE)
            end = end + len(END_OF_HEAD) if end >= 0 else start + _PIECE
            self._feed(data[start:end])
            start = end
            if self._connection.caller is not self:
                # It is a WebSocket now: none of what follows is a request.
                self._unread, self._read = b"", 0
                if start < len(data):
                    self._pass_on(data[start:])
                return
        done = start >= len(data) or self._deaf
        self._unread, self._read = (b"", 0) if done else (data, start)
        self._weigh()

    def _feed(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                rest = data[upgrade.args[0] :]
                if self._upgrade == "websocket":
                    self._hand_over(rest)
                    return
                data = self._head_without_upgrade() + rest
                self._upgrade = ""
                self.parser = _parser(self)
                self._without_progress = 0
            except httptools.HttpParserError:
                self._refuse(MalformedRequest("That is not a request of HTTP/1.1."))
                return
            else:
                break
        cycle = self.cycle
        if cycle is None or cycle.scope is not self.scope or cycle.more_body:
            self._without_progress += len(data)
            if self._without_progress > MAX_HEAD_BYTES:
                self._refuse(_head_too_large())
            self._weigh()
        elif self._share.held:
            self._weigh()

    def _weigh(self) -> None:
        """Take from the process's budget what waits for its turn, or for its end."""
        waiting = len(self._unread) - self._read
        if self._in_head:
            waiting += self._without_progress
        for cycle, _ in self.pipeline:
            waiting += len(cycle.body) + sum(len(name) + len(value) for name, value in cycle.scope["headers"])
        if waiting or self._share.held:
            try:
                self._share.hold(0 if self._deaf else waiting)
            except ProcessFull as error:
                self._refuse(error)

    # What the parser finds

    def on_headers_complete(self) -> None:
        if len(self.headers) > MAX_FIELDS or (self._without_progress and self._head_size() > MAX_HEAD_BYTES):
            raise self._refusal(_head_too_large())
        if self.url[:1] != b"/" or b"#" in self.url:
            self._settle_target()
        if self.parser.should_upgrade():
            self.scope["method"] = self.parser.get_method().decode("ascii")
            self._upgrade = "websocket" if self._asks_for_websocket() else "ignored"
            if self._upgrade == "websocket":
                self._check_handshake()
            return
        self._begin_request()
        self._begun += 1
        self.headers = _NOWHERE

    def _begin_request(self) -> None:
        """Start what answers a request, or let it wait for its turn: uvicorn's `on_headers_complete` with our cycle."""
        scope, version = self.scope, self.parser.get_http_version()
        scope["method"] = self.parser.get_method().decode("ascii")
        if version != "1.1":
            if version != "1.0":
                raise self._refusal(MalformedRequest(f"HTTP/{version} is not spoken here. Use HTTP/1.1."))
            scope["http_version"] = version
        if self.url != self._target.url:  # most callers ask for the same again and again
            self._target = _target(self.url)
        scope["path"], scope["raw_path"], scope["query_string"] = self._target.parts
        before, app = self.cycle, cast("Any", self.app)
        keep_alive = version != "1.0" and self.parser.should_keep_alive()
        self.cycle = self._cycle(cast("dict[str, Any]", scope), keep_alive=keep_alive, access_log=self.access_log)
        if before is None or before.response_complete:
            self._running = self.cycle
            self._start_asgi_task(self.cycle, app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, app))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        assert isinstance(cycle, Cycle)
        cycle.task = self.loop.create_task(cycle.run(app, self.tasks))
        self.tasks.add(cycle.task)

    def _cycle(self, scope: dict[str, Any], *, keep_alive: bool, access_log: bool) -> Cycle:
        return Cycle(
            cast("Any", scope),
            self.transport,
            self.flow,
            self.logger,
            self.access_logger,
            access_log,
            self.server_state.default_headers,
            cast("asyncio.Event", _LateEvent()),
            self.expect_100_continue,
            keep_alive,
            self.on_response_complete,
        )

    def on_body(self, body: bytes) -> None:
        self._without_progress = 0
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self._flow.full = bool(self.pipeline)
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        if self._upgrade:
            return
        self._without_progress = 0
        # Said of an answered request, too: the clock waits for its end.
        self.cycle.more_body = False
        self.cycle.message_event.set()

    def _settle_target(self) -> None:
        """Write the path for an address that is given whole, as for a proxy; refuse what has two meanings."""
        if self.parser.get_method() == b"CONNECT":
            raise self._refusal(MethodNotAllowed("This is no proxy: CONNECT is not allowed. Use GET or POST."))
        if b"#" in self.url:
            # What a proxy in front takes for the path's end is for others a part of it.
            raise self._refusal(MalformedRequest("A request's target has no fragment: write `#` as %23."))
        if self.url == b"*" and self.parser.get_method() == b"OPTIONS":
            return
        scheme, _, rest = self.url.partition(b"://")
        if scheme.lower() not in (b"http", b"https"):
            raise self._refusal(MalformedRequest("A request's target begins with a slash, or with http://."))
        authority = rest.partition(b"/")[0].partition(b"?")[0]
        if any(name == b"host" and value.strip().lower() != authority.lower() for name, value in self.headers):
            raise self._refusal(
                MalformedRequest("Host: another one than the target's, and one of them may be believed. Send the same.")
            )
        path = rest[len(authority) :]
        self.url = path if path[:1] == b"/" else b"/" + path

    def _head_size(self) -> int:
        fields = sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)
        return len(self.url) + fields + len("GET  HTTP/1.1\r\n\r\n")

    # Upgrades

    def _asks_for_websocket(self) -> bool:
        """Tell whether a head that asks for an upgrade begins a WebSocket, and nothing else is under way."""
        wanted = [value.strip().lower() for name, value in self.headers if name == b"upgrade"]
        has_body = any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip() != b"0")
            for name, value in self.headers
        )
        idle = self.cycle is None or self.cycle.response_complete
        plain = self.scope["method"] == "GET" and self.parser.get_http_version() == "1.1"
        return wanted == [b"websocket"] and plain and idle and not has_body

    def _check_handshake(self) -> None:
        """Refuse what the WebSocket's library would refuse in words of its own, and without a line in the log."""
        if self._too_large_for_websocket():
            raise self._refusal(HeadTooLarge("A field of a WebSocket's head is too large, or there are too many."))
        fields = Headers()
        for name, value in self.headers:
            fields[name.decode("latin-1")] = value.decode("latin-1")
        try:
            ServerProtocol().process_request(Request(self.url.decode("latin-1"), fields))
        except InvalidHeader as error:
            raise self._refusal(
                MalformedRequest(f"{error.name}: a WebSocket is opened with one, as RFC 6455 has it.")
            ) from None

    def _too_large_for_websocket(self) -> bool:
        """Tell whether the head, which we could read, is beyond what the WebSocket's library reads; it would hang."""
        longest = max(len(name) + len(value) for name, value in self.headers) + len(": \r\n")
        return max(longest, len(self.url) + 16) > MAX_LINE_LENGTH or len(self.headers) > MAX_NUM_HEADERS

    def _head_without_upgrade(self) -> bytes:
        lines = [b"%b %b HTTP/%b" % (self.scope["method"].encode(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                tokens = [token.strip() for token in value.split(b",")]
                value = b", ".join(token for token in tokens if token.lower() not in _HOP_BY_HOP)  # noqa: PLW2901
            if name not in _HOP_BY_HOP:
                lines.append(name + b": " + value)
        return b"\r\n".join([*lines, b"", b""])

    def _hand_over(self, rest: bytes) -> None:
        """Let the WebSocket's protocol have the connection, and what came early."""
        self._share.release()
        self.handle_websocket_upgrade()
        if rest:
            self._pass_on(rest)

    def _pass_on(self, data: bytes) -> None:
        """Let the protocol that has the connection now have what came to us."""
        cast("asyncio.Protocol", self._connection.caller).data_received(data)

    # What goes

    def on_response_complete(self) -> None:
        # uvicorn sets a timer for each next request here, which the clock of `Connections` makes needless.
        self._answered += 1
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.pipeline:
            self._running, app = self.pipeline.pop()
            self._start_asgi_task(self._running, app)
        if not self.pipeline:
            self._flow.full = False
            if self._unread:
                self._feed_unread()
        if self._share.held:
            self._weigh()
        if self.flow.read_paused:
            self.flow.resume_reading()

    def _refusal(self, error: GatewayError) -> Exception:
        """Refuse from within the parser: what is returned stops it."""
        self._refuse(error)
        return _Refused()

    def _refuse(self, error: GatewayError) -> None:
        """Answer what is being received with a failure, in its turn, and read no more."""
        if self._deaf:
            return
        cycle = self.cycle
        receiving = cycle is not None and cycle.scope is self.scope and cycle.more_body
        self._stop_listening()
        if not receiving:
            self._answer(error)
        elif self.pipeline and self.pipeline[0][0] is cycle:
            cycle.keep_alive = False
            self.pipeline[0] = cycle, _answering(error, self.client)
        elif cycle.response_complete:
            self.transport.close()
        else:
            # For the application its caller has gone.
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.close()
            else:
                self._answer(error)

    def _answer(self, error: GatewayError) -> None:
        before = self.cycle
        scope: dict[str, Any] = {"type": "http", "method": "GET", "headers": []}
        self.expect_100_continue = False
        # Of what was never read whole there is nothing to say in an access log; `_answering` writes its own line.
        self.cycle = self._cycle(scope, keep_alive=False, access_log=False)
        app = _answering(error, self.client)
        if before is None or before.response_complete or before.disconnected:
            self._running = self.cycle
            self._start_asgi_task(self.cycle, app)
        else:
            self.pipeline.appendleft((self.cycle, app))

    def _stop_listening(self) -> None:
        self._deaf = True
        self._unread, self._read = b"", 0
        self._share.release()
        # What still comes is dropped, and nobody needs to be told that the caller has gone.
        self._flow.full = False
        self.flow.resume_reading()


def _target(url: bytes) -> _Target:
    parsed = httptools.parse_url(url)
    path = parsed.path.decode("ascii")
    return _Target(url, (unquote(path) if "%" in path else path, parsed.path, parsed.query or b""))


def _parser(protocol: HttpProtocol) -> httptools.HttpRequestParser:
    parser = httptools.HttpRequestParser(protocol)
    # As uvicorn does: a request that is not to be followed by another may still be.
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(
        f"The head of a request, or the trailers of its body, have at most {MAX_HEAD_BYTES} bytes,"
        f" and a head {MAX_FIELDS} fields."
    )


def _answering(error: GatewayError, client: tuple[str, int] | None) -> Any:
    """Return an application that answers with a failure, says so in the log, and closes the connection."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        request_id, address = new_request_id(), client[0] if client else "-"
        line = "refused unread: status=%d code=%s address=%s request_id=%s"
        _log.info(line, error.status, error.code, address, request_id)
        await send_problem(send, error, request_id, {"connection": "close"})

    return answer
