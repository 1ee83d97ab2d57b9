"""What a server takes at most, so that no client can make it grow, and the refusals that say so."""

from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_CONNECTIONS = 256
MAX_QUEUE = 4096
MIN_BODY = 16 * 2**20
"""Bytes that every server takes: pictures from phones are smaller."""
HEADERS_S = 10.0
"""A connection without a request, or with half of its headers, is closed after this."""
GRACE_S = 10.0
"""What requests that were taken may still last when the server is asked to end."""


@dataclass(eq=False)
class RefusedError(Exception):
    """An answer that is an error: a status of HTTP and a sentence.

    Attributes:
        status: 400 a request that cannot be used, 404 nothing of that name, 408 too slow, 413 too large, 415 not a
            picture, 429 too many wait, 500 the engine failed, 503 the server ends.
        reason: the sentence.
        word: of the metric that counts refusals.
        headers: of the answer.
        closes: whether the connection is of no use afterwards.
    """

    status: int
    reason: str
    word: str = "request"
    headers: Mapping[str, str] = field(default_factory=dict)
    closes: bool = False

    def __str__(self) -> str:
        return self.reason


def body_limit(frame_bytes: int) -> int:
    """Bytes of the largest body: whole frames as JSON, where a number takes up to five characters."""
    return max(MIN_BODY, 5 * frame_bytes + 2**16)
