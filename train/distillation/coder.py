"""The model with a small VAE: diffusers' AutoencoderTiny, whose latents are the teacher's after their scale."""

from typing import Any

import torch

from e2e_deploy.errors import UsageError
from e2e_deploy.model.single_step import SingleStepModel
from e2e_deploy.packages import require
from e2e_deploy.train.config.distillation import CoderShape

STRIDE = 8
"""Of four levels."""


def with_small_coder(
    teacher: SingleStepModel, shape: CoderShape, *, seed: int, unet: Any = None
) -> SingleStepModel:
    """``unet`` between the halves of a VAE with random weights, on the teacher's device; None: the teacher's, itself.

    One channel comes out of the decoder where the result is a map, whose mean over three the last layer spares.

    Raises:
        UsageError: the teacher's VAE has not the stride of four levels.
    """
    if teacher.stride != STRIDE:
        raise UsageError(
            f"the VAE of start.checkpoint shrinks pictures {teacher.stride} times; distil has four levels, {STRIDE} "
            "times"
        )
    (kind,) = teacher.kinds
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae: Any = require("diffusers", "export").AutoencoderTiny(
            in_channels=3,
            out_channels=kind.channels,
            latent_channels=teacher.latent_channels,
            encoder_block_out_channels=(shape.width,) * len(shape.encoder_blocks),
            decoder_block_out_channels=(shape.width,) * len(shape.decoder_blocks),
            num_encoder_blocks=shape.encoder_blocks,
            num_decoder_blocks=shape.decoder_blocks,
            scaling_factor=1.0,
        )
    student = SingleStepModel(
        teacher.unet if unet is None else unet,
        vae.requires_grad_(False).eval(),
        teacher.context_1LC,
        task=teacher.task,
        family=teacher.family,
        timestep=teacher.timestep,
        x0_from_xt=teacher.x0_from_xt,
        x0_from_output=teacher.x0_from_output,
        class_labels_1D=teacher.class_labels_1D,
        full_z_range=teacher.full_z_range,
        outputs=[kind.name],
    )
    return student.to(next(teacher.unet.parameters()).device)
