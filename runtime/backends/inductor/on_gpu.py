"""A package of AOTInductor on an NVIDIA GPU: torch computes in the pipeline's stream, on the driver's memory."""

from functools import partial
from typing import Any

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.bundle.manifest import GraphEntry, TensorSpec
from e2e_deploy.nvidia.cuda_driver import Driver
from e2e_deploy.runtime.backends.dlpack import CUDA, RawArray
from e2e_deploy.runtime.backends.gpu.backend import GpuBackend
from e2e_deploy.runtime.backends.gpu.computation import Recording
from e2e_deploy.runtime.backends.inductor.package import load_package, read_package
from e2e_deploy.runtime.backends.inductor.torch_cuda import TorchGpu
from e2e_deploy.runtime.backends.layout import Layout
from e2e_deploy.runtime.backends.plans import place_of


class InductorComputation:
    """A loaded package in one stream.

    Args:
        gpu: torch there.
        package: loaded; this drops it.
        takes: its input.
        layout: of its outputs.
        index: of the CUDA device.
        stream: in which it runs.
    """

    def __init__(
        self,
        gpu: TorchGpu,
        package: Any,
        takes: TensorSpec,
        layout: Layout,
        index: int,
        stream: int,
    ) -> None:
        self._gpu, self._package, self._stream = gpu, package, stream
        self._takes, self._layout, self._place = takes, layout, (CUDA, index)

    def _arrays(self, frame: int, result: int) -> tuple[RawArray, list[RawArray]]:
        block = RawArray(result, self._layout.block_shape(4), "float32", self._place)
        return (
            RawArray(frame, tuple(self._takes.shape), self._takes.dtype, self._place),
            list(self._layout.apart(block, 4).values()),
        )

    def queue(self, frame: int, result: int) -> None:
        """Queue the package's work from one address to another."""
        self._gpu.run(self._package, *self._arrays(frame, result), self._stream)

    def record(self, frame: int, result: int) -> Recording:
        """The package's work as a CUDA graph."""
        return self._gpu.record(self._package, *self._arrays(frame, result), self._stream)

    def close(self) -> None:
        """Drop the package and the memory it computed with."""
        self._package = None
        self._gpu.release()


class InductorOnGpu(GpuBackend):
    """One package on a GPU. For one thread at a time.

    Args:
        bundle: opened.
        graph: one of its graphs.
        gpu: torch there.
        driver: of the same GPU, which this closes.
        index: of the CUDA device.

    Attributes:
        entry: the manifest's entry of the package.

    Raises:
        UnavailableError: no package is for this GPU and this version of torch, or the driver is too old.
        BundleError: the package is not what the manifest says, or others could have written it.
    """

    name = "inductor"

    def __init__(
        self, bundle: Bundle, graph: GraphEntry, gpu: TorchGpu, driver: Driver, index: int
    ) -> None:
        self._torch = gpu
        super().__init__(bundle, graph, driver, index, "torch")

    def _load(self, bundle: Bundle) -> None:
        torch, graph = self._torch, self._graph
        self.entry, data = read_package(bundle, graph, torch.version, place_of(self._driver.gpu))
        package = [load_package(bundle, self.entry, data, torch.load)]
        del data
        compute = partial(self._compute, package)
        self._start(compute, f"torch {torch.version}")

    def _compute(self, package: list[Any], stream: int) -> InductorComputation:
        """The computation, which alone holds the package from here on."""
        graph = self._graph
        return InductorComputation(
            self._torch, package.pop(), graph.inputs[0], self._layout, self.gpu or 0, stream
        )
