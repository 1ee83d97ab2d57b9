"""Stable Diffusion 2's configs at a small width, and a folder of them with random weights."""

import json
import warnings
from pathlib import Path

import torch

from e2e_deploy.model.tiny import write_text_parts
from tests.export.random_models import randomise
from tests.small_checkpoint import SD2_SCHEDULER

UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (8, 16, 32, 32),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
    "attention_head_dim": (1, 2, 4, 4),
    "cross_attention_dim": 16,
    "norm_num_groups": 8,
    "use_linear_projection": True,
    "sample_size": 64,
}
VAE = {
    "block_out_channels": (8, 8, 16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "sample_size": 768,
    "scaling_factor": 0.18215,
}
LEAN = {
    "unet": {
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": (1, 2),
        "layers_per_block": 1,
    },
    "vae": {
        "block_out_channels": (8, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "layers_per_block": 1,
    },
}
"""Changes of both networks to two levels of one layer, where a test is about an export; the VAE's stride is 2."""
TEXT_ENCODER = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "projection_dim": 16,
    "max_position_embeddings": 77,
}


def write_sd2(
    folder: Path, *, seed=0, unet=(), vae=(), index=(), scheduler=(), contrast=1.0, make_unet=None
) -> Path:
    """A diffusers folder; ``unet``, ``vae``, ``index`` and ``scheduler`` change its configs, None is no scheduler.

    ``contrast`` multiplies the decoder's last weights; ``make_unet`` makes the network of its config.
    """
    import diffusers

    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        network = (make_unet or diffusers.UNet2DConditionModel.from_config)(UNET | dict(unet))
        autoencoder = diffusers.AutoencoderKL(**(VAE | dict(vae)))
        for each in (network, autoencoder):
            randomise(each, generator)
        autoencoder.decoder.conv_out.weight.data *= contrast
        network.float().save_pretrained(folder / "unet")
        autoencoder.float().save_pretrained(folder / "vae")
        write_text_parts(folder, TEXT_ENCODER)
        if scheduler is not None:
            diffusers.DDIMScheduler(**(SD2_SCHEDULER | dict(scheduler))).save_pretrained(
                folder / "scheduler"
            )
    (folder / "model_index.json").write_text(
        json.dumps({"_class_name": "StableDiffusionPipeline"} | dict(index))
    )
    return folder
