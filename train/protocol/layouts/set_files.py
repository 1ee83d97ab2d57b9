"""The files of one evaluation set, extracted or still in its archive, by their names below its top.

Knows: folders and plain tar archives, which are read in place and never unpacked. Does not know: what is in a file.
"""

import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from e2e_deploy.errors import DataError
from e2e_deploy.system.files import open_regular
from e2e_deploy.train.data.files import MAX_BYTES, read_bytes

MAX_MEMBERS = 200_000
"""Of one archive; the largest of the protocol holds some thousands."""


class SetFiles(Protocol):
    """Where the files of a set are read from."""

    place: Path
    """The folder or archive."""

    def names(self) -> frozenset[str]:
        """Every regular file, ``/`` between folders."""
        ...

    def read(self, name: str) -> bytes:
        """Content of one of ``names``; DataError when it cannot be read or is too large."""
        ...

    def where(self, name: str) -> Path:
        """How messages name it."""
        ...


def open_files(place: Path) -> SetFiles:
    """The files in the folder or tar archive ``place``.

    Raises:
        DataError: it is neither, or the archive is damaged.
    """
    return FolderFiles(place) if place.is_dir() else TarFiles(place)


class FolderFiles:
    """Files of an extracted set; hidden ones do not count."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._names = frozenset(_walk(place))

    def names(self) -> frozenset[str]:
        """As ``SetFiles``."""
        return self._names

    def read(self, name: str) -> bytes:
        """As ``SetFiles``."""
        return read_bytes(self.where(name))

    def where(self, name: str) -> Path:
        """As ``SetFiles``."""
        return self.place / name


class TarFiles:
    """Files of a plain tar archive; only regular files count, and nothing is written anywhere.

    Raises:
        DataError: it cannot be read, is compressed, or is no archive.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self._members: Mapping[str, tuple[int, int]] = _members(place)

    def names(self) -> frozenset[str]:
        """As ``SetFiles``."""
        return frozenset(self._members)

    def read(self, name: str) -> bytes:
        """As ``SetFiles``."""
        start, size = self._members[name]
        if size > MAX_BYTES:
            raise DataError(
                f"{self.where(name)}: it holds {size:,} bytes, and at most {MAX_BYTES:,} are read"
            )
        try:
            with open_regular(self.place) as stream:
                stream.seek(start)
                content = stream.read(size)
        except OSError as error:
            raise DataError(f"{self.place}: cannot be read ({error.strerror or error})") from error
        if len(content) != size:
            raise DataError(f"{self.where(name)}: the archive ends in the middle of it")
        return content

    def where(self, name: str) -> Path:
        """As ``SetFiles``."""
        return self.place / name


def _walk(place: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(place, followlinks=False):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(folder) / name
            if not name.startswith(".") and path.is_file():
                yield path.relative_to(place).as_posix()


def _members(place: Path) -> dict[str, tuple[int, int]]:
    """Start and size of the content of every regular member."""
    found: dict[str, tuple[int, int]] = {}
    try:
        with open_regular(place) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for count, member in enumerate(archive):
                if count >= MAX_MEMBERS:
                    raise DataError(f"{place}: it has more than {MAX_MEMBERS:,} members")
                name = member.name.removeprefix("./")
                if member.isreg() and not member.issparse() and not _is_hidden(name):
                    found[name] = member.offset_data, member.size
                elif member.islnk() and not _is_hidden(name):
                    # What was one file twice on disk; its content stands where it came first.
                    target = found.get(member.linkname.removeprefix("./"))
                    if target is not None:
                        found[name] = target
    except OSError as error:
        raise DataError(f"{place}: cannot be read ({error.strerror or error})") from error
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise DataError(
            f"{place}: not a readable tar archive ({error}); a compressed one has to be extracted first"
        ) from error
    return found


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
