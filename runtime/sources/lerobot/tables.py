"""Parquet files that somebody else wrote, some rows at a time; what is wrong with one is one sentence.

PyArrow's descriptions of row groups and columns (``metadata.row_group(0)``) are not asked: on damaged ones an exception
of C++ that nobody catches ends the process (PyArrow 26). Reading rows raises as it should.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from e2e_deploy.errors import SourceError, UnavailableError
from e2e_deploy.packages import require
from e2e_deploy.system.files import open_regular
from e2e_deploy.system.text import clean

_READ_BYTES = 2**20


@contextmanager
def opened(path: Path, columns: Sequence[str] = ()) -> Iterator[Any]:
    """The ``pyarrow.parquet.ParquetFile`` at ``path``, which has these columns.

    Raises:
        SourceError: missing, damaged, or without one of the columns; also for what goes wrong in the block.
        UnavailableError: pyarrow is not installed.
    """
    parquet = require("pyarrow.parquet", "robotics")
    try:
        with (
            open_regular(path) as stream,
            parquet.ParquetFile(stream, buffer_size=_READ_BYTES) as file,
        ):
            there = file.schema_arrow.names
            if missing := [name for name in columns if name not in there]:
                raise SourceError(
                    f"{path} has no column {missing[0]!r}, which a LeRobot data set has"
                )
            yield file
    except (SourceError, UnavailableError):
        raise
    except FileNotFoundError:
        raise SourceError(f"{path} is missing from the data set") from None
    except Exception as error:  # damaged bytes lead readers to raise almost anything
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> SourceError:
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return SourceError(f"{path} cannot be read as a Parquet file: {clean(str(why), 160)}")


def batches(
    path: Path, needed: Sequence[str], *, at_once: int, others: bool = False
) -> Iterator[Any]:
    """The rows of a file as ``pyarrow.RecordBatch``es of at most ``at_once``: the columns needed, or the others, too.

    Raises:
        SourceError: as ``opened``.
        UnavailableError: pyarrow is not installed.
    """
    with opened(path, needed) as file:
        columns = None if others else list(needed)
        yield from file.iter_batches(at_once, columns=columns, use_threads=False)


def rows(path: Path, columns: Sequence[str], *, at_once: int) -> Iterator[dict[str, Any]]:
    """The rows of a file with these columns, ``at_once`` of them in memory.

    Raises:
        SourceError: as ``opened``.
        UnavailableError: pyarrow is not installed.
    """
    for batch in batches(path, columns, at_once=at_once):
        yield from _listed(path, batch)


def rows_from(
    path: Path, columns: Sequence[str], first: int, *, counted_by: str, at_once: int
) -> Iterator[dict[str, Any]]:
    """The rows from the one with that number on; of the row groups before it one column of numbers is read at most.

    Args:
        path: of the file.
        columns: of the rows.
        first: number of a row, from 0.
        counted_by: a column that is cheap to read.
        at_once: rows in memory.

    Raises:
        SourceError: as ``opened``.
        UnavailableError: pyarrow is not installed.
    """
    with opened(path, [*columns, counted_by]) as file:
        for group in range(file.num_row_groups):
            if first > 0:  # how many rows it has no description is asked for
                count = len(file.read_row_group(group, [counted_by], use_threads=False))
                if first >= count:
                    first -= count
                    continue
            for batch in file.iter_batches(
                at_once, row_groups=[group], columns=list(columns), use_threads=False
            ):
                here = batch.slice(min(first, len(batch)))
                first = max(0, first - len(batch))
                yield from _listed(path, here)


def _listed(path: Path, batch: Any) -> list[dict[str, Any]]:
    try:
        listed: list[dict[str, Any]] = batch.to_pylist()
    except Exception as error:  # text that is no UTF-8, dates beyond Python's
        raise _damaged(path, error) from None
    return listed
