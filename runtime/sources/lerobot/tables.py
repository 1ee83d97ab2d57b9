"""Parquet files that somebody else wrote, read within bounds; what is wrong with one is one sentence."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from e2e_deploy.errors import SourceError, UnavailableError
from e2e_deploy.packages import require
from e2e_deploy.system.files import open_regular
from e2e_deploy.system.text import clean

MAX_GROUP_BYTES = 2**32  # of one column in one row group: pictures of an episode lie there
_READ_BYTES = 2**20


@contextmanager
def opened(path: Path, columns: Sequence[str] = ()) -> Iterator[Any]:
    """The ``pyarrow.parquet.ParquetFile`` at ``path``, which has these columns.

    Raises:
        SourceError: missing, damaged, without one of the columns, or with more in a row group than is read; also for
            what goes wrong in the block.
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
            _check_sizes(path, file.metadata)
            yield file
    except (SourceError, UnavailableError):
        raise
    except FileNotFoundError:
        raise SourceError(f"{path} is missing from the data set") from None
    except Exception as error:  # damaged bytes lead readers to raise almost anything
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise SourceError(
            f"{path} cannot be read as a Parquet file: {clean(str(why), 160)}"
        ) from None


def _check_sizes(path: Path, metadata: Any) -> None:
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            size = metadata.row_group(group).column(column).total_uncompressed_size
            if size > MAX_GROUP_BYTES:
                raise SourceError(
                    f"{path} holds {size:,} bytes in one column of a row group; at most {MAX_GROUP_BYTES:,} are read"
                )


def rows(path: Path, columns: Sequence[str], *, at_once: int) -> Iterator[dict[str, Any]]:
    """The rows of a file with these columns, ``at_once`` of them in memory.

    Raises:
        SourceError: as ``opened``.
    """
    with opened(path, columns) as file:
        batches = file.iter_batches(at_once, columns=list(columns), use_threads=False)
        for batch in batches:
            yield from batch.to_pylist()
