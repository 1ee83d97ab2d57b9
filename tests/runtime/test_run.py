"""``e2e.run``: what may be asked of a run, and what is refused before anything begins."""

import threading

import cv2
import numpy as np
import pytest

import e2e_deploy as e2e
from e2e_deploy.runtime import loop
from e2e_deploy.runtime.camera.intrinsics import Intrinsics
from e2e_deploy.runtime.checks import parity_watch
from e2e_deploy.runtime.sinks.sink import CallbackSink
from e2e_deploy.runtime.sources.pattern import PatternSource
from tests.plain_bundle import HW, plain_depth, plain_normals, write_plain_bundle


@pytest.fixture
def bundle(tmp_path):
    return write_plain_bundle(tmp_path / "bundle")


@pytest.fixture
def normals(tmp_path):
    return write_plain_bundle(tmp_path / "normals", task="normals")


@pytest.fixture
def photo(tmp_path, rng):
    rgb = rng.integers(0, 256, (*HW, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "photo.png"), rgb[..., ::-1])
    return tmp_path / "photo.png", rgb


def kept(results):
    return CallbackSink(lambda frame, result, facts: results.append((frame, result, facts)))


def test_a_picture_into_a_file_and_a_sink_of_ones_own(bundle, photo, tmp_path):
    results = []
    out = tmp_path / "depth.npy"
    report = e2e.run(photo[0], bundle, out=out, sinks=[kept(results)])
    np.testing.assert_allclose(np.load(out), plain_depth(photo[1]), atol=1e-6)
    np.testing.assert_array_equal(results[0][1], np.load(out))
    assert report.files == [out, tmp_path / "depth.npy.json"]
    assert (report.frames, report.complete, report.note) == (1, True, "untrained weights")


def test_with_a_sink_of_ones_own_nothing_is_written(bundle, photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    assert e2e.run(photo[0], bundle, sinks=[kept([])]).files == []
    assert set(tmp_path.iterdir()) == before
    assert len(e2e.run(photo[0], bundle, formats="npy").files) == 2
    assert (tmp_path / "depth-out" / "photo_depth.npy").exists()


def test_an_engine_that_is_loaded_stays_open(bundle, rng):
    results = []
    with e2e.load(bundle) as engine:
        for _ in range(2):
            e2e.run(PatternSource(*HW, fps=0, total=3), engine, sinks=[kept(results)])
        rgb = rng.integers(0, 256, (*HW, 3), dtype=np.uint8)
        np.testing.assert_allclose(engine(rgb), plain_depth(rgb), atol=1e-6)
        with pytest.raises(e2e.UsageError, match="`backend` and `device` have no effect on an Eng"):
            e2e.run(PatternSource(*HW, fps=0, total=3), engine, backend="torch", sinks=[kept([])])
    assert len(results) == 6


def test_normals_in_optical_axes(normals, photo):
    results = []
    e2e.run(photo[0], normals, sinks=[kept(results)], axes="optical")
    (_, result, facts), (x, y, z) = results[0], np.moveaxis(plain_normals(photo[1]), 2, 0)
    np.testing.assert_allclose(result, np.stack([x, -y, -z], axis=2), atol=1e-6)
    assert facts["axes"] == "x right, y down, z forward"


def test_points_as_an_array_give_metres(bundle, photo):
    truth, results = 1 + 9 * plain_depth(photo[1]), []
    points = [(u, v, truth[v, u]) for v in range(HW[0]) for u in range(0, HW[1], 4)]
    e2e.run(photo[0], bundle, sinks=[kept(results)], metric_points=points)
    np.testing.assert_allclose(results[0][1], truth, rtol=1e-4)


def test_the_report_comes_before_the_first_frame_and_after_each(bundle):
    seen = []
    source = PatternSource(*HW, fps=0, total=3)
    e2e.run(source, bundle, sinks=[kept([])], on_frame=lambda report: seen.append(report.frames))
    assert seen == [0, 1, 2, 3]


CAMERA = Intrinsics(20, 20, 16, 4)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"colormap": "jet"}, "unknown colour map 'jet'"),
        ({"axes": "ros"}, "unknown `axes` 'ros'; the axes are camera, optical"),
        ({"formats": ["tiff"]}, "unknown `formats` tiff"),
        ({"decode": "tpu"}, "unknown decoder 'tpu'"),
        ({"parity": "panic", "parity_every": 1}, "unknown `parity` 'panic'; it is warn or strict"),
        ({"limit": 0}, "`limit` must be 1 or more, not 0"),
        ({"parity_every": -1}, "`parity_every` must be 1 or more, not -1"),
        ({"backend": "tpu"}, "unknown backend 'tpu'"),
        ({"axes": "optical"}, "`axes` is for normals; depth has no directions"),
        ({"intrinsics": CAMERA}, "`intrinsics` has no effect here"),
        ({"camera_pitch_deg": 3.0}, "`camera_pitch_deg` needs `camera_height_m`"),
        ({"camera_height_m": 3.0}, "`camera_height_m` needs `intrinsics`"),
        ({"parity": "warn"}, '`parity="warn"` needs `parity_every`'),
        ({"formats": "npy"}, "`formats` needs `out`"),
        ({"colormap": "turbo"}, '`colormap="turbo"` has no effect'),
        ({"side_by_side": True}, "`side_by_side` needs `out` with a path ending in .mp4"),
        ({"timeout_s": 3.0}, "`timeout_s` is for streams, and "),
        ({"reconnect_s": 3.0}, "`reconnect_s` is for streams and cameras, and "),
        ({"checkpoint": "x"}, "`checkpoint` is what PyTorch opens"),
        ({"steady": True}, "`steady` is for videos and cameras"),
    ],
)
def test_what_is_refused(bundle, photo, asked, said):
    results = []
    with pytest.raises(e2e.UsageError, match=said):
        e2e.run(photo[0], bundle, sinks=[kept(results)], **asked)
    assert results == []


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"metric_points": [[1.0, 2.0]]},
            r"rows of column, row and metres, \[N, 3\], not \[1, 2\]",
        ),
        (
            {"camera_height_m": -1.2, "intrinsics": CAMERA},
            "`camera_height_m` is -1.2; expected met",
        ),
        ({"camera_height_m": float("nan"), "intrinsics": CAMERA}, "`camera_height_m` is nan"),
        (
            {"camera_height_m": 1.2, "camera_pitch_deg": float("inf"), "intrinsics": CAMERA},
            "`camera_pitch_deg` is inf; expected degrees",
        ),
    ],
)
def test_what_gives_no_metres_is_refused_before_an_engine_is_loaded(
    bundle, photo, monkeypatch, asked, said
):
    monkeypatch.setattr(loop, "load", lambda *_, **__: pytest.fail("an engine was loaded"))
    with pytest.raises(e2e.UsageError, match=said):
        e2e.run(photo[0], bundle, sinks=[kept([])], **asked)


@pytest.mark.timeout(60)
def test_two_sinks_of_the_main_thread_are_refused(bundle):
    """The second one would wait for the end of the first, and a file for both."""
    windows = [kept([]), kept([])]
    for index, window in enumerate(windows):
        window.name, window.on_main_thread = f"window {index}", True
    for asked in ({"sinks": windows}, {"sinks": windows[1:], "show": True}):
        with pytest.raises(e2e.UsageError, match="window .* each need the main thread"):
            e2e.run(PatternSource(*HW, fps=0, total=9), bundle, **asked)


def test_options_of_opening_have_no_effect_on_an_open_source(bundle):
    with pytest.raises(e2e.UsageError, match="`timeout_s`, `reconnect_s` and `decode` have no eff"):
        e2e.run(PatternSource(*HW, fps=0, total=3), bundle, sinks=[kept([])], reconnect_s=3.0)


@pytest.fixture
def pairs(tmp_path):
    return write_plain_bundle(tmp_path / "pairs", batch=2)


@pytest.mark.parametrize("count", [1, 4, 5])
def test_frames_go_in_batches_and_come_out_one_by_one(pairs, tmp_path, rng, count):
    folder, results = tmp_path / "photos", []
    folder.mkdir()
    pictures = rng.integers(0, 256, (count, *HW, 3), dtype=np.uint8)
    for index, rgb in enumerate(pictures):
        cv2.imwrite(str(folder / f"{index}.png"), rgb[..., ::-1])
    report = e2e.run(folder, pairs, sinks=[kept(results)], parity_every=1)
    assert (report.frames, report.latency.count, report.parity.outside) == (count, count, 0)
    assert [frame.name for frame, _, _ in results] == [str(index) for index in range(count)]
    for rgb, (_, result, _) in zip(pictures, results, strict=True):
        np.testing.assert_allclose(result, plain_depth(rgb), atol=1e-6)
    results.clear()
    assert e2e.run(folder, pairs, sinks=[kept(results)], limit=1).frames == len(results) == 1


def test_a_live_frame_does_not_wait_for_others(pairs):
    with pytest.raises(e2e.UsageError, match=r"is live, so its frames go one by one.* 2 at once"):
        e2e.run("test:", pairs, sinks=[kept([])])


@pytest.fixture
def referenced(monkeypatch):
    """ONNX Runtime in the place of PyTorch; what it is loaded with."""
    loaded = []

    def load(bundle, *, backend, frame_size):
        loaded.append((bundle.checkpoint, backend))
        return e2e.load(bundle, device="cpu", frame_size=frame_size)

    monkeypatch.setattr(parity_watch, "load", load)
    return loaded


@pytest.mark.parametrize("is_loaded", [False, True])
def test_the_checkpoint_that_is_named_is_the_reference(bundle, photo, referenced, is_loaded):
    given = e2e.load(bundle, device="cpu") if is_loaded else bundle
    report = e2e.run(photo[0], given, checkpoint="mine", parity_every=1, sinks=[kept([])])
    assert referenced == [("mine", "torch")]
    assert (report.parity.live, report.parity.no_live) == (1, "")
    if is_loaded:
        given.close()


def test_a_run_that_fails_leaves_no_watch_behind(bundle, photo, referenced):
    def fail(*_):
        raise e2e.E2EDeployError("the disk is full")

    before = set(threading.enumerate())
    with pytest.raises(e2e.E2EDeployError, match="disk is full"):
        e2e.run(photo[0], bundle, parity_every=1, sinks=[e2e.CallbackSink(fail)])
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    assert set(threading.enumerate()) <= before
