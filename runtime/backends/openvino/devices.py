"""Which of OpenVINO's devices runs a bundle, and in which precision: never one that is not the bundle's."""

import re
from typing import Any

from e2e_deploy.errors import UnavailableError, UsageError
from e2e_deploy.names import Precision
from e2e_deploy.nvidia.hardware import cpu_features
from e2e_deploy.runtime.backends.device import Device
from e2e_deploy.system.text import clean

CPU = "CPU"
_NAMES = {"auto": CPU, "cpu": CPU, "intel-gpu": "GPU", "npu": "NPU"}
_HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
"""OpenVINO's names of types. Without a hint it computes in 16 bits whatever the graph says, where it can."""

INT8_UNITS = {"amx_int8": "AMX", "avx512_vnni": "AVX512-VNNI", "avx_vnni": "AVX-VNNI"}
"""What the kernel calls units that add 8-bit products in 32 bits: their names for people. ARM's were not tried."""


def has_int8_units() -> bool:
    """Whether this CPU is known to have one of INT8_UNITS."""
    return not set(INT8_UNITS).isdisjoint(cpu_features().split())


def find_device(core: Any, asked: Device) -> str:
    """OpenVINO's name of a device: CPU, GPU.0, GPU.1 or NPU.

    Raises:
        UsageError: a CUDA device, which OpenVINO does not reach.
        UnavailableError: it is not here; says what is.
    """
    if asked.kind == "cuda":
        raise UsageError(
            "openvino runs on CPUs, Intel GPUs and NPUs, not on cuda; use "
            '`device="cpu"`, `device="intel-gpu"` or `device="npu"`'
        )
    kind = _NAMES[asked.kind]
    if kind == CPU:  # asking for the others loads their drivers
        return CPU
    here = [str(name) for name in core.available_devices]
    names = [name for name in here if name.split(".")[0] == kind]
    if asked.index >= len(names):
        raise UnavailableError(
            f"{asked} was asked for, and OpenVINO finds no such device here, only {', '.join(here) or 'none'}; install "
            "Intel's driver for it, or choose another `device`"
        )
    return names[asked.index]


def precision_hint(core: Any, device: str, precision: Precision) -> str:
    """The type a bundle of ``precision`` is computed in on a device.

    fp16 bundles are computed in fp32 on a CPU, as ONNX Runtime does it there: what they keep in fp32 stays so, and so
    does what int8 bundles keep in it.

    Raises:
        UnavailableError: the device has no units for it.
        UsageError: int8 on another device than a CPU.
    """
    if precision == "int8" and device != CPU:
        raise UsageError(
            f'int8 bundles are measured on CPUs, and {device} is none: use `device="cpu"`, or export fp16 for it'
        )
    if precision == "int8" and not has_int8_units():
        # Pairs of 8-bit products are added in 16 bits there, and OpenVINO, unlike ONNX Runtime, offers no other way.
        raise UnavailableError(
            f"openvino needs a CPU with 8-bit dot products ({' or '.join(INT8_UNITS.values())}) for int8 bundles: "
            'without them its sums saturate; use `backend="onnxruntime"`'
        )
    if device == CPU and precision != "bf16":
        return _HINTS["fp32"]
    # BF16 or FP16 among texts such as GPU_HW_MATMUL.
    if precision.upper() not in core.get_property(device, "OPTIMIZATION_CAPABILITIES"):
        name = clean(str(core.get_property(device, "FULL_DEVICE_NAME")), 80)
        units = " (AMX, AVX512-BF16 or AVX2-VNNI-2)" if device == CPU else ""
        raise UnavailableError(
            f"openvino needs a device with units for {precision}{units} for this bundle, and {name} has none; export "
            "fp32 or fp16 for it"
        )
    return _HINTS[precision]


def describe(compiled: Any, core: Any, device: str) -> str:
    """The device in words, for example "CPU, 2 threads"."""
    if device == CPU:
        return f"CPU, {compiled.get_property('INFERENCE_NUM_THREADS')} threads"
    return f"{device}, {clean(str(core.get_property(device, 'FULL_DEVICE_NAME')), 80)}"


def said(error: Exception) -> Exception:
    """An error of OpenVINO without the places in its own source."""
    lines = str(error).splitlines()
    kept = [line for line in lines if not re.match(r"\s*(Exception from |Check '|$)", line)]
    text = "; ".join(kept or lines).removeprefix("Caught exception: ")
    return type(error)(text) if isinstance(error, RuntimeError) else error
