"""A bundle's folder while it is written: it appears whole or not at all."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from e2e_deploy.bundle import sha256_of
from e2e_deploy.errors import E2EDeployError, UsageError
from e2e_deploy.manifest import MANIFEST, FileEntry, Manifest


@contextlib.contextmanager
def new_bundle(path: Path) -> Iterator[Path]:
    """A folder to fill; it becomes ``path`` when the block ends well, and vanishes when it does not.

    An existing bundle at ``path`` is replaced only then.

    Raises:
        UsageError: ``path`` exists and is not a bundle.
        E2EDeployError: the folder cannot be written, or the disk is full.
    """
    if (
        path.exists()
        and not (path / MANIFEST).is_file()
        and not (path.is_dir() and not any(path.iterdir()))
    ):
        raise UsageError(f"{path} exists and is not a bundle; choose another folder")
    partial: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
        yield partial
        partial.chmod(0o755)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old-", dir=path.parent))
            try:
                os.replace(path, old / "bundle")
                try:
                    os.replace(partial, path)
                except OSError:
                    os.replace(old / "bundle", path)
                    raise
                shutil.rmtree(old / "bundle", ignore_errors=True)
            finally:
                with contextlib.suppress(OSError):
                    old.rmdir()
        else:
            os.replace(partial, path)
    except OSError as error:
        raise E2EDeployError(
            f"the bundle {path} could not be written: {error.strerror or error}; nothing was changed"
        ) from error
    finally:
        if partial is not None and partial.exists():
            shutil.rmtree(partial, ignore_errors=True)


def write_manifest(root: Path, manifest: Manifest) -> Manifest:
    """Hash every file under ``root``, write the manifest there and return it."""
    names = sorted(
        p.relative_to(root).as_posix()
        for p in root.rglob("*")
        if p.is_file() and p.name != MANIFEST
    )
    entries = {
        name: FileEntry(bytes=(root / name).stat().st_size, sha256=sha256_of(root / name))
        for name in names
    }
    values: Mapping[str, Any] = {f.name: getattr(manifest, f.name) for f in fields(manifest)} | {
        "files": entries
    }
    complete = Manifest(**values)
    (root / MANIFEST).write_text(json.dumps(asdict(complete), indent=2) + "\n", encoding="utf-8")
    # Whatever the umask: it vouches for engines, so nobody else may write it.
    (root / MANIFEST).chmod(0o644)
    return complete
