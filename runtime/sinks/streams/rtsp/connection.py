"""RTSP's messages on a connection (RFC 2326), for the one who serves and the one who publishes."""

import errno
import re
import select
import socket
import threading
from typing import NamedTuple

from e2e_deploy.runtime.sinks.streams.links import hang_up
from e2e_deploy.runtime.sinks.streams.packing import Chunk, is_control

_MAX_HEAD, _MAX_BODY = 8192, 65536  # bytes
_CHANNELS = re.compile(r"interleaved=(\d{1,3})(?:-(\d{1,3}))?")


class Message(NamedTuple):
    """A request or an answer.

    Attributes:
        words: of its first line.
        headers: by their names in lower case.
    """

    words: list[str]
    headers: dict[str, list[str]]

    def get(self, name: str) -> str:
        """A header's first value; empty if there is none."""
        return self.headers.get(name, [""])[0]

    @property
    def channels(self) -> tuple[int, int] | None:
        """Of RTP and RTCP within the connection, as its Transport header names them; None for other transports."""
        for way in self.get("transport").split(","):
            if "RTP/AVP/TCP" in way.upper():
                found = _CHANNELS.search(way)
                one = int(found[1]) if found else 0
                other = int(found[2]) if found and found[2] else one + 1
                return (one, other) if max(one, other) < 256 else None
        return None


class RtspConnection:
    """A connection that carries messages and, between them, packets."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._pending = b""
        self._sending = threading.Lock()

    def send(self, data: bytes) -> None:
        """Send all of it, and nothing of other threads within."""
        with self._sending:
            self._socket.sendall(data)

    def send_message(self, first: str, headers: dict[str, str], body: str = "") -> None:
        """A request or an answer, by its first line."""
        if body:
            headers = {
                **headers,
                "Content-Type": "application/sdp",
                "Content-Length": f"{len(body)}",
            }
        lines = [first, *(f"{name}: {value}" for name, value in headers.items()), "", body]
        self.send("\r\n".join(lines).encode("latin-1", "replace"))

    def receive(self) -> Message | None:
        """The next message, without its body; packets before it are passed over. None at the end.

        Raises:
            TimeoutError: nothing came for a while; what has come stays for the next call.
            ValueError: it is no RTSP.
            OSError: the connection was lost.
        """
        while self._need(1):
            if self._pending[:1] == b"$":
                if not self._need(4) or not self._skip(
                    4 + int.from_bytes(self._pending[2:4], "big")
                ):
                    return None
            elif self._pending[:2] == b"\r\n":  # between messages some send it
                self._pending = self._pending[2:]
            else:
                return self._message()
        return None

    def pass_over(self) -> None:
        """Read away what came, without waiting.

        Raises:
            OSError: the connection was ended.
        """
        while select.select([self._socket], [], [], 0)[0]:
            if not self._socket.recv(65536):
                raise ConnectionResetError(errno.ECONNRESET, "the server ended the connection")

    def close(self) -> None:
        """End the connection."""
        hang_up(self._socket)

    def _message(self) -> Message | None:
        while b"\r\n\r\n" not in self._pending:
            if len(self._pending) > _MAX_HEAD or not self._more():
                return None
        head, _, _ = self._pending.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        words = first.split(" ", 2)
        if len(words) != 3 or not (words[0] == "RTSP/1.0" or words[2] == "RTSP/1.0"):
            raise ValueError("no RTSP/1.0")
        headers: dict[str, list[str]] = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers.setdefault(name.strip().lower(), []).append(value.strip())
        message = Message(words, headers)
        length = message.get("content-length") or "0"
        if not re.fullmatch(r"\d{1,6}", length) or int(length) > _MAX_BODY:
            raise ValueError("too much")
        return message if self._skip(len(head) + 4 + int(length)) else None

    def _more(self) -> bool:
        data = self._socket.recv(65536)
        self._pending += data
        return bool(data)

    def _need(self, size: int) -> bool:
        while len(self._pending) < size:
            if not self._more():
                return False
        return True

    def _skip(self, size: int) -> bool:
        there = self._need(size)
        self._pending = self._pending[size:]
        return there


class InterleavedLink:
    """RTP and RTCP within an RTSP connection (section 10.12).

    Args:
        connection: the one.
        channels: of RTP and of RTCP.
        reads: whether nobody else reads what the other side says.
    """

    def __init__(
        self, connection: RtspConnection, channels: tuple[int, int], *, reads: bool = False
    ) -> None:
        self._connection, self._channels, self._reads = connection, channels, reads

    def send(self, chunk: Chunk) -> None:
        """Send all of it."""
        if self._reads:
            self._connection.pass_over()
        framed = [
            b"$%c%b%b" % (self._channels[is_control(part)], len(part).to_bytes(2, "big"), part)
            for part in chunk.parts
        ]
        self._connection.send(b"".join(framed))

    def close(self) -> None:
        """End the connection."""
        self._connection.close()
