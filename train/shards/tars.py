"""Samples in plain tars, found once and read by their place: WebDataset's shards, in any order.

    <split>/shards/<number>.tar     <stem>.rgb.png  <stem>.depth.png  ... of a sample one after the other

Reading is by offset, so a run draws from packed sets in the order of unpacked ones, wherever it begins.
Knows: which members are whose. Does not know: pictures, tasks.
"""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from e2e_deploy.errors import DataError
from e2e_deploy.system.files import open_regular
from e2e_deploy.system.tars import tar_entries

FOLDER = "shards"
MAX_MEMBER = 2**30


class Member(NamedTuple):
    """Where the content of a file lies."""

    tar: Path
    offset: int
    size: int


class Shards:
    """The members of all tars in a folder, in the order of their names.

    Args:
        folder: holds ``*.tar``; read to the end of their headers, not into memory.

    Raises:
        DataError: a tar is damaged, holds what is no file or a name twice, or there is none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._members: dict[str, Member] = {}
        tars = sorted(folder.glob("*.tar"))
        if not tars:
            raise DataError(f"{folder}: no shard (*.tar)")
        for tar in tars:
            try:
                self._index(tar)
            except (OSError, tarfile.HeaderError, ValueError) as error:
                raise DataError(f"{tar}: not a readable tar ({error})") from error

    def names(self, ending: str) -> set[str]:
        """What stands before ``.<ending>`` in the names that end so."""
        dotted = f".{ending}"
        return {name.removesuffix(dotted) for name in self._members if name.endswith(dotted)}

    def size(self, name: str) -> int:
        """Bytes of a member."""
        return self._members[name].size

    def members(self) -> Iterator[tuple[str, Member]]:
        """All members by name, a tar after the other."""
        return iter(self._members.items())

    def read(self, name: str) -> bytes:
        """The content of a member; DataError if its tar is gone or has become shorter."""
        tar, offset, size = self._members[name]
        try:
            with open_regular(tar) as stream:
                content = os.pread(stream.fileno(), size, offset)
        except OSError as error:
            raise DataError(f"{tar}: cannot be read ({error.strerror or error})") from error
        if len(content) != size:
            raise DataError(f"{tar}: {name} is cut off")
        return content

    def _index(self, tar: Path) -> None:
        with open_regular(tar) as stream:
            for entry in tar_entries(stream):
                if entry.size > MAX_MEMBER:
                    raise ValueError(f"{entry.name!r} is too large")
                if entry.is_file:
                    self._add(entry.name, Member(tar, entry.offset, entry.size))
                elif entry.kind != tarfile.DIRTYPE:
                    raise ValueError(f"{entry.name!r} is no file")

    def _add(self, path: str, member: Member) -> None:
        name = path.rpartition("/")[2]
        if name in self._members:
            raise ValueError(f"{name!r} is there before")
        self._members[name] = member
