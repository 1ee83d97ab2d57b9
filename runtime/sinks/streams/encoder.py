"""Pictures as H.264 for receivers that come and go: nothing is held back, and a new one can begin at once."""

import os
from fractions import Fraction
from typing import NamedTuple

import av
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType

from e2e_deploy.errors import E2EDeployError, UnavailableError
from e2e_deploy.runtime.sinks.sink import Rgb
from e2e_deploy.runtime.sinks.video_file import as_frame, rate_of, tag_bt709
from e2e_deploy.runtime.sources.video.decoding import reason

TICKS = 90_000  # a second, as MPEG and RTP count
KEY_EVERY_S = 1.0  # who joins waits no longer for a picture
CODEC, PIXELS = "libx264", "yuv420p"
# No B-frames and no look-ahead: each frame comes out before the next goes in. Key frames are where we say.
_OPTIONS = {
    "preset": "superfast",
    "tune": "zerolatency",
    "crf": "21",
    "bf": "0",
    "g": "100000",
    "threads": str(min(4, os.cpu_count() or 1)),  # each of them codes a slice of its own
}


class Coded(NamedTuple):
    """One coded frame.

    Attributes:
        data: H.264 as a byte stream (Annex B); a key frame begins with its parameter sets.
        tick: its time in TICKS.
        is_key: whether a decoder can begin with it.
    """

    data: bytes
    tick: int
    is_key: bool


class LiveEncoder:
    """An encoder for pictures of one size, that of the first.

    Args:
        name: of the stream, for messages.
        fps: average rate, by which the encoder spends its bits.

    Raises:
        UnavailableError: this FFmpeg has no encoder for H.264.
    """

    def __init__(self, name: str, fps: float) -> None:
        if CODEC not in av.codecs_available:
            raise UnavailableError(
                f"{name} needs H.264, and this PyAV ({av.__version__}) was built without {CODEC}; its wheels have it"
            )
        self._name = name
        self._rate = rate_of(fps)
        self._context: VideoCodecContext | None = None
        self._last: int | None = None
        self._last_key = 0

    @property
    def hw(self) -> tuple[int, int] | None:
        """Of the pictures, once there is one."""
        return None if self._context is None else (self._context.height, self._context.width)

    def __call__(self, picture: Rgb, time_s: float, *, key: bool) -> Coded:
        """One picture that is shown at ``time_s``; ``key`` makes it one to begin with.

        Raises:
            E2EDeployError: it cannot be encoded.
        """
        tick = round(time_s * TICKS)
        if self._last is not None:
            tick = max(tick, self._last + 1)
        key = key or self._last is None or tick - self._last_key >= KEY_EVERY_S * TICKS
        try:
            context = self._context = self._context or self._open(picture)
            image = as_frame(picture, "rgb24", PIXELS)
            image.pts, image.time_base = tick, Fraction(1, TICKS)
            image.pict_type = PictureType.I if key else PictureType.NONE
            data = b"".join(bytes(packet) for packet in context.encode(image))
        except (OSError, ValueError, av.FFmpegError) as error:
            raise E2EDeployError(f"{self._name} could not be encoded: {reason(error)}") from None
        self._last = tick
        self._last_key = tick if key else self._last_key
        return Coded(data, tick, key)

    def _open(self, picture: Rgb) -> VideoCodecContext:
        context = VideoCodecContext.create(CODEC, "w")
        assert isinstance(context, VideoCodecContext)
        context.height, context.width = picture.shape[:2]
        context.pix_fmt, context.options = PIXELS, dict(_OPTIONS)
        context.time_base, context.framerate = Fraction(1, TICKS), self._rate
        tag_bt709(context)
        return context
