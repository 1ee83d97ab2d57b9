"""Results in a folder on a disk that every machine of a cluster sees."""

import errno
import os
from pathlib import Path

from e2e_deploy.runtime.bulk.outputs.encoded import Files
from e2e_deploy.system.files import whole_file


def store(root: Path, files: Files) -> None:
    """Write files whole, one after the other, and see that they, and their names, outlive a power cut.

    Raises:
        E2EDeployError: one cannot be written; those before it are there.
    """
    for name, data in files:
        with whole_file(root / name) as partial, partial.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    named = [Path(name) for name, _ in files]
    for folder in {root / parent for name in named for parent in name.parents}:
        _sync(folder)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (
            errno.EINVAL,
            errno.ENOTSUP,
        ):  # what is no folder of a disk keeps names in its own way
            raise
    finally:
        os.close(descriptor)
