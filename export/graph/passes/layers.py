"""Passes over single layers: upsampling convolves before it grows, training-only parts go.

Each changes the SpecialisedModel in place and leaves its function as it was (exact in real arithmetic).

N batch, C channels, H W pixels.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e2e_deploy.errors import UsageError
from e2e_deploy.export.graph.passes.folding import bias_of, replace_modules, set_weights
from e2e_deploy.export.graph.specialised_model import SpecialisedModel
from e2e_deploy.model.coders.coder import is_tiny
from e2e_deploy.packages import require

MIN_UPSAMPLE_CHANNELS = 64
"""Narrower layers stay as they are: on ONNX Runtime's CPU, one thread, the plain form was faster at 16 channels (5.5
against 8.0 ms at 240x320), as fast at 32, and from 1.3 (64) to 2.1 times (512) slower above."""


def _halve(taps: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """A three-tap axis as nearest 2x upsampling before it sees it: two taps for the even and two for the odd outputs.

    Output 2i sees the inputs i - 1, i, i; output 2i + 1 sees i, i, i + 1.
    """
    first, middle, last = taps.unbind(dim)
    even = torch.stack([first, middle + last], dim)
    odd = torch.stack([first + middle, last], dim)
    return even, odd


class UpsampleConv(nn.Module):
    """Nearest 2x upsampling and a 3x3 convolution, as four 2x2 convolutions at low resolution and a pixel shuffle.

    Zeros around the upsampled picture are zeros around the small one, so the borders are exact. 16/36 of the
    multiply-adds. Four convolutions and not one of four times the channels: the one would compute a row and a column
    more, and was not faster.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        out_channels, in_channels = conv.weight.shape[:2]
        bias = bias_of(conv)
        self.phases = nn.ModuleList()
        for row_OI23 in _halve(conv.weight.detach().double(), 2):
            for weight_OI22 in _halve(row_OI23, 3):
                phase = nn.Conv2d(
                    in_channels, out_channels, 2, device="meta", dtype=conv.weight.dtype
                )
                set_weights(phase, weight_OI22, bias)
                self.phases.append(phase)

    def forward(self, hidden_NCHW: Tensor, output_size: Any = None) -> Tensor:
        """[N, C, 2H, 2W].

        Raises:
            UsageError: another output size is asked for, as diffusers does where the level above has an odd side.
        """
        height, width = hidden_NCHW.shape[2:]
        if output_size is not None and tuple(output_size) != (2 * height, 2 * width):
            raise UsageError(
                "the specialised upsampling doubles its input, and this size needs another: specialise for this size"
            )
        # Even outputs look up or left, odd ones down or right; F.pad takes left, right, top, bottom.
        results = [
            phase(F.pad(hidden_NCHW, (1 - i % 2, i % 2, 1 - i // 2, i // 2)))
            for i, phase in enumerate(self.phases)
        ]
        return F.pixel_shuffle(torch.stack(results, dim=2).flatten(1, 2), 2)


def _convolve_first(upsampler: Any) -> UpsampleConv | None:
    conv = upsampler.conv if upsampler.name == "conv" else upsampler.Conv2d_0
    fits = (
        upsampler.use_conv
        and upsampler.interpolate
        and upsampler.norm is None
        and not upsampler.use_conv_transpose
        and conv.kernel_size == (3, 3)
        and conv.padding == (1, 1)
        and conv.out_channels >= MIN_UPSAMPLE_CHANNELS
    )
    return UpsampleConv(conv) if fits else None


def _inexact_upsamplers(
    unet: Any, down_blocks: Any, latents_hw: Sequence[tuple[int, int]]
) -> set[Any]:
    """The UNet's upsamplers that must not double, because the level they lead to has an odd side at one of the sizes.

    A level halves to the next rounding up: a convolution of stride 2, three taps and a border of one.
    """
    levels = [list(latents_hw)]
    for block in down_blocks:
        if block.downsamplers:
            levels.append([(-(-h // 2), -(-w // 2)) for h, w in levels[-1]])
    found: set[Any] = set()
    for block in unet.up_blocks:
        if block.upsamplers:
            levels.pop()
            if any(side % 2 for size in levels[-1] for side in size):
                found.update(block.upsamplers)
    return found


def convolve_before_upsampling(model: SpecialisedModel) -> None:
    """Every nearest 2x upsampling with a 3x3 convolution after it becomes an UpsampleConv, where it is 2x exactly."""
    latents_hw = [(h // model.stride, w // model.stride) for h, w in model.sizes_hw]
    kept = _inexact_upsamplers(model.unet, model.networks[-1].down_blocks, latents_hw)
    upsample_class = require("diffusers.models.upsampling", "export").Upsample2D
    replace_modules(
        model, upsample_class, lambda each: None if each in kept else _convolve_first(each)
    )
    if is_tiny(model.vae.decoder):
        _convolve_first_in_sequence(model.vae.decoder.layers)


def _convolve_first_in_sequence(layers: Any) -> None:
    """As ``_convolve_first`` in AutoencoderTiny's decoder, whose layers keep their numbers."""
    for index, (grow, conv) in enumerate(pairwise(layers)):
        fits = (
            isinstance(grow, nn.Upsample)
            and isinstance(conv, nn.Conv2d)
            and (grow.mode, grow.scale_factor) == ("nearest", 2.0)
            and (conv.kernel_size, conv.padding) == ((3, 3), (1, 1))
            and conv.out_channels >= MIN_UPSAMPLE_CHANNELS
        )
        if fits:
            layers[index], layers[index + 1] = UpsampleConv(conv), nn.Identity()


def drop_training_parts(model: SpecialisedModel) -> None:
    """Dropout, gradient checkpointing, tiling and gradients have no place in a fixed graph."""
    replace_modules(model, nn.Dropout, lambda _: nn.Identity())
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.gradient_checkpointing = False  # type: ignore[assignment]
    model.requires_grad_(False).eval()
