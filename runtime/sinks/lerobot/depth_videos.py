"""Lossless 12-bit videos of depth in a data set: episode after episode, a new file when one is large enough."""

from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.runtime.sinks.lerobot.depth_codes import Codes
from e2e_deploy.runtime.sources.lerobot.data_set import VIDEO_PATH
from e2e_deploy.runtime.sources.video.decoding import reason

_TICKS = 90_000
# As lerobot encodes depth, but for the preset: lossless at any, and this one is twice as fast.
CODEC, PIXELS, KEY_EVERY, PRESET = "hevc", "gray12le", 2, "ultrafast"
_ENCODER = {
    "g": str(KEY_EVERY),
    "preset": PRESET,
    "x265-params": "lossless=1:bframes=0:log-level=error",
}


@dataclass(frozen=True)
class Place:
    """Where an episode is: ``videos/<key>/chunk-<chunk>/file-<file>.mp4``, from a time on, in seconds."""

    chunk: int
    file: int
    from_s: float


class DepthVideos:
    """The videos of one key.

    Args:
        root: folder of the data set.
        key: of the feature.
        fps: of the data set.
        file_bytes: an episode that finds a file as large as this begins a new one.
        chunk_files: files in a chunk's folder.

    Raises:
        E2EDeployError: from any method: a file cannot be written.
    """

    def __init__(
        self, root: Path, key: str, *, fps: float, file_bytes: int, chunk_files: int
    ) -> None:
        self._root, self._key, self._fps = root, key, fps
        self._file_bytes, self._chunk_files = file_bytes, chunk_files
        self._number = -1
        self._path = root
        self._container: Any = None
        self._stream: Any = None
        self._frames = self._begun = self._bytes = 0
        self._hw = (0, 0)

    def begin(self, hw: tuple[int, int]) -> Place:
        """Begin an episode of frames of this size, (H, W)."""
        if self._container is None or self._bytes >= self._file_bytes:
            self.close()
            self._open(hw)
        self._begun = self._frames
        chunk, file = divmod(self._number, self._chunk_files)
        return Place(chunk, file, self._frames / self._fps)

    def _open(self, hw: tuple[int, int]) -> None:
        self._number += 1
        chunk, file = divmod(self._number, self._chunk_files)
        name = VIDEO_PATH.format(video_key=self._key, chunk_index=chunk, file_index=file)
        self._path, self._hw = self._root / name, hw
        self._frames = self._bytes = 0
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(f"file:{self._path}", "w")
            rate = Fraction(self._fps).limit_denominator(1001)
            self._stream = self._container.add_stream(CODEC, rate=rate, options=_ENCODER)
            self._stream.height, self._stream.width = hw
            self._stream.pix_fmt = PIXELS
            self._stream.time_base = Fraction(1, _TICKS)
            self._stream.codec_context.time_base = Fraction(1, _TICKS)
        except (OSError, av.FFmpegError) as error:
            raise self._failed(error) from None

    def add(self, codes: Codes, time_s: float) -> None:
        """Append a frame, uint16 [H, W] up to 4095, at its time in the episode."""
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(codes), format=PIXELS)
        picture.time_base = Fraction(1, _TICKS)
        picture.pts = round((self._begun / self._fps + time_s) * _TICKS)
        self._mux(picture)
        self._frames += 1

    def _mux(self, picture: "av.VideoFrame | None") -> None:
        try:
            for packet in self._stream.encode(picture):
                packet.duration = round(_TICKS / self._fps)
                self._bytes += packet.size
                self._container.mux(packet)
        except (OSError, av.FFmpegError) as error:
            raise self._failed(error) from None

    def _failed(self, error: Exception) -> E2EDeployError:
        height, width = self._hw
        return E2EDeployError(
            f"depth of {width}x{height} could not be written into {self._path}: {reason(error)}"
        )

    def close(self) -> None:
        """Finish the file that is open."""
        if self._container is None:
            return
        self._mux(None)
        container, self._container = self._container, None
        try:
            container.close()
        except (OSError, av.FFmpegError) as error:
            raise self._failed(error) from None

    def give_up(self) -> None:
        """Close the file as it is: it will be deleted."""
        container, self._container = self._container, None
        if container is not None:
            with suppress(OSError, av.FFmpegError):
                container.close()
