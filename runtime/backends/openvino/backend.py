"""The backend made of OpenVINO: frames are read and results written where they lie."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.bundle.manifest import GraphEntry
from e2e_deploy.errors import E2EDeployError, UsageError, failed
from e2e_deploy.packages import import_openvino, openvino_core
from e2e_deploy.runtime.backends.backend import OneAtATime
from e2e_deploy.runtime.backends.device import parse_device
from e2e_deploy.runtime.backends.layout import Layout, Result
from e2e_deploy.runtime.backends.openvino.compiled import THREADS, compile_graph
from e2e_deploy.runtime.backends.openvino.devices import (
    CPU,
    describe,
    find_device,
    precision_hint,
    said,
)
from e2e_deploy.system.interrupts import stoppable


class OpenVinoBackend(OneAtATime):
    """One ONNX graph, compiled by OpenVINO for one device.

    Args:
        bundle: opened; fp32, fp16, or bf16 and int8 where the device has units for them.
        graph: one of its graphs.
        device: auto and cpu are the CPU; intel-gpu, intel-gpu:N, npu.
        threads: of the CPU; None as OpenVINO has it: a core each, of those this process may use.
        provider_options: properties of OpenVINO, by name, over ours.

    Raises:
        UnavailableError: openvino is not installed, the device is not here, has no units for the precision, or too
            little memory.
        UsageError: an int8 bundle on another device than a CPU, a CUDA device, threads of another device or
            twice, or a property that OpenVINO has not.
        BundleError: OpenVINO refuses the graph, or it was changed since the bundle was opened.
        E2EDeployError: when called: OpenVINO fails while it computes.
    """

    name = "openvino"

    def __init__(
        self,
        bundle: Bundle,
        graph: GraphEntry,
        device: str = "auto",
        *,
        threads: int | None = None,
        provider_options: Mapping[str, Any] | None = None,
    ) -> None:
        asked = parse_device(device)
        self._openvino = import_openvino()
        core = openvino_core()
        where = find_device(core, asked)
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision_hint(core, where, bundle.manifest.precision),
        }
        if where == CPU:
            # Pinned threads of two engines, or of two processes, would share the first cores.
            settings["ENABLE_CPU_PINNING"] = False
        if threads is not None:
            if where != CPU:
                raise UsageError(f"`threads` has no effect with openvino on {asked}")
            if THREADS in (provider_options or {}):
                raise UsageError(
                    f"`threads` and {THREADS} of `provider_options` are the same thing: give one of them"
                )
            settings[THREADS] = threads
        compiled = compile_graph(
            core, bundle, graph, where, settings | dict(provider_options or {})
        )
        self._graph, self._layout = graph, Layout.of(graph, bundle.manifest.kinds)
        self.device = describe(compiled, core, where)
        self._compiled: Any = compiled
        self._request: Any = compiled.create_infer_request()

    def __call__(self, frame: npt.NDArray[Any], out: Result | None = None) -> Result:
        """Result of frames, uint8 RGB as the graph takes them; of a core graph's rgb float32 [3, H, W]."""
        if out is None:
            out = np.empty(self._layout.block_shape(frame.ndim), np.float32)
        results = self._layout.apart(out, 4)
        # OpenVINO takes no memory that may not be written to.
        given = frame if frame.flags.writeable else frame.copy()
        try:
            with stoppable(self._cancel):
                self._request.set_input_tensor(
                    self._over(given if given.ndim == 4 else given[None])
                )
                for index, result in enumerate(results.values()):
                    self._request.set_output_tensor(index, self._over(result))
                # Not infer(), which with one thread does not hear of a cancellation.
                self._request.start_async()
                self._request.wait()
        except BaseException as error:
            # Its end waits for what is still being computed, into memory that is free as soon as this raises.
            self._request = None
            self._request = self._compiled.create_infer_request()
            if not isinstance(error, Exception):
                raise
            what = f"{self._graph.onnx} fails in OpenVINO"
            raise failed(what, said(error), E2EDeployError) from error
        return out

    def _cancel(self) -> None:
        request = self._request
        if request is not None:
            request.cancel()

    def _over(self, array: npt.NDArray[Any]) -> Any:
        """A Tensor over the memory of an array."""
        return self._openvino.Tensor(array, shared_memory=True)

    def close(self) -> None:
        """Drop the compiled graph and its memory."""
        self._request = self._compiled = None
