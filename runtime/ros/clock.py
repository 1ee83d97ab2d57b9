"""The stamps of frames on one clock for a whole run; which one, the first frame decides."""

import time
from typing import TYPE_CHECKING

from e2e_deploy.errors import SourceError

if TYPE_CHECKING:  # sources import this folder
    from e2e_deploy.runtime.sources.source import SourceFrame


RECORDED = "capture, on the clock of what recorded it"
PLAYED = "presentation, from the start of the video"
WALL = "capture, in time since 1970"


class Clock:
    """Nanoseconds of each frame of one run, never of two clocks.

    The capture stamp where frames carry one; of a video file its presentation time, which begins at 0 and is the same
    in every run; of a camera, a stream and pictures the wall clock when they came. The wall clock is asked once: later
    frames are as far from the first as the steady clock says, so that setting the time makes no jump.

    Args:
        is_live: frames come when they want.

    Attributes:
        name: which clock, in words; empty before the first frame.
    """

    def __init__(self, *, is_live: bool) -> None:
        self.name = ""
        self._is_live = is_live
        self._offset_ns = _wall_offset_ns()

    def __call__(self, frame: "SourceFrame") -> int:
        """Nanoseconds of a frame.

        Raises:
            SourceError: a frame that the clock of the first cannot tell.
        """
        if not self.name:
            played = not self._is_live and frame.shown_s is not None
            self.name = RECORDED if frame.stamp_ns is not None else PLAYED if played else WALL
        if self.name == RECORDED and frame.stamp_ns is not None:
            return frame.stamp_ns
        if self.name == PLAYED and frame.shown_s is not None:
            return round(frame.shown_s * 1e9)
        if self.name == WALL:
            return self._offset_ns + round(frame.captured_s * 1e9)
        raise SourceError(
            f"a frame has no time of {self.name}, as the frames before it; stamps of two clocks are not mixed"
        )


def _wall_offset_ns() -> int:
    """From the steady clock to the wall clock: of a few readings the one that was interrupted least."""
    readings = []
    for _ in range(5):
        before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        readings.append((after - before, wall - (before + after) // 2))
    return min(readings)[1]
