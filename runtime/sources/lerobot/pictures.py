"""The pictures of a data set's episodes: from video files by their time, or from the rows."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.container.input import InputContainer

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.sources.picture_file import decode_picture
from e2e_deploy.runtime.sources.source import BaseSource
from e2e_deploy.runtime.sources.video.completeness import PacketReader
from e2e_deploy.runtime.sources.video.decoding import Decoded, Decoder, choose_stream, reason
from e2e_deploy.runtime.sources.video.order import MOST_REORDERED
from e2e_deploy.runtime.sources.video_source import VideoSource

Rgb = npt.NDArray[np.uint8]
AHEAD_S = 2.0  # decoded rather than sought: lerobot's key frames are a frame or two apart


class VideoPictures:
    """Pictures of video files by their time, at best in order: one file is open at a time.

    Args:
        source: counts what is damaged, and takes notes.
        fps: of the data set.
    """

    def __init__(self, source: BaseSource, fps: float) -> None:
        self._source, self._fps = source, fps
        self._path: Path | None = None
        self._container: InputContainer | None = None
        self._coming: Iterator[Decoded] = iter(())
        self._last: Decoded | None = None
        self._next: Decoded | None = None

    def at(self, path: Path, time_s: float) -> Rgb:
        """The picture [H, W, 3] of a file that is shown nearest to a time, at most half a frame from it.

        Raises:
            SourceError: there is none, or the file cannot be read.
        """
        slack_s = 0.5 / self._fps
        last = self._last
        if path != self._path or last is None or last.pts_s is None:
            near = False
        else:
            near = last.pts_s - slack_s <= time_s <= last.pts_s + AHEAD_S
        if not near:
            self._open(path, time_s)
        while self._next is not None and (self._next.pts_s or 0.0) <= time_s + slack_s:
            if self._last is not None and self._off(self._last, time_s) <= self._off(
                self._next, time_s
            ):
                break
            self._last, self._next = self._next, self._following()
        if self._last is None or self._off(self._last, time_s) > slack_s:
            raise SourceError(
                f"{path} has no frame at {time_s:.3f} s, where the data set says one is{self._missing()}"
            )
        return self._last.rgb

    @staticmethod
    def _off(picture: Decoded, time_s: float) -> float:
        return abs((picture.pts_s or 0.0) - time_s)

    def _open(self, path: Path, time_s: float) -> None:
        self.close()
        container = self._container = VideoSource(path).open()
        self._path = path
        stream = choose_stream(container, str(path))
        stream.thread_type = "AUTO"
        if time_s > AHEAD_S and stream.time_base:
            # Seeking goes by times of decoding: a key frame that is decoded before that time may be shown after it.
            early_s = max(0.0, time_s - MOST_REORDERED / self._fps)
            with suppress(av.FFmpegError):  # a file that cannot be sought in is read from its start
                container.seek(int(early_s / stream.time_base), stream=stream)
        packets = self._packets = PacketReader(path, container, stream)
        decoder = Decoder(container, stream, self._source)
        self._coming = (picture for packet in chain(packets, [None]) for picture in decoder(packet))
        self._next = self._following()

    def _following(self) -> Decoded | None:
        try:
            return next(self._coming, None)
        except av.FFmpegError as error:
            raise SourceError(f"{self._path} breaks off: {reason(error)}") from None

    def _missing(self) -> str:
        missing = self._packets.missing(1.0 / self._fps) if self._next is None else ""
        return f": it is cut off, {missing}" if missing else ""

    def close(self) -> None:
        """Close the file that is open."""
        if self._container is not None:
            self._container.close()
        self._path = self._container = self._last = self._next = None
        self._coming = iter(())


def picture_in(cell: Any, name: str, source: BaseSource) -> Rgb:
    """The picture [H, W, 3] in a cell of an image column: a struct with ``bytes``.

    Args:
        cell: the value.
        name: of the frame, for messages.
        source: takes notes.

    Raises:
        SourceError: it holds no bytes, or those of no picture.
    """
    data = cell.get("bytes") if isinstance(cell, dict) else None
    if not isinstance(data, bytes):
        raise SourceError(f"{name} holds no picture; images of a data set are bytes in its rows")
    return decode_picture(data, name, note=source.note)
