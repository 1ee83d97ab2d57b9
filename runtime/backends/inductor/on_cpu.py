"""A package of AOTInductor on the CPU."""

from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.bundle.manifest import GraphEntry
from e2e_deploy.errors import E2EDeployError, failed
from e2e_deploy.runtime.backends.backend import OneAtATime
from e2e_deploy.runtime.backends.dlpack import CPU, RawArray
from e2e_deploy.runtime.backends.inductor.package import cpu_here, load_package, read_package
from e2e_deploy.runtime.backends.layout import Layout, Result


class InductorOnCpu(OneAtATime):
    """One package on the CPU: it reads the frame where it lies, and a result is the memory it computed into.

    Args:
        bundle: opened.
        graph: one of its graphs.
        torch: the library.
        threads: of one operator, for the whole process from then on: PyTorch knows no others.

    Raises:
        UnavailableError: no package is for this CPU and this version of torch.
        BundleError: the package is not what the manifest says, or others could have written it.
        E2EDeployError: PyTorch fails while it computes.
    """

    name = "inductor"

    def __init__(
        self, bundle: Bundle, graph: GraphEntry, torch: Any, threads: int | None = None
    ) -> None:
        self.entry, data = read_package(bundle, graph, torch.__version__, cpu_here())
        if threads is not None:
            torch.set_num_threads(threads)

        def load(file: Any) -> Any:
            # Without torch._inductor, whose import takes seconds and which adds nothing here.
            return torch._C._aoti.AOTIModelPackageLoader(str(file), "model", False, 1, -1)

        self._package: Any = load_package(bundle, self.entry, data, load)
        self._torch, self._graph = torch, graph
        self._layout = Layout.of(graph, bundle.manifest.kinds)
        self.device = f"CPU, {torch.get_num_threads()} threads, {self.entry.target}"
        # oneDNN makes its kernels at the first run, which takes several times as long; a camera should not wait for it.
        self(np.zeros(graph.inputs[0].shape, np.uint8))

    def __call__(self, frame: npt.NDArray[Any], out: Result | None = None) -> Result:
        """Result of frames, uint8 RGB as the graph takes them."""
        assert self._package is not None, "the backend is closed"
        frame = np.ascontiguousarray(frame)
        takes = self._graph.inputs[0]
        assert frame.size == np.prod(takes.shape), "compiled code checks no sizes"
        # Not from_numpy, which warns about frames that may not be written to.
        host = RawArray(
            frame.ctypes.data, tuple(takes.shape), str(frame.dtype), (CPU, 0), owner=frame
        )
        try:
            with self._torch.inference_mode():
                made = self._package.run([self._torch.from_dlpack(host)])
        except RuntimeError as error:
            raise failed(f"{self.entry.file} fails in PyTorch", error, E2EDeployError) from error
        given = [(each.dtype, list(each.shape)) for each in made]
        listed = [(self._torch.float32, spec.shape) for spec in self._graph.outputs]
        if given != listed:
            raise E2EDeployError(
                f"{self.entry.file} gives {_in_words(given)}, the manifest lists {_in_words(listed)}"
            )
        results = [each.contiguous().numpy() for each in made]
        return self._layout.together(results, frame.ndim, out)

    def close(self) -> None:
        """Drop the package and its memory."""
        self._package = None


def _in_words(tensors: list[tuple[Any, list[int]]]) -> str:
    return " and ".join(f"{dtype} {shape}" for dtype, shape in tensors)
