"""ONNX Runtime: the backend that runs everywhere, on the CPU or through a provider for NVIDIA GPUs.

Frames and results are bound where they lie: nothing is copied that the device it runs on can reach.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.bundle.manifest import FREE, GraphEntry
from e2e_deploy.errors import BundleError, E2EDeployError, UnavailableError, UsageError
from e2e_deploy.packages import import_onnxruntime
from e2e_deploy.runtime.backends.backend import OneAtATime, Result, failed, result_shape
from e2e_deploy.runtime.backends.device import parse_device
from e2e_deploy.runtime.backends.dlpack import CUDA, RawArray
from e2e_deploy.runtime.backends.ort_gpu import GpuProvider, provider_for
from e2e_deploy.runtime.backends.ort_memory import return_memory
from e2e_deploy.runtime.backends.ort_options import session_options as make_options
from e2e_deploy.system.interrupts import stoppable
from e2e_deploy.system.text import clean

_ORT_TYPES = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}


def _cancel_load(options: Any) -> None:
    cancel = getattr(options, "set_load_cancellation_flag", None)
    if cancel is not None:  # 1.20 has none: there the load is left behind
        cancel(True)


def _open_session(
    ort: Any, bundle: Bundle, graph: GraphEntry, options: Any, provider: GpuProvider | None
) -> Any:
    """A session of a graph that nobody changed, on the provider or else the CPU.

    Raises:
        UnavailableError: too little memory, no kernels for the precision, or the provider does not start.
        UsageError: the provider has no such option.
        BundleError: ONNX Runtime refuses the graph, or it was changed since the bundle was opened.
    """
    providers: list[object] | None = ["CPUExecutionProvider"]
    if provider is not None and provider.devices:
        options.add_provider_for_devices(provider.devices, provider.options)
        providers = None  # they stand in the options, and the CPU is added to them
    elif provider is not None:
        providers = [(provider.name, provider.options), "CPUExecutionProvider"]
    path = str(bundle.file(graph.onnx))
    try:
        with (
            bundle.unchanged(graph.onnx, *bundle.weights_of(graph.onnx)),
            stoppable(partial(_cancel_load, options)),
        ):
            session = ort.InferenceSession(path, options, providers=providers)
    except E2EDeployError:
        raise
    except Exception as error:
        said = clean(str(error))
        if "provider option" in said.lower():
            raise UsageError(f"`provider_options` hold what this device has not: {said}") from error
        if "NOT_IMPLEMENTED" in said:
            raise UnavailableError(
                f"ONNX Runtime has no {bundle.manifest.precision} kernels for this device ({said}); "
                f"run {graph.onnx} as a plan on a GPU, or export another precision"
            ) from error
        raise failed(f"ONNX Runtime cannot load {graph.onnx}", error, BundleError) from error
    # No silent fallback: a session that cannot start or go on on the GPU must fail, not run on the CPU.
    session.disable_fallback()
    if provider is not None and provider.name not in session.get_providers():
        raise UnavailableError(
            f'onnxruntime could not start its {provider.title}; {provider.remedy}, or use `device="cpu"`'
        )
    return session


def _check_signature(session: Any, graph: GraphEntry) -> None:
    """Refuse a session with other inputs or outputs than the manifest tells.

    Raises:
        BundleError: names what was expected.
    """
    for spec, found in (
        (graph.inputs[0], session.get_inputs()),
        (graph.outputs[0], session.get_outputs()),
    ):
        told = [(spec.name, _ORT_TYPES.get(spec.dtype), spec.shape)]
        # ONNX names an open side, a manifest says FREE.
        given = [
            (v.name, v.type, [side if isinstance(side, int) else FREE for side in v.shape])
            for v in found
        ]
        if given != told:
            raise BundleError(
                f"{graph.onnx} is not the graph its manifest describes: expected {spec.dtype} "
                f"{spec.shape} as {spec.name!r} and nothing else"
            )


class OrtBackend(OneAtATime):
    """One ONNX graph in an ONNX Runtime session.

    Args:
        bundle: opened.
        graph: one of its graphs.
        device: auto, cpu, cuda or cuda:N.
        threads: of one operator on the CPU; None for as many as there are cores.
        provider_options: of the GPU's provider, over ours.
        session_options: as ort_options.session_options has them, over ours.

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
        provider = provider_for(ort, asked, bundle.manifest.precision, provider_options)
        options = make_options(
            ort, bundle, on_cpu=provider is None, threads=threads, given=session_options
        )
        self._session = _open_session(ort, bundle, graph, options, provider)
        _check_signature(self._session, graph)
        self._graph, self._task = graph, bundle.manifest.task_info
        self.device = provider.title if provider else f"CPU, {options.intra_op_num_threads} threads"
        if provider is not None and not provider.devices:
            self.gpu = asked.index

    def __call__(self, frame: npt.NDArray[Any], out: Result | None = None) -> Result:
        """Result of frames, uint8 RGB as the graph takes them; of a core graph's rgb float32 [3, H, W]."""
        shape = result_shape(self._graph, self._task, frame.shape)
        result = np.empty(shape, np.float32) if out is None else out
        frame = np.ascontiguousarray(frame)
        self._run("cpu", frame.ctypes.data, frame.shape, result.ctypes.data, shape)
        return result

    def on_gpu(self, frame: RawArray, out: RawArray | None = None) -> RawArray:
        """Result of frames in the provider's own memory."""
        shape = result_shape(self._graph, self._task, frame.shape)
        if out is None:
            value = self._ort.OrtValue.ortvalue_from_shape_and_type(
                shape, np.float32, "cuda", self.gpu
            )
            out = RawArray(value.data_ptr(), shape, "float32", (CUDA, self.gpu or 0), owner=value)
        self._run("cuda", frame.address, frame.shape, out.address, shape)
        return out

    def _run(
        self,
        device: str,
        frame: int,
        frame_shape: tuple[int, ...],
        result: int,
        shape: tuple[int, ...],
    ) -> None:
        """Compute from one address to another."""
        wanted = len(self._graph.inputs[0].shape)

        def batched(sides: tuple[int, ...]) -> list[int]:
            return [*([1] if len(frame_shape) < wanted else []), *sides]

        takes, gives = self._graph.inputs[0], self._graph.outputs[0]
        index = self.gpu or 0 if device == "cuda" else 0
        options = self._ort.RunOptions()
        try:
            bound = self._session.io_binding()
            bound.bind_input(
                takes.name, device, index, np.dtype(takes.dtype).type, batched(frame_shape), frame
            )
            bound.bind_output(gives.name, device, index, np.float32, batched(shape), result)
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
