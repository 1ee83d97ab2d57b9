"""``doctor``: what works on this machine, and what to install for the rest, found by trying it."""

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from e2e_deploy.errors import UnavailableError
from e2e_deploy.names import PlanKind

if TYPE_CHECKING:
    from e2e_deploy.nvidia.cuda_driver import Gpu


@dataclass(frozen=True)
class Finding:
    """One thing that was tried: whether it works, what was found, what to do otherwise."""

    what: str
    works: bool
    found: str
    remedy: str = ""
    needed: bool = False
    """The plain install does not work without."""


def _package(module: str, extra: str) -> Callable[[], tuple[bool, str, str]]:
    def look() -> tuple[bool, str, str]:
        remedy = f"pip install 'e2e-deploy[{extra}]'" if extra else "pip install e2e-deploy"
        try:
            loaded = importlib.import_module(module)
        except Exception as error:
            # A package that is there and does not load fails in its own way; the reason is what is wanted.
            reason = (
                "not installed"
                if isinstance(error, ModuleNotFoundError)
                else " ".join(str(error).split())
            )
            return False, reason, remedy
        return True, str(getattr(loaded, "__version__", "installed")), ""

    return look


def _onnxruntime() -> tuple[bool, str, str]:
    from e2e_deploy.packages import import_onnxruntime

    ort = import_onnxruntime()

    providers = ", ".join(
        name.removesuffix("ExecutionProvider") for name in ort.get_available_providers()
    )
    return True, f"{ort.__version__}, built with {providers}", ""


def _openvino() -> tuple[bool, str, str]:
    from e2e_deploy.packages import import_openvino, openvino_core
    from e2e_deploy.runtime.backends.openvino.devices import has_int8_units

    try:
        openvino = import_openvino()
    except UnavailableError as error:
        return False, str(error), "pip install 'e2e-deploy[openvino]'"
    core = openvino_core()
    units = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    bf16 = "runs bf16 bundles" if "BF16" in units else "no units for bf16 on this CPU"
    int8 = "runs int8 bundles" if has_int8_units() else "no 8-bit dot products for int8"
    where = ", ".join(core.available_devices)
    return True, f"{openvino.__version__} on {where}; {bf16}; {int8}", ""


def _cuda() -> tuple[bool, str, str]:
    from e2e_deploy.nvidia.hardware import cuda_device_count

    count = cuda_device_count()
    return (
        count > 0,
        f"{count} devices",
        "an NVIDIA driver and GPU; everything also runs on the CPU",
    )


def _gpu() -> "Gpu | None":
    """The first GPU; None without one."""
    from e2e_deploy.nvidia.cuda_driver import current_gpu

    return current_gpu()


def _bf16() -> tuple[bool, str, str]:
    from e2e_deploy.nvidia.hardware import bf16_units

    units = ", ".join(bf16_units())
    return bool(units), units or "no units for it", "fp32, fp16 and int8 bundles need none"


def _tensorrt_rtx() -> tuple[bool, str, str]:
    from e2e_deploy.nvidia.rtx_support import rtx_refusal

    works, found, remedy = _package("tensorrt_rtx", "tensorrt-rtx")()
    gpu = _gpu() if works else None
    if gpu is not None and (refusal := rtx_refusal(gpu)):
        return False, f"{found}; {refusal}", "its plans for other machines can be built here"
    return works, found, remedy


def _onnxruntime_on_gpu() -> tuple[bool, str, str]:
    from e2e_deploy.nvidia.hardware import cuda_device_count
    from e2e_deploy.packages import import_onnxruntime
    from e2e_deploy.runtime.backends.onnxruntime.provider import find_gpu_provider

    if not cuda_device_count():
        return False, "no CUDA device", "everything also runs on the CPU"
    provider = find_gpu_provider(import_onnxruntime(), "fp16")
    if provider is None:
        return (
            False,
            "this build has no provider for it",
            "pip install 'onnxruntime-gpu[cuda,cudnn]'",
        )
    return (
        True,
        f"{provider.title}; auto takes it after plans, which were faster where measured",
        "",
    )


def _inductor_to_run() -> tuple[bool, str, str]:
    works, found, remedy = _package("torch", "inductor")()
    if not works:
        return works, found, remedy
    import torch

    from e2e_deploy.bundle.cpu_targets import cpu_targets
    from e2e_deploy.nvidia.hardware import cpu_features

    on_cpu = f"CPU ({', '.join(cpu_targets(cpu_features())) or 'no known level'})"
    on_gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    if not on_gpu and _gpu() is not None:
        return False, f"torch {found} does not reach the GPU here", "a build of torch with CUDA"
    devices = f"{on_gpu} and {on_cpu}" if on_gpu else on_cpu
    return True, f"torch {found} on {devices}; no compiler is needed", ""


def _inductor_to_build() -> tuple[bool, str, str]:
    from e2e_deploy.export.engines.inductor_job import inductor_job
    from e2e_deploy.packages import require

    require("diffusers", "export")
    job, note = inductor_job(_gpu())
    return (
        True,
        f"for {job.gpu.name if job.gpu else 'CPU'} {job.target}" + (note and f"; {note}"),
        "",
    )


def _auto_to_export() -> tuple[bool, str, str]:
    from e2e_deploy.packages import require

    require("onnx_ir", "export")
    from e2e_deploy.export.engines.build import plan_jobs

    jobs, notes = plan_jobs("auto")
    plans = ", ".join(f"{job.title} for {job.target}" for job in jobs)
    return True, "; ".join(filter(None, [plans and f"an fp16 plan: {plans}", *notes])), ""


def _auto_to_run() -> tuple[bool, str, str]:
    from e2e_deploy.runtime.backends import FASTEST_FIRST

    gpu = _gpu()
    if gpu is None:
        return (
            True,
            "onnxruntime; bf16 bundles: openvino, else their inductor plan; no GPU for others",
            "",
        )
    why = {kind: _why_not(kind, gpu) for kind in FASTEST_FIRST}
    plans = [kind for kind in FASTEST_FIRST if not why[kind]]
    _, fallback, _ = _onnxruntime_on_gpu()
    taken = f"the bundle's plan of {', else of '.join(plans)}" if plans else "no plan"
    missing = [f"not {kind}: {said}" for kind, said in why.items() if said]
    return True, "; ".join([f"{taken}, else onnxruntime ({fallback})", *missing]), ""


def _why_not(kind: PlanKind, gpu: "Gpu") -> str:
    """Why no plan of this kind runs on the GPU at hand; empty where one may."""
    from e2e_deploy.nvidia.rtx_support import rtx_refusal
    from e2e_deploy.nvidia.trt_api import find_api

    if kind == "inductor":
        works, found, _ = _inductor_to_run()
        return "" if works else found
    if kind == "tensorrt-rtx" and (refusal := rtx_refusal(gpu)):
        return refusal
    try:
        find_api(kind)
    except UnavailableError as error:
        return str(error)
    return ""


def _serve() -> tuple[bool, str, str]:
    from e2e_deploy.packages import installed_versions, require

    for module in ("fastapi", "uvicorn", "prometheus_client"):
        require(module, "serve")
    found = installed_versions(("fastapi", "uvicorn", "prometheus-client"))
    return True, ", ".join(f"{name} {version}" for name, version in found.items()), ""


def _display() -> tuple[bool, str, str]:
    if not sys.platform.startswith("linux"):
        return True, sys.platform, ""
    name = os.environ.get("WAYLAND_DISPLAY") or os.environ.get("DISPLAY")
    return bool(name), name or "none", "results are shown on a display; files need none"


def _cameras() -> tuple[bool, str, str]:
    devices = (
        sorted(f"/dev/{name}" for name in os.listdir("/dev") if name.startswith("video"))
        if os.path.isdir("/dev")
        else []
    )
    return bool(devices), ", ".join(devices) or "none", "plug one in; files need none"


def _h264() -> tuple[bool, str, str]:
    import av

    try:
        av.Codec("libx264", "w")
    except ValueError:  # av.codec.codec.UnknownCodecError
        return False, f"PyAV {av.__version__} without libx264", "pip install --force-reinstall av"
    return True, f"PyAV {av.__version__} with libx264", ""


# (what, needed by the plain install, how it is found)
_CHECKS: tuple[tuple[str, bool, Callable[[], tuple[bool, str, str]]], ...] = (
    ("numpy", True, _package("numpy", "")),
    ("opencv", True, _package("e2e_deploy.system.opencv", "")),
    ("pillow", True, _package("PIL", "")),
    ("onnxruntime", True, _onnxruntime),
    ("onnxruntime on a GPU", False, _onnxruntime_on_gpu),
    ("bf16 on this CPU", False, _bf16),
    ("openvino (bf16 on CPUs)", False, _openvino),
    ("inductor, to run", False, _inductor_to_run),
    ("inductor, to build", False, _inductor_to_build),
    ("mp4 output", True, _h264),
    ("CUDA device", False, _cuda),
    ("display", False, _display),
    ("cameras", False, _cameras),
    ("pillow_heif (HEIC pictures)", False, _package("pillow_heif", "heif")),
    ("rosbags (robots' logs)", False, _package("rosbags.rosbag2", "robotics")),
    ("mcap (robots' logs)", False, _package("mcap", "robotics")),
    ("pyarrow (LeRobot data sets)", False, _package("pyarrow", "robotics")),
    ("zenoh (live)", False, _package("zenoh", "robotics")),
    ("foxglove (live)", False, _package("foxglove", "robotics")),
    ("rerun (live, recordings)", False, _package("rerun", "robotics")),
    ("serve over HTTP", False, _serve),
    ("ray (bulk)", False, _package("ray", "bulk")),
    ("torch (export, train)", False, _package("torch", "export")),
    ("diffusers (export, train)", False, _package("diffusers", "export")),
    ("onnx (export)", False, _package("onnx", "export")),
    ("accelerate (train)", False, _package("accelerate", "train")),
    ("scipy (ensembles in eval)", False, _package("scipy", "baselines")),
    ("mitsuba (data render)", False, _package("mitsuba", "train")),
    ("tensorrt", False, _package("tensorrt", "tensorrt")),
    ("tensorrt_rtx", False, _tensorrt_rtx),
    ("auto, to export", False, _auto_to_export),
    ("auto, to run", False, _auto_to_run),
)


def doctor() -> list[Finding]:
    """Try everything that the verbs need; what fails is a finding, never an error."""
    findings = []
    for what, needed, look in _CHECKS:
        try:
            works, found, remedy = look()
        except UnavailableError as error:  # says itself what to do
            works, found, remedy = False, str(error), ""
        except Exception as error:
            # Whatever a broken installation raises is what was looked for.
            works, found = False, " ".join(str(error).split())
            remedy = "pip install --force-reinstall e2e-deploy"
        findings.append(Finding(what, works, found, remedy, needed))
    return findings
