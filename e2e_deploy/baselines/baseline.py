"""A published baseline as a predictor: Marigold or its LCM in as many steps as asked for, and ensembles of them.

diffusers' pipelines, with the checkpoint's own scheduler and noise from a seed. An ensemble of depth is aligned as
Marigold aligns it: a scale and a shift for each member that minimise the distances between all pairs, then the median
(arXiv 2312.02145, section 3.3); of normals the member closest to the mean is taken at each pixel (arXiv 2505.09358).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from e2e_deploy.baselines.pipeline import DiffusersPipeline
from e2e_deploy.errors import UsageError
from e2e_deploy.model.checkpoint import Checkpoint
from e2e_deploy.model.predictor import torch_device
from e2e_deploy.names import SPACINGS, Spacing, TaskName
from e2e_deploy.packages import require

MAX_ENSEMBLE = 100
SEED = 1234
"""Of the published evaluations (Marigold's and E2E-FT's scripts)."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a baseline draws its results.

    Attributes:
        steps: of the scheduler; None for the checkpoint's ``default_denoising_steps``.
        spacing: of DDIM's timesteps; None for what the checkpoint's scheduler says.
        ensemble: predictions that one result is made of.
        seed: of the noise; each picture's generator starts from it, so that the order of pictures does not matter.

    Raises:
        UsageError: a number out of range, or an unknown spacing.
    """

    steps: int | None = None
    spacing: Spacing | None = None
    ensemble: int = 1
    seed: int = SEED

    def __post_init__(self) -> None:
        ranges = {"steps": (1, 1000), "ensemble": (1, MAX_ENSEMBLE), "seed": (0, 2**32 - 1)}
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UsageError(f"`{name}={value}` is out of range; give {low} to {high}")
        if self.spacing is not None and self.spacing not in SPACINGS:
            raise UsageError(f"unknown spacing {self.spacing!r}; it is {' or '.join(SPACINGS)}")


class Baseline:
    """Runs ``checkpoint`` in diffusers' own pipeline, for pictures of any size, in float32.

    Args:
        checkpoint: opened.
        sampling: steps and the like.
        resolution: longest edge that the network sees, in pixels; 0 keeps a picture's own size, None takes the
            checkpoint's.
        device: auto, cpu, cuda or cuda:N.

    Attributes:
        task: what it predicts.
        notes: what must be known about these settings, in sentences.

    Raises:
        UsageError: diffusers has no pipeline for it, the settings do not fit its scheduler, or the checkpoint does not
            tell its steps.
        CheckpointError: its weights are damaged or do not fit its configs.
        UnavailableError: a package or the device is not here.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        sampling: Sampling | None = None,
        *,
        resolution: int | None = None,
        device: str = "auto",
    ) -> None:
        self._sampling = sampling = sampling or Sampling()
        self.task: TaskName = checkpoint.identity.task
        is_lcm = checkpoint.scheduler.get("_class_name") == "LCMScheduler"
        if is_lcm and sampling.spacing is not None:
            raise UsageError(
                f'`spacing="{sampling.spacing}"` is for DDIM schedulers; this checkpoint\'s LCMScheduler has its own '
                "timesteps"
            )
        if sampling.ensemble > 1 and self.task == "depth":
            require("scipy", "baselines")
        self._device = str(torch_device(device))
        self._pipeline = DiffusersPipeline(
            checkpoint, device=self._device, spacing=sampling.spacing
        )
        self._resolution = checkpoint.resolution if resolution is None else resolution
        self._steps = sampling.steps or self._default_steps(checkpoint)
        self._timesteps = self._pipeline.timesteps(self._steps)
        self.notes: list[str] = []
        if self._steps == 1 and self._timesteps[0] < self._num_train_timesteps // 2:
            self.notes.append(
                f"one step with {self._pipeline.spacing} spacing is at t = {self._timesteps[0]}, where the input is "
                "taken for a result with hardly any noise in it: the flaw of the released pipelines that "
                'arXiv 2409.11355 found; `spacing="trailing"` starts at the last t'
            )

    @property
    def _num_train_timesteps(self) -> int:
        return int(self._pipeline.pipeline.scheduler.config.num_train_timesteps)

    def _default_steps(self, checkpoint: Checkpoint) -> int:
        found = self._pipeline.pipeline.config.get("default_denoising_steps")
        if found is None and checkpoint.identity.family.name == "e2e-ft":
            return 1  # fine-tuned for it; saved by a pipeline that has no such entry
        if found is None:
            raise UsageError("model_index.json has no default_denoising_steps; give `steps`")
        return int(found)

    def describe(self) -> str:
        """One line: the pipeline and how it samples."""
        places = (
            f"t = {self._timesteps[0]}"
            if self._steps == 1
            else f"t = {self._timesteps[0]} to {self._timesteps[-1]}"
        )
        spaced = f"{self._pipeline.spacing} spacing, " if self._pipeline.spacing else ""
        return (
            f"{self._pipeline.describe()}, {self._steps} {'step' if self._steps == 1 else 'steps'} ({spaced}{places}), "
            f"ensemble of {self._sampling.ensemble}, seed {self._sampling.seed}, fp32, {self._pipeline.device}"
        )

    @property
    def device(self) -> str:
        """What it runs on."""
        return self._device

    @property
    def settings(self) -> dict[str, int | str | None]:
        """Everything that decides its results besides the checkpoint and the resolution."""
        return {
            "steps": self._steps,
            "spacing": self._pipeline.spacing,
            "ensemble": self._sampling.ensemble,
            "seed": self._sampling.seed,
        }

    def __call__(
        self, picture: npt.NDArray[np.uint8], *, resolution: int | None = None
    ) -> npt.NDArray[np.float32]:
        """uint8 RGB [H, W, 3] to depth [H, W] in [0, 1] or unit normals [H, W, 3], float32.

        ``resolution`` is for this picture, instead of the one given when it was made.

        Raises:
            E2EDeployError: the pipeline fails.
        """
        # On the CPU whatever the device: the same noise everywhere.
        generator = torch.Generator().manual_seed(self._sampling.seed)
        results = self._pipeline(
            picture[None],
            steps=self._steps,
            resolution=self._resolution if resolution is None else resolution,
            ensemble_size=self._sampling.ensemble,
            generator=generator,
        )
        result: npt.NDArray[np.float32] = results[0]
        return result
