"""A set whose images are a picture and files of its truth whose names follow from the picture's.

Knows: which files belong together, the published list of files where it is there, what is missing.
Does not know: what any set's truth is; its layout decodes it.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e_deploy.errors import DataError
from e2e_deploy.system.files import read_bytes
from e2e_deploy.train.data.sample import Sample
from e2e_deploy.train.protocol.layouts.set_files import SetFiles

MAX_LIST_BYTES = 2**24
NO_TRUTH = "no ground truth, as published"


@dataclass(frozen=True, slots=True)
class Layout:
    """How the files of one set are named and read."""

    picture: str
    """Pattern that the whole name of a picture matches, with named groups."""
    truth: tuple[str, ...]
    """Names of the files of its truth, with those groups in braces."""
    decode: Callable[[SetFiles, str, tuple[str, ...]], Sample]
    """Sample of a picture and its truth, by their names; DataError where a file is damaged."""
    truth_is_partial: bool = False
    """Pictures without truth belong to the set and are never measured, as in KITTI."""

    def truth_of(self, picture: str) -> tuple[str, ...] | None:
        """Names of a picture's truth; None if it is no picture of the set."""
        match = re.fullmatch(self.picture, picture)
        return (
            None
            if match is None
            else tuple(name.format(**match.groupdict()) for name in self.truth)
        )


class PairedSet:
    """One set's samples, ``train.accuracy.Readable``: in the order of the list, or sorted by name.

    Args:
        files: of the set.
        layout: of its names.
        listed: names of the pictures to measure, from the published list; None: all that are there.

    Attributes:
        left_out: images that cannot be read, by reason.

    Raises:
        DataError: there is no complete image.
    """

    def __init__(
        self, files: SetFiles, layout: Layout, listed: Sequence[str] | None = None
    ) -> None:
        self._files, self._layout = files, layout
        names = files.names()
        left_out = Counter[str]()
        self._items: list[tuple[str, tuple[str, ...]]] = []
        for picture in sorted(names) if listed is None else listed:
            truth = layout.truth_of(picture)
            if truth is None:
                if listed is not None:
                    raise DataError(
                        f"the list of {files.place} names {picture!r}, which is no picture of the set"
                    )
            elif picture not in names:
                left_out["picture missing"] += 1
            elif not names.issuperset(truth):
                left_out[NO_TRUTH if layout.truth_is_partial else "truth file missing"] += 1
            else:
                self._items.append((picture, truth))
        self.left_out: Mapping[str, int] = dict(left_out)
        if not self._items:
            counts = "; ".join(f"{reason}: {count}" for reason, count in left_out.items())
            raise DataError(
                f"{files.place} holds no complete image of this set{f' ({counts})' if counts else ''}"
            )

    def __len__(self) -> int:
        return len(self._items)

    def name(self, index: int) -> str:
        """Name of picture ``index`` below the set's top."""
        return self._items[index][0]

    def read(self, index: int) -> Sample:
        """Sample ``index``.

        Raises:
            DataError: a file is damaged, or sizes do not fit.
        """
        return self._layout.decode(self._files, *self._items[index])


def read_list(path: Path) -> list[str]:
    """The pictures that a published list of files names: the first word of each line.

    Raises:
        DataError: it cannot be read, names none, or one twice.
    """
    try:
        text = read_bytes(path, MAX_LIST_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a list of files ({error})") from error
    pictures = [line.split()[0].removeprefix("./") for line in text.splitlines() if line.strip()]
    if not pictures:
        raise DataError(f"{path}: names no file")
    picture, times = Counter(pictures).most_common(1)[0]
    if times > 1:  # it would count as often in every mean
        raise DataError(f"{path}: names {picture} {times} times")
    return pictures
