"""Presentation times that only grow, of the times a container gives."""

from collections.abc import Callable
from typing import NamedTuple

# Matroska stores whole milliseconds, so two frames nearer than that would fall together.
SMALLEST_STEP_S = 0.001
# A step back by more than this is a new beginning (joined recordings, a clock that was set), less is disorder.
NEW_BEGINNING_S = 1.0
# A gap beyond this is no gap but another clock; and more than 6.6 hours do not fit a frame's duration in an mp4.
LONGEST_GAP_S = 6 * 3600.0


class FrameTime(NamedTuple):
    """When a frame is shown; fields as those of SourceFrame."""

    pts_s: float | None
    shown_s: float | None
    duration_s: float


class Timeline:
    """Times of one source's frames, in order.

    A time that is missing follows the last by the frame's duration. One that goes back a little is put just after the
    last, and the others stay where they are; one that goes back far begins anew after the last, and what comes after it
    keeps its distances. No rate is assumed.

    Args:
        start_s: where the container's time starts; None takes the first frame's.
        note: is told if times had to be changed.
        what: whose times they are, for that.

    """

    def __init__(
        self, start_s: float | None, note: Callable[[str], None], what: str = "video"
    ) -> None:
        self._start_s = float("inf") if start_s is None else start_s
        self._note, self._what = note, what
        self._last_s: float | None = None
        self._last_duration_s = 0.0
        self._offset_s = 0.0

    def place(self, pts_s: float | None, duration_s: float) -> FrameTime:
        """The time of the next frame, after all before; it is shown ``pts_s`` less the start, but never before 0.

        Args:
            pts_s: what the container says; None if it says nothing.
            duration_s: of the frame, as the container says it or guesses.
        """
        duration_s = min(duration_s, LONGEST_GAP_S)
        if self._last_s is None:
            time_s = pts_s or 0.0
            if not 0 <= time_s - self._start_s <= LONGEST_GAP_S:
                self._start_s = time_s
        else:
            time_s = self._after(self._last_s, pts_s)
        self._last_s, self._last_duration_s = time_s, duration_s
        return FrameTime(time_s, time_s - self._start_s, duration_s)

    def _after(self, last_s: float, pts_s: float | None) -> float:
        follows_s = last_s + max(self._last_duration_s, SMALLEST_STEP_S)
        if pts_s is None:
            return follows_s
        time_s = pts_s + self._offset_s
        if last_s < time_s <= last_s + LONGEST_GAP_S:
            return time_s
        if last_s - NEW_BEGINNING_S < time_s <= last_s:
            self._note(
                f"some of the {self._what}'s times do not grow: those frames are put right after the one before"
            )
            return last_s + SMALLEST_STEP_S
        self._note(
            f"the {self._what}'s times begin anew in the middle: what follows is put after what was before"
        )
        self._offset_s += follows_s - time_s
        return follows_s
