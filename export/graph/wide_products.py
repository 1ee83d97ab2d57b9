"""Products of half-precision numbers with a float32 result, which is what tensor cores compute.

A product of two fp16 or bf16 numbers is exact in float32, so to cast both up and multiply there changes no number and
takes the tensor cores away: on an H200 the VAE's two attentions and the last convolution spent 5.2 of 30 ms so. On a
CUDA device they are products with float32 sums here; elsewhere both are cast.

N batch, C channels, H W pixels, M K L sides of matrices.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)


def on_tensor_cores(x: Tensor) -> bool:
    """Whether ``x`` is in half precision on a device that multiplies it with float32 sums."""
    return x.is_cuda and x.dtype in HALF


def product_in_fp32(a: Tensor, b: Tensor) -> Tensor:
    """A b [..., M, L] in float32, or in float64 where both are.

    Args:
        a: [..., M, K].
        b: [..., K, L], with the same leading sides and of the same type.
    """
    if on_tensor_cores(a):
        # One by one: AOTInductor has a function for mm of this type in its C interface, and none for bmm (torch 2.13).
        pairs = zip(a.flatten(0, -3).unbind(), b.flatten(0, -3).unbind(), strict=True)
        each = [torch.mm(left, right, out_dtype=torch.float32) for left, right in pairs]
        # one alone is not copied
        whole = each[0].unsqueeze(0) if len(each) == 1 else torch.stack(each)
        return whole.reshape(*a.shape[:-1], b.shape[-1])
    wide = torch.promote_types(a.dtype, torch.float32)
    return torch.matmul(a.to(wide), b.to(wide))


def convolve_by_taps(x_NCHW: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A convolution of stride one between zero borders, [N, outputs, H, W]: a product a tap, and their sum, shifted.

    For few outputs, where the maps of the taps are small beside the input. A torch convolution cannot be asked for
    another type than its input's.

    Args:
        x_NCHW: in either order of memory.
        weight: [outputs, C, rows, columns] of the same type; odd sides, borders of half a side.
        bias: [outputs], in the type of the result, which is float32, or float64 where ``x_NCHW`` is.
    """
    outputs, C, rows, columns = weight.shape
    N, _, H, W = x_NCHW.shape
    taps = weight.permute(2, 3, 0, 1).reshape(1, rows * columns * outputs, C).expand(N, -1, -1)
    maps = product_in_fp32(taps, x_NCHW.flatten(2)).reshape(N, rows * columns, outputs, H, W)
    bordered = F.pad(maps, (columns // 2, columns // 2, rows // 2, rows // 2))
    result = bias.view(1, outputs, 1, 1).expand(N, -1, H, W)
    for tap in range(rows * columns):
        top, left = divmod(tap, columns)
        result = result + bordered.select(1, tap).narrow(2, top, H).narrow(3, left, W)
    return result
