"""What an engine is given and gives back: NumPy's arrays and those of other libraries, on the host."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

import e2e_deploy as e2e
from e2e_deploy.runtime.backends.dlpack import RawArray
from tests.plain_bundle import HW, plain_depth, plain_normals, write_plain_bundle

FULL_HD = (1080, 1920)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with e2e.load(write_plain_bundle(tmp_path_factory.mktemp("b") / "one"), device="cpu") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """An engine that takes two frames at once."""
    root = write_plain_bundle(tmp_path_factory.mktemp("b") / "two", task="normals", batch=2)
    with e2e.load(root, device="cpu") as loaded:
        yield loaded


@pytest.fixture
def frame(rng):
    return rng.integers(0, 256, (*HW, 3), dtype=np.uint8)


@pytest.fixture
def bound(monkeypatch):
    """The addresses that ONNX Runtime reads frames from and writes results to."""
    found = []
    for name in ("bind_input", "bind_output"):
        real = getattr(onnxruntime.IOBinding, name)

        def bind(self, *given, real=real):
            found.append(given[-1])
            return real(self, *given)

        monkeypatch.setattr(onnxruntime.IOBinding, name, bind)
    return found


class Foreign:
    """An array of a library of which nothing is known but that it speaks DLPack."""

    def __init__(self, array, device=(1, 0), **facts):
        self.array, self.device = array, device
        self.__dict__.update(facts)

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, *, stream=None):
        return self.array.__dlpack__()


def test_torch_gets_torch_and_nothing_is_copied(engine, frame, bound):
    torch = pytest.importorskip("torch")
    given, out = torch.from_numpy(frame), torch.empty(HW)
    result = engine(given)
    assert isinstance(result, torch.Tensor)
    assert bound == [given.data_ptr(), result.data_ptr()]
    np.testing.assert_allclose(result.numpy(), plain_depth(frame), atol=1e-6)
    assert engine(given, out=out) is out
    assert bound[2:] == [given.data_ptr(), out.data_ptr()]
    np.testing.assert_array_equal(out, result)
    slot = engine.submit(given)
    assert isinstance(engine.collect(slot), torch.Tensor)
    assert engine.predict(torch.zeros(50, 40, 3, dtype=torch.uint8)).shape == (50, 40)


def test_a_frame_of_full_hd_is_not_copied(tmp_path, bound):
    frame, out = np.full((*FULL_HD, 3), 51, np.uint8), np.empty(FULL_HD, np.float32)
    with e2e.load(write_plain_bundle(tmp_path / "b", sizes=[FULL_HD]), device="cpu") as engine:
        tracemalloc.start()
        try:
            assert engine(frame, out=out) is out
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert bound == [frame.ctypes.data, out.ctypes.data]
    assert most < frame.nbytes / 100
    np.testing.assert_allclose(out, 0.2, atol=1e-6)


def test_an_array_of_a_library_without_a_way_back_gives_numpy(engine, frame):
    result = engine(Foreign(frame))
    assert isinstance(result, np.ndarray)
    np.testing.assert_allclose(result, plain_depth(frame), atol=1e-6)


def test_a_library_of_the_array_api_is_asked_for_its_own(engine, frame):
    library = SimpleNamespace(from_dlpack=lambda array: ("mine", array))
    name, result = engine(Foreign(frame, __array_namespace__=lambda: library))
    assert name == "mine"
    np.testing.assert_allclose(result, plain_depth(frame), atol=1e-6)


def test_one_frame_comes_back_as_it_was_given(engine, frame):
    assert engine(frame).shape == HW
    assert engine(frame[None]).shape == (1, *HW)
    np.testing.assert_array_equal(engine(frame[None])[0], engine(frame))
    np.testing.assert_array_equal(engine.collect(engine.submit(frame[None]))[0], engine(frame))


def test_several_frames_at_once(pairs, rng):
    frames = rng.integers(0, 256, (2, *HW, 3), dtype=np.uint8)
    assert pairs.batch == 2
    for result in (pairs(frames), pairs.collect(pairs.submit(frames)), pairs.predict(frames)):
        np.testing.assert_allclose(result, plain_normals(frames), atol=1e-6)
    larger = np.stack([np.full((60, 80, 3), value, np.uint8) for value in (0, 255)])
    results = pairs.predict(larger)
    assert results.shape == (2, 60, 80, 3)
    np.testing.assert_allclose(results[0], -results[1], atol=1e-6)


def test_another_number_of_frames_is_wrong_usage(engine, pairs, frame):
    with pytest.raises(e2e.UsageError, match=r"takes 2 frames at once, uint8 RGB \[2, H, W, 3\]"):
        pairs(frame)
    with pytest.raises(
        e2e.UsageError, match="3 frames were given .* takes 2; export with `batch=3`"
    ):
        pairs(np.stack([frame] * 3))
    with pytest.raises(e2e.UsageError, match="2 frames were given .* takes 1"):
        engine(np.stack([frame] * 2))
    with pytest.raises(e2e.UsageError, match="takes 2 frames at once"):
        pairs.predict(np.zeros((60, 80, 3), np.uint8))


def read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("out", "why"),
    [
        (np.empty(HW, np.float64), "`out` is float64"),
        (np.empty(HW, ">f4"), "`out` is >f4"),
        (np.empty(HW, bool), "`out` is bool"),
        (
            np.empty((1, *HW), np.float32),
            r"`out` is float32 \[1, 24, 32\]; the result is float32 \[24",
        ),
        (np.empty((0, 32), np.float32), r"`out` is float32 \[0, 32\]"),
        (np.empty((24, 64), np.float32)[:, ::2], "`out` is not C-contiguous"),
        (np.empty(HW, np.float32)[::-1], "`out` is not C-contiguous"),
        (np.ndarray(HW, np.float32, bytearray(24 * 32 * 4 + 1), 1), "and aligned"),
        (read_only(np.empty(HW, np.float32)), "`out` is read-only"),
        ([[0.0] * 32] * 24, "`out` .* given: list"),
    ],
)
def test_an_out_that_cannot_be_written_to(engine, frame, out, why):
    with pytest.raises(e2e.UsageError, match=why):
        engine(frame, out=out)


def test_an_out_of_another_library_that_cannot_be_written_to(engine, frame):
    torch = pytest.importorskip("torch")
    for out, why in (
        (torch.empty(HW, dtype=torch.float64), "`out` is float64"),
        (torch.empty(32, 24).T, "`out` is not C-contiguous"),
        (torch.empty(HW, requires_grad=True), "`out` cannot be taken over through DLPack"),
        (Foreign(read_only(np.empty(HW, np.float32))), "`out` cannot be taken over"),
    ):
        with pytest.raises(e2e.UsageError, match=why) as caught:
            engine(frame, out=out)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (np.zeros((*HW, 3), bool), "given: bool"),
        (np.zeros((*HW, 3), ">u2"), "given: >u2"),
        (np.zeros((0, 32, 3), np.uint8), "the frame is 0x32"),
        ("photo.jpg", "given: str"),
        (None, "given: NoneType"),
        (Foreign(None, (8, 0)), "DLPack's kind 8"),
        (Foreign(None), "cannot be taken over through DLPack"),
        (Foreign(None, (2, 0)), "on cuda:0, and onnxruntime on CPU, .* takes arrays of the host"),
    ],
)
def test_what_is_no_frame(engine, frame, why):
    with pytest.raises(e2e.UsageError, match=why) as caught:
        engine(frame)
    assert "\n" not in str(caught.value)


def test_a_tensor_that_is_nowhere(engine):
    torch = pytest.importorskip("torch")
    with pytest.raises(e2e.UsageError, match="the frame cannot be taken over through DLPack"):
        engine(torch.empty(*HW, 3, dtype=torch.uint8, device="meta"))


def test_a_frame_and_its_out_in_two_places(engine, frame):
    out = RawArray(0x1000, HW, "float32", (2, 1))
    with pytest.raises(e2e.UsageError, match="the frame is on the host and `out` on cuda:1"):
        engine(frame, out=out)
    with pytest.raises(e2e.UsageError, match=r"engine\.submit takes frames of the host"):
        engine.submit(out)
    with pytest.raises(e2e.UsageError, match=r"engine\.predict resizes on the host"):
        engine.predict(out)


def test_a_read_only_frame_is_read(engine, frame):
    np.testing.assert_allclose(engine(read_only(frame)), plain_depth(frame), atol=1e-6)
