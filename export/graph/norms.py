"""Group normalisation in other words, for what runs it: short sums for ONNX Runtime, a channel at a time for GPUs.

ONNX Runtime's InstanceNormalization (and its GroupNormalization) adds each group in fp32 one after the other:
measured on the CPU, its relative error is 2e-6 for groups of 330 000 values and 2.5e-5 for the 1.8 million of SD's
decoder at 576x768, where sums by rows give 2e-7. Sixty such layers put a full-size fp32 graph outside the limit of
1e-4. Sums by rows cost 1.4 times the layer's time, so only long groups take them.

A map in channels-last order has a group's values in short runs far apart. Inductor's kernels for them took 7.9 of 30 ms
on an H200; sums of a channel read whole rows, and the rest is a factor and an addend a channel, which fuse with SiLU.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAX_GROUP = 2**18
"""Values a group may hold before its sums are taken by rows."""


class ShortSumGroupNorm(nn.Module):
    """The same function as the GroupNorm it is made from, with its weights.

    N batch, C channels, G groups, H W pixels.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.num_groups, self.eps = norm.num_groups, norm.eps
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """[N, C, H, W], or [N, C, tokens]."""
        count = x_NCHW[0].numel()
        # A side that is open while the graph is traced may turn out long, so its count is a symbol: by rows.
        short = isinstance(count, int) and count <= MAX_GROUP * self.num_groups
        if x_NCHW.ndim != 4 or short:
            return F.group_norm(x_NCHW, self.num_groups, self.weight, self.bias, self.eps)
        N, C, H, W = x_NCHW.shape
        G = self.num_groups
        rows = x_NCHW.reshape(N, G, C // G * H, W)
        centred = rows - rows.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)
        variance = centred.square().mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)
        scale = self.weight.view(1, G, C // G, 1) * torch.rsqrt(variance + self.eps)
        shifted = centred.reshape(N, G, C // G, H * W) * scale + self.bias.view(1, G, C // G, 1)
        return shifted.reshape(N, C, H, W)


class ChannelGroupNorm(nn.Module):
    """The same function, with sums over the pixels of a channel.

    They are of the distance to the channel's first pixel, because a mean of squares less the square of the mean loses
    what is small beside the mean. Means and squares of parts are combined as Chan, Golub and LeVeque do (1983).
    N batch, C channels, G groups.
    """

    def __init__(self, norm: nn.GroupNorm | ShortSumGroupNorm) -> None:
        super().__init__()
        self.num_groups, self.eps = norm.num_groups, norm.eps
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """[N, C, H, W], or [N, C, tokens]."""
        N, C = x_NCHW.shape[:2]
        G = self.num_groups
        pixels = tuple(
            range(2, x_NCHW.ndim)
        )  # not flattened: that copies a map in channels-last order
        first = x_NCHW
        for axis in pixels:
            first = first.narrow(axis, 0, 1)
        distance = x_NCHW - first
        mean = distance.mean(dim=pixels, keepdim=True)
        squares = (distance.square().mean(dim=pixels, keepdim=True) - mean.square()).clamp_min(0)
        means_NGC = (mean + first).view(N, G, C // G)
        group_mean = means_NGC.mean(dim=2, keepdim=True)
        between = (means_NGC - group_mean).square()
        variance = (squares.view(N, G, C // G) + between).mean(dim=2, keepdim=True)
        factor = self.weight.view(1, G, C // G) * torch.rsqrt(variance + self.eps)
        addend = self.bias.view(1, G, C // G) - group_mean * factor
        return x_NCHW * factor.reshape(mean.shape) + addend.reshape(mean.shape)


def _replace(model: nn.Module, of: type[nn.Module], by: Callable[[Any], nn.Module]) -> None:
    for name, child in model.named_children():
        if isinstance(child, of) and getattr(child, "weight", None) is not None:
            setattr(model, name, by(child))
        else:
            _replace(child, of, by)


def shorten_sums(model: nn.Module) -> None:
    """Every GroupNorm below ``model`` becomes a ShortSumGroupNorm with the same weights."""
    _replace(model, nn.GroupNorm, ShortSumGroupNorm)


def by_channel(model: nn.Module) -> None:
    """Every GroupNorm and ShortSumGroupNorm below ``model`` becomes a ChannelGroupNorm with the same weights."""
    for kind in (nn.GroupNorm, ShortSumGroupNorm):
        _replace(model, kind, ChannelGroupNorm)
