"""How ONNX Runtime reaches an NVIDIA GPU: its CUDA provider, else the TensorRT-RTX plugin where that is installed.

The plugin (onnxruntime-ep-nv-tensorrt-rtx) goes with the CPU package of ONNX Runtime, so the two are never both here.
"""

import contextlib
import functools
import importlib
import sys
from dataclasses import dataclass, field
from typing import Any

from e2e_deploy.errors import UnavailableError

CUDA = "CUDAExecutionProvider"
PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"


@dataclass(frozen=True)
class GpuProvider:
    """An execution provider.

    Attributes:
        name: as a session lists it.
        title: for people.
        remedy: what to do where it does not start.
        options: of a provider that is part of ONNX Runtime.
        devices: a plugin's devices; empty for one that is part of ONNX Runtime.
    """

    name: str
    title: str
    remedy: str
    options: dict[str, str] = field(default_factory=dict)
    devices: list[Any] = field(default_factory=list)


@functools.cache
def _preload(ort: Any) -> None:
    """Load CUDA and cuDNN from where pip put them; the system's loader does not look there."""
    preload = getattr(ort, "preload_dlls", None)  # from ONNX Runtime 1.21
    if preload is not None:
        with contextlib.redirect_stdout(sys.stderr):  # it prints what it does not find
            preload()


@functools.cache
def _register(ort: Any) -> str:
    """The plugin's name after ONNX Runtime was told of it; empty where it is not installed."""
    try:
        plugin = importlib.import_module(PLUGIN)
        name = str(plugin.get_ep_name())
        ort.register_execution_provider_library(name, plugin.get_library_path())
    except ModuleNotFoundError:
        return ""
    except Exception as error:
        # ONNX Runtime's exceptions share no public base class.
        said = " ".join(str(error).split())
        raise UnavailableError(
            f"ONNX Runtime's plugin {PLUGIN} is installed and does not load: {said}; "
            "reinstall it or use --device cpu"
        ) from error
    return name


def find_gpu_provider(ort: Any) -> GpuProvider | None:
    """The provider for a GPU in this ONNX Runtime; None without one.

    Raises:
        UnavailableError: the plugin is installed and does not load.
    """
    if CUDA in ort.get_available_providers():
        _preload(ort)
        return GpuProvider(
            CUDA,
            "CUDA",
            "pip install 'onnxruntime-gpu[cuda,cudnn]' brings its libraries",
            options={"cudnn_conv_algo_search": "EXHAUSTIVE", "use_tf32": "0"},
        )
    name = _register(ort)
    devices = [device for device in ort.get_ep_devices() if device.ep_name == name] if name else []
    if not devices:
        return None
    return GpuProvider(name, "TensorRT-RTX provider", f"reinstall {PLUGIN}", devices=devices[:1])
