"""Passes over the VAE and the latents: scales and 1x1 convolutions fold into neighbours, one-head attention shrinks.

Each changes the SpecialisedModel in place and leaves its function as it was (exact in real arithmetic).
"""

from typing import Any

import torch

from e2e_deploy.export.graph.attention import SingleHeadAttention
from e2e_deploy.export.graph.passes.folding import bias_of, fold_after, linear, replace_modules
from e2e_deploy.export.graph.specialised_model import SpecialisedModel
from e2e_deploy.model.coders.coder import last_convolution
from e2e_deploy.packages import require


def fold_latent_scales(model: SpecialisedModel) -> None:
    """Scales and 1x1 convolutions around both latents, and the channel mean of depth, fold into the convolution before.

    Before and not after: a bias that enters a zero-padded convolution cannot be folded into it at the borders.
    """
    vae, unet, channels = model.vae, model.unet, model.latent_channels
    encoder_out = last_convolution(vae.encoder)
    exact: Any = {"dtype": torch.float64, "device": encoder_out.weight.device}
    quant_conv, post_quant_conv = (
        getattr(vae, name, None) for name in ("quant_conv", "post_quant_conv")
    )
    if quant_conv is None:
        fold_after(encoder_out, torch.eye(encoder_out.out_channels, **exact)[:channels])
    else:
        matrix, offset = quant_conv.weight.double().flatten(1), bias_of(quant_conv)
        fold_after(encoder_out, matrix[:channels], offset[:channels])
        vae.quant_conv = None
    if vae.decoder is None:  # a head has its place
        return

    # every latent on its own, of several that the UNet gives along its channels
    count = unet.conv_out.out_channels // channels
    each = torch.eye(count, **exact)
    scale = model.output_scale * torch.eye(channels, **exact)
    if post_quant_conv is None:
        fold_after(unet.conv_out, torch.kron(each, scale))
    else:
        matrix = post_quant_conv.weight.double().flatten(1) @ scale
        offset = bias_of(post_quant_conv).repeat(count)
        fold_after(unet.conv_out, torch.kron(each, matrix), offset)
        vae.post_quant_conv = None
    model.output_scale = 1.0

    is_mean = len(model.kinds) == 1 and model.kinds[0].channels == 1
    if is_mean and not model.family.clips_first:
        decoder_out = last_convolution(vae.decoder)
        images = decoder_out.out_channels
        fold_after(decoder_out, torch.full((1, images), 1.0 / images, **exact))


def _merge_projections(attention: Any) -> SingleHeadAttention | None:
    layers = (attention.to_q, attention.to_k, attention.to_v, attention.to_out[0])
    channels = layers[0].weight.shape[1]
    fits = (
        attention.heads == 1
        and all(layer.weight.shape == (channels, channels) for layer in layers)
        and attention.group_norm is not None
        and attention.spatial_norm is None
        and attention.norm_q is None
        and attention.norm_k is None
        and attention.residual_connection
        and attention.rescale_output_factor == 1.0
        and not attention.is_cross_attention
    )
    if not fits:
        return None
    query, key, value, out = (layer.weight.double() for layer in layers)
    query_bias, _, value_bias, out_bias = (bias_of(layer) for layer in layers)
    dtype = attention.to_q.weight.dtype
    return SingleHeadAttention(
        attention.group_norm,
        linear(key.T @ query * attention.scale, key.T @ query_bias * attention.scale, dtype),
        linear(out @ value, out @ value_bias + out_bias, dtype),
    )


def merge_single_head_attention(model: SpecialisedModel) -> None:
    """The VAE's self attentions, one head each, need two projections instead of four."""
    attention_class = require("diffusers.models.attention_processor", "export").Attention
    replace_modules(model.vae, attention_class, _merge_projections)
