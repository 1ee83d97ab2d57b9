"""From a checked checkpoint to its single-step model: which networks it is put together of."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from e2e_deploy.errors import CheckpointError
from e2e_deploy.model.checkpoint import Checkpoint
from e2e_deploy.model.networks.parts import load_part
from e2e_deploy.model.networks.prompt import encode_empty_prompt
from e2e_deploy.model.schedule import OneStep, last_step
from e2e_deploy.model.single_step import SingleStepModel
from e2e_deploy.names import FamilyName
from e2e_deploy.packages import require


def load_model(checkpoint: Checkpoint) -> SingleStepModel:
    """The checkpoint as a SingleStepModel in float32, eval mode, on the CPU, without gradients.

    Raises:
        CheckpointError: a missing or unknown key, a wrong shape, an unusable config.
    """
    build = _BUILDERS.get(checkpoint.identity.family.name, _single_step)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # diffusers warns about its own deprecated attributes
        return build(checkpoint)


def the_step(checkpoint: Checkpoint) -> OneStep:
    """The one step of a checkpoint: as its family fixes it, else the last one of its noise schedule.

    Raises:
        CheckpointError: the schedule is none, where it is needed.
    """
    family = checkpoint.identity.family
    if family.timestep is not None and family.x0_from_output is not None:
        return OneStep(family.timestep, 0.0, family.x0_from_output)
    step = last_step(checkpoint.scheduler)
    timestep = step.timestep if family.timestep is None else family.timestep
    if family.x0_from_output is not None:
        return OneStep(timestep, 0.0, family.x0_from_output)
    return OneStep(timestep, step.from_xt, step.from_output)


def _single_step(checkpoint: Checkpoint) -> SingleStepModel:
    diffusers = require("diffusers", "export")
    family, step = checkpoint.identity.family, the_step(checkpoint)
    unet = load_part(checkpoint, "unet", diffusers.UNet2DConditionModel)
    vae = load_part(checkpoint, "vae", diffusers.AutoencoderKL)
    context_1LC = encode_empty_prompt(checkpoint)
    _check_context(checkpoint, context_1LC, unet.config.cross_attention_dim)
    labels = torch.tensor([family.class_labels]) if family.class_labels else None
    return SingleStepModel(
        unet,
        vae,
        context_1LC,
        task=checkpoint.identity.task,
        family=family,
        timestep=step.timestep,
        x0_from_xt=step.from_xt,
        x0_from_output=step.from_output,
        class_labels_1D=labels,
        full_z_range=checkpoint.full_z_range,
    )


def _check_context(checkpoint: Checkpoint, context_1LC: Tensor, width: int) -> None:
    if context_1LC.shape[-1] != width:
        raise CheckpointError(
            f"the text encoder in {checkpoint.path} gives {context_1LC.shape[-1]} numbers a token, "
            f"the unet expects {width}"
        )


_BUILDERS: dict[FamilyName, Callable[[Checkpoint], SingleStepModel]] = {}
"""Of the families whose networks are put together in another way."""
