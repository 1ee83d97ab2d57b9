"""Logs of robots: pictures of a topic, found by the log's index, and read a span of time a worker."""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.bulk.inputs.holder import Held, Place
from e2e_deploy.runtime.bulk.inputs.item import BulkItem, Missing, Moment, Part, Read
from e2e_deploy.runtime.ros.images import picture_of
from e2e_deploy.runtime.sources.bag import folder
from e2e_deploy.runtime.sources.bag.bag_source import SUFFIXES as SUFFIXES
from e2e_deploy.runtime.sources.bag.bag_source import BagSource, Stamps, open_log
from e2e_deploy.runtime.sources.bag.cameras import Pairs
from e2e_deploy.runtime.sources.bag.log import Log, Logged, Span
from e2e_deploy.runtime.sources.picture_file import Note

LEAST = 64  # pictures of a stretch: opening a log costs about as much as reading a few


@dataclass(frozen=True, slots=True)
class Stretch:
    """Pictures that were recorded one after the other.

    Attributes:
        topic: whose they are.
        kind: of its messages.
        stamps: their clock.
        file: number of the file in a folder; None where the log is a file.
        span: of time; None is all of the file.
    """

    topic: str
    kind: str
    stamps: Stamps
    file: int | None
    span: Span | None


@dataclass(frozen=True, slots=True)
class Message(Part):
    """A message of a log.

    Attributes:
        within: the stretch that it is read with.
        logged_ns: when it was recorded.
        repeat: how many of that time come before it in its stretch.
    """

    is_video: ClassVar[bool] = True
    within: Stretch
    logged_ns: int
    repeat: int

    @property
    def stretch(self) -> object:
        """What one worker reads."""
        return self.within


def is_bag(path: Path) -> bool:
    """Whether a folder is of rosbag2, by its metadata."""
    return (path / folder.METADATA).is_file() and folder.is_bag(path)


def list_log(path: Path, topic: str | None) -> Held:
    """The pictures of a topic, in the order they were recorded in.

    Raises:
        SourceError: it cannot be read, or holds no such pictures.
        UsageError: several topics of pictures, and none is named.
        UnavailableError: a package that reads logs is not installed.
    """
    source = BagSource(path, topic=topic)
    places: list[Place] = []
    broken = f"{path} is cut off: {source.log.cut}" if source.log.cut else ""
    files: Sequence[int | None] = range(len(source.log.files)) if path.is_dir() else [None]
    try:
        for file in files:
            log = source.log if len(files) == 1 else open_log(path, only=file)
            times = list(log.times(source.topic, source.note))
            grows = log.is_ordered and all(a <= b for a, b in pairwise(times))
            spans = _spans(times) if grows else [None]
            made = [Stretch(source.topic, source.kind, source.stamps, file, s) for s in spans]
            places += _places(path.stem, times, made)
    except SourceError as error:
        broken = broken or str(error)
    if broken:
        places.append(Place(path.stem, Missing(broken)))
    return Held(places, source.files, has_topics=True, notes=source.notes)


def _spans(times: list[int]) -> list[Span]:
    """Spans of time of LEAST messages or a few more: those of one time are not parted."""
    begins = times[:1]
    count = 0
    for before, now in pairwise(times):
        count += 1
        if count >= LEAST and now > before:
            begins.append(now)
            count = 0
    return list(pairwise([*begins, times[-1] + 1])) if times else []


def _places(name: str, times: list[int], stretches: list[Stretch]) -> Iterator[Place]:
    at, seen = 0, Counter[int]()
    for time_ns in times:
        span = stretches[at].span
        if span is not None and time_ns >= span[1]:
            at += 1
        yield Place(name, Message(stretches[at], time_ns, seen[time_ns]))
        seen[time_ns] += 1


def read_messages(items: Sequence[BulkItem], note: Note) -> Iterator[Read | str]:
    """Pictures of one stretch, in order."""
    parts = [item.part for item in items if isinstance(item.part, Message)]
    wanted = {(part.logged_ns, part.repeat) for part in parts}
    within, whole = parts[0].within, items[0].path
    lost: list[str] = []
    log = open_log(Path(whole), only=within.file)
    found = _found(log, within, wanted, lost.append)
    coming = next(found, None)
    for item, part in zip(items, parts, strict=True):
        if coming is None or coming[0] != (part.logged_ns, part.repeat):
            why = lost[-1] if lost else "it is not where the index says"
            yield f"{item.shown} of {within.topic}: {why}"
            continue
        yield coming[1] if isinstance(coming[1], Read) else f"{item.shown}: {coming[1]}"
        coming = next(found, None)


def _found(
    log: Log, within: Stretch, wanted: set[tuple[int, int]], lost: Note
) -> Iterator[tuple[tuple[int, int], Read | str]]:
    """Each message that is wanted, as it was read or why it cannot be, in the log's order."""
    keys: deque[tuple[int, int]] = deque(maxlen=1)  # of the message that came last

    def noted() -> Iterator[Logged]:
        seen = Counter[int]()
        for logged in log.messages([within.topic], lost, within.span):
            key = (logged.logged_ns, seen[logged.logged_ns])
            seen[logged.logged_ns] += 1
            if key in wanted:
                keys.append(key)
                yield logged

    for picture in Pairs(within.topic, within.kind, "", lost)(noted()):
        try:
            read: Read | str = Read(picture_of(picture.message), Moment(*within.stamps.of(picture)))
        except SourceError as error:
            read = str(error)
        yield keys[-1], read
