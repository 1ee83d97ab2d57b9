"""Sources that do not wait: cameras and network streams. Lost ones are opened again, with growing pauses.

Between a loss and the return nothing is given out: no black frame, no repeated one. Credentials stay out of every name
and message.
"""

import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import av
import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import SourceError, UnavailableError, UsageError
from e2e_deploy.runtime.sources.source import BaseSource, SourceFrame
from e2e_deploy.runtime.sources.video.decoding import (
    METADATA_ERRORS,
    MOST_FPS,
    Decoder,
    choose_stream,
    frames_per_second,
    reason,
)
from e2e_deploy.system.addresses import HIDDEN, masked
from e2e_deploy.system.opencv import cv2

Rgb = npt.NDArray[np.uint8]

TIMEOUT_S = 5.0
MIN_TIMEOUT_S, MAX_TIMEOUT_S = 0.01, 86400.0  # FFmpeg takes what is beyond as 0 or as never
RECONNECT_S = 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0

_LOW_LATENCY = {"fflags": "nobuffer", "flags": "low_delay", "analyzeduration": "500000"}
# scheme: (container, FFmpeg options); what the whitelists leave out, a stream cannot make FFmpeg open
_STREAMS: dict[str, tuple[str, dict[str, str]]] = {
    "rtsp": ("rtsp", {"rtsp_transport": "tcp", "protocol_whitelist": "rtsp,rtp,udp,tcp"}),
    "udp": ("mpegts", {"protocol_whitelist": "udp"}),
    "tcp": ("mpegts", {"protocol_whitelist": "tcp"}),
    "srt": ("mpegts", {"protocol_whitelist": "srt"}),
}
SCHEMES = tuple(_STREAMS)
_HOPELESS = (
    av.error.HTTPUnauthorizedError,
    av.error.HTTPForbiddenError,
    av.error.HTTPNotFoundError,
    av.error.HTTPBadRequestError,
)


class LostError(SourceError):
    """The source stopped giving frames; opening it again may help."""


class LiveSource(BaseSource):
    """A source that is opened again when it is lost.

    Args:
        name: for people.
        stem: for output files.
        reconnect_s: how long to try before giving up; 0 gives up at once. The first opening is tried once.

    Raises:
        UsageError: a ``reconnect_s`` below 0.
        SourceError: while iterating: it cannot be opened, or was lost for longer than ``reconnect_s``.
    """

    is_live = True

    def __init__(self, name: str, stem: str, *, reconnect_s: float = RECONNECT_S) -> None:
        super().__init__(name)
        if not reconnect_s >= 0:
            raise UsageError(
                f"{name}: the time to reconnect is {reconnect_s} s; it must be 0 s or more"
            )
        self._stem, self._reconnect_s = stem, reconnect_s

    def _connect(self) -> Iterator[tuple[Rgb, float | None]]:
        """Open once and give (rgb, pts in seconds) until it is lost.

        Raises:
            LostError: it was.
            SourceError: it cannot be opened, and trying again is no use.
        """
        raise NotImplementedError

    def __iter__(self) -> Iterator[SourceFrame]:
        self._begin()
        count, pause, lost_s = 0, FIRST_PAUSE_S, 0.0
        first_s: float | None = None
        while not self._stopping.is_set():
            try:
                for rgb, pts_s in self._connect():
                    if self._stopping.is_set():
                        return
                    if lost_s:
                        self.gaps += 1
                    pause, lost_s = FIRST_PAUSE_S, 0.0
                    now_s = time.monotonic()
                    first_s = now_s if first_s is None else first_s
                    yield SourceFrame(
                        rgb,
                        count,
                        pts_s,
                        self._stem,
                        captured_s=now_s,
                        source=self.name,
                        shown_s=now_s - first_s,
                    )
                    count += 1
            except LostError as error:
                now = time.monotonic()
                lost_s = lost_s or now
                if count == 0 or now - lost_s >= self._reconnect_s:
                    after = f" after {count} frames" if count else ""
                    raise SourceError(f"{error}{after}") from None
            self._stopping.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)


class CameraSource(LiveSource):
    """A camera by its index.

    Args:
        index: as the system counts them.
        size: (width, height) to ask for; the camera may choose another.
        fps: to ask for.
        pixel_format: four letters to ask for, for example MJPG.
        reconnect_s: as LiveSource.

    Raises:
        SourceError: there is no such camera.
    """

    def __init__(
        self,
        index: int,
        *,
        size: tuple[int, int] | None = None,
        fps: float | None = None,
        pixel_format: str = "",
        reconnect_s: float = RECONNECT_S,
    ) -> None:
        super().__init__(f"camera {index}", f"camera{index}", reconnect_s=reconnect_s)
        self._index = index
        self._wishes: list[tuple[int, float]] = []
        if pixel_format:  # first: it decides which sizes and rates there are
            self._wishes.append((cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*pixel_format)))
        if size:
            self._wishes += [
                (cv2.CAP_PROP_FRAME_WIDTH, size[0]),
                (cv2.CAP_PROP_FRAME_HEIGHT, size[1]),
            ]
        if fps:
            self._wishes.append((cv2.CAP_PROP_FPS, fps))
        self._capture: Any = self._open()
        rate = self._capture.get(cv2.CAP_PROP_FPS)  # drivers that do not know say 0, -1 or infinity
        self.fps = rate if 0 < rate <= MOST_FPS else None

    def _open(self) -> Any:
        capture = cv2.VideoCapture(self._index)
        if not capture.isOpened():
            raise LostError(f"there is no camera {self._index} here, or another program holds it")
        for what, value in self._wishes:
            capture.set(what, value)
        return capture

    def _connect(self) -> Iterator[tuple[Rgb, float | None]]:
        capture, self._capture = self._capture or self._open(), None
        try:
            while not self._stopping.is_set():
                ok, bgr = capture.read()
                if not ok:
                    raise LostError(f"{self.name} stopped giving frames")
                yield np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8), None
        finally:
            capture.release()


class StreamSource(LiveSource):
    """A network stream: ``rtsp://``, or MPEG-TS over ``udp://``, ``tcp://`` or ``srt://``.

    Args:
        url: may hold credentials; they are sent to the host and shown nowhere. ``#stream=1`` at its end chooses a video
            stream by its index among all; ``?stream=1`` does too, but of ``rtsp://`` belongs to the camera.
        timeout_s: silence after which the stream counts as lost, and the longest wait for an opening.
        reconnect_s: as LiveSource.

    Raises:
        UsageError: another scheme, or a ``timeout_s`` outside MIN_TIMEOUT_S to MAX_TIMEOUT_S.
        UnavailableError: while iterating: this FFmpeg does not know the scheme.
    """

    def __init__(
        self, url: str, *, timeout_s: float = TIMEOUT_S, reconnect_s: float = RECONNECT_S
    ) -> None:
        super().__init__(masked(url), "stream", reconnect_s=reconnect_s)
        try:
            scheme = urlsplit(url).scheme.lower()
        except ValueError:
            scheme = ""
        if scheme not in _STREAMS:
            raise UsageError(
                f"{self.name} is no stream that can be read; the schemes are {', '.join(_STREAMS)}"
            )
        if not MIN_TIMEOUT_S <= timeout_s <= MAX_TIMEOUT_S:
            raise UsageError(
                f"{self.name}: the time-out is {timeout_s} s; it must be {MIN_TIMEOUT_S:g} to {MAX_TIMEOUT_S:g} s"
            )
        self._url, self._timeout_s, self._wanted = url, timeout_s, None
        marks = "#" if scheme == "rtsp" else "?&#"
        if match := re.fullmatch(rf"(.*)[{marks}]stream=([0-9]{{1,3}})", url, re.DOTALL):
            self._url, self._wanted = match[1], int(match[2])
        self._format, self._options = _STREAMS[scheme]

    def _open(self) -> "av.container.InputContainer":
        try:
            return av.open(
                self._url,
                format=self._format,
                options=_LOW_LATENCY | self._options,
                timeout=self._timeout_s,
                metadata_errors=METADATA_ERRORS,
            )
        except av.error.ProtocolNotFoundError:
            scheme = self.name.partition(":")[0]
            raise UnavailableError(
                f"{self.name} cannot be opened: this PyAV ({av.__version__}) was built without {scheme}; send over "
                f"rtsp, udp or tcp, or build PyAV against an FFmpeg that has {scheme}"
            ) from None
        except _HOPELESS as error:
            raise SourceError(f"{self.name} was refused: {self._why(error)}") from None
        except (OSError, av.FFmpegError) as error:
            uncertain = self.name.endswith(f"//{HIDDEN}")  # where the host begins
            hint = "; / ? # @ in a password are written %2F %3F %23 %40" if uncertain else ""
            raise LostError(f"{self.name} cannot be opened: {self._why(error)}{hint}") from None

    def _connect(self) -> Iterator[tuple[Rgb, float | None]]:
        with self._open() as container:
            try:
                stream = choose_stream(container, self.name, self._wanted)
            except SourceError as error:  # what came first may not have been enough to see it
                raise LostError(str(error)) from None
            stream.thread_type = "SLICE"  # threads by frame would hold back as many frames
            self.fps = frames_per_second(stream)
            decoder = Decoder(container, stream, self)
            try:
                for packet in container.demux(stream):
                    for decoded in decoder(packet if packet.size else None):
                        yield decoded.rgb, decoded.pts_s
            except (OSError, av.FFmpegError) as error:
                raise LostError(f"{self.name} was lost: {self._why(error)}") from None
        raise LostError(f"{self.name} ended")

    def _why(self, error: Exception) -> str:
        if isinstance(
            error, av.error.ExitError
        ):  # PyAV interrupts FFmpeg: "Immediate exit requested"
            return f"nothing came for {self._timeout_s:g} s"
        return reason(error)
