"""From a container's packets to frames, for files and streams alike."""

from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
import numpy.typing as npt
from av.container.input import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.sources.source import BaseSource
from e2e_deploy.runtime.sources.video.frame_filter import FrameFilter
from e2e_deploy.system.text import clean

# For av.open: a title in Latin-1 is no reason not to see the film.
METADATA_ERRORS = "replace"
MOST_HELD = 48  # packets in a decoder: FFmpeg has 16 threads at most, and puts 16 frames in order
MOST_FPS = 1000  # above it a header means a clock: 60000 in DV
# Containers that say nothing of the shape of pixels: it may change within a broadcast.
_SHAPELESS = ("mpegts", "mpeg", "mpegvideo", "h264", "hevc", "rtsp")
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


def frames_per_second(stream: VideoStream) -> float | None:
    """The average rate; where the container has no times (raw H.264), the codec's; None if neither is known."""
    rates = [stream.average_rate, stream.guessed_rate]
    ordered = rates if stream.start_time is not None else rates[::-1]
    return next((float(rate) for rate in ordered if rate and rate <= MOST_FPS), None)


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
    """Decodes one stream of a source, which is told what is left out and what is done to the pictures.

    Args:
        container: the open container.
        stream: of it.
        source: counts damaged packets and pictures, and takes notes.

    Attributes:
        start_s: where the container's time starts; None if its first frame says it.
        why: what FFmpeg says of the last packet that could not be decoded; empty where all could.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, source: BaseSource) -> None:
        self._stream, self._source = stream, source
        self.why = ""
        self._began = False
        self._sent = 0
        self._waiting: dict[int, tuple[int, float]] = {}  # by stamp: number and time of a packet
        # What AVI stores with a frame is its place in the order of decoding.
        self._by_dts = container.format.name == "avi"
        self._shapeless = container.format.name in _SHAPELESS
        start = None if self._by_dts else container.start_time
        self.start_s = None if start is None else start / av.time_base
        base = stream.time_base or Fraction(1, 90000)
        self._filter = FrameFilter(source.name, base, source.note)
        self._guessed_s = float(1 / stream.guessed_rate) if stream.guessed_rate else 0.0

    def __call__(self, packet: "Packet[VideoStream] | None") -> Iterator[Decoded]:
        """The frames that are ready once this packet is there; None is the end and gives those that were held back.

        Raises:
            SourceError: the first frame has a size that cannot be processed.
            av.FFmpegError: the filters do not take such pictures.
        """
        if packet is not None:
            self._wait_for(packet)
        try:
            pictures = self._stream.decode(packet)
        except av.FFmpegError as error:  # decoders have many words for damage
            self._source.skipped += 1  # one damaged packet is no reason to lose the rest
            self.why = reason(error)
            pictures = []
        for picture in pictures:
            if (stamp := self._stamp(picture)) is not None:
                self._waiting.pop(stamp, None)
            if picture.is_corrupt:
                self._source.skipped += 1
                continue
            if self._by_dts:
                picture.pts = picture.dts
            try:
                frames = self._filter(picture, self._aspect())
                yield from map(self._decoded, frames)
                self._began = True
            except SourceError as error:
                if not self._began:
                    raise
                self._source.skipped += 1  # damage may claim any size
                self._source.note(f"left out: {error}")
        if packet is None:
            yield from map(self._decoded, self._filter.flush())

    def _aspect(self) -> Fraction | None:
        """Of a pixel, width by height; FFmpeg takes what the first pictures said for what the container says."""
        first = self._stream.sample_aspect_ratio
        now = self._stream.codec_context.sample_aspect_ratio if self._shapeless else None
        return now or first

    def _wait_for(self, packet: "Packet[VideoStream]") -> None:
        self._sent += 1
        oldest = next(iter(self._waiting), None)
        if oldest is not None and self._waiting[oldest][0] <= self._sent - MOST_HELD:
            del self._waiting[oldest]
        if not packet.is_discard and (stamp := self._stamp(packet)) is not None:
            self._waiting[stamp] = self._sent, self.packet_time(packet, 0.0)[0]

    def _stamp(self, one: "Packet[VideoStream] | av.VideoFrame") -> int | None:
        return one.dts if self._by_dts else one.pts

    @property
    def waiting_s(self) -> set[float]:
        """Times of the last packets whose pictures did not come."""
        first = self._sent - MOST_HELD
        return {time_s for number, time_s in self._waiting.values() if number > first}

    @property
    def is_interlaced(self) -> bool:
        """Whether a picture so far was of two moments."""
        return self._filter.was_interlaced

    def packet_time(self, packet: "Packet[VideoStream]", else_s: float) -> tuple[float, float]:
        """(time in seconds, duration in seconds) of a packet's frame; ``else_s`` where it says no time."""
        stamp = packet.dts if self._by_dts or packet.pts is None else packet.pts
        base = packet.time_base
        duration_s = float(packet.duration * base) if packet.duration else self._guessed_s
        # Rounded as PyAV rounds the time of a frame.
        return else_s if stamp is None else float(
            stamp
        ) * base.numerator / base.denominator, duration_s

    def _decoded(self, frame: av.VideoFrame) -> Decoded:
        base = frame.time_base
        duration_s = float(frame.duration * base) if frame.duration and base else self._guessed_s
        return Decoded(np.asarray(frame.to_ndarray(), dtype=np.uint8), frame.time, duration_s)
