"""What a SOURCE on the command line means."""

import mimetypes
import os
import re
from pathlib import Path
from urllib.parse import parse_qsl

from e2e_deploy.errors import SourceError, UsageError
from e2e_deploy.frames import parse_size
from e2e_deploy.names import DECODERS, Decoder
from e2e_deploy.runtime.sources.bag.bag_source import BagSource, is_log
from e2e_deploy.runtime.sources.gpu_video import GpuVideoSource
from e2e_deploy.runtime.sources.lerobot.source import LeRobotSource, is_data_set
from e2e_deploy.runtime.sources.live import (
    RECONNECT_S,
    SCHEMES,
    TIMEOUT_S,
    CameraSource,
    StreamSource,
)
from e2e_deploy.runtime.sources.pattern import PatternSource
from e2e_deploy.runtime.sources.picture_file import FORMATS, PICTURE_SUFFIXES, is_picture
from e2e_deploy.runtime.sources.picture_source import PictureSource, open_folder, open_sequence
from e2e_deploy.runtime.sources.source import Source
from e2e_deploy.runtime.sources.video_source import VideoSource
from e2e_deploy.system.addresses import masked

CAMERA_OPTIONS = ("size", "fps", "format")
MAX_NUMBER = 1_000_000  # of frames, in all and a second
TEST_OPTIONS = ("size", "fps", "frames")
MOVING_SUFFIXES = (".gif", ".mjpeg", ".mjpg", ".mj2")  # videos that begin as pictures do


def open_source(
    spec: str | Path,
    *,
    topic: str | None = None,
    timeout_s: float | None = None,
    reconnect_s: float | None = None,
    decode: Decoder = "cpu",
) -> Source:
    """The source that ``spec`` names: what exists on disk of that name, else what its form says.

    A picture, a folder of pictures, a sequence ``frames/%06d.png``, a video file (``film.mkv?stream=1`` for another
    than its best video stream), a robot's log (MCAP, or rosbag2's folder or SQLite file), the folder of a LeRobot data
    set, ``camera:0?size=720x1280&fps=30&format=MJPG`` (sizes are height x width) or the index alone,
    ``test:?size=480x640&fps=30&frames=100``, ``rtsp://``, ``udp://``, ``tcp://`` or ``srt://``.

    Args:
        spec: as above.
        topic: of a log or a data set of robots: which of its pictures; None takes the only one there is.
        timeout_s: of a stream: seconds of silence after which it counts as lost; TIMEOUT_S if None.
        reconnect_s: of a stream or camera: for how long it is opened again; RECONNECT_S if None.
        decode: gpu is for video files, needs PyNvVideoCodec and is never chosen by itself.

    Raises:
        SourceError: there is nothing of that kind.
        UsageError: an option or a scheme that does not exist, or that has no effect on such a source.
        UnavailableError: no GPU or no PyNvVideoCodec for ``decode="gpu"``.
    """
    spec = str(spec)
    if not spec:
        raise UsageError("the source is an empty text; is a variable unset?")
    if decode not in DECODERS:
        raise UsageError(f"unknown decoder {decode!r}; the decoders are {', '.join(DECODERS)}")
    if decode == "gpu":
        source = _open_on_gpu(spec)
    else:
        source = _open(spec, timeout_s, RECONNECT_S if reconnect_s is None else reconnect_s, topic)
    if topic is not None and not source.topic:
        raise UsageError(
            f"`topic` is for logs and data sets of robots, and {source.name} is neither; leave it out"
        )
    if not isinstance(source, StreamSource):
        _refuse_timeout(timeout_s, source.name)
    if reconnect_s is not None and not isinstance(source, StreamSource | CameraSource):
        raise UsageError(
            f"`reconnect_s` is for streams and cameras, and {source.name} is neither; leave it out"
        )
    return source


def _refuse_timeout(timeout_s: float | None, name: str) -> None:
    if timeout_s is not None:
        raise UsageError(f"`timeout_s` is for streams, and {name} is none; leave it out")


def _open_on_gpu(spec: str) -> Source:
    path, stream = _video_stream(spec)
    if "://" in spec or not path.is_file() or path.suffix.lower() in PICTURE_SUFFIXES:
        raise UsageError(
            f'`decode="gpu"` is for video files, and {masked(spec)} is none; leave it out'
        )
    return GpuVideoSource(path, stream=stream)


def _open(spec: str, timeout_s: float | None, reconnect_s: float, topic: str | None) -> Source:
    if _exists(spec):  # a folder of that name before the camera 2024
        return _open_path(spec, topic)
    if match := re.fullmatch(r"(?:camera:)?([0-9]{1,4})(\?.*)?", spec):
        _refuse_timeout(timeout_s, f"camera {match[1]}")  # before the camera is switched on
        return _open_camera(spec, match, reconnect_s)
    if match := re.fullmatch(r"test:(\?.*)?", spec):
        return _open_pattern(spec, match)
    if "://" in spec:
        if not spec.lower().startswith(tuple(f"{scheme}://" for scheme in SCHEMES)):
            raise UsageError(
                f"{masked(spec)} is no stream that can be read; the schemes are {', '.join(SCHEMES)}"
            )
        return StreamSource(
            spec,
            timeout_s=TIMEOUT_S if timeout_s is None else timeout_s,
            reconnect_s=reconnect_s,
        )
    return _open_path(spec, topic)


def _open_camera(spec: str, match: re.Match[str], reconnect_s: float) -> Source:
    options = _options(spec, match[2], CAMERA_OPTIONS)
    size = _size(options)
    pixel_format = options.get("format", "")
    if len(pixel_format) not in (0, 4) or not pixel_format.isascii():
        raise UsageError(f"{masked(spec)}: a pixel format has four letters, for example MJPG")
    return CameraSource(
        int(match[1]),
        size=None if size is None else (size[1], size[0]),
        fps=_number(spec, options, "fps", 0.0) or None,
        pixel_format=pixel_format,
        reconnect_s=reconnect_s,
    )


def _open_pattern(spec: str, match: re.Match[str]) -> Source:
    options = _options(spec, match[1], TEST_OPTIONS)
    height, width = _size(options) or (480, 640)
    total = _number(spec, options, "frames", 0)
    if total != int(total):
        raise UsageError(f"{masked(spec)}: frames must be a whole number, not {total:g}")
    fps = _number(spec, options, "fps", 30.0)
    return PatternSource(height, width, fps=fps, total=int(total) or None)


def _exists(spec: str) -> bool:
    return "://" not in spec and os.path.lexists(spec)


def _video_stream(spec: str) -> tuple[Path, int | None]:
    """``film.mkv?stream=1`` as path and stream; a file of that very name comes first."""
    match = re.fullmatch(r"(.+)\?stream=([0-9]{1,3})", spec, re.DOTALL)
    if match and not _exists(spec) and os.path.isfile(match[1]):
        return Path(match[1]), int(match[2])
    return Path(spec), None


def _open_path(spec: str, topic: str | None) -> Source:
    path, stream = _video_stream(spec)
    if stream is not None:
        return VideoSource(path, stream=stream)
    if _is_log(path):
        return BagSource(path, topic=topic)
    if is_data_set(path):
        return LeRobotSource(path, topic=topic)
    if os.path.isdir(spec):
        return open_folder(path)
    if not _exists(spec):
        shown = masked(spec)
        if spec.lower().startswith(tuple(f"{scheme}:" for scheme in SCHEMES)):
            raise UsageError(f"{shown} was given without the two slashes that an address has")
        if counter := re.search(r"%(0?[0-9]*)d", path.name):
            return open_sequence(path, counter)
        raise SourceError(
            f"{shown} does not exist; a source is a picture, a folder, a sequence like frames/%06d.png, a video file, "
            f"a robot's log, a camera index, test: or a stream ({', '.join(SCHEMES)})"
        )
    try:
        picture = is_picture(path)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None
    suffix = path.suffix.lower()
    if suffix not in MOVING_SUFFIXES and (picture or suffix in PICTURE_SUFFIXES):
        return PictureSource(spec, [path])
    try:
        return VideoSource(path)
    except SourceError as error:
        if (mimetypes.guess_type(path.name)[0] or "").startswith("video/"):
            raise
        raise SourceError(
            f"{path} begins as no picture does ({', '.join(FORMATS)}), and was tried as a video: {error}"
        ) from None


def _is_log(path: Path) -> bool:
    try:
        return is_log(path)
    except OSError:  # said where it is opened as something else
        return False


def _options(spec: str, query: str | None, known: tuple[str, ...]) -> dict[str, str]:
    options = dict(parse_qsl((query or "").removeprefix("?"), keep_blank_values=True))
    for name in options:
        if name not in known:
            raise UsageError(
                f"{masked(spec)}: unknown option {name!r}; there are {', '.join(known)}"
            )
    return options


def _size(options: dict[str, str]) -> tuple[int, int] | None:
    return parse_size(options["size"]) if "size" in options else None


def _number(spec: str, options: dict[str, str], name: str, default: float) -> float:
    try:
        value = float(options.get(name, default))
    except ValueError:
        value = -1.0
    if not 0 <= value <= MAX_NUMBER:
        raise UsageError(
            f"{masked(spec)}: {name} must be a number from 0 to {MAX_NUMBER:,}, not {options[name]!r}"
        )
    return value
