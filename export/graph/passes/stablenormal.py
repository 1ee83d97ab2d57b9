"""A pass over what StableNormal-turbo alone has: half a UNet that sees nothing but noise.

Changes the SpecialisedModel in place and leaves its function as it was (exact in real arithmetic).
"""

import copy
from types import SimpleNamespace

from e2e_deploy.export.graph.specialised_model import SpecialisedModel, SpecialisedStableNormal
from e2e_deploy.model.networks.stablenormal import noise_like
from e2e_deploy.model.networks.unet_features import go_down


def keep_features_of_noise(model: SpecialisedModel) -> None:
    """What the UNet's first half and middle make of the noise is kept as constants for each size, and they go.

    The picture enters the UNet after them, by what the ControlNet adds to these features.
    """
    if not isinstance(model, SpecialisedStableNormal) or model.seed is None or not model.sizes_hw:
        return
    unet, dtype = model.unet, model.unet.conv_out.weight.dtype
    half = SimpleNamespace(
        time_proj=unet.time_proj,
        time_embedding=copy.deepcopy(unet.time_embedding).double(),
        time_embed_act=unet.time_embed_act,
        conv_in=unet.conv_in.double(),
        down_blocks=unet.down_blocks.double(),
        mid_block=unet.mid_block if unet.mid_block is None else unet.mid_block.double(),
    )
    context_1LC = None if model.context_1LC is None else model.context_1LC.double()
    sides = sorted({(h // model.stride, w // model.stride) for h, w in model.sizes_hw})
    for latent_hw in sides:
        shape = (1, model.latent_channels, *latent_hw)
        noise = noise_like(unet.conv_in.weight.new_empty(shape), model.seed)
        kept, middle = go_down(half, noise, model.timestep, context_1LC)
        for index, features in enumerate((*kept, middle)):
            name = model.constant_name(latent_hw, index)
            model.register_buffer(name, features.to(dtype), persistent=False)
    unet.conv_in = unet.down_blocks = unet.mid_block = None
    model.constant_hw = tuple(sides)
