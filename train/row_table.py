"""Rows of one or more evaluations as one table: CSV, or Parquet where pyarrow is.

Knows: columns. Does not know: what a metric means.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from e2e_deploy.errors import UsageError
from e2e_deploy.packages import require
from e2e_deploy.system.files import whole_file

SUFFIXES = (".csv", ".parquet")


def check_table(path: Path) -> None:
    """Refuse a file that could not be written at the end.

    Raises:
        UsageError: it ends in neither of ``SUFFIXES``.
        UnavailableError: Parquet without pyarrow.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path} must end in {' or '.join(SUFFIXES)}")
    if path.suffix.lower() == ".parquet":
        require("pyarrow", "parquet")


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of texts, numbers and None, whole or not at all; a column that a row has not is empty there.

    Args:
        path: ends in .csv or .parquet.
        rows: at least one; columns in the order in which they first come.

    Raises:
        E2EDeployError: it cannot be written.
        UnavailableError: Parquet without pyarrow.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with whole_file(path) as partial:
        if path.suffix.lower() == ".parquet":
            _write_parquet(partial, columns, rows)
        else:
            text = io.StringIO(newline="")
            writer = csv.DictWriter(text, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
            partial.write_bytes(text.getvalue().encode(errors="surrogateescape"))


def _write_parquet(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    pyarrow = require("pyarrow", "parquet")
    parquet = require("pyarrow.parquet", "parquet")
    values = {name: [_text(row.get(name)) for row in rows] for name in columns}
    empty = {name: pyarrow.nulls(len(rows), pyarrow.string()) for name in columns}
    table = {
        name: empty[name] if all(value is None for value in values[name]) else values[name]
        for name in columns
    }
    parquet.write_table(pyarrow.table(table), str(path))


def _text(value: Any) -> Any:
    """Names of files may hold bytes that are no text."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value
