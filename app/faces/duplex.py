"""A connection that carries JSON-RPC messages both ways for as long as it lives: what WebSocket and stdio share."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self

import anyio
import mcp_types as types
from mcp.server.runner import serve_dual_era_loop
from mcp.shared.dispatcher import coerce_request_id
from mcp.shared.message import ServerMessageMetadata, SessionMessage
from pydantic_core import from_json, to_json

from app.errors import BackendUnavailable, GatewayError, TooManyRequests
from app.faces.holding import Holding
from app.faces.jsonrpc import NotAMessage, read_message
from app.faces.plain_calls import PLAIN_LEGACY, PlainCall, PlainCalls
from app.faces.protocol import ProtocolServer, Received, client_name, refusal
from app.faces.subscriptions import Subscriptions
from app.gateway import Gateway
from app.guard.principal import Principal
from app.servers.calls import CallContext, Face, Peer, new_request_id
from app.servers.origins import within

_log = logging.getLogger(__name__)

MAX_UNANSWERED = 64
"""Requests of one connection that are under way."""
MAX_WAITING_BYTES = 64 * 1024
"""Bytes of messages that wait for a client to take those before them, until nothing more is read from it."""
_FLUSH = 1.0
"""Seconds that the last messages of an ending connection get to leave."""

_APART = 0.01
"""Seconds between the last progress of a call and its answer. The TypeScript SDK forgets whom to tell of progress that
it reads together with the answer (modelcontextprotocol/typescript-sdk#2580)."""

_CLOSED = "Connection closed"
"""What the SDK, too, answers to requests that run when a connection ends."""

Write = Callable[[bytes], Awaitable[None]]
WriteNow = Callable[[bytes], bool]


class Backlog:
    """The messages that wait in all connections of a process, and the bound to their memory.

    What one connection may ask for is bounded in number; the size of answers is not known before they are there.

    Args:
        most: bytes. Beyond them the connection that has taken nothing for longest is given up.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: dict[Duplex, int] = {}
        """Bytes by connection; the one whose last message left longest ago comes first."""
        self.bytes = 0

    def grew(self, connection: "Duplex", size: int) -> None:
        """Note that a message waits."""
        self._waiting[connection] = self._waiting.get(connection, 0) + size
        self.bytes += size
        while self.bytes > self._most:
            next(iter(self._waiting)).give_up()

    def shrank(self, connection: "Duplex", size: int) -> None:
        """Note that a message has left, or is dropped."""
        self.bytes -= size
        if left := self._waiting.pop(connection) - size:
            self._waiting[connection] = left


def _not_now(_: bytes) -> bool:
    return False


class _PlainLane:
    """Recognizes the plain calls of one connection.

    In which era a connection is, and what is negotiated, is for the SDK to say: once it has answered one call with a
    result, those like it are plain.

    Args:
        calls: of the endpoint.
        principal: who calls.
    """

    def __init__(self, calls: PlainCalls, principal: Principal) -> None:
        self._calls = calls
        self._principal = principal
        self._modern: bool | None = None
        """The era of the calls that are plain; None where none is yet."""
        self._tried: tuple[types.RequestId, bool] | None = None
        """The call that the SDK has to answer first."""
        self._opening: types.JSONRPCRequest | None = None
        self._is_legacy = False
        self.client: str | None = None
        """Who the client has said it is, for the whole connection."""

    def recognize(self, message: bytes) -> PlainCall | None:
        """Return the call that a message is, or None if it is anything but a plain one."""
        return None if self._modern is None else self._calls.read(message, self._principal, modern=self._modern)

    def asked(self, request: types.JSONRPCRequest, message: bytes) -> None:
        """Note a request that the SDK gets, and the message that it is."""
        if request.method == "initialize":
            self._opening, self._is_legacy, self._modern, self._tried, self.client = request, False, None, None, None
        elif self._modern is None and self._tried is None:
            modern = not self._is_legacy
            if self._calls.read(message, self._principal, modern=modern) is not None:
                self._tried = request.id, modern

    def answered(self, message: types.JSONRPCResponse | types.JSONRPCError) -> None:
        """Note what the SDK answers."""
        result = message.result if isinstance(message, types.JSONRPCResponse) else None
        if self._opening is not None and message.id == self._opening.id:
            if result is not None and result.get("protocolVersion") in PLAIN_LEGACY:
                self._is_legacy = True
                opened = types.InitializeRequestParams.model_validate(self._opening.params)
                self.client = client_name(opened.client_info)
            self._opening = None
        elif self._tried is not None and message.id == self._tried[0]:
            if result is not None and "content" in result:
                self._modern = self._tried[1]
            self._tried = None

    def cancelled(self, request_id: types.RequestId) -> None:
        """Note that the SDK will not answer a request."""
        if self._tried is not None and self._tried[0] == request_id:
            self._tried = None


class Duplex:
    """Serves MCP to one client over one connection, many requests under way.

    Notices and answers to us are always read. What bounds memory: `MAX_UNANSWERED` requests, and nothing is read while
    the client does not take what is there for it.

    Args:
        gateway: where calls go.
        server: the server's name; None for all servers.
        face: how calls come in, for the log.
        write: sends one message and returns once there is room for another one; raises anyio's `BrokenResourceError`
            when nobody is there to take it.
        write_now: sends one message if that takes no waiting, and tells whether it has; None where it always does.
        backlog: of the face.
        peer: who is at the other end.
        patient: let a request beyond `MAX_UNANSWERED` wait, unread, where it would be refused; for a client that can't
            hold others up.
    """

    def __init__(
        self,
        gateway: Gateway,
        server: str | None,
        face: Face,
        write: Write,
        backlog: Backlog,
        peer: Peer,
        *,
        write_now: WriteNow | None = None,
        patient: bool = False,
    ) -> None:
        self._gateway = gateway
        self._loop = asyncio.get_running_loop()
        self._write = write
        self._write_now = write_now or _not_now
        self._backlog = backlog
        self._patient = patient
        self._server = server
        self._face: Face = face
        self._peer = peer
        self._incoming, self._read_stream = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        self._unsent: deque[tuple[bytes, bool]] = deque()
        """Messages in their order, and whether each answers a request. The first one stays until it is written."""
        self._filled = asyncio.Event()
        """Set when there is one."""
        self._unsent_bytes = 0
        self._put = self._sent = 0
        self._unanswered = 0
        self.told: dict[types.RequestId, float] = {}
        """When the last notice about a request left, by the request's id."""
        self._over = asyncio.Event()
        self._changed: asyncio.Event | None = None
        """Set at the next change of what somebody waits for; None while nobody does."""
        self._subscriptions: Subscriptions
        self._plain_calls: PlainCalls
        self.lane: _PlainLane
        self._running: dict[asyncio.Task[bytes], PlainCall] = {}
        """Plain calls that are under way."""
        self._withdrawn: set[asyncio.Task[bytes]] = set()
        """Those of which the client wants no answer any more."""
        self._holding: dict[types.RequestId, Holding] = {}
        """What the SDK's answers hold, by their requests' ids."""
        self._stamp: Mapping[str, Any]

    async def serve(self, read: Coroutine[Any, Any, None]) -> None:
        """Serve until `read` returns, nobody takes our messages any more, or the gateway stops.

        Args:
            read: hands what comes to `take`. Its end is the end of the connection.
        """
        async with asyncio.TaskGroup() as tasks:
            self._subscriptions = Subscriptions(tasks)
            protocol = ProtocolServer(self._gateway, self._server, self._face, self._subscriptions)
            self._stamp = protocol.server_info_stamp
            self._plain_calls = PlainCalls(self._gateway, self._server, protocol)
            self.lane = _PlainLane(self._plain_calls, self._peer.principal)
            answering = tasks.create_task(
                serve_dual_era_loop(protocol, self._read_stream, _WayOut(self), lifespan_state=None)
            )
            moving = [tasks.create_task(self._read(read)), tasks.create_task(self._send_messages())]
            ends = [tasks.create_task(self._gateway.closing.wait()), tasks.create_task(self._over.wait())]
            try:
                await asyncio.wait([answering, *ends], return_when=asyncio.FIRST_COMPLETED)
                if self._gateway.closing.is_set():
                    await self._at_most(self._gateway.settings.shutdown_grace, self.finish())
            finally:
                answering.cancel()
                await self._subscriptions.close()
                running = list(self._running)
                for task in running:
                    task.cancel()
                await asyncio.wait([answering, *running])
                for request_id in list(self._holding):
                    self.release(request_id)
                self._incoming.close()
                await self._at_most(_FLUSH, self._until(lambda: not self._unsent))
                self.give_up()
                running = list(self._running)
                for task in (*moving, *ends, *running):
                    task.cancel()
                if running:
                    await asyncio.wait(running)

    def take_now(self, message: bytes) -> bool:
        """Begin a plain call, if that takes no waiting and no refusal; False, and nothing is done, for all else.

        Args:
            message: what came, after all that came before it has been taken.
        """
        if self._over.is_set() or not self._has_room() or self._is_full() or self._reason_to_refuse() is not None:
            return False
        call = self.lane.recognize(message)
        if call is not None:
            self._run(call)
        return call is not None

    async def take(self, raw: bytes) -> None:
        """Handle one frame or line that came.

        It returns once there is room for the next one: after a client has taken what waits for it.

        Raises:
            anyio.BrokenResourceError: nobody is there to be answered.
        """
        await self._until(self._has_room)
        call = self.lane.recognize(raw)
        if call is not None:
            await self._until_one_more_may_be_asked()
            if self._reason_to_refuse() is None:
                self._run(call)
                return
        try:
            message = read_message(raw)
        except NotAMessage as error:
            self.put(error.answer)
            return
        metadata = None
        if isinstance(message, types.JSONRPCNotification):
            if message.method == "notifications/cancelled":
                self._withdraw((message.params or {}).get("requestId"))
        elif isinstance(message, types.JSONRPCRequest):
            await self._until_one_more_may_be_asked()
            if (error := self._reason_to_refuse()) is not None:
                self.put(to_json(refusal(message, error, self._stamp)))
                return
            self.lane.asked(message, raw)
            self._unanswered += 1
            self.release(message.id)  # of another request with this id, whose turn it may be
            holding = self._holding[message.id] = Holding(self._gateway)
            metadata = ServerMessageMetadata(
                request_context=Received(raw, self._peer, holding),
                on_request_unanswered=partial(self._cancelled, message.id),
            )
        await self._incoming.send(SessionMessage(message, metadata))

    async def finish(self) -> None:
        """End the subscriptions and return once every other request is answered."""
        await self._subscriptions.close()
        await self._until(lambda: not self._unanswered)

    def put(self, text: bytes, *, answers: bool = False) -> None:
        """Send a message as soon as those before it have left: now, if they have and there is room for it.

        Raises:
            anyio.BrokenResourceError: nobody is there to take it.
        """
        if self._over.is_set():
            raise anyio.BrokenResourceError
        self._put += 1
        if not self._unsent and self._write_now(text):
            self._has_left(answers=answers)
            return
        self._unsent.append((text, answers))
        self._unsent_bytes += len(text)
        self._filled.set()
        self._backlog.grew(self, len(text))

    def give_up(self) -> None:
        """End the connection and drop what waits in it."""
        self._over.set()
        if self._unsent:
            self._backlog.shrank(self, self._unsent_bytes)
            self._unsent.clear()
            self._unsent_bytes = 0
        self._filled.set()
        self._notify()

    async def answer(self, text: bytes, request_id: types.RequestId | None) -> None:
        """Send the answer to a request as soon as what is before it has left."""
        if request_id is not None and (told := self.told.pop(request_id, None)) is not None:
            try:
                await asyncio.sleep(told + _APART - time.monotonic())
            except asyncio.CancelledError:
                self._settle()
                raise
        self.put(text, answers=True)

    async def send(self, text: bytes) -> None:
        """Send a message and return once it has left.

        Raises:
            anyio.BrokenResourceError: nobody is there to take it.
        """
        await self._until(self._has_room)
        self.put(text)
        last = self._put
        if self._sent >= last:
            await asyncio.sleep(0)  # others get their turn, however many messages there is room for
        await self._until(lambda: self._sent >= last)

    def _run(self, call: PlainCall) -> None:
        """Run a plain call in a task of its own, whose end is its answer."""
        self._unanswered += 1
        peer = self._peer
        context = CallContext(
            new_request_id(),
            self._face,
            principal=peer.principal,
            client=call.client or self.lane.client or peer.client,
            address=peer.address,
            origin=within(call.origin, peer.origin),
        )
        # Not a task of the group's, whose own accounts cost half of what a task does: `serve` ends those that run.
        task = self._loop.create_task(self._plain_calls.run(call, context))
        self._running[task] = call
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[bytes]) -> None:
        call = self._running.pop(task)
        if task in self._withdrawn:
            self._withdrawn.discard(task)
            self._settle()
            return
        try:
            if task.cancelled():
                error = to_json({"code": types.CONNECTION_CLOSED, "message": _CLOSED})
                self.put(b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (call.id, error), answers=True)
            elif (error := task.exception()) is not None:
                _log.error("A call failed where nothing may; its connection ends.", exc_info=error)
                self.give_up()  # whoever waits for the answer is not to wait for ever
            else:
                self.put(task.result(), answers=True)
        except anyio.BrokenResourceError:
            pass  # nobody is there to take it; `suppress` would cost every call

    def _withdraw(self, request_id: Any) -> None:
        """End a plain call without an answer: of those with one id the last, as the SDK does."""
        if isinstance(request_id, str | int) and not isinstance(request_id, bool):
            number = coerce_request_id(request_id)
            for task, call in reversed(self._running.items()):
                if coerce_request_id(from_json(call.id)) == number:
                    self._withdrawn.add(task)
                    task.cancel()
                    return

    async def _until_one_more_may_be_asked(self) -> None:
        await self._until(lambda: not self._is_full())

    def _is_full(self) -> bool:
        """Tell whether a request has to wait for an answer to another one."""
        return self._patient and self._unanswered - self._subscriptions.streams >= MAX_UNANSWERED

    def _reason_to_refuse(self) -> GatewayError | None:
        if self._gateway.closing.is_set():
            return BackendUnavailable("The gateway is stopping. Connect again and repeat the call.", retry_after=1)
        if not self._patient and self._unanswered >= MAX_UNANSWERED:
            return TooManyRequests(
                f"{MAX_UNANSWERED} requests of this connection are unanswered. Wait for an answer before the next one."
            )
        return None

    def _has_room(self) -> bool:
        return self._unsent_bytes < MAX_WAITING_BYTES

    def complete(self, text: bytes, request_id: types.RequestId | None) -> bytes:
        """Return the whole of an answer that is written."""
        if request_id is not None and (holding := self._holding.get(request_id)) is not None:
            text = holding.fill_in(text)
            self.release(request_id)
        return text

    def release(self, request_id: types.RequestId | None) -> None:
        """Note that the answer to a request is written, or not wanted."""
        if request_id is not None and (holding := self._holding.pop(request_id, None)) is not None:
            holding.release()

    async def _cancelled(self, request_id: types.RequestId) -> None:
        """Note that a request will have no answer, since its client cancelled it."""
        self.release(request_id)
        self.told.pop(request_id, None)
        self.lane.cancelled(request_id)
        self._settle()

    def _settle(self) -> None:
        self._unanswered -= 1
        self._notify()

    async def _read(self, read: Coroutine[Any, Any, None]) -> None:
        with suppress(anyio.BrokenResourceError):
            await read
        self.give_up()

    async def _send_messages(self) -> None:
        with suppress(anyio.BrokenResourceError):
            while not self._over.is_set():
                if not self._unsent:
                    self._filled.clear()
                    await self._filled.wait()
                    continue
                text, answers = self._unsent[0]
                await self._write(text)
                if self._over.is_set():
                    return
                self._unsent.popleft()
                self._unsent_bytes -= len(text)
                self._backlog.shrank(self, len(text))
                self._has_left(answers=answers)
        self.give_up()

    def _has_left(self, *, answers: bool) -> None:
        self._sent += 1
        self._unanswered -= answers
        self._notify()

    async def _at_most(self, seconds: float, work: Coroutine[Any, Any, None]) -> None:
        with suppress(TimeoutError, anyio.BrokenResourceError):
            async with asyncio.timeout(seconds):
                await work

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Return once the condition holds.

        Raises:
            anyio.BrokenResourceError: nobody is there any more.
        """
        while True:
            if self._over.is_set():
                raise anyio.BrokenResourceError
            if condition():
                return
            if self._changed is None:
                self._changed = asyncio.Event()
            await self._changed.wait()

    def _notify(self) -> None:
        """Wake who waits for a change; who comes later waits for the next one."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None


class _WayOut:
    """Where the SDK writes: an answer is put down at once, so that nothing of a call is kept but its bytes."""

    def __init__(self, connection: Duplex) -> None:
        self._connection = connection

    async def send(self, item: SessionMessage, /) -> None:
        text = item.message.model_dump_json(by_alias=True, exclude_none=True).encode()
        if isinstance(item.message, types.JSONRPCResponse | types.JSONRPCError):
            self._connection.lane.answered(item.message)
            text = self._connection.complete(text, item.message.id)
            await self._connection.answer(text, item.message.id)
        else:
            # A tool that reports its progress, or a watch, goes no faster than its client.
            await self._connection.send(text)
            if isinstance(item.metadata, ServerMessageMetadata) and item.metadata.related_request_id is not None:
                self._connection.told[item.metadata.related_request_id] = time.monotonic()

    async def aclose(self) -> None:
        """Do nothing: the connection ends by itself."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        return None
