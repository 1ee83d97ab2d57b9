"""Where a run begins: any supported checkpoint turned into the model that is trained.

Knows: Stable Diffusion 2, Marigold, E2E-FT, finished runs and random weights; the widening of the
first convolution; the axes of normals. Does not know: the optimizer, data.

The empty prompt is encoded as two tokens (BOS, EOS) in training as in every export. The published
training pads it to 77 and then deploys with two; we use what is deployed.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from e2e_deploy.errors import CheckpointError, UsageError
from e2e_deploy.model.checkpoint import Checkpoint, open_checkpoint
from e2e_deploy.model.coders.coder import image_of_last, last_convolution
from e2e_deploy.model.families import CONTROLNET, STORED_PROMPT, get_family
from e2e_deploy.model.loading import load_model, the_step
from e2e_deploy.model.networks.head_model import HeadModel
from e2e_deploy.model.recognition import has_constant_betas
from e2e_deploy.model.single_step import SingleStepModel
from e2e_deploy.model.tiny import UNTRAINED, build_tiny
from e2e_deploy.names import FamilyName, TaskName
from e2e_deploy.train.config.settings import RANDOM, StartConfig, TrainConfig
from e2e_deploy.train.conv_in import cut_second_half, ignores_second_half, widen_conv_in
from e2e_deploy.train.distillation.distil import FOLDER as DISTIL
from e2e_deploy.train.distillation.distil import distilled
from e2e_deploy.train.head import with_head
from e2e_deploy.train.pretraining.pretrain import FOLDER as PRETRAIN
from e2e_deploy.train.pretraining.pretrain import pretrained

FAMILY: FamilyName = "marigold"
"""What trained models are saved as where the config says nothing: normals with x right, y up, z toward the viewer."""


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


def load_start(config: TrainConfig, device: torch.device | str = "cpu") -> Start:
    """Load ``config.start.checkpoint`` and fit it to the task; what is learned before the run learns on ``device``.

    Raises:
        CheckpointError: missing, foreign, damaged, or a run that is not finished.
        UsageError: an 8-channel UNet with ``noise = "none"``, a UNet with parts that no trained model has, or a noise
            schedule of another family than the result's.
        DataError, InputError, E2EDeployError, KeyboardInterrupt: as of ``pretrained`` and ``distilled``.
    """
    if config.distil is None:
        return _loaded(config, device)
    teacher = _loaded(config, device)
    folder = distilled(config, teacher.model, teacher.checkpoint, torch.device(device))
    start = _loaded(replace(config, start=StartConfig(checkpoint=str(folder))), device)
    return replace(start, changes=(*teacher.changes, *start.changes))


def _loaded(config: TrainConfig, device: torch.device | str) -> Start:
    family = get_family(config.model.family or FAMILY)
    checkpoint = open_checkpoint(
        _folder_of(config, torch.device(device)),
        family=config.start.family,
        task=config.task if config.start.family else None,
        settings={} if config.model.domain is None else {"domain": config.model.domain},
        default=FAMILY,
    )
    source = checkpoint.identity.family
    if source.class_labels or source.unet_block or CONTROLNET in source.parts:
        raise UsageError(
            f"start.checkpoint {checkpoint.id} is {source.title}, whose UNet has a part that the trained model would "
            "lose; start from a checkpoint with Stable Diffusion's UNet"
        )
    if source.targets:
        raise UsageError(
            f"start.checkpoint {checkpoint.id} is {source.title}, whose UNet gives a latent for each of several "
            "results; start from a checkpoint of one result"
        )
    loaded = load_model(checkpoint)
    is_joint = checkpoint.identity.task == "geometry"
    if is_joint and config.task == "geometry":
        return Start(loaded, checkpoint, ())
    if is_joint or config.task == "geometry":
        raise UsageError(
            f"task is {config.task}, but {checkpoint.id} does {checkpoint.identity.task}: depth and normals at once "
            "are trained from a model that gives both (GeoWizard), and from such a model nothing else"
        )
    if family.name != "genpercept" and has_constant_betas(checkpoint.scheduler):
        raise UsageError(
            f"start.checkpoint {checkpoint.id} has GenPercept's noise schedule, by which the result would be taken for "
            'a GenPercept model: set model.family = "genpercept" and model.noise = "none"'
        )
    changes: list[str] = []
    wants = loaded.latent_channels * (1 if config.model.noise == "none" else 2)
    if loaded.in_channels > wants:
        if not ignores_second_half(loaded.unet):
            raise UsageError(
                f"model.noise is none, but the UNet of {checkpoint.id} has {loaded.in_channels} input channels and "
                f"uses them all; only one with {wants}, or with zero weights for the others, can run without"
            )
        cut_second_half(loaded.unet)
        changes.append(
            f"conv_in cut from {loaded.in_channels} to {wants} channels: the others had zero weights"
        )
    if loaded.in_channels < wants:
        widen_conv_in(loaded.unet)
        changes.append(f"conv_in widened from {loaded.in_channels} to {wants} channels and halved")
    if config.task == "normals" and checkpoint.identity.task == "normals":
        turned = _turn_normals(loaded, checkpoint)
        if turned and config.diffusion is not None:
            raise UsageError(
                f"{checkpoint.id} decodes normals in other axes than its VAE encodes them, which [diffusion] cannot "
                "train: begin with Stable Diffusion or Marigold"
            )
        changes += turned
    step = the_step(replace(checkpoint, identity=replace(checkpoint.identity, family=family)))
    given: dict[str, Any] = {
        "task": config.task,
        "family": family,
        "timestep": step.timestep,
        "x0_from_xt": step.from_xt,
        "x0_from_output": step.from_output,
    }
    if config.model.head is not None:
        headed, change = with_head(loaded, config, given)
        return Start(headed, checkpoint, (*changes, change))
    if checkpoint.identity.has(STORED_PROMPT) and config.model.family != "genpercept":
        raise UsageError(
            f'{checkpoint.id} has a stored prompt and no text encoder: set model.family = "genpercept"'
        )
    if isinstance(loaded, HeadModel):
        raise UsageError(f'{checkpoint.id} has a DPT head: set model.head = "dpt" to go on with it')
    model = SingleStepModel(loaded.unet, loaded.vae, loaded.context_1LC, **given)
    return Start(model, checkpoint, tuple(changes))


def prepared_in(out: Path) -> Path | None:
    """Where the start of the run in ``out`` was pretrained or distilled, if it was."""
    return next((each for name in (PRETRAIN, DISTIL) if (each := out / name).exists()), None)


def _folder_of(config: TrainConfig, device: torch.device) -> str:
    name = config.start.checkpoint
    if name == RANDOM and config.pretrain is not None:
        return str(pretrained(config, device))
    if name == RANDOM:
        folder = Path(config.run.out) / "start"
        return str(build_tiny(folder, first_task(config), seed=config.run.seed))
    if (Path(name) / "model" / "model_index.json").is_file():
        return str(Path(name) / "model")
    if (Path(name) / "checkpoints").is_dir():
        raise CheckpointError(
            f"{name} is a run that is not finished: continue it first, it has no model folder yet"
        )
    return name


def first_task(config: TrainConfig) -> TaskName:
    """What e2e-tiny's random weights are written as; they are of no task yet, and it has two."""
    return "normals" if config.task == "normals" else "depth"


def _turn_normals(model: SingleStepModel, checkpoint: Checkpoint) -> list[str]:
    """Fold the start's axes into the decoder's last convolution, so that its output is ours."""
    decoder = model.vae.decoder
    last, (scale, offset) = last_convolution(decoder), image_of_last(decoder)
    assert last.bias is not None
    changes = []
    with torch.no_grad():
        for axis, sign in enumerate(checkpoint.identity.family.normals_signs):
            if sign < 0:
                last.weight[axis].neg_()
                last.bias[axis].neg_().sub_(2.0 * offset / scale)
                changes.append(f"{'xyz'[axis]} of the decoded normals turned round")
        if not checkpoint.full_z_range:
            last.weight[2].mul_(0.5)
            last.bias[2].mul_(0.5).add_((0.5 - 0.5 * offset) / scale)
            changes.append("z of the decoded normals changed from [0, 1] to [-1, 1]")
    return changes
