"""Engines built before, kept for the user who built them: same inputs, no second build.

    <folder>/<key>.json         hash and facts of one build; the key is a hash of everything that decides it
    <folder>/<sha256>.plan    the plan, named after its content

Every file appears whole or not at all and none is ever changed, so two exports can share the folder without a lock.
Knows files; knows no library.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from e2e_deploy.bundle.bundle import sha256_of
from e2e_deploy.errors import E2EDeployError, InputError
from e2e_deploy.system.cache_folder import default_folder, private_folder
from e2e_deploy.system.files import whole_file
from e2e_deploy.system.json_files import read_json

log = logging.getLogger("e2e_deploy.engines")
log.addHandler(logging.NullHandler())

MAX_BYTES = 20 * 2**30
"""The plans used longest ago are removed above this."""

_BLOCK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class CacheRecord:
    """What is known of a cached plan besides its bytes."""

    sha256: str
    bytes: int
    options: dict[str, Any]
    layers: dict[str, int]


class PlanCache:
    """A folder of plans.

    Raises:
        E2EDeployError: the folder cannot be made or is not this user's alone.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = private_folder(folder or default_folder() / "plans")

    def _record(self, key: str) -> CacheRecord | None:
        path = self.folder / f"{key}.json"
        if not path.exists():
            return None
        try:
            record = CacheRecord(**read_json(path))
            if not re.fullmatch(r"[0-9a-f]{64}", record.sha256):
                raise TypeError("its hash is none")
            if not isinstance(record.options, dict) or not isinstance(record.layers, dict):
                raise TypeError("its options and layers are no tables")
        except (InputError, TypeError) as error:
            log.warning("the cache entry %s cannot be read and is built again: %s", key, error)
            return None
        return record

    def fetch(self, key: str, destination: Path) -> CacheRecord | None:
        """Copy the plan of ``key`` to ``destination``; None, and no file there, if it is missing or damaged.

        Raises:
            E2EDeployError: ``destination`` cannot be written.
        """
        record = self._record(key)
        if record is None:
            return None
        stored = self.folder / f"{record.sha256}.plan"
        try:
            source = stored.open("rb")
        except OSError:
            return None
        digest = hashlib.sha256()
        with source, whole_file(destination) as partial, partial.open("wb") as sink:
            while block := source.read(_BLOCK):
                digest.update(block)
                sink.write(block)
        if digest.hexdigest() != record.sha256:
            log.warning("%s is damaged and is built again", stored)
            destination.unlink()
            stored.unlink(missing_ok=True)
            return None
        with suppress(FileNotFoundError):  # another export removed it meanwhile
            os.utime(stored)
        return record

    def store(
        self, key: str, engine: Path, *, options: dict[str, Any], layers: dict[str, int]
    ) -> None:
        """Keep a copy of ``engine``; a cache that cannot be written is said in the log and is no error."""
        record = CacheRecord(
            sha256=sha256_of(engine), bytes=engine.stat().st_size, options=options, layers=layers
        )
        try:
            with (
                whole_file(self.folder / f"{record.sha256}.plan") as partial,
                engine.open("rb") as source,
                partial.open("wb") as sink,
            ):
                shutil.copyfileobj(source, sink, _BLOCK)
            with whole_file(self.folder / f"{key}.json") as partial:
                partial.write_text(json.dumps(asdict(record)), encoding="utf-8")
            self._shrink()
        except E2EDeployError as error:
            log.warning("the plan was not kept for later exports: %s", error)

    def _shrink(self) -> None:
        """Remove what was used longest ago until the folder is below MAX_BYTES."""
        files = []
        for path in self.folder.glob("*.plan"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another export removed it
                continue
            files.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= MAX_BYTES:
                break
            path.unlink(missing_ok=True)
            total -= size
