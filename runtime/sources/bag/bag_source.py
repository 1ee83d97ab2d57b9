"""A log of a robot as a source: the pictures of one topic, with their stamps, their frame of coordinates and camera."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from e2e_deploy.errors import SourceError, UsageError
from e2e_deploy.runtime.camera.camera_info import CameraInfo
from e2e_deploy.runtime.ros.cameras import camera_of
from e2e_deploy.runtime.ros.images import Rgb, picture_of
from e2e_deploy.runtime.ros.topics import camera_topic, is_rectified
from e2e_deploy.runtime.sources.bag import folder, mcap_file, mcap_records, sqlite_file
from e2e_deploy.runtime.sources.bag.cameras import CAMERA_INFO, Pairs, Picture
from e2e_deploy.runtime.sources.bag.log import Log, Topic
from e2e_deploy.runtime.sources.source import BaseSource, SourceFrame
from e2e_deploy.runtime.sources.video.timeline import Timeline
from e2e_deploy.system.files import open_regular
from e2e_deploy.system.text import clean

PICTURES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
SUFFIXES = (".mcap", ".db3")
ROS_1 = b"#ROSBAG V"
_MAGICS = (mcap_records.MAGIC[:5], sqlite_file.MAGIC, ROS_1)
_TRIED = 10  # first pictures, of which one must be readable
_LEAST_FPS, _MOST_FPS = 0.01, 1000.0  # which videos are written with
_NAMED = 30  # topics in a sentence


def is_log(path: Path) -> bool:
    """Whether a file or folder is a log of robots, or should be by its name; of ROS 1 as well, which is not read.

    Raises:
        OSError: it cannot be read.
    """
    if path.is_dir():
        return folder.is_bag(path)
    with open_regular(path) as stream:
        return stream.read(16).startswith(_MAGICS) or path.suffix.lower() in SUFFIXES


def open_log(path: Path, *, only: int | None = None) -> Log:
    """A file of MCAP or SQLite, or a folder of rosbag2.

    Args:
        path: of it.
        only: of a folder, the number of the one file that is read; None reads all.

    Raises:
        SourceError: it cannot be read, or is a log of ROS 1.
    """
    if path.is_dir():
        return folder.BagFolder(path, only=only)
    with open_regular(path) as stream:
        head = stream.read(16)
    if head.startswith(ROS_1):
        raise SourceError(
            f"{path} is a log of ROS 1, which is not read: `rosbags-convert` makes one of ROS 2 of it"
        )
    if head.startswith(sqlite_file.MAGIC) or path.suffix.lower() == ".db3":
        return sqlite_file.SqliteFile(path)
    return mcap_file.McapFile(path)


def chosen(log: Log, name: str, topic: str | None) -> Topic:
    """The topic whose pictures are taken: the one that is named, else the only one there is.

    Args:
        log: a log.
        name: of it, for people.
        topic: what the user says.

    Raises:
        SourceError: there is none of that name, none of that type, or none at all.
        UsageError: there are several, and none is named.
    """
    pictures = [t for t in log.topics if t.type in PICTURES and t.encoding == "cdr"]
    if topic is None:
        seen = [each for each in pictures if not each.name.endswith("/compressedDepth")]
        filled = [each for each in seen if each.count != 0] or seen
        if len(filled) > 1:
            raise UsageError(
                f"{name} has several topics of pictures; say which by `topic`: {_listed(filled)}"
            )
        if not filled:
            cut = f"; it is cut off: {log.cut}" if log.cut else ""
            raise SourceError(f"{name} has no topic of pictures; it has {_listed(log.topics)}{cut}")
        return filled[0]
    named = [each for each in log.topics if each.name == topic]
    if not named:
        raise SourceError(
            f"{name} has no topic {clean(topic, 100)!r}; its topics of pictures are {_listed(pictures)}"
        )
    fitting = [each for each in named if each in pictures]
    if not fitting:
        other = named[0]
        why = "" if other.encoding == "cdr" else f" in the encoding {clean(other.encoding, 40)!r}"
        raise SourceError(
            f"the topic {clean(topic, 100)} of {name} carries {clean(other.type, 100)}{why}, and pictures are "
            f"{' or '.join(PICTURES)} in CDR; its topics of pictures are {_listed(pictures)}"
        )
    return fitting[0]


def _listed(topics: list[Topic]) -> str:
    shown = [
        f"{clean(t.name, 100)} ({clean(t.type.replace('/msg/', '/'), 60)}"
        + (")" if t.count is None else f", {t.count:,} message{'s' * (t.count != 1)})")
        for t in topics[:_NAMED]
    ]
    more = [f"and {len(topics) - _NAMED} more"] if len(topics) > _NAMED else []
    return ", ".join([*shown, *more]) or "none"


@dataclass(frozen=True)
class Stamps:
    """The clock of a log's pictures.

    Attributes:
        has_own: pictures have stamps of their own; else the times they were recorded at serve.
        first_ns: stamp of the first picture that can be decoded.
    """

    has_own: bool
    first_ns: int

    def of(self, picture: Picture) -> tuple[float, int, str]:
        """Time in seconds since the first, stamp in nanoseconds, and frame of coordinates, as ``SourceFrame`` says."""
        header = picture.message.header
        stamp_ns = int(header.stamp.ns) if self.has_own else picture.logged_ns
        return (stamp_ns - self.first_ns) / 1e9, stamp_ns, clean(header.frame_id, 200)


@dataclass(frozen=True)
class _Read:
    """A picture that could be decoded, and its camera."""

    rgb: Rgb
    camera: CameraInfo | None


class BagSource(BaseSource):
    """The pictures of one topic of a log, in the order they were recorded in.

    ``fps`` is the average over the log and times nothing; ``total`` is what the index says. What is damaged is left
    out and counted.

    Args:
        path: a file of MCAP or SQLite, or a folder of rosbag2.
        topic: whose pictures; None takes the only one there is.

    Attributes:
        kind: type of the topic's messages.
        stamps: the clock of its pictures.
        log: where they are.

    Raises:
        SourceError: it cannot be read, has no such topic, or its pictures are of an encoding that is not read; or,
            while iterating, the log ends early.
        UsageError: several topics of pictures, and none is named.
        UnavailableError: the packages that read logs are not installed.
    """

    def __init__(self, path: Path, *, topic: str | None = None) -> None:
        super().__init__(str(path))
        self._path = path
        self.log = log = open_log(path)
        found = chosen(log, self.name, topic)
        self.topic, self.kind, self.total = found.name, found.type, found.count
        self.name = f"{path} {clean(self.topic, 200)}"
        self.files = [*log.files, *([path / folder.METADATA] if path.is_dir() else [])]
        if self.total and self.total > 1 and log.seconds:
            fps = (self.total - 1) / log.seconds
            self.fps = fps if _LEAST_FPS <= fps <= _MOST_FPS else None
        for text in log.notes:
            self.note(text)
        infos = camera_topic(self.topic)
        has_infos = any(t.name == infos and t.type == CAMERA_INFO for t in log.topics)
        self._infos = infos if has_infos else ""
        self.stamps = self._first_look()
        if not self.stamps.has_own:
            self.note(
                f"{self.name}: pictures have no stamps of their own; the times they were recorded at serve"
            )

    def _pictures(self) -> Iterator[Picture]:
        pairs = Pairs(self.topic, self.kind, self._infos, self._damaged)
        wanted = {self.topic, self._infos} - {""}
        return pairs(self.log.messages(wanted, self._damaged))

    def _damaged(self, why: str) -> None:
        self.skipped += 1
        self.note(f"{self.name}: left out: {why}")

    def _first_look(self) -> Stamps:
        """Decode a picture before anything else is done, so that what cannot be read is said at once.

        And learn whether pictures have stamps: a simulation's first one may well be of the time zero.
        """
        failures: list[str] = []
        found: Picture | None = None
        has_stamps = False
        try:
            for picture in islice(self._pictures(), _TRIED):
                has_stamps = has_stamps or picture.message.header.stamp.ns != 0
                try:
                    if found is None:
                        self.camera, found = self._read(picture).camera, picture
                except SourceError as error:
                    failures.append(str(error))
                if found and has_stamps:
                    break
        except SourceError:
            if found is None:
                raise
        if found is None:
            raise SourceError(f"{self.name}: {(failures or [self._nothing()])[0]}")
        return Stamps(has_stamps, Stamps(has_stamps, 0).of(found)[1])

    def _nothing(self) -> str:
        cut = f"; the log is cut off: {self.log.cut}" if self.log.cut else ""
        return f"it holds no picture that can be decoded{cut}"

    def _read(self, picture: Picture) -> _Read:
        rgb = picture_of(picture.message)
        return _Read(rgb, self._camera(picture, (rgb.shape[0], rgb.shape[1])))

    def _camera(self, picture: Picture, hw: tuple[int, int]) -> CameraInfo | None:
        if picture.info is None:
            return None
        try:
            camera = camera_of(picture.info, rectified=is_rectified(self.topic))
        except SourceError as error:
            self.note(f"{self._infos}: {error}; the camera is taken as not known")
            return None
        if not camera.is_calibrated:
            self.note(f"{self._infos} says that the camera is not calibrated")
            return None
        if (camera.height, camera.width) != hw:
            self.note(
                f"{self._infos} is for pictures of {camera.width}x{camera.height}, and those of {self.topic} are "
                f"{hw[1]}x{hw[0]}: the camera is taken as not known"
            )
            return None
        return camera

    def __iter__(self) -> Iterator[SourceFrame]:
        self._begin()
        count = 0
        timeline = Timeline(None, self.note, "log")
        broken = ""
        try:
            for picture in self._pictures():
                if self._stopping.is_set():
                    return
                try:
                    read = self._read(picture)
                except SourceError as error:
                    self._damaged(str(error))
                    continue
                pts_s, stamp_ns, frame_id = self.stamps.of(picture)
                time = timeline.place(pts_s, 0.0)
                yield SourceFrame(
                    read.rgb,
                    count,
                    pts_s,
                    self._path.stem,
                    source=str(self._path),
                    shown_s=time.shown_s,
                    stamp_ns=stamp_ns,
                    frame_id=frame_id,
                    camera=read.camera,
                    logged_ns=picture.logged_ns,
                )
                count += 1
        except SourceError as error:
            broken = str(error)
        if self.log.cut:
            broken = f"{self._path} is cut off: {self.log.cut}"
        if broken:
            frames = "1 frame" if count == 1 else f"{count:,} frames"
            raise SourceError(f"{broken}; {frames} could be read")
        if count == 0:
            raise SourceError(f"{self.name}: {self._nothing()}")
