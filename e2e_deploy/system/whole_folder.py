"""Folders that appear whole or not at all, and take the place of an older one of their kind, of nothing else.

    .<name>.partial-<8 hex>   while it is filled; its maker holds a lock on it, so that a dead one's is known
    .<name>.old-<8 hex>       the older one, for the moment between two renames and until it is deleted

Knows: folders, renames, locks. Does not know: what is in them.
"""

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from e2e_deploy.errors import E2EDeployError, UsageError
from e2e_deploy.system.files import make_parent

Contents = Callable[[Path], Sequence[str]]
"""Files that make the folder of this kind at a path, what it is known by last; UsageError if it is none."""


@contextlib.contextmanager
def whole_folder(
    path: Path, contents: Contents, on_note: Callable[[str], None] = lambda note: None
) -> Iterator[Path]:
    """A folder to fill; it becomes ``path`` when the block ends well, and vanishes when it does not.

    An older folder of the same kind at ``path`` is replaced only then. What a killed process left of its own attempt
    is removed first, and an older folder that it had put aside is brought back.

    Args:
        path: of the folder; of a link, what it points to is replaced.
        contents: what may be deleted of an older folder: these files and nothing else.
        on_note: told what was removed or brought back, or kept.

    Raises:
        UsageError: ``path`` is no folder of this kind, holds something else besides, or is a mount point or the
            current folder.
        E2EDeployError: the folder cannot be written, or the disk is full; nothing was changed.
    """
    path = Path(os.path.realpath(path))
    lock = -1
    partial: Path | None = None
    try:
        make_parent(path)
        _tidy(path, contents, on_note)
        require_replaceable(path, contents)
        partial, lock = _make(path)
        yield partial
        partial.chmod(0o755)
        old = _swap(partial, path)
        if old is not None and not _remove(old, contents):
            on_note(f"{old} keeps what was added to {path} while it was written")
    except OSError as error:
        raise E2EDeployError(
            f"{path} could not be written: {error.strerror or error}; nothing was changed"
        ) from error
    finally:
        if partial is not None and partial.exists():
            shutil.rmtree(partial, ignore_errors=True)
        if lock >= 0:
            os.close(lock)


def require_replaceable(path: Path, contents: Contents) -> None:
    """Check that a new folder may take the place of what is at ``path``: nothing, an empty folder, or one of its kind.

    Raises:
        UsageError: it may not.
    """
    if not os.path.lexists(path):
        return
    if not path.is_dir():
        raise UsageError(f"{path} exists and is no folder; choose another name")
    if path.is_mount() or path.samefile(Path.cwd()):
        where = "a mount point" if path.is_mount() else "the current folder"
        raise UsageError(f"{path} is {where}, which cannot be replaced; name a folder in it")
    if not any(path.iterdir()):
        return
    names = set(contents(path))
    if foreign := [name for name in _entries(path) if name not in names]:
        others = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise UsageError(
            f"{path} holds {foreign[0]!r}{others} besides what would be replaced; move that away or choose "
            "another folder"
        )


def _entries(root: Path) -> Iterator[str]:
    """Names of everything below ``root`` but the folders that hold something."""
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        for name in (*files, *(name for name in folders if (here / name).is_symlink())):
            yield (here / name).relative_to(root).as_posix()
        if not files and not folders:
            yield here.relative_to(root).as_posix()


def _make(path: Path) -> tuple[Path, int]:
    """A new folder beside ``path``, and the open descriptor that holds its lock."""
    while True:
        partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
        partial.mkdir(mode=0o700)
        try:
            lock = lock_folder(partial, wait=True)
        except FileNotFoundError:  # another process took it for a dead one's before it was locked
            continue
        if partial.exists():
            return partial, lock
        os.close(lock)


def lock_folder(folder: Path, *, wait: bool) -> int:
    """An open descriptor of ``folder`` with its lock; without a lock where the file system has none.

    Raises:
        OSError: the folder is gone; without ``wait`` also: somebody holds the lock, or there are no locks.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        if not wait:
            os.close(descriptor)
            raise
    return descriptor


def _swap(partial: Path, path: Path) -> Path | None:
    """Put ``partial`` at ``path``; returns where the folder that was there is now.

    ``partial`` keeps its lock meanwhile, by which others know that this is going on.
    """
    if not path.exists() or not any(path.iterdir()):
        os.replace(partial, path)
        return None
    old = path.with_name(f".{path.name}.old-{secrets.token_hex(4)}")
    try:
        os.rename(path, old)
        os.rename(partial, path)
    except BaseException:
        if old.exists() and partial.exists():
            os.rename(old, path)
        raise
    return old


def _remove(folder: Path, contents: Contents) -> bool:
    """Delete what ``contents`` names, and the folders that are empty then; whether nothing is left."""
    with contextlib.suppress(OSError, UsageError):
        for name in contents(folder):
            (folder / name).unlink(missing_ok=True)
    for inner, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(inner)
    return not folder.exists()


def _tidy(path: Path, contents: Contents, on_note: Callable[[str], None]) -> None:
    """Remove what killed processes left beside ``path``; nothing while another process writes there too."""
    left = re.compile(re.escape(f".{path.name}.") + r"(partial|old)-[0-9a-f]{8}")
    found: dict[str, list[Path]] = {"partial": [], "old": []}
    for entry in path.parent.iterdir():
        if match := left.fullmatch(entry.name):
            status = entry.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
                found[match[1]].append(entry)
    for partial in found["partial"]:
        try:
            lock = lock_folder(partial, wait=False)
        except OSError:  # in use, just put in place, or its lock cannot be known
            return
        size = sum(
            (Path(folder) / name).lstat().st_size
            for folder, _, names in os.walk(partial)
            for name in names
        )
        shutil.rmtree(partial, ignore_errors=True)
        os.close(lock)
        on_note(
            f"{partial} was removed: {size / 1e6:.1f} MB that a killed process had half written"
        )
    for old in found["old"]:
        if not path.exists():
            os.rename(old, path)
            on_note(f"{path} was brought back: a process was killed while it replaced it")
        elif not _remove(old, contents):
            on_note(f"{old} is what a killed process had replaced, with files of yours; move them")
