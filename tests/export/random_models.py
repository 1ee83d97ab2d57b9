"""Small SingleStepModels with every weight random, so that no bias of zero or norm of one hides an error."""

import math
import warnings

import torch

from e2e_deploy.model.coders.coder import TwoCoders
from e2e_deploy.model.families import FAMILIES
from e2e_deploy.model.schedule import x0_coefficients
from e2e_deploy.model.single_step import SingleStepModel

UNET = {
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": (2, 4),  # number of heads a level, as in SD2's configs
    "cross_attention_dim": 24,
    "norm_num_groups": 8,
    "use_linear_projection": True,
    "sample_size": 8,
}
VAE = {
    "block_out_channels": (16, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "sample_size": 16,
    "scaling_factor": 0.18215,
}
TINY = {
    "encoder_block_out_channels": (16, 16),
    "decoder_block_out_channels": (64, 64),
    "num_encoder_blocks": (1, 1),
    "num_decoder_blocks": (1, 1),
    "scaling_factor": 0.7,
}
"""TAESD's layout with two levels; its decoder is as wide as TAESD's, so that every pass finds something to do."""
SD2_ALPHA_BAR = 0.0046601
"""Signal left at t = 999 in Stable Diffusion 2's schedule; zero terminal SNR has none."""


def randomise(module, generator):
    """Draw every parameter: weights keep the size of their output, biases and norms are far from 0 and 1."""
    for parameter in module.parameters():
        values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        values *= 1 / math.sqrt(parameter[0].numel()) if parameter.ndim > 1 else 0.3
        parameter.data = values
    for layer in module.modules():
        if isinstance(layer, torch.nn.GroupNorm | torch.nn.LayerNorm):
            layer.weight.data += 1.0


def random_model(
    *,
    task="depth",
    family="marigold",
    prediction_type="v_prediction",
    alpha_bar=0.0,
    tokens=2,
    unet=(),
    vae=(),
    tiny=None,
    part="both",
    seed=0,
) -> SingleStepModel:
    """A float64 model in eval mode; ``unet`` and ``vae`` change the configs above. Stride 2.

    ``tiny`` changes TINY, whose AutoencoderTiny then takes the place of that ``part`` of the VAE.
    """
    import diffusers

    generator = torch.Generator().manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = diffusers.UNet2DConditionModel(**(UNET | dict(unet))).double()
        coder = diffusers.AutoencoderKL(**(VAE | dict(vae))).double()
        small = diffusers.AutoencoderTiny(**(TINY | dict(tiny or {}))).double()
    for each in (network, coder, small):  # in this order: the first two are as they are without it
        randomise(each, generator)
    coder.decoder.conv_out.weight.data *= 0.7  # most of the image stays inside [-1, 1]
    small.decoder.layers[-1].weight.data *= 0.35
    small.decoder.layers[-1].bias.data.mul_(0.3).add_(0.5)
    if tiny is not None:
        halves = {"both": small, "encoder": TwoCoders(small, coder)}
        coder = halves.get(part) or TwoCoders(coder, small)
    width = network.config.cross_attention_dim
    from_xt, from_output = x0_coefficients(prediction_type, alpha_bar)
    return (
        SingleStepModel(
            network,
            coder,
            # far apart, so that attention to them is far from uniform
            3.0 * torch.randn(1, tokens, width, generator=generator, dtype=torch.float64),
            task=task,
            family=FAMILIES[family],
            timestep=999,
            x0_from_xt=from_xt,
            x0_from_output=from_output,
        )
        .requires_grad_(False)
        .eval()
    )


def random_rgb(*shape, seed=1):
    """Float64 in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64) * 2.0 - 1.0
