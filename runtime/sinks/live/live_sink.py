"""What live sinks share: each is given the messages that the results of a frame become."""

from pathlib import Path
from typing import Any

from e2e_deploy.runtime.backends.layout import Outcome
from e2e_deploy.runtime.ros.topics import Published, Topics, prefix_of
from e2e_deploy.runtime.sinks.opening import Opening
from e2e_deploy.runtime.sinks.sink import told_apart
from e2e_deploy.runtime.sources.source import SourceFrame
from e2e_deploy.runtime.steps.step import Facts


class LiveSink:
    """Turns frames and their results into messages, and hands them to ``send``.

    Args:
        opening: what it is opened for.
        prefix: of the topics; empty: beside the source's own topic, or /e2e_deploy.
        with_points: a point cloud is made of metric depth.

    Attributes:
        stamp_ns: of the frame that is being sent.

    Raises:
        UsageError: a prefix that is no name of ROS.
    """

    on_main_thread = False
    name = ""
    stamp_ns = 0

    def __init__(self, opening: Opening, prefix: str = "", *, with_points: bool = True) -> None:
        self._kinds = opening.manifest.kinds
        self._topics = Topics(
            opening.manifest,
            prefix or prefix_of(opening.source.topic),
            is_live=opening.source.is_live,
            intrinsics=opening.intrinsics,
            with_picture=True,
            with_points=with_points,
        )

    def write(self, frame: SourceFrame, result: Outcome, facts: Facts) -> None:
        """Send a frame and its results."""
        self.stamp_ns = self._topics.clock(frame)
        for published in self._topics.messages_for(frame, told_apart(self._kinds, result, facts)):
            self.send(published)

    def send(self, published: Published) -> None:
        """Send one message; it may be a view of arrays that other sinks have too."""
        raise NotImplementedError

    def close(self) -> list[Path]:
        """Say goodbye; no file was written."""
        return []


def last_name(topic: str) -> str:
    """What a topic is, without its prefix."""
    return topic.rpartition("/")[2]


def message_of(error: Any) -> str:
    """What a native library says, in one line and without where in its own source that was."""
    text = " ".join(str(error).split())
    return text.partition(" at /")[0].removeprefix("FoxgloveError: ").rstrip(".")
