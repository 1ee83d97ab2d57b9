"""Arithmetic on the weights of single layers, shared by the passes: computed in float64, stored as the layer was."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def set_weights(layer: Any, weight: Tensor, bias: Tensor | None) -> None:
    """Give a Conv2d or Linear new weights, of any channel counts, in the dtype it had."""
    dtype = layer.weight.dtype
    layer.weight = nn.Parameter(weight.to(dtype).contiguous(), requires_grad=False)
    layer.bias = None if bias is None else nn.Parameter(bias.to(dtype), requires_grad=False)
    if isinstance(layer, nn.Conv2d):
        layer.out_channels, layer.in_channels = weight.shape[:2]
    else:
        layer.out_features, layer.in_features = weight.shape


def linear(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> nn.Linear:
    """A Linear layer with these weights [out, in], stored in ``dtype``."""
    layer = nn.Linear(1, 1, bias=False, device="meta", dtype=dtype)
    set_weights(layer, weight, bias)
    return layer


def bias_of(layer: Any) -> Tensor:
    """The bias of a Conv2d or Linear in float64, zeros if it has none."""
    if layer.bias is None:
        out: Tensor = layer.weight.new_zeros(layer.weight.shape[0], dtype=torch.float64)
    else:
        out = layer.bias.detach().double()
    return out


def fold_after(conv: Any, matrix: Tensor, offset: Tensor | None = None) -> None:
    """Make ``conv`` return matrix @ its output + offset; a matrix acts on channels, so borders stay exact.

    Args:
        conv: ungrouped Conv2d.
        matrix: [new channels, old channels] float64.
        offset: [new channels] float64, or None for zeros.
    """
    weight = torch.einsum("po,oikl->pikl", matrix, conv.weight.double())
    bias = matrix @ bias_of(conv)
    set_weights(conv, weight, bias if offset is None else bias + offset)


def replace_modules(
    root: nn.Module, kind: type[nn.Module], make: Callable[[Any], nn.Module | None]
) -> None:
    """Put ``make(child)`` in the place of every child of type ``kind`` under ``root``; a None leaves it."""
    for parent in list(root.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kind) and (new := make(child)) is not None:
                setattr(parent, name, new)
