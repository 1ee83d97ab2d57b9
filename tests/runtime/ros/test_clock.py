"""Stamps of one run are of one clock."""

import time

import numpy as np
import pytest

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.ros.clock import PLAYED, RECORDED, WALL, Clock
from e2e_deploy.runtime.sources.source import SourceFrame

RGB = np.zeros((16, 16, 3), np.uint8)


def frame(**said):
    return SourceFrame(RGB, 0, None, "a", **said)


def test_a_recorded_stamp_is_kept_to_the_nanosecond():
    clock = Clock(is_live=False)
    assert (
        clock(frame(stamp_ns=1_700_000_000_123_456_789, shown_s=0.5)) == 1_700_000_000_123_456_789
    )
    assert clock.name == RECORDED
    assert clock(frame(stamp_ns=-5)) == -5


def test_a_video_has_its_presentation_times():
    clock = Clock(is_live=False)
    assert [clock(frame(shown_s=s)) for s in (0.0, 1 / 30, 3600.0)] == [0, 33_333_333, 3600 * 10**9]
    assert clock.name == PLAYED


@pytest.mark.parametrize(("is_live", "shown_s"), [(True, 0.25), (True, None), (False, None)])
def test_what_is_live_and_pictures_have_the_wall_clock(is_live, shown_s):
    clock = Clock(is_live=is_live)
    before = time.time_ns()
    stamp = clock(frame(captured_s=time.monotonic(), shown_s=shown_s))
    assert clock.name == WALL
    assert before - 50_000_000 <= stamp <= time.time_ns() + 50_000_000


def test_setting_the_time_makes_no_jump(monkeypatch):
    clock = Clock(is_live=True)
    first = clock(frame(captured_s=100.0))
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    assert clock(frame(captured_s=100.5)) - first == pytest.approx(5e8, abs=2)


def test_two_clocks_are_not_mixed():
    for first, then in (({"stamp_ns": 5}, {"shown_s": 1.0}), ({"shown_s": 1.0}, {"stamp_ns": 5})):
        clock = Clock(is_live=False)
        clock(frame(**first))
        with pytest.raises(SourceError, match="stamps of two clocks are not mixed"):
            clock(frame(**then))
