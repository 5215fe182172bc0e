"""MCP over standard input and output: what a desktop client launches."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO

import anyio

from app.errors import INVALID_REQUEST, GatewayError
from app.faces.duplex import Backlog, Duplex
from app.faces.jsonrpc import NotAMessage
from app.gateway import Gateway
from app.guard.principal import ANONYMOUS, Principal
from app.servers.calls import Peer
from app.signals import stopping_by

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LINE_END = len(b"\r\n")
_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")
"""A backend may have written its JSON in lines, which end between two words."""


async def serve_stdio(gateway: Gateway, server: str | None, principal: Principal = ANONYMOUS) -> None:
    """Serve one server, or all, until the client closes our input and has its answers. The gateway must be open.

    Whoever launches the process is `principal` for as long as it runs, which is as long as its key is good.

    While it serves, standard input is empty and standard output is standard error: what a library prints or a child
    reads stays off the wire.
    """
    limit = gateway.settings.max_request_bytes
    serving = asyncio.current_task()
    assert serving is not None

    def stop(number: signal.Signals) -> None:
        # A person's Ctrl-C, and a second signal, wait for nothing that runs.
        if number == signal.SIGTERM and not gateway.closing.is_set():
            gateway.closing.set()
        else:
            serving.cancel()

    with stopping_by(stop), _wire() as (from_client, to_client):
        lines, writer = _Lines(from_client, limit + _LINE_END + 1), _Writer(to_client)
        backlog = Backlog(gateway.settings.max_unsent_bytes)
        connection = Duplex(gateway, server, "stdio", writer.write, backlog, Peer(principal), patient=True)
        ended: list[GatewayError] = []

        def end(reason: GatewayError) -> None:
            ended.append(reason)
            connection.give_up()

        with principal.holding(end):
            await connection.serve(_read(lines, connection, limit))
    if ended:
        raise ended[0]


async def _read(lines: "_Lines", connection: Duplex, limit: int) -> None:
    line = (await lines.next()).removeprefix(_BYTE_ORDER_MARK)
    while line:
        if len(line) > limit + _LINE_END:
            connection.put(NotAMessage(INVALID_REQUEST, f"Messages have at most {limit} bytes").answer)
        elif line.strip():
            await connection.take(line.strip())
        line = await lines.next()
    await connection.finish()


class _Lines:
    """Lines of a file that may be a pipe, a terminal or a plain file, read in a thread of their own.

    A thread that waits for input can't be woken: nobody awaits this one, not even the end of the process.

    Args:
        source: what is read.
        limit: the most bytes of a line that are kept.
    """

    def __init__(self, source: BinaryIO, limit: int) -> None:
        self._source = source
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._read: asyncio.Queue[bytes] = asyncio.Queue()
        self._wanted = threading.Semaphore(0)
        threading.Thread(target=self._run, name="standard input", daemon=True).start()

    async def next(self) -> bytes:
        """Return the next line, cut off at the limit; nothing at the end."""
        self._wanted.release()
        return await self._read.get()

    def _run(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody reads any more
            while True:
                self._wanted.acquire()
                line = rest = self._source.readline(self._limit)
                while len(rest) == self._limit and not rest.endswith(b"\n"):
                    rest = self._source.readline(self._limit)
                self._loop.call_soon_threadsafe(self._read.put_nowait, line)
                if not line:
                    return


class _Writer:
    """Writes lines to a file in a thread of its own, which nobody awaits either: its reader may never read."""

    def __init__(self, target: FileIO) -> None:
        self._target = target
        self._loop = asyncio.get_running_loop()
        self._lines: SimpleQueue[tuple[bytes, asyncio.Future[None]]] = SimpleQueue()
        threading.Thread(target=self._run, name="standard output", daemon=True).start()

    async def write(self, text: bytes) -> None:
        """Write a line.

        Raises:
            anyio.BrokenResourceError: nobody reads any more.
        """
        written: asyncio.Future[None] = self._loop.create_future()
        self._lines.put((text.translate(_ONE_LINE) + b"\n", written))
        try:
            await written
        except OSError:
            raise anyio.BrokenResourceError from None

    def _run(self) -> None:
        with suppress(RuntimeError):  # the loop is closed
            while True:
                line, written = self._lines.get()
                failure: OSError | None = None
                try:
                    left = memoryview(line)
                    while left:
                        left = left[self._target.write(left) or 0 :]
                except OSError as error:
                    failure = error
                self._loop.call_soon_threadsafe(_settle, written, failure)


def _settle(written: asyncio.Future[None], failure: OSError | None) -> None:
    if written.done():  # its writer was cancelled
        return
    if failure is None:
        written.set_result(None)
    else:
        written.set_exception(failure)


@contextmanager
def _wire() -> Generator[tuple[BinaryIO, FileIO]]:
    """Yield standard input and output, and put harmless things in their place meanwhile."""
    sys.stdout.flush()
    taken_in, taken_out = os.dup(_STDIN), os.dup(_STDOUT)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), _STDIN)
    os.dup2(_STDERR, _STDOUT)
    try:
        # Never closed: a thread may still wait on them at the end, and another file would get their numbers.
        yield os.fdopen(taken_in, "rb", closefd=False), FileIO(taken_out, "wb", closefd=False)
    finally:
        os.dup2(taken_in, _STDIN)
        os.dup2(taken_out, _STDOUT)
