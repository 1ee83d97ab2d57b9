"""When a frame is shown in a stream, which runs in real time whatever its source does."""

import time

from e2e_deploy.runtime.sources.source import SourceFrame

LATE_S = 0.25  # a file's frames that come later than this move those after them
LONGEST_S = 5.0  # a stream stands still no longer, and Ctrl-C waits no longer for it


class Pace:
    """Times of frames in a stream, in seconds from its first one, growing.

    Frames of a live source have the times of their capture. Those of a file have the file's own, and wait for them:
    a receiver plays in real time, and what came faster would overflow it.

    Args:
        live: whether the source is.
        fps: of frames that have no times.
    """

    def __init__(self, *, live: bool, fps: float) -> None:
        self._live, self._frame_s = live, 1 / fps
        self._zero_s: float | None = None
        self._shown_s = 0.0
        self._last_s = 0.0

    def __call__(self, frame: SourceFrame) -> float:
        """The frame's time; of a file, when that time has come."""
        if self._live:
            self._zero_s = frame.captured_s if self._zero_s is None else self._zero_s
            self._last_s = max(self._last_s, frame.captured_s - self._zero_s)
            return self._last_s
        shown_s = self._shown_s + self._frame_s if frame.shown_s is None else frame.shown_s
        now_s = time.monotonic()
        if self._zero_s is None:
            self._zero_s, self._shown_s = now_s, shown_s
        step_s = min(max(shown_s - self._shown_s, 0.0), LONGEST_S)
        self._shown_s = shown_s
        self._last_s = max(self._last_s + step_s, now_s - self._zero_s - LATE_S)
        time.sleep(max(0.0, self._zero_s + self._last_s - now_s))
        return self._last_s
