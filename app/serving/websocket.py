"""WebSockets on a socket: uvicorn's protocol, with what it leaves open to callers closed."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import apply_mask  # pyright: ignore[reportPrivateImportUsage] - in C, where there is that
from websockets.http11 import Request
from websockets.protocol import State
from websockets.streams import StreamReader

from app.budget import LARGE, Budget
from app.errors import ProcessFull
from app.faces.websocket import FRAMES, Frames
from app.serving.connections import Awaited, Connection, Wait

_log = logging.getLogger(f"{__name__}.uvicorn")
# At INFO it writes the address of each connection, query and all, in which somebody may have put a secret.
_log.setLevel(logging.WARNING)

_PIECE = 8 * 1024
"""Bytes that are read into messages before the application has them: thousands of tiny ones would hold the loop."""
_TRY_AGAIN_LATER, _TOO_BIG, _NOT_UTF8 = 1013, 1009, 1007
_SWITCHING = 101
"""HTTP's status of a handshake that was accepted."""
_WHOLE_TEXT = 0x81
"""First byte of a frame that is a text, whole and not compressed."""
_MASKED = 0x80
"""What the second byte has beside the length, or its form, from a client."""
_MASK, _SHORT, _MEDIUM, _LONG = 4, 126, 1 << 16, 127
"""Bytes of a mask; from which length on it is written in two bytes, and from which in eight; how that is said."""


class WebSocketProtocol(WebSocketsSansIOProtocol, Frames):
    """One connection, by ASGI's messages or, where that takes no waiting, text by text.

    - Nothing is read while the caller does not take what is written, pings included.
    - A message that is not complete counts against the process's budget, in whichever fragments it comes.

    Args:
        unfinished: budget of the process for what was received and can't be worked on yet.
    """

    def __init__(self, unfinished: Budget, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self.logger = _log
        self._connection: Connection
        self._share = unfinished.share()
        self._received = 0
        """Times that bytes came."""
        self._messages = 0
        """That the application was given."""
        self._unread: bytes = b""
        """What came while the application had not taken the message before, or the caller our answers."""
        self._unfinished = 0
        """Bytes of the message that is under way, with its frames' heads."""
        self._take: Callable[[bytes], bool] = _leave
        self._receiving = False
        """Whether the application waits for a message."""
        self._between_messages = False
        """Whether the library has read all that it was given, to the end of a message."""

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, Connection)
        self._connection = transport
        transport.caller = self
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.lost()
        self._unread, self._unfinished = b"", 0
        self._share.release()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._connection.pause_writing()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read_on()

    def awaited(self) -> Wait | None:
        """Return what we wait for the caller to do."""
        if self._unfinished and not self._unread and not self.read_paused:
            return Wait(Awaited.BODY, self._received, self._messages)
        return None

    def hang_up(self) -> bool:
        """Drop what comes from now on; tell whether the caller may still be sending."""
        return False

    # What comes

    def data_received(self, data: bytes) -> None:
        self._received += 1
        if not self.handshake_initiated:
            super().data_received(data)
            if self.conn.handshake_exc is not None:
                # The library can't read the head that httptools could; uvicorn would leave the caller waiting.
                self.transport.close()
            return
        if not self._unread and self._between_messages:
            data = self._offer(data)
        if data:
            self._unread += data
            self._read_on()

    def _offer(self, data: bytes) -> bytes:
        """Offer the texts in what came, as long as each is there whole and is taken; return the rest."""
        start, size = 0, len(data)
        while (
            size - start > len(b"\x81\x80") + _MASK
            and data[start] == _WHOLE_TEXT
            and self._receiving
            and self.queue.empty()
            and self._may_read()
        ):
            length, begin = data[start + 1] - _MASKED, start + 2 + _MASK
            if length == _SHORT:
                length, begin = int.from_bytes(data[start + 2 : start + 4]), begin + 2
            elif not 0 <= length < _SHORT:
                break  # not masked, which is for the library to refuse; or so long that it is rarely there whole
            end = begin + length
            if end > size or length > self.config.ws_max_size:
                break
            if not self._take(apply_mask(data[begin:end], data[begin - _MASK : begin])):
                break
            start = end
        return data[start:] if start else data

    def _read_on(self) -> None:
        """Read what came into messages, until there is one; then more from the socket."""
        while self._unread and self._may_read():
            piece, self._unread = self._unread[:_PIECE], self._unread[_PIECE:]
            super().data_received(piece)
            self._between_messages = self._is_between_messages()
            self._unfinished = 0 if self._between_messages else self._unfinished + len(piece)
            if self._unfinished > 2 * self.config.ws_max_size + _PIECE:
                # Fragments without content are not seen by the library's own limit.
                self._fail(_TOO_BIG, "too many fragments")
        if self._unread or self._unfinished or self._share.held:
            try:
                self._share.hold(self._unfinished + len(self._unread))
            except ProcessFull as error:
                self._fail(_TRY_AGAIN_LATER, error.detail)
        if self.transport.is_closing():
            self._unread = b""
        elif self._unread or self.read_paused or not self.writable.is_set():
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def send_receive_event_to_app(self) -> None:
        """Hand a whole message on; one that is no text ends the connection, of which uvicorn would log the trace."""
        message = b"".join(self.frames)
        if self.curr_msg_data_type == "text" and not (message.isascii() or self.close_sent):
            try:
                message.decode()
            except UnicodeDecodeError:
                self._fail(_NOT_UTF8, "not UTF-8")
                return
        super().send_receive_event_to_app()

    def _may_read(self) -> bool:
        ready = self.handshake_complete and not self.read_paused and self.writable.is_set()
        return ready and not self.transport.is_closing()

    def _is_between_messages(self) -> bool:
        """Tell whether the library waits for the first byte of a message, which it has no word for.

        Its parser is a generator. It is there, and nowhere else, that it waits in `at_eof`; an empty buffer would also
        be what it has between the head of a frame and its content.
        """
        waits: Any = self.conn.parser
        while (within := waits.gi_yieldfrom) is not None:
            waits = within
        return waits.gi_code is StreamReader.at_eof.__code__ and self.conn.current_size is None

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == _SWITCHING:
            cast("dict[str, Any]", self.scope)["extensions"][FRAMES] = self

    def offer_to(self, take: Callable[[bytes], bool]) -> None:
        self._take = take

    async def receive(self) -> ASGIReceiveEvent:
        if self._unread and self.queue.empty():
            # It came before the application accepted.
            self._read_on()
        self._receiving = True
        try:
            message = await self.queue.get()
        finally:
            self._receiving = False
        self._messages += 1
        if self.queue.empty():
            self.read_paused = False
            self._read_on()
        return message

    # What goes

    async def send(self, message: ASGISendEvent) -> None:
        while not self.writable.is_set():
            # All who wait are woken together, and the first may fill the buffer again.
            await self.writable.wait()
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            # It is all that there will be: uvicorn would log the missing handshake as an error.
            self.handshake_complete = True

    def write(self, text: bytes) -> bool:
        conn = self.conn
        if (
            not self.writable.is_set()
            or self.close_sent
            or conn.state is not State.OPEN
            or conn.extensions  # which would compress it
            or self.transport.is_closing()
        ):
            return False
        size = len(text)
        if size < _SHORT:
            head = bytes((_WHOLE_TEXT, size))
        elif size < _MEDIUM:
            head = bytes((_WHOLE_TEXT, _SHORT)) + size.to_bytes(2)
        else:
            head = bytes((_WHOLE_TEXT, _LONG)) + size.to_bytes(8)
        if size <= LARGE:
            self.transport.write(head + text)
        else:  # which is not copied for the sake of its head
            self.transport.write(head)
            self.transport.write(text)
        return True

    def _fail(self, code: int, reason: str) -> None:
        self.conn.fail(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.transport.close()


def _leave(_: bytes) -> bool:
    return False
