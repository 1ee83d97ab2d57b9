"""Videos, split at key frames: frames are found by packets, and decoded a stretch a worker."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from e2e_deploy.runtime.bulk.inputs.holder import Held, Place
from e2e_deploy.runtime.bulk.inputs.item import BulkItem, Missing, Moment, Part, Read
from e2e_deploy.runtime.sources import video_stretches
from e2e_deploy.runtime.sources.picture_file import Note
from e2e_deploy.runtime.sources.video_source import VideoSource
from e2e_deploy.system.text import clean

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg"),
    *(".wmv", ".asf", ".flv", ".mxf", ".ogv", ".3gp", ".mjpeg", ".mjpg", ".mj2"),
)


@dataclass(frozen=True, slots=True)
class Frame(Part):
    """A frame of a video.

    Attributes:
        within: the stretch that it is decoded with.
        stamp_s: its time as the file says it.
        pts_s: its time among the others.
    """

    is_video: ClassVar[bool] = True
    within: video_stretches.Stretch
    stamp_s: float
    pts_s: float | None

    @property
    def stretch(self) -> object:
        """What one worker decodes."""
        return self.within


def list_video(path: Path) -> Held:
    """The frames of a video.

    Raises:
        SourceError: it is none that can be decoded.
    """
    plan = video_stretches.plan(path)
    name = path.stem
    places = []
    for shown, stretch in plan.frames:
        pts_s = shown.time.pts_s
        pts_s = shown.stamp_s if pts_s == shown.stamp_s else pts_s  # one number in memory
        places.append(Place(name, Frame(stretch, shown.stamp_s, pts_s)))
    if plan.missing:
        why = plan.missing if str(path) in plan.missing else f"{path} is cut off: {plan.missing}"
        places.append(Place(name, Missing(why)))
    return Held(places, [path], notes=plan.notes)


def read_frames(items: Sequence[BulkItem], note: Note) -> Iterator[Read | str]:
    """Frames of one stretch, in order."""
    parts = [item.part for item in items if isinstance(item.part, Frame)]
    source = _Noting(Path(items[0].path), note)
    wanted = [(item.number, part.stamp_s) for item, part in zip(items, parts, strict=True)]
    found = video_stretches.frames_of(source, parts[0].within, wanted)
    for part, picture in zip(parts, found, strict=True):
        yield picture if isinstance(picture, str) else Read(picture.rgb, Moment(part.pts_s))


class _Noting(VideoSource):
    """A video whose notes go somewhere else at once."""

    def __init__(self, path: Path, tell: Note) -> None:
        self._tell = tell
        super().__init__(path)

    def note(self, text: str) -> None:
        """Hand a sentence on."""
        self._tell(clean(text))
