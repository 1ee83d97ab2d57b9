"""The body of a request: never more than the limit in memory, never longer than the limit in time."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from e2e_deploy.runtime.serve.limits import RefusedError

_LINGER_S = 1.0
"""How long what a client still sends after a refusal is read away: it would not read the answer otherwise."""


class ClientGoneError(Exception):
    """Nobody is there to be answered."""


async def read_body(request: Any, limit: int, timeout_s: float, *, keep: bool = True) -> bytes:
    """The body of one of Starlette's requests; with ``keep=False`` it is read and thrown away.

    Raises:
        RefusedError: 413, it is larger than ``limit`` bytes; 408, it takes longer than ``timeout_s``; 400, its length
            is no number.
        ClientGoneError: the connection ended before it.
    """
    said = request.headers.get("content-length")
    if said is not None and (not said.isdecimal() or len(said) > 18):
        raise RefusedError(400, "Content-Length is no number of bytes", closes=True)
    if said is not None and int(said) > limit:
        raise _too_large(int(said), limit)
    parts: list[bytes] = []
    size, ends_s = 0, time.monotonic() + timeout_s
    stream = request.stream()
    while True:
        try:
            part = await asyncio.wait_for(_next(stream), max(0.001, ends_s - time.monotonic()))
        except TimeoutError:
            raise RefusedError(
                408,
                f"the request was not there after {timeout_s:g} s: {size:,} bytes had come",
                "slow",
                closes=True,
            ) from None
        if part is None:
            return b"".join(parts)
        size += len(part)
        if size > limit:
            raise _too_large(size, limit)
        if keep:
            parts.append(part)


async def read_away(request: Any) -> None:
    """Throw away what a client still sends, for a moment."""
    ends_s = time.monotonic() + _LINGER_S
    while (left := ends_s - time.monotonic()) > 0:
        try:
            message = await asyncio.wait_for(request.receive(), left)
        except TimeoutError:
            return
        if message["type"] != "http.request" or not message.get("more_body"):
            return


async def _next(stream: AsyncIterator[bytes]) -> bytes | None:
    from starlette.requests import ClientDisconnect

    try:
        return await anext(stream, None)
    except ClientDisconnect:
        raise ClientGoneError from None


def _too_large(size: int, limit: int) -> RefusedError:
    return RefusedError(
        413,
        f"the body has {size:,} bytes or more; at most {limit:,} are taken",
        "large",
        closes=True,
    )
