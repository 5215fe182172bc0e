"""A child process of the local stack: started, awaited until it answers, stopped for certain."""

import asyncio
import ctypes
import fcntl
import os
import random
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1


class StartFailed(RuntimeError):
    """A backend of the local stack did not come up; the message ends with the tail of its log."""


def free_port() -> int:
    """Return a TCP port that nothing listens on at 127.0.0.1 now, and that no other process was given by this.

    It is none that the system hands out by itself: between now and its use, any connection could be given that.
    """
    begin = random.randrange(len(_OURS))  # noqa: S311 - it is no secret
    for port in (*_OURS[begin:], *_OURS[:begin]):
        if port not in _given and _claims.take(port):
            _given.add(port)
            with socket.socket() as probe, suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise StartFailed(f"nothing is free of the ports {_OURS[0]} to {_OURS[-1]}")


class _Claims:
    """Which process uses which port: locks on the bytes of one file, which end with their process."""

    def __init__(self) -> None:
        self._file: int | None = None

    def take(self, port: int) -> bool:
        """Claim a port until this process ends; tell whether no other one has."""
        if self._file is None:
            path = Path(tempfile.gettempdir(), f"switchboard-ports-{os.getuid()}")
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except OSError:
            return False
        return True


_OURS = range(20_000, 32_768)
"""Ports below those that systems hand out to connections, and above those of well-known programs."""
_given: set[int] = set()
_claims = _Claims()


def steady_port(data_dir: Path) -> int:
    """Return the port that was returned for this directory before, or another one if that is taken.

    Programs that were started on the addresses of one run work on with those of the next.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    kept = data_dir / "port"
    try:
        port = int(kept.read_text())
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the last run may linger
            probe.bind(("127.0.0.1", port))
    except (OSError, ValueError, OverflowError):
        port = free_port()
        kept.write_text(f"{port}\n")
    return port


async def accepts_connections(port: int) -> bool:
    """Tell whether something listens on a port of 127.0.0.1."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


@asynccontextmanager
async def child_process(
    command: Sequence[str],
    *,
    log: Path,
    is_ready: Callable[[], Awaitable[bool]],
    ready_within: float = 60.0,
    stop_signal: signal.Signals = signal.SIGTERM,
    stop_within: float = 10.0,
    environment: Mapping[str, str] | None = None,
    user: int | None = None,
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Run a command for as long as the context is open.

    The child has a session of its own, so that Ctrl-C reaches only us and we stop it in order, and it
    gets `stop_signal` from the kernel (on Linux) should we be killed.

    Args:
        command: program and arguments.
        log: file that takes its output.
        is_ready: asked until it says yes.
        ready_within: seconds after which the start has failed.
        stop_signal: how it is asked to stop.
        stop_within: seconds after which it is killed.
        environment: variables beyond our own.
        user: numeric user to run as, where we are root and the program refuses that.

    Raises:
        StartFailed: it ended or did not answer in time.
    """
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
            preexec_fn=_prepare_child(stop_signal, user),
        )
    try:
        await _until_ready(process, is_ready, ready_within, command[0], log)
        yield process
    finally:
        await _stop(process, stop_signal, stop_within)


async def _until_ready(
    process: asyncio.subprocess.Process, is_ready: Callable[[], Awaitable[bool]], within: float, name: str, log: Path
) -> None:
    try:
        async with asyncio.timeout(within):
            while not await is_ready():
                # Waiting on the process doubles as the pause between two looks.
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await process.wait()
                if process.returncode is not None:
                    raise StartFailed(f"{Path(name).name} ended with status {process.returncode}:\n{_tail(log)}")
    except TimeoutError:
        raise StartFailed(f"{Path(name).name} did not answer within {within:g} s:\n{_tail(log)}") from None


async def _stop(process: asyncio.subprocess.Process, stop_signal: signal.Signals, within: float) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(stop_signal)
    try:
        async with asyncio.timeout(within):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _prepare_child(stop_signal: signal.Signals, user: int | None) -> Callable[[], None]:
    """Return what the child does before it becomes the program; uvloop knows no `user=`."""
    libc = ctypes.CDLL(None, use_errno=True)

    def prepare() -> None:
        if user is not None:
            os.setuid(user)
        if sys.platform == "linux":
            # After setuid, which clears it.
            libc.prctl(_PR_SET_PDEATHSIG, int(stop_signal))

    return prepare
