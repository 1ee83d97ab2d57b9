"""A group norm with SiLU of a channels-last map, written by hand in Triton: to see what a fused kernel could gain.

Two passes: sums of x and of its square by blocks of pixels, all channels of a pixel side by side as they lie in
memory; then the values again, normalised. So the map is read twice and written once, in whole rows.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit  # type: ignore[untyped-decorator]
def _sums(  # type: ignore[no-untyped-def]  # Triton reads it
    x,
    partial,
    pixels,
    C: tl.constexpr,
    G: tl.constexpr,
    BC: tl.constexpr,
    BP: tl.constexpr,
    STEPS: tl.constexpr,
):
    block = tl.program_id(0)
    part = tl.program_id(1)
    channel = part * BC + tl.arange(0, BC)
    total = tl.zeros((BC,), tl.float32)
    squares = tl.zeros((BC,), tl.float32)
    for step in range(STEPS):
        pixel = (block * STEPS + step) * BP + tl.arange(0, BP)
        inside = (pixel[:, None] < pixels) & (channel[None, :] < C)
        v = tl.load(x + pixel[:, None].to(tl.int64) * C + channel[None, :], inside, 0.0).to(
            tl.float32
        )
        total += tl.sum(v, 0)
        squares += tl.sum(v * v, 0)
    group = channel // (C // G)
    tl.atomic_add(partial + group, total, channel < C)
    tl.atomic_add(partial + G + group, squares, channel < C)


@triton.jit  # type: ignore[untyped-decorator]
def _apply(  # type: ignore[no-untyped-def]
    x,
    y,
    partial,
    weight,
    bias,
    pixels,
    epsilon,
    C: tl.constexpr,
    G: tl.constexpr,
    BC: tl.constexpr,
    BP: tl.constexpr,
):
    pixel = tl.program_id(0) * BP + tl.arange(0, BP)
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    known = channel < C
    group = channel // (C // G)
    count = pixels * (C // G)
    mean = tl.load(partial + group, known, 0.0) / count
    variance = tl.load(partial + G + group, known, 0.0) / count - mean * mean
    factor = tl.load(weight + channel, known, 0.0).to(tl.float32) / tl.sqrt(variance + epsilon)
    addend = tl.load(bias + channel, known, 0.0).to(tl.float32) - mean * factor
    inside = (pixel[:, None] < pixels) & known[None, :]
    at = pixel[:, None].to(tl.int64) * C + channel[None, :]
    v = tl.load(x + at, inside, 0.0).to(tl.float32) * factor[None, :] + addend[None, :]
    tl.store(y + at, (v / (1.0 + tl.exp(-v))).to(y.dtype.element_ty), inside)


def group_norm_silu(
    x_NCHW: Tensor, weight: Tensor, bias: Tensor, groups: int, epsilon: float
) -> Tensor:
    """SiLU of the group norm of one channels-last map [1, C, H, W]."""
    _, channels, height, width = x_NCHW.shape
    pixels = height * width
    y = torch.empty_like(x_NCHW)
    partial = torch.zeros(2 * groups, dtype=torch.float32, device=x_NCHW.device)
    columns = min(triton.next_power_of_2(channels), 256)
    parts = triton.cdiv(channels, columns)
    rows = max(1, 4096 // columns)
    steps = max(1, min(16, pixels // (rows * 528)))
    sized: dict[str, Any] = {"C": channels, "G": groups, "BC": columns, "BP": rows}
    _sums[(triton.cdiv(pixels, rows * steps), parts)](
        x_NCHW, partial, pixels, **sized, STEPS=steps, num_warps=8
    )
    _apply[(triton.cdiv(pixels, rows), parts)](
        x_NCHW, y, partial, weight, bias, pixels, epsilon, **sized, num_warps=8
    )
    return y
