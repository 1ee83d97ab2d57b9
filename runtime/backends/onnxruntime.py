"""ONNX Runtime: the backend that runs everywhere, on the CPU or through a provider for NVIDIA GPUs."""

import os
from functools import partial
from typing import Any

import numpy.typing as npt

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.bundle.manifest import FREE, GraphEntry
from e2e_deploy.errors import BundleError, E2EDeployError, UnavailableError, UsageError
from e2e_deploy.nvidia.hardware import cuda_device_count
from e2e_deploy.packages import import_onnxruntime
from e2e_deploy.runtime.backends.backend import OneAtATime, Result, failed
from e2e_deploy.runtime.backends.ort_gpu import find_gpu_provider
from e2e_deploy.runtime.backends.ort_memory import bound_memory, return_memory
from e2e_deploy.system.interrupts import stoppable
from e2e_deploy.system.text import clean

_LOG_NOTHING = 4
"""Fatal errors alone: every other is raised, and said in one sentence."""

LARGE_BYTES = 2**28
"""16-bit weights of this size are widened for the CPU when an operator needs them, smaller ones once at the start.

At the start they are there twice and thrice: SD2's take 20 s and 6 GiB, for runs that are 11 % faster (e2e-tiny: 30 %).
"""
_WIDEN_AT_START = "FuseFp16InitializerToFp32NodeTransformer"
_ORT_TYPES = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}


def physical_cores() -> int:
    """CPU cores this process may use. MLAS gains nothing from a second thread on a core, but none is known here."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


def _is_large_half(bundle: Bundle) -> bool:
    files = bundle.manifest.files.items()
    num_bytes = sum(f.bytes for name, f in files if name.endswith((".onnx", ".data")))
    return bundle.manifest.precision == "fp16" and num_bytes >= LARGE_BYTES


def _cancel_load(options: Any) -> None:
    cancel = getattr(options, "set_load_cancellation_flag", None)
    if cancel is not None:  # 1.20 has none: there the load is left behind
        cancel(True)


class OrtBackend(OneAtATime):
    """One ONNX graph in an ONNX Runtime session.

    Raises:
        UnavailableError: the device asked for is not here, or has too little memory.
        BundleError: ONNX Runtime refuses the graph, or it was changed since the bundle was opened.
        E2EDeployError: when called: ONNX Runtime fails while it computes.
    """

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, graph: GraphEntry, device: str = "auto") -> None:
        ort = self._ort = import_onnxruntime()
        gpu = find_gpu_provider(ort) if device != "cpu" and cuda_device_count() else None
        if device == "auto":
            device = "cuda" if gpu else "cpu"
        if device == "cuda" and gpu is None:
            missing = (
                "no CUDA device"
                if not cuda_device_count()
                else "an onnxruntime without a provider for it"
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
        # Threads spin for a moment between operators (the default): 12 % faster than letting them sleep, measured on
        # e2e-tiny with two cores.
        options.log_severity_level = _LOG_NOTHING
        # x86 CPUs without VNNI add pairs of 8-bit products in 16 bits, which saturate; other CPUs ignore this.
        options.add_session_config_entry("session.x64quantprecision", "1")
        if gpu is None and _is_large_half(bundle):
            options.add_session_config_entry(
                "optimization.disable_specified_optimizers", _WIDEN_AT_START
            )
            # The default order widens all weights before the first operator.
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        bound_memory(ort, options)
        providers: list[object] | None = ["CPUExecutionProvider"]
        if gpu is not None and gpu.devices:
            options.add_provider_for_devices(gpu.devices, gpu.options)
            providers = None  # they stand in the options, and the CPU is added to them
        elif gpu is not None:
            providers = [(gpu.name, gpu.options), "CPUExecutionProvider"]
        path, self._onnx = str(bundle.file(graph.onnx)), graph.onnx
        try:
            with (
                bundle.unchanged(graph.onnx, *bundle.weights_of(graph)),
                stoppable(partial(_cancel_load, options)),
            ):
                self._session = ort.InferenceSession(path, options, providers=providers)
        except E2EDeployError:
            raise
        except Exception as error:
            if "NOT_IMPLEMENTED" in str(error):
                raise UnavailableError(
                    f"ONNX Runtime has no {bundle.manifest.precision} kernels for this device ({clean(str(error))}); "
                    f"run {graph.onnx} as an engine on a GPU, or export another precision"
                ) from error
            what = f"ONNX Runtime cannot load {graph.onnx}"
            raise failed(what, error, BundleError) from error
        # No silent fallback: a session that cannot start or go on on the GPU must fail, not run on the CPU.
        self._session.disable_fallback()
        if gpu is not None and gpu.name not in self._session.get_providers():
            raise UnavailableError(
                f"onnxruntime could not start its {gpu.title}; {gpu.remedy}, or use --device cpu"
            )
        for spec, found in (
            (graph.inputs[0], self._session.get_inputs()),
            (graph.outputs[0], self._session.get_outputs()),
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
        self.device = gpu.title if gpu else f"CPU, {options.intra_op_num_threads} threads"
        self._input, self._output = graph.inputs[0].name, graph.outputs[0].name
        self._batch = graph.batch

    def __call__(self, frame: npt.NDArray[Any]) -> Result:
        """Result of one frame, uint8 RGB [H, W, 3]; of a core graph's rgb float32 [3, H, W].

        Where the graph takes N > 1 pictures at once, of [N, ...] of them.
        """
        options = self._ort.RunOptions()
        given = frame[None] if self._batch == 1 else frame
        try:
            with stoppable(lambda: setattr(options, "terminate", True)):
                (results,) = self._session.run([self._output], {self._input: given}, options)
        except Exception as error:
            what = f"{self._onnx} fails in ONNX Runtime"
            raise failed(what, error, E2EDeployError) from error
        result: Result = results[0] if self._batch == 1 else results
        return result

    def close(self) -> None:
        """Drop the session and its memory."""
        if self._session is not None:
            self._session = None
            return_memory(self._ort)
