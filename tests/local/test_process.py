"""Ports of the local stack."""

import socket
from pathlib import Path

import pytest

from app.local.process import steady_port


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
