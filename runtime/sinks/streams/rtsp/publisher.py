"""A stream given to an RTSP server that others watch it at, such as MediaMTX: announced and recorded (RFC 2326)."""

import base64
import errno
import hashlib
import re
import socket

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.runtime.sinks.streams.address import Address
from e2e_deploy.runtime.sinks.streams.links import reached
from e2e_deploy.runtime.sinks.streams.rtsp.connection import (
    InterleavedLink,
    Message,
    RtspConnection,
)

_PAIRS = re.compile(r'(\w+)=(?:"([^"]*)"|([^,\s]*))')


def published(address: Address, sdp: str) -> InterleavedLink:
    """A link into a server that takes the stream.

    Raises:
        OSError: nobody is there, or it says nothing.
        E2EDeployError: it does not take the stream.
    """
    connection = RtspConnection(reached(address.host, address.port, socket.SOCK_STREAM))
    asking = _Asking(connection, address)
    try:
        asking("ANNOUNCE", address.url, {}, sdp)
        channels = (0, 1)
        way = "RTP/AVP/TCP;unicast;interleaved=0-1;mode=record"
        track = f"{address.url.rstrip('/')}/video"
        answer = asking("SETUP", track, {"Transport": way})
        channels = answer.channels or channels
        session = answer.get("session").partition(";")[0]
        asking("RECORD", address.url, {"Session": session, "Range": "npt=0.000-"})
    except BaseException:
        connection.close()
        raise
    return InterleavedLink(connection, channels, reads=True)


class _Asking:
    """Requests with their answers."""

    def __init__(self, connection: RtspConnection, address: Address) -> None:
        self._connection, self._address = connection, address
        self._number = 0
        self._challenge = ""

    def __call__(self, method: str, uri: str, headers: dict[str, str], body: str = "") -> Message:
        answer = self._ask(method, uri, headers, body)
        if answer.words[1] == "401" and self._address.user and not self._challenge:
            ways = sorted(answer.headers.get("www-authenticate", []), key=str.lower)
            self._challenge = next((way for way in reversed(ways) if _is_known(way)), "")
            answer = self._ask(method, uri, headers, body)
        if answer.words[1] != "200":
            raise E2EDeployError(
                f"{self._address.name} does not take the stream: it answers {' '.join(answer.words[1:])} to {method}"
            )
        return answer

    def _ask(self, method: str, uri: str, headers: dict[str, str], body: str) -> Message:
        self._number += 1
        sent = {"CSeq": f"{self._number}", "User-Agent": "e2e-deploy", **headers}
        if self._challenge:
            sent["Authorization"] = _credentials(self._challenge, self._address, method, uri)
        self._connection.send_message(f"{method} {uri} RTSP/1.0", sent, body)
        try:
            answer = self._connection.receive()
        except ValueError:
            raise E2EDeployError(f"{self._address.name} speaks no RTSP") from None
        if answer is None:
            raise ConnectionResetError(errno.ECONNRESET, "it ended the connection")
        return answer


def _is_known(challenge: str) -> bool:
    """Basic, and Digest with MD5; newer servers offer SHA-256 beside it."""
    kind = challenge.lower()
    algorithm = _asked(challenge).get("algorithm", "MD5").upper()
    return kind.startswith("basic") or (kind.startswith("digest") and algorithm == "MD5")


def _asked(challenge: str) -> dict[str, str]:
    return {name.lower(): one or other for name, one, other in _PAIRS.findall(challenge)}


def _credentials(challenge: str, address: Address, method: str, uri: str) -> str:
    """The Authorization header: Digest (RFC 2069 or, with qop, RFC 7616) where it is asked for, else Basic."""
    if challenge.lower().startswith("basic"):
        return "Basic " + base64.b64encode(f"{address.user}:{address.password}".encode()).decode()
    asked = _asked(challenge)
    realm, nonce = asked.get("realm", ""), asked.get("nonce", "")
    who = _md5(f"{address.user}:{realm}:{address.password}")
    told = _md5(f"{who}:{nonce}:{_md5(f'{method}:{uri}')}")
    return f'Digest username="{address.user}", realm="{realm}", nonce="{nonce}", uri="{uri}", response="{told}"'


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
