"""``doctor``: what works on this machine, and what to install for the rest, found by trying it."""

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

from e2e_deploy.errors import UnavailableError


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
    from e2e_deploy.packages import import_openvino

    try:
        openvino = import_openvino()
    except UnavailableError as error:
        return False, str(error), "pip install 'e2e-deploy[openvino]'"
    core = openvino.Core()
    units = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    bf16 = "runs bf16 bundles" if "BF16" in units else "no units for bf16 on this CPU"
    return True, f"{openvino.__version__} on {', '.join(core.available_devices)}; {bf16}", ""


def _cuda() -> tuple[bool, str, str]:
    from e2e_deploy.nvidia.hardware import cuda_device_count

    count = cuda_device_count()
    return (
        count > 0,
        f"{count} devices",
        "an NVIDIA driver and GPU; everything also runs on the CPU",
    )


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
    ("openvino (bf16 on CPUs)", False, _openvino),
    ("mp4 output", True, _h264),
    ("CUDA device", False, _cuda),
    ("display", False, _display),
    ("cameras", False, _cameras),
    ("pillow_heif (HEIC pictures)", False, _package("pillow_heif", "heif")),
    ("torch (export, train)", False, _package("torch", "export")),
    ("diffusers (export, train)", False, _package("diffusers", "export")),
    ("onnx (export)", False, _package("onnx", "export")),
    ("mitsuba (data render)", False, _package("mitsuba", "train")),
    ("tensorrt", False, _package("tensorrt", "tensorrt")),
    ("tensorrt_rtx", False, _package("tensorrt_rtx", "tensorrt-rtx")),
)


def doctor() -> list[Finding]:
    """Try everything that the verbs need; what fails is a finding, never an error."""
    findings = []
    for what, needed, look in _CHECKS:
        try:
            works, found, remedy = look()
        except Exception as error:
            # Whatever a broken installation raises is what was looked for.
            works, found = False, " ".join(str(error).split())
            remedy = "pip install --force-reinstall e2e-deploy"
        findings.append(Finding(what, works, found, remedy, needed))
    return findings
