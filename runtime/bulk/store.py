"""Object stores by their addresses, such as s3://bucket/prefix: what lies there, read and written whole.

PyArrow speaks to S3 and Google's store, fsspec to the others. Credentials come from where each looks for them, the
environment or the machine's role, and never from an address: so an address can be shown and written down as it is.
"""

import datetime
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from e2e_deploy.errors import E2EDeployError, SourceError, UnavailableError, UsageError
from e2e_deploy.packages import require
from e2e_deploy.system.addresses import masked
from e2e_deploy.system.text import clean

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_HERE = ("file", "local", "memory")  # of one machine or one process: workers would see another
CONNECT_S, SILENT_S, TRIES = 10, 60, 4
_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_WHYS = {
    "NO_SUCH_BUCKET": "there is no such bucket",
    "ACCESS_DENIED": "access is denied; credentials come from the environment or the machine's role",
    "curlCode: 28": "the store does not answer in time",
    "curlCode: 7,": "nobody answers at the store's address",
    "curlCode: 6,": "the store's host is not known",
}
"""Of PyArrow's texts what people need; others are shown."""


def is_address(place: str | Path) -> bool:
    """Whether it is an address, rather than the path of a file or folder."""
    return isinstance(place, str) and _SCHEME.match(place) is not None


@dataclass(frozen=True)
class Folder:
    """What lies right below a prefix, in the order of names: folders, and files with their sizes in bytes."""

    folders: list[str]
    files: list[tuple[str, int]]


class Store:
    """What lies below an address.

    Args:
        address: scheme, bucket and prefix.

    Raises:
        UsageError: it holds credentials or options, or is of no store that others can see.
        UnavailableError: the package that speaks to it is not installed.
        SourceError: the store does not say where the bucket lies.
    """

    def __init__(self, address: str) -> None:
        scheme, _, rest = address.partition("://")
        host = rest.partition("/")[0]
        if scheme.lower() in _HERE or "::" in address:
            raise UsageError(
                f"{masked(address)} is of this machine or process alone; give a path, or a store that every worker sees"
            )
        if not host or "@" in host or set(rest) & set("?#\0\n\r"):
            raise UsageError(
                f"{masked(address)} is no address of a store, such as s3://bucket/prefix; credentials and options come "
                "from the environment, never from an address"
            )
        self.address = address.rstrip("/")
        with _told(self.address, "cannot be reached", SourceError):
            self._files, self._base = _filesystem(scheme.lower(), host), rest.rstrip("/")
        if scheme.lower() not in _NATIVE:
            self._base = str(self._files.handler.fs._strip_protocol(self.address))

    def folder(self, inner: str = "") -> Folder:
        """What lies right below ``inner``; empty where nothing does.

        Raises:
            SourceError: the store does not say.
        """
        fs = require("pyarrow.fs", "bulk")
        where = self._path(inner)
        with _told(self.shown(inner), "cannot be read", SourceError):
            try:
                found = self._files.get_file_info(fs.FileSelector(where, recursive=False))
            except FileNotFoundError:  # a missing bucket is another error
                found = []
        # A key may hold what no file's name does.
        named = [each for each in found if each.base_name and "\0" not in each.base_name]
        folders = sorted(each.base_name for each in named if each.type == fs.FileType.Directory)
        files = sorted((e.base_name, e.size or 0) for e in named if e.type == fs.FileType.File)
        return Folder(folders, files)

    def read(self, name: str, limit: int) -> bytes:
        """A file of at most ``limit`` bytes.

        Raises:
            SourceError: it is missing, larger, or cannot be read.
        """
        with (
            _told(self.shown(name), "cannot be read", SourceError),
            self._files.open_input_file(self._path(name)) as stream,
        ):
            size = stream.size()
            data: bytes = stream.read(limit) if size <= limit else b""
        if size > limit:
            raise SourceError(
                f"{self.shown(name)} holds {size:,} bytes, and at most {limit:,} are read"
            )
        return data

    def write(self, name: str, data: bytes) -> None:
        """Put a file there, whole or not at all; one that is there is replaced.

        Raises:
            E2EDeployError: it cannot be written.
        """
        with (
            _told(self.shown(name), "could not be written", E2EDeployError),
            self._files.open_output_stream(self._path(name)) as stream,
        ):
            stream.write(data)

    def shown(self, name: str) -> str:
        """The address of what lies below."""
        return f"{self.address}/{name}" if name else self.address

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}" if name else self._base


def read_address(address: str, limit: int) -> bytes:
    """What lies at an address itself, as ``Store.read``; it may hold what a prefix given by hand may not."""
    scheme, _, rest = address.partition("://")
    host, _, name = rest.partition("/")
    return Store(f"{scheme}://{host}").read(name, limit)


@contextmanager
def _told(shown: str, what: str, error: type[E2EDeployError]) -> Iterator[None]:
    """A block whose errors are one sentence."""
    try:
        yield
    except E2EDeployError:
        raise
    except FileNotFoundError:
        raise error(f"{shown} is missing") from None
    except Exception as found:  # drivers of stores raise almost anything
        raise error(f"{shown} {what}: {_why(str(found) or type(found).__name__)}") from None


def _why(text: str) -> str:
    for sign, why in _WHYS.items():
        if sign in text:
            return why
    for name in _SECRETS:
        if value := os.environ.get(name):
            text = text.replace(value, "***")
    return clean(re.sub(r"\(Request ID: [^)]*\)|^When .*?: (?=AWS Error)", "", text).strip(), 200)


def _s3(host: str) -> Any:
    """With the variables of Amazon's own programs; PyArrow's reads the credentials, and not the others."""
    fs = require("pyarrow.fs", "bulk")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    split = urlsplit(endpoint)
    given: dict[str, Any] = {"endpoint_override": split.netloc, "scheme": split.scheme}
    return fs.S3FileSystem(
        region=region or (None if endpoint else fs.resolve_s3_region(host)),
        connect_timeout=CONNECT_S,
        request_timeout=SILENT_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=TRIES),
        allow_delayed_open=True,  # what is small is one request
        **(given if endpoint else {}),
    )


def _gcs(host: str) -> Any:
    fs = require("pyarrow.fs", "bulk")
    return fs.GcsFileSystem(retry_time_limit=datetime.timedelta(seconds=SILENT_S))


_NATIVE = {"s3": _s3, "gs": _gcs}


@cache
def _filesystem(scheme: str, host: str) -> Any:
    """PyArrow's way to a store; one a process, which keeps its connections."""
    if scheme in _NATIVE:
        return _NATIVE[scheme](host)
    fs, fsspec = require("pyarrow.fs", "bulk"), require("fsspec", "bulk")
    try:
        return fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem(scheme)))
    except ValueError:
        raise UsageError(f"{scheme}:// is no store that fsspec knows, nor s3:// or gs://") from None
    except ImportError as error:
        raise UnavailableError(f"{scheme}:// needs a package: {clean(str(error), 200)}") from None
