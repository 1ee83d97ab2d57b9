"""What does the steps of a run, put together from its config and its start."""

from typing import Any

from e2e_deploy.errors import UsageError
from e2e_deploy.train.config.settings import TrainConfig
from e2e_deploy.train.config.terms import fits_either_way
from e2e_deploy.train.start import Start
from e2e_deploy.train.step.choices import choose, largest
from e2e_deploy.train.step.forward import TrainingForward
from e2e_deploy.train.step.memory import free_bytes, need_of
from e2e_deploy.train.step.objective import Decoded, Denoised, Objective
from e2e_deploy.train.step.step import DTYPES, Stepper, check_precision, share_of_process

UNTRAINED_DIRECTION_WEIGHT = 1.0
"""The term is zero wherever the scale is positive; at this weight it outweighs the paper's loss where that one is
undecided, so that no picture settles on the wrong side."""


def ready_stepper(config: TrainConfig, start: Start, accelerator: Any) -> Stepper:
    """The stepper, its model on the accelerator's device; the choices that the config leaves open are made.

    Raises:
        UsageError, UnavailableError, CheckpointError: as of ``Stepper``, ``choose`` and ``Denoised``.
    """
    forward = TrainingForward(start.model, train=config.model.train, gradient_checkpointing=False)
    check_precision(config.model.precision, accelerator.device)
    objective: Objective = Decoded(forward, config)
    if config.diffusion is not None:
        objective = Denoised(forward, config, start.checkpoint.scheduler)
    size_hw = largest([part.size for part in config.data])
    dtype, denoises = DTYPES[config.model.precision], objective.denoises
    world = accelerator.num_processes
    if config.speed.shard and world == 1:
        raise UsageError(
            "speed.shard is for several processes, and this is one alone: start them with `accelerate launch` or "
            "torchrun, or leave it out"
        )
    slices = world if config.speed.shard else 1
    choices = choose(
        config,
        accelerator.device,
        accumulation=share_of_process(config, world),
        need=lambda: (
            size_hw
            and need_of(
                forward, size_hw, accelerator.device, dtype, denoises=denoises, slices=slices
            )
        ),
        free=lambda: free_bytes(accelerator.device),
    )
    return Stepper(
        forward,
        config,
        accelerator,
        objective=objective,
        direction_weight=_direction_weight(config, start),
        choices=choices,
    )


def _direction_weight(config: TrainConfig, start: Start) -> float:
    """Of the term against inverted depth, which only a fit whose scale may be negative needs."""
    if config.loss.direction_weight is not None:
        return config.loss.direction_weight
    kinds = [kind.name for kind in start.model.kinds]
    is_fitted = "depth" in kinds and fits_either_way(config.loss.terms)
    return UNTRAINED_DIRECTION_WEIGHT * (
        start.is_untrained and is_fitted and config.diffusion is None
    )
