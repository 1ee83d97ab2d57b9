"""Where a run begins: any supported checkpoint turned into the model that is trained.

Knows: Stable Diffusion 2, Marigold, E2E-FT, finished runs and random e2e-tiny; the widening of the
first convolution; the axes of normals. Does not know: the optimizer, data.

The empty prompt is encoded as two tokens (BOS, EOS) in training as in every export. The published
training pads it to 77 and then deploys with two; we use what is deployed.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from e2e_deploy.checkpoint import Checkpoint, open_checkpoint
from e2e_deploy.errors import CheckpointError, UsageError
from e2e_deploy.families import FAMILIES
from e2e_deploy.loading import load_model
from e2e_deploy.model import SingleStepModel
from e2e_deploy.tiny import UNTRAINED, build_tiny
from e2e_deploy.train.config import TrainConfig

TINY = "e2e-tiny"
FAMILY = FAMILIES["marigold"]
"""What trained models are saved as: normals with x right, y up, z toward the viewer, clipped."""


@dataclass(frozen=True)
class Start:
    """The model at step 0 and the folder it came from."""

    model: SingleStepModel
    """float32, CPU; task and family are those of the result."""
    checkpoint: Checkpoint
    changes: tuple[str, ...]
    """What was changed in the loaded weights, one sentence each."""

    @property
    def is_untrained(self) -> bool:
        """Whether the weights are random: nothing is learned yet, not even which way depth points."""
        return self.checkpoint.note == UNTRAINED


def load_start(config: TrainConfig) -> Start:
    """Load ``config.start.checkpoint`` and fit it to the task.

    Raises:
        CheckpointError: missing, foreign, damaged, or a run that is not finished.
        UsageError: an 8-channel UNet with ``noise = "none"``.
    """
    checkpoint = open_checkpoint(_folder_of(config))
    loaded = load_model(checkpoint)
    changes: list[str] = []
    wants = loaded.latent_channels * (1 if config.model.noise == "none" else 2)
    if loaded.in_channels > wants:
        raise UsageError(
            f"model.noise is none, but the UNet of {checkpoint.id} has {loaded.in_channels} input "
            f"channels; only one with {wants} can run without the second half"
        )
    if loaded.in_channels < wants:
        widen_conv_in(loaded.unet)
        changes.append(f"conv_in widened from {loaded.in_channels} to {wants} channels and halved")
    if config.task == "normals" and checkpoint.identity.task == "normals":
        changes += _turn_normals(loaded, checkpoint)
    model = SingleStepModel(
        loaded.unet,
        loaded.vae,
        loaded.context_1LC,
        task=config.task,
        family=FAMILY,
        timestep=loaded.timestep,
        x0_from_xt=loaded.x0_from_xt,
        x0_from_output=loaded.x0_from_output,
    )
    return Start(model, checkpoint, tuple(changes))


def widen_conv_in(unet: nn.Module) -> None:
    """Double the input channels of ``unet.conv_in``: weights repeated, weights and bias halved.

    With equal halves the output is half of what it was plus nothing; with zeros as the second half,
    the image enters with half its weight (E2E-FT, which halves the bias too; Marigold does not).
    """
    old = unet.conv_in
    assert isinstance(old, nn.Conv2d)
    assert old.bias is not None
    new = nn.Conv2d(
        2 * old.in_channels,
        old.out_channels,
        kernel_size=(old.kernel_size[0], old.kernel_size[1]),
        padding=(int(old.padding[0]), int(old.padding[1])),
    )
    with torch.no_grad():
        new.weight.copy_(old.weight.repeat(1, 2, 1, 1) / 2)
        new.bias.copy_(old.bias / 2)  # type: ignore[union-attr]  # made with a bias above
    unet.conv_in = new.requires_grad_(old.weight.requires_grad)
    unet.register_to_config(in_channels=2 * old.in_channels)  # type: ignore[operator]  # diffusers


def _folder_of(config: TrainConfig) -> str:
    name = config.start.checkpoint
    if name == TINY:
        folder = Path(config.run.out) / "start"
        return str(build_tiny(folder, config.task, seed=config.run.seed))
    if (Path(name) / "model" / "model_index.json").is_file():
        return str(Path(name) / "model")
    if (Path(name) / "checkpoints").is_dir():
        raise CheckpointError(
            f"{name} is a run that is not finished: continue it first, it has no model folder yet"
        )
    return name


def _turn_normals(model: SingleStepModel, checkpoint: Checkpoint) -> list[str]:
    """Fold the start's axes into the decoder's last convolution, so that its output is ours."""
    last = model.vae.decoder.conv_out
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    changes = []
    with torch.no_grad():
        if checkpoint.identity.family.normals_x_left:
            last.weight[0].neg_()
            last.bias[0].neg_()
            changes.append("x of the decoded normals turned from left to right")
        if not checkpoint.full_z_range:
            last.weight[2].mul_(0.5)
            last.bias[2].mul_(0.5).add_(0.5)
            changes.append("z of the decoded normals changed from [0, 1] to [-1, 1]")
    return changes
