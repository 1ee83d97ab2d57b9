"""A video file that is being recorded: it plays while it grows, and nothing that was recorded is thrown away.

It grows beside its place as <name>.partial.<suffix> (numbered where that is taken), which plays at any moment, also
after a kill or on a full disk, and takes its place when it is closed: what is there is always whole.
"""

import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from e2e_deploy.errors import E2EDeployError, UnavailableError, UsageError
from e2e_deploy.runtime.sinks.growing import GrowingFile
from e2e_deploy.runtime.sources.source import SourceFrame
from e2e_deploy.runtime.sources.video.decoding import reason
from e2e_deploy.system.text import clean

PICTURES_FPS = 30.0  # of pictures that have no times
_TICKS = 90_000  # a second, as MPEG counts
_MATROSKA_TICKS = 1000


class VideoFile:
    """One video stream in a file; each frame at its own time.

    Args:
        path: its place; the suffix decides the container.
        fps: average rate, for frames that have no time and key frames; None takes PICTURES_FPS.
        live: whether times count from the first frame that is written; else from the source's start.
        codec: FFmpeg's name.
        pixels: FFmpeg's name of the stored pixel format. YUV is BT.709 in limited range, and tagged so.
        options: of the codec.

    Attributes:
        path: where it is once it is closed: a place that another recording took meanwhile is left to that.
        last_s: time of the last frame.

    Raises:
        E2EDeployError: no file can be written there.
        UnavailableError: this FFmpeg has no such codec.
    """

    def __init__(
        self,
        path: Path,
        *,
        fps: float | None,
        live: bool,
        codec: str,
        pixels: str,
        options: dict[str, str],
    ) -> None:
        if codec not in av.codecs_available:
            raise UnavailableError(
                f"{path} needs {codec}, and this PyAV ({av.__version__}) was built without it; its wheels have it"
            )
        self.path = path
        self.last_s = 0.0
        self._rate = rate_of(fps)
        self._live, self._codec, self._pixels = live, codec, pixels
        # A key frame a second, and a fragment with each: a kill loses no more than that.
        self._options = options | {"g": str(max(1, round(float(self._rate))))}
        self._step = _TICKS // _MATROSKA_TICKS if path.suffix.lower() == ".mkv" else 1
        self._zero_s: float | None = None
        self._last: int | None = None
        self._durations: dict[int, int] = {}  # of frames that the encoder holds, by their time
        self._partial: Path | None = None
        self._is_begun = False  # something is in it
        self._stream: Any = None
        try:
            self._file = GrowingFile(path)
            self._partial = self._file.partial
            # A regular file again when it is closed, with its index, so that players can seek; an edit list
            # keeps the time of the first frame.
            layout = (
                {"movflags": "+hybrid_fragmented+frag_keyframe", "use_editlist": "1"}
                if path.suffix.lower() == ".mp4"
                else {}
            )
            self._container = av.open(
                f"file:{self._partial}", "w", options={"flush_packets": "1", **layout}
            )
        except (OSError, av.FFmpegError) as error:
            raise self._failed(error) from None

    def begin(self, hw: tuple[int, int], metadata: dict[str, str], source: str) -> None:
        """Set size and metadata, before the first frame.

        Raises:
            UsageError: the file would take the place of its own ``source``.
        """
        with suppress(OSError, ValueError):  # a source need not be a file
            if os.path.samefile(self.path, source):
                raise UsageError(f"{self.path} is the source itself: record to another name")
        self._container.metadata.update(
            {key: clean(text) for key, text in metadata.items() if text}
        )
        self._stream = self._container.add_stream(self._codec, rate=self._rate)
        self._stream.height, self._stream.width = hw
        self._stream.pix_fmt, self._stream.options = self._pixels, self._options
        self._stream.time_base = Fraction(1, _TICKS)
        self._stream.codec_context.time_base = Fraction(1, _TICKS)
        if self._pixels.startswith("yuv"):
            tag_bt709(self._stream.codec_context)

    def add(self, picture: npt.NDArray[Any], layout: str, frame: SourceFrame) -> None:
        """Append one picture in FFmpeg's pixel format ``layout``, shown when ``frame`` is.

        Raises:
            E2EDeployError: the file cannot be written; what was recorded stays where the message says.
        """
        image = as_frame(picture, layout, self._pixels)
        image.time_base = Fraction(1, _TICKS)
        image.pts = self._tick(frame.shown_s)
        self._durations[image.pts] = round(_TICKS * (frame.duration_s or float(1 / self._rate)))
        self._mux(image)

    def _tick(self, shown_s: float | None) -> int:
        """The frame's time in ticks, after the last one."""
        if shown_s is None:
            shown_s = 0.0 if self._last is None else self.last_s + float(1 / self._rate)
        if self._zero_s is None:
            self._zero_s = shown_s if self._live else 0.0
        tick = round((shown_s - self._zero_s) * _TICKS)
        if self._last is not None:
            tick = max(tick, self._last + self._step)
        self._last, self.last_s = tick, tick / _TICKS
        return tick

    def _mux(self, picture: "av.VideoFrame | None") -> None:
        try:
            for packet in self._stream.encode(picture):
                # Encoders drop it, and the last frame's is part of the film's.
                packet.duration = self._durations.pop(packet.pts, packet.duration)
                self._container.mux(packet)
                self._is_begun = True
        except (OSError, av.FFmpegError) as error:
            raise self._failed(error) from None

    def _failed(self, error: Exception) -> E2EDeployError:
        """Let the file be; what to say of it. One that holds no frame goes."""
        partial, self._partial = self._partial, None
        kept = ""
        if partial is not None and self._stream is not None:
            with suppress(OSError, av.FFmpegError):
                self._container.close()
        if partial is not None and self._is_begun:
            kept = f"; what was recorded until then is in {partial}"
        elif partial is not None:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
        return E2EDeployError(f"{self.path} could not be written: {reason(error)}{kept}")

    def close(self) -> list[Path]:
        """Finish the file and put it in its place; one that took no frame leaves nothing.

        Raises:
            E2EDeployError: as ``add``.
        """
        if self._partial is None:
            return []
        if self._stream is None:
            self._container.close()
            self._partial.unlink(missing_ok=True)
            self._partial = None
            return []
        self._mux(None)
        try:
            self._container.close()
            self.path = self._file.finish()
        except (OSError, av.FFmpegError) as error:
            raise self._failed(error) from None
        self._partial = None
        return [self.path]


def rate_of(fps: float | None) -> Fraction:
    """An average rate as encoders take it: NTSC's are exact, and where frames are hours apart it is above 0."""
    return max(Fraction(fps or PICTURES_FPS).limit_denominator(1001), Fraction(1, 1001))


def as_frame(picture: npt.NDArray[Any], layout: str, pixels: str) -> "av.VideoFrame":
    """A picture of FFmpeg's pixel format ``layout`` as a frame for an encoder of ``pixels``; YUV is tagged BT.709."""
    image = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=layout)
    if pixels.startswith("yuv"):
        image = image.reformat(format=pixels, dst_colorspace="ITU709", dst_color_range="MPEG")
        tag_bt709(image)
    return image


def tag_bt709(target: Any) -> None:
    """Say BT.709 in limited range of a frame or codec context: what players take HD without tags for."""
    target.colorspace, target.color_range = int(Colorspace.ITU709), int(ColorRange.MPEG)
    target.color_primaries, target.color_trc = int(ColorPrimaries.BT709), int(ColorTrc.BT709)
