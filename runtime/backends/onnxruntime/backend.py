"""ONNX Runtime: the backend that runs everywhere, on the CPU or through a provider for NVIDIA GPUs.

Frames and results are bound where they lie: nothing is copied that the device it runs on can reach.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.bundle.manifest import GraphEntry
from e2e_deploy.errors import E2EDeployError, UnavailableError, UsageError, failed
from e2e_deploy.packages import import_onnxruntime, require
from e2e_deploy.runtime.backends.backend import Backend, OneAtATime
from e2e_deploy.runtime.backends.device import parse_device
from e2e_deploy.runtime.backends.dlpack import CUDA, RawArray
from e2e_deploy.runtime.backends.layout import Layout, Result
from e2e_deploy.runtime.backends.onnxruntime.memory import return_memory
from e2e_deploy.runtime.backends.onnxruntime.options import session_options as make_options
from e2e_deploy.runtime.backends.onnxruntime.provider import CUDA as CUDA_PROVIDER
from e2e_deploy.runtime.backends.onnxruntime.provider import EXTRA, placed
from e2e_deploy.runtime.backends.onnxruntime.session import open_session
from e2e_deploy.system.interrupts import stoppable

_CUDA_PYTHON = f"cuda-python: pip install 'e2e-deploy[{EXTRA}]'"


def load_onnxruntime(
    bundle: Bundle,
    graph: GraphEntry,
    device: str = "auto",
    *,
    threads: int | None = None,
    provider_options: Mapping[str, Any] | None = None,
    session_options: Mapping[str, Any] | None = None,
) -> Backend:
    """A graph in ONNX Runtime: one of frames in the GPU's pipeline where the CUDA provider and cuda-python are.

    Args: as OrtBackend.

    Raises:
        UnavailableError, UsageError, BundleError: as OrtBackend.
    """
    asked, ort = parse_device(device), import_onnxruntime()
    provider, form = placed(ort, bundle, graph, asked, provider_options)
    is_cuda = provider is not None and provider.name == CUDA_PROVIDER
    if provider is not None and is_cuda and graph.kind == "frame" and _has_cuda_python():
        from e2e_deploy.runtime.backends.onnxruntime.cuda import OrtCudaBackend

        return OrtCudaBackend(
            bundle,
            form,
            provider,
            asked.index,
            fitted=form.onnx != graph.onnx,
            threads=threads,
            session_options=session_options,
        )
    return OrtBackend(
        bundle,
        graph,
        device,
        threads=threads,
        provider_options=provider_options,
        session_options=session_options,
    )


def _has_cuda_python() -> bool:
    try:
        require("cuda.bindings.driver", EXTRA)
    except UnavailableError:
        return False
    return True


class OrtBackend(OneAtATime):
    """One ONNX graph in an ONNX Runtime session, which copies frames and results itself where it runs on a GPU.

    Args:
        bundle: opened.
        graph: one of its graphs.
        device: auto, cpu, cuda or cuda:N.
        threads: of one operator on the CPU; None for as many as there are cores.
        provider_options: of the GPU's provider, over ours.
        session_options: as options.session_options has them, over ours.

    Raises:
        UnavailableError: the device asked for is not here, or has too little memory.
        UsageError: an option that ONNX Runtime has not, or that has no effect on this device.
        BundleError: ONNX Runtime refuses the graph, or it was changed since the bundle was opened.
        E2EDeployError: when called: ONNX Runtime fails while it computes.
    """

    name = "onnxruntime"

    def __init__(
        self,
        bundle: Bundle,
        graph: GraphEntry,
        device: str = "auto",
        *,
        threads: int | None = None,
        provider_options: Mapping[str, Any] | None = None,
        session_options: Mapping[str, Any] | None = None,
    ) -> None:
        ort = self._ort = import_onnxruntime()
        asked = parse_device(device)
        provider, graph = placed(ort, bundle, graph, asked, provider_options)
        options = make_options(
            ort, bundle, on_cpu=provider is None, threads=threads, given=session_options
        )
        if provider is not None and provider.options.get("enable_cuda_graph", "0") != "0":
            raise UsageError(f"`enable_cuda_graph` of `provider_options` needs {_CUDA_PYTHON}")
        self._session = open_session(ort, bundle, graph, options, provider)
        self._graph, self._layout = graph, Layout.of(graph, bundle.manifest.kinds)
        self.device = provider.title if provider else f"CPU, {options.intra_op_num_threads} threads"
        if provider is not None and not provider.devices:
            self.gpu = asked.index
            why = (
                "a core graph" if graph.kind == "core" else f"page-locked ones need {_CUDA_PYTHON}"
            )
            self.device += f", buffers in ordinary memory: {why}"

    def __call__(self, frame: npt.NDArray[Any], out: Result | None = None) -> Result:
        """Result of frames, uint8 RGB as the graph takes them; of a core graph's rgb float32 [3, H, W]."""
        if out is None:
            out = np.empty(self._layout.block_shape(frame.ndim), np.float32)
        frame = np.ascontiguousarray(frame)
        self._run("cpu", frame.ctypes.data, frame.shape, out.ctypes.data)
        return out

    def on_gpu(self, frame: RawArray, out: RawArray | None = None) -> RawArray:
        """Result of frames in the provider's own memory."""
        if out is None:
            shape = self._layout.block_shape(len(frame.shape))
            value = self._ort.OrtValue.ortvalue_from_shape_and_type(
                shape, np.float32, "cuda", self.gpu
            )
            out = RawArray(value.data_ptr(), shape, "float32", (CUDA, self.gpu or 0), owner=value)
        self._run("cuda", frame.address, frame.shape, out.address)
        return out

    def _run(self, device: str, frame: int, frame_shape: tuple[int, ...], block: int) -> None:
        """Compute from one address to another."""
        takes = self._graph.inputs[0]
        shape = [*([1] if len(frame_shape) < len(takes.shape) else []), *frame_shape]
        index = self.gpu or 0 if device == "cuda" else 0
        options = self._ort.RunOptions()
        try:
            bound = self._session.io_binding()
            bound.bind_input(takes.name, device, index, np.dtype(takes.dtype).type, shape, frame)
            for place in self._layout.places:
                at = block + place.offset
                bound.bind_output(place.name, device, index, np.float32, list(place.shape), at)
            bound.synchronize_inputs()
            with stoppable(lambda: setattr(options, "terminate", True)):
                self._session.run_with_iobinding(bound, options)
            bound.synchronize_outputs()
        except Exception as error:
            what = f"{self._graph.onnx} fails in ONNX Runtime"
            raise failed(what, error, E2EDeployError) from error

    def close(self) -> None:
        """Drop the session and its memory."""
        if self._session is not None:
            self._session = None
            return_memory(self._ort)
