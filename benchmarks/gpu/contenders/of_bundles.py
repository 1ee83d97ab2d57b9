"""The contenders that run a bundle, as a user loads it: ONNX Runtime on a GPU, TensorRT's two libraries, AOTInductor.

A bundle takes one frame. Its weights come from the checkpoint it was exported from, so it brings its own reference.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import e2e_deploy as e2e
from benchmarks.full_size import full_size_checkpoint, with_tiny_coder
from benchmarks.gpu.contenders.in_torch import Contender
from benchmarks.gpu.timing import Call
from e2e_deploy.bundle.bundle import Bundle, open_bundle
from e2e_deploy.errors import ParityError, UnavailableError
from e2e_deploy.export.engines.build import job_for
from e2e_deploy.export.engines.replace_plan import replace_plan
from e2e_deploy.export.exporter import export_bundle
from e2e_deploy.export.verified_packages import verify_apart
from e2e_deploy.model.checkpoint import Checkpoint, bundled_checkpoint, open_checkpoint
from e2e_deploy.names import PLAN_KINDS, BackendName, Precision, TrtKind
from e2e_deploy.nvidia.cuda_driver import current_gpu
from e2e_deploy.nvidia.hardware import cuda_device_count
from e2e_deploy.nvidia.trt_api import find_api
from e2e_deploy.packages import import_onnxruntime
from e2e_deploy.progress import Stages
from e2e_deploy.runtime.backends.onnxruntime.provider import GpuProvider, find_gpu_provider

LIBRARIES: tuple[TrtKind, ...] = ("tensorrt", "tensorrt-rtx")
SECONDS = 240.0
"""What an export of the full size and an engine may take."""
COMPILING_S = 480.0
"""The same with a package: an export took 168 s, compilation 281."""
PREPARED_S = 60.0
"""With a package that is there: copied, hashed, verified in a process of its own, loaded."""


def find_provider(precision: Precision) -> GpuProvider:
    """ONNX Runtime's provider for the GPU, with the options that the runtime sets for bundles of that precision.

    Raises:
        UnavailableError: no GPU, or an ONNX Runtime without one for it.
    """
    ort = import_onnxruntime()
    if not cuda_device_count():
        raise UnavailableError("no CUDA device")
    if (provider := find_gpu_provider(ort, precision)) is None:
        raise UnavailableError(
            f"ONNX Runtime {ort.__version__} here has no provider for a GPU, only "
            f"{', '.join(ort.get_available_providers())}"
        )
    return provider


def find_library(backend: str) -> TrtKind | None:
    """The one of LIBRARIES that this backend is, by name; None for another backend."""
    return next((library for library in LIBRARIES if library == backend), None)


def require_backend(name: str, device: str) -> None:
    """Raise UnavailableError if the backend cannot run on that device here."""
    if library := find_library(name):
        if device != "cuda" or not cuda_device_count():
            raise UnavailableError("no CUDA device")
        find_api(library)
    elif device == "cuda" and name == "onnxruntime":
        find_provider("fp32")
    elif device == "cuda" and not torch.cuda.is_available():
        raise UnavailableError("torch sees no CUDA device")


def with_plan(bundle: Bundle, name: str, device: str, *, stages: Stages | None = None) -> Bundle:
    """The bundle with a plan for that device, where the backend runs plans; of AOTInductor for GPUs alone.

    On a CPU a package takes minutes to compile, and its backend then says that the bundle has none.
    """
    kind = next((kind for kind in PLAN_KINDS if kind == name), None)
    if kind is None or (kind == "inductor" and device != "cuda"):
        return bundle
    return replace_plan(bundle, bundle.manifest.graphs[0], kind, stages=stages)


def bundle_root(
    work: Path,
    frame_hw: tuple[int, int],
    precision: Precision,
    *,
    small: bool,
    task: str = "depth",
    turbo: bool = False,
) -> Path:
    """Where ``make_bundle`` has its bundle."""
    model, vae = "tiny" if small else "full", "-turbo" if turbo else ""
    return work / f"{model}{vae}-{task}-{precision}-{frame_hw[0]}x{frame_hw[1]}"


def compiling_s(root: Path) -> float:
    """What a contender with a package for this device may take to make, whose bundle is to be in ``root``."""
    if not (root / "manifest.json").is_file():
        return COMPILING_S
    try:
        job, _ = job_for("inductor", current_gpu())
    except UnavailableError:
        return COMPILING_S
    plans = open_bundle(root, hash_check=False).manifest.plans
    held = {(plan.backend, plan.version, plan.target) for plan in plans}
    return PREPARED_S if ("inductor", job.version, job.target) in held else COMPILING_S


def make_bundle(
    work: Path,
    frame_hw: tuple[int, int],
    *,
    precision: Precision,
    small: bool,
    task: str = "depth",
    resolution: int = 0,
    turbo: bool = False,
) -> Bundle:
    """The bundle of the full-size random checkpoint, or of e2e-tiny, for one frame size; kept below ``work``.

    ``turbo``: with a random AutoencoderTiny in the place of the VAE.
    """
    root = bundle_root(work, frame_hw, precision, small=small, task=task, turbo=turbo)
    if (root / "manifest.json").is_file():
        return open_bundle(root)
    work.mkdir(parents=True, exist_ok=True)
    folder = bundled_checkpoint(task) if small else full_size_checkpoint(work)
    if turbo:
        folder = with_tiny_coder(work / f"{root.name}-checkpoint", folder)
    checkpoint: Checkpoint = open_checkpoint(folder)
    return export_bundle(
        checkpoint,
        root,
        frame_sizes=[frame_hw],
        resolution=resolution,
        precision=precision,
        engine="onnx",
    )


def _reference(bundle: Bundle) -> tuple[Tensor, Any]:
    """The bundle's first frame on the GPU, [1, H, W, 3], and its result [1, H, W]."""
    frames, results = bundle.reference(bundle.manifest.graphs[0])
    (only,) = results.values()
    return torch.from_numpy(frames[:1]).cuda(), only[:1]


def build_onnxruntime(bundle: Bundle, *, on_host: bool) -> Contender:
    """ONNX Runtime's backend as a user loads it: on arrays of the GPU, or from host to host, where it is recorded.

    Raises:
        UnavailableError: it cannot start on the GPU.
    """
    find_provider(bundle.manifest.precision)
    weights = sum(
        file.bytes for name, file in bundle.manifest.files.items() if name.startswith("model")
    )
    return _loaded(bundle, "onnxruntime", weights, on_host=on_host)


def build_inductor(bundle: Bundle, *, on_host: bool, work: str = "specialised") -> Contender:
    """AOTInductor's package as a user loads it, compiled for this GPU unless the user's cache has it.

    Raises:
        UnavailableError: torch reaches no GPU here.
        E2EDeployError: it does not compile, or ends the process that runs it, which is another one first.
    """
    require_backend("inductor", "cuda")
    bundle = replace_plan(bundle, bundle.manifest.graphs[0], "inductor")
    # Random weights are outside the limits, and the row says how far; this asks whether it runs at all.
    with suppress(ParityError):
        verify_apart(bundle.root, "cuda")
    weights = sum(bundle.manifest.files[plan.file].bytes for plan in bundle.manifest.plans)
    return _loaded(bundle, "inductor", weights, on_host=on_host, work=work)


def _loaded(
    bundle: Bundle,
    backend: BackendName,
    weights: int,
    *,
    on_host: bool,
    work: str = "specialised",
) -> Contender:
    """A backend on arrays of the GPU, or from host to host, where it is recorded."""
    engine = e2e.load(bundle, backend=backend, device="cuda")
    if on_host:
        call = _from_host(engine)
    else:
        result = torch.empty(engine.graph.outputs[0].shape, dtype=torch.float32, device="cuda")

        def call(frame_1HW3: Tensor) -> Tensor:
            made: Tensor = engine(frame_1HW3, out=result)
            return made

    return Contender(
        call,
        weights_bytes=weights,
        work=work,
        owns=_reference(bundle),
        close=engine.close,
    )


def _from_host(engine: e2e.Engine) -> Call:
    """A call from a frame on the host to its result there; what is timed begins there too."""
    on_host: dict[int, Any] = {}

    def call(frame_1HW3: Tensor) -> Tensor:
        key = frame_1HW3.data_ptr()
        if key not in on_host:  # in the warm-up
            on_host[key] = frame_1HW3[0].cpu().numpy()
        return torch.from_numpy(engine(on_host[key]))[None]

    return call


def build_plan(bundle: Bundle, library: TrtKind) -> Contender:
    """An engine for this GPU, called as a user calls it: frame on the host to result on the host.

    Raises:
        UnavailableError: the library or the GPU is not here.
        E2EDeployError: it does not build or does not run here.
    """
    require_backend(library, "cuda")
    bundle = replace_plan(bundle, bundle.manifest.graphs[0], library)
    engine = e2e.load(bundle, backend=library)
    return Contender(
        _from_host(engine), work="specialised", owns=_reference(bundle), close=engine.close
    )
