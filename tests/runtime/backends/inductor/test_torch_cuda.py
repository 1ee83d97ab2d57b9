"""What is asked of torch.cuda, in which order: a torch that writes it down, as no GPU is here."""

import inspect
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from e2e_deploy.errors import E2EDeployError, UnavailableError
from e2e_deploy.runtime.backends.dlpack import CPU, RawArray
from e2e_deploy.runtime.backends.inductor.torch_cuda import TorchCuda


class Graph:
    def __init__(self, said, fails):
        self.said, self.fails = said, fails

    def _note(self, name, **given):
        self.said.append((name, given) if given else name)
        if name in self.fails:
            raise RuntimeError(self.fails[name])

    def capture_begin(self, **given):
        self.state = torch.empty(1)  # as the real one keeps the random state
        self._note("capture_begin", **given)

    def capture_end(self):
        self._note("capture_end")

    def replay(self):
        self.state.fill_(0)
        self._note("replay")

    def reset(self):
        self._note("reset")


class Written:
    """A torch whose tensors are the host's, and whose blocks are written down as they are entered and left."""

    def __init__(self, **fails):
        self.said, self.fails = [], fails
        self.cuda = SimpleNamespace(
            stream=lambda stream: self._block(f"stream {stream}"),
            device=lambda index: self._block(f"device {index}"),
            ExternalStream=lambda handle, device: f"{handle} of {device}",
            graph_pool_handle=lambda: "pool",
            CUDAGraph=lambda: Graph(self.said, fails),
            empty_cache=lambda: self.said.append("empty_cache"),
        )
        self.backends = SimpleNamespace(cudnn=SimpleNamespace(flags=self._flags))
        self.inference_mode, self.no_grad = torch.inference_mode, torch.no_grad
        self.from_dlpack = torch.from_dlpack

    @contextmanager
    def _block(self, name):
        self.said.append(name)
        try:
            yield
        finally:
            self.said.append(f"end of {name}")

    def _flags(self, **given):
        self.flags = given
        return self._block("cudnn")


class Package:
    def __init__(self, said, shape=(1, 2, 3), error=None):
        self.said, self.shape, self.error = said, shape, error

    def run(self, tensors):
        self.said.append("run")
        if self.error:
            raise self.error
        return [torch.full(self.shape, float(tensors[0].sum()))]


@pytest.fixture
def memory():
    """A frame and a result, as the pipeline gives them."""
    frame, result = np.ones((1, 2, 3, 3), np.uint8), np.zeros((1, 2, 3), np.float32)
    arrays = [
        RawArray(a.ctypes.data, a.shape, str(a.dtype), (CPU, 0), owner=a) for a in (frame, result)
    ]
    return arrays[0], arrays[1:], result


AROUND = ["cudnn", "stream 7 of 1"], ["end of stream 7 of 1", "end of cudnn"]


@pytest.mark.parametrize("exact", [True, False])
def test_a_run_is_queued_in_the_pipelines_stream(memory, exact):
    frame, results, values = memory
    library = Written()
    TorchCuda(library, 1, exact=exact).run(Package(library.said), frame, results, 7)
    assert library.said == [*AROUND[0], "run", *AROUND[1]]
    assert library.flags == {"enabled": True, "benchmark": True, "allow_tf32": not exact}
    np.testing.assert_array_equal(values, np.full((1, 2, 3), 18, np.float32))


def test_a_recording_is_one_that_torchs_allocator_knows_of(memory):
    library = Written()
    gpu = TorchCuda(library, 1, exact=True)
    recording = gpu.record(Package(library.said), *memory[:2], 7)
    begin = ("capture_begin", {"pool": "pool", "capture_error_mode": "thread_local"})
    assert library.said == [*AROUND[0], begin, "run", "capture_end", *AROUND[1]]
    library.said.clear()
    recording.launch()
    assert library.said == ["stream 7 of 1", "replay", "end of stream 7 of 1"]
    library.said.clear()
    recording.destroy()
    gpu.release()
    assert library.said == ["reset", "empty_cache"]


@pytest.mark.parametrize("caller", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_a_recording_is_launched_in_any_mode(memory, caller):
    """Made in inference mode, it could be launched in that mode alone."""
    library = Written()
    with caller():
        gpu = TorchCuda(library, 1, exact=True)
        recording = gpu.record(Package(library.said), *memory[:2], 7)
    recording.launch()
    with torch.inference_mode():
        recording.launch()
    assert library.said.count("replay") == 2


def test_a_recording_that_fails_leaves_its_mode(memory):
    library = Written(capture_end="the capture is invalid")
    package = Package(library.said, error=RuntimeError("operation not permitted when capturing"))
    with pytest.raises(E2EDeployError, match=r"fails in PyTorch: operation not permitted"):
        TorchCuda(library, 1, exact=True).record(package, *memory[:2], 7)
    assert library.said[-3:] == ["capture_end", *AROUND[1]]


@pytest.mark.parametrize("step", ["capture_begin", "capture_end"])
def test_a_recording_that_cannot_be_made_says_why(memory, step):
    library = Written(**{step: "boom"})
    with pytest.raises(E2EDeployError, match="the package fails in PyTorch: boom"):
        TorchCuda(library, 1, exact=True).record(Package(library.said), *memory[:2], 7)
    assert library.said[-2:] == AROUND[1]


@pytest.mark.parametrize("step", ["replay", "reset"])
def test_torchs_errors_are_ours(memory, step):
    library = Written(**{step: "CUDA error: an illegal memory access was encountered"})
    recording = TorchCuda(library, 1, exact=True).record(Package(library.said), *memory[:2], 7)
    with pytest.raises(E2EDeployError, match="the CUDA graph: CUDA error: an illegal memory"):
        recording.launch() if step == "replay" else recording.destroy()


def test_memory_that_is_not_there(memory):
    library = Written()
    package = Package(library.said, error=RuntimeError("CUDA out of memory. Tried to allocate"))
    with pytest.raises(UnavailableError, match="needs more memory than is free"):
        TorchCuda(library, 1, exact=True).run(package, *memory[:2], 7)


def test_a_result_of_another_shape_is_not_fitted_in(memory):
    library = Written()
    with pytest.raises(E2EDeployError, match=r"gives torch.float32 \[1, 1, 3\], the manifest"):
        TorchCuda(library, 1, exact=True).run(Package(library.said, (1, 1, 3)), *memory[:2], 7)


def test_a_package_is_loaded_for_one_thread_on_its_device(tmp_path):
    library, made = Written(), []
    library._C = SimpleNamespace(
        _aoti=SimpleNamespace(AOTIModelPackageLoader=lambda *given: made.append(given) or "package")
    )
    assert TorchCuda(library, 1, exact=True).load(tmp_path / "frame.pt2") == "package"
    assert made == [(str(tmp_path / "frame.pt2"), "model", True, 1, 1)]
    assert library.said == ["device 1", "end of device 1"]


def test_the_real_torch_takes_the_same(memory):
    """What the double above was called with; nothing of it runs without a GPU."""
    takes = inspect.signature
    takes(torch.backends.cudnn.flags).bind(enabled=True, benchmark=True, allow_tf32=False)
    takes(torch.cuda.ExternalStream.__new__).bind(None, 7, device=1)
    graph = torch.cuda.CUDAGraph
    takes(graph.capture_begin).bind(None, pool="pool", capture_error_mode="thread_local")
    for method in (graph.capture_end, graph.replay, graph.reset):
        takes(method).bind(None)
    takes(torch.cuda.stream).bind("stream")
    takes(torch.cuda.device).bind(1)
    takes(torch.cuda.graph_pool_handle).bind()
    takes(torch.cuda.empty_cache).bind()
    frame = torch.from_dlpack(memory[0])
    assert (frame.data_ptr(), tuple(frame.shape)) == (memory[0].address, memory[0].shape)
    with pytest.raises(RuntimeError):
        torch._C._aoti.AOTIModelPackageLoader("/nonexistent", "model", True, 1, 1)
