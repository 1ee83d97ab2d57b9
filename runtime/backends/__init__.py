"""What runs a graph of a bundle: one entry a backend, and which of them ``auto`` takes."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.bundle.manifest import GraphEntry
from e2e_deploy.errors import UnavailableError, UsageError
from e2e_deploy.names import PLAN_TITLES, BackendName, PlanKind
from e2e_deploy.nvidia.hardware import cuda_device_count
from e2e_deploy.runtime.backends.backend import Backend
from e2e_deploy.runtime.backends.device import parse_device, require_reach


def _onnxruntime(bundle: Bundle, graph: GraphEntry, device: str, **options: Any) -> Backend:
    from e2e_deploy.runtime.backends.onnxruntime.backend import load_onnxruntime

    return load_onnxruntime(bundle, graph, device, **options)


def _openvino(bundle: Bundle, graph: GraphEntry, device: str, **options: Any) -> Backend:
    from e2e_deploy.runtime.backends.openvino.backend import OpenVinoBackend

    return OpenVinoBackend(bundle, graph, device, **options)


def _torch(bundle: Bundle, graph: GraphEntry, device: str, **options: Any) -> Backend:
    from e2e_deploy.runtime.backends.torch import TorchBackend

    return TorchBackend(bundle, graph, device, **options)


def _tensorrt(bundle: Bundle, graph: GraphEntry, device: str) -> Backend:
    from e2e_deploy.runtime.backends.tensorrt.backend import TrtBackend

    return TrtBackend(bundle, graph, device, library="tensorrt")


def _tensorrt_rtx(bundle: Bundle, graph: GraphEntry, device: str) -> Backend:
    from e2e_deploy.runtime.backends.tensorrt.backend import TrtBackend

    return TrtBackend(bundle, graph, device, library="tensorrt-rtx")


def _inductor(bundle: Bundle, graph: GraphEntry, device: str, **options: Any) -> Backend:
    from e2e_deploy.runtime.backends.inductor.backend import load_inductor

    return load_inductor(bundle, graph, device, **options)


@dataclass(frozen=True)
class Entry:
    """A backend.

    Attributes:
        load: imports its framework and loads a graph of a bundle, so that a robot needs only the one it uses.
        options: what it takes beside bundle, graph and device.
        cuda: whether it reaches NVIDIA's GPUs, where its framework was built for them.
    """

    load: Callable[..., Backend]
    options: tuple[str, ...] = ()
    cuda: bool = True


ENTRIES: dict[BackendName, Entry] = {
    "onnxruntime": Entry(_onnxruntime, ("threads", "provider_options", "session_options")),
    "openvino": Entry(_openvino, ("threads", "provider_options"), cuda=False),
    "torch": Entry(_torch, ("threads", "checkpoint")),
    "tensorrt": Entry(_tensorrt),
    "tensorrt-rtx": Entry(_tensorrt_rtx),
    "inductor": Entry(_inductor, ("threads",)),
}
FASTEST_FIRST: tuple[PlanKind, ...] = ("tensorrt", "tensorrt-rtx", "inductor")
"""On a GPU. On an H200 in fp16 a compiled graph took 30 ms; ONNX Runtime has no measurement of its present form."""


def load_backend(
    name: BackendName, bundle: Bundle, graph: GraphEntry, device: str, options: Mapping[str, Any]
) -> Backend:
    """The backend ``name`` with a graph of a bundle.

    Args:
        name: of the backend.
        bundle: opened.
        graph: one of its graphs.
        device: one of names.DEVICES.
        options: what the user gave of Entry.options.

    Raises:
        UsageError: an unknown device, or an option that the backend has not.
        UnavailableError: the backend or the device is not here.
        BundleError: it refuses the graph.
    """
    require_reach(parse_device(device), name)
    entry = ENTRIES[name]
    for option in options:
        if option not in entry.options:
            having = [other for other, each in ENTRIES.items() if option in each.options]
            raise UsageError(
                f"`{option}` has no effect with {name}; it is an option of {' and '.join(having)}"
            )
    return entry.load(bundle, graph, device, **options)


def choose_backend(
    bundle: Bundle, graph: GraphEntry, device: str, options: Mapping[str, Any]
) -> tuple[Backend, str]:
    """The backend for ``auto`` and why: a fitting plan of the bundle on a GPU, else ONNX Runtime, of bf16 OpenVINO.

    A plan that is damaged, or that others could have written, is an error and no reason for another backend.
    """
    asked = parse_device(device)
    if asked.is_intel:
        return load_backend("openvino", bundle, graph, device, options), f"{asked} was asked for"
    on_cpu = asked.kind == "cpu" or not cuda_device_count()
    plans = [entry for entry in bundle.manifest.plans if entry.frame_size == graph.frame_size]
    for_cpu = [entry for entry in plans if entry.backend == "inductor" and not entry.gpu]
    for_gpu = {entry.backend for entry in plans if entry not in for_cpu}
    why = "the bundle has no plan for this frame size"
    if plans and not for_gpu:
        # No measurement shows that it is faster than ONNX Runtime on a CPU.
        why = 'the bundle\'s plan is for CPUs, where only `backend="inductor"` takes it'
    elif plans and asked.kind == "cpu":
        why = "the CPU was asked for"
    elif plans and on_cpu:
        why = "no NVIDIA GPU for the bundle's plans"
    elif plans:
        fastest = [name for name in FASTEST_FIRST if name in for_gpu]
        backend, why = _first_here(fastest, bundle, graph, device, options)
        if backend is not None:
            return backend, f"the bundle's {PLAN_TITLES[backend.name]} plan fits this GPU"
    if bundle.manifest.precision == "bf16" and on_cpu and asked.kind != "cuda":
        names: list[BackendName] = ["openvino", "inductor"] if for_cpu else ["openvino"]
        backend, missing = _first_here(names, bundle, graph, "cpu", options)
        if backend is None:
            raise UnavailableError(
                f"{why}, a bf16 bundle is openvino's on a CPU, and that is not here: {missing}"
            )
        return backend, f"{why}; ONNX Runtime has no bf16 on a CPU"
    # It comes with the plain install and is faster than torch on every device measured.
    backend = load_backend("onnxruntime", bundle, graph, device, options)
    if not on_cpu and backend.device.startswith("CPU"):
        why += "; this onnxruntime has no provider for the GPU: pip install 'onnxruntime-gpu[cuda,cudnn]'"
    return backend, why


def _first_here(
    names: Iterable[BackendName],
    bundle: Bundle,
    graph: GraphEntry,
    device: str,
    options: Mapping[str, Any],
) -> tuple[Backend | None, str]:
    """The first of these backends that can run here; None, and why each cannot."""
    missing = []
    for name in names:
        # Plans of inductor are for CPUs too; where others are for a GPU, one is meant.
        there = "cuda" if name == "inductor" and device == "auto" else device
        try:
            return load_backend(name, bundle, graph, there, options), ""
        except UnavailableError as error:
            missing.append(str(error))
    return None, "; ".join(missing)
