"""Compiled graphs kept for the user who compiled them: a later load takes half the time, on a GPU a tenth.

    <cache folder>/openvino/<key>.blob    SHA-256 of what follows, 8 bytes: memory it needs, OpenVINO's own export

OpenVINO's own cache folder does not notice a byte that was changed, so ours is hashed; and it is this user's alone.
"""

import hashlib
import io
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.system.cache_folder import default_folder, private_folder
from e2e_deploy.system.files import read_bytes, whole_file

log = logging.getLogger("e2e_deploy.openvino")
log.addHandler(logging.NullHandler())

MAX_BYTES = 4 * 2**30
"""Of the folder: what was used longest ago is removed above this. Nothing larger than half of it is kept."""

_HEAD = 32 + 8


@dataclass(frozen=True)
class Stored:
    """A compiled graph.

    Attributes:
        needed: bytes of memory it takes at least.
        blob: what OpenVINO exported.
    """

    needed: int
    blob: bytes


class CompiledCache:
    """A folder of compiled graphs; one that cannot be used holds nothing, and says so in the log.

    Args:
        folder: None for the user's own.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder: Path | None = None
        try:
            self._folder = private_folder(folder or default_folder() / "openvino")
        except E2EDeployError as error:
            log.info("compiled graphs are not kept: %s", error)

    def fetch(self, key: str) -> Stored | None:
        """What was stored under ``key``; None if it is missing or damaged."""
        if self._folder is None:
            return None
        path = self._folder / f"{key}.blob"
        try:
            data = read_bytes(path, MAX_BYTES)
            os.utime(path)
        except OSError:
            return None
        if len(data) <= _HEAD or hashlib.sha256(data[32:]).digest() != data[:32]:
            log.warning("the compiled graph %s is damaged and is made again", path)
            return None
        return Stored(int.from_bytes(data[32:_HEAD], "big"), data[_HEAD:])

    def store(self, key: str, needed: int, export: Callable[[io.BytesIO], Any]) -> None:
        """Keep what ``export`` writes, and remove what was used longest ago."""
        if self._folder is None:
            return
        stream = io.BytesIO()
        export(stream)
        blob = stream.getvalue()
        if len(blob) > MAX_BYTES // 2:
            return
        body = needed.to_bytes(8, "big") + blob
        try:
            with whole_file(self._folder / f"{key}.blob") as partial:
                partial.write_bytes(hashlib.sha256(body).digest() + body)
            self._make_room()
        except (E2EDeployError, OSError) as error:
            log.info("a compiled graph is not kept: %s", error)

    def _make_room(self) -> None:
        assert self._folder is not None
        files = [(path, path.stat()) for path in self._folder.glob("*.blob")]
        total = 0
        for path, status in sorted(files, key=lambda file: -file[1].st_mtime):
            total += status.st_size
            if total > MAX_BYTES:
                path.unlink(missing_ok=True)
