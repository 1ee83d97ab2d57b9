"""The folder where this package keeps what is costly to find out again, of this user alone."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from e2e_deploy.errors import E2EDeployError


def default_folder() -> Path:
    """The user's own cache folder of this package.

    Raises:
        E2EDeployError: nothing says where this user's home is.
    """
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:
        raise E2EDeployError(
            "this user has no home folder to cache in; set XDG_CACHE_HOME to a folder"
        ) from error
    return Path(base) / "e2e-deploy"


def private_folder(path: Path) -> Path:
    """``path``, made if needed, readable and writable by this user alone.

    Raises:
        E2EDeployError: it belongs to somebody else, is a link, or cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.is_symlink() or (os.name == "posix" and path.stat().st_uid != os.geteuid()):
            raise E2EDeployError(
                f"the cache folder {path} is a link or belongs to another user; set XDG_CACHE_HOME to a folder of yours"
            )
        path.chmod(0o700)
    except OSError as error:
        raise E2EDeployError(
            f"the cache folder {path} cannot be used: {error.strerror or error}; set XDG_CACHE_HOME to another"
        ) from error
    return path


def cache_key(facts: dict[str, Any]) -> str:
    """Hash of ``facts``, which JSON can hold; their order does not matter."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
