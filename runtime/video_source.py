"""Video files as a source, decoded on the CPU by FFmpeg (PyAV)."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.sources import BaseSource, SourceFrame, check_size

# What FFmpeg may read: this file, as one of these containers. Playlists (HLS, DASH, concat) are not among them,
# because they open other files and network addresses.
_ONE_LOCAL_FILE = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,ivf,mxf,nut,dv,h264,hevc,mjpeg,"
    "yuv4mpegpipe",
}


class VideoSource(BaseSource):
    """A video file, every frame of it.

    Attributes:
        hw: (H, W) of its frames.

    Raises:
        SourceError: not a video; or, while iterating, the file ends before the last frame it promises.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), files=[path])
        self._path = path
        with self._open() as container:
            stream = container.streams.video[0]
            self.fps = float(stream.average_rate) if stream.average_rate else None
            self.total = stream.frames or None
            self.hw = (stream.codec_context.height, stream.codec_context.width)
            check_size(self.name, *self.hw)

    def _open(self) -> "av.container.InputContainer":
        try:
            container = av.open(f"file:{self._path}", options=_ONE_LOCAL_FILE)
        except (OSError, av.FFmpegError) as error:
            raise SourceError(
                f"{self.name} is not a video that can be decoded: {reason(error)}"
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
                        yield SourceFrame(
                            rgb, count, picture.time, self._path.stem, source=self.name
                        )
                        count += 1
            except av.FFmpegError as error:
                raise SourceError(
                    f"{self.name} breaks off after frame {count}: {reason(error)}"
                ) from None
        if self.total and packets < self.total:
            raise SourceError(
                f"{self.name} is cut off: {count} of its {self.total} frames could be decoded"
            )
        if count == 0:
            raise SourceError(f"{self.name} holds no frame that can be decoded")


def reason(error: Exception) -> str:
    """What FFmpeg or the system says, without the address it says it about (which may hold a password)."""
    return getattr(error, "strerror", None) or type(error).__name__
