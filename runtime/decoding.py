"""From a container's packets to frames, for files and streams alike."""

from collections.abc import Iterator
from typing import NamedTuple

import av
import numpy as np
import numpy.typing as npt
from av.container.input import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.frame_filter import FrameFilter
from e2e_deploy.text import clean

# For av.open: a title in Latin-1 is no reason not to see the film.
METADATA_ERRORS = "replace"
_COVERS = Disposition.attached_pic | Disposition.timed_thumbnails


class Decoded(NamedTuple):
    """A frame and its time.

    Attributes:
        rgb: uint8 [H, W, 3], upright, with square pixels.
        pts_s: presentation time in seconds as the container says it; None if it does not.
        duration_s: for how long it is shown, as the container says or guesses it; 0 if neither.
    """

    rgb: npt.NDArray[np.uint8]
    pts_s: float | None
    duration_s: float


def reason(error: Exception) -> str:
    """What FFmpeg or the system says, without the address it says it about (which may hold a password)."""
    return clean(getattr(error, "strerror", None) or type(error).__name__)


def choose_stream(container: InputContainer, name: str, wanted: int | None = None) -> VideoStream:
    """The video stream to read: FFmpeg's best one, never a cover picture.

    Args:
        container: an open one.
        name: of the source, for messages.
        wanted: index of a stream among all of the container's; None takes the best.

    Raises:
        SourceError: there is none, not that one, or no decoder for it.
    """
    videos = list(container.streams.video)
    if wanted is None:
        films = [stream for stream in videos if not stream.disposition & _COVERS]
        best = container.streams.best("video")
        chosen = best if best in films else films[0] if films else None
    else:
        chosen = next((stream for stream in videos if stream.index == wanted), None)
    if not isinstance(chosen, VideoStream):
        there = ", ".join(f"{stream.index}: {_about(stream)}" for stream in videos)
        if wanted is not None and there:
            raise SourceError(f"{name} has no video stream {wanted}; there are {there}")
        raise SourceError(f"{name} has no video stream" + (" but a cover picture" if there else ""))
    if _codec(chosen) is None:
        raise SourceError(
            f"{name} has video of a kind that this FFmpeg cannot decode; convert it to H.264 first"
        )
    return chosen


def _codec(stream: VideoStream) -> "av.VideoCodecContext | None":
    """PyAV has no codec context where FFmpeg has no decoder."""
    codec: av.VideoCodecContext | None = stream.codec_context
    return codec


def _about(stream: VideoStream) -> str:
    codec = _codec(stream)
    if codec is None:
        return "no decoder"
    cover = " (cover picture)" if stream.disposition & _COVERS else ""
    return f"{codec.name} {codec.width}x{codec.height}{cover}"


class Decoder:
    """Decodes one stream.

    Args:
        container: the open container.
        stream: of it.
        name: of the source, for messages.

    Attributes:
        skipped: damaged packets and pictures that were left out.
        notes: what was done to the pictures, a sentence each.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, name: str) -> None:
        self.skipped = 0
        self._stream, self._name = stream, name
        # What AVI stores with a frame is its place in the order of decoding.
        self._by_dts = container.format.name == "avi"
        self._filter = FrameFilter(name, stream.time_base)
        self.notes = self._filter.notes
        self._guessed_s = float(1 / stream.guessed_rate) if stream.guessed_rate else 0.0

    def __call__(self, packet: Packet) -> Iterator[Decoded]:
        """The frames that are ready once this packet is there; an empty packet gives those that were held back.

        Raises:
            SourceError: frames of a size that cannot be processed.
            av.FFmpegError: it cannot go on.
        """
        try:
            pictures = packet.decode()
        except av.error.InvalidDataError:
            self.skipped += 1  # one damaged packet is no reason to lose the rest
            return
        for picture in pictures:
            assert isinstance(picture, av.VideoFrame)
            if picture.is_corrupt:
                self.skipped += 1
                continue
            if self._by_dts:
                picture.pts = picture.dts
            for frame in self._filter(picture, self._stream.sample_aspect_ratio):
                yield self._decoded(frame)
        if packet.size == 0:
            for frame in self._filter.flush():
                yield self._decoded(frame)

    def _decoded(self, frame: av.VideoFrame) -> Decoded:
        base = frame.time_base
        duration_s = float(frame.duration * base) if frame.duration and base else self._guessed_s
        return Decoded(np.asarray(frame.to_ndarray(), dtype=np.uint8), frame.time, duration_s)
