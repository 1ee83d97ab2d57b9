"""Presentation times that only grow, of the times a container gives."""

# Matroska stores whole milliseconds, so two frames nearer than that would fall together.
SMALLEST_STEP_S = 0.001
# A step back by more than this is a new beginning (joined recordings, a clock that was set), less is disorder.
NEW_BEGINNING_S = 1.0


class Timeline:
    """Times of one source's frames, in order.

    A time that is missing follows the last by the frame's duration. One that goes back a little is put just after the
    last, and the others stay where they are; one that goes back far begins anew after the last, and what comes after it
    keeps its distances. No rate is assumed.

    Attributes:
        mended: how many times had to be changed.
    """

    def __init__(self) -> None:
        self.mended = 0
        self._last_s: float | None = None
        self._last_duration_s = 0.0
        self._offset_s = 0.0

    def place(self, pts_s: float | None, duration_s: float) -> float:
        """The time of the next frame, greater than all before.

        Args:
            pts_s: what the container says; None if it says nothing.
            duration_s: of the frame, as the container says it or guesses.
        """
        time_s = None if pts_s is None else pts_s + self._offset_s
        if self._last_s is None:
            time_s = 0.0 if time_s is None else time_s
        else:
            follows_s = self._last_s + max(self._last_duration_s, SMALLEST_STEP_S)
            if time_s is None:
                time_s = follows_s
            elif time_s <= self._last_s - NEW_BEGINNING_S:
                self.mended += 1
                self._offset_s += follows_s - time_s
                time_s = follows_s
            elif time_s <= self._last_s:
                self.mended += 1
                time_s = self._last_s + SMALLEST_STEP_S
        self._last_s, self._last_duration_s = time_s, duration_s
        return time_s
