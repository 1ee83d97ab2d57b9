"""What a source is, and those that read pictures: files, folders, sequences.

``video_source.py`` reads video files, ``live.py`` cameras and streams, ``pattern.py`` needs neither.

Every source yields uint8 RGB frames; conversion from BGR or YUV happens here and nowhere else.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import SourceError
from e2e_deploy.frames import MAX_PIXELS, MIN_SIDE_PX
from e2e_deploy.runtime.backends.backend import Picture
from e2e_deploy.runtime.backends.gpu.transfers import Transfers
from e2e_deploy.runtime.camera.camera_info import CameraInfo
from e2e_deploy.system.text import clean

MAX_NOTES = 100


@dataclass(frozen=True, eq=False)
class SourceFrame:
    """One frame and where it came from.

    Attributes:
        rgb: uint8 [H, W, 3].
        index: 0-based position in the source.
        pts_s: presentation time in seconds, as the source counts it; None for pictures and cameras.
        name: stem for output files.
        captured_s: when it came out of the decoder or driver, on the clock of ``time.monotonic``.
        source: which source it is from, without credentials.
        shown_s: when a recording shows it, in seconds from the source's start: by presentation times of a file, by
            capture times of what is live; None for pictures.
        duration_s: for how long it is shown; 0 if that is not known.
        stamp_ns: when it was captured, in nanoseconds, on the clock of what recorded it (in logs of robots the time
            since 1970, or a simulation's); None where nobody says.
        frame_id: of the camera's coordinate frame in that log; empty where nobody says.
        camera: that took it, for pictures of its size; None where nobody says.
        logged_ns: when its log recorded it, in nanoseconds on the recorder's clock; None for what is no log.
        begins: a recording of its own begins with it: it has nothing to do with the frames before.
    """

    rgb: npt.NDArray[np.uint8]
    index: int
    pts_s: float | None
    name: str
    captured_s: float = field(default_factory=time.monotonic)
    source: str = ""
    shown_s: float | None = None
    duration_s: float = 0.0
    stamp_ns: int | None = None
    frame_id: str = ""
    camera: CameraInfo | None = None
    logged_ns: int | None = None
    begins: bool = False

    @property
    def picture(self) -> Picture:
        """The frame where it is: on the host, or of some sources on the GPU."""
        return self.rgb

    @property
    def hw(self) -> tuple[int, int]:
        """(H, W)."""
        return self.rgb.shape[0], self.rgb.shape[1]


class Source(Protocol):
    """An iterable of frames.

    Attributes:
        name: what it is, for people; without credentials.
        is_video: whether its frames form a moving picture.
        is_live: whether frames come when they want; then only the newest counts. Others wait until they are taken.
        fps: frames per second of a video, else None.
        total: number of frames where it is known, else None.
        files: that it reads; nothing may be written to them.
        skipped: damaged frames that were left out so far.
        gaps: times that it was lost and came back.
        notes: what was done to frames before the engine, and why some were left out; grows while it runs.
        transfers: counts what it copied between host and GPU; None when its frames are on the host.
        camera: of its first frame, where it says so before it begins; else None.
        topic: of a log or data set of robots: whose pictures they are; empty for all else.
    """

    name: str
    is_video: bool
    is_live: bool
    fps: float | None
    total: int | None
    files: list[Path]
    skipped: int
    gaps: int
    notes: list[str]
    transfers: Transfers | None
    camera: CameraInfo | None
    topic: str

    def __iter__(self) -> Iterator[SourceFrame]: ...

    def leave_out(self, why: str) -> bool:
        """Whether it goes on without a frame that cannot be used; if so, that is counted and noted."""
        ...

    def stop(self) -> None:
        """Let an iteration in another thread end soon."""
        ...


class BaseSource:
    """What sources share."""

    is_video = True
    is_live = False
    transfers: Transfers | None = None
    camera: CameraInfo | None = None
    topic = ""

    def __init__(
        self,
        name: str,
        *,
        fps: float | None = None,
        total: int | None = None,
        files: Sequence[Path] = (),
    ) -> None:
        self.name = name
        self.fps, self.total = fps, total
        self.files = list(files)
        self.skipped = self.gaps = 0
        self.notes: list[str] = []
        self._stopping = threading.Event()

    def note(self, text: str) -> None:
        """Say something of this source, once: one sentence. After MAX_NOTES different ones, counts must do."""
        sentence = clean(text)
        if sentence not in self.notes and len(self.notes) < MAX_NOTES:
            self.notes.append(sentence)

    def leave_out(self, why: str) -> bool:
        """A video is one thing: it does not go on."""
        return False

    def stop(self) -> None:
        """Let an iteration in another thread end soon."""
        self._stopping.set()

    def _begin(self) -> None:
        """Begin an iteration: neither the end of one before nor what that left out or lost counts."""
        self._stopping.clear()
        self.skipped = self.gaps = 0


def check_size(name: str, height: int, width: int) -> None:
    """Raise a SourceError if frames of that size cannot be processed."""
    if min(height, width) < MIN_SIDE_PX:
        raise SourceError(
            f"{name} is {width}x{height}; both sides must be at least {MIN_SIDE_PX} px"
        )
    if height * width > MAX_PIXELS:
        raise SourceError(
            f"{name} is {width}x{height} ({height * width / 1e6:.0f} Mpx); the limit is {MAX_PIXELS / 1e6:.0f} Mpx: "
            "make it smaller first"
        )
