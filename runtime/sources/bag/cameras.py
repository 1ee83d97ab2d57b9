"""Pictures of a log with the camera's word of each: CameraInfo of the topic beside, by stamp."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.ros.cdr import deserialise
from e2e_deploy.runtime.sources.bag.log import Logged, Tell

CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
# A driver publishes a picture and its CameraInfo together, and a recorder writes either first; further apart than
# this many pictures they are not looked for.
LOOK_AHEAD = 2


@dataclass(frozen=True)
class Picture:
    """A message of a picture, its bytes, and the CameraInfo that belongs to it; None where the log has none."""

    message: Any
    logged_ns: int
    info: Any | None


class Pairs:
    """Pairs pictures with cameras as both come out of a log, in its order.

    A picture waits for a CameraInfo of its own stamp or a later one, for at most LOOK_AHEAD further pictures; then it
    takes the latest that is not younger than itself, and before the first one that.

    Args:
        topic: of pictures.
        kind: their type.
        infos: topic of CameraInfo; empty where there is none.
        damaged: is told of messages that are left out.
    """

    def __init__(self, topic: str, kind: str, infos: str, damaged: Tell) -> None:
        self._topic, self._kind, self._infos, self._damaged = topic, kind, infos, damaged
        self._waiting: deque[tuple[Any, int]] = deque()
        self._known: deque[Any] = deque(maxlen=LOOK_AHEAD + 2)

    def __call__(self, messages: Iterator[Logged]) -> Iterator[Picture]:
        """The pictures in their order."""
        for logged in messages:
            is_info = logged.topic == self._infos
            try:
                found = deserialise(logged.data, CAMERA_INFO if is_info else self._kind)
            except SourceError as error:
                self._damaged(f"a message of {logged.topic}: {error}")
                continue
            if is_info:
                self._known.append(found)
            else:
                self._waiting.append((found, logged.logged_ns))
            while self._waiting and self._is_ready():
                yield self._paired()
        while self._waiting:
            yield self._paired()

    def _is_ready(self) -> bool:
        if not self._infos or len(self._waiting) > LOOK_AHEAD:
            return True
        stamp_ns = self._waiting[0][0].header.stamp.ns
        return any(info.header.stamp.ns >= stamp_ns for info in self._known)

    def _paired(self) -> Picture:
        message, logged_ns = self._waiting.popleft()
        stamp_ns = message.header.stamp.ns
        older = [info for info in self._known if info.header.stamp.ns <= stamp_ns]
        best = max(older, key=lambda info: info.header.stamp.ns, default=None)
        if best is None and self._known:
            best = min(self._known, key=lambda info: info.header.stamp.ns)
        return Picture(message, logged_ns, best)
