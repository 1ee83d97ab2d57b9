"""The limits of a device and how near a model can come: measured rates, counted operations, the floor they give.

The floor of a model is the sum over its convolutions, products, attentions and normalisations of the longer of two
times: its multiply-adds at the measured matrix rate, and its bytes (inputs and weights read once, outputs written
once) at the measured copy bandwidth. What can be fused into those (activations, additions, padding) counts nothing, and
a normalisation reads twice and writes once. So the floor is one that no kernel library beats without fusing more.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.gpu.timing import Device

ROTATED = 3  # input sets of a measurement
REPEATS = 12
_NORMS = (torch.ops.aten.native_group_norm, torch.ops.aten.native_layer_norm)


@dataclass(frozen=True)
class Roof:
    """What the device does at best, measured.

    Attributes:
        matrix_tflops: of a large matrix product, 2 operations a multiply-add.
        copy_gb_s: of a large copy on the device, bytes read and bytes written.
    """

    matrix_tflops: float
    copy_gb_s: float


@dataclass(frozen=True)
class Operation:
    """One operation of a model: floating-point operations, and the fewest bytes it must move."""

    kind: str
    flops: int
    bytes: int

    def floor_ms(self, roof: Roof) -> float:
        """The shortest time it can take."""
        return max(self.flops / roof.matrix_tflops / 1e9, self.bytes / roof.copy_gb_s / 1e6)


def _median_ms(device: Device, call: Callable[[int], Any]) -> float:
    for turn in range(ROTATED):
        call(turn)
    return float(
        np.median([device.time_ms(lambda i: call(i % ROTATED), i) for i in range(REPEATS)])
    )


def matrix_tflops(device: Device, dtype: torch.dtype, side: int) -> float:
    """Rate of a product of two square matrices of random numbers (zeros would run faster)."""
    a, b = (
        [torch.randn(side, side, device=device.name).to(dtype) for _ in range(ROTATED)]
        for _ in range(2)
    )
    out = torch.empty_like(a[0])
    return 2 * side**3 / _median_ms(device, lambda i: torch.mm(a[i], b[i], out=out)) / 1e9


def copy_gb_s(device: Device, size: int) -> float:
    """Bandwidth of copies of ``size`` bytes on the device, bytes read plus bytes written."""
    sources = [
        torch.randint(0, 255, (size,), dtype=torch.uint8, device=device.name)
        for _ in range(ROTATED)
    ]
    target = torch.empty_like(sources[0])
    return 2 * size / _median_ms(device, lambda i: target.copy_(sources[i])) / 1e6


def transfer_gb_s(device: Device, size: int) -> dict[str, float]:
    """Bandwidth between page-locked host memory and the GPU, each way alone."""
    host = torch.empty(size, dtype=torch.uint8, pin_memory=True).random_(0, 255)
    on_device = torch.empty(size, dtype=torch.uint8, device=device.name)
    ways = {
        "to_device": lambda _: on_device.copy_(host, non_blocking=True),
        "to_host": lambda _: host.copy_(on_device, non_blocking=True),
    }
    return {name: size / _median_ms(device, way) / 1e6 for name, way in ways.items()}


def measure_roof(device: Device, *, small: bool) -> Roof:
    """The two limits, in the type the contenders compute in; the best of two matrix sizes."""
    sides, size = ((128, 256), 2**22) if small else ((4096, 8192), 2**30)
    rate = max(matrix_tflops(device, device.dtype, side) for side in sides)
    return Roof(rate, copy_gb_s(device, size))


def _bytes(*values: Any) -> int:
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Notes convolutions, products and normalisations as they are dispatched."""

    def __init__(self, found: list[Operation]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.found = found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        kind = func._overloadpacket
        if kind in flop_registry:
            flops = int(flop_registry[kind](*args, **(kwargs or {}), out_val=out))
            self.found.append(Operation(str(kind), flops, _bytes(args, kwargs, out)))
        elif kind in _NORMS:
            moved = 2 * _bytes(args[0]) + _bytes(args[1:], out[0])
            self.found.append(Operation(str(kind), 0, moved))
        return out


class _Attentions(TorchFunctionMode):
    """Takes attention as one fused operation: its logits need not leave the chip."""

    def __init__(self, found: list[Operation]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        given = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
        query, key, value = given["query"], given["key"], given["value"]
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        products = query.numel() * key.shape[-2] + out.numel() * key.shape[-2]
        moved = _bytes(query, key, value, out)
        self.found.append(Operation("attention", 2 * products, moved))
        return out


def count(call: Callable[[Tensor], Tensor], value: Tensor) -> tuple[list[Operation], Tensor]:
    """Operations of ``call`` on a tensor of the meta device, and what it returns."""
    found: list[Operation] = []
    with torch.no_grad(), _Attentions(found), _Products(found):
        result = call(value)
    return found, result


@dataclass(frozen=True)
class Work:
    """What a model, or a part of it, has to do."""

    tflop: float
    gbytes: float
    arithmetic_ms: float
    floor_ms: float


def work_of(operations: Sequence[Operation], roof: Roof) -> Work:
    """The sums, and the times they take at best."""
    flops = sum(operation.flops for operation in operations)
    return Work(
        flops / 1e12,
        sum(operation.bytes for operation in operations) / 1e9,
        flops / roof.matrix_tflops / 1e9,
        sum(operation.floor_ms(roof) for operation in operations),
    )
