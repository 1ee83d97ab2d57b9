import ctypes

import numpy as np
import pytest

from e2e_deploy.errors import E2EDeployError, UnavailableError
from e2e_deploy.nvidia import cuda_driver
from e2e_deploy.nvidia.cuda_driver import CudaDriver, Gpu
from e2e_deploy.nvidia.hardware import cuda_device_count


class FakeBindings:
    """cuda.bindings.driver: every call is written down; the constants are those of the real module."""

    def __init__(self):
        real = pytest.importorskip("cuda.bindings.driver", reason="cuda-python is not installed")
        self.CUresult = real.CUresult
        self.CUdevice_attribute = real.CUdevice_attribute
        self.CUstream_flags = real.CUstream_flags
        self.CUevent_flags = real.CUevent_flags
        self.CUstreamCaptureMode = real.CUstreamCaptureMode
        self.calls = []
        self.fails, self.raises = {}, {}
        self.host = (ctypes.c_uint8 * 64)()

    def _answers(self):
        return {
            "cuDeviceGet": 0,
            "cuDevicePrimaryCtxRetain": "context",
            "cuCtxGetCurrent": "of somebody else",
            "cuDeviceGetName": b"NVIDIA  Test\0\0\0",
            "cuDriverGetVersion": 13010,
            "cuStreamCreate": 7,
            "cuMemAlloc": 0x7F00,
            "cuMemAllocHost": ctypes.addressof(self.host),
            "cuEventCreate": "event",
            "cuStreamEndCapture": "graph",
            "cuGraphInstantiate": "exec",
            "cuEventElapsedTime": 2.5,
        }

    def cuGetErrorString(self, status):  # noqa: N802
        return self.CUresult.CUDA_SUCCESS, b"out of memory"

    def cuDeviceGetAttribute(self, attribute, device):  # noqa: N802
        return self.CUresult.CUDA_SUCCESS, 8 if attribute.name.endswith("MAJOR") else 9

    def __getattr__(self, name):
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments):
            self.calls.append((name, *arguments))
            if name in self.raises:
                raise self.raises[name]
            status = self.fails.get(name, self.CUresult.CUDA_SUCCESS)
            answers = self._answers()
            return (status, answers[name]) if name in answers else (status,)

        return call


@pytest.fixture
def bindings(monkeypatch):
    fake = FakeBindings()
    monkeypatch.setattr(cuda_driver, "require", lambda module, extra: fake)
    monkeypatch.setattr(cuda_driver, "cuda_device_count", lambda: 1)
    return fake


def test_the_gpu(bindings):
    driver = CudaDriver()
    assert driver.gpu == Gpu("NVIDIA Test", "sm89", (13, 1))
    assert bindings.calls[0] == ("cuInit", 0)
    assert "cuCtxSetCurrent" not in [name for name, *_ in bindings.calls]


def test_a_threads_current_gpu_is_put_back(bindings):
    driver = CudaDriver()
    bindings.calls.clear()
    with pytest.raises(ZeroDivisionError), driver.unchanged():
        driver.use()
        raise ZeroDivisionError
    assert bindings.calls == [
        ("cuCtxGetCurrent",),
        ("cuCtxSetCurrent", "context"),
        ("cuCtxSetCurrent", "of somebody else"),
    ]


def test_a_second_hold_is_one_of_its_own(bindings):
    driver = CudaDriver()
    driver.share().close()
    driver.new_stream()  # the first one still has its context
    assert [name for name, *_ in bindings.calls].count("cuDevicePrimaryCtxRelease") == 1


def test_every_call_and_its_arguments(bindings):
    driver = CudaDriver()
    bindings.calls.clear()
    stream, address = driver.new_stream(), driver.allocate(48)
    array = driver.allocate_pinned(64)
    assert (array.dtype, array.shape) == (np.uint8, (64,))
    array[:] = 5
    assert bytes(bindings.host) == b"\5" * 64  # the very memory, no copy
    event = driver.new_event()
    driver.copy_in(address, array, stream)
    driver.copy_out(array, address, stream)
    driver.copy_on_gpu(address, address, 48, stream)
    driver.record(event, stream)
    driver.stream_wait(stream, event)
    driver.wait(event)
    assert driver.elapsed_ms(event, event) == 2.5
    driver.begin_capture(stream)
    graph = driver.end_capture(stream)
    driver.launch(graph, stream)
    driver.synchronise(stream)
    driver.destroy_graph(graph)
    driver.destroy_event(event)
    host = array.ctypes.data
    driver.free_pinned(array)
    driver.free(address)
    driver.destroy_stream(stream)
    driver.close()
    driver.close()
    mode = bindings.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    assert bindings.calls == [
        ("cuStreamCreate", 1),  # non-blocking
        ("cuMemAlloc", 48),
        ("cuMemAllocHost", 64),
        ("cuEventCreate", 0),  # with times
        ("cuMemcpyHtoDAsync", 0x7F00, host, 64, 7),
        ("cuMemcpyDtoHAsync", host, 0x7F00, 64, 7),
        ("cuMemcpyDtoDAsync", 0x7F00, 0x7F00, 48, 7),
        ("cuEventRecord", "event", 7),
        ("cuStreamWaitEvent", 7, "event", 0),
        ("cuEventSynchronize", "event"),
        ("cuEventElapsedTime", "event", "event"),
        ("cuStreamBeginCapture", 7, mode),
        ("cuStreamEndCapture", 7),
        ("cuGraphInstantiate", "graph", 0),
        ("cuGraphDestroy", "graph"),
        ("cuGraphLaunch", "exec", 7),
        ("cuStreamSynchronize", 7),
        ("cuGraphExecDestroy", "exec"),
        ("cuEventDestroy", "event"),
        ("cuMemFreeHost", host),
        ("cuMemFree", 0x7F00),
        ("cuStreamDestroy", 7),
        ("cuDevicePrimaryCtxRelease", 0),
    ]


def test_every_function_exists_in_cuda_python(bindings):
    real = pytest.importorskip("cuda.bindings.driver")
    test_every_call_and_its_arguments(bindings)
    assert all(hasattr(real, name) for name, *_ in bindings.calls)


def test_an_error_says_which_call_and_why(bindings):
    driver = CudaDriver()
    bindings.fails["cuMemAlloc"] = bindings.CUresult.CUDA_ERROR_OUT_OF_MEMORY
    with pytest.raises(
        E2EDeployError, match=r"CUDA_ERROR_OUT_OF_MEMORY in cuMemAlloc: out of memory"
    ):
        driver.allocate(1 << 50)


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [  # seen of cuda-python 13.4.4 with a driver older and one newer than it
        (
            RuntimeError("function cuEventElapsedTime_v2 is not found"),
            UnavailableError,
            "driver does not fit the installed cuda-python .*cuEventElapsedTime_v2",
        ),
        (
            ValueError("9999 is not a valid CUresult"),
            E2EDeployError,
            "unknown error in cuEventElapsedTime: 9999",
        ),
    ],
)
def test_a_driver_of_another_time_is_one_sentence(bindings, raised, kind, message):
    driver = CudaDriver()
    bindings.raises["cuEventElapsedTime"] = raised
    with pytest.raises(kind, match=message):
        driver.elapsed_ms("start", "end")


def test_a_graph_that_cannot_be_instantiated_is_destroyed(bindings):
    driver = CudaDriver()
    bindings.fails["cuGraphInstantiate"] = bindings.CUresult.CUDA_ERROR_OUT_OF_MEMORY
    with pytest.raises(E2EDeployError, match="cuGraphInstantiate"):
        driver.end_capture(7)
    assert bindings.calls[-1] == ("cuGraphDestroy", "graph")


@pytest.mark.skipif(cuda_device_count() > 0, reason="there is a GPU")
def test_no_gpu_is_one_sentence():
    with pytest.raises(UnavailableError, match="no NVIDIA GPU"):
        CudaDriver()


@pytest.mark.gpu
def test_a_round_trip_and_a_graph_on_the_gpu(rng):
    driver = CudaDriver()
    stream, address = driver.new_stream(), driver.allocate(1000)
    given, back = driver.allocate_pinned(1000), driver.allocate_pinned(1000)
    assert address % 256 == 0
    for _ in range(3):
        driver.copy_in(address, given, stream)
    driver.synchronise(stream)
    driver.begin_capture(stream)
    driver.copy_in(address, given, stream)
    driver.copy_out(back, address, stream)
    graph = driver.end_capture(stream)
    given[:] = rng.integers(0, 256, 1000, dtype=np.uint8)
    driver.launch(graph, stream)
    driver.synchronise(stream)
    np.testing.assert_array_equal(back, given)
    driver.destroy_graph(graph)
    driver.free_pinned(given)
    driver.free_pinned(back)
    driver.free(address)
    driver.destroy_stream(stream)
    driver.close()
