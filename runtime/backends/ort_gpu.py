"""How ONNX Runtime reaches an NVIDIA GPU: its CUDA provider, else the TensorRT-RTX plugin where that is installed.

The plugin (onnxruntime-ep-nv-tensorrt-rtx) goes with the CPU package of ONNX Runtime, so the two are never both here.
"""

import contextlib
import functools
import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from e2e_deploy.errors import UnavailableError, UsageError
from e2e_deploy.names import Precision
from e2e_deploy.nvidia.hardware import cuda_device_count
from e2e_deploy.runtime.backends.device import Device, require_cuda

CUDA = "CUDAExecutionProvider"
PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"


@dataclass(frozen=True)
class GpuProvider:
    """An execution provider.

    Attributes:
        name: as a session lists it.
        title: for people.
        remedy: what to do where it does not start.
        options: of the provider.
        devices: a plugin's devices; empty for one that is part of ONNX Runtime.
    """

    name: str
    title: str
    remedy: str
    options: dict[str, Any] = field(default_factory=dict)
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
            'reinstall it or use `device="cpu"`'
        ) from error
    return name


def cuda_options(precision: Precision) -> dict[str, str]:
    """Options of the CUDA provider for bundles of a precision.

    Without TF32 ONNX Runtime runs no convolution on tensor cores, whatever its type: SD2 in fp16 at 576x768 took 818
    ms on an H200 where it takes 84 with it. AbsRel was 9.6e-4 and is 1.0e-3: what such a bundle keeps in fp32 is
    computed with the 10 bits of mantissa that fp16 has. fp32 stays exact. EXHAUSTIVE is as fast as HEURISTIC or faster,
    and its first run is 4 s longer.
    """
    in_half = precision in ("fp16", "bf16")
    return {"cudnn_conv_algo_search": "EXHAUSTIVE", "use_tf32": str(int(in_half))}


def find_gpu_provider(ort: Any, precision: Precision) -> GpuProvider | None:
    """The provider for a GPU in this ONNX Runtime, with options for bundles of that precision; None without one.

    Raises:
        UnavailableError: the plugin is installed and does not load.
    """
    if CUDA in ort.get_available_providers():
        _preload(ort)
        return GpuProvider(
            CUDA,
            "CUDA",
            "pip install 'onnxruntime-gpu[cuda,cudnn]' brings its libraries",
            options=cuda_options(precision),
        )
    name = _register(ort)
    devices = [device for device in ort.get_ep_devices() if device.ep_name == name] if name else []
    if not devices:
        return None
    return GpuProvider(name, "TensorRT-RTX provider", f"reinstall {PLUGIN}", devices=devices)


def provider_for(
    ort: Any, device: Device, precision: Precision, options: Mapping[str, Any] | None = None
) -> GpuProvider | None:
    """The provider that runs on ``device``; None for the CPU's.

    Args:
        ort: the onnxruntime module.
        device: as the user named it; auto is a GPU where a provider reaches one.
        precision: of the bundle.
        options: the user's for the provider, over ours.

    Raises:
        UnavailableError: the device is not here, or no provider reaches it.
        UsageError: options, and the CPU's provider takes none.
    """
    count = cuda_device_count()
    found = find_gpu_provider(ort, precision) if device.kind != "cpu" and count else None
    if device.kind == "cuda":
        require_cuda(device.index, count, "onnxruntime")
        if found is None:
            raise UnavailableError(
                "onnxruntime on cuda was asked for, but this machine has an onnxruntime without a provider for it; "
                'use `device="cpu"`'
            )
    if found is None:
        if options:
            raise UsageError(
                "`provider_options` are a GPU's, and this engine runs on the CPU, whose provider takes none"
            )
        return None
    title = found.title if not device.index else f"{found.title}, device {device.index}"
    if found.devices:  # of a plugin: one a GPU
        require_cuda(device.index, len(found.devices), "the plugin of ONNX Runtime")
        return replace(
            found,
            title=title,
            devices=[found.devices[device.index]],
            options=_texts(options),
        )
    ours = found.options | {"device_id": str(device.index)}
    return replace(found, title=title, options=ours | _texts(options))


def _texts(options: Mapping[str, Any] | None) -> dict[str, str]:
    """Options as ONNX Runtime takes them: texts, a truth value as 1 or 0."""
    return {
        name: str(int(value)) if isinstance(value, bool) else str(value)
        for name, value in (options or {}).items()
    }
