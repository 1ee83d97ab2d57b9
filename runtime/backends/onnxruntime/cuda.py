"""ONNX Runtime's CUDA provider in the GPU's pipeline: page-locked buffers, two slots, the pipeline's own stream.

A session queues its kernels in the stream it is given and does not wait; what it reads and writes is bound once a slot.
A run is recorded by the driver and not by ONNX Runtime, which keeps a recording for each thread that calls, and would
make another one while frames are on their way: here any thread launches the same. ONNX Runtime is told all the same
(``enable_cuda_graph``) and asked to record nothing (``gpu_graph_id`` -1): it frees what it copied from the host in a
call that the stream makes, which a recording would repeat, unless it knows (1.31, cuda_stream_handle.cc).
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.bundle.manifest import GraphEntry
from e2e_deploy.errors import BundleError, E2EDeployError, failed
from e2e_deploy.nvidia.cuda_driver import CudaDriver, Driver
from e2e_deploy.packages import import_onnxruntime
from e2e_deploy.runtime.backends.gpu.backend import GpuBackend
from e2e_deploy.runtime.backends.gpu.computation import DriverRecording
from e2e_deploy.runtime.backends.layout import Layout
from e2e_deploy.runtime.backends.onnxruntime.memory import return_memory
from e2e_deploy.runtime.backends.onnxruntime.options import session_options as make_options
from e2e_deploy.runtime.backends.onnxruntime.provider import EXTRA, GpuProvider
from e2e_deploy.runtime.backends.onnxruntime.session import open_session

_NO_WAIT = ("disable_synchronize_execution_providers", "1")
_RECORD_NOTHING = ("gpu_graph_id", "-1")
_RECORDABLE = "enable_cuda_graph"
_MOST_BOUND = 16
"""Pairs of addresses whose bindings are kept: the slots', and of a caller's arrays the newest."""
_FIRST_FLASH = 80
"""Compute capability from which the attention that ONNX Runtime prefers adds in float32."""
_CUTLASS = "2"
"""Of ``sdpa_kernel``: CUTLASS's attention alone, which adds in float32 everywhere."""


class OrtComputation:
    """A session in one stream.

    Args:
        driver: of the GPU.
        ort: the onnxruntime module.
        session: that queues in ``stream``.
        graph: its input.
        layout: of its outputs.
        index: of the CUDA device.
        stream: of the pipeline.
        why_not: why no run may be recorded as a CUDA graph; empty where it may.
    """

    def __init__(
        self,
        driver: Driver,
        ort: Any,
        session: Any,
        graph: GraphEntry,
        layout: Layout,
        index: int,
        stream: int,
        *,
        why_not: str,
    ) -> None:
        self._driver, self._ort, self._session = driver, ort, session
        self._graph, self._layout = graph, layout
        self._index, self._stream = index, stream
        self._why_not = why_not
        self._options = ort.RunOptions()
        self._options.add_run_config_entry(*_NO_WAIT)
        self._options.add_run_config_entry(*_RECORD_NOTHING)
        self._bound: dict[tuple[int, int], Any] = {}

    def queue(self, frame: int, result: int) -> None:
        """Queue one run, without waiting."""
        try:
            bound = self._bound.get((frame, result)) or self._bind(frame, result)
            self._session.run_with_iobinding(bound, self._options)
        except Exception as error:
            what = f"{self._graph.onnx} fails in ONNX Runtime"
            raise failed(what, error, E2EDeployError) from error

    def _bind(self, frame: int, result: int) -> Any:
        while len(self._bound) >= _MOST_BOUND:
            self._bound.popitem()  # the newest: those of the slots came first
        bound = self._session.io_binding()

        takes, where = self._graph.inputs[0], ("cuda", self._index)
        kind = np.dtype(takes.dtype).type
        bound.bind_input(takes.name, *where, kind, list(takes.shape), frame)
        for place in self._layout.places:
            at = result + place.offset
            bound.bind_output(place.name, *where, np.float32, list(place.shape), at)
        self._bound[frame, result] = bound
        return bound

    def record(self, frame: int, result: int) -> DriverRecording:
        """The run as a CUDA graph: of a warm session, whose memory stays where it is."""
        if self._why_not:
            raise E2EDeployError(self._why_not)
        return DriverRecording(self._driver, self._stream, partial(self.queue, frame, result))

    def close(self) -> None:
        """Drop the session and its memory; the stream must be there still."""
        self._bound.clear()
        if self._session is not None:
            self._session = None
            return_memory(self._ort)


class OrtCudaBackend(GpuBackend):
    """One ONNX graph in a session on the CUDA provider. For one thread at a time.

    Args:
        bundle: opened.
        graph: one of its graphs, or the variant of one: ``graph.onnx`` is what runs.
        provider: the CUDA provider with its options.
        index: of the CUDA device.
        fitted: whether the file is the variant for this provider.
        threads: of one operator on the CPU.
        session_options: as options.session_options has them, over ours.
        driver: of the GPU; the real one if None.

    Raises:
        UnavailableError: cuda-python or the driver is not here, or the provider does not start.
        UsageError: an option that ONNX Runtime has not.
        BundleError: ONNX Runtime refuses the graph, or it was changed since the bundle was opened.
    """

    name = "onnxruntime"

    def __init__(
        self,
        bundle: Bundle,
        graph: GraphEntry,
        provider: GpuProvider,
        index: int,
        *,
        fitted: bool,
        threads: int | None = None,
        session_options: Mapping[str, Any] | None = None,
        driver: Driver | None = None,
    ) -> None:
        self._ort, self._provider, self._fitted = import_onnxruntime(), provider, fitted
        self._threads, self._given = threads, session_options
        driver = driver or CudaDriver(EXTRA, index)
        super().__init__(bundle, graph, driver, index, "ONNX Runtime")

    def _load(self, bundle: Bundle) -> None:
        form = "graph for this provider" if self._fitted else "portable graph"
        self._start(partial(self._computation, bundle), f"{self._provider.title}, {form}")

    def _computation(self, bundle: Bundle, stream: int) -> OrtComputation:
        chosen = {_RECORDABLE: "1"} | self._provider.options
        if self._fitted and int(self._driver.gpu.target.removeprefix("sm")) < _FIRST_FLASH:
            chosen = {"sdpa_kernel": _CUTLASS} | chosen
        chosen["user_compute_stream"] = str(stream)
        why_not = ""
        if chosen[_RECORDABLE] == "0":
            why_not = f"`provider_options` turn `{_RECORDABLE}` off"
        try:
            session = self._session(bundle, chosen)
        except BundleError as error:
            if why_not or "graph capture" not in str(error):
                raise
            why_not = str(error)  # some nodes are not on the GPU
            session = self._session(bundle, chosen | {_RECORDABLE: "0"})
        return OrtComputation(
            self._driver,
            self._ort,
            session,
            self._graph,
            self._layout,
            self.gpu or 0,
            stream,
            why_not=why_not,
        )

    def _session(self, bundle: Bundle, chosen: dict[str, str]) -> Any:
        options = make_options(
            self._ort, bundle, on_cpu=False, threads=self._threads, given=self._given
        )
        provider = self._provider.with_options(chosen)
        return open_session(self._ort, bundle, self._graph, options, provider)
