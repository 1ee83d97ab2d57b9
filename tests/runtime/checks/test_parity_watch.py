import threading
from dataclasses import replace

import numpy as np
import pytest

from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.errors import CheckpointError, ParityError, UnavailableError
from e2e_deploy.runtime.backends.onnxruntime.backend import OrtBackend
from e2e_deploy.runtime.checks.parity_watch import ParityWatch
from e2e_deploy.runtime.loop import run_source
from e2e_deploy.runtime.sinks.sink import CallbackSink
from e2e_deploy.runtime.sources.pattern import PatternSource, read_number
from tests.plain_bundle import HW, plain_depth, write_plain_bundle


@pytest.fixture
def bundle(tmp_path):
    return open_bundle(write_plain_bundle(tmp_path / "bundle"))


def exact(engine):
    return lambda frame: plain_depth(frame).astype(np.float32)


def wrong_from(number, offset=0.01):
    """A reference that disagrees from a painted number on."""

    def load(engine):
        def reference(frame):
            result = exact(engine)(frame)
            return result + np.float32(offset) if read_number(frame) >= number else result

        return reference

    return load


def run(bundle, watch, total=12, written=None):
    sink = CallbackSink(lambda frame, *_: written.append(frame.index) if written is not None else 0)
    try:
        return run_source(bundle, PatternSource(*HW, fps=0, total=total), [sink], watch=watch)
    finally:
        watch._samples.close()


def test_stored_and_live_frames_are_compared(bundle):
    before = set(threading.enumerate())
    watch = ParityWatch(1, strict=True, load=exact)
    run(bundle, watch)
    report = watch.finish()
    assert report.stored == 2
    assert 1 <= report.live <= 12  # the reference takes the newest when it is free
    assert (report.outside, report.failures, report.no_live) == (0, "", "")
    assert report.worst.relative < 1e-6
    assert "parity AbsRel" in watch.report.words()
    assert set(threading.enumerate()) == before


def test_only_every_nth_frame_is_taken(bundle):
    seen = []

    def load(engine):
        def reference(frame):
            seen.append(read_number(frame))
            return exact(engine)(frame)

        return reference

    watch = ParityWatch(5, load=load)
    run(bundle, watch, total=23)
    watch.finish()
    assert seen
    assert all(number % 5 == 0 for number in seen)
    assert seen[-1] == 20  # the last sample is waited for


def test_outside_the_limit_is_counted_and_the_worst_frame_kept(bundle, tmp_path):
    watch = ParityWatch(1, save_to=tmp_path / "worst.npz", load=wrong_from(4))
    report = run(bundle, watch)
    assert report.frames == 12
    found = watch.finish()
    assert found.outside >= 1
    assert "relative error" in found.failures
    assert "OUTSIDE" in watch.report.words()
    with np.load(found.saved) as stored:
        assert read_number(stored["frame"]) >= 4
        np.testing.assert_allclose(stored["reference"] - stored["result"], 0.01, atol=1e-5)


def test_strict_ends_the_run(bundle):
    watch, written = ParityWatch(1, strict=True, load=wrong_from(0)), []
    with pytest.raises(ParityError, match="outside its limit, after 2 stored and"):
        run(bundle, watch, total=100_000, written=written)
        watch.finish()
    assert len(written) < 100_000
    assert ParityError.exit_code == 3


def test_a_broken_engine_is_caught_before_the_first_result(bundle, monkeypatch):
    fine = OrtBackend.__call__
    monkeypatch.setattr(
        OrtBackend, "__call__", lambda self, frame, out=None: fine(self, frame) * np.nan
    )
    watch, written = ParityWatch(1, strict=True, load=exact), []
    with pytest.raises(ParityError, match="NaN"):
        run(bundle, watch, written=written)
    assert written == []


def test_without_torch_the_stored_frames_are_compared_and_it_is_said(bundle):
    def load(engine):
        raise UnavailableError("the package 'torch' is not installed")

    watch = ParityWatch(1, strict=True, load=load)
    run(bundle, watch)
    report = watch.finish()
    assert (report.stored, report.live) == (2, 0)
    assert "'torch' is not installed" in report.no_live


@pytest.mark.parametrize("error", [UnavailableError, CheckpointError])
def test_a_checkpoint_that_is_named_is_compared_with_or_an_error(bundle, error):
    def load(engine):
        raise error("it does not open")

    watch = ParityWatch(1, load=load)
    with pytest.raises(error, match="it does not open"):
        run(replace(bundle, checkpoint="named"), watch, total=100_000)
        watch.finish()


def test_an_error_of_the_reference_is_not_swallowed(bundle):
    def load(engine):
        raise RuntimeError("out of memory")

    watch = ParityWatch(1, load=load)
    with pytest.raises(RuntimeError, match="out of memory"):
        run(bundle, watch, total=100_000)
        watch.finish()


def test_a_step_that_changes_results_where_they_lie_is_not_compared(bundle):
    changed = threading.Event()

    def load(engine):
        def reference(frame):
            assert changed.wait(30)
            return exact(engine)(frame)

        return reference

    def double(frame, result, facts):
        result *= 2
        changed.set()
        return result

    watch, source = ParityWatch(1, load=load), PatternSource(*HW, fps=0, total=1)
    run_source(bundle, source, [], steps=[double], watch=watch)
    assert (watch.finish().live, watch.report.outside) == (1, 0)


@pytest.mark.slow
def test_pytorch_itself(depth_bundle):
    watch = ParityWatch(1, strict=True)
    source = PatternSource(96, 128, fps=0, total=3)
    run_source(open_bundle(depth_bundle), source, [], watch=watch)
    report = watch.finish()
    assert report.live >= 1
    assert report.worst.relative < 1e-4


def test_a_worst_frame_that_cannot_be_kept_is_said_and_the_numbers_stay(bundle, tmp_path):
    (tmp_path / "file").write_text("in the way")
    watch = ParityWatch(1, save_to=tmp_path / "file" / "worst.npz", load=wrong_from(4))
    assert run(bundle, watch).frames == 12
    found = watch.finish()
    assert found.outside >= 1
    assert found.saved is None
    assert "worst.npz could not be written: " in found.not_saved
