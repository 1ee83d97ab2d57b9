"""What a log of messages is, whatever it is stored in."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

# One message, or one chunk of them: a picture of 64 Mpx with four channels of 16 bits. Nothing larger is held.
MAX_BYTES = 512 * 1024 * 1024

Tell = Callable[[str], None]
Span = tuple[int, int]
"""Times of recording in nanoseconds, from the first to before the second."""


@dataclass(frozen=True)
class Topic:
    """One topic of a log.

    Attributes:
        name: as it was published.
        type: of its messages, for example ``sensor_msgs/msg/Image``.
        encoding: of their bytes; what ROS 2 writes is ``cdr``.
        count: of its messages; None where no index tells.
    """

    name: str
    type: str
    encoding: str
    count: int | None


@dataclass(frozen=True)
class Logged:
    """One message: ``logged_ns`` is when it was recorded, in nanoseconds of the recorder's clock."""

    topic: str
    data: bytes | memoryview
    logged_ns: int


class Log(Protocol):
    """A log on disk. It is opened anew for each reading, in whatever thread.

    Attributes:
        files: that are read.
        topics: all of them; a name may be there twice, with two types.
        seconds: from the first to the last message of any topic; None where no index tells.
        cut: why it is known not to be whole, for people; empty otherwise.
        notes: what else has to be said of it.
    """

    files: list[Path]
    topics: list[Topic]
    seconds: float | None
    cut: str
    notes: list[str]

    @property
    def is_ordered(self) -> bool:
        """Whether messages come by their time, and those of a span of time are found without the others."""
        ...

    def messages(
        self, topics: Collection[str], damaged: Tell, span: Span | None = None
    ) -> Iterator[Logged]:
        """The messages of some topics, in the order they were recorded in as far as the log tells it.

        Args:
            topics: by name.
            damaged: is told of what cannot be read, and is left out.
            span: only what was recorded in it; of a log that is not ordered None.

        Raises:
            SourceError: nothing more can be read.
        """
        ...

    def times(self, topic: str, damaged: Tell) -> Iterator[int]:
        """When the messages of a topic were recorded, in the order of ``messages``; by an index where there is one.

        Raises:
            SourceError: nothing more can be read.
        """
        ...
