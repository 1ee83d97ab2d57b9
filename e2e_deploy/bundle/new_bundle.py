"""A bundle's folder while it is written: it appears whole or not at all, and replaces a bundle and nothing else."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from e2e_deploy.bundle.bundle import safe_path, sha256_of
from e2e_deploy.bundle.manifest import MANIFEST, FileEntry, Manifest
from e2e_deploy.errors import BundleError, UsageError
from e2e_deploy.system.json_files import read_json, to_json
from e2e_deploy.system.whole_folder import whole_folder

# What a killed rebuild of a plan leaves: a plan not yet listed, and half-written files of ours.
_LEFTOVERS = re.compile(r"plans/[^/]+\.plan|(plans/)?\.[^/]+\.[0-9a-f]{8}\.(plan|json)")
# What every schema version of our manifests has had, and another project's manifest.json has not.
_OURS = {"schema", "task", "family", "checkpoint", "precision", "graphs", "files"}


def bundle_files(root: Path) -> list[str]:
    """Names of the files that make the bundle at ``root``, of any schema version, the manifest last.

    Raises:
        UsageError: no bundle is there.
    """
    try:
        manifest = read_json(root / MANIFEST, error=BundleError)
        listed = manifest.get("files")
        if not manifest.keys() >= _OURS or not isinstance(listed, dict):
            raise BundleError(f"its {MANIFEST} is not one of e2e-deploy's")
        for name in listed:
            safe_path(root, name)
    except BundleError as error:
        raise UsageError(
            f"{root} exists and is not a bundle that may be replaced: {error}; choose another folder"
        ) from None
    below = [Path(folder, name) for folder, _, names in os.walk(root) for name in names]
    names = [path.relative_to(root).as_posix() for path in below]
    return [*listed, *(name for name in names if _LEFTOVERS.fullmatch(name)), MANIFEST]


@contextlib.contextmanager
def new_bundle(path: Path, on_note: Callable[[str], None] = lambda note: None) -> Iterator[Path]:
    """A folder to fill; it becomes ``path`` when the block ends well, and vanishes when it does not.

    An existing bundle at ``path`` is replaced only then.

    Args:
        path: of the bundle.
        on_note: told what was removed that a killed export had left.

    Raises:
        UsageError: ``path`` exists and is not a bundle, or holds something else besides.
        E2EDeployError: the folder cannot be written, or the disk is full.
    """
    with whole_folder(path, bundle_files, on_note) as folder:
        yield folder


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
    (root / MANIFEST).write_text(to_json(asdict(complete), indent=2) + "\n", encoding="utf-8")
    # Whatever the umask: it vouches for plans, so nobody else may write it.
    (root / MANIFEST).chmod(0o644)
    return complete
