"""The loop on a live source: bounded latency, nothing out of order, memory that does not grow."""

import threading
import time
import weakref

import numpy as np
import pytest

from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.errors import E2EDeployError
from e2e_deploy.runtime.backends.onnxruntime.backend import OrtBackend
from e2e_deploy.runtime.loop import run_source
from e2e_deploy.runtime.sources.pattern import PatternSource, read_number
from tests.plain_bundle import HW, write_plain_bundle


class Recorder:
    """Keeps numbers, stamps and the numbers painted into frame and result; may be slow or fail."""

    name, on_main_thread = "recorder", False

    def __init__(self, seconds=0.0, fail_at=None):
        self.seconds, self.fail_at = seconds, fail_at
        self.index, self.painted, self.depth, self.captured_s, self.age_s = [], [], [], [], []
        self.threads = set()

    def write(self, frame, result, facts):
        if len(self.index) == self.fail_at:
            raise E2EDeployError("the disk is full")
        self.age_s.append(time.monotonic() - frame.captured_s)
        self.index.append(frame.index)
        self.painted.append(read_number(frame.rgb))
        self.depth.append(read_number(result))
        self.captured_s.append(frame.captured_s)
        self.threads.add(threading.get_ident())
        time.sleep(self.seconds)

    def close(self):
        return []


@pytest.fixture
def bundle(tmp_path):
    return open_bundle(write_plain_bundle(tmp_path / "bundle"))


@pytest.fixture
def slow_engine(monkeypatch):
    """Makes the engine take 0.1 s a frame."""
    fast = OrtBackend.__call__

    def slow(self, frame, out=None):
        time.sleep(0.1)
        return fast(self, frame)

    monkeypatch.setattr(OrtBackend, "__call__", slow)


def check_order(sink):
    assert sink.index == sorted(set(sink.index))
    assert sink.painted == sink.index
    assert sink.depth == sink.index  # the result belongs to its frame
    assert sink.captured_s == sorted(sink.captured_s)


def test_a_consumer_ten_times_too_slow_gets_fresh_frames(bundle, slow_engine):
    sink = Recorder()
    report = run_source(bundle, PatternSource(*HW, fps=100), [sink], limit=15)
    check_order(sink)
    assert report.frames == len(sink.index) == 15
    # Ages on a machine at work: against the slowest engine call of this very run.
    assert 1000 * max(sink.age_s[1:]) < 2 * report.latency.max_ms
    assert report.age.p50_ms < 2 * report.latency.p50_ms
    assert report.dropped > 5 * report.frames
    assert report.captured >= report.frames + report.dropped


def test_a_file_waits_and_loses_nothing(bundle):
    slow, fast = Recorder(seconds=0.005), Recorder()
    report = run_source(bundle, PatternSource(*HW, fps=0, total=60), [slow, fast])
    for sink in (slow, fast):
        check_order(sink)
        assert sink.index == list(range(60))
    assert (report.dropped, report.captured) == (0, 60)
    assert [s.dropped for s in report.sinks] == [0, 0]
    assert slow.threads.isdisjoint(fast.threads)


def test_a_slow_sink_does_not_slow_the_others(bundle):
    slow, fast = Recorder(seconds=0.2), Recorder()
    report = run_source(bundle, PatternSource(*HW, fps=100), [slow, fast], limit=80)
    check_order(slow)
    check_order(fast)
    assert len(slow.index) < 40
    assert len(fast.index) + report.sinks[1].dropped == report.frames == 80
    assert len(fast.index) > 60
    assert report.sinks[0].dropped == 80 - len(slow.index)


def test_a_failing_sink_does_not_stop_the_others(bundle):
    bad, good = Recorder(fail_at=2), Recorder()
    report = run_source(bundle, PatternSource(*HW, fps=0, total=20), [bad, good])
    assert [s.failure for s in report.sinks] == ["the disk is full", ""]
    assert good.index == list(range(20))


def test_memory_is_flat_over_5000_frames(bundle):
    alive = weakref.WeakSet()
    most = 0

    class Watched(PatternSource):
        def __iter__(self):
            for frame in super().__iter__():
                alive.add(frame)
                yield frame

    sizes = []

    def look(report):
        nonlocal most
        most = max(most, len(alive))
        if report.frames and report.frames % 500 == 0:
            with open("/proc/self/statm", encoding="ascii") as stream:
                sizes.append(int(stream.read().split()[1]) * 4096)

    sink = Recorder()
    sink.write = lambda frame, result, facts: None
    report = run_source(bundle, Watched(*HW, fps=10_000), [sink], limit=5000, on_frame=look)
    assert report.frames == 5000
    # One in the capture, one in each of five places of lanes, one in each of three stages, and what is just released.
    assert most <= 12
    assert sizes[-1] - sizes[2] < 4 * 2**20


def test_no_thread_is_left(bundle):
    before = set(threading.enumerate())
    run_source(bundle, PatternSource(*HW, fps=0, total=5), [Recorder(), Recorder()])
    assert set(threading.enumerate()) == before


def test_an_error_of_a_step_ends_the_run(bundle):
    def step(frame, result, facts):
        if frame.index == 3:
            raise E2EDeployError("a step failed")
        return result

    sink = Recorder()
    with pytest.raises(E2EDeployError, match="a step failed"):
        run_source(bundle, PatternSource(*HW, fps=0), [sink], steps=[step])
    assert sink.index == [0, 1, 2]


def test_the_watch_sees_engine_frames_with_their_results(bundle):
    seen = []

    def watch(engine, frame, result):
        seen.append((read_number(frame), read_number(result)))
        np.testing.assert_array_equal(engine(frame), result)

    run_source(bundle, PatternSource(*HW, fps=0, total=4), [Recorder()], watch=watch)
    assert seen == [(i, i) for i in range(4)]
