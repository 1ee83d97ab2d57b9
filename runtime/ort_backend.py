"""ONNX Runtime: the backend that runs everywhere, on the CPU or through the CUDA provider."""

import os

import numpy as np
import numpy.typing as npt

from e2e_deploy.bundle import Bundle, GraphEntry
from e2e_deploy.errors import BundleError, UnavailableError, UsageError
from e2e_deploy.hardware import cuda_device_count
from e2e_deploy.optional import require
from e2e_deploy.runtime.backend import Closing, Result

_LOG_ERRORS_ONLY = 3
_ORT_TYPES = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}


def physical_cores() -> int:
    """CPU cores this process may use. MLAS gains nothing from a second thread on a core, but none is known here."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


class OrtBackend(Closing):
    """One ONNX graph in an ONNX Runtime session.

    Raises:
        UnavailableError: the device asked for is not here.
        BundleError: ONNX Runtime refuses the graph.
    """

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, graph: GraphEntry, device: str = "auto") -> None:
        ort = require("onnxruntime", "export")
        if device == "auto":
            device = "cuda" if cuda_device_count() and _has_cuda(ort) else "cpu"
        if device == "cuda" and not (cuda_device_count() and _has_cuda(ort)):
            missing = (
                "no CUDA device"
                if not cuda_device_count()
                else "an onnxruntime without its CUDA provider"
            )
            raise UnavailableError(
                f"onnxruntime on cuda was asked for, but this machine has {missing}; use --device cpu"
            )
        if device not in ("cpu", "cuda"):
            raise UsageError(f"unknown device {device!r}; the devices are auto, cpu, cuda")
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.execution_mode = (
            ort.ExecutionMode.ORT_SEQUENTIAL
        )  # one long chain: nothing to run side by side
        options.intra_op_num_threads = physical_cores()
        options.inter_op_num_threads = 1
        options.log_severity_level = _LOG_ERRORS_ONLY
        # Threads spin for a moment between operators (the default): 12 % faster than letting them sleep, measured on
        # e2e-tiny with two cores.
        providers: list[object] = ["CPUExecutionProvider"]
        if device == "cuda":
            # No silent fallback: a CUDA session that cannot start must fail, not run on the CPU.
            providers.insert(
                0,
                (
                    "CUDAExecutionProvider",
                    {"cudnn_conv_algo_search": "EXHAUSTIVE", "use_tf32": "0"},
                ),
            )
        try:
            self._session = ort.InferenceSession(
                str(bundle.file(graph.onnx)), options, providers=providers
            )
        except Exception as error:
            # ONNX Runtime's exceptions share no public base class.
            said = " ".join(str(error).split())
            raise BundleError(f"ONNX Runtime cannot load {graph.onnx}: {said}") from error
        if device == "cuda" and "CUDAExecutionProvider" not in self._session.get_providers():
            raise UnavailableError(
                "onnxruntime could not start its CUDA provider; e2e-deploy doctor shows what is missing"
            )
        for spec, found in (
            (graph.inputs[0], self._session.get_inputs()),
            (graph.outputs[0], self._session.get_outputs()),
        ):
            told = [(spec.name, _ORT_TYPES.get(spec.dtype), spec.shape)]
            if [(value.name, value.type, value.shape) for value in found] != told:
                raise BundleError(
                    f"{graph.onnx} is not the graph its manifest describes: expected {spec.dtype} "
                    f"{spec.shape} as {spec.name!r} and nothing else"
                )
        self.device = "CUDA" if device == "cuda" else f"CPU, {options.intra_op_num_threads} threads"
        self._input, self._output = graph.inputs[0].name, graph.outputs[0].name

    def __call__(self, frame: npt.NDArray[np.uint8]) -> Result:
        """Result of one frame, uint8 RGB [H, W, 3]."""
        result: Result = self._session.run([self._output], {self._input: frame[None]})[0][0]
        return result

    def close(self) -> None:
        """Drop the session and its memory."""
        self._session = None


def _has_cuda(ort: object) -> bool:
    return "CUDAExecutionProvider" in ort.get_available_providers()  # type: ignore[attr-defined]
