"""What a run's results may take the place of: its own earlier results, never what it reads."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from e2e_deploy.errors import InputError, UsageError
from e2e_deploy.system.files import open_regular
from e2e_deploy.system.json_files import read_json


def _place(path: Path) -> Path:
    """Where a path leads once the folders on its way are made: ``missing/../a`` is a file that is there now."""
    return Path(os.path.realpath(path))


def same(one: Path, other: Path) -> bool:
    """Whether both are there and the same, through links as well."""
    try:
        return os.path.samefile(_place(one), _place(other))
    except OSError:
        return False


def refuse_inputs(written: Iterable[Path], read: Sequence[Path]) -> None:
    """Raise a UsageError if a result would take the place of a file that is read, by whatever name."""
    inputs = {}
    for path in read:
        try:
            inputs[path.stat().st_dev, path.stat().st_ino] = path
        except OSError:  # it is not there
            continue
    for path in written:
        try:
            found = _place(path).stat()
        except OSError:
            continue
        if source := inputs.get((found.st_dev, found.st_ino)):
            raise UsageError(
                f"the result {path} would take the place of {source}, which is read; give another `out`"
            )


def refuse_existing(written: Iterable[Path], sidecars: Iterable[Path]) -> None:
    """Raise a UsageError if a result would replace a file beside the sources, which may be one of theirs.

    What a sidecar of ours names, and is still as it was written, is ours.
    """
    there = [path for path in written if os.path.lexists(_place(path.parent) / path.name)]
    ours = set().union(*map(_own_results, sidecars)) if there else set()
    for path in there:
        if path not in ours:
            raise UsageError(
                f"{path} is there already, in the folder of the sources, and may be one of them; give another `out`"
            )


def told_files(files: dict[str, bytes]) -> dict[str, Any]:
    """The entry of a sidecar by which a later run knows the files beside it."""
    return {"files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}}


def _own_results(sidecar: Path) -> set[Path]:
    """The sidecar and what it lists, as far as that has not changed; nothing if it is not one of ours."""
    try:
        listed = read_json(sidecar).get("files")
    except InputError:
        return set()
    if sidecar.is_symlink() or not isinstance(listed, dict):
        return set()
    return {sidecar, *(sidecar.parent / n for n, sha in listed.items() if _is(sidecar, n, sha))}


def _is(sidecar: Path, name: str, sha256: object) -> bool:
    path = sidecar.parent / name
    if Path(name).name != name or path.is_symlink():
        return False
    try:
        with open_regular(path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == sha256
    except (OSError, ValueError):
        return False
