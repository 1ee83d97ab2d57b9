"""The rows of one evaluation, one an image, written as they are measured and picked up again after a break.

The file is JSON Lines. A row is appended whole; a last line that a killed process left half written is dropped.
Knows: rows and their file. Does not know: what a metric means.
"""

import fcntl
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self

from e2e_deploy.errors import DataError, E2EDeployError, UsageError
from e2e_deploy.system.files import check_target, read_bytes
from e2e_deploy.system.json_files import parse_json, to_json
from e2e_deploy.system.records import CountOrZero, Limits, read_record

MAX_BYTES = 2**28


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One image: what was measured on it, or why nothing was."""

    index: CountOrZero
    """Of the image in its set."""
    picture: str
    """Its name below the set's top."""
    ms: Annotated[float, Limits(0)] | None
    """Of the prediction."""
    metrics: dict[str, float] | None
    left_out: str | None
    """The reason; None where it was measured."""


class RowLog:
    """Rows that are on disk as soon as they are added; one process at a time.

    Args:
        path: of the file.
        expected: index and name of the images, in the order in which they are measured.
        on_note: told what was picked up, or why nothing was.

    Attributes:
        rows: what is there, a beginning of ``expected``.

    Raises:
        UsageError: another process writes it.
        E2EDeployError: it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        expected: Sequence[tuple[int, str]],
        on_note: Callable[[str], None] = lambda note: None,
    ) -> None:
        self.rows: list[Row] = []
        self._path, self._ends = path, [0]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            check_target(path)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, 0o666)
        except OSError as error:
            raise E2EDeployError(
                f"{path} could not be written: {error.strerror or error}"
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise UsageError(f"{path} is being written: another process measures this") from None
        except OSError:  # a file system without locks
            pass
        lines = self._picked_up(expected, on_note)
        for row, size in lines:
            self.rows.append(row)
            self._ends.append(self._ends[-1] + size)
        self.keep(len(lines))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def append(self, row: Row) -> None:
        """Add one; E2EDeployError where it cannot be written."""
        content = to_json(asdict(row)).encode() + b"\n"
        try:
            written = 0
            while written < len(content):
                written += os.write(self._descriptor, content[written:])
        except OSError as error:
            raise self._failed(error) from error
        self.rows.append(row)
        self._ends.append(self._ends[-1] + len(content))

    def keep(self, count: int) -> None:
        """Drop every row but the first ``count``."""
        del self.rows[count:], self._ends[count + 1 :]
        try:
            os.ftruncate(self._descriptor, self._ends[-1])
            os.lseek(self._descriptor, 0, os.SEEK_END)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> E2EDeployError:
        return E2EDeployError(f"{self._path} could not be written: {error.strerror or error}")

    def _picked_up(
        self, expected: Sequence[tuple[int, str]], on_note: Callable[[str], None]
    ) -> list[tuple[Row, int]]:
        """Rows that were there and their sizes in bytes."""
        try:
            lines = _read_lines(self._path)
        except DataError as error:
            on_note(f"{error}; measured anew")
            return []
        if [(row.index, row.picture) for row, _ in lines] != list(expected[: len(lines)]):
            on_note(f"{self._path} has rows of other images; measured anew")
            return []
        if lines:
            on_note(f"{self._path}: {len(lines)} of {len(expected)} images were measured before")
        return lines


def read_rows(path: Path) -> list[Row]:
    """The rows in a file; without the end of it where that is half a row.

    Raises:
        DataError: it cannot be read, or is damaged before its end.
    """
    return [row for row, _ in _read_lines(path)]


def _read_lines(path: Path) -> list[tuple[Row, int]]:
    try:
        content = read_bytes(path, MAX_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    *lines, _ = content.split(b"\n")
    return [
        (_parsed(path, number, line), len(line) + 1) for number, line in enumerate(lines, start=1)
    ]


def _parsed(path: Path, number: int, line: bytes) -> Row:
    table = parse_json(line, f"{path}: line {number}", error=DataError)
    row, problems = read_record(Row, table, complete=True, clean_texts=True)
    if row is None:
        raise DataError(f"{path}: line {number} is no row of an evaluation: {problems[0]}")
    return row
