"""Files that appear whole or not at all, and reading that neither waits nor grows without end."""

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy_format

from e2e_deploy.errors import E2EDeployError, UsageError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder, with the same suffix; it becomes ``path`` when the block ends well.

    A link at ``path`` is replaced; what it points to stays as it is.

    Raises:
        E2EDeployError: something other than a file is there, the folder cannot be written or the disk is full;
            ``path`` is as it was before.
    """
    partial: Path | None = None
    try:
        check_target(path)
        make_parent(path)
        hidden = path.with_name(f".{path.stem[:40]}.{secrets.token_hex(4)}{path.suffix}")
        os.close(_create(hidden))
        partial = hidden
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise E2EDeployError(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


_PARTIAL = re.compile(r"\..{0,40}\.[0-9a-f]{8}(\..+)?", re.DOTALL)


def remove_partials(root: Path) -> None:
    """Remove what ``whole_file`` left in a folder, and in those in it, of processes that were killed meanwhile.

    Only where nobody else keeps hidden files, and nothing is being written. What cannot be removed stays.
    """
    for folder, _, names in os.walk(root):
        for name in names:
            if _PARTIAL.fullmatch(name):
                with suppress(OSError):
                    os.unlink(os.path.join(folder, name))


def check_target(path: Path) -> None:
    """Raise an OSError if a file at ``path`` would take the place of a folder, device, pipe or socket."""
    try:
        mode = path.stat().st_mode
    except OSError:  # nothing is there, or a link to nothing
        return
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"it is {_kind(mode)}, not a file", str(path))


def make_parent(path: Path) -> None:
    """Make the folder in which ``path`` is to be, and those above it.

    Raises:
        OSError: it cannot be made; ``strerror`` names a file that is in its place.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        file = next(parent for parent in path.parents if os.path.lexists(parent))
        raise OSError(errno.ENOTDIR, f"{file} is not a folder", str(path)) from error


def require_writable(path: Path, suffix: str, *, outside: Path | None = None) -> None:
    """Refuse a result's file before the work whose result it is, if it could not be written at the end.

    Args:
        path: what will be written.
        suffix: the ending that it must have, such as ``.png``.
        outside: a folder whose files it must not replace.

    Raises:
        UsageError: it has another ending, is a link or no file, lies in ``outside``, or cannot be written.
    """
    folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if path.suffix.lower() != suffix:
        raise UsageError(f"{path} must end in {suffix}")
    if path.is_symlink():
        raise UsageError(f"{path} is a link; name the file itself")
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is there and is no file")
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{path} cannot be written: {folder} is no folder for that")
    if outside is not None and path.resolve().is_relative_to(outside.resolve()):
        raise UsageError(f"{path} lies in the data set {outside}; write it somewhere else")


def make_folder(path: Path) -> None:
    """Make a folder for results, and those above it, before the work whose results they are.

    Raises:
        E2EDeployError: it cannot be made, is no folder, or nothing can be written into it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "it is not a folder" if isinstance(error, FileExistsError) else error.strerror
        raise E2EDeployError(f"nothing can be written into {path}: {reason}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise E2EDeployError(f"nothing can be written into {path}: {os.strerror(errno.EACCES)}")


def require_runnable(folder: Path) -> None:
    """Refuse a temporary folder from which no code may be loaded, as on a disk mounted with noexec.

    Raises:
        E2EDeployError: says how to have another.
    """
    flag = getattr(os, "ST_NOEXEC", 0)
    if flag and os.statvfs(folder).f_flag & flag:
        raise E2EDeployError(
            f"{folder.parent} is mounted with noexec, and compiled code is loaded from there: set TMPDIR to another "
            "folder"
        )


def new_partial(path: Path) -> Path:
    """A new empty file <name>.partial.<suffix> beside ``path``, numbered where there is one or a link of that name.

    Raises:
        OSError: no file can be made there.
    """
    return new_file(path.with_name(f"{path.stem}.partial{path.suffix}"))


def new_file(path: Path) -> Path:
    """A new empty file at ``path``, or at <name>-2.<suffix> and so on where something is.

    Raises:
        OSError: no file can be made there.
    """
    new, number = path, 1
    while True:
        try:
            os.close(_create(new))
            return new
        except FileExistsError:
            number += 1
            new = path.with_name(f"{path.stem}-{number}{path.suffix}")


def _create(path: Path) -> int:
    """Open a file that is not there yet, with the rights that the umask leaves; links are not followed."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading. A pipe without a writer would wait for one, a device may never end: neither is opened.

    Raises:
        OSError: it cannot be opened, or is not a regular file; ``strerror`` says which in words.
    """
    _check_regular(path, path.stat().st_mode)  # opening a device can already do something to it
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check_regular(path, os.fstat(descriptor).st_mode)
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most ``limit`` bytes.

    Raises:
        OSError: as ``open_regular``, or it is larger.
    """
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        data = stream.read(limit + 1) if size <= limit else b""
    if max(size, len(data)) > limit:
        raise OSError(
            errno.EFBIG,
            f"it holds {max(size, len(data)):,} bytes, and at most {limit:,} are read",
            str(path),
        )
    return data


def _check_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"it is {_kind(mode)}, not a regular file", str(path))


def _kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "no regular file")


_NPY_HEADERS = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
}


def read_npy_header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Of a .npy file: shape without negative sides, whether it is in Fortran's order, and type; its bytes follow.

    NumPy's own reader lets through more errors than it documents.

    Raises:
        ValueError: whatever is wrong with the header.
    """
    version = npy_format.read_magic(stream)
    if version not in _NPY_HEADERS:
        raise ValueError(f"it has version {version[0]}.{version[1]}; expected 1.0 or 2.0")
    try:
        shape, is_fortran, dtype = _NPY_HEADERS[version](stream)
    except (OSError, ValueError):
        raise
    # A header is Python's text: it is parsed by Python, whose parsers fail in many ways.
    except Exception:
        raise ValueError("its header is no description of an array") from None
    if any(side < 0 for side in shape):
        raise ValueError(f"its shape is {list(shape)}")
    return shape, is_fortran, dtype
