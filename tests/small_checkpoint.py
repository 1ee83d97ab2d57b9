"""Checkpoints of the Marigold kind at a size that loads in a moment, in every variation the loader must know."""

import json
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from e2e_deploy.model.tiny import SCHEDULER, write_model_index, write_text_parts

VAE = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "sample_size": 64,
    "scaling_factor": 0.18215,
}
TINY = {
    "encoder_block_out_channels": (8, 8),
    "decoder_block_out_channels": (8, 8),
    "num_encoder_blocks": (1, 1),
    "num_decoder_blocks": (1, 1),
}
"""TAESD's layout at the VAE's stride, and its scaling factor of 1."""
UNET = {
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": (1, 2),
    "cross_attention_dim": 16,
    "norm_num_groups": 4,
    "use_linear_projection": True,
    "sample_size": 32,
}
TEXT_ENCODER = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "projection_dim": 16,
    "max_position_embeddings": 77,
}
# Stable Diffusion 2's own schedule, as the released checkpoints store it.
SD2_SCHEDULER = SCHEDULER | {"set_alpha_to_one": False}
STRIDE, NETWORK_STRIDE = 2, 4
"""The VAE halves once, the UNet once more."""


def write_lcm(folder: Path, task="depth", *, scheduler=(), **changes) -> Path:
    """As ``write_small``, with the scheduler of a latent consistency model."""
    from diffusers import LCMScheduler

    write_small(folder, task, **changes)
    known = {key: value for key, value in SD2_SCHEDULER.items() if key != "timestep_spacing"}
    LCMScheduler(**(known | dict(scheduler))).save_pretrained(folder / "scheduler")
    index = folder / "model_index.json"
    edit_json(index, scheduler=["diffusers", "LCMScheduler"], default_denoising_steps=4)
    return folder


def tiny_coder(seed=0, **changes):
    """An AutoencoderTiny of random weights whose images have contrast; ``changes`` are of TINY."""
    import diffusers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        coder = diffusers.AutoencoderTiny(**(TINY | changes))
    coder.decoder.layers[-1].weight.data *= 3
    coder.decoder.layers[-1].bias.data += 0.5
    return coder


def write_small(
    folder: Path, task="depth", *, seed=0, unet=(), scheduler=(), index=(), tiny=None
) -> Path:
    """A diffusers folder with random weights; ``unet``, ``scheduler`` and ``index`` change its configs.

    With ``tiny``, changes of TINY, the VAE is an AutoencoderTiny.
    """
    import diffusers

    folder.mkdir(parents=True)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        diffusers.UNet2DConditionModel(**(UNET | dict(unet))).save_pretrained(folder / "unet")
        vae = diffusers.AutoencoderKL(**VAE)
        # A random decoder is nearly grey; with contrast, clipping and the sign of normals matter too.
        vae.decoder.conv_out.weight.data *= 3
        if tiny is not None:
            vae = tiny_coder(seed, **dict(tiny))
        vae.save_pretrained(folder / "vae")
        diffusers.DDIMScheduler(**(SD2_SCHEDULER | dict(scheduler))).save_pretrained(
            folder / "scheduler"
        )
        write_text_parts(folder, TEXT_ENCODER)
    write_model_index(folder, task, resolution=64, vae=type(vae).__name__)
    edit_json(folder / "model_index.json", **dict(index))
    return folder


def edit_json(path: Path, **changes) -> None:
    """Set keys of a JSON object on disk; None removes one."""
    value = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in value.items() if v is not None}))


def edit_weights(folder: Path, part: str, change) -> Path:
    """Rewrite a part's safetensors as ``change(tensors)`` and return the file."""
    stem = "model" if part in ("text_encoder", "image_encoder") else "diffusion_pytorch_model"
    file = folder / part / f"{stem}.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return file
