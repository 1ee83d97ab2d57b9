"""The small VAE that ``[distil]`` describes, which settings are the UNet's, and what cannot be meant beside it.

Knows: the settings. Does not know: the teacher, torch.
"""

from dataclasses import dataclass
from typing import Any

from e2e_deploy.train.config.settings import (
    RANDOM,
    CoderName,
    DistilConfig,
    EvalConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    SpeedConfig,
    TrainConfig,
)
from e2e_deploy.train.data.resize import STRIDE

Blocks = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class CoderShape:
    """Of an AutoencoderTiny: every level has the same width."""

    width: int
    encoder_blocks: Blocks
    """Residual blocks of each level, the finest first."""
    decoder_blocks: Blocks
    """Likewise, the coarsest first."""


CODERS: dict[CoderName, CoderShape] = {
    "turbo": CoderShape(64, (1, 3, 3, 3), (3, 3, 3, 1)),
    "nano": CoderShape(16, (0, 1, 3, 3), (3, 3, 1, 0)),
}
"""``turbo`` is TAESD's. ``nano`` has a quarter of its width, and no block where pixels are as many as in the picture,
whose work is most of that of all."""

UNET_SETTINGS = ("unet_layers", "unet_steps", "unet_lr")
"""Of the UNet's own part, which is there only with the first."""


def shape_of(distil: DistilConfig) -> CoderShape:
    """The VAE that is asked for: the named one, with what is given instead."""
    named = CODERS[distil.coder or "turbo"]
    return CoderShape(
        named.width if distil.width is None else distil.width,
        named.encoder_blocks if distil.encoder_blocks is None else distil.encoder_blocks,
        named.decoder_blocks if distil.decoder_blocks is None else distil.decoder_blocks,
    )


def contradictions_of_distillation(config: TrainConfig) -> list[str]:
    """One sentence each."""
    distil = config.distil
    if distil is None:
        return []
    problems = [*_of_the_task(config), *_without_truth(config)]
    if None not in (distil.coder, distil.width, distil.encoder_blocks, distil.decoder_blocks):
        problems.append(
            f"distil.coder = {distil.coder!r} has no effect beside width, encoder_blocks and decoder_blocks; leave it "
            "out"
        )
    if distil.unet_layers is None:
        unset = DistilConfig(size=distil.size)
        problems += [
            f"distil.{name} has no effect without distil.unet_layers, which says what the UNet keeps"
            for name in UNET_SETTINGS
            if getattr(distil, name) != getattr(unset, name)
        ]
    if config.model.precision == "fp16":
        problems.append(
            'distil learns without a gradient scaler, which fp16 needs: use model.precision = "bf16" or "fp32"'
        )
    if any(side % STRIDE for side in distil.size):
        problems.append(
            f"distil.size is {list(distil.size)}; both sides must be multiples of {STRIDE}"
        )
    if distil.pictures is None and not config.data:
        problems.append(
            "distil has nothing to look at: give distil.pictures, a folder of pictures, or a [[data]] table"
        )
    return problems


def _of_the_task(config: TrainConfig) -> list[str]:
    problems = []
    if config.start.checkpoint == RANDOM:
        problems.append("distil needs a teacher: start.checkpoint is a trained model, not 'random'")
    if config.task == "geometry":
        problems.append("distil is for a model of one result; geometry has two from one decoder")
    if config.model.head is not None:
        problems.append("distil is for a VAE's two halves; with model.head there is no decoder")
    if config.diffusion is not None:
        problems.append(
            "distil gives a VAE that decodes results and encodes no truths, which [diffusion] needs"
        )
    return problems


def _has_gradients_of_unet(config: TrainConfig) -> bool:
    """Whether something that is distilled keeps activations of the UNet."""
    distil = config.distil
    return distil is not None and (distil.unet_layers is not None or distil.x0_weight > 0)


def _without_truth(config: TrainConfig) -> list[str]:
    """What nothing reads where the run ends with the distillation."""
    if config.data:
        return []
    idle: dict[str, tuple[Any, Any]] = {
        "optim": (config.optim, OptimConfig()),
        "loss": (config.loss, LossConfig()),
        "speed": (config.speed, SpeedConfig()),
        "then": (config.then, ()),
    }
    problems = [
        f"[{name}] has no effect without a [[data]] table: nothing is trained after [distil]"
        for name, (given, default) in idle.items()
        if given != default
    ]
    run, unset = config.run, RunConfig(out="")
    keys: dict[str, bool] = {
        "model.train": config.model.train != ModelConfig().train,
        "model.gradient_checkpointing": config.model.gradient_checkpointing != "auto"
        and not _has_gradients_of_unet(config),
        "model.noise": config.model.noise in ("gaussian", "pyramid"),
        "eval.select": config.eval is not None and config.eval.select != "last",
        "eval.every": config.eval is not None and config.eval.every != EvalConfig(root="").every,
        "run.keep": run.keep != unset.keep,
        "run.log_every": run.log_every != unset.log_every,
        "run.panel_every": run.panel_every != unset.panel_every,
        "augment.smallest_view": config.augment is not None and config.augment.smallest_view != 1,
    }
    return problems + [
        f"{key} has no effect without a [[data]] table: it is for what is trained after [distil]"
        for key, is_given in keys.items()
        if is_given
    ]
