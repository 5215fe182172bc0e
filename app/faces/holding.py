"""What an answer that the SDK writes, or FastAPI, holds from when its result is there until it is on its way."""

import secrets

import msgspec
from starlette.datastructures import MutableHeaders
from starlette.types import Message, Send

from app.budget import LARGE
from app.gateway import Gateway
from app.servers.calls import JsonObject

_write_text = msgspec.json.Encoder().encode
_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")


class Holding:
    """Counts one answer, and keeps large JSON out of the SDK's hands.

    A result of a few MiB is many times as large as objects, and the SDK would hold the event loop for a third of a
    second to read, check and write it. So it gets a word in its place, which nobody can guess; once the answer is
    written, what the word stands for is put there, unread.

    Args:
        gateway: whose budget it is.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._share = gateway.results.share()
        self._left_out: dict[bytes, bytes] = {}
        """What belongs into the answer, by what stands there now."""

    def hold(self, size: int) -> None:
        """Hold so many bytes, in place of what was held before."""
        self._share.take(size)

    def leave_out(self, json: bytes) -> JsonObject:
        """Return what stands for a JSON object in the answer until it is written."""
        word = secrets.token_hex(16)
        # Where a line ends in JSON, it ends between two words; in events and on stdio a message is one line.
        self._left_out[b'{"%b":true}' % word.encode()] = json.translate(_ONE_LINE)
        return {word: True}

    def leave_out_text(self, text: bytes) -> str:
        """Return what stands for a text in the answer until it is written."""
        word = secrets.token_hex(16)
        self._left_out[b'"%b"' % word.encode()] = _write_text(text.decode())
        return word

    def fill_in(self, written: bytes) -> bytes:
        """Return an answer, or a part of it, with what was left out of it."""
        for place, json in self._left_out.items():
            written = written.replace(place, json, 1)
        return written

    def release(self) -> None:
        """Hold nothing any more: the answer is on its way, or nobody wants it."""
        self._left_out.clear()
        self._share.release()

    def completing(self, send: Send) -> Send:
        """Return a `send` that fills in what was left out, and counts an answer by its size once it is written."""
        start: Message | None = None

        async def send_complete(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and self._left_out:
                start = message
                return
            if message["type"] == "http.response.body":
                body = self.fill_in(message.get("body", b""))
                message = {**message, "body": body}
                if len(body) > LARGE:
                    self.hold(len(body))
                if start is not None:
                    fields = MutableHeaders(raw=list(start["headers"]))
                    if "content-length" in fields:
                        fields["content-length"] = str(len(body))
                    start["headers"], begun, start = fields.raw, start, None
                    await send(begun)
            await send(message)

        return send_complete
