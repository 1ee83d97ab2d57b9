"""Where a stream goes, as its address says."""

import re
from dataclasses import dataclass, replace
from urllib.parse import unquote, urlsplit

from e2e_deploy.errors import UsageError
from e2e_deploy.system.addresses import HIDDEN, masked

_LISTEN = re.compile(r"(.*)[?&]listen(?:=1)?", re.DOTALL)
_PORTS = {("rtsp", False): 554, ("rtsp", True): 8554}  # ports below 1024 are the system's to serve


@dataclass(frozen=True, repr=False)
class Address:
    """A host to send to, or an address here to serve at.

    Attributes:
        scheme: rtsp, udp or tcp.
        host: name or address, without brackets.
        port: 0 takes a free one, where it is served.
        path: of RTSP, from its slash on, with its query; else empty.
        user: who may, or empty.
        password: of the user.
        listen: others connect to us.
    """

    scheme: str
    host: str
    port: int
    path: str
    user: str
    password: str
    listen: bool

    def __repr__(self) -> str:
        return f"Address({self.name})"

    @property
    def name(self) -> str:
        """For people, without what may be a password: ``rtsp://***@host:554/***``."""
        who = f"{HIDDEN}@" if self.user or self.password else ""
        path = f"/{HIDDEN}" if self.path.strip("/") else ""
        return f"{self.scheme}://{who}{self._where}{path}"

    @property
    def url(self) -> str:
        """What a request names: without credentials."""
        return f"{self.scheme}://{self._where}{self.path}"

    @property
    def _where(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def at(self, port: int) -> "Address":
        """The same at another port."""
        return replace(self, port=port)


def parse_address(text: str) -> Address:
    """``rtsp://user:password@host:554/path``, ``udp://host:port``, ``tcp://host:port``; with ``?listen`` served here.

    Raises:
        UsageError: another form.
    """
    given = _LISTEN.fullmatch(text)
    plain, listen = (given[1], True) if given else (text, False)
    shown = masked(plain)
    if shown.endswith(f"//{HIDDEN}"):
        raise UsageError(
            f"`out` {shown} does not say which part is the host, as SCHEME://HOST:PORT does; "
            "/ ? # @ in a password are written %2F %3F %23 %40"
        )
    if not plain.isascii() or not plain.isprintable() or " " in plain:
        raise UsageError(f"`out` {shown} holds characters that an address has as codes (%20)")
    try:
        parts = urlsplit(plain)
        scheme, host, port = parts.scheme, parts.hostname or "", parts.port
    except ValueError:
        raise UsageError(f"`out` {shown} has no port from 0 to 65535") from None
    if port is None:
        port = _PORTS.get((scheme, listen), 0)
    if not host or (port == 0 and (not listen or parts.port is None)):
        raise UsageError(f"`out` {shown} needs a host and a port: {scheme}://HOST:PORT")
    query = f"?{parts.query}" if parts.query else ""
    if scheme != "rtsp" and (parts.path.strip("/") or query or parts.username is not None):
        only = ", or ?listen after the port, where others connect to us" if scheme == "tcp" else ""
        raise UsageError(f"`out` {shown}: of {scheme} there are a host and a port{only}")
    if listen and scheme == "udp":
        raise UsageError(f"`out` {shown}: udp has no connections to listen for; leave ?listen out")
    return Address(
        scheme=scheme,
        host=host,
        port=port,
        path=f"{parts.path}{query}" if scheme == "rtsp" else "",
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        listen=listen,
    )
