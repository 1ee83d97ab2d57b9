"""GenPercept checkpoints with random weights: SD2.1's configs at a small width, in the layouts of its repository."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from e2e_deploy.model.networks.dpt_head import DPTHead
from tests.export.random_models import randomise
from tests.family_checkpoints.sd2 import UNET, VAE, write_sd2

BETAS_OF_ONE = {"beta_start": 1.0, "beta_end": 1.0, "timestep_spacing": "leading"}
"""hf_configs/scheduler_beta_1.0_1.0 of GenPercept's repository."""
FUSION = 16


TWO_LEVELS = {
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": (1, 2),
    "layers_per_block": 1,
}
"""Of a UNet whose graph is traced in a moment."""


def write_genpercept(
    folder: Path, *, head=False, decoder=False, prompt=False, unet=(), **changes
) -> Path:
    """SD2.1's folder with a UNet in the place of its own, and what some checkpoints have beside it."""
    unet = {"upcast_attention": True} | dict(unet)
    write_sd2(folder, unet=unet, **{"contrast": 0.5} | changes)
    generator = torch.Generator().manual_seed(7)
    if prompt:  # of GenPercept v1, which has no text encoder
        for file in (*(folder / "text_encoder").iterdir(), *(folder / "tokenizer").iterdir()):
            file.unlink()
        context = torch.randn(77, UNET["cross_attention_dim"], generator=generator)
        np.save(folder / "empty_text_embed.npy", context.numpy().astype(np.float16))
    if decoder:
        vae = _vae()
        for folder_name, part in (
            ("vae_decoder", vae.decoder),
            ("vae_post_quant_conv", vae.post_quant_conv),
        ):
            randomise(part, generator)
            _save(part, folder / folder_name)
    if head:
        network = DPTHead((UNET | unet)["block_out_channels"], FUSION)
        randomise(network, generator)
        network.head.head[-1].bias.data -= 0.2  # most of the map stays inside [-1, 1]
        _save(network, folder / "dpt_head_identity")
        config = {"fusion_hidden_size": FUSION}
        (folder / "dpt_head_identity" / "config.json").write_text(json.dumps(config))
    return folder


def _vae():
    import diffusers

    return diffusers.AutoencoderKL(**VAE)


def _save(network, folder: Path) -> None:
    folder.mkdir()
    save_file(network.float().state_dict(), folder / "model.safetensors")
