"""What a bulk run works on: every picture of a folder or list, in a steady order, each with the name of its results.

Knows: folders, lists with a column of paths. Does not know: what is in a picture; no picture is opened here.
"""

import csv
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from e2e_deploy.errors import SourceError, UsageError
from e2e_deploy.packages import require
from e2e_deploy.runtime.sources.picture_file import PICTURE_SUFFIXES
from e2e_deploy.runtime.sources.picture_source import result_names
from e2e_deploy.system.addresses import masked
from e2e_deploy.system.files import open_regular
from e2e_deploy.system.json_files import parse_json
from e2e_deploy.system.text import clean

LIST_SUFFIXES = (".parquet", ".csv", ".jsonl", ".ndjson")
MAX_LINE = 2**16  # bytes of a line of a list: a path and what else is told of a picture
MAX_ITEMS = 100_000_000


@dataclass(frozen=True, slots=True)
class BulkItem:
    """One picture.

    Attributes:
        index: its place in the order of all.
        path: of its file.
        folder: of its results, relative to the output; "" is the output itself.
        name: that the files of its results begin with.
    """

    index: int
    path: str
    folder: str
    name: str


@dataclass(frozen=True)
class Listing:
    """All pictures of a bulk run.

    Attributes:
        root: the folder or the list.
        items: in order.
        digest: SHA-256 over paths and sizes; another one is another input.
        others: files of the folder that are no pictures by their names.
    """

    root: Path
    items: list[BulkItem]
    digest: str
    others: int = 0


def list_items(source: Path, column: str | None) -> Listing:
    """The pictures of a folder and of those in it, or of a list.

    Args:
        source: a folder; or a .parquet, .csv or .jsonl file, whose relative paths begin at its own folder.
        column: of a list, which holds the paths; ``path`` if None.

    Raises:
        SourceError: it is missing, cannot be read, or names no picture.
        UsageError: ``column`` for a folder, or a file that is no list.
    """
    try:
        text = os.fspath(source)
        if source.is_dir():
            if column is not None:
                raise UsageError(f"`column` is of a list, and {text} is a folder")
            return _of_folder(source)
        if not source.exists():
            raise SourceError(
                f"{masked(text)} is missing; a folder of pictures or a list of them is expected"
            )
    except OSError as error:
        raise SourceError(f"{masked(os.fspath(source))} cannot be read: {error.strerror}") from None
    if source.suffix.lower() not in LIST_SUFFIXES:
        raise UsageError(
            f"{source} is no folder and no list: lists end in {', '.join(LIST_SUFFIXES)}; "
            "`run` takes one picture or video"
        )
    return _of_list(source, column or "path")


def _of_folder(root: Path) -> Listing:
    """Folder by folder in the order of names, first what is in a folder, then its folders; hidden ones are left out."""
    items: list[BulkItem] = []
    digest, others = hashlib.sha256(), 0

    def refuse(error: OSError) -> None:
        raise SourceError(f"the folder {error.filename} cannot be read: {error.strerror}")

    for folder, folders, names in os.walk(root, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        seen = sorted(Path(folder) / name for name in names if not name.startswith("."))
        paths = [path for path in seen if path.suffix.lower() in PICTURE_SUFFIXES]
        others += len(seen) - len(paths)
        inner = os.path.relpath(folder, root)
        for path, name in zip(paths, result_names(paths), strict=True):
            size = path.stat().st_size if path.exists() else -1
            digest.update(f"{path.relative_to(root)}\0{size}\0".encode("utf-8", "surrogateescape"))
            items.append(BulkItem(len(items), str(path), "" if inner == "." else inner, name))
    if not items:
        raise SourceError(f"the folder {root} holds no pictures ({', '.join(PICTURE_SUFFIXES)})")
    return Listing(root, items, digest.hexdigest(), others)


def _of_list(source: Path, column: str) -> Listing:
    digest = hashlib.sha256()
    paths: list[Path] = []
    for given in _rows(source, column):
        if len(paths) == MAX_ITEMS:
            raise SourceError(f"{source} names more than {MAX_ITEMS:,} pictures; split it")
        digest.update(f"{given}\0".encode("utf-8", "surrogateescape"))
        paths.append(source.parent / given)
    if not paths:
        raise SourceError(f"the list {source} names no picture")
    names = result_names(paths)
    items = [
        BulkItem(index, str(path), "", name)
        for index, (path, name) in enumerate(zip(paths, names, strict=True))
    ]
    return Listing(source, items, digest.hexdigest())


def _rows(source: Path, column: str) -> Iterator[str]:
    """The paths of a list, each a text without zero bytes."""
    suffix = source.suffix.lower()
    reader = {".parquet": _parquet, ".csv": _csv}.get(suffix, _json_lines)
    for row, value in enumerate(reader(source, column), start=1):
        if not isinstance(value, str) or not value or "\0" in value:
            shown = clean(repr(value), 80)
            raise SourceError(f"row {row} of {source} has {shown} as `{column}`; expected a path")
        yield value


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
