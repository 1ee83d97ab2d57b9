"""A backend on an NVIDIA GPU: a pipeline behind what every backend offers. A library's own class fills it.

N: frames that a graph takes at once.
"""

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack, suppress

import numpy as np
import numpy.typing as npt

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.bundle.manifest import GraphEntry
from e2e_deploy.errors import E2EDeployError, UsageError
from e2e_deploy.nvidia.cuda_driver import Driver
from e2e_deploy.runtime.backends.backend import Closing, GpuPicture, Picture
from e2e_deploy.runtime.backends.dlpack import CUDA, RawArray
from e2e_deploy.runtime.backends.gpu.computation import Computation
from e2e_deploy.runtime.backends.gpu.pipeline import SLOTS, Pipeline
from e2e_deploy.runtime.backends.gpu.transfers import Transfers
from e2e_deploy.runtime.backends.layout import ALIGNMENT, Layout, Result


def _free(driver: Driver, address: int) -> None:
    """Give memory back, in whatever thread its last user goes."""
    with suppress(E2EDeployError), driver.unchanged():  # a GPU that failed fails again here
        driver.use()
        driver.free(address)
        driver.close()


class _Memory:
    """Memory of the GPU that outlives the engine which wrote to it; freed with this object."""

    def __init__(self, driver: Driver, size: int) -> None:
        try:
            self.address = driver.allocate(size)
        except BaseException:
            driver.close()
            raise
        weakref.finalize(self, _free, driver, self.address)


class GpuBackend(Closing, ABC):
    """One graph and the pipeline that runs it. For one thread at a time.

    Args:
        bundle: opened.
        graph: one of its graphs.
        driver: of the GPU, which this closes.
        index: of the CUDA device.
        title: of the library, for people.

    Attributes:
        slots: frames that may be on their way at once.
        transfers: what was copied between host and GPU since it was loaded.
        cuda_graph: whether it runs as a CUDA graph; never in ``on_gpu``.
        cuda_graph_reason: why not; empty when it does.

    Raises:
        E2EDeployError: as ``_load``; everything is released.
    """

    slots = SLOTS

    def __init__(
        self, bundle: Bundle, graph: GraphEntry, driver: Driver, index: int, title: str
    ) -> None:
        self._graph, self._layout = graph, Layout.of(graph, bundle.manifest.kinds)
        self._single: set[int] = set()  # slots whose frame came without the axis of N
        self._pipeline: Pipeline | None = None
        self._closing = ExitStack()  # undoes in reverse, also what comes after a step that fails
        self._driver, self._title = driver, title
        self.gpu: int | None = index
        self._closing.callback(driver.close)
        with driver.unchanged():
            driver.use()
            try:
                self._load(bundle)
                self._closing.callback(driver.use)
            except BaseException:
                with suppress(E2EDeployError):
                    self.close()
                raise

    @abstractmethod
    def _load(self, bundle: Bundle) -> None:
        """Load the graph and start its pipeline; the GPU is current. What must be undone goes to ``_closing``."""

    def _start(self, compute: Callable[[int], Computation], facts: str) -> None:
        """Start the pipeline; ``facts`` of the library end the text of ``device``."""
        self._pipeline = pipeline = Pipeline(
            self._driver, compute, self._graph.inputs[0], self._layout.num_bytes
        )
        self._closing.callback(setattr, self, "_pipeline", None)
        self._closing.callback(pipeline.close)
        self.transfers: Transfers | None = pipeline.transfers
        self.stream = pipeline.stream
        self.cuda_graph_reason = pipeline.cuda_graph_reason
        self.cuda_graph = not self.cuda_graph_reason
        gpu = self._driver.gpu
        how = "one CUDA graph" if self.cuda_graph else f"no CUDA graph: {self.cuda_graph_reason}"
        self.device = ", ".join(part for part in (gpu.name, gpu.target, how, facts) if part)

    @property
    def _running(self) -> Pipeline:
        assert self._pipeline is not None, "the backend is closed"
        return self._pipeline

    def __call__(self, frame: npt.NDArray[np.uint8], out: Result | None = None) -> Result:
        """Result of frames, uint8 RGB as the graph takes them; at most one other may be on its way."""
        return self._collect(self.submit(frame), out)

    def submit(self, frame: Picture) -> int:
        """Begin frames, uint8 RGB on the host or on the GPU; returns their slot."""
        with self._driver.unchanged():
            self._driver.use()  # the thread may be another one than the one that loaded
            slot = self._running.submit(frame)
        self._single.discard(slot)
        if isinstance(frame, GpuPicture) or frame.ndim == 3:
            self._single.add(slot)
        return slot

    def collect(self, slot: int) -> Result:
        """The result of a slot, when it is there, in memory of its own."""
        return self._collect(slot, None)

    def _collect(self, slot: int, out: Result | None) -> Result:
        with self._driver.unchanged():
            self._driver.use()
            held: Result = self._running.collect(slot).view(np.float32)
        result = held.reshape(self._layout.block_shape(3 if slot in self._single else 4))
        if out is None:
            return result.copy()
        np.copyto(out, result)
        return out

    def on_gpu(self, frame: RawArray, out: RawArray | None = None) -> RawArray:
        """Result of frames in the GPU's memory; of ``out``, or of new memory that goes with its last user.

        Raises:
            UsageError: memory that does not start where the library takes it.
        """
        for what, array in (("the frame", frame), ("`out`", out)):
            if array is not None and array.address % ALIGNMENT:
                raise UsageError(
                    f"{what} starts at {array.address:#x} of the GPU's memory, and {self._title} takes "
                    f"multiples of {ALIGNMENT}: give a whole array, not a part of one"
                )
        with self._driver.unchanged():
            self._driver.use()
            out = out or self._new_result(frame)
            self._running.run(frame.address, out.address)
        return out

    def _new_result(self, frame: RawArray) -> RawArray:
        """Memory for the result of frames, of a driver of its own: it may outlive this one."""
        shape = self._layout.block_shape(len(frame.shape))
        memory = _Memory(self._driver.share(), 4 * int(np.prod(shape)))
        return RawArray(memory.address, shape, "float32", (CUDA, self.gpu or 0), owner=memory)

    @property
    def gpu_ms(self) -> float:
        """Milliseconds that the last frame computed, without its copies and without waiting for another."""
        with self._driver.unchanged():
            self._driver.use()
            return self._running.gpu_ms

    def close(self) -> None:
        """Wait, then release what depends before what it depends on; a second call does nothing."""
        stack, self._closing = self._closing, ExitStack()
        with self._driver.unchanged():
            stack.close()
