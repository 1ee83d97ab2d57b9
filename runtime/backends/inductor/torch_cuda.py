"""The few things a package on a GPU needs of torch.cuda; the tests' double keeps the same contract without a GPU."""

from collections.abc import Iterator, Sequence
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

    def run(self, package: Any, frame: RawArray, results: Sequence[RawArray], stream: int) -> None:
        """Queue a package's work in a stream: from the frame's memory to that of its results.

        Raises:
            E2EDeployError: torch refuses.
        """
        ...

    def record(
        self, package: Any, frame: RawArray, results: Sequence[RawArray], stream: int
    ) -> Recording:
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

    def run(self, package: Any, frame: RawArray, results: Sequence[RawArray], stream: int) -> None:
        """Queue a package's work."""
        with self._in(stream):
            self._queue(package, *self._tensors(frame, results))

    def record(
        self, package: Any, frame: RawArray, results: Sequence[RawArray], stream: int
    ) -> Recording:
        """The same work as a CUDA graph; all of them share their memory, as they run one after the other."""
        torch = self._torch
        with self._in(stream) as external:
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            tensors = self._tensors(frame, results)
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

    def _tensors(self, frame: RawArray, results: Sequence[RawArray]) -> tuple[Any, list[Any]]:
        take = self._torch.from_dlpack
        return take(frame), [take(result) for result in results]

    @staticmethod
    def _queue(package: Any, frame: Any, results: Sequence[Any]) -> None:
        made = package.run([frame])
        given, listed = ([(t.dtype, list(t.shape)) for t in each] for each in (made, results))
        if given != listed:  # copy_ would fit them
            told, wanted = (" and ".join(f"{d} {s}" for d, s in each) for each in (given, listed))
            raise E2EDeployError(f"the package gives {told}, the manifest lists {wanted}")
        # AOTInductor computes into memory of its own; within the GPU this copy is microseconds.
        for result, each in zip(results, made, strict=True):
            result.copy_(each, non_blocking=True)

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
