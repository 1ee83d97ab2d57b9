"""Where live results go, as users write it: ``scheme:PLACE?setting=value``."""

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl

from e2e_deploy.errors import UsageError
from e2e_deploy.system.addresses import masked

LOOPBACK = "127.0.0.1"
_SOCKET = re.compile(
    r"(?:(?P<host>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):)?(?P<port>[0-9]{1,5})"
)


@dataclass(frozen=True)
class Place:
    """What an ``out`` such as ``foxglove:8765?prefix=/robot`` says.

    Attributes:
        out: as it was written, for messages; without credentials.
        where: between the scheme and the settings.
        settings: by name.
    """

    out: str
    where: str
    settings: dict[str, str]

    @classmethod
    def parse(cls, out: str, allowed: tuple[str, ...] = ()) -> "Place":
        """Take it apart.

        Raises:
            UsageError: a setting that is not among ``allowed``, has no value, or stands twice.
        """
        where, has_settings, query = out.partition(":")[2].partition("?")
        shown = masked(out)
        pairs = parse_qsl(query, keep_blank_values=True)
        settings = dict(pairs)
        wrong = [name for name, value in pairs if name not in allowed or not value]
        if wrong or len(settings) < len(pairs) or (has_settings and not pairs):
            known = f"it may have {', '.join(f'{name}=...' for name in allowed)}, each once"
            raise UsageError(
                f"`out` {shown} has settings after the ? that it does not take; "
                f"{known if allowed else 'it has none'}"
            )
        return cls(shown, where, settings)

    def socket(self, default_port: int) -> tuple[str, int]:
        """(host, port) of ``PORT``, ``HOST:PORT``, or nothing; this machine alone where no host is named.

        Raises:
            UsageError: it is neither.
        """
        if not self.where:
            return LOOPBACK, default_port
        found = _SOCKET.fullmatch(self.where)
        if found is None or int(found["port"]) > 65535:
            scheme = self.out.partition(":")[0]
            raise UsageError(
                f"`out` {self.out} names no port: give {scheme}:PORT or {scheme}:HOST:PORT, such as "
                f"{scheme}:{default_port}"
            )
        return (found["host"] or LOOPBACK).strip("[]"), int(found["port"])


def url_host(host: str) -> str:
    """A host as addresses have it: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host
