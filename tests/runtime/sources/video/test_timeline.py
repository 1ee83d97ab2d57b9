import numpy as np
import pytest

from e2e_deploy.runtime.sources.video.timeline import Timeline


def placed(stamps_s, duration_s=0.1, start_s=0.0):
    notes = []
    timeline = Timeline(start_s, notes.append)
    times = [timeline.place(stamp, duration_s) for stamp in stamps_s]
    assert [time.duration_s for time in times] == [duration_s] * len(times)
    return [time.pts_s for time in times], [time.shown_s for time in times], notes


def test_times_that_grow_are_kept():
    stamps = [0.0, 0.033, 0.5, 0.501, 4.0]
    pts, shown, notes = placed(stamps)
    assert pts == shown == stamps
    assert notes == []


@pytest.mark.parametrize("start", [-0.7, 1.4, 95443.7])
def test_what_is_shown_counts_from_the_start(start):
    pts, shown, _ = placed([start + 0.2, start + 0.3], start_s=start)
    assert pts == [start + 0.2, start + 0.3]  # the first frames were damaged, say
    np.testing.assert_allclose(shown, [0.2, 0.3], atol=1e-9)
    _, shown, _ = placed([start, start + 0.3], start_s=None)
    np.testing.assert_allclose(shown, [0, 0.3], atol=1e-9)
    _, shown, _ = placed([start, start + 0.3], start_s=start + 0.1)
    np.testing.assert_allclose(shown, [0, 0.3], atol=1e-9)


def test_times_that_are_missing_follow_by_duration():
    pts, _, notes = placed([None, None, 1.0, None], duration_s=0.04)
    np.testing.assert_allclose(pts, [0, 0.04, 1, 1.04])
    assert notes == []


def test_disorder_moves_the_one_frame_alone():
    pts, _, notes = placed([0.0, 0.1, 0.1, 0.08, 0.2, 0.3])
    np.testing.assert_allclose(pts, [0, 0.1, 0.101, 0.102, 0.2, 0.3])
    assert set(notes) == {
        "some of the video's times do not grow: those frames are put right after the one before"
    }


def test_a_new_beginning_follows_and_keeps_its_distances():
    pts, _, notes = placed([9.8, 9.9, 10.0, 0.0, 0.5, 0.6])
    np.testing.assert_allclose(pts, [9.8, 9.9, 10, 10.1, 10.6, 10.7])
    assert len(notes) == 1
    assert "begin anew" in notes[0]


def test_times_of_a_damaged_header_do_not_run_away():
    """Within what 64 bits of ticks and an mp4 can hold."""
    pts, shown, notes = placed([0.0, 0.1, 9e17, 9e17 + 512, 5e4], start_s=-9e17)
    np.testing.assert_allclose(pts[:3], [0, 0.1, 0.2])
    assert shown == pts
    assert pts == sorted(pts)
    assert pts[-1] < 1000
    assert len(set(notes)) == 1
    assert Timeline(0.0, print).place(0.0, 1e18).duration_s == 6 * 3600
