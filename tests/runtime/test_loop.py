import av
import numpy as np
import pytest

from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.errors import E2EDeployError, SourceError, UnavailableError
from e2e_deploy.runtime.engine import Engine
from e2e_deploy.runtime.loop import run_source
from e2e_deploy.runtime.sinks.sink import Painter
from e2e_deploy.runtime.sinks.video_sink import VideoSink
from e2e_deploy.runtime.sources.source import BaseSource, SourceFrame
from tests.plain_bundle import HW, plain_depth, write_plain_bundle


class ListSource(BaseSource):
    """Frames from memory, then perhaps an error."""

    def __init__(self, frames, error=None):
        super().__init__("list", fps=10.0, total=len(frames))
        self.frames, self.error = frames, error

    def __iter__(self):
        for index, rgb in enumerate(self.frames):
            yield SourceFrame(rgb, index, index / self.fps, f"f{index}")
        if self.error is not None:
            raise self.error


class ListSink:
    """Keeps what it gets."""

    name, on_main_thread = "list", False

    def __init__(self, fail_at=None):
        self.got, self.closed, self.fail_at = [], 0, fail_at

    def write(self, frame, result, facts):
        if len(self.got) == self.fail_at:
            raise E2EDeployError("the disk is full")
        self.got.append((frame, result))
        self.facts = facts

    def close(self):
        self.closed += 1
        return []


@pytest.fixture
def bundle(tmp_path):
    return open_bundle(write_plain_bundle(tmp_path / "bundle", sizes=[HW, (48, 32)]))


def pictures(rng, *sizes):
    return [rng.integers(0, 256, (*hw, 3), dtype=np.uint8) for hw in sizes]


def test_every_sink_gets_every_frame_with_its_own_result(bundle, rng):
    frames, sinks = pictures(rng, HW, HW, HW), [ListSink(), ListSink()]
    seen = []
    report = run_source(bundle, ListSource(frames), sinks, on_frame=lambda r: seen.append(r.frames))
    for sink in sinks:
        assert sink.closed == 1
        for rgb, (frame, result) in zip(frames, sink.got, strict=True):
            assert frame.rgb is rgb
            np.testing.assert_allclose(result, plain_depth(rgb), atol=1e-6)
    assert (report.frames, seen, report.fitted) == (3, [0, 1, 2, 3], {})
    assert report.latency.count == 3
    assert report.engine.startswith("onnxruntime")
    assert not report.interrupted


def test_frames_of_any_size_are_fitted_and_results_have_their_size(bundle, rng):
    sizes = [(96, 64), (50, 70), HW, (50, 70)]
    sink = ListSink()
    report = run_source(bundle, ListSource(pictures(rng, *sizes)), [sink])
    assert [result.shape for _, result in sink.got] == sizes
    # The first frame chose the graph of its aspect.
    assert report.fitted == {(96, 64): (48, 32), (50, 70): (48, 32), HW: (48, 32)}


def test_a_limit(bundle, rng):
    sink = ListSink()
    report = run_source(bundle, ListSource(pictures(rng, HW, HW, HW)), [sink], limit=2)
    assert report.frames == len(sink.got) == 2
    assert sink.closed == 1


def test_ctrl_c_keeps_a_playable_video(bundle, rng, tmp_path):
    sink = VideoSink(
        tmp_path / "a.mp4",
        Painter(bundle.manifest, "spectral", is_video=True),
        fps=10,
        side_by_side=False,
    )
    source = ListSource(pictures(rng, HW, HW, HW), KeyboardInterrupt())
    report = run_source(bundle, source, [sink])
    assert report.interrupted
    assert report.files == [tmp_path / "a.mp4"]
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 3


def test_a_lost_source_closes_the_sinks_first(bundle, rng):
    sink = ListSink()
    with pytest.raises(SourceError, match="lost"):
        run_source(bundle, ListSource(pictures(rng, HW), SourceError("lost")), [sink])
    assert (len(sink.got), sink.closed) == (1, 1)


def test_a_sink_that_fails_leaves_the_others_alone(bundle, rng):
    good, bad = ListSink(), ListSink(fail_at=1)
    report = run_source(bundle, ListSource(pictures(rng, HW, HW, HW)), [good, bad])
    assert (len(good.got), good.closed, bad.closed) == (3, 1, 1)
    assert [(s.written, s.failure) for s in report.sinks] == [(3, ""), (1, "the disk is full")]


def test_without_a_sink_that_can_write_the_run_ends(bundle, rng):
    source = ListSource(pictures(rng, *[HW] * 200))
    with pytest.raises(E2EDeployError, match="disk is full"):
        run_source(bundle, source, [ListSink(fail_at=1), ListSink(fail_at=0)])


def test_a_sink_whose_close_returns_nothing(bundle, rng):
    class Plain(ListSink):
        def close(self):
            self.closed += 1

    sink = Plain()
    report = run_source(bundle, ListSource(pictures(rng, HW, HW)), [sink, ListSink()])
    assert (report.frames, report.files, sink.closed) == (2, [], 1)


@pytest.mark.timeout(60)
def test_a_source_that_cannot_be_stopped_does_not_hang(bundle, rng):
    class Endless(ListSource):
        def stop(self):
            raise RuntimeError("there is no way to stop it")

    sink = ListSink()
    with pytest.raises(RuntimeError, match="no way to stop"):
        run_source(bundle, Endless(pictures(rng, HW, HW)), [sink])
    assert (len(sink.got), sink.closed) == (2, 1)


def test_no_frame_at_all(bundle):
    report = run_source(bundle, ListSource([]), [ListSink()])
    assert (report.frames, report.latency, report.engine) == (0, None, "")


def test_a_backend_that_is_not_here_closes_the_sinks(bundle, rng, monkeypatch):
    monkeypatch.setattr(
        "e2e_deploy.runtime.backends.onnxruntime.provider.cuda_device_count", lambda: 0
    )
    sink = ListSink()
    with pytest.raises(UnavailableError):
        run_source(bundle, ListSource(pictures(rng, HW)), [sink], device="cuda")
    assert sink.closed == 1


def test_steps_change_results_and_tell_sinks_about_it(bundle, rng):
    def double(frame, result, facts):
        facts["doubled"] = frame.index
        return result * 2

    def more(frame, result, facts):
        assert facts["doubled"] == frame.index
        return result + 1

    (rgb,), sink = pictures(rng, HW), ListSink()
    run_source(bundle, ListSource([rgb]), [sink], steps=[double, more])
    np.testing.assert_allclose(sink.got[0][1], 2 * plain_depth(rgb) + 1, atol=1e-5)
    assert sink.facts == {"doubled": 0}


def test_an_engine_that_fails_again_when_it_closes_does_not_hang(bundle, rng, monkeypatch):
    def fail(self, *given):
        raise E2EDeployError("the GPU reports CUDA_ERROR_ILLEGAL_ADDRESS")

    def fail_again(self):
        raise E2EDeployError("the GPU reports it again")

    monkeypatch.setattr(Engine, "collect", fail)
    monkeypatch.setattr(Engine, "close", fail_again)
    sink = ListSink()
    with pytest.raises(E2EDeployError, match="ILLEGAL_ADDRESS"):
        run_source(bundle, ListSource(pictures(rng, HW)), [sink])
    assert sink.closed == 1


def test_what_is_unknown_is_counted(bundle, rng):
    def half_and_then_all(frame, result, facts):
        result = result.copy()
        result[: None if frame.index else HW[0] // 2] = np.nan if frame.index else np.inf
        if frame.index:
            facts["metric_fit"] = {"failed": f"too few points in frame {frame.index}"}
        return result

    report = run_source(
        bundle, ListSource(pictures(rng, HW, HW, HW)), [ListSink()], steps=[half_and_then_all]
    )
    assert (report.pixels, report.unknown_pixels) == (3 * HW[0] * HW[1], 5 * HW[0] * HW[1] // 2)
    assert (report.frames, report.unknown_results) == (3, 2)
    assert (report.failed_steps, report.failed_step) == (2, "too few points in frame 1")
