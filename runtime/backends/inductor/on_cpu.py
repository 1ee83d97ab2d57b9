"""A package of AOTInductor on the CPU."""

from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.bundle.manifest import GraphEntry
from e2e_deploy.errors import E2EDeployError, failed
from e2e_deploy.runtime.backends.backend import OneAtATime, Result, result_shape
from e2e_deploy.runtime.backends.dlpack import CPU, RawArray
from e2e_deploy.runtime.backends.inductor.package import cpu_here, load_package, read_package


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
        self._torch, self._graph, self._kind = torch, graph, bundle.manifest.kinds[0]
        self.device = f"CPU, {torch.get_num_threads()} threads, {self.entry.target}"
        # oneDNN makes its kernels at the first run, which takes several times as long; a camera should not wait for it.
        self(np.zeros(graph.inputs[0].shape, np.uint8))

    def __call__(self, frame: npt.NDArray[Any], out: Result | None = None) -> Result:
        """Result of frames, uint8 RGB as the graph takes them."""
        assert self._package is not None, "the backend is closed"
        frame = np.ascontiguousarray(frame)
        takes, gives = self._graph.inputs[0], self._graph.outputs[0]
        assert frame.size == np.prod(takes.shape), "compiled code checks no sizes"
        # Not from_numpy, which warns about frames that may not be written to.
        host = RawArray(
            frame.ctypes.data, tuple(takes.shape), str(frame.dtype), (CPU, 0), owner=frame
        )
        try:
            with self._torch.inference_mode():
                (made,) = self._package.run([self._torch.from_dlpack(host)])
        except RuntimeError as error:
            raise failed(f"{self.entry.file} fails in PyTorch", error, E2EDeployError) from error
        if list(made.shape) != gives.shape or made.dtype != self._torch.float32:
            raise E2EDeployError(
                f"{self.entry.file} gives {made.dtype} {list(made.shape)}, the manifest lists float32 {gives.shape}"
            )
        shape = result_shape(self._graph, self._kind, frame.shape)
        result: Result = made.contiguous().numpy().reshape(shape)
        if out is None:
            return result
        np.copyto(out, result)  # PyTorch computes into memory of its own
        return out

    def close(self) -> None:
        """Drop the package and its memory."""
        self._package = None
