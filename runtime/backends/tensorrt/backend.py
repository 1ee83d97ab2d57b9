"""TensorRT and TensorRT-RTX: the backends that run a bundle's plans on an NVIDIA GPU, without torch.

Loads only a plan that the manifest lists with its hash and that nobody else could have written. ``pipeline.py`` runs
it.
"""

import re
import weakref
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.bundle.manifest import GraphEntry, PlanEntry
from e2e_deploy.bundle.plan_files import graph_digest, rebuild_call, require_private
from e2e_deploy.errors import (
    E2EDeployError,
    PlanDamagedError,
    PlanMismatchError,
    UnavailableError,
    UsageError,
)
from e2e_deploy.names import PlanKind
from e2e_deploy.nvidia.cuda_driver import CudaDriver, Driver, Gpu
from e2e_deploy.nvidia.rtx_support import rtx_refusal
from e2e_deploy.nvidia.trt_api import PORTABLE, TITLES, TrtApi, find_api
from e2e_deploy.nvidia.trt_layers import summarise_layers
from e2e_deploy.runtime.backends.backend import Closing, GpuPicture, Picture, Result, result_shape
from e2e_deploy.runtime.backends.device import parse_device
from e2e_deploy.runtime.backends.dlpack import CUDA, RawArray
from e2e_deploy.runtime.backends.tensorrt.loaded_plan import LoadedPlan
from e2e_deploy.runtime.backends.tensorrt.pipeline import ALIGNMENT, SLOTS, Pipeline
from e2e_deploy.runtime.backends.tensorrt.transfers import Transfers


def _runs_on(entry: PlanEntry, gpu: Gpu) -> bool:
    """Whether the plan's target is this GPU's."""
    if entry.gpu and entry.gpu != gpu.name:
        return False
    if entry.target == PORTABLE:
        return int(re.sub(r"\D", "", gpu.target) or 0) >= 80
    return entry.target == gpu.target


def choose_plan(
    bundle: Bundle, graph: GraphEntry, library: PlanKind, version: str, gpu: Gpu
) -> PlanEntry:
    """The plan of ``graph`` that fits here; one made for this GPU alone is preferred to a portable one.

    Raises:
        PlanMismatchError: there is none; says what the bundle holds, what is here, and the command that builds one.
        UnavailableError: the library does not serve this GPU, or the driver is too old for the plan.
    """
    if library == "tensorrt-rtx" and (refusal := rtx_refusal(gpu)):
        raise UnavailableError(refusal)
    held = [
        entry
        for entry in bundle.manifest.plans
        if entry.backend == library and entry.frame_size == graph.frame_size
    ]
    call = rebuild_call(bundle.root, library)
    if not held:
        raise PlanMismatchError(
            f"the bundle {bundle.root} has no {TITLES[library]} plan for {graph.frame_hw[0]}x{graph.frame_hw[1]}; "
            f"build one with: {call}"
        )
    fitting = [entry for entry in held if _runs_on(entry, gpu)]
    if not fitting:
        built = ", ".join(dict.fromkeys(f"{e.target} {e.gpu}".strip() for e in held))
        raise PlanMismatchError(
            f"the bundle's {TITLES[library]} plans are for {built}, and this GPU is {gpu.target} ({gpu.name}); "
            f"rebuild with: {call}"
        )
    same = [entry for entry in fitting if entry.version == version]
    if not same:
        built = ", ".join(dict.fromkeys(e.version for e in fitting))
        raise PlanMismatchError(
            f"the bundle's plan was built by {TITLES[library]} {built}, and {version} is installed here; "
            f"rebuild with: {call}"
        )
    entry = min(same, key=lambda e: e.target == PORTABLE)
    if entry.cuda > gpu.cuda[0]:
        raise UnavailableError(
            f"the plan needs a driver for CUDA {entry.cuda}, and the one here supports CUDA "
            f"{gpu.cuda[0]}.{gpu.cuda[1]}: install a newer NVIDIA driver"
        )
    return entry


def read_plan(bundle: Bundle, entry: PlanEntry) -> bytes:
    """The plan's bytes, the very ones whose hash the manifest lists.

    Raises:
        BundleError: they differ, or others can write the file.
    """
    bundle.file(entry.file)
    require_private(bundle.root, entry.file)
    return bundle.read(entry.file, hash_again=True)


def load_plan(
    bundle: Bundle, graph: GraphEntry, api: TrtApi, gpu: Gpu
) -> tuple[PlanEntry, LoadedPlan]:
    """The plan of ``graph`` that fits here, loaded; it was built from this very graph and has its tensors.

    Raises:
        PlanMismatchError: none fits, as the manifest or the library says.
        PlanDamagedError: it is damaged, or was built from another graph.
        BundleError: it is not the file that the manifest lists, or others could have written it.
        UnavailableError: the driver does not fit, or the GPU has no room.
    """
    manifest, rebuild = bundle.manifest, rebuild_call(bundle.root, api.name)
    entry = choose_plan(bundle, graph, api.name, api.version, gpu)
    engine = LoadedPlan(api, read_plan(bundle, entry), entry.file, rebuild)
    try:
        digest = graph_digest(bundle.root, graph.onnx, lambda name: manifest.files[name].sha256)
        if engine.name != digest:
            raise PlanDamagedError(
                f"{entry.file} was built from another graph than {graph.onnx} of this bundle "
                f"({engine.name[:12] or 'none named'}, not {digest[:12]}); rebuild it with: {rebuild}"
            )
        found = {(t.name, t.is_input, t.dtype, t.shape) for t in engine.tensors()}
        wanted = {
            (spec.name, is_input, spec.dtype, tuple(spec.shape))
            for specs, is_input in ((graph.inputs, True), (graph.outputs, False))
            for spec in specs
        }
        if found != wanted:
            raise PlanDamagedError(
                f"{entry.file} has the tensors {sorted(found)}, the manifest lists {sorted(wanted)}; "
                f"rebuild it with: {rebuild}"
            )
    except BaseException:
        engine.close()
        raise
    return entry, engine


def inspect_plan(
    bundle: Bundle,
    graph: GraphEntry,
    library: PlanKind,
    *,
    api: TrtApi | None = None,
    driver: Driver | None = None,
) -> tuple[PlanEntry, dict[str, int]]:
    """The plan of ``graph`` that fits here, and its layers counted as summarise_layers does; needs its GPU.

    Raises:
        UnavailableError, BundleError: as TrtBackend.
    """
    api = api or find_api(library)
    with ExitStack() as stack:
        driver = driver or CudaDriver(library)
        stack.callback(driver.close)
        stack.enter_context(driver.unchanged())
        driver.use()
        entry, engine = load_plan(bundle, graph, api, driver.gpu)
        stack.callback(engine.close)
        return entry, summarise_layers(engine.information())


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


class TrtBackend(Closing):
    """One plan and the pipeline that runs it. For one thread at a time.

    Attributes:
        slots: frames that may be on their way at once.
        transfers: what was copied between host and GPU since it was loaded.
        cuda_graph: whether the plan runs as a CUDA graph; never in ``on_gpu``.
        cuda_graph_reason: why not; empty when it does.
        activation_bytes: GPU memory the execution context takes.
        entry: the manifest's entry of the plan.

    Raises:
        UnavailableError: the library, the driver or a fitting plan is not here.
        BundleError: the plan is not what the manifest says, or others could have written it.
    """

    slots = SLOTS

    def __init__(
        self,
        bundle: Bundle,
        graph: GraphEntry,
        device: str = "auto",
        *,
        library: PlanKind,
        api: TrtApi | None = None,
        driver: Driver | None = None,
    ) -> None:
        asked = parse_device(device)
        if asked.kind == "cpu":
            raise UsageError(f"{TITLES[library]} runs on a GPU only, not on {device}")
        self.name: str = library
        self._graph, self._task = graph, bundle.manifest.task_info
        self._single: set[int] = set()  # slots whose frame came without the axis of N
        self._pipeline: Pipeline | None = None
        self._closing = ExitStack()  # undoes in reverse, also what comes after a step that fails
        api = api or find_api(library)
        self._driver = driver or CudaDriver(library, asked.index)
        self.gpu: int | None = asked.index
        self._closing.callback(self._driver.close)
        with self._driver.unchanged():
            self._driver.use()
            try:
                self._load(bundle, graph, api)
                self._closing.callback(self._driver.use)
            except BaseException:
                with suppress(E2EDeployError):
                    self.close()
                raise

    def _load(self, bundle: Bundle, graph: GraphEntry, api: TrtApi) -> None:
        self.entry, engine = load_plan(bundle, graph, api, self._driver.gpu)
        self._closing.callback(engine.close)
        self.activation_bytes = engine.activation_bytes

        def failed(what: str) -> E2EDeployError:
            said = engine.last_errors()
            return E2EDeployError(f"{TITLES[self.name]} {what}{': ' + said if said else ''}")

        self._pipeline = pipeline = Pipeline(
            self._driver,
            engine.context,
            graph.inputs[0],
            graph.outputs[0],
            failed=failed,
            who=TITLES[self.name],
        )
        self._closing.callback(setattr, self, "_pipeline", None)
        self._closing.callback(pipeline.close)
        self.transfers: Transfers | None = pipeline.transfers
        self.stream = pipeline.stream
        self.cuda_graph_reason = pipeline.cuda_graph_reason
        self.cuda_graph = not self.cuda_graph_reason
        gpu = self._driver.gpu
        how = "one CUDA graph" if self.cuda_graph else f"no CUDA graph: {self.cuda_graph_reason}"
        memory = f"{self.activation_bytes / 2**20:.0f} MiB for activations"
        self.device = f"{gpu.name}, {gpu.target}, {how}, {memory}"

    @property
    def _running(self) -> Pipeline:
        assert self._pipeline is not None, "the backend is closed"
        return self._pipeline

    def __call__(self, frame: npt.NDArray[Any], out: Result | None = None) -> Result:
        """Result of frames, uint8 RGB as the plan takes them; at most one other may be on its way."""
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
        held = held.reshape(self._graph.outputs[0].shape)
        result = held[0] if slot in self._single else held
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
                    f"{what} starts at {array.address:#x} of the GPU's memory, and {TITLES[self.name]} takes "
                    f"multiples of {ALIGNMENT}: give a whole array, not a part of one"
                )
        with self._driver.unchanged():
            self._driver.use()
            out = out or self._new_result(frame)
            self._running.run(frame.address, out.address)
        return out

    def _new_result(self, frame: RawArray) -> RawArray:
        """Memory for the result of frames, of a driver of its own: it may outlive this one."""
        shape = result_shape(self._graph, self._task, frame.shape)
        memory = _Memory(self._driver.share(), 4 * int(np.prod(shape)))
        return RawArray(memory.address, shape, "float32", (CUDA, self.gpu or 0), owner=memory)

    @property
    def gpu_ms(self) -> float:
        """Milliseconds that the last frame computed, without its copies and without waiting for another."""
        return self._running.gpu_ms

    def close(self) -> None:
        """Wait, then release what depends before what it depends on; a second call does nothing."""
        stack, self._closing = self._closing, ExitStack()
        with self._driver.unchanged():
            stack.close()
