"""Pictures as a source: one, a folder of them, or a numbered sequence that is a video."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from e2e_deploy.errors import SourceError, UnavailableError
from e2e_deploy.runtime.sources.picture_file import PICTURE_SUFFIXES, read_picture
from e2e_deploy.runtime.sources.source import BaseSource, SourceFrame
from e2e_deploy.system.addresses import masked

MAX_NAME_BYTES = 220


class PictureSource(BaseSource):
    """Picture files in the order given. Of several, one that cannot be used is noted, counted as skipped and left out.

    Args:
        name: what they are together, for people.
        paths: at least one.
        sequence: they are the frames of one video of that name.

    Attributes:
        names: of the results, one a picture; no two are the same where upper and lower case are.

    Raises:
        SourceError: while iterating: none of the pictures can be used.
        UnavailableError: while iterating: the only picture needs a package that is not installed.
    """

    def __init__(self, name: str, paths: list[Path], *, sequence: str = "") -> None:
        super().__init__(name, total=len(paths), files=paths)
        self.is_video = bool(sequence)
        self.names = [sequence] * len(paths) if sequence else result_names(paths)

    def __iter__(self) -> Iterator[SourceFrame]:
        self._begin()
        for index, (path, name) in enumerate(zip(self.files, self.names, strict=True)):
            try:
                rgb = read_picture(path, note=self.note)
            except (SourceError, UnavailableError) as error:
                if self.leave_out(str(error)):
                    continue
                raise
            yield SourceFrame(rgb, index, None, name, source=self.name)
        if self.skipped == len(self.files):
            raise SourceError(
                f"none of the {len(self.files)} pictures of {self.name} can be used; {self.notes[-1]}"
            )

    def leave_out(self, why: str) -> bool:
        """Of several pictures each is for itself."""
        if len(self.files) == 1:
            return False
        self.skipped += 1
        self.note(f"left out: {why}")
        return True


def result_names(paths: list[Path]) -> list[str]:
    """A name for the results of each picture, from its own: no two pictures share one.

    The stem, or the whole name where two stems are the same (a.png and a.jpg), with a number where these are the
    same as well: on many disks A.png and a.png are. Very long ones are cut.
    """

    def key(name: str) -> str:
        return unicodedata.normalize("NFC", name).casefold()

    stems = Counter(key(path.stem) for path in paths)
    taken: set[str] = set()
    numbers: dict[str, int] = {}  # the last of each name: a list may name one picture very often
    names = []
    for path in paths:
        name = wanted = short_name(path.stem if stems[key(path.stem)] == 1 else path.name)
        number = numbers.get(key(wanted), 1)
        while key(name) in taken or (name != wanted and key(name) in stems):
            number += 1
            name = f"{wanted}-{number}"
        numbers[key(wanted)] = number
        taken.add(key(name))
        names.append(name)
    return names


def short_name(name: str) -> str:
    """The name of results cut to what a file system takes with our endings: 255 bytes in most."""
    while len(os.fsencode(name)) > MAX_NAME_BYTES:
        name = name[:-1]
    return name


def open_folder(folder: Path) -> PictureSource:
    """The pictures of a folder in the order of their names, by their suffix; hidden files are none.

    Raises:
        SourceError: it cannot be read or holds no pictures.
    """
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise SourceError(f"the folder {folder} cannot be read: {error.strerror}") from None
    pictures = [path for path in entries if path.suffix.lower() in PICTURE_SUFFIXES]
    if not pictures:
        raise SourceError(f"the folder {folder} holds no pictures ({', '.join(PICTURE_SUFFIXES)})")
    source = PictureSource(str(folder), pictures)
    others = [path.name for path in entries if path.suffix.lower() not in PICTURE_SUFFIXES]
    if others:
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        source.note(
            f"{len(others)} of {len(entries)} entries of {folder} are no pictures by their names and were not read: "
            f"{shown}"
        )
    return source


def open_sequence(path: Path, counter: re.Match[str]) -> PictureSource:
    """The files that a printf pattern names, by number; numbers may be missing.

    Args:
        path: with the pattern in its name.
        counter: the match of ``%d`` or ``%06d`` in that name; group 1 holds the digits.

    Raises:
        SourceError: the folder cannot be read, or there is no such file.
    """
    before, after = path.name[: counter.start()], path.name[counter.end() :]
    digits = int(counter[1] or 0)
    pattern = re.compile(re.escape(before) + r"([0-9]+)" + re.escape(after))
    found: dict[int, Path] = {}
    try:
        for file in path.parent.iterdir() if path.parent.is_dir() else ():
            match = pattern.fullmatch(file.name)
            if match and digits <= len(match[1]):
                found[int(match[1])] = file
    except OSError as error:
        raise SourceError(f"the folder {path.parent} cannot be read: {error.strerror}") from None
    if not found:
        raise SourceError(f"no file matches the sequence {masked(str(path))}")
    paths = [found[number] for number in sorted(found)]
    return PictureSource(str(path), paths, sequence=path.parent.name or "seq")
