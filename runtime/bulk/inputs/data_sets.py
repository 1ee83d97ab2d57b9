"""LeRobot data sets: frames of one camera, found by the rows, and read a part of an episode or of a file a worker."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from e2e_deploy.errors import SourceError, UnavailableError
from e2e_deploy.runtime.bulk.inputs.holder import Held, Place
from e2e_deploy.runtime.bulk.inputs.item import BulkItem, Moment, Part, Read
from e2e_deploy.runtime.sources.lerobot.data_set import Episode
from e2e_deploy.runtime.sources.lerobot.pictures import VideoPictures, picture_in
from e2e_deploy.runtime.sources.lerobot.source import (
    PICTURES_AT_ONCE,
    LeRobotSource,
)
from e2e_deploy.runtime.sources.lerobot.source import is_data_set as is_data_set
from e2e_deploy.runtime.sources.lerobot.tables import rows_from
from e2e_deploy.runtime.sources.picture_file import Note
from e2e_deploy.runtime.sources.source import BaseSource
from e2e_deploy.system.text import clean

MOST = 256  # frames of a stretch: one is sought in its video, those after it are decoded in order
_COUNTED_BY = "episode_index"


@dataclass(frozen=True, slots=True)
class Stretch:
    """Frames of one episode in a row.

    Attributes:
        episode: that they are of.
        key: of the camera.
        fps: of the data set.
    """

    episode: Episode = field(repr=False)  # not where the data set lies today
    key: str
    fps: float


@dataclass(frozen=True, slots=True)
class Shot(Part):
    """A frame of a data set.

    Attributes:
        within: the stretch that it is read with.
        row: its place in the file of rows.
        time_s: in its episode.
        pts_s: among all frames.
    """

    is_video: ClassVar[bool] = True
    within: Stretch
    row: int
    time_s: float
    pts_s: float

    @property
    def stretch(self) -> object:
        """What one worker reads."""
        return self.within


def list_data_set(root: Path, topic: str | None) -> Held:
    """The frames of one camera, episode by episode.

    Raises:
        SourceError: it is damaged, or has no pictures.
        UsageError: no such camera, or several to take from.
        UnavailableError: pyarrow is not installed.
    """
    source = LeRobotSource(root, topic)
    places = []
    stretch = Stretch(source.episodes[0], source.key, source.data.fps)
    for frame in source.placed():
        if frame.index % MOST == 0:
            stretch = Stretch(frame.episode, source.key, source.data.fps)
        places.append(Place(frame.name, Shot(stretch, frame.row, frame.time_s, frame.shown_s)))
    return Held(places, source.files, has_topics=True, notes=source.notes)


def read_shots(items: Sequence[BulkItem], note: Note) -> Iterator[Read | str]:
    """Frames of one stretch, in order."""
    parts = [item.part for item in items if isinstance(item.part, Shot)]
    within = parts[0].within
    source = _Noting(items[0].path, note)
    if within.episode.video is None:
        yield from _in_rows(items, parts, source)
        return
    with closing(VideoPictures(source, within.fps)) as videos:
        for part in parts:
            try:
                rgb = videos.at(within.episode.video, within.episode.from_s + part.time_s)
                yield Read(rgb, Moment(part.pts_s))
            except SourceError as error:
                yield str(error)


def _in_rows(
    items: Sequence[BulkItem], parts: Sequence[Shot], source: BaseSource
) -> Iterator[Read | str]:
    within, at = parts[0].within, parts[0].row
    rows = rows_from(
        within.episode.data,
        [within.key],
        at,
        counted_by=_COUNTED_BY,
        at_once=PICTURES_AT_ONCE,
    )
    for item, part in zip(items, parts, strict=True):
        row = None
        while at <= part.row:
            row, at = next(rows, None), at + 1
        if row is None:
            raise SourceError(f"{within.episode.data} has fewer rows than when it was listed")
        try:
            rgb = picture_in(row[within.key], f"{item.name} of {source.name}", source)
            yield Read(rgb, Moment(part.pts_s))
        except (SourceError, UnavailableError) as error:
            yield str(error)


class _Noting(BaseSource):
    """Whoever reads a part of a data set: its notes go somewhere else at once."""

    def __init__(self, name: str, tell: Note) -> None:
        super().__init__(name)
        self._tell = tell

    def note(self, text: str) -> None:
        """Hand a sentence on."""
        self._tell(clean(text))
