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

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.bundle.manifest import GraphEntry
from e2e_deploy.errors import UnavailableError, UsageError
from e2e_deploy.names import ONNXRUNTIME_CUDA, Precision
from e2e_deploy.nvidia.hardware import cuda_device_count
from e2e_deploy.runtime.backends.device import Device, require_cuda

CUDA = "CUDAExecutionProvider"
EXTRA = "cuda"
"""Installs what page-locked buffers and CUDA graphs need beside the provider."""
OURS = ("user_compute_stream", "has_user_compute_stream", "device_id")
"""Options of the CUDA provider that are no user's: the pipeline's stream, and what ``device`` says."""
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

    def with_options(self, options: Mapping[str, str]) -> "GpuProvider":
        """The same with other options."""
        return replace(self, options=dict(options))


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


def cuda_options(precision: Precision, *, fitted: bool = False) -> dict[str, str]:
    """Options of the CUDA provider, each tried with SD2 in fp16 at 576x768 on an H200 (docs/performance.md).

    use_tf32: without it ONNX Runtime runs no convolution on tensor cores, whatever its type: 818 ms as exported, and
    about a tenth of that with it. What a half-precision bundle keeps in fp32 is then computed with the 10 bits of
    mantissa that fp16 has. fp32 and int8 stay exact.
    cudnn_conv_algo_search: EXHAUSTIVE is as fast as HEURISTIC or faster, and its first run is longer.
    prefer_nhwc: convolutions in the layout that the norms of the graph for this provider have, which was faster. With
    the portable graph it was not tried with TF32, and is off.

    Args:
        precision: of the bundle.
        fitted: the graph is the variant for this provider.
    """
    options = {
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "use_tf32": str(int(precision in ("fp16", "bf16"))),
    }
    return options | ({"prefer_nhwc": "1"} if fitted else {})


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
    ort: Any,
    device: Device,
    precision: Precision,
    options: Mapping[str, Any] | None = None,
    *,
    fitted: bool = False,
) -> GpuProvider | None:
    """The provider that runs on ``device``; None for the CPU's.

    Args:
        ort: the onnxruntime module.
        device: as the user named it; auto is a GPU where a provider reaches one.
        precision: of the bundle.
        options: the user's for the provider, over ours.
        fitted: there is a variant of the graph for the CUDA provider.

    Raises:
        UnavailableError: the device is not here, or no provider reaches it.
        UsageError: options, and the CPU's provider takes none; or one of OURS.
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
    given = _texts(options)
    if found.devices:  # of a plugin: one a GPU
        require_cuda(device.index, len(found.devices), "the plugin of ONNX Runtime")
        return replace(found, title=title, devices=[found.devices[device.index]], options=given)
    for name in OURS:
        if name in given:
            raise UsageError(
                f"`provider_options` name {name}, which the engine sets itself: the stream is its own, and the GPU "
                'is what `device="cuda:N"` says'
            )
    ours = cuda_options(precision, fitted=True) if fitted else found.options
    return replace(found, title=title, options=ours | {"device_id": str(device.index)} | given)


def placed(
    ort: Any, bundle: Bundle, graph: GraphEntry, device: Device, options: Mapping[str, Any] | None
) -> tuple[GpuProvider | None, GraphEntry]:
    """The provider that runs on ``device``, None for the CPU's, and the form of ``graph`` that it runs.

    The CUDA provider runs the variant for it, unless the user's options take its layout away.

    Raises:
        UnavailableError, UsageError: as provider_for.
    """
    onnx = graph.file_for(ONNXRUNTIME_CUDA)
    fitted = onnx != graph.onnx
    provider = provider_for(ort, device, bundle.manifest.precision, options, fitted=fitted)
    if provider is None or provider.name != CUDA or provider.options.get("prefer_nhwc") != "1":
        return provider, graph
    return provider, replace(graph, onnx=onnx)


def _texts(options: Mapping[str, Any] | None) -> dict[str, str]:
    """Options as ONNX Runtime takes them: texts, a truth value as 1 or 0."""
    return {
        name: str(int(value)) if isinstance(value, bool) else str(value)
        for name, value in (options or {}).items()
    }
