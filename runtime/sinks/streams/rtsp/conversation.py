"""A stream as an RTSP server gives it (RFC 2326): H.264 within the connection, for a few receivers.

Only that transport: a client that asks for UDP is told so (461), and asks again. Nothing a client sends changes more
than its own connection.
"""

import base64
import hmac
import secrets
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

from e2e_deploy.runtime.sinks.streams.address import Address
from e2e_deploy.runtime.sinks.streams.receiver import Audience, Receiver
from e2e_deploy.runtime.sinks.streams.rtsp.connection import (
    InterleavedLink,
    Message,
    RtspConnection,
)

_METHODS = "OPTIONS, DESCRIBE, SETUP, PLAY, PAUSE, GET_PARAMETER, SET_PARAMETER, TEARDOWN"


class RtspConversation:
    """What is said on one connection.

    Args:
        connection: a new one.
        address: what is served.
        sdp: describes the stream, as soon as it is known; None where it takes too long.
        audience: to which a client that plays belongs.
    """

    def __init__(
        self,
        connection: socket.socket,
        address: Address,
        sdp: Callable[[], str | None],
        audience: Audience,
    ) -> None:
        self._connection, self._address = RtspConnection(connection), address
        self._sdp, self._audience = sdp, audience
        self._session = secrets.token_hex(8)
        self._channels: tuple[int, int] | None = None
        self._receiver: Receiver | None = None

    def run(self) -> None:
        """Answer until either side ends it."""
        try:
            while (request := self._next()) and self._answer(request):
                pass
        except (OSError, ValueError):
            pass
        finally:
            self._stop()
            self._connection.close()

    def _next(self) -> Message | None:
        while True:
            try:
                return self._connection.receive()
            except TimeoutError:  # who plays need not speak
                if self._receiver is None or self._receiver.gone:
                    return None

    def _stop(self) -> None:
        if self._receiver is not None:
            self._audience.remove(self._receiver)

    def _answer(self, request: Message) -> bool:
        """Whether the conversation goes on."""
        method, uri = request.words[:2]
        status, headers, body = "200 OK", {"CSeq": request.get("cseq")}, ""
        receiver: Receiver | None = None
        if not self._may(request):
            status, headers["WWW-Authenticate"] = "401 Unauthorized", 'Basic realm="e2e-deploy"'
        elif method == "OPTIONS":
            headers["Public"] = _METHODS
        elif not self._is_ours(uri):
            status = "404 Not Found"
        elif method == "DESCRIBE":
            described = self._sdp()
            body = described or ""
            headers["Content-Base"] = f"{uri.rstrip('/')}/"
            status = status if described else "503 Service Unavailable"
        elif method == "SETUP":
            if (channels := request.channels) is None:
                status = "461 Unsupported Transport"
            else:
                self._channels = channels
                way = f"RTP/AVP/TCP;unicast;interleaved={channels[0]}-{channels[1]}"
                headers |= {"Transport": way, "Session": self._session}
        elif method in ("GET_PARAMETER", "SET_PARAMETER", "TEARDOWN"):
            headers["Session"] = self._session
        elif method in ("PLAY", "PAUSE"):
            headers["Session"] = self._session
            if self._channels is None:
                status = "455 Method Not Valid in This State"
            elif method == "PAUSE":
                status = "501 Not Implemented"  # it is live: what would come after a pause is gone
            elif self._receiver is None:
                receiver = Receiver(InterleavedLink(self._connection, self._channels))
                if not self._audience.add(receiver):
                    status, receiver = "453 Not Enough Bandwidth", None
        else:
            status = "501 Not Implemented"
        self._receiver = self._receiver or receiver
        self._connection.send_message(f"RTSP/1.0 {status}", headers, body)
        if receiver is not None:  # pictures come after the answer
            receiver.start()
        return method != "TEARDOWN"

    def _may(self, request: Message) -> bool:
        address = self._address
        if not (address.user or address.password):
            return True
        pair = f"{address.user}:{address.password}".encode()
        expected = b"Basic " + base64.b64encode(pair)
        return hmac.compare_digest(request.get("authorization").encode("latin-1"), expected)

    def _is_ours(self, uri: str) -> bool:
        """Whether a request's address is the stream, or its one track."""
        parts = urlsplit(uri)
        asked = f"{parts.path}?{parts.query}" if parts.query else parts.path
        mine = self._address.path.rstrip("/")
        return asked.rstrip("/") in (mine, f"{mine}/video")
