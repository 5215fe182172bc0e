"""Ports of the local stack."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app.local import process
from app.local.process import StartFailed, free_port, steady_port


def test_a_backend_keeps_its_port_until_somebody_else_has_it(tmp_path: Path) -> None:
    port = steady_port(tmp_path / "kafka")
    assert steady_port(tmp_path / "kafka") == port
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        moved = steady_port(tmp_path / "kafka")
        assert moved != port
    assert steady_port(tmp_path / "kafka") == moved


@pytest.mark.parametrize("kept", ["", "none", "99999999", "-1"])
def test_a_damaged_note_of_the_port_is_written_anew(tmp_path: Path, kept: str) -> None:
    (tmp_path / "port").write_text(kept)
    port = steady_port(tmp_path)
    assert int((tmp_path / "port").read_text()) == port > 0


def test_no_two_processes_are_given_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = free_port() // 64 * 64
    take_all = f"""
from app.local import process
process._OURS = range({begin}, {begin} + 64)
try:
    while True:
        print(process.free_port(), flush=True)
except process.StartFailed:
    print("none is left", flush=True)
input()
"""
    command = [sys.executable, "-c", take_all]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        theirs = list(iter(other.stdout.readline, "none is left\n"))
        assert len(theirs) == len(set(theirs)) > 0
        monkeypatch.setattr(process, "_OURS", range(begin, begin + 64))
        with pytest.raises(StartFailed, match=f"the ports {begin} to {begin + 63}"):
            free_port()
        other.communicate("")
    assert free_port() in range(begin, begin + 64)


def test_a_port_is_none_that_the_system_gives_to_connections() -> None:
    with socket.socket() as connection:
        connection.bind(("127.0.0.1", 0))
        lowest = min(connection.getsockname()[1], 32_768)
    assert {free_port() < lowest for _ in range(20)} == {True}
