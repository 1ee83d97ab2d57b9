"""The few things a package on a GPU needs of torch.cuda; the tests' double keeps the same contract without a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.runtime.backends.backend import failed
from e2e_deploy.runtime.backends.dlpack import RawArray
from e2e_deploy.runtime.backends.gpu.computation import Recording


class TorchGpu(Protocol):
    """torch on one GPU, whose primary context is current. Streams are the driver's handles."""

    @property
    def version(self) -> str:
        """Of torch, as it says it."""
        ...

    def load(self, file: Path) -> Any:
        """A package, with its weights in the GPU's memory.

        Raises:
            RuntimeError: torch refuses it.
        """
        ...

    def run(self, package: Any, frame: RawArray, result: RawArray, stream: int) -> None:
        """Queue a package's work in a stream: from the frame's memory to the result's.

        Raises:
            E2EDeployError: torch refuses.
        """
        ...

    def record(self, package: Any, frame: RawArray, result: RawArray, stream: int) -> Recording:
        """The same work as a CUDA graph; it does not run now.

        Raises:
            E2EDeployError: why it cannot be recorded.
        """
        ...

    def release(self) -> None:
        """Give back what torch keeps of memory that nothing uses any more."""
        ...


class TorchRecording:
    """A CUDA graph that torch's allocator knows of: what it computes with stays reserved for it."""

    def __init__(self, torch: Any, graph: Any, stream: Any) -> None:
        self._torch, self._graph, self._stream = torch, graph, stream

    def launch(self) -> None:
        """Queue it."""
        try:
            with self._torch.cuda.stream(self._stream):
                self._graph.replay()
        except RuntimeError as error:
            raise failed("PyTorch could not launch the CUDA graph", error, E2EDeployError) from None

    def destroy(self) -> None:
        """Release it and its memory."""
        self._graph.reset()


class TorchCuda:
    """The real one.

    Args:
        torch: the library.
        index: of the CUDA device.
        exact: fp32 convolutions stay fp32: cuDNN would round their inputs to 10 bits (TF32).
    """

    def __init__(self, torch: Any, index: int, *, exact: bool) -> None:
        self._torch, self._index, self._exact = torch, index, exact
        self._pool: Any = None

    @property
    def version(self) -> str:
        """Of torch."""
        return str(self._torch.__version__)

    def load(self, file: Path) -> Any:
        """A package for one thread: with its locks for several it asks events, which a recording cannot hold."""
        with self._torch.cuda.device(self._index):
            return self._torch._C._aoti.AOTIModelPackageLoader(
                str(file), "model", True, 1, self._index
            )

    def run(self, package: Any, frame: RawArray, result: RawArray, stream: int) -> None:
        """Queue a package's work."""
        with self._in(stream):
            self._queue(package, self._tensor(frame), self._tensor(result))

    def record(self, package: Any, frame: RawArray, result: RawArray, stream: int) -> Recording:
        """The same work as a CUDA graph; all of them share their memory, as they run one after the other."""
        torch = self._torch
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        with self._in(stream) as external:
            tensors = self._tensor(frame), self._tensor(result)
            graph = torch.cuda.CUDAGraph()
            graph.capture_begin(self._pool, "thread_local")
            try:
                self._queue(package, *tensors)
            except BaseException:
                with suppress(RuntimeError):  # the stream must leave its mode
                    graph.capture_end()
                raise
            graph.capture_end()
        return TorchRecording(torch, graph, external)

    def release(self) -> None:
        """Give back what torch keeps."""
        self._pool = None
        self._torch.cuda.empty_cache()

    def _tensor(self, array: RawArray) -> Any:
        return self._torch.from_dlpack(array)

    def _queue(self, package: Any, frame: Any, result: Any) -> None:
        (made,) = package.run([frame])
        # AOTInductor computes into memory of its own; within the GPU this copy is microseconds.
        result.copy_(made, non_blocking=True)

    @contextmanager
    def _in(self, stream: int) -> Iterator[Any]:
        """A block whose work is queued in a stream of the driver's, with cuDNN's kernels found by trial."""
        torch = self._torch
        external = torch.cuda.ExternalStream(stream, device=self._index)
        try:
            with (
                torch.inference_mode(),
                torch.backends.cudnn.flags(
                    enabled=True, benchmark=True, allow_tf32=not self._exact
                ),
                torch.cuda.stream(external),
            ):
                yield external
        except RuntimeError as error:
            raise failed("the package fails in PyTorch", error, E2EDeployError) from error
