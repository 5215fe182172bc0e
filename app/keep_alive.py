"""TCP keep-alive: a peer that has vanished without a word is found out, instead of holding its connection for ever."""

import socket

_IDLE, _INTERVAL, _PROBES = 60, 15, 4
"""A minute of silence, then four probes: a dead peer is known after two minutes. Linux's own default is two hours."""


def keep_alive(sock: socket.socket) -> socket.socket:
    """Have the system probe a silent peer. A listener hands it on to the connections that it accepts."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", _IDLE), ("TCP_KEEPINTVL", _INTERVAL), ("TCP_KEEPCNT", _PROBES)):
        if (number := getattr(socket, option, None)) is not None:  # not every system can set them
            sock.setsockopt(socket.IPPROTO_TCP, number, value)
    return sock
