"""The few things a package on a GPU needs of torch.cuda; the tests' double keeps the same contract without a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from e2e_deploy.errors import E2EDeployError, failed
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


@contextmanager
def _refused(what: str) -> Iterator[None]:
    """A block in which torch's errors become ours."""
    try:
        yield
    except RuntimeError as error:
        raise failed(what, error, E2EDeployError) from error


class TorchRecording:
    """A CUDA graph that torch's allocator knows of: what it computes with stays reserved for it."""

    def __init__(self, torch: Any, graph: Any, stream: Any) -> None:
        self._torch, self._graph, self._stream = torch, graph, stream

    def launch(self) -> None:
        """Queue it."""
        with (
            _refused("PyTorch does not launch the CUDA graph"),
            self._torch.cuda.stream(self._stream),
        ):
            self._graph.replay()

    def destroy(self) -> None:
        """Release it and its memory."""
        with _refused("PyTorch does not release the CUDA graph"):
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
            self._queue(package, self._torch.from_dlpack(frame), self._torch.from_dlpack(result))

    def record(self, package: Any, frame: RawArray, result: RawArray, stream: int) -> Recording:
        """The same work as a CUDA graph; all of them share their memory, as they run one after the other."""
        torch = self._torch
        with self._in(stream) as external:
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            tensors = torch.from_dlpack(frame), torch.from_dlpack(result)
            graph = torch.cuda.CUDAGraph()
            # Other threads may go on with their own CUDA work.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
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
        with _refused("PyTorch does not release the GPU's memory"):
            self._torch.cuda.empty_cache()

    @staticmethod
    def _queue(package: Any, frame: Any, result: Any) -> None:
        (made,) = package.run([frame])
        if made.shape != result.shape or made.dtype != result.dtype:  # copy_ would fit them
            raise E2EDeployError(
                f"the package gives {made.dtype} {list(made.shape)}, the manifest lists {list(result.shape)}"
            )
        # AOTInductor computes into memory of its own; within the GPU this copy is microseconds.
        result.copy_(made, non_blocking=True)

    @contextmanager
    def _in(self, stream: int) -> Iterator[Any]:
        """A block whose work is queued in a stream of the driver's, with cuDNN's kernels found by trial.

        Not in inference mode, whoever called: a graph that is recorded there makes the process's random state a tensor
        that may be written to only there, so replaying it elsewhere fails, and so do other people's graphs.
        """
        torch = self._torch
        external = torch.cuda.ExternalStream(stream, device=self._index)
        with (
            _refused("the package fails in PyTorch"),
            torch.inference_mode(False),
            torch.no_grad(),
            torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=not self._exact),
            torch.cuda.stream(external),
        ):
            yield external
