"""Where the time of a call goes, kernel by kernel: what the profiler saw, by name and by kind of work.

On a GPU the kernels of every library in the process are seen, ONNX Runtime's too; on a CPU torch's operators are.
"""

import re
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]  # torch's own name for it
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.timing import Call, Device

KINDS = (
    ("copy", r"memcpy|memset"),
    ("attention", r"flash|fmha|attention|sdpa|softmax|mha_"),
    (
        "layout",
        r"nchwtonhwc|nhwctonchw|nchw2nhwc|nhwc2nchw|transpose|tensor_transform|convert_tensor",
    ),
    (
        "normalisation",
        r"norm|^bn_|bn_fw|welford|rowwisemoments|moments|computefusedparams",
    ),
    (
        "convolution",
        r"fprop|dgrad|wgrad|implicit|conv|winograd|engine_\d|fft|cudnn_generated|mkldnn_conv",
    ),
    ("product", r"gemm|nvjet|gemv|cublas|splitk|cutlass|matmul|::mm|addmm|linear|bmm|_mm_"),
    (
        "pointwise",
        r"op_generic_tensor",
    ),  # cuDNN's, which adds a bias; "reduce" is among its parameters
    ("cast", r"op_cast"),
    ("reduction", r"triton_(red|per)|reduce|::mean|::sum"),
    ("pointwise", r"triton_poi|elementwise|vectorized|pointwise|silu|cast|::mul|::add|copy|cat"),
)
"""Kinds of work and what kernels of it are called; the first that fits."""
LONGEST_NAME = 160


def kind_of(name: str) -> str:
    """The kind of work of a kernel, by its name.

    Inductor names a kernel after everything in it: what reduces for a normalisation is one, the rest is pointwise.
    """
    small = name.lower()
    if small.startswith("triton_"):
        if "conv" in small and "triton_tem" in small:
            return "convolution"
        if "triton_tem" in small:
            return "product"
        if small.startswith(("triton_red", "triton_per")):
            return "normalisation" if "norm" in small else "reduction"
        return "pointwise, with a normalisation" if "norm" in small else "pointwise"
    return next((kind for kind, pattern in KINDS if re.search(pattern, small)), "other")


def _events(device: Device, seen: Any) -> dict[str, tuple[float, int]]:
    """Microseconds and calls by name of what ran on the device."""
    found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    if device.is_cuda:
        for event in seen.events():
            if event.device_type == DeviceType.CUDA:
                entry = found[event.name]
                entry[0] += event.self_device_time_total
                entry[1] += 1
    else:
        for event in seen.key_averages():
            found[event.key] = [event.self_cpu_time_total, event.count]
    return {name: (us, int(count)) for name, (us, count) in found.items()}


def profiled(
    device: Device, call: Call, inputs: Sequence[Any], *, rounds: int = 5, top: int = 20
) -> dict[str, Any]:
    """Kernels of a warm call: milliseconds a call by kind, and the ``top`` names.

    Returns:
        ``wall_ms`` is the host's clock around calls without the profiler, one after the other and each waited for.
        ``kernels_ms`` is the sum of the kernels, which is more than the wall if they overlap.
    """
    device.synchronise()
    start = time.perf_counter()
    for turn in range(rounds):
        call(inputs[turn % len(inputs)])
        device.synchronise()
    wall_ms = 1000 * (time.perf_counter() - start) / rounds
    activity = ProfilerActivity.CUDA if device.is_cuda else ProfilerActivity.CPU
    with profile(activities=[activity]) as seen:
        for turn in range(rounds):
            call(inputs[turn % len(inputs)])
        device.synchronise()
    events = _events(device, seen)
    total = sum(us for us, _ in events.values()) or 1.0
    kinds: dict[str, float] = defaultdict(float)
    for name, (us, _) in events.items():
        kinds[kind_of(name)] += us / rounds / 1000
    ordered = sorted(events.items(), key=lambda item: -item[1][0])
    return {
        "wall_ms": wall_ms,
        "kernels_ms": total / rounds / 1000,
        "kernels_a_call": sum(count for _, count in events.values()) / rounds,
        "by_kind_ms": dict(sorted(kinds.items(), key=lambda item: -item[1])),
        "top": [
            {
                "name": " ".join(name.split())[:LONGEST_NAME],
                "kind": kind_of(name),
                "ms": us / rounds / 1000,
                "calls": count / rounds,
                "share": us / total,
            }
            for name, (us, count) in ordered[:top]
        ],
    }


def table(title: str, found: dict[str, Any], top: int = 8) -> str:
    """A profile as a few lines."""
    total = sum(found["by_kind_ms"].values()) or 1.0
    kinds = ", ".join(
        f"{kind} {ms:.2f} ({ms / total:.0%})" for kind, ms in found["by_kind_ms"].items()
    )
    lines = [
        f"{title}: wall {found['wall_ms']:.2f} ms, {found['kernels_a_call']:.0f} kernels "
        f"{found['kernels_ms']:.2f} ms: {kinds}"
    ]
    lines += [
        f"  {row['ms']:8.3f} ms {row['calls']:6.1f}x {row['kind'][:14]:14} {row['name'][:90]}"
        for row in found["top"][:top]
    ]
    return "\n".join(lines)


def release(device: Device) -> None:
    """Forget what was compiled and give its memory back."""
    torch.compiler.reset()
    device.reserved()
