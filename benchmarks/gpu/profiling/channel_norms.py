"""Group norms of channels-last maps in words that compilers fuse well, to see what they could gain on a GPU.

A map in channels-last order has a group's values in short runs far apart. Inductor's kernels for them took 7.9 of 30 ms
on an H200; sums of a channel read whole rows, and the rest is a factor and an addend a channel, which fuse with SiLU.
"""

import torch
from torch import Tensor, nn


class ChannelGroupNorm(nn.Module):
    """The same function, with sums over the pixels of a channel, read once.

    They are of the distance to the mean of the channel's first row, because a mean of squares less the square of the
    mean loses what is small beside the mean. A row of H is at most sqrt(H - 1) spreads away from the mean, so at most H
    float32 roundings are lost. Means and squares of parts are combined as Chan, Golub and LeVeque do (1983).
    In half precision everything inside is float32, as in torch's own. N batch, C channels, G groups.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.num_groups, self.eps = norm.num_groups, norm.eps
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """[N, C, H, W], or [N, C, tokens], in the order of memory it came in."""
        N, C = x_NCHW.shape[:2]
        G = self.num_groups
        wide = torch.promote_types(x_NCHW.dtype, torch.float32)
        x = x_NCHW.to(wide)
        pixels = tuple(range(2, x.ndim))  # not flattened: that copies a map in channels-last order
        per_channel = (N, C, *(1,) * len(pixels))
        first = (x.narrow(2, 0, 1) if x.ndim == 4 else x).mean(dim=pixels, keepdim=True)
        distance = x - first
        mean = distance.mean(dim=pixels, keepdim=True)
        squares = (distance.square().mean(dim=pixels, keepdim=True) - mean.square()).clamp_min(0)
        means_NGC = (mean + first).view(N, G, C // G)
        group_mean = means_NGC.mean(dim=2, keepdim=True)
        between = (means_NGC - group_mean).square()
        variance = (squares.view(N, G, C // G) + between).mean(dim=2, keepdim=True)
        factor = self.weight.to(wide).view(1, G, C // G) * torch.rsqrt(variance + self.eps)
        addend = self.bias.to(wide).view(1, G, C // G) - group_mean * factor
        result = x * factor.reshape(per_channel) + addend.reshape(per_channel)
        return result.to(x_NCHW.dtype)


def by_channel(model: nn.Module) -> int:
    """Make every GroupNorm below ``model`` a ChannelGroupNorm with the same weights; how many there were."""
    count = 0
    for name, child in model.named_children():
        if isinstance(child, nn.GroupNorm) and child.affine:
            setattr(model, name, ChannelGroupNorm(child))
            count += 1
        else:
            count += by_channel(child)
    return count
