"""Tars of pictures, such as WebDataset's: members found by their headers alone.

A tar is what a folder would be that it was unpacked into: the same order, the same names of results.
"""

import posixpath
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.bulk.inputs.holder import Held, Place
from e2e_deploy.runtime.bulk.inputs.item import Missing
from e2e_deploy.runtime.bulk.inputs.pictures import Member
from e2e_deploy.runtime.sources.picture_file import PICTURE_SUFFIXES
from e2e_deploy.runtime.sources.picture_source import result_names
from e2e_deploy.system.files import open_regular
from e2e_deploy.system.tars import tar_entries
from e2e_deploy.system.text import clean

SUFFIXES = (".tar",)


def list_tar(path: Path) -> Held:
    """The pictures of a tar, folder by folder in the order of names; of a name that is there twice the last.

    Raises:
        SourceError: it cannot be read, or is no tar.
    """
    found: dict[PurePosixPath, Member] = {}
    others, broken = 0, ""
    try:
        with open_regular(path) as stream:
            for entry in tar_entries(stream):
                if not entry.is_file or entry.name.endswith("/"):
                    continue
                place = _place(entry.name)
                if any(part.startswith(".") for part in place.parts):
                    continue
                if place.suffix.lower() not in PICTURE_SUFFIXES:
                    others += 1
                    continue
                found[place] = Member(entry.offset, entry.size, str(place))
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
