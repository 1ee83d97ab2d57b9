"""Bytes from an address: http and https by themselves, other stores through fsspec.

A connection that is lost is tried again some times, and is then one sentence; what is not there is another. Only that
is the data's fault: a server that refuses would refuse every sample, and none of them is bad.
Knows: parts of files, patience, how much. Does not know: what is read.
"""

import http.client
import re
import time
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path, PosixPath
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from e2e_deploy.errors import DataError, E2EDeployError, UnavailableError, UsageError
from e2e_deploy.packages import require
from e2e_deploy.system.addresses import masked
from e2e_deploy.system.text import clean

TRIES = 5
FIRST_PAUSE_S = 0.5
"""Before the second try; twice as long before each one after."""

SILENT_S, LONGEST_S = 30, 300
"""Without a byte, and for one file or part."""

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_PASSING = {408, 425, 429, 500, 502, 503, 504}
"""Answers of a server that may be another the next time."""
_ABSENT = {404, 410}

_WHEN_READABLE = "run it again once it can be read, to go on from the newest checkpoint"

_PIECE = 2**20


class Address(PosixPath):
    """What lies at an address, named as files are; nothing is opened by it."""

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)


class _LostError(Exception):
    """It may work the next time."""


def is_address(root: str | Path) -> bool:
    """Whether ``root`` is an address, rather than a folder."""
    return isinstance(root, str) and _ADDRESS.match(root) is not None


def check_address(address: str) -> None:
    """UsageError where ``address`` holds what must not be shown."""
    split = urlsplit(address)
    if "@" in split.netloc or split.query or split.fragment or not split.netloc:
        raise UsageError(
            f"the address {masked(address)} must be scheme, host or bucket, and path: no password and no query; "
            "credentials come from the environment or the machine's role"
        )


def fetch(address: str, *, limit: int, part: tuple[int, int] | None = None) -> bytes:
    """The content of the file at ``address``, or ``part`` of it: offset and size in bytes.

    Raises:
        DataError: it is not there, is larger than ``limit``, or shorter than the part.
        UnavailableError: a package that speaks to its store is missing.
        E2EDeployError: it may not be read, or not in parts; nobody answers, or the connection is lost, time after time.
    """
    read = _by_http if urlsplit(address).scheme in ("http", "https") else _by_store
    pause_s = FIRST_PAUSE_S
    for left in reversed(range(TRIES)):
        try:
            return read(address, limit, part)
        except (OSError, http.client.HTTPException, _LostError) as error:
            if not left:
                why = clean(str(getattr(error, "reason", error)) or type(error).__name__, 200)
                raise E2EDeployError(
                    f"{address} could not be read in {TRIES} tries: {why}; run it again to go on from the newest "
                    "checkpoint"
                ) from error
        time.sleep(pause_s)
        pause_s *= 2
    raise AssertionError


def _by_http(address: str, limit: int, part: tuple[int, int] | None) -> bytes:
    request = urllib.request.Request(address)
    if part is not None:
        if not part[1]:
            return b""
        request.add_header("Range", f"bytes={part[0]}-{sum(part) - 1}")
    try:
        with urllib.request.urlopen(request, timeout=SILENT_S) as answer:
            if part is not None and answer.status != http.HTTPStatus.PARTIAL_CONTENT:
                raise E2EDeployError(
                    f"{address}: the server sends whole files alone, without ranges of them"
                )
            told = answer.length if part is None else part[1]
            return _bounded(answer, address, limit, told)
    except urllib.error.HTTPError as error:
        with error:
            told_us = f"the server answers {error.code} {clean(str(error.reason), 100)}"
        if error.code in _PASSING:
            raise _LostError(told_us) from None
        if error.code in _ABSENT:
            raise DataError(f"{address}: {told_us}") from None
        raise E2EDeployError(f"{address}: {told_us}; {_WHEN_READABLE}") from None


def _bounded(stream: BinaryIO, address: str, limit: int, told: int | None) -> bytes:
    """The ``told`` bytes of ``stream``, at most ``limit``; None: to its end."""
    most = limit + 1 if told is None else min(told, limit + 1)
    # What has come by now: read() would wait for a whole piece, however slowly it comes.
    read = getattr(stream, "read1", stream.read)
    content, end = bytearray(), time.monotonic() + LONGEST_S
    while len(content) < most and (piece := read(min(_PIECE, most - len(content)))):
        content += piece
        if len(content) < most and time.monotonic() > end:
            raise _LostError(f"it takes longer than {LONGEST_S} s")
    if len(content) > limit:
        raise DataError(f"{address} has more than {limit:,} bytes")
    if told is not None and len(content) < told:
        raise _LostError("the connection ended early")
    return bytes(content)


def _by_store(address: str, limit: int, part: tuple[int, int] | None) -> bytes:
    store, path = _store(urlsplit(address).scheme), address
    try:
        if part is None:
            with store.open(path, "rb") as stream:
                return _bounded(stream, address, limit, getattr(stream, "size", None))
        content: bytes = store.cat_file(path, start=part[0], end=sum(part))
    except FileNotFoundError:
        raise DataError(f"{address} is not there") from None
    except PermissionError as error:
        why = clean(str(error), 200)
        raise E2EDeployError(f"{address} may not be read: {why}; {_WHEN_READABLE}") from None
    except (DataError, OSError, _LostError):
        raise
    except Exception as error:  # drivers of stores raise almost anything
        raise _LostError(f"{type(error).__name__}: {error}") from error
    if len(content) != part[1]:
        raise _LostError("the connection ended early")
    return content


@cache
def _store(scheme: str) -> Any:
    """Fsspec's way to a store, one a process."""
    fsspec = require("fsspec", "train")
    try:
        return fsspec.filesystem(scheme)
    except ValueError:
        raise UsageError(f"{scheme}:// is no store that fsspec knows") from None
    except ImportError as error:
        raise UnavailableError(f"{scheme}:// needs a package: {clean(str(error), 200)}") from None
