"""A folder of rosbag2: metadata.yaml, and the files it lists, one after another."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePath
from typing import Any

from e2e_deploy.errors import SourceError
from e2e_deploy.packages import require
from e2e_deploy.runtime.sources.bag.compressed import Unpacked, zstd
from e2e_deploy.runtime.sources.bag.log import MAX_BYTES, Log, Logged, Span, Tell, Topic
from e2e_deploy.runtime.sources.bag.mcap_file import McapFile
from e2e_deploy.runtime.sources.bag.sqlite_file import SqliteFile
from e2e_deploy.system.files import open_regular, read_bytes

METADATA = "metadata.yaml"
_ROOT = "rosbag2_bagfile_information"
_HEAD_BYTES = 4096
_ENDINGS = (".mcap", ".db3", ".db3-wal", ".db3-shm")
_MAX_METADATA_BYTES = 1024 * 1024  # its reader takes a minute for more
_STORAGES: dict[str, Callable[[Path, str], Log]] = {"mcap": McapFile, "sqlite3": SqliteFile}


def is_bag(folder: Path) -> bool:
    """Whether a folder is of rosbag2: by its metadata, or because it holds logs alone and the metadata are missing."""
    try:
        with open_regular(folder / METADATA) as stream:
            return _ROOT.encode() in stream.read(_HEAD_BYTES)
    except FileNotFoundError:
        names = os.listdir(folder)
        return bool(names) and all(name.removesuffix(".zstd").endswith(_ENDINGS) for name in names)
    except OSError:
        return False


class BagFolder:
    """A folder of rosbag2. Attributes as ``Log`` says.

    Args:
        folder: with its metadata.
        only: the number of the one file that is read; None reads all.

    Raises:
        SourceError: its metadata cannot be read, or a file is missing or damaged.
    """

    def __init__(self, folder: Path, *, only: int | None = None) -> None:
        self._folder = folder
        about = self._metadata()
        try:
            storage, names = str(about["storage_identifier"]), list(about["relative_file_paths"])
            mode = str(about.get("compression_mode") or "none").lower()
            method = str(about.get("compression_format") or "")
        except (KeyError, TypeError) as error:
            raise SourceError(f"{folder / METADATA} does not say {error}") from None
        if storage not in _STORAGES:
            raise SourceError(
                f"{folder} is stored by the plugin {storage[:40]!r}; {' and '.join(_STORAGES)} are read"
            )
        if mode not in ("none", "") and (method != "zstd" or mode not in ("file", "message")):
            raise SourceError(
                f"{folder} is compressed as {method[:20]!r} by {mode[:20]!r}; zstd by file or message is read"
            )
        self._open, self._mode = _STORAGES[storage], mode
        # Only names: nothing outside the folder is read, and metadata before version 4 lists the folder as well.
        self.files = [folder / PurePath(str(name)).name for name in names]
        if not self.files:
            raise SourceError(f"{folder / METADATA} lists no file")
        if only is not None:
            if only >= len(self.files):
                raise SourceError(f"{folder / METADATA} lists fewer files than before")
            self.files = [self.files[only]]
        self._unpacked: Unpacked | None = None
        self.topics: list[Topic] = []
        self.seconds: float | None = 0.0
        self.cut = ""
        self.notes: list[str] = []
        # One file after another, whatever their times; what is packed is not found by its time.
        self.is_ordered = len(self.files) == 1 and mode != "file"
        for log in self._logs():
            self._add(log)

    def _metadata(self) -> dict[str, Any]:
        path = self._folder / METADATA
        yaml = require("ruamel.yaml", "robotics")
        try:
            text = read_bytes(path, _MAX_METADATA_BYTES).decode()
            about = yaml.YAML(typ="safe").load(text)[_ROOT]
        except FileNotFoundError:
            raise SourceError(
                f"{path} is missing: name one of the files in its folder, or make it again with `ros2 bag reindex`"
            ) from None
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error.strerror or error}") from None
        except Exception as error:  # its reader raises many kinds for what is no YAML
            raise SourceError(
                f"{path} is not the metadata of a rosbag2 ({type(error).__name__})"
            ) from None
        if not isinstance(about, dict):
            raise SourceError(f"{path} is not the metadata of a rosbag2")
        return about

    def _logs(self) -> Iterator[Log]:
        """The files, each opened when it is its turn; of packed ones the last stays unpacked."""
        for path in self.files:
            if self._mode != "file":
                yield self._open(path, str(path))
                continue
            if self._unpacked is None or self._unpacked.packed != path:
                self._unpacked = None  # the last one's goes first: there may be room for one only
                self._unpacked = Unpacked(path)
            yield self._open(self._unpacked.path, str(path))

    def _add(self, log: Log) -> None:
        counts: Counter[tuple[str, str, str]] = Counter()
        known = {(t.name, t.type, t.encoding): t.count for t in self.topics}
        for topic in log.topics:
            counts[topic.name, topic.type, topic.encoding] += topic.count or 0
            known.setdefault((topic.name, topic.type, topic.encoding), 0)
        unknown = {(t.name, t.type, t.encoding) for t in log.topics if t.count is None}
        self.topics = [
            Topic(*key, None if count is None or key in unknown else count + counts[key])
            for key, count in known.items()
        ]
        self.seconds = (
            None if self.seconds is None or log.seconds is None else self.seconds + log.seconds
        )
        self.is_ordered = self.is_ordered and log.is_ordered
        self.cut = self.cut or log.cut
        self.notes += log.notes

    def times(self, topic: str, damaged: Tell) -> Iterator[int]:
        """As ``Log`` says: file by file.

        Raises:
            SourceError: a file cannot be read.
        """
        for log in self._logs():
            yield from log.times(topic, damaged)

    def messages(
        self, topics: Collection[str], damaged: Tell, span: Span | None = None
    ) -> Iterator[Logged]:
        """As ``Log`` says: file by file.

        Raises:
            SourceError: a file cannot be read.
        """
        for log in self._logs():
            for logged in log.messages(topics, damaged, span):
                if self._mode != "message":
                    yield logged
                    continue
                try:
                    data = zstd(logged.data)
                    if len(data) > MAX_BYTES:
                        raise ValueError(f"more than {MAX_BYTES:,} bytes")
                    yield Logged(logged.topic, data, logged.logged_ns)
                except ValueError as error:
                    damaged(f"a message of {logged.topic} is damaged: {error}")
