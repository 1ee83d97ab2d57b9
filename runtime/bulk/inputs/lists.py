"""Lists with a column of paths: Parquet, CSV with a header, JSON lines."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

from e2e_deploy.errors import SourceError, UsageError
from e2e_deploy.packages import require
from e2e_deploy.system.files import open_regular
from e2e_deploy.system.json_files import parse_json
from e2e_deploy.system.text import clean

SUFFIXES = (".parquet", ".csv", ".jsonl", ".ndjson")
MAX_LINE = 2**16  # bytes of a line of a list: a path and what else is told of a picture


def paths_of(source: Path, column: str) -> Iterator[str]:
    """The paths of a list, each a text that a disk could take.

    Raises:
        SourceError: it cannot be read, or a row holds no path.
        UsageError: it has no such column.
    """
    suffix = source.suffix.lower()
    reader = {".parquet": _parquet, ".csv": _csv}.get(suffix, _json_lines)
    for row, value in enumerate(reader(source, column), start=1):
        if not _is_path(value):
            shown = clean(repr(value), 80)
            raise SourceError(f"row {row} of {source} has {shown} as `{column}`; expected a path")
        yield value


def _is_path(value: object) -> TypeGuard[str]:
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:  # half a pair of surrogates, which JSON lets through
        return False
    return True


def _parquet(source: Path, column: str) -> Iterator[object]:
    parquet = require("pyarrow.parquet", "bulk")
    try:
        with open_regular(source) as stream:
            file = parquet.ParquetFile(stream)
            if column not in file.schema_arrow.names:
                raise _no_column(source, column, file.schema_arrow.names)
            # Rows only: a damaged file's row groups, asked for what they are, can end the process.
            for batch in file.iter_batches(batch_size=4096, columns=[column]):
                yield from batch.column(0).to_pylist()
    except (SourceError, UsageError):
        raise
    except Exception as error:  # damaged bytes lead Arrow to raise almost anything
        raise SourceError(f"{source} cannot be read as Parquet: {clean(str(error), 200)}") from None


def _lines(source: Path) -> Iterator[str]:
    """UTF-8 lines of bounded length."""
    try:
        with open_regular(source) as stream:
            number = 0
            while line := stream.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE:
                    raise SourceError(f"line {number} of {source} is longer than {MAX_LINE} bytes")
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise SourceError(f"line {number} of {source} is no UTF-8: {error.reason}") from None
    except OSError as error:
        raise SourceError(f"{source} cannot be read: {error.strerror or error}") from None


def _csv(source: Path, column: str) -> Iterator[object]:
    rows = csv.reader(_lines(source), strict=True)
    try:
        names = next(rows, [])
        if column not in names:
            raise _no_column(source, column, names)
        place = names.index(column)
        for row in rows:
            if row:
                yield row[place] if place < len(row) else None
    except csv.Error as error:
        raise SourceError(f"line {rows.line_num} of {source} is no CSV: {error}") from None


def _json_lines(source: Path, column: str) -> Iterator[object]:
    for number, line in enumerate(_lines(source), start=1):
        if line.strip():
            row = parse_json(line.encode(), f"line {number} of {source}", error=SourceError)
            if column not in row:
                raise _no_column(source, column, list(row))
            yield row[column]


def _no_column(source: Path, column: str, names: list[str]) -> UsageError:
    known = clean(", ".join(names[:20]), 200) or "none"
    return UsageError(
        f"{source} has no column {column!r}; its columns are {known}: name one as `column`"
    )
