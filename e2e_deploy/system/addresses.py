"""Network addresses as people may see them: where to, never with what password.

Cameras take passwords everywhere: before the host, in the query (``?u=..&p=..``), in the path
(``/user=admin_password=.._channel=1``, or a path that is itself the key). So it is chosen what is shown, not what is
hidden: scheme, host and port. Everything else is ``***``.
"""

import re
from unicodedata import normalize
from urllib.parse import unquote

HIDDEN = "***"

_NETWORK = "rtsps?|rtmps?|https?|s?rtp|udp|tcp|tls|srt|ftps?|sftp|mms[ht]?|wss?"
# Two slashes make an address; of schemes that are known, also one or none.
_SCHEME = re.compile(rf"([a-z][a-z0-9+.-]*)://+|({_NETWORK}):/*", re.IGNORECASE)
_HOST = re.compile(r"(?:[a-z0-9._-]{1,253}|\[[0-9a-f:.]{2,45}\])(?::[0-9]{0,5})?", re.IGNORECASE)


def _decoded(text: str) -> str:
    """``text`` without percent encoding, however often it was encoded, and with plain characters for wide ones."""
    while (plain := normalize("NFKC", unquote(text))) != text:
        text = plain
    return text


def _shown_host(text: str) -> str:
    """Host and port at the start of ``text``; only HIDDEN where it is not certain which part is the host."""
    where, path = re.fullmatch(r"([^/?#\\]*)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    who, _, host = where.rpartition("@")
    # An @ further on: the slash, ? or # before it may be one of the password's own characters.
    if "@" in _decoded(path) or not _HOST.fullmatch(host):
        return HIDDEN
    return f"{f'{HIDDEN}@' if who else ''}{host}{f'/{HIDDEN}' if path.strip('/') else ''}"


def is_address(text: str) -> bool:
    """Whether a text may hold a password as addresses do, rather than name a file."""
    plain = _decoded(text)
    return bool(_SCHEME.match(text.strip()) or re.search(r"://|\?|:.*@", plain, re.DOTALL))


def masked(address: str) -> str:
    """What may be shown of what was given as a source: ``rtsp://***@host:554/***``.

    A path is shown as it is, up to the first part that holds a ``=`` and up to a ``?``; a text with a colon and an
    ``@`` after it is taken for an address without its scheme.
    """
    address = address.strip()
    if scheme := _SCHEME.match(address):
        return f"{(scheme[1] or scheme[2]).lower()}://{_shown_host(address[scheme.end() :])}"
    plain = _decoded(address)
    if "://" in plain:
        return HIDDEN
    if re.search(r":.*@", plain, re.DOTALL):
        return _shown_host(address.lstrip("/"))
    path, query, _ = plain.partition("?")
    parts = path.split("/")
    named = next((n for n, part in enumerate(parts) if "=" in part), None)
    if named is not None:
        return "/".join([*parts[:named], HIDDEN])
    return f"{path}?{HIDDEN}" if query else address
