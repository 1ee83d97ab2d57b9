"""The ways of a stream through a socket."""

import socket
import time
from contextlib import suppress
from typing import Protocol

from e2e_deploy.runtime.sinks.streams.packing import Chunk
from e2e_deploy.runtime.sources.video.decoding import reason

STUCK_S = 5.0  # who takes no more for so long is cut off; also the longest wait for a connection
SEND_BUFFER = 256 * 1024  # bytes that may grow old in the system
_DATAGRAM = 7 * 188  # bytes: whole MPEG-TS packets, and fewer than any network takes
_BURST, _BURST_S = 24, 0.001  # datagrams at once, and the rest after: a receiver's buffer holds few


class Link(Protocol):
    """A way to one receiver."""

    def send(self, chunk: Chunk) -> None:
        """Send all of it; an OSError is the end of the link."""
        ...

    def close(self) -> None:
        """End it; a ``send`` in another thread ends too."""
        ...


class TcpLink:
    """MPEG-TS over a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def send(self, chunk: Chunk) -> None:
        """Send all of it."""
        self._connection.sendall(b"".join(chunk.parts))

    def close(self) -> None:
        """End the connection."""
        hang_up(self._connection)


class UdpLink:
    """MPEG-TS in datagrams. Whether anybody gets them is not known."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def send(self, chunk: Chunk) -> None:
        """Send all of it, a burst a millisecond."""
        data = b"".join(chunk.parts)
        for number, start in enumerate(range(0, len(data), _DATAGRAM)):
            if number and number % _BURST == 0:
                time.sleep(_BURST_S)
            with suppress(ConnectionRefusedError):  # of an earlier one, while nobody listens
                self._connection.send(data[start : start + _DATAGRAM])

    def close(self) -> None:
        """Close the socket."""
        self._connection.close()


def reached(host: str, port: int, kind: socket.SocketKind) -> socket.socket:
    """A socket that is connected there.

    Raises:
        OSError: it cannot be reached.
    """
    if kind is socket.SOCK_STREAM:
        return prepared(socket.create_connection((host, port), STUCK_S))
    found = socket.getaddrinfo(host, port, type=kind)
    # Of a name with addresses of both families IPv4's: nobody answers, and receivers wait there rather.
    family, _, _, _, there = min(found, key=lambda each: each[0] != socket.AF_INET)
    connection = socket.socket(family, kind)
    try:
        connection.connect(there)
    except OSError:
        connection.close()
        raise
    return connection


def why(error: Exception) -> str:
    """What happened to a link."""
    if isinstance(error, TimeoutError) and error.errno is None:  # of the socket's own limit
        return f"nothing went through for {STUCK_S:g} s"
    return reason(error)


def prepared(connection: socket.socket) -> socket.socket:
    """A TCP connection that neither gathers bytes nor lets many grow old."""
    connection.settimeout(STUCK_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    return connection


def hang_up(connection: socket.socket) -> None:
    """End a connection after what was sent; whoever waits in it wakes up."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
