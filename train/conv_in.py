"""The UNet's first convolution, with and without the second half of its input (noise, or zeros).

Knows: widening, padding and cutting of its weights. Does not know: checkpoints, files.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def widen_conv_in(unet: nn.Module) -> None:
    """Double the input channels of ``unet.conv_in``: weights repeated, weights and bias halved.

    With equal halves the output is half of what it was plus nothing; with zeros as the second half,
    the image enters with half its weight (E2E-FT, which halves the bias too; Marigold does not).
    """
    old = _conv_in(unet)
    assert old.bias is not None
    _replace(unet, old.weight.repeat(1, 2, 1, 1) / 2, old.bias / 2)


def ignores_second_half(unet: nn.Module) -> bool:
    """Whether the weights of the second half are all zero."""
    weight = _conv_in(unet).weight
    return not weight[:, weight.shape[1] // 2 :].any()


def cut_second_half(unet: nn.Module) -> None:
    """Halve the input channels of ``unet.conv_in``; exact where ``ignores_second_half``."""
    old = _conv_in(unet)
    _replace(unet, old.weight[:, : old.in_channels // 2], old.bias)


@contextmanager
def zero_second_half(unet: nn.Module) -> Iterator[None]:
    """Within the block ``unet.conv_in`` takes a second half as well and multiplies it by zero."""
    old = _conv_in(unet)
    _replace(unet, torch.cat([old.weight, torch.zeros_like(old.weight)], dim=1), old.bias)
    try:
        yield
    finally:
        _install(unet, old)


def _conv_in(unet: nn.Module) -> nn.Conv2d:
    conv_in = unet.conv_in
    assert isinstance(conv_in, nn.Conv2d)
    return conv_in


def _replace(unet: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    """Put a convolution with these weights in the place of ``unet.conv_in``, otherwise like it."""
    old = _conv_in(unet)
    new = nn.Conv2d(
        weight.shape[1],
        weight.shape[0],
        kernel_size=(old.kernel_size[0], old.kernel_size[1]),
        padding=(int(old.padding[0]), int(old.padding[1])),
        bias=bias is not None,
    ).to(weight)
    with torch.no_grad():
        new.weight.copy_(weight)
        if new.bias is not None and bias is not None:
            new.bias.copy_(bias)
    _install(unet, new.requires_grad_(old.weight.requires_grad))


def _install(unet: nn.Module, conv_in: nn.Conv2d) -> None:
    unet.conv_in = conv_in
    unet.register_to_config(in_channels=conv_in.in_channels)  # type: ignore[operator]  # diffusers
