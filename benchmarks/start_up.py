"""How long a person, or a desktop client, waits for a process of ours to say the first thing."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.request import urlopen

from app.local.process import free_port

_SWITCHBOARD = (sys.executable, "-m", "app.cli")
_ROUNDS = 5
_SERVED = 3
"""Starts of the gateway itself."""
_SERVED_WITHIN = 120.0
_CLIENT = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
_QUESTIONS = (
    {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": _CLIENT},
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
    {"jsonrpc": "2.0", "id": 2, "method": "tools/list"},
)
_COMMANDS: Mapping[str, tuple[Sequence[str], Sequence[Mapping[str, object]]]] = {
    "an MCP server of the SDK, tools/list": ((sys.executable, "-m", "benchmarks.bare"), _QUESTIONS),
    "switchboard stdio database, tools/list": ((*_SWITCHBOARD, "stdio", "database"), _QUESTIONS),
    "switchboard --version": ((*_SWITCHBOARD, "--version"), ()),
}
"""What is started and asked; the first one imports SQLAlchemy and asyncpg, too, and is the measure of the others."""


@dataclass(frozen=True)
class StartUp:
    """One start: seconds of the clock until the last answer, and of the processor until the end."""

    waited: float
    cpu: float


def start_up_times(environment: Mapping[str, str], rounds: int = _ROUNDS) -> dict[str, StartUp]:
    """Return the medians for each command, which take turns.

    Args:
        environment: variables beyond our own.
        rounds: how often each is started.
    """
    starts: dict[str, list[StartUp]] = {name: [] for name in _COMMANDS}
    for _ in range(rounds):
        for name, (command, questions) in _COMMANDS.items():
            starts[name].append(_start(command, questions, {**os.environ, **environment}))
    serving = [_serve({**os.environ, **environment}) for _ in range(min(rounds, _SERVED))]
    starts["switchboard serve, /health"] = serving
    return {
        name: StartUp(statistics.median(s.waited for s in found), statistics.median(s.cpu for s in found))
        for name, found in starts.items()
    }


def _serve(environment: Mapping[str, str]) -> StartUp:
    """Start the gateway and ask it until it answers."""
    port = free_port()
    began = time.perf_counter()
    process = subprocess.Popen(
        (*_SWITCHBOARD, "serve", "--port", str(port)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    answer = None
    while answer is None and process.poll() is None and time.perf_counter() - began < _SERVED_WITHIN:
        with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as found:
            answer = found.status
        time.sleep(0.005)
    if process.returncode is not None:
        raise RuntimeError(f"switchboard serve ends with status {process.returncode}")
    return _ended(process, time.perf_counter() - began, "switchboard serve", failed=answer != 200)


def _start(
    command: Sequence[str], questions: Sequence[Mapping[str, object]], environment: Mapping[str, str]
) -> StartUp:
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    assert process.stdin is not None
    assert process.stdout is not None
    answer = b""
    for question in questions:
        process.stdin.write(json.dumps(question).encode() + b"\n")
        process.stdin.flush()
        if "id" in question:
            answer = process.stdout.readline()
    if not questions:
        answer = process.stdout.read()
    waited = time.perf_counter() - began
    process.stdin.close()
    started = _ended(process, waited, " ".join(command), failed=not answer or b'"error"' in answer)
    process.stdout.close()
    return started


def _ended(process: "subprocess.Popen[bytes]", waited: float, command: str, *, failed: bool) -> StartUp:
    # How a process ends is no matter of its start. (`Popen.kill` might take away what it used.)
    os.kill(process.pid, signal.SIGKILL)
    _, _, used = os.wait4(process.pid, 0)
    process.returncode = 0
    if failed:
        raise RuntimeError(f"{command} gives no answer, or an error")
    return StartUp(waited, used.ru_utime + used.ru_stime)


def start_ups_told(times: Mapping[str, StartUp]) -> str:
    """Return the table."""
    measure = next(iter(times.values()))
    lines = [f"\n{'Start-up':<44}{'seconds':>9}{'CPU s':>8}{'ratio':>8}"]
    for name, start in times.items():
        lines.append(f"  {name:<42}{start.waited:>9.2f}{start.cpu:>8.2f}{start.cpu / measure.cpu:>8.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(start_ups_told(start_up_times({})))
