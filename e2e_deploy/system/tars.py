"""What lies where in a tar, by its headers alone: members are read later by their places, in any order.

Python's tarfile takes a tar that is cut off for a shorter one; here it is an error. USTAR, GNU's and PAX names and
sizes are known, compression is not.
"""

import os
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

_BLOCK = 512
_MAX_HEADER = 2**20
"""Bytes of a header that only holds a name, times and the like."""
_HEADERS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_WITHOUT_CONTENT = (
    *(tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE),
    *(tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE),
)
"""Nothing follows their header, whatever size it tells: of a link, that of what it leads to."""


class TarEntry(NamedTuple):
    """A file, a folder or something else.

    Attributes:
        name: as the tar has it; it may lead anywhere.
        offset: of its content, in bytes.
        size: of its content, in bytes.
        kind: one of tarfile's types; GNUTYPE_SPARSE for a file with holes, whose content is not all of it.
    """

    name: str
    offset: int
    size: int
    kind: bytes

    @property
    def is_file(self) -> bool:
        """Whether the content is that of a file."""
        return self.kind in _FILES


def tar_entries(stream: BinaryIO) -> Iterator[TarEntry]:
    """All entries in order; nothing but headers is read.

    Args:
        stream: of a file on the disk.

    Raises:
        ValueError: it is damaged or cut off; what came before was whole.
        tarfile.HeaderError: a header is damaged.
    """
    total, at = os.fstat(stream.fileno()).st_size, 0
    told: dict[str, str] = {}
    while at + _BLOCK <= total:
        stream.seek(at)
        block = stream.read(_BLOCK)
        if not block.strip(b"\0"):
            return
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        at += _BLOCK
        size = info.size
        if info.type in _HEADERS:
            if not 0 <= size <= _MAX_HEADER:
                raise ValueError(f"a header of {size:,} bytes")
            if info.type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
                told |= _told(info.type, stream.read(size))
        else:
            size = 0 if info.type in _WITHOUT_CONTENT else int(told.get("size", size))
            if not 0 <= size <= total - at:
                raise ValueError(f"{info.name[:80]!r} is cut off")
            has_holes = any(key.startswith("GNU.sparse") for key in told)
            kind = tarfile.GNUTYPE_SPARSE if has_holes else info.type
            yield TarEntry(told.get("path", info.name), at, size, kind)
            told = {}
        at += -(-size // _BLOCK) * _BLOCK
    raise ValueError("its end is missing")


def _told(kind: bytes, content: bytes) -> dict[str, str]:
    """What a GNU or PAX header says of the entry behind it."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        return {"path": content.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    told, at = {}, 0
    while at < len(content):  # by places: a copy of the rest for each would be quadratic
        space = content.index(b" ", at)
        end = at + int(content[at:space])
        if not space < end <= len(content):
            raise ValueError("a header that is damaged")
        key, _, value = content[space + 1 : end].rstrip(b"\n").partition(b"=")
        told[key.decode("ascii", "replace")] = value.decode("utf-8", "surrogateescape")
        at = end
    return told
