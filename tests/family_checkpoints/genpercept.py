"""GenPercept checkpoints with random weights: SD2.1's configs at a small width, in the layouts of its repository."""

import json
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from e2e_deploy.model.networks.dpt_head import DPTHead
from e2e_deploy.model.tiny import write_text_parts
from tests.export.random_models import randomise

UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (32, 64, 64, 64),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
    "attention_head_dim": (1, 2, 4, 4),
    "cross_attention_dim": 32,
    "norm_num_groups": 32,
    "use_linear_projection": True,
    "upcast_attention": True,
    "sample_size": 96,
}
VAE = {
    "block_out_channels": (32, 32, 64, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 768,
    "scaling_factor": 0.18215,
}
TEXT_ENCODER = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "projection_dim": 32,
    "max_position_embeddings": 77,
}
SD21_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
BETAS_OF_ONE = SD21_SCHEDULER | {"beta_start": 1.0, "beta_end": 1.0}
"""hf_configs/scheduler_beta_1.0_1.0 of GenPercept's repository."""
FUSION = 16


def write_genpercept(
    folder: Path, *, head=False, decoder=False, prompt=False, scheduler=SD21_SCHEDULER, seed=0
) -> Path:
    """SD2.1's folder with a UNet in the place of its own, and what some checkpoints have beside it."""
    import diffusers

    folder.mkdir(parents=True)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        unet, vae = diffusers.UNet2DConditionModel(**UNET), diffusers.AutoencoderKL(**VAE)
        vae.decoder.conv_out.weight.data *= 3  # with contrast, so that clipping matters
        unet.save_pretrained(folder / "unet")
        vae.save_pretrained(folder / "vae")
        diffusers.DDIMScheduler(**scheduler).save_pretrained(folder / "scheduler")
        if prompt:  # of GenPercept v1, which has no text encoder
            context = torch.randn(77, UNET["cross_attention_dim"]).numpy().astype(np.float16)
            np.save(folder / "empty_text_embed.npy", context)
        else:
            write_text_parts(folder, TEXT_ENCODER)
        if decoder:
            other = diffusers.AutoencoderKL(**VAE)
            other.decoder.conv_out.weight.data *= 3
            _save(other.decoder, folder / "vae_decoder")
            _save(other.post_quant_conv, folder / "vae_post_quant_conv")
        if head:
            network = DPTHead(UNET["block_out_channels"], FUSION)
            randomise(network, torch.Generator().manual_seed(seed))
            _save(network.float(), folder / "dpt_head_identity")
            config = {"fusion_hidden_size": FUSION}
            (folder / "dpt_head_identity" / "config.json").write_text(json.dumps(config))
    index = {"_class_name": "StableDiffusionPipeline"}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def _save(network, folder: Path) -> None:
    folder.mkdir()
    save_file(network.state_dict(), folder / "model.safetensors")
