from types import SimpleNamespace

import numpy as np
import pytest

from e2e_deploy.runtime.sinks.streams import pace
from e2e_deploy.runtime.sources.source import SourceFrame


class Clock:
    """Time that passes only while somebody sleeps, or works."""

    def __init__(self):
        self.now_s = 100.0

    def monotonic(self):
        return self.now_s

    def sleep(self, seconds):
        assert seconds >= 0
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=clock.monotonic, sleep=clock.sleep))
    return clock


def frame(shown_s=None, captured_s=0.0):
    rgb = np.zeros((8, 8, 3), np.uint8)
    return SourceFrame(rgb, 0, None, "a", captured_s=captured_s, shown_s=shown_s)


def test_a_file_is_played_at_its_own_times(clock):
    paced = pace.Pace(live=False, fps=30)
    shown = [3.0, 3.04, 3.05, 3.5, 4.7]
    times = [paced(frame(each)) for each in shown]
    np.testing.assert_allclose(times, np.subtract(shown, 3.0))
    assert clock.now_s == pytest.approx(101.7)


def test_pictures_without_times_come_at_a_rate(clock):
    paced = pace.Pace(live=False, fps=25)
    np.testing.assert_allclose([paced(frame()) for _ in range(4)], np.arange(4) / 25)


def test_a_slow_engine_delays_a_file_and_is_not_caught_up_with(clock):
    paced = pace.Pace(live=False, fps=10)
    paced(frame(0.0))
    clock.now_s += 3.0  # a frame that took long
    late_s = paced(frame(0.1))
    assert late_s == pytest.approx(3.0 - pace.LATE_S)
    # the next ones are their distance apart, and the clock is not waited for until it is reached
    times = [paced(frame(0.1 * n)) for n in range(2, 8)]
    np.testing.assert_allclose(np.diff([late_s, *times]), 0.1)
    assert clock.now_s == pytest.approx(100 + times[-1])


def test_a_long_gap_is_shortened(clock):
    paced = pace.Pace(live=False, fps=10)
    times = [paced(frame(each)) for each in (0.0, 3600.0, 3600.1)]
    np.testing.assert_allclose(times, [0, pace.LONGEST_S, pace.LONGEST_S + 0.1])


def test_times_of_a_file_never_go_back(clock):
    paced = pace.Pace(live=False, fps=10)
    times = [paced(frame(each)) for each in (0.0, 1.0, 0.5, 1.5)]
    np.testing.assert_allclose(times, [0, 1, 1, 2])


def test_a_live_frame_has_the_time_of_its_capture_and_is_not_waited_for(clock):
    paced = pace.Pace(live=True, fps=30)
    times = [paced(frame(captured_s=each)) for each in (50.0, 50.02, 50.7, 50.6)]
    np.testing.assert_allclose(times, [0, 0.02, 0.7, 0.7])
    assert clock.now_s == 100.0
