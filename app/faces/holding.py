"""What an answer that the SDK writes, or FastAPI, holds from when its result is there until it is on its way."""

import asyncio

from starlette.types import Message, Send

from app.budget import LARGE
from app.gateway import Gateway

_LONGEST_TURN = 1.0
"""Seconds after which the next large result is unfolded, though the one before is not written."""


class Holding:
    """Counts one answer, and lets large ones be unfolded one after the other.

    A result of a few MiB is many times as large while the SDK has it as objects. So it stays folded until it is its
    turn, which ends when it is written, and in a second at the latest.

    Args:
        gateway: whose budget it is.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._unfolding = gateway.unfolding
        self._share = gateway.results.share()
        self._turn: asyncio.TimerHandle | None = None

    def hold(self, size: int) -> None:
        """Hold so many bytes, in place of what was held before."""
        self._share.take(size)

    async def begin_turn(self) -> None:
        """Wait until no other large result is unfolded."""
        await self._unfolding.acquire()
        self._turn = asyncio.get_running_loop().call_later(_LONGEST_TURN, self.end_turn)

    def end_turn(self) -> None:
        """Let the next one be unfolded."""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
            self._unfolding.release()

    def release(self) -> None:
        """Hold nothing any more: the answer is on its way, or nobody wants it."""
        self.end_turn()
        self._share.release()

    def counting(self, send: Send) -> Send:
        """Return a `send` that knows an answer by its size, once it is written."""

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.body" and len(body := message.get("body", b"")) > LARGE:
                self.end_turn()
                self.hold(len(body))
            await send(message)

        return send_counted
