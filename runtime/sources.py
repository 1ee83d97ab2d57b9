"""Where frames come from: a picture, a folder of pictures, a video file, a camera.

Every source yields uint8 RGB frames; conversion from BGR or YUV happens here and nowhere else.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import av
import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import SourceError
from e2e_deploy.frames import MAX_PIXELS, MIN_SIDE_PX
from e2e_deploy.opencv import cv2

# What FFmpeg may read: this file, as one of these containers. Playlists (HLS, DASH, concat) are not among them,
# because they open other files and network addresses.
_ONE_LOCAL_FILE = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,ivf,mxf,nut,dv,h264,hevc,mjpeg,"
    "yuv4mpegpipe",
}
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class SourceFrame:
    """One frame and where it came from.

    Attributes:
        rgb: uint8 [H, W, 3].
        index: 0-based position in the source.
        pts_s: presentation time in seconds; None for pictures and cameras.
        name: stem for output files.
    """

    rgb: npt.NDArray[np.uint8]
    index: int
    pts_s: float | None
    name: str


class Source(Protocol):
    """An iterable of frames.

    Attributes:
        name: what it is, for people.
        is_video: whether its frames form a moving picture.
        fps: frames per second of a video, else None.
        total: number of frames where it is known, else None.
    """

    name: str
    is_video: bool
    fps: float | None
    total: int | None

    def __iter__(self) -> Iterator[SourceFrame]: ...


def _check_size(name: str, height: int, width: int) -> None:
    if min(height, width) < MIN_SIDE_PX:
        raise SourceError(
            f"{name} is {width}x{height}; both sides must be at least {MIN_SIDE_PX} px"
        )
    if height * width > MAX_PIXELS:
        raise SourceError(
            f"{name} is {width}x{height} ({height * width / 1e6:.0f} Mpx); the limit is {MAX_PIXELS / 1e6:.0f} Mpx: "
            "make it smaller first"
        )


def read_picture(path: Path) -> npt.NDArray[np.uint8]:
    """A picture as uint8 RGB [H, W, 3], turned as its EXIF says; grey is repeated, an alpha channel is dropped.

    Raises:
        SourceError: missing, unreadable, not a picture, or of a size that cannot be processed.
    """
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None
    try:
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error:  # larger than OpenCV's own limit
        picture = None
    if picture is None:
        raise SourceError(f"{path} is not a picture that can be decoded")
    _check_size(str(path), *picture.shape[:2])
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), dtype=np.uint8)


class PictureSource:
    """Some picture files, in the order given."""

    is_video = False

    def __init__(self, name: str, paths: list[Path]) -> None:
        self.fps: float | None = None
        self.name, self._paths = name, paths
        self.total: int | None = len(paths)
        self._stems = Counter(path.stem for path in paths)

    def __iter__(self) -> Iterator[SourceFrame]:
        for index, path in enumerate(self._paths):
            # a.png and a.jpg in one folder must not write to the same output
            name = path.stem if self._stems[path.stem] == 1 else path.name
            yield SourceFrame(read_picture(path), index, None, name)


class VideoSource:
    """A video file, every frame of it.

    Raises:
        SourceError: not a video; or, while iterating, the file ends before the last frame it promises.
    """

    is_video = True

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        with self._open() as container:
            stream = container.streams.video[0]
            self.fps: float | None = float(stream.average_rate) if stream.average_rate else None
            self.total: int | None = stream.frames or None
            self.skipped = 0
            _check_size(self.name, stream.codec_context.height, stream.codec_context.width)

    def _open(self) -> "av.container.InputContainer":
        try:
            container = av.open(f"file:{self._path}", options=_ONE_LOCAL_FILE)
        except (OSError, av.FFmpegError) as error:
            raise SourceError(
                f"{self.name} is not a video that can be decoded: {_reason(error)}"
            ) from None
        if not container.streams.video:
            container.close()
            raise SourceError(f"{self.name} has no video stream")
        return container

    def __iter__(self) -> Iterator[SourceFrame]:
        count = packets = self.skipped = 0
        with self._open() as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            try:
                for packet in container.demux(stream):
                    packets += packet.size > 0
                    try:
                        pictures = packet.decode()
                    except av.error.InvalidDataError:
                        self.skipped += 1  # one damaged packet is no reason to lose the rest
                        continue
                    for picture in pictures:
                        rgb = np.asarray(picture.to_ndarray(format="rgb24"), dtype=np.uint8)
                        yield SourceFrame(rgb, count, picture.time, self._path.stem)
                        count += 1
            except av.FFmpegError as error:
                raise SourceError(
                    f"{self.name} breaks off after frame {count}: {_reason(error)}"
                ) from None
        if self.total and packets < self.total:
            raise SourceError(
                f"{self.name} is cut off: {count} of its {self.total} frames could be decoded"
            )
        if count == 0:
            raise SourceError(f"{self.name} holds no frame that can be decoded")


class CameraSource:
    """A camera by its index, until it ends or the caller stops.

    Raises:
        SourceError: there is no such camera, or it stopped giving frames.
    """

    is_video = True

    def __init__(self, index: int) -> None:
        self.total: int | None = None
        self.name = f"camera {index}"
        self._index = index
        self._capture = cv2.VideoCapture(index)
        if not self._capture.isOpened():
            raise SourceError(f"there is no camera {index} here, or another program holds it")
        self.fps: float | None = self._capture.get(cv2.CAP_PROP_FPS) or None

    def __iter__(self) -> Iterator[SourceFrame]:
        count = 0
        try:
            while True:
                ok, bgr = self._capture.read()
                if not ok:
                    raise SourceError(f"{self.name} stopped giving frames after {count}")
                rgb = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)
                yield SourceFrame(rgb, count, None, f"camera{self._index}")
                count += 1
        finally:
            self._capture.release()


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def open_source(spec: str) -> Source:
    """The source that ``spec`` names: a picture, a folder of pictures, a video file, or a camera index.

    Raises:
        SourceError: there is nothing of that kind.
    """
    if re.fullmatch(r"[0-9]{1,4}", spec):
        return CameraSource(int(spec))
    path = Path(spec)
    if path.is_dir():
        pictures = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
        if not pictures:
            raise SourceError(
                f"the folder {path} holds no pictures ({', '.join(PICTURE_SUFFIXES)})"
            )
        return PictureSource(spec, pictures)
    if not path.exists():
        raise SourceError(
            f"{spec} does not exist; a source is a picture, a folder, a video file or a camera index"
        )
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return PictureSource(spec, [path])
    return VideoSource(path)
