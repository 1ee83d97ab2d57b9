"""Passes over what GeoWizard alone has: the one token of a picture, and results that begin with the same latent.

Each changes the SpecialisedModel in place and leaves its function as it was (exact in real arithmetic).

N pictures, K results, C channels.
"""

from typing import Any

import torch
from torch import Tensor, nn

from e2e_deploy.export.graph.attention import OneTokenAttention
from e2e_deploy.export.graph.passes.folding import bias_of, linear, set_weights
from e2e_deploy.export.graph.passes.unet import NoEmbedding, check_attention
from e2e_deploy.export.graph.specialised_model import SpecialisedGeoWizard, SpecialisedModel
from e2e_deploy.model.networks.geowizard import for_each_result
from e2e_deploy.packages import require


def _project_value(attention: Any) -> OneTokenAttention:
    check_attention(attention)
    value, out = attention.to_v, attention.to_out[0]
    weight = out.weight.double() @ value.weight.double()
    bias = out.weight.double() @ bias_of(value) + bias_of(out)
    return OneTokenAttention(linear(weight, bias, out.weight.dtype))


def attend_to_one_token(model: SpecialisedModel) -> None:
    """Every cross attention to a picture's one token becomes the projection of that token, whatever asks for it."""
    if not isinstance(model, SpecialisedGeoWizard) or model.picture_context is None:
        return
    block_class = require("diffusers.models.attention", "export").BasicTransformerBlock
    for block in model.unet.modules():
        if isinstance(block, block_class) and block.attn2 is not None:
            block.attn2, block.norm2 = _project_value(block.attn2), nn.Identity()


def fold_picture_scale(model: SpecialisedModel) -> None:
    """CLIP's mean and deviation go into the convolution that makes its patches, which has no border."""
    if not isinstance(model, SpecialisedGeoWizard) or model.picture_context is None:
        return
    context = model.picture_context
    conv = context.patch_embedding
    weight = conv.weight.double()
    bias = bias_of(conv) + torch.einsum("ocij,c->o", weight, context.shift_311.double().flatten())
    set_weights(conv, weight * context.scale_311.double(), bias)
    context.scale_311 = context.shift_311 = None


class SharedConvolution(nn.Module):
    """A convolution of a picture whose output every one of its K results goes on from."""

    def __init__(self, conv: nn.Conv2d, count: int) -> None:
        super().__init__()
        self.conv_in = conv
        self.count = count

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """[N K, C, H, W]."""
        return for_each_result(self.conv_in(x_NCHW), self.count)


def share_first_convolution(model: SpecialisedModel) -> None:
    """The UNet's first convolution sees the same latent for all results of a picture, so it is computed once.

    Only once the time embedding is gone, which diffusers gives the size of the UNet's input.
    """
    if isinstance(model, SpecialisedGeoWizard) and isinstance(
        model.unet.time_embedding, NoEmbedding
    ):
        model.unet.conv_in = SharedConvolution(model.unet.conv_in, len(model.kinds))
        model.shares_first = True
