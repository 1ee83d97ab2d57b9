"""Tars of pictures, such as WebDataset's: members found by their headers alone.

A tar is what a folder would be that it was unpacked into: the same order, the same names of results.
"""

import os
import posixpath
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.bulk.inputs.holder import Held, Place
from e2e_deploy.runtime.bulk.inputs.item import Missing
from e2e_deploy.runtime.bulk.inputs.pictures import Member
from e2e_deploy.runtime.sources.picture_file import PICTURE_SUFFIXES
from e2e_deploy.runtime.sources.picture_source import result_names
from e2e_deploy.system.files import open_regular
from e2e_deploy.system.text import clean

SUFFIXES = (".tar",)
_BLOCK = 512
_MAX_HEADER = 2**20  # bytes of a header that holds a name, times and the like
_NAMES = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


def list_tar(path: Path) -> Held:
    """The pictures of a tar, folder by folder in the order of names; of a name that is there twice the last.

    Raises:
        SourceError: it cannot be read, or is no tar.
    """
    found: dict[PurePosixPath, Member] = {}
    others, broken = 0, ""
    try:
        with open_regular(path) as stream:
            for name, offset, length in _files(stream):
                place = _place(name)
                if any(part.startswith(".") for part in place.parts):
                    continue
                if place.suffix.lower() not in PICTURE_SUFFIXES:
                    others += 1
                    continue
                found[place] = Member(offset, length, str(place))
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from None
    except (tarfile.HeaderError, ValueError) as error:
        why = clean(str(error), 200)
        if not found:
            raise SourceError(
                f"{path} is not a tar that can be read ({why}); compressed ones have to be unpacked first"
            ) from None
        broken = f"{path} is damaged or cut off after {len(found)} pictures: {why}"
    return Held(list(_in_order(found, broken)), [path], others=others)


def _in_order(found: dict[PurePosixPath, Member], broken: str) -> Iterator[Place]:
    """First what is in a folder, then its folders, each in the order of names."""
    folders: dict[PurePosixPath, list[PurePosixPath]] = {}
    for place in found:
        folders.setdefault(place.parent, []).append(place)
    for folder in sorted(folders, key=lambda each: each.parts):
        paths = sorted(folders[folder])
        names = result_names([Path(path) for path in paths])
        inner = "" if folder == PurePosixPath() else str(folder)
        for path, name in zip(paths, names, strict=True):
            yield Place(name, found[path], inner)
    if broken:
        yield Place("", Missing(broken))


def _place(name: str) -> PurePosixPath:
    """A member's name within the folder that it would be unpacked to.

    Raises:
        ValueError: it lies outside.
    """
    place = PurePosixPath(posixpath.normpath("/" + name)[1:].lstrip("/"))
    if ".." in PurePosixPath(name).parts or "\0" in name or not place.parts:
        raise ValueError(f"a member is called {name[:80]!r}")
    return place


def _files(stream: BinaryIO) -> Iterator[tuple[str, int, int]]:
    """(name, offset, length) of each file in a tar; only headers are read.

    Raises:
        ValueError: it is damaged or cut off.
        tarfile.HeaderError: it is damaged.
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
        if info.type in _NAMES:
            if not 0 <= size <= _MAX_HEADER:
                raise ValueError(f"a header of {size:,} bytes")
            if info.type == tarfile.XHDTYPE or info.type == tarfile.GNUTYPE_LONGNAME:
                told |= _told(info.type, stream.read(size))
        else:
            if "size" in told:
                size = int(told["size"])
            if not 0 <= size <= total - at:
                raise ValueError(f"{info.name[:80]!r} is cut off")
            sparse = any(key.startswith("GNU.sparse") for key in told)
            if info.type in _FILES and not info.name.endswith("/") and not sparse:
                yield told.get("path", info.name), at, size
            told = {}
        at += -(-size // _BLOCK) * _BLOCK
    raise ValueError("its end is missing")


def _told(kind: bytes, content: bytes) -> dict[str, str]:
    """What a GNU or PAX header says of the file behind it."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        return {"path": content.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    told = {}
    while content:
        length = int(content.partition(b" ")[0])
        if not 0 < length <= len(content):
            raise ValueError("a header that is damaged")
        key, _, value = content[:length].partition(b" ")[2].rstrip(b"\n").partition(b"=")
        told[key.decode("ascii", "replace")] = value.decode("utf-8", "surrogateescape")
        content = content[length:]
    return told
