"""An SQLite file as rosbag2's plugin sqlite3 writes it, by the package rosbags."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.packages import require
from e2e_deploy.runtime.ros.cdr import definition, serialise, type_hash
from e2e_deploy.runtime.ros.messages import Message
from e2e_deploy.runtime.sinks.bag.recording import CDR, failed
from e2e_deploy.runtime.sinks.growing import GrowingFile
from e2e_deploy.system.whole_folder import whole_folder

_VERSION = 8  # of the format: what players from Humble on read


class SqliteRecording:
    """One SQLite file, after ``Recording``.

    rosbags writes a folder; it lies hidden beside the file's place, and its one database is taken out of it. A
    transaction ends with the recording, so a process that is killed leaves no file; its folder goes with the next
    recording of that name.

    Args:
        path: of the file.
        on_note: told what a killed process had left.

    Raises:
        E2EDeployError: no file can be written there.
        UnavailableError: the package rosbags is not installed.
    """

    def __init__(self, path: Path, on_note: Callable[[str], None] = lambda note: None) -> None:
        self._rosbag2 = require("rosbags.rosbag2", "robotics")
        self._path, self._on_note = path, on_note
        self._stack = ExitStack()
        self._folder: Path | None = None
        self._writer: Any = None
        self._connections: dict[str, Any] = {}
        try:
            self._file: GrowingFile | None = GrowingFile(path)
        except OSError as error:
            raise failed(path, error, None) from None

    def add(self, topic: str, message: Message, logged_ns: int, *, latched: bool) -> None:
        """As ``Recording`` says; the first one opens the database, which knows one thread."""
        if self._file is None:
            return
        try:
            if self._writer is None:
                self._begin()
            if topic not in self._connections:
                self._connections[topic] = self._writer.add_connection(
                    topic,
                    message.type_name,
                    msgdef=definition(message.type_name),
                    rihs01=type_hash(message.type_name),
                    serialization_format=CDR,
                    offered_qos_profiles=[_qos(latched=latched)],
                )
            self._writer.write(self._connections[topic], logged_ns, serialise(message))
        except (OSError, sqlite3.Error) as error:
            self._abandon()
            raise failed(self._path, error, None) from None

    def _begin(self) -> None:
        place = self._path.with_name(f"{self._path.name}-recording")  # never there
        self._folder = self._stack.enter_context(whole_folder(place, _nothing_of, self._on_note))
        self._writer = self._rosbag2.Writer(
            self._folder / "bag",
            version=_VERSION,
            storage_plugin=self._rosbag2.StoragePlugin.SQLITE3,
        )
        self._writer.open()

    def _abandon(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.drop()
        if self._writer is not None:
            with suppress(OSError, sqlite3.Error):
                self._writer.abort()
        with suppress(E2EDeployError), self._stack:
            raise E2EDeployError("the folder goes")

    def close(self) -> list[Path]:
        """As ``Recording`` says."""
        file = self._file
        if file is None or self._writer is None or self._folder is None:
            self._abandon()
            return []
        try:
            self._writer.close()
            os.replace(self._folder / "bag" / "bag.db3", file.partial)
            placed = file.finish()
        except (OSError, sqlite3.Error) as error:
            raise failed(self._path, error, None) from None
        finally:
            self._writer = None
            self._abandon()
        return [placed]


def _nothing_of(folder: Path) -> list[str]:
    """No folder is replaced."""
    return []


def _qos(*, latched: bool) -> Any:
    """How a player offers a topic: keep last, reliable, and transient local for what is latched, else volatile."""
    known = require("rosbags.interfaces", "robotics")
    forever = known.QosTime(9223372036, 854775807)
    durability = known.QosDurability
    return known.Qos(
        known.QosHistory.KEEP_LAST,
        1 if latched else 10,
        known.QosReliability.RELIABLE,
        durability.TRANSIENT_LOCAL if latched else durability.VOLATILE,
        forever,
        forever,
        known.QosLiveliness.AUTOMATIC,
        forever,
        False,
    )
