"""Files that appear whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e_deploy.errors import E2EDeployError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder, with the same suffix; it becomes ``path`` when the block ends well.

    Raises:
        E2EDeployError: the folder cannot be written or the disk is full; ``path`` is as it was before.
    """
    partial: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent
        )
        os.close(handle)
        partial = Path(name)
        yield partial
        partial.chmod(0o666 & ~_umask())
        os.replace(partial, path)
    except OSError as error:
        raise E2EDeployError(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
