import numpy as np
import pytest

import e2e_deploy as e2e
from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.errors import BundleError, UnavailableError, UsageError
from e2e_deploy.nvidia.hardware import cuda_device_count
from tests.plain_bundle import HW, NOTE, plain_depth, plain_normals, write_plain_bundle


@pytest.fixture
def bundle(tmp_path):
    return write_plain_bundle(tmp_path / "bundle")


@pytest.fixture
def frame(rng):
    return rng.integers(0, 256, (*HW, 3), dtype=np.uint8)


def test_five_lines(bundle, frame):
    with e2e.load(bundle) as engine:
        depth = engine(frame)
    assert (depth.dtype, depth.shape) == (np.float32, HW)
    np.testing.assert_allclose(depth, plain_depth(frame), atol=1e-6)


def test_normals_keep_their_three_channels(tmp_path, frame):
    with e2e.load(write_plain_bundle(tmp_path / "n", task="normals")) as engine:
        np.testing.assert_allclose(engine(frame), plain_normals(frame), atol=1e-6)


def test_it_says_what_it_runs_and_why(bundle):
    with e2e.load(str(bundle)) as engine:
        assert engine.frame_size == HW
        assert engine.manifest.checkpoint.note == NOTE
        assert engine.describe().startswith("onnxruntime (C")
        assert engine.describe().endswith("the bundle has no plan for this frame size)")
    with e2e.load(open_bundle(bundle), backend="onnxruntime", device="cpu") as engine:
        assert "CPU" in engine.backend.device
        assert engine.reason == "named by you"


def test_views_of_larger_pictures_are_frames_too(bundle, frame):
    wide = np.concatenate([frame, frame], axis=1)
    views = (wide[:, ::2], frame[::-1, ::-1], frame[..., ::-1], np.asfortranarray(frame))
    with e2e.load(bundle) as engine:
        for view in views:
            np.testing.assert_allclose(engine(view), plain_depth(view), atol=1e-6)


def test_a_result_is_the_callers_own(bundle, frame):
    with e2e.load(bundle) as engine:
        first = engine(frame)
        kept = first.copy()
        engine(255 - frame)
        np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("shape", [(25, 32, 3), (32, 24, 3), (24, 32, 4), (24, 32), (2, 24, 32, 3)])
def test_another_size_or_layout_is_wrong_usage(bundle, shape):
    with e2e.load(bundle) as engine, pytest.raises(UsageError, match="frame"):
        engine(np.zeros(shape, np.uint8))


def test_another_dtype_is_wrong_usage(bundle):
    with e2e.load(bundle) as engine, pytest.raises(UsageError, match="given: float32"):
        engine(np.zeros((*HW, 3), np.float32))


def test_several_sizes_in_one_bundle(tmp_path, rng):
    bundle = write_plain_bundle(tmp_path / "b", sizes=[HW, (48, 40)])
    for size in (HW, (48, 40)):
        frame = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        with e2e.load(bundle, frame_size=list(size)) as engine:  # as JSON has them
            np.testing.assert_allclose(engine(frame), plain_depth(frame), atol=1e-6)
    with pytest.raises(UsageError, match="24x32, 48x40"):
        e2e.load(bundle, frame_size=(10, 10))


def test_predict_takes_any_size(bundle, rng):
    with e2e.load(bundle) as engine:
        for height, width in ((48, 64), (30, 90), (20, 20), HW):
            picture = np.full((height, width, 3), 51, np.uint8)
            depth = engine.predict(picture)
            assert depth.shape == (height, width)
            np.testing.assert_allclose(depth, 0.2, atol=1e-6)
        with pytest.raises(UsageError, match="at least 16 px"):
            engine.predict(np.zeros((1, 1, 3), np.uint8))
        with pytest.raises(UsageError, match="uint8 RGB"):
            engine.predict(np.zeros((48, 64), np.uint8))


def test_an_unknown_backend_or_device(bundle):
    with pytest.raises(UsageError, match="the backends are auto, onnxruntime, openvino"):
        e2e.load(bundle, backend="ncnn")
    with pytest.raises(UsageError, match="the devices are auto, cpu, cuda"):
        e2e.load(bundle, device="tpu")


def test_no_silent_change_to_the_cpu(bundle, monkeypatch):
    monkeypatch.setattr(
        "e2e_deploy.runtime.backends.onnxruntime.provider.cuda_device_count", lambda: 0
    )
    with pytest.raises(UnavailableError, match='no CUDA device; use `device="cpu"`'):
        e2e.load(bundle, device="cuda")


@pytest.mark.gpu
def test_cuda(bundle, frame):
    assert cuda_device_count() > 0
    with e2e.load(bundle, device="cuda") as engine:
        assert engine.backend.device == "CUDA"
        np.testing.assert_allclose(engine(frame), plain_depth(frame), atol=1e-5)


def test_not_a_bundle(tmp_path):
    with pytest.raises(BundleError, match="is not a bundle"):
        e2e.load(tmp_path)


def test_closing_twice_does_nothing(bundle):
    engine = e2e.load(bundle)
    engine.close()
    engine.close()
