"""The halves of a diffusers UNet: the features of its levels on the way down and up.

As diffusers' UNet2DConditionModel.forward without what no SD2-like UNet has; what it leaves out is refused.

N batch, L prompt tokens, C prompt width, h w latent pixels.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from e2e_deploy.packages import require

ENDS = ("conv_norm_out.", "conv_out.")
"""Starts of the names of what a UNet whose features are read does not have."""
_EXPECTED = {
    "addition_embed_type": (None,),
    "center_input_sample": (None, False),
    "class_embed_type": (None,),
    "encoder_hid_dim_type": (None,),
    "num_class_embeds": (None,),
}


class EndlessUNet:
    """Makes a diffusers UNet2DConditionModel without its last norm and convolution."""

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> Any:
        """The UNet, with the numbers it is made with.

        Raises:
            ValueError: it has an input that ``unet_features`` does not know.
        """
        unet = require("diffusers", "export").UNet2DConditionModel.from_config(dict(config))
        for name, allowed in _EXPECTED.items():
            value = getattr(unet.config, name, None)
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; a UNet with a DPT head has {allowed[-1]!r}")
        unet.conv_norm_out = unet.conv_out = None
        return unet


def unet_features(
    unet: Any, latent_N4hw: Tensor, timestep: int, context_NLC: Tensor | None
) -> list[Tensor]:
    """What the upwards blocks give, the finest first: [N, width, ., .] each, width after ``block_out_channels``."""
    kept, hidden = go_down(unet, latent_N4hw, timestep, context_NLC)
    return go_up(unet, kept, hidden, timestep, context_NLC)


def go_down(
    network: Any, latent_N4hw: Tensor, timestep: int, context_NLC: Tensor | None
) -> tuple[list[Tensor], Tensor]:
    """What the downwards blocks of a UNet or a ControlNet give, the finest first, and its middle."""
    embedding = _embed(network, latent_N4hw, timestep)
    hidden = network.conv_in(latent_N4hw)
    kept = [hidden]
    for block in network.down_blocks:
        hidden, outputs = block(hidden, embedding, **_context(block, context_NLC))
        kept += outputs
    if network.mid_block is not None:
        hidden = network.mid_block(hidden, embedding, **_context(network.mid_block, context_NLC))
    return kept, hidden


def go_up(
    unet: Any,
    kept: list[Tensor],
    hidden: Tensor,
    timestep: int,
    context_NLC: Tensor | None,
) -> list[Tensor]:
    """What the upwards blocks make of what ``go_down`` gives, the finest first."""
    embedding = _embed(unet, kept[0], timestep)
    # Beside a level of odd size an upwards block is told the size to reach, as diffusers does it.
    exact = all(side % 2**unet.num_upsamplers == 0 for side in kept[0].shape[2:])
    features: list[Tensor] = []
    for index, block in enumerate(unet.up_blocks):
        count = len(block.resnets)
        skips, kept = tuple(kept[-count:]), kept[:-count]
        size = None if exact or index == len(unet.up_blocks) - 1 else kept[-1].shape[2:]
        hidden = block(hidden, skips, embedding, upsample_size=size, **_context(block, context_NLC))
        features.append(hidden)
    return features[::-1]


def _embed(network: Any, sample: Tensor, timestep: int) -> Any:
    """The time embedding; None once it is folded."""
    times_N = torch.full((sample.shape[0],), timestep, device=sample.device)
    embedding = network.time_embedding(network.time_proj(times_N).to(sample.dtype))
    act = getattr(network, "time_embed_act", None)
    return embedding if act is None else act(embedding)


def _context(block: Any, context_NLC: Tensor | None) -> dict[str, Any]:
    has = getattr(block, "has_cross_attention", False)
    return {"encoder_hidden_states": context_NLC} if has else {}


def walk_features(unet: Any) -> None:
    """Run a UNet without its numbers.

    Raises:
        ValueError: its features are not as wide as its levels.
    """
    config = unet.config
    side = 2 ** len(config.block_out_channels)
    with torch.no_grad(), torch.device("meta"):
        latent = torch.empty(1, config.in_channels, side, side)
        features = unet_features(unet, latent, 1, torch.empty(1, 2, config.cross_attention_dim))
    widths = [feature.shape[1] for feature in features]
    if widths != list(config.block_out_channels):
        raise ValueError(f"its features are {widths} wide, not {list(config.block_out_channels)}")
