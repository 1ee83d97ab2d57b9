"""An MCAP file as ROS 2's recorder and Foxglove expect it: chunks of zstd with an index, schemas, statistics."""

from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from e2e_deploy.packages import require
from e2e_deploy.runtime.ros.cdr import definition, serialise
from e2e_deploy.runtime.ros.messages import Message
from e2e_deploy.runtime.sinks.bag.recording import CDR, failed
from e2e_deploy.runtime.sinks.growing import GrowingFile
from e2e_deploy.version import __version__

# A reader holds one chunk; a picture of depth fills it, and the messages of its frame come with it.
CHUNK_BYTES = 1024 * 1024

_FOREVER = "{sec: 9223372036, nsec: 854775807}"


def _qos(*, latched: bool) -> str:
    """How a player offers a topic, as rosbag2 stores it: numbers of rmw's enumerations.

    Keep last, reliable, and transient local for what is latched, else volatile.
    """
    return (
        f"[{{history: 1, depth: {1 if latched else 10}, reliability: 1, durability: {1 if latched else 2}, "
        f"deadline: {_FOREVER}, lifespan: {_FOREVER}, liveliness: 1, liveliness_lease_duration: {_FOREVER}, "
        "avoid_ros_namespace_conventions: false}]"
    )


class McapRecording:
    """One MCAP file, after ``Recording``.

    It grows as <name>.partial.mcap, which loses no more than its last chunk when the process is killed.

    Raises:
        E2EDeployError: no file can be written there.
        UnavailableError: the package mcap is not installed.
    """

    def __init__(self, path: Path) -> None:
        writer = require("mcap.writer", "robotics")
        self._path = path
        self._channels: dict[str, int] = {}
        self._schemas: dict[str, int] = {}
        self._stream: BinaryIO | None = None
        try:
            self._file = GrowingFile(path)
            self._stream = self._file.partial.open("wb")
            self._writer: Any = writer.Writer(self._stream, chunk_size=CHUNK_BYTES)
            self._writer.start("ros2", f"e2e-deploy {__version__}")
            # rosbag2 takes the numbers in `_qos` for what they are only where this record is, without a version.
            self._writer.add_metadata("rosbag2", {"serialized_metadata": ""})
        except OSError as error:
            raise failed(path, error, None) from None

    def add(self, topic: str, message: Message, logged_ns: int, *, latched: bool) -> None:
        """As ``Recording`` says."""
        if self._stream is None:
            return
        try:
            if topic not in self._channels:
                self._channels[topic] = self._writer.register_channel(
                    topic,
                    CDR,
                    self._schema(message.type_name),
                    {"offered_qos_profiles": _qos(latched=latched)},
                )
            data = serialise(message)
            self._writer.add_message(self._channels[topic], logged_ns, data, logged_ns)
        except OSError as error:
            stream, self._stream = self._stream, None
            with suppress(OSError):
                stream.close()
            raise failed(self._path, error, self._file.partial) from None

    def _schema(self, kind: str) -> int:
        if kind not in self._schemas:
            text = definition(kind).encode()
            self._schemas[kind] = self._writer.register_schema(kind, "ros2msg", text)
        return self._schemas[kind]

    def close(self) -> list[Path]:
        """As ``Recording`` says."""
        stream, self._stream = self._stream, None
        if stream is None:
            return []
        try:
            if self._channels:
                self._writer.finish()
            stream.close()
            if not self._channels:
                self._file.drop()
                return []
            return [self._file.finish()]
        except OSError as error:
            raise failed(self._path, error, self._file.partial) from None
