"""A file that grows beside its place and takes it when it is finished: what is there is always whole."""

import os
from contextlib import suppress
from pathlib import Path

from e2e_deploy.system.files import check_target, make_parent, new_file, new_partial


class GrowingFile:
    """A new empty file <name>.partial.<suffix>, numbered where that is taken; folders above it are made.

    Args:
        path: its place.

    Attributes:
        path: where it is once it is finished: a place that another recording took meanwhile is left to that.
        partial: where it is until then.

    Raises:
        OSError: no file can be made or put there.
    """

    def __init__(self, path: Path) -> None:
        check_target(path)
        make_parent(path)
        self.path = path
        self._before = _identity(path)
        self.partial = new_partial(path)

    def finish(self) -> Path:
        """Put it in its place.

        Raises:
            OSError: it cannot be put there.
        """
        if _identity(self.path) not in (self._before, None):
            self.path = new_file(self.path)
        os.replace(self.partial, self.path)
        return self.path

    def drop(self) -> None:
        """Throw it away."""
        with suppress(OSError):
            self.partial.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, int, int] | None:
    """Which file is there; None if there is none."""
    try:
        there = path.lstat()
    except OSError:
        return None
    return there.st_dev, there.st_ino, there.st_mtime_ns
