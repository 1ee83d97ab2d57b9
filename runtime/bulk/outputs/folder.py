"""Results in a folder on a disk that every machine of a cluster sees."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e_deploy.errors import E2EDeployError, InputError, UsageError
from e2e_deploy.runtime.bulk.outputs.encoded import Files
from e2e_deploy.system.files import make_folder, read_bytes, remove_partials, whole_file

BOOKS = "_bulk"
"""Of every output: the folder of what is kept of the run itself."""


class FolderOutput:
    """A folder.

    Args:
        root: of it; made if it does not exist.

    Attributes:
        root: its whole path: workers may be at home in another folder.
    """

    has_lock = True

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._given = root

    def begin(self) -> None:
        """As ``Output``."""
        make_folder(self.root)
        if not (self.root / BOOKS).is_dir() and any(self.root.iterdir()):
            raise UsageError(
                f"{self._given} holds files that no bulk run wrote; give another folder as `out`"
            )
        make_folder(self.root / BOOKS)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """As ``Output``; by a lock on a file, which ends with the process."""
        path = self.root / BOOKS / "lock"
        try:
            lock = path.open("a")
        except OSError as error:
            raise E2EDeployError(f"{path} could not be written: {error.strerror}") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    f"another bulk run writes to {self._given}; wait for its end"
                ) from None
            except OSError as error:
                raise E2EDeployError(
                    f"{path} cannot be locked ({error.strerror}), and two runs would not see each other; give an "
                    "`out` on another file system"
                ) from None
            yield

    def names(self, folder: str) -> list[str]:
        """As ``Output``."""
        try:
            return sorted(os.listdir(self.root / folder))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(f"{self.shown(folder)} cannot be read: {error.strerror}") from None

    def read(self, name: str, limit: int) -> bytes | None:
        """As ``Output``."""
        try:
            return read_bytes(self.root / name, limit)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"{self.shown(name)} cannot be read: {error.strerror}") from None

    def write(self, files: Files) -> None:
        """As ``Output``; files, and their names, outlive a power cut."""
        for name, data in files:
            with whole_file(self.root / name) as partial, partial.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        named = [Path(name) for name, _ in files]
        for folder in {self.root / parent for name in named for parent in name.parents}:
            _sync(folder)

    def tidy(self) -> None:
        """As ``Output``."""
        remove_partials(self.root)

    def shown(self, name: str = "") -> str:
        """As ``Output``."""
        return str(self._given / name)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # What is no folder of a disk keeps names in its own way.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise E2EDeployError(
                f"{folder} could not be written: {error.strerror or error}"
            ) from None
    finally:
        os.close(descriptor)
