"""Frames and results in a GPU's memory: nothing is copied, on the doubles and, where a GPU is, for real."""

import gc
from types import SimpleNamespace

import numpy as np
import pytest

import e2e_deploy as e2e
from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.runtime.backends.dlpack import CUDA, RawArray
from e2e_deploy.runtime.backends.gpu.transfers import Count
from e2e_deploy.runtime.backends.onnxruntime.backend import OrtBackend
from e2e_deploy.runtime.engine import Engine
from tests.fake_cuda import FakeDriver
from tests.plain_bundle import HW, plain_depth, write_plain_bundle
from tests.runtime.fake_plans import add_plan, frames, load
from tests.runtime.packages import add_fake_package, load_on_gpu

OUT_BYTES = HW[0] * HW[1] * 4


class OnGpu:
    """An array in the double's memory, of a library that knows DLPack 1.0 or none of its wishes."""

    def __init__(self, driver, array, *, index=0, offset=0, shape=None, is_new=True):
        self.address = driver.allocate(array.nbytes)
        driver.memory[self.address][:] = np.ascontiguousarray(array).view(np.uint8).ravel()
        self.shape, self.dtype = shape or array.shape, str(array.dtype)
        self.index, self.offset, self.is_new, self.streams = index, offset, is_new, []

    def __dlpack_device__(self):
        return CUDA, self.index

    def __dlpack__(self, *, stream, **wishes):
        if wishes and not self.is_new:
            raise TypeError("unexpected keyword argument 'max_version'")
        self.streams.append(stream)
        address = self.address + self.offset
        return RawArray(address, self.shape, self.dtype, (CUDA, self.index)).__dlpack__()


class FakeSession:
    """Of ONNX Runtime, on the double's memory; writes down what is bound and when it waits."""

    def __init__(self, driver):
        self.driver, self.calls = driver, []

    def io_binding(self):
        return self

    def bind_input(self, *given):
        self.calls.append(("in", *given))

    def bind_output(self, *given):
        self.calls.append(("out", *given))

    def synchronize_inputs(self):
        self.calls.append(("wait for inputs",))

    def synchronize_outputs(self):
        self.calls.append(("wait for outputs",))

    def run_with_iobinding(self, bound, options):
        (*_, shape, source), (*_, into) = self.calls[0], self.calls[1]
        self.calls.append(("run",))
        frame = self.driver.memory[source].reshape(shape)
        depth = plain_depth(frame).astype(np.float32)
        self.driver.memory[into][:] = depth.view(np.uint8).ravel()


def ort_engine(root, driver, index=0):
    """An engine of ONNX Runtime whose GPU is the double."""
    bundle = open_bundle(root)
    backend = OrtBackend(bundle, bundle.manifest.graphs[0], "cpu")

    def allocate(shape, dtype, device, number):
        assert (dtype, device, number) == (np.float32, "cuda", index)
        address = driver.allocate(int(np.prod(shape)) * 4)
        return SimpleNamespace(data_ptr=lambda: address)

    backend._ort = SimpleNamespace(
        RunOptions=SimpleNamespace,
        OrtValue=SimpleNamespace(ortvalue_from_shape_and_type=allocate),
        **{name: getattr(backend._ort, name) for name in ("OrtArenaCfg", "OrtMemoryInfo")},
    )
    backend._session, backend.gpu = FakeSession(driver), index
    return Engine(bundle, bundle.manifest.graphs[0], backend, "a double")


LOADERS = {"tensorrt": load, "inductor": load_on_gpu}
ADD = {"tensorrt": add_plan, "inductor": add_fake_package}


def plan_engine(name, root, driver):
    """An engine of a plan of the doubles."""
    bundle = open_bundle(root)
    return Engine(bundle, bundle.manifest.graphs[0], LOADERS[name](root, driver), "a double")


def runs(name, frame, result, stream):
    """What the double is called with for one run of a plan."""
    if name == "inductor":
        return [("run_package", frame, result, stream)]
    return [
        ("set_tensor_address", "frame", frame),
        ("set_tensor_address", "depth", result),
        ("execute", stream),
    ]


def value(driver, array):
    return driver.memory[array.address].view(np.float32).reshape(array.shape)


@pytest.mark.parametrize("is_new", [True, False])
def test_onnx_runtime_binds_the_callers_memory(root, rng, is_new):
    driver, picture = FakeDriver(), frames(rng)[0]
    engine = ort_engine(root, driver, index=1)
    given = OnGpu(driver, picture, index=1, is_new=is_new)
    out = OnGpu(driver, np.zeros(HW, np.float32), index=1)
    driver.calls.clear()
    assert engine(given, out=out) is out
    assert driver.calls == []  # nothing was allocated or copied
    session = engine.backend._session
    takes, gives, *order = session.calls
    assert takes == ("in", "frame", "cuda", 1, np.uint8, [1, *HW, 3], given.address)
    assert gives == ("out", "depth", "cuda", 1, np.float32, [1, *HW], out.address)
    assert order == [("wait for inputs",), ("run",), ("wait for outputs",)]
    assert given.streams == [1]  # CUDA's default one, which the wait for inputs is for
    np.testing.assert_allclose(value(driver, out), plain_depth(picture), rtol=1e-6)
    session.calls.clear()
    result = engine(given)
    assert isinstance(result, RawArray)
    assert (result.shape, result.device) == (HW, (CUDA, 1))
    np.testing.assert_allclose(value(driver, result), plain_depth(picture), rtol=1e-6)


@pytest.mark.parametrize("name", LOADERS)
class TestPlans:
    @pytest.fixture(autouse=True)
    def plan(self, root, name):
        ADD[name](root)

    def test_the_plan_runs_on_the_callers_memory(self, root, rng, name):
        driver, picture = FakeDriver(), frames(rng)[0]
        with plan_engine(name, root, driver) as engine:
            given, out = OnGpu(driver, picture), OnGpu(driver, np.zeros(HW, np.float32))
            driver.calls.clear()
            assert engine(given, out=out) is out
            stream = engine.backend.stream
            assert driver.calls == [
                ("use",),
                *runs(name, given.address, out.address, stream),
                ("synchronise", stream),
            ]
            assert given.streams == [stream]
            np.testing.assert_allclose(value(driver, out), plain_depth(picture), rtol=1e-6)
            assert set(engine.backend.transfers.counts.values()) == {Count()}
            # The slots' own memory is bound again for frames of the host.
            other = frames(rng)[1]
            np.testing.assert_allclose(engine(other), plain_depth(other), rtol=1e-6)

    def test_a_result_outlives_its_engine_and_is_freed_with_its_last_user(self, root, rng, name):
        driver, picture = FakeDriver(), frames(rng)[0]
        with plan_engine(name, root, driver) as engine:
            given = OnGpu(driver, picture)
            driver.calls.clear()
            result = engine(given)
            assert ("allocate", OUT_BYTES) in driver.calls
        assert set(driver.live) == {given.address, result.address}
        np.testing.assert_allclose(value(driver, result), plain_depth(picture), rtol=1e-6)
        capsule = result.__dlpack__()
        del result
        gc.collect()
        assert len(driver.live) == 2
        del capsule
        gc.collect()
        assert set(driver.live) == {given.address}
        assert driver.names()[-2:] == ["free", "close"]

    def test_frames_on_their_way_are_not_disturbed(self, root, rng, name):
        driver = FakeDriver()
        first, second = frames(rng, 2)
        with plan_engine(name, root, driver) as engine:
            slot = engine.submit(first)
            result = engine(OnGpu(driver, second))
            np.testing.assert_allclose(value(driver, result), plain_depth(second), rtol=1e-6)
            np.testing.assert_allclose(engine.collect(slot), plain_depth(first), rtol=1e-6)

    def test_a_call_into_an_engine_that_is_full_is_wrong_usage(self, root, rng, name):
        first, second, third = frames(rng, 3)
        with plan_engine(name, root, FakeDriver()) as engine:
            slots = [engine.submit(first), engine.submit(second)]
            for call in (engine, lambda frame: engine.predict(frame[:20])):
                with pytest.raises(e2e.UsageError, match="2 frames are on .*: collect one first"):
                    call(third)
            for slot, frame in zip(slots, (first, second), strict=True):
                np.testing.assert_allclose(engine.collect(slot), plain_depth(frame), rtol=1e-6)
            np.testing.assert_allclose(engine(third), plain_depth(third), rtol=1e-6)

    def test_a_gpu_that_fails_says_so_again_and_again(self, root, rng, name):
        driver = FakeDriver()
        with plan_engine(name, root, driver) as engine:
            driver.fails["wait"] = "the GPU reports CUDA_ERROR_ILLEGAL_ADDRESS"
            for frame in frames(rng, 4):
                with pytest.raises(e2e.E2EDeployError, match="ILLEGAL_ADDRESS"):
                    engine(frame)
            driver.fails.clear()

    def test_an_array_of_a_known_library_comes_back_as_one(self, root, rng, name):
        driver = FakeDriver()
        with plan_engine(name, root, driver) as engine:
            given = OnGpu(driver, frames(rng)[0])
            given.__array_namespace__ = lambda: SimpleNamespace(
                from_dlpack=lambda raw: ("mine", raw)
            )
            mine, result = engine(given)
            assert mine == "mine"
            assert result.__dlpack_device__() == (CUDA, 0)

    def test_what_it_does_not_take(self, root, rng, name):
        driver = FakeDriver()
        picture = frames(rng)[0]
        with plan_engine(name, root, driver) as engine:
            good = OnGpu(driver, picture)
            for frame, out, why in (
                (OnGpu(driver, picture, index=1), None, "on cuda:1, .* takes arrays of the host and of cuda:0"),
                (OnGpu(driver, picture, offset=64), None, "the frame starts at .* takes multiples of 256"),
                (OnGpu(driver, picture, shape=(32, 24, 3)), None, "the frame is 32x24"),
                (OnGpu(driver, picture.astype(np.float32)), None, "given: float32"),
                (good, np.zeros(HW, np.float32), "the frame is on cuda:0 and `out` on the host"),
                (good, OnGpu(driver, np.zeros(HW)), "`out` is float64"),
                (good, OnGpu(driver, np.zeros(HW, np.float32), offset=4), "`out` starts at"),
                (good, OnGpu(driver, np.zeros(HW, np.float32), index=1), "`out` on cuda:1"),
            ):  # fmt: skip
                with pytest.raises(e2e.UsageError, match=why) as caught:
                    engine(frame, out=out)
                assert "\n" not in str(caught.value)
            with pytest.raises(e2e.UsageError, match="takes frames of the host"):
                engine.submit(good)

    def test_no_room_for_a_result(self, root, rng, name):
        driver = FakeDriver()
        with plan_engine(name, root, driver) as engine:
            given = OnGpu(driver, frames(rng)[0])
            driver.fails["allocate"] = "the GPU reports CUDA_ERROR_OUT_OF_MEMORY"
            with pytest.raises(e2e.E2EDeployError, match="OUT_OF_MEMORY"):
                engine(given)
            assert driver.names()[-1] == "close"  # the second hold on the GPU is gone


@pytest.mark.parametrize("name", LOADERS)
def test_several_frames_at_once(tmp_path, rng, name):
    root = write_plain_bundle(tmp_path / "b", batch=2)
    ADD[name](root)
    driver, pair = FakeDriver(), frames(rng, 2)
    with plan_engine(name, root, driver) as engine:
        np.testing.assert_allclose(engine(pair), plain_depth(pair), rtol=1e-6)
        result = engine(OnGpu(driver, pair))
        assert result.shape == (2, *HW)
        np.testing.assert_allclose(value(driver, result), plain_depth(pair), rtol=1e-6)


def check_for_real(engine, rng):
    """With PyTorch's tensors on the GPU, whose work may not be finished when the engine is called."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    pictures = frames(rng, 4)
    on_gpu = torch.from_numpy(pictures).cuda()
    out = torch.empty(HW, device="cuda")
    for picture, tensor in zip(pictures, on_gpu, strict=True):
        tensor = tensor.flip(0).flip(0).contiguous()
        result = engine(tensor)
        assert result.is_cuda
        np.testing.assert_allclose(result.cpu(), plain_depth(picture), atol=1e-5)
        assert engine(tensor, out=out) is out
        np.testing.assert_allclose(out.cpu(), plain_depth(picture), atol=1e-5)
        np.testing.assert_allclose(engine(picture), plain_depth(picture), atol=1e-5)
    with pytest.raises(e2e.UsageError, match="not C-contiguous"):
        engine(on_gpu[0].flip(0).permute(1, 0, 2)[:24])


@pytest.mark.gpu
def test_onnx_runtime_for_real(root, rng):
    with e2e.load(root, backend="onnxruntime", device="cuda:0") as engine:
        check_for_real(engine, rng)


@pytest.mark.gpu
@pytest.mark.trt
def test_tensorrt_for_real(root, rng):
    from tests.small_graphs import drop_unread

    drop_unread(root)
    e2e.rebuild_plans(root, backend="tensorrt")
    with e2e.load(root, backend="tensorrt", device="cuda:0") as engine:
        check_for_real(engine, rng)


@pytest.mark.gpu
def test_inductor_for_real(root, rng, compiled):
    compiled(root, "cuda")
    with e2e.load(root, backend="inductor", device="cuda:0") as engine:
        check_for_real(engine, rng)


@pytest.mark.gpu
def test_a_gpu_that_is_not_here(root):
    with pytest.raises(e2e.UnavailableError, match="cuda:97 was asked for, and this machine has"):
        e2e.load(root, backend="onnxruntime", device="cuda:97")
