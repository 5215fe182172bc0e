"""What the agents' tests share."""

import socket

import pytest


@pytest.fixture
def unused_port() -> int:
    """A port of loopback on which nobody listened a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
